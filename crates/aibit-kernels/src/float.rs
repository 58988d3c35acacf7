//! `y = x · wᵀ` on floating-point weights, with one fixed order of summation.

use half::{bf16, f16};

use crate::{
    Context, Epilogue,
    isa::{Isa, dispatch},
    simd::{LANES, Simd},
    tiles::{Tile, for_each_tile},
};

/// Multiplications in a call below which one thread is faster than two.
const PARALLEL: usize = 64 * 1024;

/// Rows of `x` in a tile of `y`: with a panel of weight rows they stay in the second-level cache.
pub(crate) const ROW_BLOCK: usize = 64;

/// A row-major matrix of floating-point weights, borrowed as it lies in memory.
#[derive(Debug, Clone, Copy)]
pub enum FloatMatrix<'a> {
    /// 32-bit elements.
    F32(&'a [f32]),
    /// IEEE half precision; widened to `f32` (exactly) before it is multiplied.
    F16(&'a [f16]),
    /// bfloat16; widened to `f32` (exactly) before it is multiplied.
    Bf16(&'a [bf16]),
}

impl FloatMatrix<'_> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(w) => w.len(),
            Self::F16(w) => w.len(),
            Self::Bf16(w) => w.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bytes_per_element(&self) -> usize {
        match self {
            Self::F32(_) => 4,
            Self::F16(_) | Self::Bf16(_) => 2,
        }
    }
}

/// The dot product of two vectors, in the order of summation that every kernel here uses.
///
/// Lane `l` of sixteen starts at `+0.0` and takes the elements `l`, `l + 16`, `l + 32`, ... by fused
/// multiply-add; a ragged end is filled up with `0 · 0` (which turns a `-0.0` lane into `+0.0`).
/// Then lanes `i` and `i + 8` are added, then `i` and `i + 4`, `i + 2`, `i + 1`.
///
/// # Panics
/// If the lengths differ.
pub fn dot_f32(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot_f32: lengths of a and b");
    dispatch!(isa => dot_1(a: &[f32], b: &[f32]) -> f32)
}

/// Computes `x[m, k] · w[n, k]ᵀ`, applies `epilogue` and writes the result to `y[m, n]`. Each sum is [`dot_f32`] of its two rows.
///
/// # Panics
/// If `x` is not `m · k`, `w` not `n · k`, the bias not `n` or `y` not `m · n` long.
#[expect(clippy::too_many_arguments, reason = "two matrices, their three sizes, an epilogue and an output")]
pub fn linear_float(
    cx: &Context,
    x: &[f32],
    w: FloatMatrix<'_>,
    m: usize,
    n: usize,
    k: usize,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    assert_eq!(x.len(), m * k, "linear_float: elements of x, m · k with m = {m}, k = {k}");
    assert_eq!(w.len(), n * k, "linear_float: elements of w, n · k with n = {n}, k = {k}");
    assert_eq!(y.len(), m * n, "linear_float: elements of y, m · n with m = {m}, n = {n}");
    epilogue.check("linear_float", n);
    let row_bytes = (k * w.bytes_per_element()).max(1);
    let column_block = if m == 1 { (128 * 1024 / row_bytes).next_multiple_of(16) } else { 64 };
    for_each_tile(cx.threads_if(m * n * k >= PARALLEL), y, n, ROW_BLOCK, column_block.max(16), |tile| {
        dispatch!(cx.isa => tile_loop(x: &[f32], w: FloatMatrix<'_>, k: usize, epilogue: &Epilogue<'_>, tile: &mut Tile<'_, f32>));
    });
}

/// A stored weight that sixteen lanes can be loaded from.
pub(crate) trait Element: Copy {
    const ZERO: Self;
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F32x16;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[f32; LANES]) -> S::F32x16 {
        simd.load(x)
    }
}

/// A code is its own number; whoever multiplies with it applies its scale elsewhere.
impl Element for i8 {
    const ZERO: Self = 0;
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[i8; LANES]) -> S::F32x16 {
        simd.load_i8(x)
    }
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[f16; LANES]) -> S::F32x16 {
        simd.load_f16(x)
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[bf16; LANES]) -> S::F32x16 {
        simd.load_bf16(x)
    }
}

#[inline(always)]
fn dot_1<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    dots::<S, f32, 1, 1>(simd, [a], [b])[0][0]
}

#[inline(always)]
fn tile_loop<S: Simd>(
    simd: S,
    x: &[f32],
    w: FloatMatrix<'_>,
    k: usize,
    epilogue: &Epilogue<'_>,
    tile: &mut Tile<'_, f32>,
) {
    let columns = tile.columns();
    let weights = columns.start * k..columns.end * k;
    match w {
        FloatMatrix::F32(w) => tile_of(simd, x, &w[weights], k, epilogue, tile),
        FloatMatrix::F16(w) => tile_of(simd, x, &w[weights], k, epilogue, tile),
        FloatMatrix::Bf16(w) => tile_of(simd, x, &w[weights], k, epilogue, tile),
    }
}

/// The tile's rows of `x` times `w`, the weights of the tile's columns.
#[inline(always)]
pub(crate) fn tile_of<S: Simd, W: Element>(
    simd: S,
    x: &[f32],
    w: &[W],
    k: usize,
    epilogue: &Epilogue<'_>,
    tile: &mut Tile<'_, f32>,
) {
    let rows = tile.rows();
    let mut row = rows.start;
    while row < rows.end {
        if S::TILE == 4 && row + 4 <= rows.end {
            columns_of::<S, W, 4, 4>(simd, x, w, k, epilogue, tile, row);
            row += 4;
        } else if S::TILE >= 2 && row + 2 <= rows.end {
            columns_of::<S, W, 2, 2>(simd, x, w, k, epilogue, tile, row);
            row += 2;
        } else {
            columns_of::<S, W, 1, 4>(simd, x, w, k, epilogue, tile, row);
            row += 1;
        }
    }
}

/// All columns of the tile for `MR` rows of `x`, `NR` columns at a time.
#[inline(always)]
fn columns_of<S: Simd, W: Element, const MR: usize, const NR: usize>(
    simd: S,
    x: &[f32],
    w: &[W],
    k: usize,
    epilogue: &Epilogue<'_>,
    tile: &mut Tile<'_, f32>,
    row: usize,
) {
    let columns = tile.columns();
    let x: [&[f32]; MR] = std::array::from_fn(|r| &x[(row + r) * k..][..k]);
    for first in columns.clone().step_by(LANES) {
        let count = (columns.end - first).min(LANES);
        let mut lanes = [[0.0; LANES]; MR];
        let mut c = 0;
        while c + NR <= count {
            let w: [&[W]; NR] = std::array::from_fn(|i| &w[(first - columns.start + c + i) * k..][..k]);
            let sums = dots::<S, W, MR, NR>(simd, x, w);
            for r in 0..MR {
                lanes[r][c..c + NR].copy_from_slice(&sums[r]);
            }
            c += NR;
        }
        while c < count {
            let sums = dots::<S, W, MR, 1>(simd, x, [&w[(first - columns.start + c) * k..][..k]]);
            for r in 0..MR {
                lanes[r][c] = sums[r][0];
            }
            c += 1;
        }
        let epilogue = epilogue.of(simd, first..first + count);
        for r in 0..MR {
            let y = &mut tile.row_mut(row + r)[first - columns.start..][..count];
            epilogue.write(y, simd.load(&lanes[r]));
        }
    }
}

/// `MR` by `NR` dot products, all of one length, each in the order of [`dot_f32`].
#[inline(always)]
pub(crate) fn dots<S: Simd, W: Element, const MR: usize, const NR: usize>(
    simd: S,
    x: [&[f32]; MR],
    w: [&[W]; NR],
) -> [[f32; NR]; MR] {
    let chunks = x[0].len() / LANES;
    let tail = x[0].len() % LANES;
    let x_chunks: [&[[f32; LANES]]; MR] = std::array::from_fn(|r| &x[r].as_chunks().0[..chunks]);
    let w_chunks: [&[[W; LANES]]; NR] = std::array::from_fn(|c| &w[c].as_chunks().0[..chunks]);
    let mut sums = [[simd.splat(0.0); NR]; MR];
    for i in 0..chunks {
        let w: [S::F32x16; NR] = std::array::from_fn(|c| W::load(simd, &w_chunks[c][i]));
        for r in 0..MR {
            let x = simd.load(&x_chunks[r][i]);
            for c in 0..NR {
                sums[r][c] = simd.mul_add(x, w[c], sums[r][c]);
            }
        }
    }
    if tail > 0 {
        let x: [S::F32x16; MR] = std::array::from_fn(|r| simd.load(&padded(&x[r][chunks * LANES..][..tail])));
        for c in 0..NR {
            let w = W::load(simd, &padded(&w[c][chunks * LANES..][..tail]));
            for r in 0..MR {
                sums[r][c] = simd.mul_add(x[r], w, sums[r][c]);
            }
        }
    }
    let mut y = [[0.0; NR]; MR];
    for (y, sums) in y.iter_mut().zip(&sums) {
        if let (Ok(y), Ok(sums)) =
            (<&mut [f32; 4]>::try_from(&mut y[..]), <&[S::F32x16; 4]>::try_from(&sums[..]))
        {
            *y = simd.sum4(*sums);
        } else {
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = simd.sum(*sum);
            }
        }
    }
    y
}

/// Sixteen elements: `x`, then zeros.
#[inline(always)]
pub(crate) fn padded<W: Element>(x: &[W]) -> [W; LANES] {
    let mut lanes = [W::ZERO; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_worked_out_by_hand() {
        let mut y = [0.0; 4];
        let (x, w) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, -1.0, 2.0, 2.0, 2.0]);
        linear_float(
            &Isa::SCALAR.into(),
            &x,
            FloatMatrix::F32(&w),
            2,
            2,
            3,
            &Epilogue::with_bias(Some(&[0.5, -1.0])),
            &mut y,
        );
        assert_eq!(y, [-1.5, 11.0, -1.5, 29.0]);
    }

    #[test]
    fn no_inputs_give_the_bias() {
        let mut y = [9.0; 4];
        linear_float(
            &Isa::best().into(),
            &[],
            FloatMatrix::F32(&[]),
            2,
            2,
            0,
            &Epilogue::with_bias(Some(&[0.5, -1.0])),
            &mut y,
        );
        assert_eq!(y, [0.5, -1.0, 0.5, -1.0]);
    }

    #[test]
    fn the_order_of_summation_is_the_documented_one() {
        // 1e8 meets -1e8 in the first step of the tree (lanes 0 and 8), so the 1.0 in lane 4 survives.
        let mut a = [0.0; 16];
        (a[0], a[8], a[4]) = (1e8, -1e8, 1.0);
        assert_eq!(dot_f32(Isa::SCALAR, &a, &[1.0; 16]), 1.0);
        // Lanes 0 and 4 meet before lane 2 does: the 1.0 is absorbed by 1e8.
        let mut a = [0.0; 16];
        (a[0], a[4], a[2]) = (1e8, 1.0, -1e8);
        assert_eq!(dot_f32(Isa::SCALAR, &a, &[1.0; 16]), 0.0);
    }

    #[test]
    #[should_panic(expected = "n · k with n = 2, k = 3")]
    fn a_wrong_shape_panics_with_the_sizes() {
        linear_float(
            &Isa::SCALAR.into(),
            &[0.0; 3],
            FloatMatrix::F32(&[0.0; 5]),
            1,
            2,
            3,
            &Epilogue::default(),
            &mut [0.0; 2],
        );
    }
}
