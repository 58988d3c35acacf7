//! `y = x · wᵀ` on weights in blocks: a few rows at a time are dequantized to f32 and multiplied as such.

use std::cell::RefCell;

use aibit_quant::{FOUR_BIT_BLOCK, FourBit, GROUP, NESTED_BLOCK};
use half::f16;

use crate::{
    Context, Epilogue,
    float::{ROW_BLOCK, tile_of},
    isa::dispatch,
    simd::{LANES, Simd},
    tiles::{Tile, for_each_tile},
};

/// Multiplications in a call below which one thread is faster than two.
const PARALLEL: usize = 64 * 1024;

/// Rows of weights that are dequantized at a time.
const COLUMN_BLOCK: usize = 16;
/// Most elements that a thread dequantizes at a time, unless one row has more: 16 MB. Real rows are far below.
const SCRATCH: usize = 1 << 22;

/// A matrix `w[n, k]` of codes with a scale for each block of a row, borrowed as it lies in memory.
#[derive(Debug, Clone, Copy)]
pub struct BlockMatrix<'a> {
    codes: Codes<'a>,
    scales: BlockScales<'a>,
    n: usize,
    k: usize,
}

#[derive(Debug, Clone, Copy)]
enum Codes<'a> {
    FourBit { codes: &'a [u8], kind: FourBit },
    Int4(&'a [u8]),
    Int8(&'a [i8]),
}

/// The scales of a matrix in blocks, those of a row side by side.
#[derive(Debug, Clone, Copy)]
pub enum BlockScales<'a> {
    /// As they are.
    F32(&'a [f32]),
    /// Widened, which is exact.
    F16(&'a [f16]),
    /// In a byte each: `fl(fl(map[code] * absmax[i / 256]) + offset)`.
    Nested {
        /// One code per scale.
        codes: &'a [u8],
        /// What each code stands for.
        map: &'a [f32; 256],
        /// One for each 256 scales.
        absmax: &'a [f32],
        /// Added to each.
        offset: f32,
    },
}

impl BlockScales<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(scales) => scales.len(),
            Self::F16(scales) => scales.len(),
            Self::Nested { codes, .. } => codes.len(),
        }
    }

    #[inline(always)]
    fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(scales) => scales[index],
            Self::F16(scales) => scales[index].to_f32(),
            Self::Nested { codes, map, absmax, offset } => {
                map[usize::from(codes[index])] * absmax[index / NESTED_BLOCK] + offset
            }
        }
    }
}

impl<'a> BlockMatrix<'a> {
    /// NF4 or FP4: `codes[n, k / 2]`, the first of two in the high bits; one scale for 64 elements.
    ///
    /// # Panics
    /// If `k` is not a multiple of 64, or a length does not match.
    pub fn four_bit(kind: FourBit, codes: &'a [u8], scales: BlockScales<'a>, n: usize, k: usize) -> Self {
        Self::new(Codes::FourBit { codes, kind }, 2 * codes.len(), FOUR_BIT_BLOCK, scales, n, k)
    }

    /// INT4 in groups of 32: `codes[n, k / 2]`, byte `j` of a group's sixteen holding the elements `j` (low bits) and
    /// `j + 16`, each plus 8.
    ///
    /// # Panics
    /// If `k` is not a multiple of 32, or a length does not match.
    pub fn int4_groups(codes: &'a [u8], scales: &'a [f16], n: usize, k: usize) -> Self {
        Self::new(Codes::Int4(codes), 2 * codes.len(), GROUP, BlockScales::F16(scales), n, k)
    }

    /// INT8 in groups of 32: `codes[n, k]`.
    ///
    /// # Panics
    /// If `k` is not a multiple of 32, or a length does not match.
    pub fn int8_groups(codes: &'a [i8], scales: &'a [f16], n: usize, k: usize) -> Self {
        Self::new(Codes::Int8(codes), codes.len(), GROUP, BlockScales::F16(scales), n, k)
    }

    fn new(
        codes: Codes<'a>,
        found: usize,
        block: usize,
        scales: BlockScales<'a>,
        n: usize,
        k: usize,
    ) -> Self {
        assert!(k.is_multiple_of(block), "BlockMatrix: k = {k} is not a multiple of {block}");
        assert_eq!(Some(found), n.checked_mul(k), "BlockMatrix: codes, n · k with n = {n}, k = {k}");
        assert_eq!(scales.len(), n * k / block, "BlockMatrix: scales, n · k / {block} with n = {n}, k = {k}");
        if let BlockScales::Nested { codes, absmax, .. } = scales {
            let expected = codes.len().div_ceil(NESTED_BLOCK);
            assert_eq!(absmax.len(), expected, "BlockMatrix: absmax of the scales");
        }
        Self { codes, scales, n, k }
    }

    /// The number of outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The number of inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Writes row `row` to `out`, `k` elements: each `fl(value · scale)`.
    #[inline(always)]
    fn dequantize<S: Simd>(&self, simd: S, row: usize, out: &mut [f32]) {
        match self.codes {
            Codes::FourBit { codes, kind } => {
                let table = simd.load(kind.table());
                let codes = &codes[row * self.k / 2..][..self.k / 2];
                let first = row * self.k / FOUR_BIT_BLOCK;
                let blocks = out.as_chunks_mut::<FOUR_BIT_BLOCK>().0;
                for (block, (out, codes)) in blocks.iter_mut().zip(codes.chunks_exact(32)).enumerate() {
                    let scale = simd.splat(self.scales.get(first + block));
                    let chunks = out.as_chunks_mut::<LANES>().0;
                    for (out, codes) in chunks.iter_mut().zip(codes.as_chunks::<{ LANES / 2 }>().0) {
                        let mut indices = [0; LANES];
                        for (pair, code) in indices.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                            *pair = [code >> 4, code & 15];
                        }
                        simd.store(simd.mul(simd.lookup(table, &indices), scale), out);
                    }
                }
            }
            Codes::Int4(codes) => {
                let codes = &codes[row * self.k / 2..][..self.k / 2];
                self.dequantize_groups(simd, row, codes.as_chunks().0, out, |codes: &[u8; GROUP / 2]| {
                    let mut values = [[0_i8; LANES]; 2];
                    for l in 0..LANES {
                        values[0][l] = (codes[l] & 15) as i8 - 8;
                        values[1][l] = (codes[l] >> 4) as i8 - 8;
                    }
                    values
                });
            }
            Codes::Int8(codes) => {
                let codes = &codes[row * self.k..][..self.k];
                self.dequantize_groups(simd, row, codes.as_chunks().0, out, |codes: &[i8; GROUP]| {
                    let mut values = [[0; LANES]; 2];
                    values.as_flattened_mut().copy_from_slice(codes);
                    values
                });
            }
        }
    }

    #[inline(always)]
    fn dequantize_groups<S: Simd, G>(
        &self,
        simd: S,
        row: usize,
        groups: &[G],
        out: &mut [f32],
        values: impl Fn(&G) -> [[i8; LANES]; 2],
    ) {
        let first = row * self.k / GROUP;
        for (index, (out, group)) in out.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups).enumerate() {
            let scale = simd.splat(self.scales.get(first + index));
            for (out, values) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(&values(group)) {
                simd.store(simd.mul(simd.load_i8(values), scale), out);
            }
        }
    }
}

/// Computes `x[m, k] · w[n, k]ᵀ`, applies `epilogue` and writes the result to `y[m, n]`, as [`linear_float`](crate::linear_float) does with the
/// dequantized weights: each element is `fl(value · scale)`, each sum [`dot_f32`](crate::dot_f32).
///
/// # Panics
/// If `x` is not `m · k`, the bias not `n` or `y` not `m · n` long.
pub fn linear_blocks(
    cx: &Context,
    x: &[f32],
    w: &BlockMatrix<'_>,
    m: usize,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let BlockMatrix { n, k, .. } = *w;
    assert_eq!(x.len(), m * k, "linear_blocks: elements of x, m · k with m = {m}, k = {k}");
    assert_eq!(y.len(), m * n, "linear_blocks: elements of y, m · n with m = {m}, n = {n}");
    epilogue.check("linear_blocks", n);
    let column_block = (SCRATCH / k.max(1)).clamp(1, COLUMN_BLOCK);
    for_each_tile(cx.threads_if(m * n * k >= PARALLEL), y, n, ROW_BLOCK, column_block, |tile| {
        ROWS.with_borrow_mut(|rows| {
            dispatch!(cx.isa => multiply(
                x: &[f32], w: &BlockMatrix<'_>, epilogue: &Epilogue<'_>, rows: &mut Vec<f32>, tile: &mut Tile<'_, f32>,
            ));
        });
    });
}

thread_local! {
    /// Dequantized rows.
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[inline(always)]
fn multiply<S: Simd>(
    simd: S,
    x: &[f32],
    w: &BlockMatrix<'_>,
    epilogue: &Epilogue<'_>,
    rows: &mut Vec<f32>,
    tile: &mut Tile<'_, f32>,
) {
    let (columns, k) = (tile.columns(), w.k);
    rows.resize(rows.len().max(columns.len() * k), 0.0);
    let rows = &mut rows[..columns.len() * k];
    for (i, column) in columns.enumerate() {
        w.dequantize(simd, column, &mut rows[i * k..][..k]);
    }
    tile_of(simd, x, rows, k, epilogue, tile);
}

/// Copies row `ids[i]` of `w[n, k]` to row `i` of `y[m, k]`, dequantized.
///
/// # Panics
/// If `y` is not `ids.len() · k` long, or an id is not below `n`.
pub fn embed_blocks(cx: &Context, w: &BlockMatrix<'_>, ids: &[u32], y: &mut [f32]) {
    crate::embed::check(ids, w.n, w.k, y);
    for (i, id) in ids.iter().enumerate() {
        let (row, y) = (*id as usize, &mut y[i * w.k..][..w.k]);
        dispatch!(cx.isa => dequantize_row(w: &BlockMatrix<'_>, row: usize, y: &mut [f32]));
    }
}

#[inline(always)]
fn dequantize_row<S: Simd>(simd: S, w: &BlockMatrix<'_>, row: usize, y: &mut [f32]) {
    w.dequantize(simd, row, y);
}
