//! Causal attention over a KV cache in f32 or f16; [`int8`] holds the one in codes.

mod int8;

use std::cell::RefCell;

use half::{f16, slice::HalfFloatSliceExt};
pub use int8::{Int8Kv, attention_int8, store_kv_int8};

use crate::{
    float::{Element, dots, padded},
    isa::{Isa, dispatch},
    math::exp,
    simd::{LANES, Simd, lane_sum},
    tiles::{Tile, for_each_tile},
};

/// Multiplications in a call below which one thread is faster than two.
const PARALLEL: usize = 64 * 1024;

/// Rows of queries that share one pass over the keys and values.
const ROW_BLOCK: usize = 4;

/// The sizes of one attention layer and of its cache.
///
/// The cache of a layer is two matrices `[n_kv_head, capacity, head_dim]`, keys and values; [`Int8Kv`] says how they
/// are laid out as codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// The number of query heads.
    pub n_head: usize,
    /// The number of key and value heads; each serves `n_head / n_kv_head` query heads in a row.
    pub n_kv_head: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// What a score is multiplied by before the softmax, usually `1/√head_dim`.
    pub scale: f32,
    /// The number of positions that the cache has room for.
    pub capacity: usize,
}

impl AttentionShape {
    /// The width of a row of `qkv`: queries, then keys, then values.
    pub fn qkv_width(&self) -> usize {
        (self.n_head + 2 * self.n_kv_head) * self.head_dim
    }

    /// The number of elements of a layer's keys, and of its values.
    pub fn cache_len(&self) -> usize {
        self.n_kv_head * self.capacity * self.head_dim
    }

    fn check(&self, qkv: &[f32], m: usize, past: usize) {
        assert!(
            self.n_kv_head > 0 && self.n_head.is_multiple_of(self.n_kv_head),
            "attention: {} query heads over {} key heads",
            self.n_head,
            self.n_kv_head
        );
        assert!(self.head_dim > 0, "attention: head_dim is 0");
        assert_eq!(qkv.len(), m * self.qkv_width(), "attention: elements of qkv, m · width with m = {m}");
        assert!(
            past + m <= self.capacity,
            "attention: {past} + {m} positions, the cache has {}",
            self.capacity
        );
    }

    fn check_cache<E>(&self, keys: &[E], values: &[E]) {
        assert_eq!(keys.len(), self.cache_len(), "attention: elements of keys, of the cache");
        assert_eq!(values.len(), self.cache_len(), "attention: elements of values, of the cache");
    }
}

/// An element of a KV cache in floating point: `f32` or [`struct@f16`].
#[expect(private_bounds, reason = "nobody else implements it")]
pub trait KvElement: CacheElement {}

impl KvElement for f32 {}
impl KvElement for f16 {}

trait CacheElement: Element {
    fn cache<'a>(keys: &'a [Self], values: &'a [Self]) -> Cache<'a>;

    /// Copies `x`, rounded to the nearest element, ties to even.
    fn store(x: &[f32], to: &mut [Self]);
}

impl CacheElement for f32 {
    fn cache<'a>(keys: &'a [f32], values: &'a [f32]) -> Cache<'a> {
        Cache::F32 { keys, values }
    }

    fn store(x: &[f32], to: &mut [f32]) {
        to.copy_from_slice(x);
    }
}

impl CacheElement for f16 {
    fn cache<'a>(keys: &'a [f16], values: &'a [f16]) -> Cache<'a> {
        Cache::F16 { keys, values }
    }

    fn store(x: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(x);
    }
}

/// Copies the keys and values of `qkv[m, (n_head + 2 n_kv_head) · head_dim]` to the positions
/// `past..past + m` of the cache.
///
/// An [`struct@f16`] cache gets them rounded to nearest, ties to even; magnitudes from 65 520 on become infinite.
///
/// # Panics
/// If a length does not match `shape`, or `past + m` exceeds the capacity.
pub fn store_kv<E: KvElement>(
    shape: &AttentionShape,
    qkv: &[f32],
    m: usize,
    past: usize,
    keys: &mut [E],
    values: &mut [E],
) {
    shape.check(qkv, m, past);
    shape.check_cache(keys, values);
    let (d, kv_width) = (shape.head_dim, shape.n_kv_head * shape.head_dim);
    for (i, row) in qkv.chunks_exact(shape.qkv_width()).enumerate() {
        let (new_keys, new_values) = row[shape.n_head * d..].split_at(kv_width);
        for head in 0..shape.n_kv_head {
            let at = (head * shape.capacity + past + i) * d;
            E::store(&new_keys[head * d..][..d], &mut keys[at..][..d]);
            E::store(&new_values[head * d..][..d], &mut values[at..][..d]);
        }
    }
}

/// Writes causal attention of the `m` queries in `qkv` to `y[m, n_head · head_dim]`.
///
/// Row `i` is at position `past + i` and sees the positions `0..=past + i` of `keys` and `values`,
/// which must already hold its own (see [`store_kv`]); the keys and values in `qkv` are not read.
///
/// Elements of the cache are widened to `f32`, which is exact. A score is [`dot_f32`](crate::dot_f32) times `scale`; the softmax subtracts the row's maximum, uses
/// [`exp`] and sums over sixteen lanes of positions and the usual tree. Values are added up in order of
/// position by fused multiply-add, then multiplied by the reciprocal of the softmax's sum. A row's bits
/// do not depend on the other rows of the call, so prefill and decode agree.
///
/// # Panics
/// If a length does not match `shape`, or `past + m` exceeds the capacity.
///
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), §3.2.1.
#[expect(clippy::too_many_arguments, reason = "a shape, a batch at a position, a cache and an output")]
pub fn attention<E: KvElement>(
    isa: Isa,
    shape: &AttentionShape,
    qkv: &[f32],
    m: usize,
    past: usize,
    keys: &[E],
    values: &[E],
    y: &mut [f32],
) {
    shape.check(qkv, m, past);
    shape.check_cache(keys, values);
    let width = shape.n_head * shape.head_dim;
    assert_eq!(y.len(), m * width, "attention: elements of y, m · n_head · head_dim with m = {m}");
    let parallel = m * width * (past + m) >= PARALLEL;
    let cache = E::cache(keys, values);
    for_each_tile(y, width, ROW_BLOCK, shape.head_dim, parallel, |tile| {
        SCORES.with_borrow_mut(|scores| {
            dispatch!(isa => head_rows(
                shape: &AttentionShape, qkv: &[f32], past: usize, cache: Cache<'_>, scores: &mut Vec<f32>,
                tile: &mut Tile<'_, f32>,
            ));
        });
    });
}

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A whole layer's cache.
#[derive(Clone, Copy)]
enum Cache<'a> {
    F32 { keys: &'a [f32], values: &'a [f32] },
    F16 { keys: &'a [f16], values: &'a [f16] },
}

/// One head for the rows of the tile.
#[inline(always)]
fn head_rows<S: Simd>(
    simd: S,
    shape: &AttentionShape,
    qkv: &[f32],
    past: usize,
    cache: Cache<'_>,
    scores: &mut Vec<f32>,
    tile: &mut Tile<'_, f32>,
) {
    match cache {
        Cache::F32 { keys, values } => head_rows_of(simd, shape, qkv, past, keys, values, scores, tile),
        Cache::F16 { keys, values } => head_rows_of(simd, shape, qkv, past, keys, values, scores, tile),
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "an inlined piece of `head_rows`")]
fn head_rows_of<S: Simd, E: Element>(
    simd: S,
    shape: &AttentionShape,
    qkv: &[f32],
    past: usize,
    keys: &[E],
    values: &[E],
    scores: &mut Vec<f32>,
    tile: &mut Tile<'_, f32>,
) {
    let d = shape.head_dim;
    let head = tile.columns().start / d;
    let kv_head = head / (shape.n_head / shape.n_kv_head);
    let of_head = kv_head * shape.capacity * d..(kv_head + 1) * shape.capacity * d;
    let (keys, values) = (&keys[of_head.clone()], &values[of_head]);
    let query = |row: usize| &qkv[row * shape.qkv_width() + head * d..][..d];
    let rows = tile.rows();
    let mut row = rows.start;
    while row < rows.end {
        let first = past + row;
        if row + 4 <= rows.end {
            let queries = std::array::from_fn(|r| query(row + r));
            rows_of::<S, E, 4>(simd, shape, queries, first, keys, values, scores, tile, row);
            row += 4;
        } else {
            rows_of::<S, E, 1>(simd, shape, [query(row)], first, keys, values, scores, tile, row);
            row += 1;
        }
    }
}

/// One head for `MR` rows, the first at position `first`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "an inlined piece of `head_rows`")]
fn rows_of<S: Simd, E: Element, const MR: usize>(
    simd: S,
    shape: &AttentionShape,
    queries: [&[f32]; MR],
    first: usize,
    keys: &[E],
    values: &[E],
    scores: &mut Vec<f32>,
    tile: &mut Tile<'_, f32>,
    row: usize,
) {
    let d = shape.head_dim;
    let stride = first + MR;
    // Every score that is read is written first; only the length matters here.
    scores.resize(scores.len().max(MR * stride), 0.0);
    let scores = &mut scores[..MR * stride];
    if MR == 4 && S::TILE == 4 {
        score::<S, E, MR, 4>(simd, shape, queries, stride, keys, scores);
    } else if MR == 4 {
        for pair in [0, 2] {
            let queries = [queries[pair], queries[pair + 1]];
            score::<S, E, 2, 2>(simd, shape, queries, stride, keys, &mut scores[pair * stride..]);
        }
    } else {
        score::<S, E, MR, 4>(simd, shape, queries, stride, keys, scores);
    }
    let mut reciprocals = [0.0; MR];
    for r in 0..MR {
        reciprocals[r] = exponentials(&mut scores[r * stride..][..first + r + 1]);
    }
    let mut column = 0;
    while column + 4 * LANES <= d {
        weigh::<S, E, MR, 4>(simd, d, column, first, values, scores, reciprocals, tile, row);
        column += 4 * LANES;
    }
    while column < d {
        weigh::<S, E, MR, 1>(simd, d, column, first, values, scores, reciprocals, tile, row);
        column += LANES;
    }
}

/// Writes the scaled scores of `MR` queries against the first `stride` keys, `NR` keys at a time.
#[inline(always)]
fn score<S: Simd, E: Element, const MR: usize, const NR: usize>(
    simd: S,
    shape: &AttentionShape,
    queries: [&[f32]; MR],
    stride: usize,
    keys: &[E],
    scores: &mut [f32],
) {
    let mut position = 0;
    while position + NR <= stride {
        let keys: [&[E]; NR] = std::array::from_fn(|c| at(keys, position + c, shape.head_dim));
        let sums = dots::<S, E, MR, NR>(simd, queries, keys);
        for r in 0..MR {
            for c in 0..NR {
                scores[r * stride + position + c] = sums[r][c] * shape.scale;
            }
        }
        position += NR;
    }
    while position < stride {
        let sums = dots::<S, E, MR, 1>(simd, queries, [at(keys, position, shape.head_dim)]);
        for r in 0..MR {
            scores[r * stride + position] = sums[r][0] * shape.scale;
        }
        position += 1;
    }
}

/// Replaces `scores` by their exponentials relative to the largest and returns `1 / sum`.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let (chunks, tail) = scores.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = if chunk[l] > lanes[l] { chunk[l] } else { lanes[l] };
        }
    }
    let max = lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max });
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    1.0 / lane_sum(scores, |x| x)
}

/// The weighted sum of the values for `MR` rows and `NC` vectors of columns from `column` on.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "an inlined piece of `rows_of`")]
fn weigh<S: Simd, E: Element, const MR: usize, const NC: usize>(
    simd: S,
    d: usize,
    column: usize,
    first: usize,
    values: &[E],
    weights: &[f32],
    reciprocals: [f32; MR],
    tile: &mut Tile<'_, f32>,
    row: usize,
) {
    let stride = first + MR;
    let mut sums = [[simd.splat(0.0); NC]; MR];
    let width = (d - column).min(NC * LANES);
    for position in 0..=first {
        let value = load_columns::<S, E, NC>(simd, &values[position * d + column..][..width]);
        for r in 0..MR {
            let weight = simd.splat(weights[r * stride + position]);
            for c in 0..NC {
                sums[r][c] = simd.mul_add(weight, value[c], sums[r][c]);
            }
        }
    }
    for r in 1..MR {
        for position in first + 1..=first + r {
            let value = load_columns::<S, E, NC>(simd, &values[position * d + column..][..width]);
            let weight = simd.splat(weights[r * stride + position]);
            for c in 0..NC {
                sums[r][c] = simd.mul_add(weight, value[c], sums[r][c]);
            }
        }
    }
    for r in 0..MR {
        let y = &mut tile.row_mut(row + r)[column..][..width];
        for c in 0..NC {
            let mut lanes = [0.0; LANES];
            simd.store(sums[r][c], &mut lanes);
            for (y, lane) in y[c * LANES..].iter_mut().zip(lanes) {
                *y = lane * reciprocals[r];
            }
        }
    }
}

/// The first `NC` vectors of `value`; a ragged end is filled up with zeros.
#[inline(always)]
fn load_columns<S: Simd, E: Element, const NC: usize>(simd: S, value: &[E]) -> [S::F32x16; NC] {
    let (chunks, tail) = value.as_chunks::<LANES>();
    let mut vectors = [simd.splat(0.0); NC];
    if let Some(chunks) = chunks.first_chunk::<NC>() {
        for (vector, chunk) in vectors.iter_mut().zip(chunks) {
            *vector = E::load(simd, chunk);
        }
    } else {
        // Only single vectors are ever ragged.
        vectors[0] = E::load(simd, &padded(tail));
    }
    vectors
}

/// The row of a cache `[positions, head_dim]` at `position`.
#[inline(always)]
fn at<E>(cache: &[E], position: usize, head_dim: usize) -> &[E] {
    &cache[position * head_dim..][..head_dim]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: AttentionShape =
        AttentionShape { n_head: 2, n_kv_head: 1, head_dim: 2, scale: 0.5, capacity: 3 };

    #[test]
    fn keys_and_values_land_at_their_position() {
        let (mut keys, mut values) = ([0.0; 6], [0.0; 6]);
        store_kv(&SHAPE, &[9.0, 9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0], 1, 1, &mut keys, &mut values);
        assert_eq!((keys, values), ([0.0, 0.0, 1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0, 0.0, 0.0]));
    }

    #[test]
    fn weights_worked_out_by_hand() {
        // Position 1: head 0 scores both keys alike, head 1 prefers the second by 0.5 · 2 ln 3.
        let ln3 = 3.0_f32.ln();
        let (keys, values) = ([0.0, 0.0, 1.0, 0.0, 0.0, 0.0], [1.0, 8.0, 5.0, 4.0, f32::NAN, f32::NAN]);
        let mut y = [0.0; 4];
        attention(
            Isa::SCALAR,
            &SHAPE,
            &[0.0, 1.0, 2.0 * ln3, 0.0, 0.0, 0.0, 0.0, 0.0],
            1,
            1,
            &keys,
            &values,
            &mut y,
        );
        for (y, want) in y.iter().zip([3.0, 6.0, 4.0, 5.0]) {
            assert!((y - want).abs() < 4.0 * f32::EPSILON * want, "{y} {want}");
        }
    }

    #[test]
    #[should_panic(expected = "2 + 2 positions, the cache has 3")]
    fn a_full_cache_panics() {
        store_kv(&SHAPE, &[0.0; 16], 2, 2, &mut [0.0; 6], &mut [0.0; 6]);
    }
}
