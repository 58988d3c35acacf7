//! What becomes of integer sums: scales, outliers, bias and function.

use std::ops::Range;

use super::quantize::Outlier;
use super::{ActivationPrecision, Int8Rowwise, Lanes, Line, PANEL, Product, QuantizedRows};
use crate::{
    Epilogue,
    epilogue::{ColumnEpilogue, load, store},
    simd::{LANES, Simd},
    tiles::Tile,
};

/// Adds 128 times the products of outliers' first digits to the sums of a tile's rows, `rows` of `x`.
///
/// A loop of its own: what finishes rows then has one thing to do, and its registers for that.
#[inline(always)]
pub(super) fn add_outliers<S: Simd>(
    simd: S,
    product: &mut Product<'_>,
    x: &QuantizedRows,
    rows: Range<usize>,
) {
    if x.precision() == ActivationPrecision::Int8x2 {
        return;
    }
    let chunks = product.stride / LANES;
    let (all, _) = product.sums.as_chunks_mut::<LANES>();
    let (codes, upper_codes) = all.split_at_mut(product.code_rows * chunks);
    for (row, sums) in rows.zip(codes.chunks_exact_mut(chunks)) {
        let upper = x.upper(row);
        if !upper.is_used[0] {
            continue;
        }
        if x.are_few() {
            let digits = &upper_codes[upper.rows[0] * chunks..][..chunks];
            for (sum, digits) in sums.iter_mut().zip(digits) {
                add_digit(simd, sum, simd.lanes_i32(digits));
            }
        } else if let Some(panel) = product.panel {
            let digits = panel_sums(simd, panel, x, row, 0, [0, 1]);
            for c in 0..PANEL / LANES {
                add_digit(simd, &mut sums[c], digits[c]);
            }
        } else {
            for c in 0..PANEL / LANES {
                let digits = plain_sums(product.w[c], x.k(), x.outliers(row), 0);
                add_digit(simd, &mut sums[c], simd.lanes_i32(&digits));
            }
        }
    }
}

#[inline(always)]
fn add_digit<S: Simd>(simd: S, sum: &mut Lanes, digit: S::I32x16) {
    simd.store_i32(simd.add_i32(simd.lanes_i32(sum), simd.times_128(digit)), sum);
}

/// Scales the sums of a tile and gives them to the epilogue.
#[inline(always)]
pub(super) fn scale_tile<S: Simd>(
    simd: S,
    product: &Product<'_>,
    x: &QuantizedRows,
    w: &Int8Rowwise<'_>,
    epilogue: &Epilogue<'_>,
    tile: &mut Tile<'_, f32>,
) {
    let columns = tile.columns();
    for c in 0..columns.len().div_ceil(LANES) {
        let first = columns.start + c * LANES;
        let chunk = first..columns.end.min(first + LANES);
        let w_scale = scales(simd, &w.absmax[chunk.clone()]);
        let epilogue = epilogue.of(simd, chunk);
        let scale = Scale { simd, product, x, first: c, w_scales: [w_scale] };
        scale.rows(tile, &epilogue);
    }
}

/// Both chunks of sums become one of outputs: what the first one holds are gates.
#[inline(always)]
pub(super) fn gate_tile<S: Simd>(
    simd: S,
    product: &Product<'_>,
    x: &QuantizedRows,
    w: &Int8Rowwise<'_>,
    gate: &Epilogue<'_>,
    tile: &mut Tile<'_, f32>,
) {
    let gates = tile.columns();
    let values = gates.start + w.n / 2..gates.end + w.n / 2;
    let w_scales = [scales(simd, &w.absmax[gates.clone()]), scales(simd, &w.absmax[values.clone()])];
    let scale = Scale { simd, product, x, first: 0, w_scales };
    let value = Epilogue::with_bias(gate.bias).of(simd, values);
    scale.rows(tile, &Gate { simd, gate: gate.of(simd, gates), value });
}

#[inline(always)]
fn scales<S: Simd>(simd: S, absmax: &[f32]) -> S::F32x16 {
    simd.div(load(simd, absmax), simd.splat(127.0))
}

/// Where the sums of `NC` chunks of a row go. A trait, because closures of this size are not inlined, and without the
/// vector instructions of the code around them they are slow.
trait Finish<S: Simd, const NC: usize> {
    fn write(&self, y: &mut [f32], sums: [S::F32x16; NC]);
}

impl<S: Simd> Finish<S, 1> for ColumnEpilogue<S> {
    #[inline(always)]
    fn write(&self, y: &mut [f32], [sums]: [S::F32x16; 1]) {
        self.write(y, sums);
    }
}

/// Multiplies the second chunk, a value, by the function of the first.
struct Gate<S: Simd> {
    simd: S,
    gate: ColumnEpilogue<S>,
    value: ColumnEpilogue<S>,
}

impl<S: Simd> Finish<S, 2> for Gate<S> {
    #[inline(always)]
    fn write(&self, y: &mut [f32], [gate, value]: [S::F32x16; 2]) {
        store(self.simd, self.simd.mul(self.gate.apply(gate), self.value.apply(value)), y);
    }
}

/// Turns the sums of `NC` chunks, from chunk `first` on, into outputs.
struct Scale<'a, S: Simd, const NC: usize> {
    simd: S,
    product: &'a Product<'a>,
    x: &'a QuantizedRows,
    first: usize,
    w_scales: [S::F32x16; NC],
}

impl<S: Simd, const NC: usize> Scale<'_, S, NC> {
    /// Gives `finish` the scaled sums of each row of the tile, and where chunk `first` of its outputs goes.
    #[inline(always)]
    fn rows(&self, tile: &mut Tile<'_, f32>, finish: &impl Finish<S, NC>) {
        let Self { simd, product, x, .. } = *self;
        let chunks = product.stride / LANES;
        // One loop for each precision, so that rows are finished without asking.
        match x.precision() {
            ActivationPrecision::Int8 => {
                let acc = |_, sums: &[Lanes], c: usize| simd.load_i32(&sums[c]);
                if x.has_second_digits() {
                    self.rows_of::<true>(tile, acc, finish);
                } else {
                    self.rows_of::<false>(tile, acc, finish);
                }
            }
            ActivationPrecision::Int8Asym => {
                let acc = |row: usize, sums: &[Lanes], c: usize| {
                    simd.load_i32(&less_zero(&sums[c], x.zeros()[row], product.weight_sums(c)))
                };
                self.rows_of::<true>(tile, acc, finish);
            }
            ActivationPrecision::Int8x2 => {
                let acc = |_, sums: &[Lanes], c: usize| {
                    let low = simd.load_i32(&sums[chunks + c]);
                    simd.mul_add(simd.load_i32(&sums[c]), simd.splat(128.0), low)
                };
                self.rows_of::<true>(tile, acc, finish);
            }
        }
    }

    /// `SECOND`: whether any row may have outliers with second digits.
    #[inline(always)]
    fn rows_of<const SECOND: bool>(
        &self,
        tile: &mut Tile<'_, f32>,
        acc: impl Fn(usize, &[Lanes], usize) -> S::F32x16,
        finish: &impl Finish<S, NC>,
    ) {
        let Self { simd, product, x, first, w_scales, .. } = *self;
        let chunks = product.stride / LANES;
        let rows = tile.rows();
        let sums = product.sums.as_chunks().0.chunks_exact(product.planes * chunks);
        let inputs = rows.clone().zip(&x.scales()[rows]).zip(sums);
        // Side by side, since little is done for a row: what finding its place takes counts.
        for (((row, x_scale), planes), y) in inputs.zip(tile.parts_mut(first * LANES, LANES)) {
            let x_scale = simd.splat(*x_scale);
            let mut sums = [simd.splat(0.0); NC];
            for c in 0..NC {
                let mut acc = acc(row, planes, first + c);
                if SECOND && x.upper(row).is_used[1] {
                    let digits = self.second_digits(row, first + c);
                    acc = simd.mul_add(simd.to_f32(digits), simd.splat(16384.0), acc);
                }
                sums[c] = simd.mul(acc, simd.mul(x_scale, w_scales[c]));
            }
            finish.write(y, sums);
        }
    }

    /// The products of the second digits of a row's outliers.
    #[inline(always)]
    fn second_digits(&self, row: usize, c: usize) -> S::I32x16 {
        let Self { simd, product, x, .. } = *self;
        if x.are_few() {
            return simd.lanes_i32(product.upper(x.upper(row).rows[1], c));
        }
        let Some(panel) = product.panel else {
            return simd.lanes_i32(&plain_sums(product.w[c], x.k(), x.outliers(row), 1));
        };
        panel_sums(simd, panel, x, row, 1, [c])[0]
    }
}

/// The products of one digit of a row's outliers with the weights of some chunks of a panel.
#[inline(always)]
fn panel_sums<S: Simd, const NC: usize>(
    simd: S,
    panel: &[[Line; PANEL / LANES]],
    x: &QuantizedRows,
    row: usize,
    digit: usize,
    chunks: [usize; NC],
) -> [S::I32x16; NC] {
    // Takes back what making the weights' codes unsigned adds.
    let mut sums = [simd.splat_i32(-128 * x.upper(row).sums[digit]); NC];
    for outlier in x.outliers(row) {
        let lines = &panel[outlier.quad as usize];
        for (sum, c) in sums.iter_mut().zip(chunks) {
            // One of the four digits is not zero.
            *sum = simd.dot_narrow(*sum, simd.load_quads(&lines[c].0), outlier.digits[digit]);
        }
    }
    sums
}

/// The products of one digit of a row's outliers with up to sixteen rows of weights, `w[_, k]`.
fn plain_sums(w: &[i8], k: usize, outliers: &[Outlier], digit: usize) -> Lanes {
    let mut sums = [0; LANES];
    for (sum, w) in sums.iter_mut().zip(w.chunks_exact(k)) {
        let products = outliers.iter().map(|o| i32::from(o.digits()[digit]) * i32::from(w[o.column()]));
        *sum = products.sum();
    }
    sums
}

/// `sums - zero · weight_sums`; what wraps cancels out, since the difference fits.
#[inline(always)]
fn less_zero(sums: &Lanes, zero: i32, weight_sums: &Lanes) -> Lanes {
    std::array::from_fn(|l| sums[l].wrapping_sub(zero.wrapping_mul(weight_sums[l])))
}
