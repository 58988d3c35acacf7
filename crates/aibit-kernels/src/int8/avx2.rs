//! AVX2: `vpmaddubsw` multiplies unsigned with signed bytes and adds pairs of products in 16 bits.
//!
//! Beyond `i16` it saturates. So the unsigned factors are the magnitudes of `x`, at most 128, and the signed ones the
//! codes of the weights, all their bits flipped where `x` is negative: `!w = -w - 1`, so a pair lies in
//! `-32768..=32512` for all inputs. A product with a negative `x` comes out as `x · w - |x|`; what is missing is the
//! same for all outputs and added at the end.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::arch::x86_64::*;

use super::{Ahead, CodeRows, Line, PANEL, Rearranged};
use crate::{simd::Avx2, tiles::STREAMS};

/// Lines of packed weights for 32 inputs.
const LINES: usize = 16;

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
    /// Writes the products with the two parts of a panel to `sums`, `[row of x, PANEL]`, while it asks for what will be
    /// read `next`. Returns the panel in quads. Unless these are `new_rows`, `x` is that of the call before.
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

    /// Writes the products with each of `streams` to `sums`, `[stream, row of x, stride]`.
    pub(super) fn stream(
        self,
        x: CodeRows<'_>,
        streams: [&[i8]; STREAMS],
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
        unsafe { stream(x, streams, stride, factors, excess, sums) }
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
        let ahead = &Ahead::new(next, row..row + left.min(TILE_ROWS), x.m());
        let (factors, excess, sums) = (&factors[row * chunks..], &excess[row..], &mut sums[row * PANEL..]);
        row += match left {
            TILE_ROWS.. => multiply::<TILE_ROWS>(factors, excess, packed, sums, ahead),
            _ => multiply::<1>(factors, excess, packed, sums, ahead),
        };
    }
}

/// Two rows of `x` at a time, so that weights which have been read once are multiplied twice.
#[target_feature(enable = "avx2")]
fn stream(
    x: CodeRows<'_>,
    streams: [&[i8]; STREAMS],
    stride: usize,
    factors: &mut Vec<Factors>,
    excess: &mut Vec<i32>,
    sums: &mut [i32],
) {
    split_rows(x, 0, factors, excess);
    let (k, m, chunks) = (x.k, x.m(), x.k.div_ceil(32));
    let x = |r: usize| &factors[r * chunks..][..chunks];
    let counts = streams.map(|w| w.len() / k);
    let row = |stream: usize, j: usize| &streams[stream][j * k..][..k];
    let mut dots = |w: [&[i8]; 4], places: [usize; 4], count: usize| {
        let mut r = 0;
        while r < m {
            // The weights of a group stay in the first cache for the next rows.
            let mut put = |products: [i32; 4], r: usize| {
                for s in 0..count {
                    sums[places[s] + r * stride] = products[s].wrapping_add(excess[r]);
                }
            };
            if r + 1 < m {
                let [first, second] = dot4([x(r), x(r + 1)], w);
                put(first, r);
                put(second, r + 1);
                r += 2;
            } else {
                let [only] = dot4([x(r)], w);
                put(only, r);
                r += 1;
            }
        }
    };
    let together = counts.into_iter().min().unwrap_or(0);
    let place = |s: usize, j: usize| s * m * stride + j;
    for j in 0..together {
        dots(
            [row(0, j), row(1, j), row(2, j), row(3, j)],
            [place(0, j), place(1, j), place(2, j), place(3, j)],
            4,
        );
    }
    for s in 0..STREAMS {
        for j in together..counts[s] {
            dots([row(s, j); 4], [place(s, j); 4], 1);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot4<const MR: usize>(x: [&[Factors]; MR], w: [&[i8]; 4]) -> [[i32; 4]; MR] {
    let ones = _mm256_set1_epi16(1);
    // Loops, not `map`: a closure is not inlined through code without these instructions.
    let chunks = w[0].len() / 32;
    let mut w_chunks: [&[[i8; 32]]; 4] = [&[]; 4];
    for c in 0..4 {
        w_chunks[c] = &w[c].as_chunks().0[..chunks];
    }
    let mut x_chunks: [&[Factors]; MR] = [&[]; MR];
    for r in 0..MR {
        x_chunks[r] = &x[r][..chunks];
    }
    let mut sums = [[_mm256_setzero_si256(); 4]; MR];
    for i in 0..chunks {
        for c in 0..4 {
            let w = load(&w_chunks[c][i]);
            for r in 0..MR {
                sums[r][c] = _mm256_add_epi32(sums[r][c], dot(&x_chunks[r][i], w, ones));
            }
        }
    }
    if x[0].len() > chunks {
        for c in 0..4 {
            let w = load(&padded(&w[c][chunks * 32..]));
            for r in 0..MR {
                sums[r][c] = _mm256_add_epi32(sums[r][c], dot(&x[r][chunks], w, ones));
            }
        }
    }
    let mut out = [[0; 4]; MR];
    for r in 0..MR {
        out[r] = sum4(sums[r]);
    }
    out
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
fn sum4([a, b, c, d]: [__m256i; 4]) -> [i32; 4] {
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
fn pack(w: [&[i8]; 2], k: usize, packed: &mut [Line]) {
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
fn low(line: &Line) -> &[u8; 32] {
    &line.0.as_chunks().0[0]
}

#[inline(always)]
fn high(line: &Line) -> &[u8; 32] {
    &line.0.as_chunks().0[1]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[i8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_bytes(x: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// Up to 32 codes, then zeros.
#[inline]
fn padded(x: &[i8]) -> [i8; 32] {
    let mut codes = [0; 32];
    codes[..x.len()].copy_from_slice(x);
    codes
}
