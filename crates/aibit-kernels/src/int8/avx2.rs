//! AVX2: widen to i16, multiply-add pairs into i32. Exact for all inputs.
//!
//! `vpmaddubsw` would take bytes directly but saturates its sums of two at i16.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::arch::x86_64::*;

use super::{CodeRows, FEW_ROWS, Line, PANEL, Rearranged};
use crate::simd::Avx2;

/// Outputs computed together: two vectors of sums.
const COLUMNS: usize = 16;

/// Rows of `x` whose accumulators, two vectors each, fit the 16 registers beside the weights.
const TILE_ROWS: usize = 5;

impl Avx2 {
    /// Writes `x[m, k] · w[n, k]ᵀ` to `sums`, whose rows are `stride` apart.
    pub(super) fn product(
        self,
        x: CodeRows<'_>,
        w: &[i8],
        stride: usize,
        Rearranged { packed, wide }: &mut Rearranged,
        sums: &mut [i32],
    ) {
        if x.k == 0 {
            sums.fill(0);
            return;
        }
        // SAFETY: a value of `Self` exists only if `detect` saw AVX2 on this CPU.
        unsafe { product(x, w, stride, packed, wide, sums) }
    }
}

#[target_feature(enable = "avx2")]
fn product(
    x: CodeRows<'_>,
    w: &[i8],
    stride: usize,
    packed: &mut Vec<Line>,
    wide: &mut Vec<i16>,
    sums: &mut [i32],
) {
    let k = x.k;
    // Zeros fill each row up to whole vectors.
    let wide_k = k.next_multiple_of(16);
    wide.clear();
    for i in 0..x.m() {
        wide.extend(x.row(i).iter().map(|code| i16::from(*code)));
        wide.resize((i + 1) * wide_k, 0);
    }
    if x.m() <= FEW_ROWS {
        for i in 0..x.m() {
            dots(&wide[i * wide_k..][..wide_k], k, w, &mut sums[i * stride..][..stride]);
        }
        return;
    }
    // One line per pair of inputs: a 32-bit lane for each of sixteen outputs.
    let lines = wide_k / 2;
    packed.resize(packed.len().max(lines), Line([0; 64]));
    debug_assert_eq!(PANEL % COLUMNS, 0);
    for (panel, w) in w.chunks(COLUMNS * k).enumerate() {
        pack(w, k, &mut packed[..lines]);
        let mut row = 0;
        while row < x.m() {
            let left = x.m() - row;
            let (x, sums) = (&wide[row * wide_k..], &mut sums[row * stride + panel * COLUMNS..]);
            row += match left {
                TILE_ROWS.. => multiply::<TILE_ROWS>(x, &packed[..lines], stride, sums),
                2.. => multiply::<2>(x, &packed[..lines], stride, sums),
                _ => multiply::<1>(x, &packed[..lines], stride, sums),
            };
        }
    }
}

/// One widened row of `x` times each row of `w`, four at a time.
#[target_feature(enable = "avx2")]
fn dots(x: &[i16], k: usize, w: &[i8], sums: &mut [i32]) {
    let mut rows = w.chunks_exact(4 * k);
    let mut at = 0;
    for w in rows.by_ref() {
        let (ab, cd) = w.split_at(2 * k);
        let ((a, b), (c, d)) = (ab.split_at(k), cd.split_at(k));
        sums[at..at + 4].copy_from_slice(&dot4(x, [a, b, c, d]));
        at += 4;
    }
    for w in rows.remainder().chunks_exact(k) {
        sums[at] = dot4(x, [w; 4])[0];
        at += 1;
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot4(x: &[i16], w: [&[i8]; 4]) -> [i32; 4] {
    let (x, _) = x.as_chunks::<16>();
    let chunks = w[0].len() / 16;
    let w0 = &w[0].as_chunks::<16>().0[..chunks];
    let w1 = &w[1].as_chunks::<16>().0[..chunks];
    let w2 = &w[2].as_chunks::<16>().0[..chunks];
    let w3 = &w[3].as_chunks::<16>().0[..chunks];
    let x_chunks = &x[..chunks];
    let mut sums = [_mm256_setzero_si256(); 4];
    for i in 0..chunks {
        let x = load(&x_chunks[i]);
        sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(widen(&w0[i]), x));
        sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(widen(&w1[i]), x));
        sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(widen(&w2[i]), x));
        sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(widen(&w3[i]), x));
    }
    if let Some(x) = x.get(chunks) {
        let x = load(x);
        for r in 0..4 {
            let w = widen(&padded(&w[r][chunks * 16..]));
            sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(w, x));
        }
    }
    let [a, b, c, d] = sums;
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
fn multiply<const MR: usize>(x: &[i16], packed: &[Line], stride: usize, sums: &mut [i32]) -> usize {
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
        let (to, _) = sums[r * stride..][..COLUMNS].as_chunks_mut::<8>();
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
fn load_bytes(x: &[i8; 32]) -> __m256i {
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
