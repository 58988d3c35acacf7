//! What becomes of integer sums: scales, outliers, bias and function.

use std::ops::Range;

use super::{ActivationPrecision, Int8Rowwise, Lanes, Line, PANEL, Product, QuantizedRows};
use crate::{
    Epilogue,
    epilogue::{ColumnEpilogue, load, store},
    simd::{LANES, Simd},
    tiles::Tile,
};

/// Scales the sums of a tile, adds its rows' outliers and gives them to the epilogue.
#[inline(always)]
pub(super) fn scale_tile<S: Simd>(
    simd: S,
    product: Product<'_>,
    x: &QuantizedRows,
    w: &Int8Rowwise<'_>,
    epilogue: &Epilogue<'_>,
    scratch: &mut Vec<f32>,
    tile: &mut Tile<'_, f32>,
) {
    let columns = tile.columns();
    let outliers = outlier_codes(simd, product, x, tile.rows(), scratch);
    for c in 0..columns.len().div_ceil(LANES) {
        let first = columns.start + c * LANES;
        let chunk = first..columns.end.min(first + LANES);
        let w_scale = scales(simd, &w.absmax[chunk.clone()]);
        let epilogue = epilogue.of(simd, chunk);
        let scale = Scale { simd, product, x, first: c, w_scales: [w_scale], outliers };
        scale.rows(tile, &epilogue);
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
    scratch: &mut Vec<f32>,
    tile: &mut Tile<'_, f32>,
) {
    let gates = tile.columns();
    let values = gates.start + w.n / 2..gates.end + w.n / 2;
    let outliers = outlier_codes(simd, product, x, tile.rows(), scratch);
    let w_scales = [scales(simd, &w.absmax[gates.clone()]), scales(simd, &w.absmax[values.clone()])];
    let scale = Scale { simd, product, x, first: 0, w_scales, outliers };
    let value = Epilogue::with_bias(gate.bias).of(simd, values);
    scale.rows(tile, &Gate { simd, gate: gate.of(simd, gates), value });
}

#[inline(always)]
fn scales<S: Simd>(simd: S, absmax: &[f32]) -> S::F32x16 {
    simd.div(load(simd, absmax), simd.splat(127.0))
}

/// The codes of the weights for every outlier column of `x`, chunk by chunk, where any of `rows` has outliers.
#[inline(always)]
fn outlier_codes<'a, S: Simd>(
    simd: S,
    product: Product<'_>,
    x: &QuantizedRows,
    mut rows: Range<usize>,
    scratch: &'a mut Vec<f32>,
) -> Option<&'a [[f32; LANES]]> {
    if rows.all(|row| x.outliers(row).is_empty()) {
        return None;
    }
    match product.quads {
        Some(quads) => widen_columns(simd, quads, x.outlier_columns(), scratch),
        None => gather_columns(product.w, x.k(), x.outlier_columns(), product.stride, scratch),
    }
    Some(scratch.as_chunks().0)
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
    product: Product<'a>,
    x: &'a QuantizedRows,
    first: usize,
    w_scales: [S::F32x16; NC],
    /// See [`outlier_codes`].
    outliers: Option<&'a [[f32; LANES]]>,
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
                self.rows_of(tile, |_, sums: &[Lanes], c| simd.load_i32(&sums[c]), finish);
            }
            ActivationPrecision::Int8Asym => {
                let acc = |row: usize, sums: &[Lanes], c: usize| {
                    simd.load_i32(&less_zero(&sums[c], x.zeros()[row], product.weight_sums(c)))
                };
                self.rows_of(tile, acc, finish);
            }
            ActivationPrecision::Int8x2 => {
                let acc = |_, sums: &[Lanes], c: usize| {
                    let low = simd.load_i32(&sums[chunks + c]);
                    simd.mul_add(simd.load_i32(&sums[c]), simd.splat(128.0), low)
                };
                self.rows_of(tile, acc, finish);
            }
        }
    }

    #[inline(always)]
    fn rows_of(
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
                sums[c] = simd.mul(acc(row, planes, first + c), simd.mul(x_scale, w_scales[c]));
            }
            if let Some(codes) = self.outliers {
                let outliers = x.outliers(row);
                if !outliers.is_empty() {
                    let mut outlier_sums = [simd.splat(0.0); NC];
                    for outlier in outliers {
                        let codes = &codes[outlier.slot as usize * chunks + first..][..NC];
                        for c in 0..NC {
                            let codes = simd.load(&codes[c]);
                            outlier_sums[c] = simd.mul_add(simd.splat(outlier.value), codes, outlier_sums[c]);
                        }
                    }
                    for c in 0..NC {
                        sums[c] = simd.add(sums[c], simd.mul(w_scales[c], outlier_sums[c]));
                    }
                }
            }
            finish.write(y, sums);
        }
    }
}

/// `sums - zero · weight_sums`; what wraps cancels out, since the difference fits.
#[inline(always)]
fn less_zero(sums: &Lanes, zero: i32, weight_sums: &Lanes) -> Lanes {
    std::array::from_fn(|l| sums[l].wrapping_sub(zero.wrapping_mul(weight_sums[l])))
}

/// Copies the codes of the weights `w[_, k]` at `inputs` to `to`, one row of whole chunks of lanes per input.
#[inline(always)]
fn gather_columns(w: [&[i8]; 2], k: usize, inputs: &[u32], stride: usize, to: &mut Vec<f32>) {
    to.resize(to.len().max(inputs.len() * stride), 0.0);
    for (part, w) in w.into_iter().enumerate() {
        for (j, codes) in (part * PANEL / 2..).zip(w.chunks_exact(k)) {
            for (slot, input) in inputs.iter().enumerate() {
                to[slot * stride + j] = f32::from(codes[*input as usize]);
            }
        }
    }
}

/// [`gather_columns`] from a panel in quads.
#[inline(always)]
fn widen_columns<S: Simd>(simd: S, quads: &[Line], inputs: &[u32], to: &mut Vec<f32>) {
    const CHUNKS: usize = PANEL / LANES;
    to.resize(to.len().max(inputs.len() * PANEL), 0.0);
    let (to, _) = to.as_chunks_mut::<LANES>();
    for (to, input) in to.as_chunks_mut::<CHUNKS>().0.iter_mut().zip(inputs) {
        let mut one = [0; 4];
        one[*input as usize % 4] = 1;
        for (to, line) in to.iter_mut().zip(&quads.as_chunks::<CHUNKS>().0[*input as usize / 4]) {
            let codes = simd.dot_quads(simd.splat_i32(-128), simd.load_quads(&line.0), one);
            simd.store(simd.to_f32(codes), to);
        }
    }
}
