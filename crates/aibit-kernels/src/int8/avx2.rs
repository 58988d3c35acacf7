//! AVX2: widen to i16, multiply-add pairs into i32. Exact for all inputs.
//!
//! `vpmaddubsw` would take bytes directly but saturates its sums of two at i16.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::arch::x86_64::*;

use super::{CodeRows, Line, PANEL, Rearranged};
use crate::{simd::Avx2, tiles::STREAMS};

/// Outputs computed together: two vectors of sums.
const COLUMNS: usize = 16;

/// Rows of `x` whose accumulators, two vectors each, fit the 16 registers beside the weights.
const TILE_ROWS: usize = 5;

impl Avx2 {
    /// Writes the products with the two parts of a panel to `sums`, `[row of x, PANEL]`.
    pub(super) fn product(
        self,
        x: CodeRows<'_>,
        w: [&[i8]; 2],
        Rearranged { packed, wide, .. }: &mut Rearranged,
        sums: &mut [i32],
    ) {
        if x.k == 0 {
            sums.fill(0);
            return;
        }
        // SAFETY: a value of `Self` exists only if `detect` saw AVX2 on this CPU.
        unsafe { product(x, w, packed, wide, sums) }
    }

    /// Writes the products with each of `streams` to `sums`, `[stream, row of x, stride]`.
    pub(super) fn stream(
        self,
        x: CodeRows<'_>,
        streams: [&[i8]; STREAMS],
        stride: usize,
        Rearranged { wide, .. }: &mut Rearranged,
        sums: &mut [i32],
    ) {
        if x.k == 0 {
            sums.fill(0);
            return;
        }
        // SAFETY: a value of `Self` exists only if `detect` saw AVX2 on this CPU.
        unsafe { stream(x, streams, stride, wide, sums) }
    }
}

/// Widens the rows of `x`; zeros fill each up to whole vectors, `wide_k` elements. Returns `wide_k`.
fn widen_rows(x: CodeRows<'_>, wide: &mut Vec<i16>) -> usize {
    let wide_k = x.k.next_multiple_of(16);
    wide.clear();
    for i in 0..x.m() {
        wide.extend(x.row(i).iter().map(|code| i16::from(*code)));
        wide.resize((i + 1) * wide_k, 0);
    }
    wide_k
}

#[target_feature(enable = "avx2")]
fn product(x: CodeRows<'_>, w: [&[i8]; 2], packed: &mut Vec<Line>, wide: &mut Vec<i16>, sums: &mut [i32]) {
    let k = x.k;
    let wide_k = widen_rows(x, wide);
    // One line per pair of inputs: a 32-bit lane for each of sixteen outputs.
    let lines = wide_k / 2;
    packed.resize(packed.len().max(lines), Line([0; 64]));
    debug_assert_eq!(PANEL, 2 * COLUMNS);
    for (part, w) in w.into_iter().enumerate() {
        pack(w, k, &mut packed[..lines]);
        let mut row = 0;
        while row < x.m() {
            let left = x.m() - row;
            let (x, sums) = (&wide[row * wide_k..], &mut sums[row * PANEL + part * COLUMNS..]);
            row += match left {
                TILE_ROWS.. => multiply::<TILE_ROWS>(x, &packed[..lines], sums),
                2.. => multiply::<2>(x, &packed[..lines], sums),
                _ => multiply::<1>(x, &packed[..lines], sums),
            };
        }
    }
}

/// Two rows of `x` at a time, so that weights which have been read and widened once are multiplied twice.
#[target_feature(enable = "avx2")]
fn stream(x: CodeRows<'_>, streams: [&[i8]; STREAMS], stride: usize, wide: &mut Vec<i16>, sums: &mut [i32]) {
    let wide_k = widen_rows(x, wide);
    let (k, m) = (x.k, x.m());
    let mut row = 0;
    while row < m {
        let x = &wide[row * wide_k..];
        row += match m - row {
            2.. => dots(
                [&x[..wide_k], &x[wide_k..][..wide_k]],
                k,
                streams,
                stride,
                m * stride,
                &mut sums[row * stride..],
            ),
            _ => dots([&x[..wide_k]], k, streams, stride, m * stride, &mut sums[row * stride..]),
        };
    }
}

/// `MR` widened rows of `x` times the weights of all streams side by side; a stream's sums begin `next` after those of
/// the one before. Returns `MR`.
#[target_feature(enable = "avx2")]
fn dots<const MR: usize>(
    x: [&[i16]; MR],
    k: usize,
    streams: [&[i8]; STREAMS],
    stride: usize,
    next: usize,
    sums: &mut [i32],
) -> usize {
    let counts = streams.map(|w| w.len() / k);
    let row = |stream: usize, j: usize| &streams[stream][j * k..][..k];
    let together = counts.into_iter().min().unwrap_or(0);
    for j in 0..together {
        let products = dot4(x, [row(0, j), row(1, j), row(2, j), row(3, j)]);
        for r in 0..MR {
            for s in 0..STREAMS {
                sums[s * next + r * stride + j] = products[r][s];
            }
        }
    }
    for s in 0..STREAMS {
        for j in together..counts[s] {
            let products = dot4(x, [row(s, j); 4]);
            for r in 0..MR {
                sums[s * next + r * stride + j] = products[r][0];
            }
        }
    }
    MR
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot4<const MR: usize>(x: [&[i16]; MR], w: [&[i8]; 4]) -> [[i32; 4]; MR] {
    let chunks = w[0].len() / 16;
    // Loops, not `map`: a closure is not inlined through code without these instructions.
    let mut x_chunks: [&[[i16; 16]]; MR] = [&[]; MR];
    let mut w_chunks: [&[[i8; 16]]; 4] = [&[]; 4];
    for r in 0..MR {
        x_chunks[r] = x[r].as_chunks().0;
    }
    for c in 0..4 {
        w_chunks[c] = &w[c].as_chunks().0[..chunks];
    }
    let mut sums = [[_mm256_setzero_si256(); 4]; MR];
    for i in 0..chunks {
        for c in 0..4 {
            let w = widen(&w_chunks[c][i]);
            for r in 0..MR {
                sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(w, load(&x_chunks[r][i])));
            }
        }
    }
    if x_chunks[0].len() > chunks {
        for c in 0..4 {
            let w = widen(&padded(&w[c][chunks * 16..]));
            for r in 0..MR {
                sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(w, load(&x_chunks[r][chunks])));
            }
        }
    }
    let mut out = [[0; 4]; MR];
    for r in 0..MR {
        out[r] = sum4(sums[r]);
    }
    out
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

/// Widens up to 16 rows of `w` and rearranges them so that line `p` holds the inputs `2p, 2p + 1` of
/// each row. Missing rows and inputs become zeros.
#[target_feature(enable = "avx2")]
fn pack(w: &[i8], k: usize, packed: &mut [Line]) {
    let n = w.len() / k;
    for half in 0..2 {
        for start in (0..k).step_by(16) {
            let length = (k - start).min(16);
            let mut rows = [_mm256_setzero_si256(); 8];
            for (r, row) in rows.iter_mut().enumerate().take(n.saturating_sub(8 * half)) {
                *row = widen(&padded(&w[(8 * half + r) * k + start..][..length]));
            }
            for (line, pair) in packed[start / 2..].iter_mut().zip(transpose(rows)) {
                let to = &mut line.0.as_chunks_mut::<32>().0[half];
                // SAFETY: 32 writable bytes; `storeu` needs no alignment.
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), pair) };
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

/// `MR` widened rows of `x` times the 16 packed rows of weights. Returns `MR`.
#[target_feature(enable = "avx2")]
fn multiply<const MR: usize>(x: &[i16], packed: &[Line], sums: &mut [i32]) -> usize {
    let pairs = packed.len();
    let mut x_pairs: [&[[i16; 2]]; MR] = [&[]; MR];
    for r in 0..MR {
        x_pairs[r] = &x[r * pairs * 2..].as_chunks::<2>().0[..pairs];
    }
    let mut acc = [[_mm256_setzero_si256(); 2]; MR];
    for (p, line) in packed.iter().enumerate() {
        let (halves, _) = line.0.as_chunks::<32>();
        let (low, high) = (load_bytes(&halves[0]), load_bytes(&halves[1]));
        for r in 0..MR {
            let [even, odd] = x_pairs[r][p];
            let x = _mm256_set1_epi32(i32::from(even as u16) | i32::from(odd) << 16);
            acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(low, x));
            acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(high, x));
        }
    }
    for r in 0..MR {
        let (to, _) = sums[r * PANEL..][..COLUMNS].as_chunks_mut::<8>();
        for (to, acc) in to.iter_mut().zip(acc[r]) {
            // SAFETY: eight writable `i32`; `storeu` needs no alignment.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), acc) };
        }
    }
    MR
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[i16; 16]) -> __m256i {
    // SAFETY: 32 readable bytes; `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_bytes(x: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen(x: &[i8; 16]) -> __m256i {
    // SAFETY: 16 readable bytes; `loadu` needs no alignment.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
}

/// Up to sixteen codes, then zeros.
#[inline]
fn padded(x: &[i8]) -> [i8; 16] {
    let mut codes = [0; 16];
    codes[..x.len()].copy_from_slice(x);
    codes
}
