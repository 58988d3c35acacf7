//! Activations to INT8, one scale per token, outliers kept apart.

use rayon::prelude::*;

use crate::{
    isa::{Isa, dispatch},
    math::ROUND,
    simd::{LANES, Simd},
};

/// Elements handed to a thread at a time.
const TASK: usize = 16 * 1024;

/// An activation that the integer product leaves out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outlier {
    /// Its column of `x`.
    pub(crate) column: u32,
    /// The position of the column in `QuantizedRows::outlier_columns`.
    pub(crate) slot: u32,
    pub(crate) value: f32,
}

/// Activations `x[m, k]` as INT8 with one scale per row: buffers that the caller keeps, so that a
/// second call of the same size allocates nothing.
///
/// `x ≈ scale · code` except for the outliers, whose code is zero.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuantizedRows {
    k: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    code_sums: Vec<i32>,
    /// Where each row's outliers start; one more entry than rows.
    offsets: Vec<usize>,
    outliers: Vec<Outlier>,
    /// The distinct columns of the outliers, ascending.
    outlier_columns: Vec<u32>,
}

impl QuantizedRows {
    /// The number of rows.
    pub fn m(&self) -> usize {
        self.scales.len()
    }

    /// The length of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The codes, `[m, k]` row-major, in `-127..=127`.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The scale of each row, `absmax / 127`.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The outliers of all rows as `(row, column, value)`, in that order.
    pub fn outlier_entries(&self) -> impl Iterator<Item = (usize, usize, f32)> + '_ {
        (0..self.m())
            .flat_map(|row| self.outliers(row).iter().map(move |o| (row, o.column as usize, o.value)))
    }

    pub(crate) fn code_sums(&self) -> &[i32] {
        &self.code_sums
    }

    pub(crate) fn outliers(&self, row: usize) -> &[Outlier] {
        &self.outliers[self.offsets[row]..self.offsets[row + 1]]
    }

    pub(crate) fn outlier_columns(&self) -> &[u32] {
        &self.outlier_columns
    }
}

/// Quantizes each row of `x[m, k]` on its own into `out`; `m` is `x.len() / k`.
///
/// Elements with `abs(x) >= outlier_threshold` are outliers: listed with their value, left out of the
/// `absmax`, code 0. The others get `round_half_even(fl(x · fl(127 / absmax)))`, within `-127..=127`,
/// and the row the scale `fl(absmax / 127)`. A row of zeros, or one so small that `127 / absmax`
/// overflows (`absmax` below `3.8e-37`), gets scale `0.0` and zero codes. A NaN, or an infinity that no threshold takes
/// out, makes the row's scale NaN or infinite and its codes zero, so that all its outputs are NaN.
///
/// # Panics
/// If `k` is zero or `x` is not a whole number of rows.
///
/// Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), §2.1 and §3.2, with one rounding of
/// the scale and with outliers found per row.
pub fn quantize_rows(isa: Isa, x: &[f32], k: usize, outlier_threshold: Option<f32>, out: &mut QuantizedRows) {
    assert!(k > 0 && x.len().is_multiple_of(k), "quantize_rows: x has {} elements in rows of {k}", x.len());
    let m = x.len() / k;
    // No number is >= NaN, so NaN means that there is no threshold.
    let threshold = outlier_threshold.unwrap_or(f32::NAN);
    out.k = k;
    out.codes.resize(x.len(), 0);
    out.scales.resize(m, 0.0);
    out.code_sums.resize(m, 0);
    out.offsets.resize(m + 1, 0);
    let rows = TASK.div_ceil(k);
    let run = |x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32], counts: &mut [usize]| {
        dispatch!(isa => rows_loop(
            x: &[f32], k: usize, threshold: f32, codes: &mut [i8], scales: &mut [f32], sums: &mut [i32],
            counts: &mut [usize],
        ));
    };
    if x.len() > 2 * TASK {
        x.par_chunks(rows * k)
            .zip(out.codes.par_chunks_mut(rows * k))
            .zip(out.scales.par_chunks_mut(rows))
            .zip(out.code_sums.par_chunks_mut(rows))
            .zip(out.offsets[1..].par_chunks_mut(rows))
            .for_each(|((((x, codes), scales), sums), counts)| run(x, codes, scales, sums, counts));
    } else {
        run(x, &mut out.codes, &mut out.scales, &mut out.code_sums, &mut out.offsets[1..]);
    }
    dispatch!(isa => list_outliers(x: &[f32], k: usize, threshold: f32, out: &mut QuantizedRows));
}

/// Turns the counts in `offsets` into offsets and fills in the outliers.
#[inline(always)]
fn list_outliers<S: Simd>(_: S, x: &[f32], k: usize, threshold: f32, out: &mut QuantizedRows) {
    out.outliers.clear();
    out.outlier_columns.clear();
    out.offsets[0] = 0;
    for (row, x) in x.chunks_exact(k).enumerate() {
        if out.offsets[row + 1] > 0 {
            for (chunk, x) in x.chunks(4 * LANES).enumerate() {
                // Most chunks have none, and this pass is vectorised.
                if x.iter().fold(false, |any, x| any | (x.abs() >= threshold)) {
                    for (i, value) in x.iter().enumerate().filter(|(_, value)| value.abs() >= threshold) {
                        let column = (chunk * 4 * LANES + i) as u32;
                        out.outliers.push(Outlier { column, slot: 0, value: *value });
                    }
                }
            }
        }
        out.offsets[row + 1] = out.outliers.len();
    }
    out.outlier_columns.extend(out.outliers.iter().map(|outlier| outlier.column));
    out.outlier_columns.sort_unstable();
    out.outlier_columns.dedup();
    for outlier in &mut out.outliers {
        outlier.slot = out.outlier_columns.partition_point(|column| *column < outlier.column) as u32;
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one input, its two parameters, four outputs")]
fn rows_loop<S: Simd>(
    _: S,
    x: &[f32],
    k: usize,
    threshold: f32,
    codes: &mut [i8],
    scales: &mut [f32],
    sums: &mut [i32],
    counts: &mut [usize],
) {
    for (i, (x, codes)) in x.chunks_exact(k).zip(codes.chunks_exact_mut(k)).enumerate() {
        let (absmax, count) = absmax(x, threshold);
        let scale = absmax / 127.0;
        let inverse = 127.0 / absmax;
        counts[i] = count;
        if inverse.is_finite() && absmax.is_finite() {
            scales[i] = scale;
            sums[i] = encode(x, threshold, inverse, codes);
        } else {
            scales[i] = if absmax.is_finite() { 0.0 } else { scale };
            sums[i] = 0;
            codes.fill(0);
        }
    }
}

/// The largest absolute value that is no outlier (NaN if there is a NaN), and the number of outliers.
#[inline(always)]
fn absmax(x: &[f32], threshold: f32) -> (f32, usize) {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut max = [0.0_f32; LANES];
    let mut outliers = [0_u32; LANES];
    let mut nans = [0_u32; LANES];
    let mut step = |l: usize, x: f32| {
        let a = x.abs();
        let outlier = a >= threshold;
        outliers[l] += u32::from(outlier);
        nans[l] |= u32::from(x.is_nan());
        max[l] = if a > max[l] && !outlier { a } else { max[l] };
    };
    for chunk in chunks {
        for (l, x) in chunk.iter().enumerate() {
            step(l, *x);
        }
    }
    for (l, x) in tail.iter().enumerate() {
        step(l, *x);
    }
    let count = outliers.iter().sum::<u32>() as usize;
    let max = if nans.contains(&1) { f32::NAN } else { max.into_iter().fold(0.0, f32::max) };
    (max, count)
}

/// Writes the codes of `x` and returns their sum.
#[inline(always)]
fn encode(x: &[f32], threshold: f32, inverse: f32, codes: &mut [i8]) -> i32 {
    let mut sum = 0;
    for (code, x) in codes.iter_mut().zip(x) {
        let x = if x.abs() >= threshold { 0.0 } else { *x };
        // |x · inverse| < 128, so the low byte of the rounded sum is the code in two's complement.
        *code = (x * inverse + ROUND).to_bits() as i8;
        sum += i32::from(*code);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(x: &[f32], k: usize, threshold: Option<f32>) -> QuantizedRows {
        let mut first = QuantizedRows::default();
        quantize_rows(Isa::SCALAR, x, k, threshold, &mut first);
        for isa in Isa::available() {
            let mut out = QuantizedRows::default();
            quantize_rows(isa, &[9.0; 40], 20, Some(1.0), &mut out); // leftovers must not show
            quantize_rows(isa, x, k, threshold, &mut out);
            assert_eq!(format!("{out:?}"), format!("{first:?}"), "{isa}"); // NaN equals NaN as text
        }
        first
    }

    #[test]
    fn codes_round_half_to_even() {
        // absmax 127: the code is the rounded value.
        let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0, 126.5];
        let q = quantized(&x, 8, None);
        assert_eq!(q.codes(), [127, 0, 2, 2, 0, -2, -127, 126]);
        assert_eq!(q.scales(), [1.0]);
        assert_eq!(q.code_sums(), [127 + 2 + 2 - 2 - 127 + 126]);
    }

    #[test]
    fn outliers_are_listed_and_left_out() {
        let x = [6.0, 1.0, -7.0, 2.0, 0.0, f32::INFINITY, 3.0, 5.999];
        let q = quantized(&x, 4, Some(6.0));
        let entries: Vec<_> = q.outlier_entries().collect();
        assert_eq!(entries, [(0, 0, 6.0), (0, 2, -7.0), (1, 1, f32::INFINITY)]);
        assert_eq!(q.outlier_columns(), [0, 1, 2]);
        assert_eq!(q.codes(), [0, 64, 0, 127, 0, 0, 64, 127]);
        assert_eq!(q.scales(), [2.0 / 127.0, 5.999 / 127.0]);
    }

    #[test]
    fn zero_and_tiny_rows_have_scale_zero() {
        let q = quantized(&[0.0, -0.0, 1e-38, 1e-45], 2, None);
        assert_eq!((q.codes(), q.scales()), (&[0; 4][..], &[0.0; 2][..]));
    }

    #[test]
    fn nan_and_infinity_reach_the_scale() {
        let q = quantized(&[f32::NAN, 1.0, f32::NEG_INFINITY, 1.0, 1.0, f32::NAN], 2, None);
        assert!(q.scales()[0].is_nan() && q.scales()[1].is_infinite() && q.scales()[2].is_nan());
        assert_eq!(q.codes(), [0; 6]);
        assert!(quantized(&[f32::NAN, 8.0, f32::INFINITY], 3, Some(6.0)).scales()[0].is_nan());
    }
}
