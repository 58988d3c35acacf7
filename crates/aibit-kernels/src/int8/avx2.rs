//! AVX2: `vpmaddubsw` multiplies unsigned with signed bytes and adds pairs of products in 16 bits.
//!
//! Beyond `i16` it saturates. So the unsigned factors are the magnitudes of `x`, at most 128, and the signed ones the
//! codes of the weights, all their bits flipped where `x` is negative: `!w = -w - 1`, so a pair lies in
//! `-32768..=32512` for all inputs. A product with a negative `x` comes out as `x · w - |x|`; what is missing is the
//! same for all outputs and added at the end.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::arch::x86_64::*;

use super::{Ahead, CodeRows, Line, PANEL, Rearranged, groups};
use crate::{
    read::{RUNS, ReadPattern},
    simd::Avx2,
};

/// Lines of packed weights for 32 inputs.
pub(super) const LINES: usize = 16;

/// Rows of `x` whose accumulators, four vectors each, fit the 16 registers beside the weights.
const TILE_ROWS: usize = 2;

/// 32 elements of a row of `x`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Factors {
    magnitudes: [u8; 32],
    /// What the weights are xored with: ones where the element is negative.
    flips: [u8; 32],
}

impl Avx2 {
    /// Writes the products with the two parts of a panel to `sums`, `[row of x, PANEL]`, and prefetches
    /// `next`, the panel that is read next. Returns the panel in quads. Unless these are `new_rows`, `x` is that of the
    /// call before.
    pub(super) fn product<'a>(
        self,
        x: CodeRows<'_>,
        new_rows: bool,
        w: [&[i8]; 2],
        next: [&[i8]; 2],
        Rearranged { packed, factors, excess, .. }: &'a mut Rearranged,
        sums: &mut [i32],
    ) -> &'a [Line] {
        if x.k == 0 {
            sums.fill(0);
            return &[];
        }
        // SAFETY: a value of `Self` exists only if `detect` saw AVX2 on this CPU.
        unsafe {
            if new_rows {
                split_rows(x, i8::MIN, factors, excess);
            }
            product(x, w, next, packed, factors, excess, sums);
        }
        packed
    }

    /// Writes the products with each of `runs` to `sums`, `[run, row of x, stride]`.
    pub(super) fn stream(
        self,
        x: CodeRows<'_>,
        runs: [&[i8]; RUNS],
        pattern: ReadPattern,
        stride: usize,
        Rearranged { factors, excess, rows, .. }: &mut Rearranged,
        sums: &mut [i32],
    ) {
        *rows = None;
        if x.k == 0 {
            sums.fill(0);
            return;
        }
        // SAFETY: a value of `Self` exists only if `detect` saw AVX2 on this CPU.
        unsafe {
            split_rows(x, 0, factors, excess);
            stream(x, runs, pattern, stride, factors, excess, sums);
        }
    }
}

/// Splits the rows of `x` into magnitudes and signs, zeros at the end of each; what weights are flipped by is xored
/// with `bias`. `excess` becomes what is missing in the sums of each row.
#[target_feature(enable = "avx2")]
fn split_rows(x: CodeRows<'_>, bias: i8, factors: &mut Vec<Factors>, excess: &mut Vec<i32>) {
    let chunks = x.k.div_ceil(32);
    let zero = Factors { magnitudes: [0; 32], flips: [0; 32] };
    factors.resize(factors.len().max(x.m() * chunks), zero);
    excess.clear();
    let bias = _mm256_set1_epi8(bias);
    for (i, to) in (0..x.m()).zip(factors.chunks_exact_mut(chunks)) {
        let (whole, rest) = x.row(i).as_chunks::<32>();
        let mut sum = _mm256_setzero_si256();
        for (c, Factors { magnitudes, flips }) in to.iter_mut().enumerate() {
            let x = match whole.get(c) {
                Some(x) => load(x),
                None => load(&padded(rest)),
            };
            let magnitude = _mm256_abs_epi8(x);
            let flip = _mm256_xor_si256(_mm256_cmpgt_epi8(_mm256_setzero_si256(), x), bias);
            sum = _mm256_add_epi64(sum, _mm256_sad_epu8(magnitude, _mm256_setzero_si256()));
            // SAFETY: 32 writable bytes each; `storeu` needs no alignment.
            unsafe {
                _mm256_storeu_si256(magnitudes.as_mut_ptr().cast(), magnitude);
                _mm256_storeu_si256(flips.as_mut_ptr().cast(), flip);
            }
        }
        let mut sums = [0_i64; 4];
        // SAFETY: 32 writable bytes; `storeu` needs no alignment.
        unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), sum) };
        // Half of what the magnitudes sum up to beyond the codes.
        excess.push((sums.iter().sum::<i64>() as i32 - x.sum(i)) / 2);
    }
}

#[target_feature(enable = "avx2")]
fn product(
    x: CodeRows<'_>,
    w: [&[i8]; 2],
    next: [&[i8]; 2],
    packed: &mut Vec<Line>,
    factors: &[Factors],
    excess: &[i32],
    sums: &mut [i32],
) {
    let chunks = x.k.div_ceil(32);
    packed.resize(packed.len().max(chunks * LINES), Line([0; 64]));
    let packed = &mut packed[..chunks * LINES];
    pack(w, x.k, packed);
    let mut row = 0;
    while row < x.m() {
        let left = x.m() - row;
        let ahead = &Ahead::new(next, row..row + left.min(TILE_ROWS), x.m(), 2 * chunks);
        let (factors, excess, sums) = (&factors[row * chunks..], &excess[row..], &mut sums[row * PANEL..]);
        row += match left {
            TILE_ROWS.. => multiply::<TILE_ROWS>(factors, excess, packed, sums, ahead),
            _ => multiply::<1>(factors, excess, packed, sums, ahead),
        };
    }
}

#[target_feature(enable = "avx2")]
fn stream(
    x: CodeRows<'_>,
    runs: [&[i8]; RUNS],
    pattern: ReadPattern,
    stride: usize,
    factors: &[Factors],
    excess: &[i32],
    sums: &mut [i32],
) {
    let (k, m, chunks) = (x.k, x.m(), x.k.div_ceil(32));
    for group in groups(runs.map(|run| run.len() / k), pattern.runs) {
        // A loop, not `map`: a closure is not inlined through code without these instructions.
        let (mut w, mut places): ([&[i8]; 4], _) = ([&[]; 4], [0; 4]);
        for i in 0..4 {
            let (run, row) = group.rows[i];
            w[i] = &runs[run][row * k..][..k];
            places[i] = run * m * stride + row;
        }
        let places = &places[..group.count];
        let mut row = 0;
        while row < m {
            // The weights are in the first cache when the next rows of `x` meet them.
            let pattern = if row == 0 { pattern } else { ReadPattern::FOUR_RUNS };
            let (factors, excess) = (&factors[row * chunks..], &excess[row..]);
            let sums = &mut sums[row * stride..];
            row += match m - row {
                2.. => dots::<2>(factors, excess, w, pattern, places, stride, sums),
                _ => dots::<1>(factors, excess, w, pattern, places, stride, sums),
            };
        }
    }
}

/// The first `MR` rows of `x` times four rows of weights, whose sums for the first row of `x` go to `places`. Returns `MR`.
#[inline]
#[target_feature(enable = "avx2")]
fn dots<const MR: usize>(
    x: &[Factors],
    excess: &[i32],
    w: [&[i8]; 4],
    pattern: ReadPattern,
    places: &[usize],
    stride: usize,
    sums: &mut [i32],
) -> usize {
    let products = dot4::<MR>(x, w, pattern.runs, pattern.prefetch);
    for r in 0..MR {
        for (place, product) in places.iter().zip(products[r]) {
            sums[place + r * stride] = product.wrapping_add(excess[r]);
        }
    }
    MR
}

/// The products with four rows of weights, of which `runs` are read side by side.
#[inline]
#[target_feature(enable = "avx2")]
fn dot4<const MR: usize>(x: &[Factors], w: [&[i8]; 4], runs: usize, prefetch: usize) -> [[i32; 4]; MR] {
    let mut sums = [[_mm256_setzero_si256(); 4]; MR];
    match runs {
        4 => add_products::<MR, 4, 0>(x, w, prefetch, &mut sums),
        2 => {
            add_products::<MR, 2, 0>(x, w, prefetch, &mut sums);
            add_products::<MR, 2, 2>(x, w, prefetch, &mut sums);
        }
        _ => {
            add_products::<MR, 1, 0>(x, w, prefetch, &mut sums);
            add_products::<MR, 1, 1>(x, w, prefetch, &mut sums);
            add_products::<MR, 1, 2>(x, w, prefetch, &mut sums);
            add_products::<MR, 1, 3>(x, w, prefetch, &mut sums);
        }
    }
    let mut out = [[0; 4]; MR];
    for r in 0..MR {
        out[r] = sum4(sums[r]);
    }
    out
}

/// Adds the products with `RUNS` rows of weights from row `FIRST` on.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products<const MR: usize, const RUNS: usize, const FIRST: usize>(
    x: &[Factors],
    w: [&[i8]; 4],
    prefetch: usize,
    sums: &mut [[__m256i; 4]; MR],
) {
    let ones = _mm256_set1_epi16(1);
    // Loops, not `map`: a closure is not inlined through code without these instructions.
    let (chunks, stride) = (w[0].len() / 32, w[0].len().div_ceil(32));
    let mut w_chunks: [&[[i8; 32]]; RUNS] = [&[]; RUNS];
    for c in 0..RUNS {
        w_chunks[c] = &w[FIRST + c].as_chunks().0[..chunks];
    }
    let mut rows: [&[Factors]; MR] = [&[]; MR];
    for r in 0..MR {
        rows[r] = &x[r * stride..][..stride];
    }
    for i in 0..chunks {
        for c in 0..RUNS {
            if prefetch > 0 && i % 2 == 0 {
                _mm_prefetch::<_MM_HINT_T0>(w_chunks[c][i].as_ptr().wrapping_add(prefetch));
            }
            let w = load(&w_chunks[c][i]);
            for r in 0..MR {
                sums[r][FIRST + c] = _mm256_add_epi32(sums[r][FIRST + c], dot(&rows[r][i], w, ones));
            }
        }
    }
    if stride > chunks {
        for c in 0..RUNS {
            let w = load(&padded(&w[FIRST + c][chunks * 32..]));
            for r in 0..MR {
                sums[r][FIRST + c] = _mm256_add_epi32(sums[r][FIRST + c], dot(&rows[r][chunks], w, ones));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot(x: &Factors, w: __m256i, ones: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(load_bytes(&x.magnitudes), _mm256_xor_si256(w, load_bytes(&x.flips)));
    _mm256_madd_epi16(pairs, ones)
}

/// The sum of the lanes of each of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum4([a, b, c, d]: [__m256i; 4]) -> [i32; 4] {
    let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
    let mut out = [0; 4];
    // SAFETY: sixteen writable bytes; `storeu` needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
    out
}

/// Rearranges up to sixteen rows from each part of `w` so that line `2q + h` holds the inputs `4q..4q + 4` of the rows
/// of part `h`, sign bits flipped. Missing rows and inputs become zeros before the flip.
#[target_feature(enable = "avx2")]
pub(super) fn pack(w: [&[i8]; 2], k: usize, packed: &mut [Line]) {
    let flip = _mm256_set1_epi8(i8::MIN);
    for (half, w) in w.into_iter().enumerate() {
        let present = w.len() / k;
        for eight in 0..2 {
            let mut whole: [&[[i8; 32]]; 8] = [&[]; 8];
            let mut rest: [&[i8]; 8] = [&[]; 8];
            for r in 0..present.saturating_sub(8 * eight).min(8) {
                (whole[r], rest[r]) = w[(8 * eight + r) * k..][..k].as_chunks();
            }
            for (chunk, lines) in packed.as_chunks_mut::<LINES>().0.iter_mut().enumerate() {
                let mut rows = [flip; 8];
                for r in 0..8 {
                    if let Some(codes) = whole[r].get(chunk) {
                        rows[r] = _mm256_xor_si256(load(codes), flip);
                    } else if !rest[r].is_empty() {
                        rows[r] = _mm256_xor_si256(load(&padded(rest[r])), flip);
                    }
                }
                for (line, quad) in lines[half..].iter_mut().step_by(2).zip(transpose(rows)) {
                    let to = &mut line.0.as_chunks_mut::<32>().0[eight];
                    // SAFETY: 32 writable bytes; `storeu` needs no alignment.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), quad) };
                }
            }
        }
    }
}

/// Transposes an 8 by 8 matrix of 32-bit values.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = rows;
    for i in (0..8).step_by(2) {
        pairs[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // 128-bit lane `l` of `fours[i + c]` is column `4l + c` of the rows `i..i + 4`.
    let mut fours = pairs;
    for i in (0..8).step_by(4) {
        fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut columns = fours;
    for c in 0..4 {
        columns[c] = _mm256_permute2x128_si256::<0x20>(fours[c], fours[4 + c]);
        columns[4 + c] = _mm256_permute2x128_si256::<0x31>(fours[c], fours[4 + c]);
    }
    columns
}

/// The first `MR` rows of `x` times the 32 packed rows of weights. Returns `MR`.
#[target_feature(enable = "avx2")]
fn multiply<const MR: usize>(
    x: &[Factors],
    excess: &[i32],
    packed: &[Line],
    sums: &mut [i32],
    ahead: &Ahead<'_>,
) -> usize {
    let (packed, _) = packed.as_chunks::<LINES>();
    let chunks = packed.len();
    let mut rows: [&[Factors]; MR] = [&[]; MR];
    for r in 0..MR {
        rows[r] = &x[r * chunks..][..chunks];
    }
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_si256(); 4]; MR];
    for (i, lines) in packed.iter().enumerate() {
        ahead.prefetch(2 * i);
        ahead.prefetch(2 * i + 1);
        for (q, line) in lines.as_chunks::<2>().0.iter().enumerate() {
            let w: [&[u8; 32]; 4] = [low(&line[0]), high(&line[0]), low(&line[1]), high(&line[1])];
            for r in 0..MR {
                let Factors { magnitudes, flips } = &rows[r][i];
                let (magnitude, flip) = (broadcast(magnitudes, q), broadcast(flips, q));
                for c in 0..4 {
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_xor_si256(flip, load_bytes(w[c])));
                    acc[r][c] = _mm256_add_epi32(acc[r][c], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
    }
    for r in 0..MR {
        let excess = _mm256_set1_epi32(excess[r]);
        let (to, _) = sums[r * PANEL..][..PANEL].as_chunks_mut::<8>();
        for (to, acc) in to.iter_mut().zip(acc[r]) {
            // SAFETY: eight writable `i32`; `storeu` needs no alignment.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_add_epi32(acc, excess)) };
        }
    }
    MR
}

/// Bytes `4q..4q + 4` in each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(bytes: &[u8; 32], q: usize) -> __m256i {
    _mm256_set1_epi32(i32::from_ne_bytes(bytes.as_chunks().0[q]))
}

#[inline(always)]
pub(super) fn low(line: &Line) -> &[u8; 32] {
    &line.0.as_chunks().0[0]
}

#[inline(always)]
pub(super) fn high(line: &Line) -> &[u8; 32] {
    &line.0.as_chunks().0[1]
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(x: &[i8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_bytes(x: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// Up to 32 codes, then zeros.
#[inline]
pub(super) fn padded(x: &[i8]) -> [i8; 32] {
    let mut codes = [0; 32];
    codes[..x.len()].copy_from_slice(x);
    codes
}
