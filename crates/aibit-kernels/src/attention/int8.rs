//! Causal attention over a KV cache in INT8: a byte for each element of a value, ten bits for each of a key.
//!
//! An error of a value is averaged over what a row attends to; one of a key goes through the exponential. So keys have
//! two bits more, which cost a quarter of a byte and one product in three.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use super::AttentionShape;
use crate::{
    epilogue::store,
    int8::{ByteAlone, Steps, TwoBytesAlone},
    isa::{Isa, dispatch},
    math::{ROUND, exp},
    simd::{Factors, LANES, Simd},
    team,
    tiles::{Tile, for_each_tile},
};

/// Multiplications in a call below which one thread is faster than two.
const PARALLEL: usize = 128 * 1024;

/// Elements of keys in a call from which heads are stored in parallel.
const STORE_PARALLEL: usize = 16 * 1024;

/// Rows of queries in a tile; what the last level of cache holds of a head's keys and values serves all of them.
const ROW_BLOCK: usize = 32;

/// Rows of queries whose scores are kept at a time.
const GROUP: usize = 8;

/// Positions whose keys lie together.
const BLOCK: usize = LANES;

/// The largest `head_dim` for which `head_dim · 127 · 127` fits an `i32` together with what flipping signs adds.
const MAX_HEAD_DIM: usize = 65_535;

/// What a key's absmax is divided into: `high + low / 4`.
const KEY_STEPS: f32 = 127.0 * 4.0;

/// What the absmax of a query, or of a row of weights, is divided into: two bytes, `128 · high + low`.
const STEPS_X2: f32 = 127.0 * 128.0;

/// Positions whose values lie together.
const QUAD: usize = 4;

/// The largest number of positions for which `positions · 127 · 127` fits an `i32`.
const MAX_POSITIONS: usize = 131_072;

/// The keys and values of one layer as codes, with scales for each head and position.
///
/// A value is `x ≈ scale · code`, a key `x ≈ scale · (high + low / 4)`, `code` and `high` in `-127..=127` and `low` in
/// `-2..=1`. What a place that was never stored to holds does not matter.
#[derive(Debug)]
pub struct Int8Kv<'a> {
    /// [`AttentionShape::int8_keys_len`] bytes, `[n_kv_head, capacity / 16, lines, 16, 4]`, quotients here rounded up.
    /// Sixteen positions lie together, and of each of them four elements, so that one `vpdpbusd` multiplies sixteen
    /// keys with four elements of a query. Of the lines of a block the first `head_dim / 4` hold `high` with its sign
    /// bit flipped (`high + 128`), four elements each; the other `head_dim / 16` hold `low + 2` in two bits, line `g`
    /// those of the lines `4g..4g + 4`, the first in the lowest bits.
    pub keys: &'a mut [u8],
    /// [`AttentionShape::int8_values_len`] bytes, `[n_kv_head, capacity / 4, head_dim / 16, 16, 4]`, the capacity rounded
    /// up to a multiple of 16 and the other quotient rounded up: codes with their sign bits flipped. Four positions lie
    /// together, so that one `vpdpbusd` multiplies sixteen elements of each with a weight.
    pub values: &'a mut [u8],
    /// [`AttentionShape::int8_scales_len`] scales of keys, `[n_kv_head, capacity]` with the capacity rounded up to a
    /// multiple of 16.
    pub key_scales: &'a mut [f32],
    /// As many scales of values.
    pub value_scales: &'a mut [f32],
}

impl AttentionShape {
    /// The number of bytes of a layer's keys in [`Int8Kv`].
    pub fn int8_keys_len(&self) -> usize {
        self.n_kv_head * self.blocks() * self.lines() * 4 * BLOCK
    }

    /// The number of bytes of a layer's values in [`Int8Kv`].
    pub fn int8_values_len(&self) -> usize {
        self.n_kv_head * self.value_lines() * 4 * LANES
    }

    /// The number of scales of a layer's keys, and of its values, in [`Int8Kv`].
    pub fn int8_scales_len(&self) -> usize {
        self.n_kv_head * self.blocks() * BLOCK
    }

    fn blocks(&self) -> usize {
        self.capacity.div_ceil(BLOCK)
    }

    fn quads(&self) -> usize {
        self.head_dim.div_ceil(4)
    }

    /// Lines of a block of keys.
    fn lines(&self) -> usize {
        self.quads() + self.quads().div_ceil(4)
    }

    /// Lines of four positions and sixteen elements that a head's values fill.
    fn value_lines(&self) -> usize {
        self.blocks() * (BLOCK / QUAD) * self.head_dim.div_ceil(LANES)
    }

    fn check_int8(&self, cache: &Int8Kv<'_>) {
        assert!(
            self.head_dim <= MAX_HEAD_DIM,
            "attention: head_dim {} is above {MAX_HEAD_DIM}, where i32 sums could overflow",
            self.head_dim
        );
        assert!(
            self.capacity <= MAX_POSITIONS,
            "attention: {} positions are above {MAX_POSITIONS}, where i32 sums could overflow",
            self.capacity
        );
        let scales = self.int8_scales_len();
        assert_eq!(cache.keys.len(), self.int8_keys_len(), "attention: bytes of keys, of the cache");
        assert_eq!(cache.values.len(), self.int8_values_len(), "attention: bytes of values, of the cache");
        assert_eq!(cache.key_scales.len(), scales, "attention: scales of keys, of the cache");
        assert_eq!(cache.value_scales.len(), scales, "attention: scales of values, of the cache");
    }
}

/// Quantizes the keys and values of `qkv[m, (n_head + 2 n_kv_head) · head_dim]` to the positions `past..past + m` of
/// the cache.
///
/// Each key and each value of a head is quantized on its own: a value as a row of
/// [`quantize_rows`](crate::quantize_rows) with `Int8` and no outliers is, a key so that
/// `q = round_half_even(fl(x · fl(508 / absmax)))`, `high = floor((q + 2) / 4)`, `low = q - 4 · high`, with
/// `scale = fl(absmax / 127)`; what holds for zeros, NaN and infinities there holds here.
///
/// # Panics
/// If a length does not match `shape`, `past + m` exceeds the capacity, `head_dim` exceeds 65 535 or the capacity
/// 131 072.
pub fn store_kv_int8(
    isa: Isa,
    shape: &AttentionShape,
    qkv: &[f32],
    m: usize,
    past: usize,
    cache: &mut Int8Kv<'_>,
) {
    shape.check(qkv, m, past);
    shape.check_int8(cache);
    let scales = shape.blocks() * BLOCK;
    let heads = cache
        .keys
        .chunks_mut(shape.blocks() * shape.lines() * 4 * BLOCK)
        .zip(cache.values.chunks_mut(shape.value_lines() * 4 * LANES))
        .zip(cache.key_scales.chunks_mut(scales).zip(cache.value_scales.chunks_mut(scales)))
        .map(|((keys, values), (key_scales, value_scales))| Int8Kv { keys, values, key_scales, value_scales })
        .enumerate();
    let run = |head: usize, mut cache: Int8Kv<'_>| {
        SCRATCH.with_borrow_mut(|Scratch { codes, rests, .. }| {
            let cache = &mut cache;
            dispatch!(isa => store_head(
                shape: &AttentionShape, head: usize, qkv: &[f32], past: usize, codes: &mut Vec<i8>,
                rests: &mut Vec<u8>, cache: &mut Int8Kv<'_>,
            ));
        });
    };
    if m * shape.n_kv_head * shape.head_dim >= STORE_PARALLEL {
        let heads: Vec<_> = heads.map(|head| Mutex::new(Some(head))).collect();
        team::for_each(heads.len(), &|index| {
            let head = heads[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            let (head, cache) = head.expect("each piece is taken once");
            run(head, cache);
        });
    } else {
        heads.for_each(|(head, cache)| run(head, cache));
    }
}

/// Stores the keys and values of one head to its part of the cache.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a head of a batch at a position, buffers and a cache")]
fn store_head<S: Simd>(
    simd: S,
    shape: &AttentionShape,
    head: usize,
    qkv: &[f32],
    past: usize,
    codes: &mut Vec<i8>,
    rests: &mut Vec<u8>,
    cache: &mut Int8Kv<'_>,
) {
    let (d, quads) = (shape.head_dim, shape.quads());
    codes.resize(codes.len().max(4 * quads + d), 0);
    let (high, value_codes) = codes[..4 * quads + d].split_at_mut(4 * quads);
    rests.resize(rests.len().max(16 * quads.div_ceil(4)), 0);
    let low = &mut rests[..16 * quads.div_ceil(4)];
    for (i, row) in qkv.chunks_exact(shape.qkv_width()).enumerate() {
        let position = past + i;
        let key = &row[(shape.n_head + head) * d..][..d];
        let value = &row[(shape.n_head + shape.n_kv_head + head) * d..][..d];
        cache.key_scales[position] = quantize_key(key, high, low);
        let first = position / BLOCK * shape.lines();
        let lines = &mut cache.keys.as_chunks_mut::<{ 4 * BLOCK }>().0[first..][..shape.lines()];
        let (high_lines, low_lines) = lines.split_at_mut(quads);
        let at = position % BLOCK * 4;
        for (line, quad) in high_lines.iter_mut().zip(high.as_chunks::<4>().0) {
            line[at..at + 4].copy_from_slice(&quad.map(|code| (code as u8) ^ 0x80));
        }
        for (line, quads) in low_lines.iter_mut().zip(low.as_chunks::<4>().0.as_chunks::<4>().0) {
            let [a, b, c, d] = quads.map(u32::from_le_bytes);
            line[at..at + 4].copy_from_slice(&(a | b << 2 | c << 4 | d << 6).to_le_bytes());
        }
        cache.value_scales[position] = quantize(simd, value, value_codes);
        let width = 4 * LANES * d.div_ceil(LANES);
        let lines = &mut cache.values[position / QUAD * width..][..width];
        for (places, code) in lines.as_chunks_mut::<QUAD>().0.iter_mut().zip(&*value_codes) {
            places[position % QUAD] = (*code as u8) ^ 0x80;
        }
    }
}

/// Writes causal attention of the `m` queries in `qkv` to `y[m, n_head · head_dim]`.
///
/// Row `i` is at position `past + i` and sees the positions `0..=past + i` of the cache, which must already hold its own
/// (see [`store_kv_int8`]); the keys and values in `qkv` are not read.
///
/// A query is quantized as a row of [`quantize_rows`](crate::quantize_rows) with `Int8x2` and no outliers is, so that
/// its rounding does not count beside a key's. With exact sums of integer products,
///
/// ```text
/// p     = fma(f32(Σ query_high · key_high), 128, fma(f32(Σ query_high · key_low), 32, f32(Σ query_low · key_high)))
/// score = fl(fl(p · fl(query_scale · key_scale)) · scale)
/// ```
///
/// The product of the two low parts is left out: it is far below what a key's rounding has already lost.
///
/// The softmax is that of [`attention`](crate::attention): the row's maximum subtracted,
/// [`exp`](crate::exp), the sum over sixteen lanes of positions and the usual tree. Each exponential is then multiplied
/// by its value's scale, and these weights are quantized as a query is. With exact sums over positions,
///
/// ```text
/// p = fma(f32(Σ weight_high · value), 128, f32(Σ weight_low · value))
/// y = fl(p · fl(weight_scale · reciprocal))
/// ```
///
/// where `reciprocal` is that of the softmax's sum. A row's bits do not depend on the other rows of the call, so prefill
/// and decode agree.
///
/// # Panics
/// If a length does not match `shape`, `past + m` exceeds the capacity, `head_dim` exceeds 65 535 or the capacity
/// 131 072.
///
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), §3.2.1, with codes as in LLM.int8(), Dettmers et al. 2022
/// (arXiv:2208.07339), §2.1.
pub fn attention_int8(
    isa: Isa,
    shape: &AttentionShape,
    qkv: &[f32],
    m: usize,
    past: usize,
    cache: &Int8Kv<'_>,
    y: &mut [f32],
) {
    shape.check(qkv, m, past);
    shape.check_int8(cache);
    let width = shape.n_head * shape.head_dim;
    assert_eq!(y.len(), m * width, "attention: elements of y, m · n_head · head_dim with m = {m}");
    let parallel = m * width * (past + m) >= PARALLEL;
    for_each_tile(y, width, ROW_BLOCK, shape.head_dim, parallel, |tile| {
        SCRATCH.with_borrow_mut(|scratch| head_rows(isa, shape, qkv, past, cache, scratch, tile));
    });
}

/// A thread's buffers, kept between calls.
#[derive(Default)]
struct Scratch {
    codes: Vec<i8>,
    rests: Vec<u8>,
    /// Of each row and quadruple of elements: the high bytes, the low bytes.
    queries: Vec<(Factors, [i8; 4])>,
    #[cfg(target_arch = "x86_64")]
    query_words: Vec<avx2::QueryQuad>,
    #[cfg(target_arch = "x86_64")]
    key_words: Vec<avx2::KeyQuad>,
    /// Scores, then weights, of a group of rows.
    scores: Vec<[f32; BLOCK]>,
    /// The two bytes of each weight, high bytes first.
    weights: Vec<[[i8; BLOCK]; 2]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One head's part of the cache.
#[derive(Clone, Copy)]
struct Head<'a> {
    keys: &'a [[u8; 4 * BLOCK]],
    values: &'a [[u8; 4 * LANES]],
    key_scales: &'a [[f32; BLOCK]],
    value_scales: &'a [[f32; BLOCK]],
}

/// Some rows of one head.
#[derive(Clone, Copy)]
struct Group<'a> {
    shape: &'a AttentionShape,
    /// From the first element of the first row's query on; the next row's is `qkv_width` further.
    queries: &'a [f32],
    /// The position of the first row.
    first: usize,
    count: usize,
    cache: Head<'a>,
}

impl Group<'_> {
    /// The positions that the last row sees.
    fn positions(&self) -> usize {
        self.first + self.count
    }

    /// Blocks of scores per row. What is computed for positions beyond a row's own is thrown away.
    fn blocks(&self) -> usize {
        self.positions().div_ceil(BLOCK)
    }

    fn query(&self, row: usize) -> &[f32] {
        &self.queries[row * self.shape.qkv_width()..][..self.shape.head_dim]
    }
}

/// One head for the rows of the tile.
fn head_rows(
    isa: Isa,
    shape: &AttentionShape,
    qkv: &[f32],
    past: usize,
    cache: &Int8Kv<'_>,
    scratch: &mut Scratch,
    tile: &mut Tile<'_, f32>,
) {
    let (d, blocks) = (shape.head_dim, shape.blocks());
    let head = tile.columns().start / d;
    let kv_head = head / (shape.n_head / shape.n_kv_head);
    let lines = blocks * shape.lines();
    let cache = Head {
        keys: &cache.keys.as_chunks().0[kv_head * lines..][..lines],
        values: &cache.values.as_chunks().0[kv_head * shape.value_lines()..][..shape.value_lines()],
        key_scales: &cache.key_scales.as_chunks().0[kv_head * blocks..][..blocks],
        value_scales: &cache.value_scales.as_chunks().0[kv_head * blocks..][..blocks],
    };
    for row in tile.rows().step_by(GROUP) {
        let (queries, count) = (&qkv[row * shape.qkv_width() + head * d..], GROUP.min(tile.rows().end - row));
        let group = Group { shape, queries, first: past + row, count, cache };
        let length = count * group.blocks();
        scratch.scores.resize(scratch.scores.len().max(length), [0.0; BLOCK]);
        // Three functions of their own, or the constants of one take the registers of the next.
        match isa.level() {
            // One or two rows would not repay what making words of keys costs.
            #[cfg(target_arch = "x86_64")]
            crate::isa::Level::Avx2(simd) if count > 2 && d <= avx2::MAX_HEAD_DIM => {
                avx2::scores(simd, group, scratch);
            }
            _ => dispatch!(isa => scores_of(group: Group<'_>, scratch: &mut Scratch)),
        }
        let Scratch { scores, weights, .. } = scratch;
        weights.resize(weights.len().max(length), [[0; BLOCK]; 2]);
        let (scores, weights) = (&mut scores[..length], &mut weights[..length]);
        let encoded = dispatch!(isa => weights_of(
            group: Group<'_>, scores: &mut [[f32; BLOCK]], weights: &mut [[[i8; BLOCK]; 2]],
        ) -> [Codes; GROUP]);
        let weights = &*weights;
        dispatch!(isa => values_of(
            group: Group<'_>, weights: &[[[i8; BLOCK]; 2]], encoded: [Codes; GROUP], tile: &mut Tile<'_, f32>,
            row: usize,
        ));
    }
}

/// Writes the scaled scores of each row against whole blocks of positions.
#[inline(always)]
fn scores_of<S: Simd>(simd: S, group: Group<'_>, Scratch { codes, queries, scores, .. }: &mut Scratch) {
    let mut row = 0;
    while row < group.count {
        let scores = &mut scores[row * group.blocks()..];
        row += match group.count - row {
            8.. if S::TILE == 4 => score::<S, 8>(simd, group, row, codes, queries, scores),
            4.. if S::TILE == 4 => score::<S, 4>(simd, group, row, codes, queries, scores),
            _ => score::<S, 1>(simd, group, row, codes, queries, scores),
        };
    }
}

/// [`scores_of`] `MR` rows; returns `MR`.
///
/// Eight rows take 24 registers for sums and three for keys, and one row half of sixteen halves; a query's bytes are
/// broadcast from memory.
#[inline(always)]
fn score<S: Simd, const MR: usize>(
    simd: S,
    group: Group<'_>,
    row: usize,
    codes: &mut Vec<i8>,
    queries: &mut Vec<(Factors, [i8; 4])>,
    scores: &mut [[f32; BLOCK]],
) -> usize {
    let (quads, blocks, cache) = (group.shape.quads(), group.blocks(), group.cache);
    codes.resize(codes.len().max(8 * quads), 0);
    queries.resize(queries.len().max(MR * quads), Default::default());
    let (high, low) = codes[..8 * quads].split_at_mut(4 * quads);
    let mut starts = [[simd.splat_i32(0); 3]; MR];
    let mut scales = [0.0; MR];
    for r in 0..MR {
        let query = quantize_x2(simd, group.query(row + r), high, low);
        scales[r] = query.scale;
        let mut negative = 0;
        let places = queries[r * quads..].iter_mut().zip(high.as_chunks().0).zip(low.as_chunks().0);
        for ((place, high), low) in places {
            *place = (Factors::new(*high), *low);
            negative += place.0.negative();
        }
        // Takes back what making the keys' codes unsigned adds.
        let [high_sum, low_sum] = query.sums;
        let excess = simd.excess(high_sum, negative);
        starts[r] = [-excess, -2 * high_sum, -128 * low_sum].map(|start| simd.splat_i32(start));
    }
    let queries: [&[(Factors, [i8; 4])]; MR] = std::array::from_fn(|r| &queries[r * quads..][..quads]);
    let scale = simd.splat(group.shape.scale);
    for (block, keys) in cache.keys.chunks_exact(group.shape.lines()).take(blocks).enumerate() {
        let (high_lines, low_lines) = keys.split_at(quads);
        let mut sums = starts;
        for (g, low_line) in low_lines.iter().enumerate() {
            let low_line = simd.load_quads(low_line);
            for j in 0..4.min(quads - 4 * g) {
                let (high_key, low_key) =
                    (simd.load_quads(&high_lines[4 * g + j]), simd.two_bits(low_line, j));
                for r in 0..MR {
                    // By reference, so that each is broadcast straight from memory.
                    let (high, low) = &queries[r][4 * g + j];
                    sums[r][0] = simd.dot_codes(sums[r][0], high_key, high);
                    // Narrow: below 4 · 127 a product here, at most 255 · 64 one of the low bytes.
                    sums[r][1] = simd.dot_narrow(sums[r][1], low_key, high.codes);
                    sums[r][2] = simd.dot_narrow(sums[r][2], high_key, *low);
                }
            }
        }
        let key_scales = simd.load(&cache.key_scales[block]);
        for r in 0..MR {
            let (high, middle, low) =
                (simd.to_f32(sums[r][0]), simd.to_f32(sums[r][1]), simd.to_f32(sums[r][2]));
            let product = simd.mul_add(high, simd.splat(128.0), simd.mul_add(middle, simd.splat(32.0), low));
            let steps = simd.mul(simd.splat(scales[r]), key_scales);
            simd.store(simd.mul(simd.mul(product, steps), scale), &mut scores[r * blocks + block]);
        }
    }
    MR
}

/// Turns scores into what the codes of values are multiplied with, each row divided by its softmax's sum.
#[inline(always)]
fn weights_of<S: Simd>(
    simd: S,
    group: Group<'_>,
    scores: &mut [[f32; BLOCK]],
    weights: &mut [[[i8; BLOCK]; 2]],
) -> [Codes; GROUP] {
    let mut encoded = [Codes::default(); GROUP];
    let rows = scores.chunks_exact_mut(group.blocks()).zip(weights.chunks_exact_mut(group.blocks()));
    for (r, (scores, weights)) in rows.enumerate() {
        let seen = group.first + r + 1;
        // Their exponentials are zero, which changes no sum: sums start at +0 and so are never -0.
        scores.as_flattened_mut()[seen..].fill(f32::NEG_INFINITY);
        let mut lanes = [f32::NEG_INFINITY; BLOCK];
        for block in &*scores {
            for l in 0..BLOCK {
                lanes[l] = if block[l] > lanes[l] { block[l] } else { lanes[l] };
            }
        }
        let max = lanes.iter().fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max });
        let (mut sums, mut absmax) = (simd.splat(0.0), simd.splat(0.0));
        for (block, scales) in scores.iter_mut().zip(group.cache.value_scales) {
            let mut exponentials = [0.0; BLOCK];
            for l in 0..BLOCK {
                exponentials[l] = exp(block[l] - max);
            }
            for l in 0..BLOCK {
                let weight = exponentials[l] * scales[l];
                // A scale that was never stored may be anything.
                block[l] = if exponentials[l] == 0.0 { 0.0 } else { weight };
            }
            sums = simd.add(sums, simd.load(&exponentials));
            absmax = simd.max_magnitude(absmax, simd.load(block));
        }
        let mut lanes = [0.0; LANES];
        simd.store(absmax, &mut lanes);
        let (scale, inverse) = scale_and_inverse(self::absmax(&lanes), STEPS_X2, STEPS_X2);
        let scale = scale * (1.0 / simd.sum(sums));
        let Some(inverse) = inverse else {
            // Not by a factor of zero, which leaves NaN what it is.
            weights.as_flattened_mut().as_flattened_mut().fill(0);
            encoded[r] = Codes { sums: [0; 2], scale };
            continue;
        };
        let inverse = simd.splat(inverse);
        let mut code_sums = [simd.splat_i32(0); 2];
        for (block, [high, low]) in scores.iter().zip(weights) {
            let [high_codes, low_codes] = simd.high_low(simd.round(simd.mul(simd.load(block), inverse)));
            simd.store_i8(high_codes, high);
            simd.store_i8(low_codes, low);
            code_sums = [simd.add_i32(code_sums[0], high_codes), simd.add_i32(code_sums[1], low_codes)];
        }
        encoded[r] = Codes { sums: code_sums.map(|sums| simd.sum_i32(sums)), scale };
    }
    encoded
}

/// Writes the weighted sums of values to the rows of the tile from `row` on.
#[inline(always)]
fn values_of<S: Simd>(
    simd: S,
    group: Group<'_>,
    weights: &[[[i8; BLOCK]; 2]],
    encoded: [Codes; GROUP],
    tile: &mut Tile<'_, f32>,
    row: usize,
) {
    let mut r = 0;
    while r < group.count {
        let weights = &weights[r * group.blocks()..];
        let (row, encoded) = (row + r, &encoded[r..]);
        r += match group.count - r {
            4.. if S::TILE == 4 => weigh_columns::<S, 4, 2>(simd, group, weights, encoded, tile, row),
            2.. if S::TILE == 2 => weigh_columns::<S, 2, 1>(simd, group, weights, encoded, tile, row),
            _ => weigh_columns::<S, 1, 4>(simd, group, weights, encoded, tile, row),
        };
    }
}

/// [`values_of`] `MR` rows, `NC` vectors of columns at a time; returns `MR`.
#[inline(always)]
fn weigh_columns<S: Simd, const MR: usize, const NC: usize>(
    simd: S,
    group: Group<'_>,
    weights: &[[[i8; BLOCK]; 2]],
    encoded: &[Codes],
    tile: &mut Tile<'_, f32>,
    row: usize,
) -> usize {
    let chunks = group.shape.head_dim.div_ceil(LANES);
    let mut chunk = 0;
    while chunk + NC <= chunks {
        weigh::<S, MR, NC>(simd, group, chunk, weights, encoded, tile, row);
        chunk += NC;
    }
    while chunk < chunks {
        weigh::<S, MR, 1>(simd, group, chunk, weights, encoded, tile, row);
        chunk += 1;
    }
    MR
}

/// Four rows by two vectors of columns take sixteen registers for sums, two for values and two for weights.
#[inline(always)]
fn weigh<S: Simd, const MR: usize, const NC: usize>(
    simd: S,
    group: Group<'_>,
    chunk: usize,
    weights: &[[[i8; BLOCK]; 2]],
    encoded: &[Codes],
    tile: &mut Tile<'_, f32>,
    row: usize,
) {
    let (d, blocks) = (group.shape.head_dim, group.blocks());
    let chunks = d.div_ceil(LANES);
    let rows: [&[[[i8; BLOCK]; 2]]; MR] = std::array::from_fn(|r| &weights[r * blocks..][..blocks]);
    let mut sums = [[[simd.splat_i32(0); 2]; NC]; MR];
    for r in 0..MR {
        // Takes back what making the values' codes unsigned adds.
        let [high, low] = encoded[r].sums;
        let starts = [-simd.excess(high, 0), -128 * low].map(|start| simd.splat_i32(start));
        sums[r] = [starts; NC];
    }
    for (block, values) in group.cache.values.chunks_exact(BLOCK / QUAD * chunks).take(blocks).enumerate() {
        for quad in 0..BLOCK / QUAD {
            let values = &values[quad * chunks + chunk..][..NC];
            for c in 0..NC {
                let value = simd.load_quads(&values[c]);
                for r in 0..MR {
                    // No weight is negative; a product with a low byte, at most 255 · 64, is narrow.
                    let [high, low] =
                        rows[r][block].each_ref().map(|plane| plane.as_chunks::<QUAD>().0[quad]);
                    let high = Factors::not_negative(high);
                    sums[r][c][0] = simd.dot_codes(sums[r][c][0], value, &high);
                    sums[r][c][1] = simd.dot_narrow(sums[r][c][1], value, low);
                }
            }
        }
    }
    for r in 0..MR {
        let scale = simd.splat(encoded[r].scale);
        let y = &mut tile.row_mut(row + r)[chunk * LANES..];
        for (c, y) in y.chunks_mut(LANES).take(NC).enumerate() {
            let [high, low] = sums[r][c].map(|sums| simd.to_f32(sums));
            let sum = simd.mul(simd.mul_add(high, simd.splat(128.0), low), scale);
            store(simd, sum, y);
        }
    }
}

/// What is known of a query, or of a row of weights, in two bytes per element: `x ≈ scale · (128 · high + low)`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Codes {
    /// Of the high bytes and of the low bytes.
    sums: [i32; 2],
    scale: f32,
}

/// Writes the two bytes of each code of `x`, then zeros.
#[inline(always)]
fn quantize_x2<S: Simd>(simd: S, x: &[f32], high: &mut [i8], low: &mut [i8]) -> Codes {
    let (scale, inverse) = scale_and_inverse(absmax(x), STEPS_X2, STEPS_X2);
    let Some(inverse) = inverse else {
        high.fill(0);
        low.fill(0);
        return Codes { sums: [0; 2], scale };
    };
    let ((high, high_rest), (low, low_rest)) = (high.split_at_mut(x.len()), low.split_at_mut(x.len()));
    high_rest.fill(0);
    low_rest.fill(0);
    let sums = Steps { simd, inverse }.encode(x, [high, low], &mut TwoBytesAlone);
    Codes { sums, scale }
}

/// Writes the byte and the two bits of each code of `x` (`low + 2`), then those of zeros; returns the scale of the bytes.
#[inline(always)]
fn quantize_key(x: &[f32], high: &mut [i8], low: &mut [u8]) -> f32 {
    let (scale, inverse) = scale_and_inverse(absmax(x), 127.0, KEY_STEPS);
    if let Some(inverse) = inverse {
        high[x.len()..].fill(0);
        low[x.len()..].fill(2);
        for ((high, low), x) in high.iter_mut().zip(low).zip(x) {
            let q = ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
            (*high, *low) = (((q + 2) >> 2) as i8, (q + 2) as u8 & 3);
        }
    } else {
        high.fill(0);
        low.fill(2);
    }
    scale
}

/// Writes the codes of `x` and returns its scale.
#[inline(always)]
fn quantize<S: Simd>(simd: S, x: &[f32], codes: &mut [i8]) -> f32 {
    let (scale, inverse) = scale_and_inverse(absmax(x), 127.0, 127.0);
    if let Some(inverse) = inverse {
        Steps { simd, inverse }.encode(x, [codes], &mut ByteAlone);
    } else {
        codes.fill(0);
    }
    scale
}

/// The largest absolute value, NaN if there is a NaN.
#[inline(always)]
fn absmax(x: &[f32]) -> f32 {
    // Without their signs floats are ordered as their bits are, infinity and then NaN at the end.
    f32::from_bits(x.iter().fold(0, |max, x| max.max(x.abs().to_bits())))
}

/// `absmax / units` and `steps / absmax`; no inverse where all codes are zero.
#[inline(always)]
fn scale_and_inverse(absmax: f32, units: f32, steps: f32) -> (f32, Option<f32>) {
    let (scale, inverse) = (absmax / units, steps / absmax);
    if inverse.is_finite() && absmax.is_finite() {
        (scale, Some(inverse))
    } else if absmax.is_finite() {
        (0.0, None)
    } else {
        (absmax, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Scalar;

    const SHAPE: AttentionShape =
        AttentionShape { n_head: 1, n_kv_head: 1, head_dim: 5, scale: 0.5, capacity: 17 };

    /// What the pieces of an [`Int8Kv`] are borrowed from.
    struct Owned {
        keys: Vec<u8>,
        values: Vec<u8>,
        key_scales: Vec<f32>,
        value_scales: Vec<f32>,
    }

    impl Owned {
        fn new(shape: &AttentionShape) -> Self {
            Self {
                keys: vec![7; shape.int8_keys_len()],
                values: vec![7; shape.int8_values_len()],
                key_scales: vec![f32::NAN; shape.int8_scales_len()],
                value_scales: vec![f32::NAN; shape.int8_scales_len()],
            }
        }

        fn borrow(&mut self) -> Int8Kv<'_> {
            let Self { keys, values, key_scales, value_scales } = self;
            Int8Kv { keys, values, key_scales, value_scales }
        }
    }

    #[test]
    fn keys_and_values_land_in_their_block() {
        for isa in Isa::available() {
            let mut cache = Owned::new(&SHAPE);
            let key = [127.0, 0.625, 1.25, -127.0, -2.875]; // in quarters: 508, 2.5, 5, -508, -11.5
            let qkv = [[0.0; 5], key, [0.0, 0.0, 254.0, -3.0, 1.0]].concat();
            store_kv_int8(isa, &SHAPE, &qkv, 1, 16, &mut cache.borrow());
            // The second block's first position. The bytes 127, 1, 1, -127 and -3 with flipped sign bits, and what is
            // left of each: 0, -2, 1, 0 and 0, plus two, the fifth in the third and fourth bits.
            let mut keys = vec![7; 384];
            keys[192..196].copy_from_slice(&[255, 129, 129, 1]);
            keys[256..260].copy_from_slice(&[125, 128, 128, 128]);
            keys[320..324].copy_from_slice(&[0b1010_1010, 0b1010_1000, 0b1010_1011, 0b1010_1010]);
            assert_eq!(cache.keys, keys, "{isa}");
            let mut values = vec![7; 8 * 64];
            for (element, code) in [128, 128, 255, 126, 128].into_iter().enumerate() {
                values[4 * 64 + 4 * element] = code; // 0, 0, 127, -1.5 and 0.5 to even, with flipped sign bits
            }
            assert_eq!(cache.values, values, "{isa}");
            assert_eq!((cache.key_scales[16], cache.value_scales[16]), (1.0, 2.0));
            assert!(cache.key_scales[..16].iter().chain(&cache.value_scales[..16]).all(|s| s.is_nan()));
        }
    }

    #[test]
    fn weights_worked_out_by_hand() {
        // The second key scores 2 · 0.5 · ln 2 more, so its weight is twice the first's.
        let shape = AttentionShape { head_dim: 2, capacity: 2, ..SHAPE };
        let ln2 = 2.0_f32.ln();
        let mut cache = Owned::new(&shape);
        let qkv = [[0.0, 0.0, 0.0, 0.0, 127.0, 1.0], [2.0 * ln2, 0.0, 1.0, 0.0, 127.0, -7.0]].concat();
        for isa in Isa::available() {
            store_kv_int8(isa, &shape, &qkv, 2, 0, &mut cache.borrow());
            let mut y = [0.0; 4];
            attention_int8(isa, &shape, &qkv, 2, 0, &cache.borrow(), &mut y);
            for (y, want) in y.iter().zip([127.0, 1.0, 127.0, (1.0 - 14.0) / 3.0]) {
                assert!((y - want).abs() < 1e-6 * want.abs(), "{isa}: {y} {want}");
            }
        }
    }

    #[test]
    fn zeros_tiny_numbers_and_nan_have_zero_codes() {
        for (x, scale) in [
            ([0.0, -0.0], 0.0),
            ([1e-38, 1e-45], 0.0),
            ([f32::NEG_INFINITY, 1.0], f32::INFINITY),
            ([f32::NAN, f32::INFINITY], f32::NAN),
            ([-f32::NAN, 1.0], f32::NAN),
        ] {
            let (mut high, mut low) = ([9; 4], [9; 4]);
            assert_eq!(quantize_key(&x, &mut high, &mut low).total_cmp(&scale), std::cmp::Ordering::Equal);
            assert_eq!((high, low), ([0; 4], [2; 4]));
            let mut codes = [9; 2];
            assert_eq!(quantize(Scalar, &x, &mut codes).total_cmp(&scale), std::cmp::Ordering::Equal);
            assert_eq!(codes, [0; 2]);
            let (mut high, mut low) = ([9; 4], [9; 4]);
            let query = quantize_x2(Scalar, &x, &mut high, &mut low);
            assert_eq!(query.scale.total_cmp(&scale), std::cmp::Ordering::Equal);
            assert_eq!((high, low, query.sums), ([0; 4], [0; 4], [0; 2]));
        }
    }

    #[test]
    fn a_query_keeps_fourteen_bits() {
        let (mut high, mut low) = ([9; 8], [9; 8]);
        let query = quantize_x2(Scalar, &[16256.0, -16256.0, 64.0, -65.0, 1.5], &mut high, &mut low);
        assert_eq!(high, [127, -127, 1, -1, 0, 0, 0, 0]);
        assert_eq!(low, [0, 0, -64, 63, 2, 0, 0, 0]);
        assert_eq!(query, Codes { sums: [0, 1], scale: 1.0 });
    }

    #[test]
    #[should_panic(expected = "16 + 2 positions, the cache has 17")]
    fn a_full_cache_panics() {
        store_kv_int8(Isa::SCALAR, &SHAPE, &[0.0; 30], 2, 16, &mut Owned::new(&SHAPE).borrow());
    }

    #[test]
    #[should_panic(expected = "bytes of keys, of the cache")]
    fn a_cache_of_another_shape_panics() {
        let mut cache = Owned::new(&AttentionShape { capacity: 16, ..SHAPE });
        store_kv_int8(Isa::SCALAR, &SHAPE, &[0.0; 15], 1, 0, &mut cache.borrow());
    }
}
