//! What becomes of integer sums: scales, outliers, bias and function.

use super::quantize::{DIGITS, Outlier};
use super::{ActivationPrecision, Int8Rowwise, Lanes, PANEL, Product, QuantizedRows};
use crate::{
    Epilogue,
    epilogue::{ColumnEpilogue, load, store},
    simd::{LANES, Simd},
    tiles::Tile,
};

/// Scales the sums of a tile and gives them to the epilogue.
#[inline(always)]
pub(super) fn scale_tile<S: Simd>(
    simd: S,
    product: Product<'_>,
    x: &QuantizedRows,
    w: &Int8Rowwise<'_>,
    epilogue: &Epilogue<'_>,
    tile: &mut Tile<'_, f32>,
) {
    let columns = tile.columns();
    let chunk = |c: usize| {
        let first = columns.start + c * LANES;
        first..columns.end.min(first + LANES)
    };
    let scale_of = |c: usize| scales(simd, &w.absmax[chunk(c)]);
    let chunks = columns.len().div_ceil(LANES);
    let mut c = 0;
    // Two at a time, which share what is looked up for an outlier.
    while c + 2 <= chunks {
        let scale = Scale { simd, product, x, first: c, w_scales: [scale_of(c), scale_of(c + 1)] };
        scale.rows(tile, 2 * LANES, &Pair(epilogue.of(simd, chunk(c)), epilogue.of(simd, chunk(c + 1))));
        c += 2;
    }
    if c < chunks {
        let scale = Scale { simd, product, x, first: c, w_scales: [scale_of(c)] };
        scale.rows(tile, LANES, &epilogue.of(simd, chunk(c)));
    }
}

/// Both chunks of sums become one of outputs: what the first one holds are gates.
#[inline(always)]
pub(super) fn gate_tile<S: Simd>(
    simd: S,
    product: Product<'_>,
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
    scale.rows(tile, LANES, &Gate { simd, gate: gate.of(simd, gates), value });
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

/// Two chunks of outputs.
struct Pair<S: Simd>(ColumnEpilogue<S>, ColumnEpilogue<S>);

impl<S: Simd> Finish<S, 2> for Pair<S> {
    #[inline(always)]
    fn write(&self, y: &mut [f32], [first, second]: [S::F32x16; 2]) {
        let (y, rest) = y.split_at_mut(LANES);
        self.0.write(y, first);
        self.1.write(rest, second);
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
    product: Product<'a>,
    x: &'a QuantizedRows,
    first: usize,
    w_scales: [S::F32x16; NC],
}

impl<S: Simd, const NC: usize> Scale<'_, S, NC> {
    /// Gives `finish` the scaled sums of each row of the tile, and where its outputs go: up to `width` of them from chunk
    /// `first` on.
    #[inline(always)]
    fn rows(&self, tile: &mut Tile<'_, f32>, width: usize, finish: &impl Finish<S, NC>) {
        let Self { simd, product, x, .. } = *self;
        let chunks = product.stride / LANES;
        // One loop for each precision, so that rows are finished without asking.
        match x.precision() {
            ActivationPrecision::Int8 => {
                self.rows_of(tile, |_, sums: &[Lanes], c| simd.load_i32(&sums[c]), width, finish);
            }
            ActivationPrecision::Int8Asym => {
                let acc = |row: usize, sums: &[Lanes], c: usize| {
                    simd.load_i32(&less_zero(&sums[c], x.zeros()[row], product.weight_sums(c)))
                };
                self.rows_of(tile, acc, width, finish);
            }
            ActivationPrecision::Int8x2 => {
                let acc = |_, sums: &[Lanes], c: usize| {
                    let low = simd.load_i32(&sums[chunks + c]);
                    simd.mul_add(simd.load_i32(&sums[c]), simd.splat(128.0), low)
                };
                self.rows_of(tile, acc, width, finish);
            }
        }
    }

    #[inline(always)]
    fn rows_of(
        &self,
        tile: &mut Tile<'_, f32>,
        acc: impl Fn(usize, &[Lanes], usize) -> S::F32x16,
        width: usize,
        finish: &impl Finish<S, NC>,
    ) {
        let Self { simd, product, x, first, w_scales, .. } = *self;
        let chunks = product.stride / LANES;
        let rows = tile.rows();
        let sums = product.sums.as_chunks().0.chunks_exact(product.planes * chunks);
        let inputs = rows.clone().zip(&x.scales()[rows]).zip(sums);
        // Side by side, since little is done for a row: what finding its place takes counts.
        for (((row, x_scale), planes), y) in inputs.zip(tile.parts_mut(first * LANES, width)) {
            let x_scale = simd.splat(*x_scale);
            let mut sums = [simd.splat(0.0); NC];
            for c in 0..NC {
                sums[c] = acc(row, planes, first + c);
            }
            sums = self.with_outliers(sums, row);
            for c in 0..NC {
                sums[c] = simd.mul(sums[c], simd.mul(x_scale, w_scales[c]));
            }
            finish.write(y, sums);
        }
    }

    /// Adds the products of the digits of a row's outliers to its sums.
    #[inline(always)]
    fn with_outliers(&self, mut acc: [S::F32x16; NC], row: usize) -> [S::F32x16; NC] {
        let Self { simd, product, x, first, .. } = *self;
        let outliers = x.outliers(row);
        if outliers.is_empty() {
            return acc;
        }
        let upper = x.upper(row);
        for d in 0..2 {
            if !upper.is_used[d] {
                continue;
            }
            // Takes back what making the weights' codes unsigned adds.
            let mut sums = [simd.splat_i32(-128 * upper.sums[d]); NC];
            if x.are_few() {
                for c in 0..NC {
                    sums[c] = simd.lanes_i32(product.upper(upper.rows[d], first + c));
                }
            } else if let Some(quads) = product.quads {
                let (panel, _) = quads.as_chunks::<{ PANEL / LANES }>();
                for outlier in outliers {
                    let lines = &panel[outlier.quad as usize];
                    for c in 0..NC {
                        let codes = simd.load_quads(&lines[first + c].0);
                        // One of the four digits is not zero.
                        sums[c] = simd.dot_narrow(sums[c], codes, outlier.digits[d]);
                    }
                }
            } else {
                for c in 0..NC {
                    let sums_of_chunk = plain_sums(product.w[first + c], x.k(), outliers, d);
                    sums[c] = simd.lanes_i32(&sums_of_chunk);
                }
            }
            for c in 0..NC {
                acc[c] = simd.mul_add(simd.to_f32(sums[c]), simd.splat(DIGITS[d]), acc[c]);
            }
        }
        acc
    }
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
