//! Activations to INT8 in one of three precisions, one scale per token, outliers kept apart.

use std::mem;
use std::sync::{Mutex, PoisonError};

use crate::{
    float::padded,
    isa::{Isa, dispatch},
    math::ROUND,
    simd::{LANES, Simd},
    team,
};

/// Elements handed to a thread at a time.
const TASK: usize = 16 * 1024;

/// How activations become integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ActivationPrecision {
    /// One signed byte: `x ≈ scale · code`, `scale = absmax / 127`.
    #[default]
    Int8,
    /// One signed byte and a zero point per row: `x ≈ scale · (code - zero)`, `scale = (max - min) / 255`. Holds
    /// one-sided rows, as GELU makes them, with one more bit.
    Int8Asym,
    /// Two signed bytes: `x ≈ scale · (128 · high + low)`, `scale = absmax / 16256`. As good as f32 activations; a
    /// product reads the weights once and multiplies twice.
    Int8x2,
}

/// The largest magnitude of `128 · high + low` with `high` in `-127..=127`.
const MAX_INT8X2: f32 = 127.0 * 128.0;

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
/// [`ActivationPrecision`] says what the codes stand for; outliers stand for zero.
#[derive(Debug, Clone, Default)]
pub struct QuantizedRows {
    precision: ActivationPrecision,
    k: usize,
    /// At least as many as there are; layers differ in size, and what grows is filled with zeros first.
    codes: Vec<i8>,
    scales: Vec<f32>,
    /// Per row; zeros but for [`ActivationPrecision::Int8Asym`].
    zeros: Vec<i32>,
    code_sums: Vec<i32>,
    /// Where each row's outliers start; one more entry than rows.
    offsets: Vec<usize>,
    outliers: Vec<Outlier>,
    /// The distinct columns of the outliers, ascending.
    outlier_columns: Vec<u32>,
    /// The place of each column in them, or [`UNUSED`]; empty where that was not needed.
    slots: Vec<u32>,
}

/// The place of a column without outliers.
const UNUSED: u32 = u32::MAX;

/// As operands of a product: what else the buffers hold does not count.
impl PartialEq for QuantizedRows {
    fn eq(&self, other: &Self) -> bool {
        let shape = |x: &Self| (x.precision, x.k);
        shape(self) == shape(other)
            && self.codes() == other.codes()
            && self.scales == other.scales
            && self.zeros == other.zeros
            && self.code_sums == other.code_sums
            && self.offsets == other.offsets
            && self.outliers == other.outliers
    }
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

    /// What the codes stand for.
    pub fn precision(&self) -> ActivationPrecision {
        self.precision
    }

    /// The codes, `[m, k]` row-major, or `[m, 2, k]` for [`ActivationPrecision::Int8x2`], high bytes first.
    pub fn codes(&self) -> &[i8] {
        &self.codes[..self.planes() * self.m() * self.k]
    }

    /// The scale of each row.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The code that stands for zero in each row; zero but for [`ActivationPrecision::Int8Asym`].
    pub fn zeros(&self) -> &[i32] {
        &self.zeros
    }

    /// Rows of codes per row of `x`.
    pub(crate) fn planes(&self) -> usize {
        planes(self.precision)
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

fn planes(precision: ActivationPrecision) -> usize {
    match precision {
        ActivationPrecision::Int8 | ActivationPrecision::Int8Asym => 1,
        ActivationPrecision::Int8x2 => 2,
    }
}

/// Quantizes each row of `x[m, k]` on its own into `out`; `m` is `x.len() / k`.
///
/// Elements with `abs(x) >= outlier_threshold` are outliers: listed with their value, zero for the rest. The
/// others get, with `absmax`, `max` and `min` over them and zero,
///
/// | precision | scale | code |
/// | --- | --- | --- |
/// | `Int8` | `fl(absmax / 127)` | `round_half_even(fl(x · fl(127 / absmax)))` |
/// | `Int8Asym` | `fl(fl(max - min) / 255)` | `round_half_even(fl(x · fl(255 / fl(max - min)))) + zero`, within `-128..=127`, `zero = -128 - round_half_even(fl(min · fl(255 / fl(max - min))))` |
/// | `Int8x2` | `fl(absmax / 16256)` | `q = round_half_even(fl(x · fl(16256 / absmax)))`, `high = floor((q + 64) / 128)`, `low = q - 128 · high` |
///
/// A row of zeros, or one so small that the factor overflows, gets scale `0.0` and zero codes. A NaN, or an
/// infinity that no threshold takes out, makes the row's scale NaN or infinite and its codes zero, so that all its
/// outputs are NaN.
///
/// # Panics
/// If `k` is zero or `x` is not a whole number of rows.
///
/// Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), §2.1 and §3.2, with one rounding of
/// the scale and with outliers found per row.
pub fn quantize_rows(
    isa: Isa,
    x: &[f32],
    k: usize,
    precision: ActivationPrecision,
    outlier_threshold: Option<f32>,
    out: &mut QuantizedRows,
) {
    assert!(k > 0 && x.len().is_multiple_of(k), "quantize_rows: x has {} elements in rows of {k}", x.len());
    let m = x.len() / k;
    // No number is >= NaN, so NaN means that there is no threshold.
    let threshold = outlier_threshold.unwrap_or(f32::NAN);
    let planes = planes(precision);
    out.precision = precision;
    out.k = k;
    out.codes.resize(out.codes.len().max(planes * x.len()), 0);
    out.scales.resize(m, 0.0);
    out.zeros.resize(m, 0);
    out.code_sums.resize(planes * m, 0);
    out.offsets.resize(m + 1, 0);
    let run = |x: &[f32], to: &mut Encoded<'_>| {
        dispatch!(isa => rows_loop(x: &[f32], k: usize, precision: ActivationPrecision, threshold: f32, to: &mut Encoded<'_>));
    };
    out.outliers.clear();
    let QuantizedRows { codes, scales, zeros, code_sums: sums, offsets, outliers, .. } = out;
    if x.len() > 2 * TASK {
        let rows = TASK.div_ceil(k);
        let pieces: Vec<_> = x
            .chunks(rows * k)
            .zip(codes[..planes * x.len()].chunks_mut(planes * rows * k))
            .zip(scales.chunks_mut(rows))
            .zip(zeros.chunks_mut(rows))
            .zip(sums.chunks_mut(planes * rows))
            .zip(offsets[1..].chunks_mut(rows))
            .map(|(((((x, codes), scales), zeros), sums), counts)| {
                Mutex::new((x, Encoded { codes, scales, zeros, sums, counts, outliers: Vec::new() }))
            })
            .collect();
        team::for_each(pieces.len(), &|index| {
            let (x, to) = &mut *pieces[index].lock().unwrap_or_else(PoisonError::into_inner);
            run(x, to);
        });
        for piece in pieces {
            let (_, encoded) = piece.into_inner().unwrap_or_else(PoisonError::into_inner);
            outliers.extend(encoded.outliers);
        }
    } else {
        let mut to =
            Encoded { codes, scales, zeros, sums, counts: &mut offsets[1..], outliers: mem::take(outliers) };
        run(x, &mut to);
        *outliers = to.outliers;
    }
    out.index_outliers();
}

impl QuantizedRows {
    /// Turns the counts in `offsets` into offsets and numbers the outliers' columns.
    fn index_outliers(&mut self) {
        self.offsets[0] = 0;
        for row in 1..self.offsets.len() {
            self.offsets[row] += self.offsets[row - 1];
        }
        self.outlier_columns.clear();
        self.slots.clear();
        if self.m() == 1 {
            // They come in order, each column once.
            for (slot, outlier) in (0..).zip(&mut self.outliers) {
                outlier.slot = slot;
                self.outlier_columns.push(outlier.column);
            }
            return;
        }
        if self.outliers.is_empty() {
            return;
        }
        self.slots.resize(self.k, UNUSED);
        for outlier in &self.outliers {
            self.slots[outlier.column as usize] = 0;
        }
        for (column, slot) in (0..).zip(&mut self.slots).filter(|(_, slot)| **slot != UNUSED) {
            *slot = self.outlier_columns.len() as u32;
            self.outlier_columns.push(column);
        }
        for outlier in &mut self.outliers {
            outlier.slot = self.slots[outlier.column as usize];
        }
    }
}

/// What becomes of some rows.
struct Encoded<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    zeros: &'a mut [i32],
    sums: &'a mut [i32],
    /// The number of outliers of each row.
    counts: &'a mut [usize],
    /// The outliers of all of them, not numbered yet.
    outliers: Vec<Outlier>,
}

#[inline(always)]
fn rows_loop<S: Simd>(
    _: S,
    x: &[f32],
    k: usize,
    precision: ActivationPrecision,
    threshold: f32,
    to: &mut Encoded<'_>,
) {
    let planes = planes(precision);
    for (i, (x, codes)) in x.chunks_exact(k).zip(to.codes.chunks_exact_mut(planes * k)).enumerate() {
        let Extent { absmax, min, max, outliers } = match precision {
            ActivationPrecision::Int8Asym => Extent::of::<true>(x, threshold),
            ActivationPrecision::Int8 | ActivationPrecision::Int8x2 => Extent::of::<false>(x, threshold),
        };
        let sums = &mut to.sums[planes * i..][..planes];
        to.counts[i] = outliers;
        if outliers > 0 {
            list_outliers(x, threshold, &mut to.outliers);
        }
        to.zeros[i] = 0;
        let (range, steps) = match precision {
            ActivationPrecision::Int8 => (absmax, 127.0),
            ActivationPrecision::Int8x2 => (absmax, MAX_INT8X2),
            ActivationPrecision::Int8Asym => (max - min, 255.0),
        };
        let (scale, inverse) = (range / steps, steps / range);
        if !(inverse.is_finite() && absmax.is_finite() && scale > 0.0) {
            to.scales[i] = if absmax.is_finite() && range.is_finite() { 0.0 } else { absmax + range };
            sums.fill(0);
            codes.fill(0);
            continue;
        }
        to.scales[i] = scale;
        match precision {
            ActivationPrecision::Int8 => sums[0] = encode(x, threshold, inverse, codes),
            ActivationPrecision::Int8Asym => {
                let zero = -128 - (min * inverse).round_ties_even() as i32;
                to.zeros[i] = zero;
                sums[0] = encode_asym(x, threshold, inverse, zero, codes);
            }
            ActivationPrecision::Int8x2 => {
                let (high, low) = codes.split_at_mut(k);
                (sums[0], sums[1]) = encode_x2(x, threshold, inverse, high, low);
            }
        }
    }
}

/// What a row's scale and zero point are made of. Outliers count as zero.
struct Extent {
    /// The largest absolute value, NaN if there is a NaN.
    absmax: f32,
    /// The smallest and the largest value, zero counted in; zero where nobody asked.
    min: f32,
    max: f32,
    outliers: usize,
}

impl Extent {
    #[inline(always)]
    fn of<const MIN_MAX: bool>(x: &[f32], threshold: f32) -> Self {
        let (chunks, tail) = x.as_chunks::<LANES>();
        let mut lanes = ExtentLanes::default();
        for chunk in chunks {
            lanes.add::<MIN_MAX>(chunk, threshold);
        }
        lanes.add::<MIN_MAX>(&padded(tail), threshold);
        let absmax = f32::from_bits(lanes.absmax.into_iter().fold(0, u32::max));
        Self {
            absmax: if absmax.is_nan() { f32::NAN } else { absmax },
            min: lanes.min.into_iter().fold(0.0, f32::min),
            max: lanes.max.into_iter().fold(0.0, f32::max),
            outliers: lanes.outliers.iter().sum::<u32>() as usize,
        }
    }
}

#[derive(Default)]
struct ExtentLanes {
    /// Without their signs floats are ordered as their bits are, infinity and then NaN at the end.
    absmax: [u32; LANES],
    min: [f32; LANES],
    max: [f32; LANES],
    outliers: [u32; LANES],
}

impl ExtentLanes {
    #[inline(always)]
    fn add<const MIN_MAX: bool>(&mut self, x: &[f32; LANES], threshold: f32) {
        for l in 0..LANES {
            let outlier = x[l].abs() >= threshold;
            let x = if outlier { 0.0 } else { x[l] };
            self.outliers[l] += u32::from(outlier);
            self.absmax[l] = self.absmax[l].max(x.abs().to_bits());
            if MIN_MAX {
                self.min[l] = if x < self.min[l] { x } else { self.min[l] };
                self.max[l] = if x > self.max[l] { x } else { self.max[l] };
            }
        }
    }
}

#[inline(always)]
fn list_outliers(x: &[f32], threshold: f32, to: &mut Vec<Outlier>) {
    let is_outlier = |x: &f32| x.abs() >= threshold;
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut list = |x: &[f32], first: usize| {
        for (i, value) in x.iter().enumerate().filter(|(_, value)| is_outlier(value)) {
            to.push(Outlier { column: (first + i) as u32, slot: 0, value: *value });
        }
    };
    for (chunk, x) in chunks.iter().enumerate() {
        // Most chunks have none, and this test is vectorised.
        if x.iter().fold(false, |any, x| any | is_outlier(x)) {
            list(x, chunk * LANES);
        }
    }
    list(tail, x.len() - tail.len());
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

/// Writes the codes of `x` around `zero` and returns their sum.
#[inline(always)]
fn encode_asym(x: &[f32], threshold: f32, inverse: f32, zero: i32, codes: &mut [i8]) -> i32 {
    let mut sum = 0;
    for (code, x) in codes.iter_mut().zip(x) {
        let x = if x.abs() >= threshold { 0.0 } else { *x };
        let steps = ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        *code = (steps + zero).clamp(-128, 127) as i8;
        sum += i32::from(*code);
    }
    sum
}

/// Writes the two bytes of each code of `x` and returns their sums.
#[inline(always)]
fn encode_x2(x: &[f32], threshold: f32, inverse: f32, high: &mut [i8], low: &mut [i8]) -> (i32, i32) {
    let (mut high_sum, mut low_sum) = (0, 0);
    for ((high, low), x) in high.iter_mut().zip(low).zip(x) {
        let x = if x.abs() >= threshold { 0.0 } else { *x };
        let q = ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let h = (q + 64) >> 7;
        let l = q - (h << 7);
        (*high, *low) = (h as i8, l as i8);
        high_sum += h;
        low_sum += l;
    }
    (high_sum, low_sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(x: &[f32], k: usize, threshold: Option<f32>) -> QuantizedRows {
        quantized_as(ActivationPrecision::Int8, x, k, threshold)
    }

    fn quantized_as(
        precision: ActivationPrecision,
        x: &[f32],
        k: usize,
        threshold: Option<f32>,
    ) -> QuantizedRows {
        let mut first = QuantizedRows::default();
        quantize_rows(Isa::SCALAR, x, k, precision, threshold, &mut first);
        for isa in Isa::available() {
            let mut out = QuantizedRows::default();
            // Leftovers must not show.
            quantize_rows(isa, &[9.0; 40], 20, ActivationPrecision::Int8x2, Some(1.0), &mut out);
            quantize_rows(isa, x, k, precision, threshold, &mut out);
            assert_eq!(text(&out), text(&first), "{isa}");
        }
        first
    }

    /// All that a product reads; NaN equals NaN as text.
    fn text(x: &QuantizedRows) -> String {
        let outliers: Vec<_> = (0..x.m()).map(|row| x.outliers(row)).collect();
        format!(
            "{:?}",
            (x.codes(), x.scales(), x.zeros(), x.code_sums(), outliers, x.outlier_columns(), x.precision())
        )
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

    #[test]
    fn two_bytes_hold_fourteen_bits() {
        // absmax 16256: the code is the rounded value, split as 128 · high + low with low in -64..64.
        let x = [16256.0, -16256.0, 64.0, 63.0, -64.0, -65.0, 0.5, 1.5, 8.0e4];
        let q = quantized_as(ActivationPrecision::Int8x2, &x, 9, Some(2.0e4));
        assert_eq!(q.codes()[..9], [127, -127, 1, 0, 0, -1, 0, 0, 0]);
        assert_eq!(q.codes()[9..], [0, 0, -64, 63, -64, 63, 0, 2, 0]);
        assert_eq!((q.scales(), q.code_sums()), (&[1.0][..], &[0, -64 + 63 - 64 + 63 + 2][..]));
    }

    #[test]
    fn a_zero_point_uses_every_code() {
        let q = quantized_as(ActivationPrecision::Int8Asym, &[0.0, 255.0, 1.0, 127.0, -0.0], 5, None);
        assert_eq!(
            (q.codes(), q.zeros(), q.scales()),
            (&[-128, 127, -127, -1, -128][..], &[-128][..], &[1.0][..])
        );
        let q = quantized_as(ActivationPrecision::Int8Asym, &[-55.0, 200.0, 0.0, 9.0e9], 4, Some(1e6));
        assert_eq!((q.codes(), q.zeros()), (&[-128, 127, -73, -73][..], &[-73][..]));
        let q = quantized_as(
            ActivationPrecision::Int8Asym,
            &[0.0, 0.0, f32::NAN, 1.0, f32::INFINITY, 1.0],
            2,
            None,
        );
        assert_eq!(q.scales()[0], 0.0);
        assert!(!q.scales()[1].is_finite() && !q.scales()[2].is_finite());
    }
}
