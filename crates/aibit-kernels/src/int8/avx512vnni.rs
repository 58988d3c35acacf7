//! AVX-512 VNNI: `vpdpbusd` adds four products of unsigned and signed bytes to each 32-bit lane.
//!
//! Flipping the sign bit of a weight makes it unsigned and adds 128, so `128 · Σx` is subtracted at the
//! end. The running sum may wrap; the difference is exact because the true sum fits (`k <= 131_071`).
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::arch::x86_64::*;

use super::{Ahead, CodeRows, Line, PANEL, Rearranged, groups};
use crate::{
    read::{RUNS, ReadPattern},
    simd::Avx512Vnni,
};

/// Rows of `x` whose accumulators, two vectors each, fit the 32 registers beside the weights.
const TILE_ROWS: usize = 12;

impl Avx512Vnni {
    /// Writes the products with the two parts of a panel to `sums`, `[row of x, PANEL]`, and prefetches
    /// `next`, the panel that is read next. Returns the panel in quads.
    pub(super) fn product<'a>(
        self,
        x: CodeRows<'_>,
        w: [&[i8]; 2],
        next: [&[i8]; 2],
        Rearranged { packed, padded, .. }: &'a mut Rearranged,
        sums: &mut [i32],
    ) -> &'a [Line] {
        if x.k == 0 {
            sums.fill(0);
            return &[];
        }
        // SAFETY: a value of `Self` exists only if `detect` saw these features on this CPU.
        unsafe { product(x, w, next, packed, padded, sums) };
        packed
    }

    /// Writes the products with each of `runs` to `sums`, `[run, row of x, stride]`.
    pub(super) fn stream(
        self,
        x: CodeRows<'_>,
        runs: [&[i8]; RUNS],
        pattern: ReadPattern,
        stride: usize,
        sums: &mut [i32],
    ) {
        if x.k == 0 {
            sums.fill(0);
            return;
        }
        // SAFETY: a value of `Self` exists only if `detect` saw these features on this CPU.
        unsafe { stream(x, runs, pattern, stride, sums) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn product(
    x: CodeRows<'_>,
    w: [&[i8]; 2],
    next: [&[i8]; 2],
    packed: &mut Vec<Line>,
    padded: &mut Vec<i8>,
    sums: &mut [i32],
) {
    let k = x.k;
    let x = x.in_whole_quads(padded);
    let lines = x.k / 4 * 2;
    packed.resize(packed.len().max(lines), Line([0; 64]));
    let packed = &mut packed[..lines];
    pack(w, k, packed);
    let mut row = 0;
    while row < x.m() {
        let left = x.m() - row;
        let ahead = &Ahead::new(next, row..row + left.min(TILE_ROWS), x.m(), x.k.div_ceil(16));
        let sums = &mut sums[row * PANEL..];
        row += match left {
            TILE_ROWS.. => multiply::<TILE_ROWS>(x, row, packed, sums, ahead),
            8.. => multiply::<8>(x, row, packed, sums, ahead),
            4.. => multiply::<4>(x, row, packed, sums, ahead),
            2.. => multiply::<2>(x, row, packed, sums, ahead),
            _ => multiply::<1>(x, row, packed, sums, ahead),
        };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn stream(x: CodeRows<'_>, runs: [&[i8]; RUNS], pattern: ReadPattern, stride: usize, sums: &mut [i32]) {
    let (k, m) = (x.k, x.m());
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
            row += match m - row {
                4.. => dots::<4>(x, row, w, pattern, places, stride, sums),
                // One row and its outliers' digits, most often.
                3 => dots::<3>(x, row, w, pattern, places, stride, sums),
                2.. => dots::<2>(x, row, w, pattern, places, stride, sums),
                _ => dots::<1>(x, row, w, pattern, places, stride, sums),
            };
        }
    }
}

/// `MR` rows of `x` from row `first` on times four rows of weights, whose sums for the first row of `x` go to `places`.
/// Returns `MR`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dots<const MR: usize>(
    x: CodeRows<'_>,
    first: usize,
    w: [&[i8]; 4],
    pattern: ReadPattern,
    places: &[usize],
    stride: usize,
    sums: &mut [i32],
) -> usize {
    let mut rows: [&[i8]; MR] = [&[]; MR];
    for r in 0..MR {
        rows[r] = x.row(first + r);
    }
    let products = dot4(rows, w, pattern.runs, pattern.prefetch);
    for r in 0..MR {
        let correction = x.sum(first + r).wrapping_mul(128);
        for (place, product) in places.iter().zip(products[r]) {
            sums[place + (first + r) * stride] = product.wrapping_sub(correction);
        }
    }
    MR
}

/// The products with four rows of weights, of which `runs` are read side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot4<const MR: usize>(x: [&[i8]; MR], w: [&[i8]; 4], runs: usize, prefetch: usize) -> [[i32; 4]; MR] {
    let mut sums = [[_mm512_setzero_si512(); 4]; MR];
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
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_products<const MR: usize, const RUNS: usize, const FIRST: usize>(
    x: [&[i8]; MR],
    w: [&[i8]; 4],
    prefetch: usize,
    sums: &mut [[__m512i; 4]; MR],
) {
    let flip = _mm512_set1_epi8(i8::MIN);
    // Loops, not `map`: a closure is not inlined through code without these instructions.
    let chunks = x[0].len() / 64;
    let mut x_chunks: [&[[i8; 64]]; MR] = [&[]; MR];
    let mut w_chunks: [&[[i8; 64]]; RUNS] = [&[]; RUNS];
    for r in 0..MR {
        x_chunks[r] = &x[r].as_chunks().0[..chunks];
    }
    for c in 0..RUNS {
        w_chunks[c] = &w[FIRST + c].as_chunks().0[..chunks];
    }
    for i in 0..chunks {
        for c in 0..RUNS {
            if prefetch > 0 {
                _mm_prefetch::<_MM_HINT_T0>(w_chunks[c][i].as_ptr().wrapping_add(prefetch));
            }
            let w = _mm512_xor_si512(load(&w_chunks[c][i]), flip);
            for r in 0..MR {
                sums[r][FIRST + c] = _mm512_dpbusd_epi32(sums[r][FIRST + c], w, load(&x_chunks[r][i]));
            }
        }
    }
    if !x[0].len().is_multiple_of(64) {
        for c in 0..RUNS {
            let w = _mm512_xor_si512(load_part(&w[FIRST + c][chunks * 64..]), flip);
            for r in 0..MR {
                let x = load_part(&x[r][chunks * 64..]);
                sums[r][FIRST + c] = _mm512_dpbusd_epi32(sums[r][FIRST + c], w, x);
            }
        }
    }
}

/// The sum of the lanes of each of four vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum4([a, b, c, d]: [__m512i; 4]) -> [i32; 4] {
    let ab = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
    let cd = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
    let four = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xDD>(ab, cd));
    let two = _mm512_add_epi32(four, _mm512_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm512_add_epi32(two, _mm512_shuffle_epi32::<0b10_11_00_01>(two));
    let gather = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    let sums = _mm512_castsi512_si128(_mm512_permutexvar_epi32(gather, one));
    let mut out = [0; 4];
    // SAFETY: sixteen writable bytes; `storeu` needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
    out
}

/// Rearranges up to sixteen rows from each part of `w` so that line `2q + h` holds the inputs `4q..4q + 4` of the rows
/// of part `h`, sign bits flipped. Missing rows and inputs become zeros before the flip.
#[target_feature(enable = "avx512f,avx512bw")]
fn pack(w: [&[i8]; 2], k: usize, packed: &mut [Line]) {
    let flip = _mm512_set1_epi8(i8::MIN);
    for (half, w) in w.into_iter().enumerate() {
        let present = w.len() / k;
        let mut whole: [&[[i8; 64]]; 16] = [&[]; 16];
        let mut rest: [&[i8]; 16] = [&[]; 16];
        for r in 0..present {
            (whole[r], rest[r]) = w[r * k..][..k].as_chunks();
        }
        let mut store = |chunk: usize, rows: [__m512i; 16]| {
            let quads = transpose(rows);
            let to = packed[32 * chunk + half..].iter_mut().step_by(2);
            for (line, quad) in to.zip(quads) {
                // SAFETY: 64 writable bytes; `storeu` needs no alignment.
                unsafe { _mm512_storeu_si512(line.0.as_mut_ptr().cast(), quad) };
            }
        };
        let chunks = k / 64;
        if present == 16 {
            for r in 0..16 {
                whole[r] = &whole[r][..chunks];
            }
            for chunk in 0..chunks {
                let mut rows = [flip; 16];
                for r in 0..16 {
                    rows[r] = _mm512_xor_si512(load(&whole[r][chunk]), flip);
                    _mm_prefetch::<_MM_HINT_T0>(whole[r].as_ptr().wrapping_add(chunk + 2).cast());
                }
                store(chunk, rows);
            }
        } else {
            for chunk in 0..chunks {
                let mut rows = [flip; 16];
                for r in 0..present {
                    rows[r] = _mm512_xor_si512(load(&whole[r][chunk]), flip);
                }
                store(chunk, rows);
            }
        }
        if !k.is_multiple_of(64) {
            let mut rows = [flip; 16];
            for r in 0..present {
                rows[r] = _mm512_xor_si512(load_part(rest[r]), flip);
            }
            store(chunks, rows);
        }
    }
}

/// Transposes a 16 by 16 matrix of 32-bit values.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // 128-bit lane `l` of `fours[i + c]` is column `4l + c` of the rows `i..i + 4`.
    let mut fours = pairs;
    for i in (0..16).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut columns = fours;
    for c in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0x88>(fours[c], fours[4 + c]);
        let odd_low = _mm512_shuffle_i32x4::<0xDD>(fours[c], fours[4 + c]);
        let even_high = _mm512_shuffle_i32x4::<0x88>(fours[8 + c], fours[12 + c]);
        let odd_high = _mm512_shuffle_i32x4::<0xDD>(fours[8 + c], fours[12 + c]);
        columns[c] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        columns[8 + c] = _mm512_shuffle_i32x4::<0xDD>(even_low, even_high);
        columns[12 + c] = _mm512_shuffle_i32x4::<0xDD>(odd_low, odd_high);
    }
    columns
}

/// `MR` rows of `x` from row `first` on times the 32 packed rows of weights. Returns `MR`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply<const MR: usize>(
    x: CodeRows<'_>,
    first: usize,
    packed: &[Line],
    sums: &mut [i32],
    ahead: &Ahead<'_>,
) -> usize {
    let (lines, _) = packed.as_chunks::<2>();
    let mut x_quads: [&[[i8; 4]]; MR] = [&[]; MR];
    for r in 0..MR {
        x_quads[r] = &x.row(first + r).as_chunks().0[..lines.len()];
    }
    let mut acc = [[_mm512_setzero_si512(); 2]; MR];
    for (q, line) in lines.iter().enumerate() {
        if q % 4 == 0 {
            ahead.prefetch(q / 4);
        }
        let (low, high) = (load_line(&line[0]), load_line(&line[1]));
        for r in 0..MR {
            let x = _mm512_set1_epi32(quad(x_quads[r][q]));
            acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], low, x);
            acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], high, x);
        }
    }
    for r in 0..MR {
        let correction = _mm512_set1_epi32(x.sum(first + r).wrapping_mul(128));
        let (to, _) = sums[r * PANEL..][..PANEL].as_chunks_mut::<16>();
        for (to, acc) in to.iter_mut().zip(acc[r]) {
            // SAFETY: sixteen writable `i32`; `storeu` needs no alignment.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_sub_epi32(acc, correction)) };
        }
    }
    MR
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[i8; 64]) -> __m512i {
    // SAFETY: 64 readable bytes; `loadu` needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_line(line: &Line) -> __m512i {
    // SAFETY: 64 readable bytes; `loadu` needs no alignment.
    unsafe { _mm512_loadu_si512(line.0.as_ptr().cast()) }
}

/// Up to 64 bytes, then zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_part(x: &[i8]) -> __m512i {
    assert!(x.len() <= 64, "{} bytes do not fit a vector of 64", x.len());
    let mask = if x.len() == 64 { u64::MAX } else { (1 << x.len()) - 1 };
    // SAFETY: the mask lets exactly the bytes of `x` be read.
    unsafe { _mm512_maskz_loadu_epi8(mask, x.as_ptr()) }
}

#[inline(always)]
fn quad(x: [i8; 4]) -> i32 {
    i32::from_ne_bytes(x.map(|byte| byte as u8))
}
