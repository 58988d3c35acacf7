//! Causal attention over a KV cache in INT8: a byte for each element of a value, ten bits for each of a key.
//!
//! An error of a value is averaged over what a row attends to; one of a key goes through the exponential. So keys have
//! two bits more, which cost a quarter of a byte and one product in three.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::cell::RefCell;

use super::{AttentionShape, KvPlace, PAGE, Rows};
use crate::{
    epilogue::store as store_vector,
    int8::{ByteAlone, Steps, TwoBytesAlone},
    isa::{Isa, dispatch},
    math::{ROUND, exp},
    simd::{Factors, LANES, Simd},
    tiles::Tile,
};

/// Rows of queries in a tile; what the last level of cache holds of a head's keys and values serves all of them.
pub(super) const ROW_BLOCK: usize = 32;

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
pub(super) const MAX_POSITIONS: usize = 131_072;

/// Blocks of a page.
const PAGE_BLOCKS: usize = PAGE / BLOCK;

/// The sizes of one head's part of a page of codes, in lines of 64 bytes.
///
/// A page holds the keys of all heads, then the values, the scales of keys and the scales of values. A value is
/// `x ≈ scale · code`, a key `x ≈ scale · (high + low / 4)`, `code` and `high` in `-127..=127` and `low` in `-2..=1`. What
/// a place that was never stored to holds does not matter.
///
/// - Keys are `[PAGE / 16, lines, 16, 4]` bytes: sixteen positions lie together, and of each of them four elements, so
///   that one `vpdpbusd` multiplies sixteen keys with four elements of a query. Of the lines of a block the first
///   `head_dim / 4`, rounded up, hold `high` with its sign bit flipped (`high + 128`), four elements each; the other
///   `head_dim / 16` hold `low + 2` in two bits, line `g` those of the lines `4g..4g + 4`, the first in the lowest bits.
/// - Values are `[PAGE / 4, head_dim / 16, 16, 4]` bytes, the quotient rounded up: codes with their sign bits flipped. Four
///   positions lie together, so that one `vpdpbusd` multiplies sixteen elements of each with a weight.
/// - Scales are F32, `[PAGE]`.
#[derive(Debug, Clone, Copy)]
struct Lines {
    /// Of high bytes, of one block of keys.
    quads: usize,
    /// Of one block of keys.
    block: usize,
    /// Of the values of four positions.
    chunks: usize,
}

impl Lines {
    const BYTES: usize = 4 * LANES;

    /// Of the scales of keys, or of values.
    const SCALES: usize = PAGE * size_of::<f32>() / Self::BYTES;

    fn of(head_dim: usize) -> Self {
        let quads = head_dim.div_ceil(4);
        Self { quads, block: quads + quads.div_ceil(4), chunks: head_dim.div_ceil(LANES) }
    }

    fn keys(self) -> usize {
        PAGE_BLOCKS * self.block
    }

    fn values(self) -> usize {
        PAGE / QUAD * self.chunks
    }
}

/// The bytes of one head's part of a page.
pub(super) fn head_bytes(head_dim: usize) -> Option<usize> {
    // Two and a quarter bytes for an element, rounded up generously: what is computed below is smaller.
    head_dim.checked_next_multiple_of(LANES)?.checked_mul(4 * PAGE)?;
    let lines = Lines::of(head_dim);
    Some((lines.keys() + lines.values() + 2 * Lines::SCALES) * Lines::BYTES)
}

pub(super) fn check(shape: &AttentionShape) {
    assert!(
        shape.head_dim <= MAX_HEAD_DIM,
        "attention: head_dim {} is above {MAX_HEAD_DIM}, where i32 sums could overflow",
        shape.head_dim
    );
}

/// Quantizes the keys and values of some rows to their places in a page.
pub(super) fn store(isa: Isa, shape: &AttentionShape, qkv: &[f32], place: &mut KvPlace<'_>) {
    SCRATCH.with_borrow_mut(|scratch| {
        dispatch!(isa => store_rows(
            shape: &AttentionShape, qkv: &[f32], scratch: &mut Scratch, place: &mut KvPlace<'_>,
        ));
    });
}

#[inline(always)]
fn store_rows<S: Simd>(
    simd: S,
    shape: &AttentionShape,
    qkv: &[f32],
    Scratch { codes, rests, .. }: &mut Scratch,
    place: &mut KvPlace<'_>,
) {
    let (d, lines) = (shape.head_dim, Lines::of(shape.head_dim));
    let quads = lines.quads;
    codes.resize(codes.len().max(4 * quads + d), 0);
    let (high, value_codes) = codes[..4 * quads + d].split_at_mut(4 * quads);
    rests.resize(rests.len().max(16 * quads.div_ceil(4)), 0);
    let low = &mut rests[..16 * quads.div_ceil(4)];
    let (keys, rest) = place.page.split_at_mut(shape.n_kv_head * lines.keys() * Lines::BYTES);
    let (values, scales) = rest.split_at_mut(shape.n_kv_head * lines.values() * Lines::BYTES);
    let (keys, values) =
        (keys.as_chunks_mut::<{ Lines::BYTES }>().0, values.as_chunks_mut::<{ Lines::BYTES }>().0);
    let scales: &mut [f32] = bytemuck::cast_slice_mut(scales);
    let (key_scales, value_scales) = scales.split_at_mut(shape.n_kv_head * PAGE);
    let rows = qkv.chunks_exact(shape.qkv_width()).skip(place.rows.start).take(place.rows.len());
    for (row, position) in rows.zip(place.position..) {
        for head in 0..shape.n_kv_head {
            let key = &row[(shape.n_head + head) * d..][..d];
            let value = &row[(shape.n_head + shape.n_kv_head + head) * d..][..d];
            key_scales[head * PAGE + position] = quantize_key(key, high, low);
            let block = (head * PAGE_BLOCKS + position / BLOCK) * lines.block;
            let (high_lines, low_lines) = keys[block..][..lines.block].split_at_mut(quads);
            let at = position % BLOCK * 4;
            for (line, quad) in high_lines.iter_mut().zip(high.as_chunks::<4>().0) {
                line[at..at + 4].copy_from_slice(&quad.map(|code| (code as u8) ^ 0x80));
            }
            for (line, quads) in low_lines.iter_mut().zip(low.as_chunks::<4>().0.as_chunks::<4>().0) {
                let [a, b, c, d] = quads.map(u32::from_le_bytes);
                line[at..at + 4].copy_from_slice(&(a | b << 2 | c << 4 | d << 6).to_le_bytes());
            }
            value_scales[head * PAGE + position] = quantize(simd, value, value_codes);
            let first = head * lines.values() + position / QUAD * lines.chunks;
            let places = values[first..][..lines.chunks].as_flattened_mut().as_chunks_mut::<QUAD>().0;
            for (place, code) in places.iter_mut().zip(&*value_codes) {
                place[position % QUAD] = (*code as u8) ^ 0x80;
            }
        }
    }
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

/// The keys and values of one head.
#[derive(Clone, Copy)]
struct Head<'a> {
    pages: &'a [&'a [u8]],
    shape: &'a AttentionShape,
    kv_head: usize,
    lines: Lines,
}

impl<'a> Head<'a> {
    /// The lines of a block of keys.
    #[inline(always)]
    fn keys(&self, block: usize) -> &'a [[u8; Lines::BYTES]] {
        let (page, block) = (block / PAGE_BLOCKS, block % PAGE_BLOCKS);
        let start = (self.kv_head * PAGE_BLOCKS + block) * self.lines.block;
        &self.pages[page].as_chunks().0[start..][..self.lines.block]
    }

    /// The lines of the values of a block's positions.
    #[inline(always)]
    fn values(&self, block: usize) -> &'a [[u8; Lines::BYTES]] {
        let (page, block) = (block / PAGE_BLOCKS, block % PAGE_BLOCKS);
        let (keys, length) = (self.shape.n_kv_head * self.lines.keys(), BLOCK / QUAD * self.lines.chunks);
        let start = keys + self.kv_head * self.lines.values() + block * length;
        &self.pages[page].as_chunks().0[start..][..length]
    }

    #[inline(always)]
    fn key_scales(&self, block: usize) -> &'a [f32; BLOCK] {
        self.scales(block, self.kv_head)
    }

    #[inline(always)]
    fn value_scales(&self, block: usize) -> &'a [f32; BLOCK] {
        self.scales(block, self.shape.n_kv_head + self.kv_head)
    }

    #[inline(always)]
    fn scales(&self, block: usize, part: usize) -> &'a [f32; BLOCK] {
        let (page, block) = (block / PAGE_BLOCKS, block % PAGE_BLOCKS);
        let codes = self.shape.n_kv_head * (self.lines.keys() + self.lines.values());
        let line = codes + part * PAGE_BLOCKS + block;
        let scales: &[f32] = bytemuck::cast_slice(&self.pages[page][line * Lines::BYTES..][..Lines::BYTES]);
        scales.as_chunks().0.first().expect("a line is sixteen scales")
    }
}

/// Some rows of one head.
#[derive(Clone, Copy)]
struct Group<'a> {
    /// From the first element of the first row's query on; the next row's is `qkv_width` further.
    queries: &'a [f32],
    /// The position of the first row.
    first: usize,
    count: usize,
    kv: Head<'a>,
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
        &self.queries[row * self.kv.shape.qkv_width()..][..self.kv.shape.head_dim]
    }
}

/// Attention of one head for the rows of the tile.
pub(super) fn attend(isa: Isa, shape: &AttentionShape, rows: &Rows<'_>, tile: &mut Tile<'_, f32>) {
    SCRATCH.with_borrow_mut(|scratch| head_rows(isa, shape, rows, scratch, tile));
}

fn head_rows(
    isa: Isa,
    shape: &AttentionShape,
    rows: &Rows<'_>,
    scratch: &mut Scratch,
    tile: &mut Tile<'_, f32>,
) {
    let (d, lines) = (shape.head_dim, Lines::of(shape.head_dim));
    let head = tile.columns().start / d;
    let kv = Head { pages: rows.pages, shape, kv_head: head / (shape.n_head / shape.n_kv_head), lines };
    for row in tile.rows().step_by(GROUP) {
        let queries = &rows.qkv[row * shape.qkv_width() + head * d..];
        let count = GROUP.min(tile.rows().end - row);
        let group = Group { queries, first: rows.position(row), count, kv };
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
    let (quads, blocks, kv) = (group.kv.lines.quads, group.blocks(), group.kv);
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
    let scale = simd.splat(kv.shape.scale);
    for block in 0..blocks {
        let (high_lines, low_lines) = kv.keys(block).split_at(quads);
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
        let key_scales = simd.load(kv.key_scales(block));
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
        for (index, block) in scores.iter_mut().enumerate() {
            let scales = group.kv.value_scales(index);
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
    let chunks = group.kv.lines.chunks;
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
    let (chunks, blocks) = (group.kv.lines.chunks, group.blocks());
    let rows: [&[[[i8; BLOCK]; 2]]; MR] = std::array::from_fn(|r| &weights[r * blocks..][..blocks]);
    let mut sums = [[[simd.splat_i32(0); 2]; NC]; MR];
    for r in 0..MR {
        // Takes back what making the values' codes unsigned adds.
        let [high, low] = encoded[r].sums;
        let starts = [-simd.excess(high, 0), -128 * low].map(|start| simd.splat_i32(start));
        sums[r] = [starts; NC];
    }
    for block in 0..blocks {
        let values = group.kv.values(block);
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
            store_vector(simd, sum, y);
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
    use crate::{KvDtype, KvRun, attention, store_kv};

    const SHAPE: AttentionShape = AttentionShape { n_head: 1, n_kv_head: 1, head_dim: 5, scale: 0.5 };

    #[test]
    fn keys_and_values_land_in_their_block() {
        for isa in Isa::available() {
            let key = [127.0, 0.625, 1.25, -127.0, -2.875]; // in quarters: 508, 2.5, 5, -508, -11.5
            let qkv = [[0.0; 5], key, [0.0, 0.0, 254.0, -3.0, 1.0]].concat();
            let mut page = vec![7; SHAPE.page_bytes(KvDtype::Int8).expect("a small page")];
            let place = KvPlace { page: &mut page, position: 16, rows: 0..1 };
            store_kv(&isa.into(), &SHAPE, KvDtype::Int8, &qkv, &mut [place]);
            // Four blocks of keys, three lines each. The second block's first position. The bytes 127, 1, 1, -127 and -3
            // with flipped sign bits, and what is left of each: 0, -2, 1, 0 and 0, plus two, the fifth in the third and
            // fourth bits.
            let mut want = vec![7; 12 * 64 + 16 * 64 + 2 * 256];
            want[192..196].copy_from_slice(&[255, 129, 129, 1]);
            want[256..260].copy_from_slice(&[125, 128, 128, 128]);
            want[320..324].copy_from_slice(&[0b1010_1010, 0b1010_1000, 0b1010_1011, 0b1010_1010]);
            // Sixteen lines of values, of which the fifth begins with position 16.
            for (element, code) in [128, 128, 255, 126, 128].into_iter().enumerate() {
                want[768 + 4 * 64 + 4 * element] = code; // 0, 0, 127, -1.5 and 0.5 to even, with flipped sign bits
            }
            want[1792 + 64..][..4].copy_from_slice(&1.0_f32.to_le_bytes());
            want[2048 + 64..][..4].copy_from_slice(&2.0_f32.to_le_bytes());
            assert_eq!(page, want, "{isa}");
        }
    }

    #[test]
    fn weights_worked_out_by_hand() {
        // The second key scores 2 · 0.5 · ln 2 more, so its weight is twice the first's.
        let shape = AttentionShape { head_dim: 2, ..SHAPE };
        let ln2 = 2.0_f32.ln();
        let qkv = [[0.0, 0.0, 0.0, 0.0, 127.0, 1.0], [2.0 * ln2, 0.0, 1.0, 0.0, 127.0, -7.0]].concat();
        for isa in Isa::available() {
            let cx = isa.into();
            let mut page = vec![7; shape.page_bytes(KvDtype::Int8).expect("a small page")];
            let place = KvPlace { page: &mut page, position: 0, rows: 0..2 };
            store_kv(&cx, &shape, KvDtype::Int8, &qkv, &mut [place]);
            let run = KvRun { rows: 2, past: 0, pages: vec![&page] };
            let mut y = [0.0; 4];
            attention(&cx, &shape, KvDtype::Int8, &qkv, &[run], &mut y);
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
}
