//! Scores of several queries on AVX2, whose products of words cost less than three products of bytes.
//!
//! With `q = 128 · query_high + query_low` and `k = 4 · key_high + key_low`, `Σ q · k - Σ query_low · key_low` is four
//! times `N = 128 · Σ query_high · key_high + 32 · Σ query_high · key_low + Σ query_low · key_high`. Up to 256 elements all
//! but the last sum of `p` in [`attention`](crate::attention) is exact, so `p` is `N` rounded once: the same bits.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::arch::x86_64::*;

use super::{Group, Scratch, quantize_x2};
use crate::simd::{Avx2, Simd};

/// The largest `head_dim` for which four times `N` fits an `i32`, and sums of products of low bits an `i16`.
pub(super) const MAX_HEAD_DIM: usize = 256;

/// What a key's word is above its code: sign bits of the bytes are flipped, and low bits have 2 added.
const OFFSET: i32 = 4 * 128 + 2;

/// Four elements of a query.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QueryQuad {
    /// Of the first and the third: `q`.
    even: [i16; 2],
    /// Of the second and the fourth.
    odd: [i16; 2],
    low: [i8; 4],
}

/// Four elements of sixteen keys, in halves of eight.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct KeyQuad {
    /// Of each key the first and the third element: `k + OFFSET`.
    even: [[i16; 16]; 2],
    /// The second and the fourth.
    odd: [[i16; 16]; 2],
    /// `key_low + 2` of all four.
    low: [[u8; 32]; 2],
}

/// Writes the scaled scores of each row against whole blocks of positions.
pub(super) fn scores(simd: Avx2, group: Group<'_>, scratch: &mut Scratch) {
    // SAFETY: a value of `Avx2` exists only if `detect` saw these features on this CPU.
    unsafe { scores_of(simd, group, scratch) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores_of(simd: Avx2, group: Group<'_>, scratch: &mut Scratch) {
    let Scratch { codes, query_words, key_words, scores, .. } = scratch;
    let (quads, blocks) = (group.kv.lines.quads, group.blocks());
    codes.resize(codes.len().max(8 * quads), 0);
    let (high, low) = codes[..8 * quads].split_at_mut(4 * quads);
    query_words.clear();
    let mut rows = [Row::default(); super::GROUP];
    for (r, row) in rows[..group.count].iter_mut().enumerate() {
        let query = quantize_x2(simd, group.query(r), high, low);
        let [high_sum, low_sum] = query.sums;
        let start = (128 * high_sum + low_sum).wrapping_mul(-OFFSET).wrapping_add(2 * low_sum);
        *row = Row { start, scale: query.scale };
        for (high, low) in high.as_chunks::<4>().0.iter().zip(low.as_chunks::<4>().0) {
            let q = |i: usize| 128 * i16::from(high[i]) + i16::from(low[i]);
            query_words.push(QueryQuad { even: [q(0), q(2)], odd: [q(1), q(3)], low: *low });
        }
    }
    let empty = KeyQuad { even: [[0; 16]; 2], odd: [[0; 16]; 2], low: [[0; 32]; 2] };
    key_words.resize(quads, empty);
    for block in 0..blocks {
        unpack(group.kv.keys(block), key_words);
        let key_scales = simd.load(group.kv.key_scales(block));
        let mut r = 0;
        while r < group.count {
            let queries = &query_words[r * quads..];
            let count = if group.count - r >= 2 {
                let products = multiply::<2>(queries, key_words, &rows[r..]);
                store(simd, group, &rows[r..], products, key_scales, &mut scores[r * blocks + block..])
            } else {
                let products = multiply::<1>(queries, key_words, &rows[r..]);
                store(simd, group, &rows[r..], products, key_scales, &mut scores[r * blocks + block..])
            };
            r += count;
        }
    }
}

/// What is added to all of a query's products, and its scale.
#[derive(Clone, Copy, Default)]
struct Row {
    start: i32,
    scale: f32,
}

/// Writes the scores of `MR` rows for one block, each a row of blocks after the one before; returns `MR`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store<const MR: usize>(
    simd: Avx2,
    group: Group<'_>,
    rows: &[Row],
    products: [[__m256i; 2]; MR],
    key_scales: [__m256; 2],
    scores: &mut [[f32; super::BLOCK]],
) -> usize {
    let scale = simd.splat(group.kv.shape.scale);
    for r in 0..MR {
        let product = simd.mul(simd.to_f32(products[r]), simd.splat(0.25));
        let steps = simd.mul(simd.splat(rows[r].scale), key_scales);
        simd.store(simd.mul(simd.mul(product, steps), scale), &mut scores[r * group.blocks()]);
    }
    MR
}

/// Makes words of a block's keys.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack(keys: &[[u8; 64]], words: &mut [KeyQuad]) {
    let (high_lines, low_lines) = keys.split_at(words.len());
    let (byte, two_bits) = (_mm256_set1_epi16(0xFF), _mm256_set1_epi8(3));
    for (g, words) in words.chunks_mut(4).enumerate() {
        for (j, word) in words.iter_mut().enumerate() {
            let shift = _mm_cvtsi32_si128(2 * j as i32);
            for half in 0..2 {
                let high = load(&high_lines[4 * g + j].as_chunks().0[half]);
                let low = load(&low_lines[g].as_chunks().0[half]);
                let low = _mm256_and_si256(_mm256_srl_epi16(low, shift), two_bits);
                let even = _mm256_slli_epi16::<2>(_mm256_and_si256(high, byte));
                let odd = _mm256_slli_epi16::<2>(_mm256_srli_epi16::<8>(high));
                let even = _mm256_or_si256(even, _mm256_and_si256(low, byte));
                let odd = _mm256_or_si256(odd, _mm256_srli_epi16::<8>(low));
                // SAFETY: 32 writable bytes each; `storeu` needs no alignment.
                unsafe {
                    _mm256_storeu_si256(word.even[half].as_mut_ptr().cast(), even);
                    _mm256_storeu_si256(word.odd[half].as_mut_ptr().cast(), odd);
                    _mm256_storeu_si256(word.low[half].as_mut_ptr().cast(), low);
                }
            }
        }
    }
}

/// Four times `N` of `MR` queries and sixteen keys.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply<const MR: usize>(queries: &[QueryQuad], keys: &[KeyQuad], rows: &[Row]) -> [[__m256i; 2]; MR] {
    let quads = keys.len();
    let mut sums = [[_mm256_setzero_si256(); 2]; MR];
    let mut low_sums = [[_mm256_setzero_si256(); 2]; MR];
    let mut row_queries: [&[QueryQuad]; MR] = [&[]; MR];
    for r in 0..MR {
        row_queries[r] = &queries[r * quads..][..quads];
    }
    for (q, key) in keys.iter().enumerate() {
        for half in 0..2 {
            let (even, odd) = (load_words(&key.even[half]), load_words(&key.odd[half]));
            let low = load(&key.low[half]);
            for r in 0..MR {
                let query = &row_queries[r][q];
                let product = _mm256_add_epi32(
                    _mm256_madd_epi16(even, broadcast_words(query.even)),
                    _mm256_madd_epi16(odd, broadcast_words(query.odd)),
                );
                sums[r][half] = _mm256_add_epi32(sums[r][half], product);
                let product = _mm256_maddubs_epi16(low, broadcast_bytes(query.low));
                low_sums[r][half] = _mm256_add_epi16(low_sums[r][half], product);
            }
        }
    }
    let ones = _mm256_set1_epi16(1);
    for r in 0..MR {
        let start = _mm256_set1_epi32(rows[r].start);
        for half in 0..2 {
            let low = _mm256_madd_epi16(low_sums[r][half], ones);
            sums[r][half] = _mm256_add_epi32(_mm256_sub_epi32(sums[r][half], low), start);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_words(words: &[i16; 16]) -> __m256i {
    // SAFETY: 32 readable bytes; `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast_words([a, b]: [i16; 2]) -> __m256i {
    _mm256_set1_epi32(i32::from(a) & 0xFFFF | i32::from(b) << 16)
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast_bytes(bytes: [i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(bytes.map(|byte| byte as u8)))
}
