//! Attention over keys and values in f32 or f16.

use std::cell::RefCell;
use std::ops::Range;

use half::{f16, slice::HalfFloatSliceExt};

use super::{AttentionShape, KvDtype, KvPlace, PAGE, Rows};
use crate::{
    float::{Element, dots, padded},
    isa::{Isa, dispatch},
    math::exp,
    simd::{LANES, Simd, lane_sum},
    tiles::Tile,
};

/// Rows of queries that share one pass over the keys and values.
pub(super) const ROW_BLOCK: usize = 4;

/// An element of a cache in floating point.
pub(super) trait CacheElement: Element + bytemuck::Pod {
    /// Copies `x`, rounded to the nearest element, ties to even.
    fn store(x: &[f32], to: &mut [Self]);
}

impl CacheElement for f32 {
    fn store(x: &[f32], to: &mut [f32]) {
        to.copy_from_slice(x);
    }
}

impl CacheElement for f16 {
    fn store(x: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(x);
    }
}

/// Copies the keys and values of some rows to their places in a page: `[n_kv_head, PAGE, head_dim]` keys, then as many
/// values.
pub(super) fn store<E: CacheElement>(shape: &AttentionShape, qkv: &[f32], place: &mut KvPlace<'_>) {
    let (d, kv_width) = (shape.head_dim, shape.n_kv_head * shape.head_dim);
    let elements: &mut [E] = bytemuck::cast_slice_mut(place.page);
    let (keys, values) = elements.split_at_mut(kv_width * PAGE);
    let rows = qkv.chunks_exact(shape.qkv_width()).skip(place.rows.start).take(place.rows.len());
    for (row, position) in rows.zip(place.position..) {
        let (new_keys, new_values) = row[shape.n_head * d..].split_at(kv_width);
        for head in 0..shape.n_kv_head {
            let at = (head * PAGE + position) * d;
            E::store(&new_keys[head * d..][..d], &mut keys[at..][..d]);
            E::store(&new_values[head * d..][..d], &mut values[at..][..d]);
        }
    }
}

/// Attention of one head for the rows of the tile.
pub(super) fn attend(
    isa: Isa,
    shape: &AttentionShape,
    dtype: KvDtype,
    rows: &Rows<'_>,
    tile: &mut Tile<'_, f32>,
) {
    let head = tile.columns().start / shape.head_dim;
    let kv = Head { pages: rows.pages, kv_head: head / (shape.n_head / shape.n_kv_head), shape };
    SCORES.with_borrow_mut(|scores| {
        dispatch!(isa => head_rows(
            kv: Head<'_>, dtype: KvDtype, head: usize, rows: &Rows<'_>, scores: &mut Vec<f32>,
            tile: &mut Tile<'_, f32>,
        ));
    });
}

/// The keys and values of one head.
#[derive(Clone, Copy)]
struct Head<'a> {
    pages: &'a [&'a [u8]],
    kv_head: usize,
    shape: &'a AttentionShape,
}

impl<'a> Head<'a> {
    /// The keys of page `page`, `[PAGE, head_dim]`.
    #[inline(always)]
    fn keys<E: CacheElement>(&self, page: usize) -> &'a [E] {
        self.part(page, self.kv_head)
    }

    /// The values of page `page`, `[PAGE, head_dim]`.
    #[inline(always)]
    fn values<E: CacheElement>(&self, page: usize) -> &'a [E] {
        self.part(page, self.shape.n_kv_head + self.kv_head)
    }

    #[inline(always)]
    fn part<E: CacheElement>(&self, page: usize, part: usize) -> &'a [E] {
        let length = PAGE * self.shape.head_dim;
        &bytemuck::cast_slice(self.pages[page])[part * length..][..length]
    }
}

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One head for the rows of the tile.
#[inline(always)]
fn head_rows<S: Simd>(
    simd: S,
    kv: Head<'_>,
    dtype: KvDtype,
    head: usize,
    rows: &Rows<'_>,
    scores: &mut Vec<f32>,
    tile: &mut Tile<'_, f32>,
) {
    match dtype {
        KvDtype::F32 => head_rows_of::<S, f32>(simd, kv, head, rows, scores, tile),
        KvDtype::F16 => head_rows_of::<S, f16>(simd, kv, head, rows, scores, tile),
        KvDtype::Int8 => unreachable!("codes have a kernel of their own"),
    }
}

#[inline(always)]
fn head_rows_of<S: Simd, E: CacheElement>(
    simd: S,
    kv: Head<'_>,
    head: usize,
    rows: &Rows<'_>,
    scores: &mut Vec<f32>,
    tile: &mut Tile<'_, f32>,
) {
    let (shape, d) = (kv.shape, kv.shape.head_dim);
    let query = |row: usize| &rows.qkv[row * shape.qkv_width() + head * d..][..d];
    let Range { start: mut row, end } = tile.rows();
    while row < end {
        let first = rows.position(row);
        if row + 4 <= end {
            let queries = std::array::from_fn(|r| query(row + r));
            rows_of::<S, E, 4>(simd, kv, queries, first, scores, tile, row);
            row += 4;
        } else {
            rows_of::<S, E, 1>(simd, kv, [query(row)], first, scores, tile, row);
            row += 1;
        }
    }
}

/// One head for `MR` rows, the first at position `first`.
#[inline(always)]
fn rows_of<S: Simd, E: CacheElement, const MR: usize>(
    simd: S,
    kv: Head<'_>,
    queries: [&[f32]; MR],
    first: usize,
    scores: &mut Vec<f32>,
    tile: &mut Tile<'_, f32>,
    row: usize,
) {
    let d = kv.shape.head_dim;
    let stride = first + MR;
    // Every score that is read is written first; only the length matters here.
    scores.resize(scores.len().max(MR * stride), 0.0);
    let scores = &mut scores[..MR * stride];
    if MR == 4 && S::TILE == 4 {
        score::<S, E, MR, 4>(simd, kv, queries, stride, scores);
    } else if MR == 4 {
        for pair in [0, 2] {
            let queries = [queries[pair], queries[pair + 1]];
            score::<S, E, 2, 2>(simd, kv, queries, stride, &mut scores[pair * stride..]);
        }
    } else {
        score::<S, E, MR, 4>(simd, kv, queries, stride, scores);
    }
    let mut reciprocals = [0.0; MR];
    for r in 0..MR {
        reciprocals[r] = exponentials(&mut scores[r * stride..][..first + r + 1]);
    }
    let mut column = 0;
    while column + 4 * LANES <= d {
        weigh::<S, E, MR, 4>(simd, kv, column, first, scores, reciprocals, tile, row);
        column += 4 * LANES;
    }
    while column < d {
        weigh::<S, E, MR, 1>(simd, kv, column, first, scores, reciprocals, tile, row);
        column += LANES;
    }
}

/// Writes the scaled scores of `MR` queries against the first `stride` keys, `NR` keys at a time.
#[inline(always)]
fn score<S: Simd, E: CacheElement, const MR: usize, const NR: usize>(
    simd: S,
    kv: Head<'_>,
    queries: [&[f32]; MR],
    stride: usize,
    scores: &mut [f32],
) {
    const { assert!(PAGE.is_multiple_of(NR)) };
    let (d, scale) = (kv.shape.head_dim, kv.shape.scale);
    for start in (0..stride).step_by(PAGE) {
        let keys = kv.keys::<E>(start / PAGE);
        let count = PAGE.min(stride - start);
        let mut position = 0;
        while position + NR <= count {
            let keys: [&[E]; NR] = std::array::from_fn(|c| at(keys, position + c, d));
            let sums = dots::<S, E, MR, NR>(simd, queries, keys);
            for r in 0..MR {
                for c in 0..NR {
                    scores[r * stride + start + position + c] = sums[r][c] * scale;
                }
            }
            position += NR;
        }
        while position < count {
            let sums = dots::<S, E, MR, 1>(simd, queries, [at(keys, position, d)]);
            for r in 0..MR {
                scores[r * stride + start + position] = sums[r][0] * scale;
            }
            position += 1;
        }
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
#[expect(clippy::too_many_arguments, reason = "an inlined piece of `head_rows`")]
fn weigh<S: Simd, E: CacheElement, const MR: usize, const NC: usize>(
    simd: S,
    kv: Head<'_>,
    column: usize,
    first: usize,
    weights: &[f32],
    reciprocals: [f32; MR],
    tile: &mut Tile<'_, f32>,
    row: usize,
) {
    let (d, stride) = (kv.shape.head_dim, first + MR);
    let mut sums = [[simd.splat(0.0); NC]; MR];
    let width = (d - column).min(NC * LANES);
    for start in (0..=first).step_by(PAGE) {
        let values = kv.values::<E>(start / PAGE);
        for position in start..=first.min(start + PAGE - 1) {
            let value = load_columns::<S, E, NC>(simd, &values[(position - start) * d + column..][..width]);
            for r in 0..MR {
                let weight = simd.splat(weights[r * stride + position]);
                for c in 0..NC {
                    sums[r][c] = simd.mul_add(weight, value[c], sums[r][c]);
                }
            }
        }
    }
    for r in 1..MR {
        for position in first + 1..=first + r {
            let values = kv.values::<E>(position / PAGE);
            let value = load_columns::<S, E, NC>(simd, &values[position % PAGE * d + column..][..width]);
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
