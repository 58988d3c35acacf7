//! Activations to INT8 in one of three precisions, one scale per token, outliers kept apart.

use std::mem;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::{
    float::padded,
    isa::{Isa, dispatch},
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
    simd: S,
    x: &[f32],
    k: usize,
    precision: ActivationPrecision,
    threshold: f32,
    to: &mut Encoded<'_>,
) {
    let planes = planes(precision);
    for (i, (x, codes)) in x.chunks_exact(k).zip(to.codes.chunks_exact_mut(planes * k)).enumerate() {
        let known = to.outliers.len();
        let Extent { absmax, min, max } = match precision {
            ActivationPrecision::Int8Asym => Extent::of::<S, true>(simd, x, threshold, &mut to.outliers),
            ActivationPrecision::Int8 | ActivationPrecision::Int8x2 => {
                Extent::of::<S, false>(simd, x, threshold, &mut to.outliers)
            }
        };
        to.counts[i] = to.outliers.len() - known;
        let sums = &mut to.sums[planes * i..][..planes];
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
        let steps = Steps { simd, threshold, inverse };
        match precision {
            ActivationPrecision::Int8 => [sums[0]] = steps.encode(x, [codes], |steps| [steps]),
            ActivationPrecision::Int8Asym => {
                let zero = -128 - (min * inverse).round_ties_even() as i32;
                to.zeros[i] = zero;
                [sums[0]] = steps.encode(x, [codes], |steps| {
                    [simd.clamp_to_i8(simd.add_i32(steps, simd.splat_i32(zero)))]
                });
            }
            ActivationPrecision::Int8x2 => {
                let planes = codes.split_at_mut(k).into();
                [sums[0], sums[1]] = steps.encode(x, planes, |steps| simd.high_low(steps));
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
}

impl Extent {
    /// Looks at a row and appends its outliers to the list.
    #[inline(always)]
    fn of<S: Simd, const MIN_MAX: bool>(
        simd: S,
        x: &[f32],
        threshold: f32,
        outliers: &mut Vec<Outlier>,
    ) -> Self {
        let (chunks, tail) = x.as_chunks::<LANES>();
        let mut seen = Seen { absmax: simd.splat(0.0), min: simd.splat(0.0), max: simd.splat(0.0) };
        for (c, chunk) in chunks.iter().enumerate() {
            seen = seen.and::<MIN_MAX>(simd, chunk, c * LANES..(c + 1) * LANES, threshold, outliers);
        }
        if !tail.is_empty() {
            let columns = x.len() - tail.len()..x.len();
            seen = seen.and::<MIN_MAX>(simd, &padded(tail), columns, threshold, outliers);
        }
        let lanes = |vector| {
            let mut lanes = [0.0; LANES];
            simd.store(vector, &mut lanes);
            lanes.into_iter()
        };
        // Without their signs floats are ordered as their bits are, infinity and then NaN at the end.
        let absmax = f32::from_bits(lanes(seen.absmax).map(f32::to_bits).fold(0, u32::max));
        Self {
            absmax: if absmax.is_nan() { f32::NAN } else { absmax },
            min: lanes(seen.min).fold(0.0, f32::min),
            max: lanes(seen.max).fold(0.0, f32::max),
        }
    }
}

/// An [`Extent`] lane by lane. Handed on by value, or it would live in memory.
struct Seen<S: Simd> {
    absmax: S::F32x16,
    min: S::F32x16,
    max: S::F32x16,
}

impl<S: Simd> Seen<S> {
    /// Takes in the elements of `columns`, the first ones of `chunk`.
    #[inline(always)]
    fn and<const MIN_MAX: bool>(
        self,
        simd: S,
        chunk: &[f32; LANES],
        columns: Range<usize>,
        threshold: f32,
        outliers: &mut Vec<Outlier>,
    ) -> Self {
        let Self { absmax, mut min, mut max } = self;
        let mut x = simd.load(chunk);
        let mask = simd.at_least(x, threshold);
        if mask != 0 {
            list_outliers(chunk, mask, columns, outliers);
            x = simd.below(x, threshold);
        }
        if MIN_MAX {
            (min, max) = (simd.min(x, min), simd.max(x, max));
        }
        Self { absmax: simd.max_magnitude(absmax, x), min, max }
    }
}

/// Appends those of `columns`, the first ones of `x`, that `mask` has. Not inlined, so that a loop in which few chunks
/// have any keeps its registers.
#[inline(never)]
fn list_outliers(x: &[f32; LANES], mask: u16, columns: Range<usize>, to: &mut Vec<Outlier>) {
    for (l, (column, value)) in columns.zip(x).enumerate() {
        if mask >> l & 1 == 1 {
            to.push(Outlier { column: column as u32, slot: 0, value: *value });
        }
    }
}

/// Turns the elements of a row into numbers of steps.
pub(crate) struct Steps<S: Simd> {
    pub(crate) simd: S,
    /// The magnitude from which on elements count as zero; NaN: none does.
    pub(crate) threshold: f32,
    /// Steps per unit.
    pub(crate) inverse: f32,
}

impl<S: Simd> Steps<S> {
    /// Writes the codes of `x`, of which `split` makes as many as there are planes, and returns the sum of each plane.
    #[inline(always)]
    pub(crate) fn encode<const P: usize>(
        &self,
        x: &[f32],
        planes: [&mut [i8]; P],
        split: impl Fn(S::I32x16) -> [S::I32x16; P],
    ) -> [i32; P] {
        let Self { simd, threshold, inverse } = *self;
        let (inverse, mut sums) = (simd.splat(inverse), [simd.splat_i32(0); P]);
        let planes = planes.map(|plane| plane.as_chunks_mut::<LANES>());
        let (chunks, tail) = x.as_chunks();
        for (c, chunk) in chunks.iter().enumerate() {
            let steps = simd.round(simd.mul(simd.below(simd.load(chunk), threshold), inverse));
            let codes = split(steps);
            for p in 0..P {
                simd.store_i8(codes[p], &mut planes[p].0[c]);
                sums[p] = simd.add_i32(sums[p], codes[p]);
            }
        }
        let mut code_sums = sums.map(|sums| simd.sum_i32(sums));
        if !tail.is_empty() {
            let steps = simd.round(simd.mul(simd.below(simd.load(&padded(tail)), threshold), inverse));
            let codes = split(steps);
            for p in 0..P {
                let mut bytes = [0; LANES];
                simd.store_i8(codes[p], &mut bytes);
                planes[p].1.copy_from_slice(&bytes[..tail.len()]);
                code_sums[p] += planes[p].1.iter().map(|code| i32::from(*code)).sum::<i32>();
            }
        }
        code_sums
    }
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
