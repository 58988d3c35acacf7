//! Causal attention of the rows of any number of sequences over a KV cache in pages.

mod float;
mod int8;

use std::ops::Range;

use half::f16;

use crate::{
    Context,
    tiles::{Tile, for_each_piece, for_each_tile_of},
};

/// Positions of a page of the cache.
pub const PAGE: usize = 64;

/// Multiplications in a call from which threads share it.
const PARALLEL: usize = 64 * 1024;

/// The same for integer products.
const PARALLEL_INT8: usize = 128 * 1024;

/// Elements of keys in a call from which threads share the storing.
const STORE_PARALLEL: usize = 16 * 1024;

/// The sizes of one attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// The number of query heads.
    pub n_head: usize,
    /// The number of key and value heads; each serves `n_head / n_kv_head` query heads in a row (GQA).
    pub n_kv_head: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// What a score is multiplied by before the softmax, usually `1/√head_dim`.
    pub scale: f32,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// As they are.
    F32,
    /// Rounded to nearest, ties to even; magnitudes from 65 520 on become infinite.
    F16,
    /// As codes with a scale for each head and position: a byte for an element of a value, ten bits for one of a key.
    Int8,
}

impl AttentionShape {
    /// The width of a row of `qkv`: queries, then keys, then values.
    pub fn qkv_width(&self) -> usize {
        (self.n_head + 2 * self.n_kv_head) * self.head_dim
    }

    /// The bytes of one layer's keys and values of [`PAGE`] positions, a multiple of 64; `None` where the number
    /// overflows.
    pub fn page_bytes(&self, dtype: KvDtype) -> Option<usize> {
        let of_head = match dtype {
            KvDtype::F32 => self.head_dim.checked_mul(2 * PAGE * size_of::<f32>()),
            KvDtype::F16 => self.head_dim.checked_mul(2 * PAGE * size_of::<f16>()),
            KvDtype::Int8 => int8::head_bytes(self.head_dim),
        };
        of_head?.checked_mul(self.n_kv_head)
    }

    fn check(&self, dtype: KvDtype, qkv: &[f32]) -> usize {
        assert!(
            self.n_kv_head > 0 && self.n_head.is_multiple_of(self.n_kv_head),
            "attention: {} query heads over {} key heads",
            self.n_head,
            self.n_kv_head
        );
        assert!(self.head_dim > 0, "attention: head_dim is 0");
        let width = self.qkv_width();
        assert!(
            qkv.len().is_multiple_of(width),
            "attention: qkv has {} elements in rows of {width}",
            qkv.len()
        );
        if dtype == KvDtype::Int8 {
            int8::check(self);
        }
        qkv.len() / width
    }

    fn check_page(&self, dtype: KvDtype, page: &[u8]) {
        assert_eq!(Some(page.len()), self.page_bytes(dtype), "attention: bytes of a page in {dtype:?}");
    }
}

/// Where some rows of a batch are stored: neighbouring positions of one page.
#[derive(Debug)]
pub struct KvPlace<'a> {
    /// [`AttentionShape::page_bytes`] bytes at a multiple of four (of 64 for speed).
    pub page: &'a mut [u8],
    /// The first row's position in the page.
    pub position: usize,
    /// The rows of the batch.
    pub rows: Range<usize>,
}

/// The rows of one sequence in a batch: those after the rows of the runs before.
#[derive(Debug, Clone)]
pub struct KvRun<'a> {
    /// The number of rows.
    pub rows: usize,
    /// The number of positions before the first row.
    pub past: usize,
    /// The pages of positions `0..past + rows`, as in [`KvPlace`]; further ones are not read.
    pub pages: Vec<&'a [u8]>,
}

/// Stores the keys and values of rows of `qkv[m, (n_head + 2 n_kv_head) · head_dim]` in the pages of `places`.
///
/// For [`KvDtype::Int8`] each key and each value of a head is quantized on its own: a value as a row of
/// [`quantize_rows`](crate::quantize_rows) with `Int8` and no outliers is, a key so that
/// `q = round_half_even(fl(x · fl(508 / absmax)))`, `high = floor((q + 2) / 4)`, `low = q - 4 · high`, with
/// `scale = fl(absmax / 127)`; what holds for zeros, NaN and infinities there holds here.
///
/// # Panics
/// If `qkv` is not whole rows, a place's rows or positions or the length of its page are out of range, or `head_dim`
/// exceeds 65 535 for [`KvDtype::Int8`].
pub fn store_kv(
    cx: &Context,
    shape: &AttentionShape,
    dtype: KvDtype,
    qkv: &[f32],
    places: &mut [KvPlace<'_>],
) {
    let m = shape.check(dtype, qkv);
    for place in &*places {
        shape.check_page(dtype, place.page);
        let KvPlace { position, rows, .. } = place;
        assert!(
            rows.start <= rows.end && rows.end <= m && position + rows.len() <= PAGE,
            "attention: rows {rows:?} of {m} at position {position} of a page of {PAGE}"
        );
    }
    let threads = cx.threads_if(m * shape.n_kv_head * shape.head_dim >= STORE_PARALLEL);
    for_each_piece(threads, places, 1, |_, places| {
        for place in places {
            match dtype {
                KvDtype::F32 => float::store::<f32>(shape, qkv, place),
                KvDtype::F16 => float::store::<f16>(shape, qkv, place),
                KvDtype::Int8 => int8::store(cx.isa, shape, qkv, place),
            }
        }
    });
}

/// Rows of one run, for one tile of the output.
struct Rows<'a> {
    qkv: &'a [f32],
    /// The run's first row in the batch.
    start: usize,
    /// Positions before it.
    past: usize,
    pages: &'a [&'a [u8]],
}

impl Rows<'_> {
    /// The position of row `row` of the batch.
    fn position(&self, row: usize) -> usize {
        self.past + row - self.start
    }
}

/// Writes causal attention of the queries in `qkv[m, (n_head + 2 n_kv_head) · head_dim]` to
/// `y[m, n_head · head_dim]`; the rows are those of `runs`, one run after the other.
///
/// Row `i` of a run is at position `past + i` and sees the positions `0..=past + i` of its pages, which must already hold
/// its own (see [`store_kv`]); the keys and values in `qkv` are not read. A row's bits do not depend on the other rows of
/// the call, so prefill, decode and batches agree.
///
/// For [`KvDtype::F32`] and [`KvDtype::F16`] elements of the cache are widened to `f32`, which is exact. A score is
/// [`dot_f32`](crate::dot_f32) times `scale`; the softmax subtracts the row's maximum, uses [`exp`](crate::exp) and sums
/// over sixteen lanes of positions and the usual tree. Values are added up in order of position by fused multiply-add,
/// then multiplied by the reciprocal of the softmax's sum.
///
/// For [`KvDtype::Int8`] a query is quantized as a row of [`quantize_rows`](crate::quantize_rows) with `Int8x2` and no
/// outliers is, so that its rounding does not count beside a key's. With exact sums of integer products,
///
/// ```text
/// p     = fma(f32(Σ query_high · key_high), 128, fma(f32(Σ query_high · key_low), 32, f32(Σ query_low · key_high)))
/// score = fl(fl(p · fl(query_scale · key_scale)) · scale)
/// ```
///
/// The product of the two low parts is left out: it is far below what a key's rounding has already lost. The softmax is
/// the one above. Each exponential is then multiplied by its value's scale, and these weights are quantized as a query
/// is. With exact sums over positions,
///
/// ```text
/// p = fma(f32(Σ weight_high · value), 128, f32(Σ weight_low · value))
/// y = fl(p · fl(weight_scale · reciprocal))
/// ```
///
/// where `reciprocal` is that of the softmax's sum.
///
/// # Panics
/// If a length does not match `shape`, the runs do not have as many rows as `qkv`, a run has too few pages, or, for
/// [`KvDtype::Int8`], `head_dim` exceeds 65 535 or a run 131 072 positions.
///
/// Source: Vaswani et al. 2017 (arXiv:1706.03762), §3.2.1; for codes LLM.int8(), Dettmers et al. 2022
/// (arXiv:2208.07339), §2.1.
pub fn attention(
    cx: &Context,
    shape: &AttentionShape,
    dtype: KvDtype,
    qkv: &[f32],
    runs: &[KvRun<'_>],
    y: &mut [f32],
) {
    let m = shape.check(dtype, qkv);
    let width = shape.n_head * shape.head_dim;
    assert_eq!(y.len(), m * width, "attention: elements of y, m · n_head · head_dim with m = {m}");
    assert_eq!(runs.iter().map(|run| run.rows).sum::<usize>(), m, "attention: rows of the runs, of qkv");
    let row_block = if dtype == KvDtype::Int8 { int8::ROW_BLOCK } else { float::ROW_BLOCK };
    let (mut blocks, mut rows_of, mut start, mut products) = (Vec::new(), Vec::new(), 0, 0);
    for KvRun { rows, past, pages } in runs {
        let positions = past + rows;
        assert!(
            pages.len() >= positions.div_ceil(PAGE),
            "attention: {positions} positions in {} pages of {PAGE}",
            pages.len()
        );
        assert!(
            dtype != KvDtype::Int8 || positions <= int8::MAX_POSITIONS,
            "attention: {positions} positions are above {}, where i32 sums could overflow",
            int8::MAX_POSITIONS
        );
        pages.iter().for_each(|page| shape.check_page(dtype, page));
        products += rows * width * positions;
        for first in (start..start + rows).step_by(row_block) {
            blocks.push(first..(start + rows).min(first + row_block));
            rows_of.push(Rows { qkv, start, past: *past, pages });
        }
        start += rows;
    }
    let least = if dtype == KvDtype::Int8 { PARALLEL_INT8 } else { PARALLEL };
    let threads = cx.threads_if(products >= least);
    for_each_tile_of(threads, y, width, &blocks, shape.head_dim, |block, tile: &mut Tile<'_, f32>| {
        let rows = &rows_of[block];
        match dtype {
            KvDtype::F32 | KvDtype::F16 => float::attend(cx.isa, shape, dtype, rows, tile),
            KvDtype::Int8 => int8::attend(cx.isa, shape, rows, tile),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    const SHAPE: AttentionShape = AttentionShape { n_head: 2, n_kv_head: 1, head_dim: 2, scale: 0.5 };

    fn page(dtype: KvDtype) -> Vec<f32> {
        vec![f32::NAN; SHAPE.page_bytes(dtype).expect("a small page") / 4]
    }

    #[test]
    fn keys_and_values_land_at_their_position() {
        let mut page = page(KvDtype::F32);
        let place = KvPlace { page: bytemuck::cast_slice_mut(&mut page), position: 1, rows: 1..2 };
        let qkv = [[5.0; 8], [9.0, 9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0]].concat();
        store_kv(&Isa::SCALAR.into(), &SHAPE, KvDtype::F32, &qkv, &mut [place]);
        assert_eq!((&page[2..4], &page[130..132]), (&[1.0, 2.0][..], &[3.0, 4.0][..]));
        assert_eq!(page.iter().filter(|element| element.is_nan()).count(), 252);
    }

    #[test]
    fn weights_worked_out_by_hand() {
        // Position 1: head 0 scores both keys alike, head 1 prefers the second by 0.5 · 2 ln 3.
        let ln3 = 3.0_f32.ln();
        let mut page = page(KvDtype::F32);
        page[..4].copy_from_slice(&[0.0, 0.0, 1.0, 0.0]);
        page[128..132].copy_from_slice(&[1.0, 8.0, 5.0, 4.0]);
        let run = KvRun { rows: 1, past: 1, pages: vec![bytemuck::cast_slice(&page)] };
        let mut y = [0.0; 4];
        let qkv = [0.0, 1.0, 2.0 * ln3, 0.0, 0.0, 0.0, 0.0, 0.0];
        attention(&Isa::SCALAR.into(), &SHAPE, KvDtype::F32, &qkv, &[run], &mut y);
        for (y, want) in y.iter().zip([3.0, 6.0, 4.0, 5.0]) {
            assert!((y - want).abs() < 4.0 * f32::EPSILON * want, "{y} {want}");
        }
    }

    #[test]
    #[should_panic(expected = "65 positions in 1 pages of 64")]
    fn too_few_pages_panic() {
        let page = page(KvDtype::F16);
        let run = KvRun { rows: 2, past: 63, pages: vec![bytemuck::cast_slice(&page)] };
        attention(&Isa::SCALAR.into(), &SHAPE, KvDtype::F16, &[0.0; 16], &[run], &mut [0.0; 8]);
    }

    #[test]
    #[should_panic(expected = "rows 0..2 of 2 at position 63 of a page of 64")]
    fn a_full_page_panics() {
        let mut page = page(KvDtype::Int8);
        let place = KvPlace { page: bytemuck::cast_slice_mut(&mut page), position: 63, rows: 0..2 };
        store_kv(&Isa::SCALAR.into(), &SHAPE, KvDtype::Int8, &[0.0; 16], &mut [place]);
    }

    #[test]
    #[should_panic(expected = "bytes of a page in F32")]
    fn a_page_of_another_shape_panics() {
        let mut page = page(KvDtype::F16);
        let place = KvPlace { page: bytemuck::cast_slice_mut(&mut page), position: 0, rows: 0..1 };
        store_kv(&Isa::SCALAR.into(), &SHAPE, KvDtype::F32, &[0.0; 8], &mut [place]);
    }
}
