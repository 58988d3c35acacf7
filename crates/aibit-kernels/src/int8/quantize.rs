//! Activations to INT8 in one of three precisions, one scale per token; outliers get further digits.

use std::mem;
use std::sync::{Mutex, PoisonError};

use super::FEW_ROWS;
use crate::{
    Context,
    float::padded,
    isa::dispatch,
    simd::{LANES, Simd},
};

/// Elements handed to a thread at a time.
const TASK: usize = 16 * 1024;

/// A row's outliers are what exceeds one of the bounds `absmax · 2^(-j/4)`, `j` up to this: digits hold outliers of `2^14`
/// times the largest of the other elements.
const BOUNDS: usize = 4 * 14;

/// The first of them for which `Int8x2` has outliers. Up to 64 times the others an element leaves these 8 of the 14 bits,
/// more than one byte has.
const FINE: usize = 4 * 6;

/// `2^(-j/4)`.
const QUARTERS: [f32; 4] = [1.0, 0.840_896_4, 0.707_106_77, 0.594_603_55];

/// How activations become integers. In each of them a few large elements of a row, its outliers, have integers of up to three
/// digits to base 128, so that they do not coarsen the row's scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ActivationPrecision {
    /// One signed byte: `x ≈ scale · code`, `scale = absmax / 127`.
    #[default]
    Int8,
    /// One signed byte and a zero point per row: `x ≈ scale · (code - zero)`, `scale = (max - min) / 254`. Holds
    /// one-sided rows, as GELU makes them, with one more bit.
    Int8Asym,
    /// Two signed bytes: `x ≈ scale · (128 · high + low)`, `scale = absmax / 16256`. As good as f32 activations; a
    /// product reads the weights once and multiplies twice.
    Int8x2,
}

/// The largest magnitude of `128 · high + low` with `high` in `-127..=127`.
const MAX_INT8X2: f32 = 127.0 * 128.0;

/// What an outlier has above the bytes that every element has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outlier {
    /// The quadruple of columns that it is in.
    pub(crate) quad: u32,
    /// For each column of the quadruple multiples of 128 and of 16384, in `-127..=127`, zero but for the outlier's own; the
    /// first is zero for [`ActivationPrecision::Int8x2`].
    pub(crate) digits: [[i8; 4]; 2],
}

/// What is known of the outliers of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Upper {
    /// The sum of each digit.
    pub(crate) sums: [i32; 2],
    /// Whether any outlier has it.
    pub(crate) is_used: [bool; 2],
    /// Its row in [`QuantizedRows::upper_codes`], where it has one.
    pub(crate) rows: [usize; 2],
}

/// Activations `x[m, k]` as INT8 with one scale per row: buffers that the caller keeps, so that a
/// second call of the same size allocates nothing.
///
/// [`ActivationPrecision`] says what the codes stand for; outliers add their digits to them.
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
    /// Per row.
    upper: Vec<Upper>,
    has_second_digits: bool,
    /// Where the rows are few: each digit that is used as a row of codes, `k` elements, and the sum of each.
    upper_codes: Vec<i8>,
    upper_sums: Vec<i32>,
}

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
    /// The most outliers that a row of `k` elements can have: one in 128, in rows of fewer than 1024 eight, but never more than one in 16.
    ///
    /// Each costs a prompt as much as four other elements, so all of them add a thirty-second to the products of a long row.
    pub fn max_outliers(k: usize) -> usize {
        k.div_ceil(128).max(8).min(k.div_ceil(16))
    }

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

    /// The codes, `[m, k]` row-major, or `[m, 2, k]` for [`ActivationPrecision::Int8x2`], high bytes first; all within
    /// `-127..=127`.
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

    /// The outliers of all rows as `(row, column, digits)`, in that order: multiples of 128 and of 16384 that are added to the
    /// element's code.
    pub fn outlier_entries(&self) -> impl Iterator<Item = (usize, usize, [i8; 2])> + '_ {
        (0..self.m()).flat_map(|row| self.outliers(row).iter().map(move |o| (row, o.column(), o.digits())))
    }

    /// What row `row` stands for, `[k]`, in f64, which holds every such number.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn values(&self, row: usize) -> Vec<f64> {
        let codes = &self.codes()[self.planes() * row * self.k..][..self.planes() * self.k];
        let mut values: Vec<f64> = match self.precision {
            ActivationPrecision::Int8 | ActivationPrecision::Int8Asym => {
                codes.iter().map(|code| f64::from(i32::from(*code) - self.zeros[row])).collect()
            }
            ActivationPrecision::Int8x2 => {
                let (high, low) = codes.split_at(self.k);
                high.iter()
                    .zip(low)
                    .map(|(high, low)| f64::from(128 * i32::from(*high) + i32::from(*low)))
                    .collect()
            }
        };
        for outlier in self.outliers(row) {
            let [first, second] = outlier.digits().map(i32::from);
            values[outlier.column()] += f64::from(128 * first + 16384 * second);
        }
        values.iter_mut().for_each(|value| *value *= f64::from(self.scales[row]));
        values
    }

    pub(crate) fn code_sums(&self) -> &[i32] {
        &self.code_sums
    }

    pub(crate) fn outliers(&self, row: usize) -> &[Outlier] {
        &self.outliers[self.offsets[row]..self.offsets[row + 1]]
    }

    pub(crate) fn upper(&self, row: usize) -> &Upper {
        &self.upper[row]
    }

    /// Whether any outlier has a second digit.
    pub(crate) fn has_second_digits(&self) -> bool {
        self.has_second_digits
    }

    /// Whether each row of codes is multiplied on its own, with the digits of outliers as further rows.
    pub(crate) fn are_few(&self) -> bool {
        self.planes() * self.m() <= FEW_ROWS
    }

    /// The digits of outliers as rows of codes and the sum of each, where the rows are few.
    pub(crate) fn upper_codes(&self) -> (&[i8], &[i32]) {
        (&self.upper_codes, &self.upper_sums)
    }

    /// Sums up each row's outliers, from the counts that `offsets` holds.
    fn index_outliers(&mut self) {
        self.upper.clear();
        self.has_second_digits = false;
        self.upper_codes.clear();
        self.upper_sums.clear();
        self.offsets[0] = 0;
        for row in 0..self.m() {
            self.offsets[row + 1] += self.offsets[row];
            let outliers = &self.outliers[self.offsets[row]..self.offsets[row + 1]];
            let mut upper = Upper::default();
            for outlier in outliers {
                for (d, digit) in outlier.digits().into_iter().enumerate() {
                    upper.sums[d] += i32::from(digit);
                    upper.is_used[d] |= digit != 0;
                }
            }
            if self.are_few() {
                for d in 0..2 {
                    if upper.is_used[d] {
                        upper.rows[d] = self.upper_sums.len();
                        let start = self.upper_codes.len();
                        self.upper_codes.resize(start + self.k, 0);
                        for outlier in outliers {
                            self.upper_codes[start + outlier.column()] = outlier.digits()[d];
                        }
                        self.upper_sums.push(upper.sums[d]);
                    }
                }
            }
            self.has_second_digits |= upper.is_used[1];
            self.upper.push(upper);
        }
    }
}

impl Outlier {
    fn new(column: usize, digits: [i8; 2]) -> Self {
        let mut quads = [[0; 4]; 2];
        for d in 0..2 {
            quads[d][column % 4] = digits[d];
        }
        Self { quad: (column / 4) as u32, digits: quads }
    }

    /// Its digits.
    pub(crate) fn digits(&self) -> [i8; 2] {
        // All but one of each four are zero.
        self.digits.map(|quad| quad.into_iter().fold(0, |digit, other| digit | other))
    }

    /// Its column of `x`.
    pub(crate) fn column(&self) -> usize {
        let place = |quad: &[i8; 4]| quad.iter().position(|digit| *digit != 0);
        4 * self.quad as usize + self.digits.iter().find_map(place).unwrap_or(0)
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
/// First a bound is found that at most [`QuantizedRows::max_outliers`] elements exceed in magnitude: the smallest such of
/// `fl(fl(absmax · 2^-i) · fl(2^(-j/4)))`, `0 <= j < 4`, `0 <= 4 i + j <= 56`; for `Int8x2` `absmax` where that is above `2^-6` of
/// it. Over the elements within the bound, and
/// zero, `bulk` is the largest magnitude, but at least `absmax · 2^-14` (`Int8x2`: `2^-7`), `min` and `max` are the smallest
/// and the largest value, and `range = fl(max - min)`, but at least `absmax · 2^-13`.
///
/// | precision | scale | integer `q` of an element |
/// | --- | --- | --- |
/// | `Int8` | `fl(bulk / 127)` | `round_half_even(fl(x · fl(127 / bulk)))` |
/// | `Int8Asym` | `fl(range / 254)` | `round_half_even(fl(x · fl(254 / range))) + zero`, `zero = -127 - round_half_even(fl(min · fl(254 / range)))` |
/// | `Int8x2` | `fl(bulk / 16256)` | `round_half_even(fl(x · fl(16256 / bulk)))` |
///
/// `q` is the code where it is within `-127..=127`, and `128 · high + low` with `high = floor((q + 64) / 128)` for `Int8x2`
/// where it is within `-16256..=16256`; a `q` of 128 becomes 127 for `Int8Asym`. Every other element is an outlier: its code
/// holds `q - 128 · h` with `h = floor((q + 64) / 128)`, and its digits are `h` and 0 where `h` is within `-127..=127`, else
/// `h - 128 · t` and `t = floor((h + 64) / 128)`. For `Int8x2` `high` and `low` hold `q - 16384 · t` with
/// `t = floor((q + 8192) / 16384)`, and the digits are 0 and `t`.
///
/// A row of zeros, or one so small that the factor overflows, gets scale `0.0` and zero codes. A NaN or an infinity makes the
/// row's scale NaN or infinite and its codes zero, so that all its outputs are NaN.
///
/// # Panics
/// If `k` is zero or `x` is not a whole number of rows.
///
/// Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), §2.1 and §3.2, with one rounding of the scale, outliers found
/// per row, by their number, and kept as integers.
pub fn quantize_rows(
    cx: &Context,
    x: &[f32],
    k: usize,
    precision: ActivationPrecision,
    out: &mut QuantizedRows,
) {
    assert!(k > 0 && x.len().is_multiple_of(k), "quantize_rows: x has {} elements in rows of {k}", x.len());
    let m = x.len() / k;
    let planes = planes(precision);
    out.precision = precision;
    out.k = k;
    out.codes.resize(out.codes.len().max(planes * x.len()), 0);
    out.scales.resize(m, 0.0);
    out.zeros.resize(m, 0);
    out.code_sums.resize(planes * m, 0);
    out.offsets.resize(m + 1, 0);
    let run = |x: &[f32], to: &mut Encoded<'_>| {
        dispatch!(cx.isa => rows_loop(x: &[f32], k: usize, precision: ActivationPrecision, to: &mut Encoded<'_>));
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
        cx.threads.for_each(pieces.len(), &|index| {
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

/// What becomes of some rows.
struct Encoded<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    zeros: &'a mut [i32],
    sums: &'a mut [i32],
    /// The number of outliers of each row.
    counts: &'a mut [usize],
    /// The outliers of all of them.
    outliers: Vec<Outlier>,
}

#[inline(always)]
fn rows_loop<S: Simd>(simd: S, x: &[f32], k: usize, precision: ActivationPrecision, to: &mut Encoded<'_>) {
    let planes = planes(precision);
    let mut near = 4;
    for (i, (x, codes)) in x.chunks_exact(k).zip(to.codes.chunks_exact_mut(planes * k)).enumerate() {
        let known = to.outliers.len();
        let sums = &mut to.sums[planes * i..][..planes];
        to.zeros[i] = 0;
        let absmax = absmax(simd, x);
        // Neighbouring rows are much alike.
        near = bound(simd, x, absmax, near);
        let bound = match precision {
            ActivationPrecision::Int8x2 if near < FINE => absmax,
            _ => bound_at(absmax, near),
        };
        let (range, steps, min) = match precision {
            ActivationPrecision::Int8 => (bulk(simd, x, absmax, bound, 1.0 / 16384.0), 127.0, 0.0),
            ActivationPrecision::Int8x2 => (bulk(simd, x, absmax, bound, 1.0 / 128.0), MAX_INT8X2, 0.0),
            ActivationPrecision::Int8Asym => {
                let [min, max] = extent(simd, x, bound);
                ((max - min).max(absmax * (1.0 / 8192.0)), 254.0, min)
            }
        };
        let (scale, inverse) = (range / steps, steps / range);
        if !(inverse.is_finite() && absmax.is_finite() && scale > 0.0) {
            to.scales[i] = if absmax.is_finite() && range.is_finite() { 0.0 } else { absmax + range };
            sums.fill(0);
            codes.fill(0);
            to.counts[i] = 0;
            continue;
        }
        to.scales[i] = scale;
        let steps = Steps { simd, inverse };
        let outliers = &mut to.outliers;
        match precision {
            ActivationPrecision::Int8 => [sums[0]] = steps.encode(x, [codes], &mut Byte(outliers)),
            ActivationPrecision::Int8Asym => {
                let zero = -127 - (min * inverse).round_ties_even() as i32;
                to.zeros[i] = zero;
                [sums[0]] = steps.encode(x, [codes], &mut ByteAbove(zero, outliers));
            }
            ActivationPrecision::Int8x2 => {
                let planes = codes.split_at_mut(k).into();
                [sums[0], sums[1]] = steps.encode(x, planes, &mut TwoBytes(outliers));
            }
        }
        to.counts[i] = to.outliers.len() - known;
    }
}

/// The largest magnitude, NaN if there is a NaN.
#[inline(always)]
fn absmax<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks();
    let mut max = simd.splat(0.0);
    for chunk in chunks {
        max = simd.max_magnitude(max, simd.load(chunk));
    }
    max = simd.max_magnitude(max, simd.load(&padded(tail)));
    // Without their signs floats are ordered as their bits are, infinity and then NaN at the end.
    let max = f32::from_bits(lanes(simd, max).map(f32::to_bits).into_iter().fold(0, u32::max));
    if max.is_nan() { f32::NAN } else { max }
}

/// Bound `j` of a row.
#[inline(always)]
fn bound_at(absmax: f32, j: usize) -> f32 {
    let octave = f32::from_bits((127 - j as u32 / 4) << 23);
    absmax * octave * QUARTERS[j % 4]
}

/// The largest `j` for which at most [`QuantizedRows::max_outliers`] elements exceed bound `j`. The search begins at `near`,
/// which changes how long it takes.
#[inline(always)]
fn bound<S: Simd>(simd: S, x: &[f32], absmax: f32, near: usize) -> usize {
    if !(absmax > 0.0 && absmax.is_finite()) {
        return 0;
    }
    let allowed = QuantizedRows::max_outliers(x.len()) as i32;
    let (chunks, tail) = x.as_chunks();
    let tail = padded(tail);
    // Bounds before `low` are known to be exceeded by few enough, those from `high` on by too many.
    let (mut low, mut high) = (1, BOUNDS + 1);
    let mut first = near.clamp(2, BOUNDS - 2) - 1;
    while low < high {
        let bounds = [0, 1, 2, 3].map(|i| bound_at(absmax, first + i));
        let mut counts = [simd.splat_i32(0); 4];
        for chunk in chunks {
            counts = count_above(simd, counts, chunk, bounds);
        }
        counts = count_above(simd, counts, &tail, bounds);
        let mut few = 0;
        for count in counts {
            few += usize::from(simd.sum_i32(count) <= allowed);
        }
        if few > 0 {
            low = low.max(first + few);
        }
        if few < 4 {
            high = high.min(first + few);
        }
        first = if few == 4 { first + 4 } else { first.saturating_sub(4) }.clamp(1, BOUNDS - 3);
    }
    low - 1
}

#[inline(always)]
fn count_above<S: Simd>(
    simd: S,
    mut counts: [S::I32x16; 4],
    x: &[f32; LANES],
    bounds: [f32; 4],
) -> [S::I32x16; 4] {
    let x = simd.load(x);
    for j in 0..4 {
        counts[j] = simd.count_above(counts[j], x, bounds[j]);
    }
    counts
}

/// The largest magnitude within `bound`, at least `absmax · least`.
#[inline(always)]
fn bulk<S: Simd>(simd: S, x: &[f32], absmax: f32, bound: f32, least: f32) -> f32 {
    if bound == absmax || !absmax.is_finite() {
        return absmax;
    }
    let above = bound.next_up();
    let (chunks, tail) = x.as_chunks();
    let mut max = simd.splat(0.0);
    for chunk in chunks {
        max = simd.max_magnitude(max, simd.below(simd.load(chunk), above));
    }
    max = simd.max_magnitude(max, simd.below(simd.load(&padded(tail)), above));
    lanes(simd, max).into_iter().fold(absmax * least, f32::max)
}

/// The smallest and the largest value within `bound`, zero counted in.
#[inline(always)]
fn extent<S: Simd>(simd: S, x: &[f32], bound: f32) -> [f32; 2] {
    let above = bound.next_up();
    let (chunks, tail) = x.as_chunks();
    let (mut min, mut max) = (simd.splat(0.0), simd.splat(0.0));
    for chunk in chunks {
        let x = simd.below(simd.load(chunk), above);
        (min, max) = (simd.min(x, min), simd.max(x, max));
    }
    let x = simd.below(simd.load(&padded(tail)), above);
    (min, max) = (simd.min(x, min), simd.max(x, max));
    [lanes(simd, min).into_iter().fold(0.0, f32::min), lanes(simd, max).into_iter().fold(0.0, f32::max)]
}

#[inline(always)]
fn lanes<S: Simd>(simd: S, vector: S::F32x16) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    simd.store(vector, &mut lanes);
    lanes
}

/// Makes codes of the integers of a chunk, as many as there are planes. A trait, because closures with vector operations
/// are not inlined into code with vector instructions, and without these they are slow.
pub(crate) trait Digits<S: Simd, const P: usize> {
    /// The codes of the integers `q` from column `first` on.
    fn split(&mut self, simd: S, q: S::I32x16, first: usize) -> [S::I32x16; P];
}

/// A byte, and outliers.
struct Byte<'a>(&'a mut Vec<Outlier>);

impl<S: Simd> Digits<S, 1> for Byte<'_> {
    #[inline(always)]
    fn split(&mut self, simd: S, q: S::I32x16, first: usize) -> [S::I32x16; 1] {
        let mask = simd.beyond(q, 127);
        [if mask == 0 { q } else { spread(simd, q, mask, first, 7, self.0) }]
    }
}

/// A byte above a zero point, and outliers.
struct ByteAbove<'a>(i32, &'a mut Vec<Outlier>);

impl<S: Simd> Digits<S, 1> for ByteAbove<'_> {
    #[inline(always)]
    fn split(&mut self, simd: S, q: S::I32x16, first: usize) -> [S::I32x16; 1] {
        let q = simd.add_i32(q, simd.splat_i32(self.0));
        // Not within -127..=128.
        let mask = simd.beyond(simd.add_i32(simd.add_i32(q, q), simd.splat_i32(-1)), 255);
        let q = if mask == 0 { q } else { spread(simd, q, mask, first, 7, self.1) };
        [simd.clamp_to_i8(q)]
    }
}

/// Two bytes, high and low, and outliers.
struct TwoBytes<'a>(&'a mut Vec<Outlier>);

impl<S: Simd> Digits<S, 2> for TwoBytes<'_> {
    #[inline(always)]
    fn split(&mut self, simd: S, q: S::I32x16, first: usize) -> [S::I32x16; 2] {
        let mask = simd.beyond(q, MAX_INT8X2 as i32);
        simd.high_low(if mask == 0 { q } else { spread(simd, q, mask, first, 14, self.0) })
    }
}

/// Nothing but a byte.
pub(crate) struct ByteAlone;

impl<S: Simd> Digits<S, 1> for ByteAlone {
    #[inline(always)]
    fn split(&mut self, _: S, q: S::I32x16, _: usize) -> [S::I32x16; 1] {
        [q]
    }
}

/// Nothing but two bytes, high and low.
pub(crate) struct TwoBytesAlone;

impl<S: Simd> Digits<S, 2> for TwoBytesAlone {
    #[inline(always)]
    fn split(&mut self, simd: S, q: S::I32x16, _: usize) -> [S::I32x16; 2] {
        simd.high_low(q)
    }
}

/// Appends the digits of the lanes in `mask` of a chunk that begins at column `first`, and leaves of them what fits `bits` bits and
/// a sign.
#[inline(always)]
fn spread<S: Simd>(
    simd: S,
    q: S::I32x16,
    mask: u16,
    first: usize,
    bits: u32,
    outliers: &mut Vec<Outlier>,
) -> S::I32x16 {
    let mut lanes = [0; LANES];
    simd.store_i32(q, &mut lanes);
    spread_lanes(&mut lanes, mask, first, bits, outliers);
    simd.lanes_i32(&lanes)
}

/// [`spread`] in memory. Not inlined, so that a loop in which few chunks have outliers keeps its registers.
#[inline(never)]
fn spread_lanes(lanes: &mut [i32; LANES], mask: u16, first: usize, bits: u32, outliers: &mut Vec<Outlier>) {
    // Quotient and rest in `-2^bits / 2 .. 2^bits / 2`.
    let split = |q: i32, bits: u32| {
        let quotient = (q + (1 << bits >> 1)) >> bits;
        (quotient, q - (quotient << bits))
    };
    for (l, q) in lanes.iter_mut().enumerate().filter(|(l, _)| mask >> l & 1 == 1) {
        let (above, rest) = split(*q, bits);
        *q = rest;
        let digits = match bits {
            14 => [0, above],
            _ if above.abs() <= 127 => [above, 0],
            _ => {
                let (second, first) = split(above, 7);
                [first, second]
            }
        };
        outliers.push(Outlier::new(first + l, digits.map(|digit| digit as i8)));
    }
}

/// Turns the elements of a row into numbers of steps.
pub(crate) struct Steps<S: Simd> {
    pub(crate) simd: S,
    /// Steps per unit.
    pub(crate) inverse: f32,
}

impl<S: Simd> Steps<S> {
    /// Writes the codes of `x`, of which `digits` makes as many as there are planes, and returns the sum of each plane.
    #[inline(always)]
    pub(crate) fn encode<const P: usize>(
        &self,
        x: &[f32],
        planes: [&mut [i8]; P],
        digits: &mut impl Digits<S, P>,
    ) -> [i32; P] {
        let Self { simd, inverse } = *self;
        let (inverse, mut sums) = (simd.splat(inverse), [simd.splat_i32(0); P]);
        let planes = planes.map(|plane| plane.as_chunks_mut::<LANES>());
        let (chunks, tail) = x.as_chunks();
        for (c, chunk) in chunks.iter().enumerate() {
            let q = simd.round(simd.mul(simd.load(chunk), inverse));
            let codes = digits.split(simd, q, c * LANES);
            for p in 0..P {
                simd.store_i8(codes[p], &mut planes[p].0[c]);
                sums[p] = simd.add_i32(sums[p], codes[p]);
            }
        }
        let mut code_sums = sums.map(|sums| simd.sum_i32(sums));
        if !tail.is_empty() {
            let q = simd.round(simd.mul(simd.load(&padded(tail)), inverse));
            let codes = digits.split(simd, q, x.len() - tail.len());
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
    use crate::Isa;

    fn quantized(precision: ActivationPrecision, x: &[f32], k: usize) -> QuantizedRows {
        let mut first = QuantizedRows::default();
        quantize_rows(&Isa::SCALAR.into(), x, k, precision, &mut first);
        for isa in Isa::available() {
            let mut out = QuantizedRows::default();
            // Leftovers must not show.
            quantize_rows(&isa.into(), &[9.0; 40], 20, ActivationPrecision::Int8x2, &mut out);
            quantize_rows(&isa.into(), x, k, precision, &mut out);
            assert_eq!(text(&out), text(&first), "{isa}");
        }
        first
    }

    /// All that a product reads; NaN equals NaN as text.
    fn text(x: &QuantizedRows) -> String {
        let outliers: Vec<_> = x.outlier_entries().collect();
        let upper: Vec<_> = (0..x.m()).map(|row| x.upper(row)).collect();
        format!(
            "{:?}",
            (
                x.codes(),
                x.scales(),
                x.zeros(),
                x.code_sums(),
                outliers,
                upper,
                x.upper_codes(),
                x.precision()
            )
        )
    }

    #[test]
    fn codes_round_half_to_even() {
        // absmax 127: the code is the rounded value. Three elements are close to it, one may be an outlier.
        let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0, 126.5];
        let q = quantized(ActivationPrecision::Int8, &x, 8);
        assert_eq!(q.codes(), [127, 0, 2, 2, 0, -2, -127, 126]);
        assert_eq!(q.scales(), [1.0]);
        assert_eq!(q.code_sums(), [127 + 2 + 2 - 2 - 127 + 126]);
        assert_eq!(q.outlier_entries().count(), 0);
    }

    #[test]
    fn a_large_element_gets_digits_and_leaves_the_scale_to_the_others() {
        // 1000 = 128 · 8 - 24; -3000 = 128 · -23 - 56; 20,000 = 128 · 156 + 32, and 156 = 128 + 28.
        let x = [127.0, 1000.0, -126.0, 2.5, -3000.0, 0.0, -127.0, 1.0, -127.0, 125.0, 127.0, 20_000.0];
        let q = quantized(ActivationPrecision::Int8, &x, 4);
        assert_eq!(q.codes(), [127, -24, -126, 2, -56, 0, -127, 1, -127, 125, 127, 32]);
        assert_eq!(q.scales(), [1.0; 3]);
        let entries: Vec<_> = q.outlier_entries().collect();
        assert_eq!(entries, [(0, 1, [8, 0]), (1, 0, [-23, 0]), (2, 3, [28, 1])]);
        let upper = [q.upper(0), q.upper(1), q.upper(2)].map(|upper| (upper.sums, upper.is_used, upper.rows));
        assert_eq!(
            upper,
            [
                ([8, 0], [true, false], [0, 0]),
                ([-23, 0], [true, false], [1, 0]),
                ([28, 1], [true, true], [2, 3])
            ]
        );
        let (codes, sums) = q.upper_codes();
        assert_eq!(codes, [0, 8, 0, 0, -23, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 1]);
        assert_eq!(sums, [8, -23, 28, 1]);
        assert_eq!(q.values(2), [-127.0, 125.0, 127.0, 20_000.0]);
    }

    #[test]
    fn no_more_elements_than_allowed_are_outliers() {
        for (k, allowed) in [(16, 1), (17, 2), (128, 8), (1000, 8), (2048, 16), (14_336, 112)] {
            assert_eq!(QuantizedRows::max_outliers(k), allowed);
            // All but one are as large: none is an outlier. Then one fewer than allowed, as many, one more.
            for large in [k - 1, allowed - 1, allowed, allowed + 1] {
                let x: Vec<f32> =
                    (0..k).map(|i| if i < large { 1000.0 } else { [1.0, -1.0][i % 2] }).collect();
                let found = quantized(ActivationPrecision::Int8, &x, k).outlier_entries().count();
                assert_eq!(found, if large <= allowed && large < k { large } else { 0 }, "{large} of {k}");
            }
        }
    }

    #[test]
    fn digits_have_an_end() {
        // The scale follows an outlier that is more than 2^14 times the other elements.
        let q = quantized(ActivationPrecision::Int8, &[2_080_768.0 * 4.0, 127.0, -254.0, 3.0], 4);
        assert_eq!((q.scales(), q.codes()), (&[4.0][..], &[0, 32, -64, 1][..]));
        assert_eq!(q.outlier_entries().collect::<Vec<_>>(), [(0, 0, [0, 127])]);
        let q = quantized(ActivationPrecision::Int8x2, &[0.0, 0.0, -2_080_768.0, 0.0], 4);
        assert_eq!((q.scales(), q.codes()), (&[1.0][..], &[0; 8][..]));
        assert_eq!(q.outlier_entries().collect::<Vec<_>>(), [(0, 2, [0, -127])]);
    }

    #[test]
    fn zero_and_tiny_rows_have_scale_zero() {
        let q = quantized(ActivationPrecision::Int8, &[0.0, -0.0, 1e-38, 1e-45], 2);
        assert_eq!((q.codes(), q.scales()), (&[0; 4][..], &[0.0; 2][..]));
    }

    #[test]
    fn nan_and_infinity_reach_the_scale() {
        let x = [f32::NAN, 1.0, f32::NEG_INFINITY, 1.0, 1.0, f32::NAN, f32::NAN, f32::INFINITY];
        for precision in
            [ActivationPrecision::Int8, ActivationPrecision::Int8Asym, ActivationPrecision::Int8x2]
        {
            let q = quantized(precision, &x, 2);
            assert!(q.scales().iter().all(|scale| !scale.is_finite()), "{precision:?}: {:?}", q.scales());
            assert!(q.codes().iter().all(|code| *code == 0));
            assert_eq!(q.outlier_entries().count(), 0);
        }
    }

    #[test]
    fn two_bytes_hold_fourteen_bits() {
        // absmax 16256: the code is the rounded value, split as 128 · high + low with low in -64..64. The outlier is
        // 16384 · 122 + 1152, and 1152 = 128 · 9.
        let x = [16256.0, -16256.0, 64.0, 63.0, -64.0, -65.0, 0.5, 1.5, 2.0e6];
        let q = quantized(ActivationPrecision::Int8x2, &x, 9);
        assert_eq!(q.codes()[..9], [127, -127, 1, 0, 0, -1, 0, 0, 9]);
        assert_eq!(q.codes()[9..], [0, 0, -64, 63, -64, 63, 0, 2, 0]);
        assert_eq!((q.scales(), q.code_sums()), (&[1.0][..], &[9, -64 + 63 - 64 + 63 + 2][..]));
        assert_eq!(q.outlier_entries().collect::<Vec<_>>(), [(0, 8, [0, 122])]);
        // One that is less than 64 times the others leaves them enough: 16256 · 32.
        let q = quantized(ActivationPrecision::Int8x2, &[16256.0, 520_192.0], 2);
        assert_eq!((q.scales(), q.codes()), (&[32.0][..], &[4, 127, -4, 0][..]));
        assert_eq!(q.outlier_entries().count(), 0);
    }

    #[test]
    fn a_zero_point_uses_every_code() {
        let q = quantized(ActivationPrecision::Int8Asym, &[0.0, 254.0, 1.0, 127.0, 253.0], 5);
        assert_eq!(
            (q.codes(), q.zeros(), q.scales()),
            (&[-127, 127, -126, 0, 126][..], &[-127][..], &[1.0][..])
        );
        // 9000 - 73 = 128 · 70 - 33.
        let q = quantized(ActivationPrecision::Int8Asym, &[-54.0, 200.0, 0.0, 9000.0], 4);
        assert_eq!((q.codes(), q.zeros(), q.scales()), (&[-127, 127, -73, -33][..], &[-73][..], &[1.0][..]));
        assert_eq!(q.outlier_entries().collect::<Vec<_>>(), [(0, 3, [70, 0])]);
        assert_eq!(q.values(0), [-54.0, 200.0, 0.0, 9000.0]);
    }
}
