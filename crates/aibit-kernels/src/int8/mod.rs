//! INT8 linear layers: exact integer products, scaled once per output.

#[cfg(target_arch = "x86_64")]
mod ahead;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod finish;
#[cfg(target_arch = "x86_64")]
mod groups;
mod quantize;
mod scalar;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

pub use quantize::{ActivationPrecision, QuantizedRows, quantize_rows};
pub(crate) use quantize::{ByteAlone, Steps, TwoBytesAlone};

use self::finish::{add_outliers, gate_tile, scale_tile};
#[cfg(target_arch = "x86_64")]
use self::{ahead::Ahead, groups::groups};
use crate::{
    Activation, Context, Epilogue,
    activation::gated_activation,
    isa::{Isa, Level, dispatch},
    read::RUNS,
    simd::{LANES, prefetch},
    tiles::{Tile, for_each_stripe, for_each_tile},
};

/// The largest `k` for which `k · 128 · 128` fits an `i32`.
const MAX_K: usize = 131_071;

/// The same where outliers, at most one element in 128 (or eight), have 128 times a further digit: `2 k · 127 · 128`.
const MAX_K_DIGITS: usize = 65_535;

/// The same with a zero point, `k · 254 · 128`, and the outliers.
const MAX_K_ASYM: usize = 32_767;

/// Rows of `x` up to which each is multiplied on its own, straight from the weights as they lie; more
/// rows repay rearranging a panel of weights first.
const FEW_ROWS: usize = 4;

/// Outputs that a panel of rearranged weights yields, and the unit in which accumulators are laid out.
const PANEL: usize = 32;

/// Rows of `x` that share one rearranged panel of weights.
const ROW_BLOCK: usize = 256;

/// Columns of each run of the weights in a piece, at most.
const MAX_STRIPE: usize = 512;

/// Multiplications in a call below which one thread is faster than two.
const PARALLEL: usize = 256 * 1024;

/// Row-wise INT8 weights, borrowed as they lie in memory: `w[n, k] ≈ absmax[n] / 127 · code[n, k]`.
#[derive(Debug, Clone, Copy)]
pub struct Int8Rowwise<'a> {
    codes: &'a [i8],
    absmax: &'a [f32],
    n: usize,
    k: usize,
}

impl<'a> Int8Rowwise<'a> {
    /// Weights of `n` outputs and `k` inputs: `codes[n, k]` row-major, `absmax[n]`.
    ///
    /// # Panics
    /// If `codes` is not `n · k` or `absmax` not `n` long, or if `k` exceeds 131 071, beyond which a
    /// sum of products could overflow `i32`.
    pub fn new(codes: &'a [i8], absmax: &'a [f32], n: usize, k: usize) -> Self {
        assert_eq!(Some(codes.len()), n.checked_mul(k), "Int8Rowwise: codes, n · k with n = {n}, k = {k}");
        assert_eq!(absmax.len(), n, "Int8Rowwise: length of absmax, n");
        assert!(k <= MAX_K, "Int8Rowwise: k = {k} is above {MAX_K}, where i32 sums could overflow");
        Self { codes, absmax, n, k }
    }

    /// The codes, `[n, k]` row-major.
    pub fn codes(&self) -> &'a [i8] {
        self.codes
    }

    /// The largest absolute value of each row, not divided by 127.
    pub fn absmax(&self) -> &'a [f32] {
        self.absmax
    }

    /// The number of outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The number of inputs.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// A row whose product with the weights is the sums of their codes.
static ONES: [i8; MAX_K_ASYM.next_multiple_of(4)] = [1; MAX_K_ASYM.next_multiple_of(4)];

/// Computes `x[m, k] · w[n, k]ᵀ`, applies `epilogue` and writes the result to `y[m, n]`.
///
/// The sum is `fl(acc · fl(x_scale · w_scale))` with `w_scale = fl(absmax / 127)` and `acc`, from the exact integer
/// products of codes,
///
/// | precision | `acc` |
/// | --- | --- |
/// | `Int8` | `f32(Σ x·w + 128 · Σ first·w)` |
/// | `Int8Asym` | `f32(Σ x·w + 128 · Σ first·w - zero · Σ w)` |
/// | `Int8x2` | `fma(f32(Σ high·w), 128, f32(Σ low·w))` |
///
/// with sums of outliers' digits beside those of codes. If any outlier of the row has a second digit, `acc` becomes
/// `fma(f32(Σ second·w), 16384, acc)`.
///
/// # Panics
/// If `k` of `x` and `w` differ, the bias is not `n` long or `y` not `m · n`, or if `k` exceeds 65 535, or 32 767 for
/// `Int8Asym`: sums could overflow `i32` beyond.
///
/// Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), §3, with outliers per row instead of
/// per column, so that a token's result does not depend on the other tokens of the call.
pub fn linear_int8(
    cx: &Context,
    x: &QuantizedRows,
    w: &Int8Rowwise<'_>,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    assert_eq!(x.k(), w.k, "linear_int8: k of x, k of w");
    assert_eq!(y.len(), x.m() * w.n, "linear_int8: elements of y, m · n with m = {}, n = {}", x.m(), w.n);
    epilogue.check("linear_int8", w.n);
    let prepare = |columns: Range<usize>| {
        prefetch(&w.absmax[columns.clone()]);
        if let Some(bias) = epilogue.bias {
            prefetch(&bias[columns]);
        }
    };
    let rows = code_rows("linear_int8", x);
    for_each_product(cx, rows, x.planes(), w.codes, w.n, y, prepare, |mut product, _, tile| {
        add_digits(cx.isa, &mut product, x, tile.rows());
        let product = &product;
        dispatch!(cx.isa => scale_tile(
            product: &Product<'_>, x: &QuantizedRows, w: &Int8Rowwise<'_>, epilogue: &Epilogue<'_>,
            tile: &mut Tile<'_, f32>,
        ));
    });
}

/// Writes `function(g) · v` to `y[m, n / 2]`, where `g` and `v` are the first and the second half of the outputs of
/// [`linear_int8`] with `bias`: the same bits as [`gated_activation`] of them, without a pass over memory where there
/// are many rows. Where there are few, the outputs go through `wide`; what else it holds does not matter.
///
/// # Panics
/// If `n` is odd or zero, `y` is not `m · n / 2` long, `wide` is shorter than `m · n`, or as [`linear_int8`].
pub fn linear_int8_gated(
    cx: &Context,
    x: &QuantizedRows,
    w: &Int8Rowwise<'_>,
    bias: Option<&[f32]>,
    function: Activation,
    wide: &mut [f32],
    y: &mut [f32],
) {
    assert!(w.n > 0 && w.n.is_multiple_of(2), "linear_int8_gated: n = {} is not even and positive", w.n);
    let width = w.n / 2;
    assert_eq!(
        y.len(),
        x.m() * width,
        "linear_int8_gated: elements of y, m · n / 2 with m = {}, n = {}",
        x.m(),
        w.n
    );
    if x.are_few() {
        let wide = &mut wide[..x.m() * w.n];
        linear_int8(cx, x, w, &Epilogue::with_bias(bias), wide);
        gated_activation(cx, function, wide, width, y);
        return;
    }
    assert_eq!(x.k(), w.k, "linear_int8_gated: k of x, k of w");
    let gate = &Epilogue { bias, activation: Some(function), accumulate: false };
    gate.check("linear_int8_gated", w.n);
    let panel = |columns: Range<usize>| {
        [columns.clone(), columns.start + width..columns.end + width]
            .map(|rows| &w.codes[rows.start * w.k..rows.end * w.k])
    };
    let rows = code_rows("linear_int8_gated", x);
    for_each_panel(cx, rows, x.planes(), width, PANEL / 2, panel, y, |mut product, _, tile| {
        add_digits(cx.isa, &mut product, x, tile.rows());
        let product = &product;
        dispatch!(cx.isa => gate_tile(
            product: &Product<'_>, x: &QuantizedRows, w: &Int8Rowwise<'_>, gate: &Epilogue<'_>,
            tile: &mut Tile<'_, f32>,
        ));
    });
}

/// Adds the first digits of outliers to the sums of a tile's rows.
fn add_digits(isa: Isa, product: &mut Product<'_>, x: &QuantizedRows, rows: Range<usize>) {
    dispatch!(isa => add_outliers(product: &mut Product<'_>, x: &QuantizedRows, rows: Range<usize>));
}

/// The codes of `x` as a product's operand.
fn code_rows<'a>(name: &str, x: &'a QuantizedRows) -> CodeRows<'a> {
    assert!(x.k() <= MAX_K_DIGITS, "{name}: k = {} is above {MAX_K_DIGITS}", x.k());
    let ones = (x.precision() == ActivationPrecision::Int8Asym).then(|| {
        assert!(x.k() <= MAX_K_ASYM, "{name}: k = {} is above {MAX_K_ASYM} for Int8Asym", x.k());
        &ONES[..x.k()]
    });
    let (upper, upper_sums) = x.upper_codes();
    CodeRows { codes: x.codes(), sums: x.code_sums(), k: x.k(), upper, upper_sums, ones }
}

/// Writes the exact product `a[m, k] · b[n, k]ᵀ` to `out[m, n]`.
///
/// # Panics
/// If `a` is not `m · k`, `b` not `n · k` or `out` not `m · n` long, or if `k` exceeds 131 071, beyond
/// which a sum could overflow `i32`.
pub fn gemm_i32(cx: &Context, a: &[i8], b: &[i8], m: usize, n: usize, k: usize, out: &mut [i32]) {
    assert_eq!(a.len(), m * k, "gemm_i32: elements of a, m · k with m = {m}, k = {k}");
    assert_eq!(b.len(), n * k, "gemm_i32: elements of b, n · k with n = {n}, k = {k}");
    assert_eq!(out.len(), m * n, "gemm_i32: elements of out, m · n with m = {m}, n = {n}");
    assert!(k <= MAX_K, "gemm_i32: k = {k} is above {MAX_K}, where i32 sums could overflow");
    let sums = code_sums(a, m, k);
    let rows = CodeRows::new(a, &sums, k);
    for_each_product(
        cx,
        rows,
        1,
        b,
        n,
        out,
        |_| {},
        |product, _, tile| {
            let columns = tile.columns().len();
            for row in tile.rows() {
                tile.row_mut(row).copy_from_slice(&product.row(row, 0)[..columns]);
            }
        },
    );
}

/// The sum of the codes of each row of `x[m, k]`.
pub(crate) fn code_sums(x: &[i8], m: usize, k: usize) -> Vec<i32> {
    (0..m).map(|i| x[i * k..][..k].iter().map(|code| i32::from(*code)).sum()).collect()
}

/// Quantized rows, `codes[m, k]`, and the sum of each row's codes; then, where the rows are few, those of outliers' digits;
/// then, if it is there, a row of ones.
#[derive(Clone, Copy)]
pub(crate) struct CodeRows<'a> {
    codes: &'a [i8],
    sums: &'a [i32],
    k: usize,
    upper: &'a [i8],
    upper_sums: &'a [i32],
    ones: Option<&'a [i8]>,
}

impl<'a> CodeRows<'a> {
    /// Rows of `k` codes with the sum of each.
    pub(crate) fn new(codes: &'a [i8], sums: &'a [i32], k: usize) -> Self {
        Self { codes, sums, k, upper: &[], upper_sums: &[], ones: None }
    }

    fn m(&self) -> usize {
        self.sums.len() + self.upper_sums.len() + usize::from(self.ones.is_some())
    }

    /// Rows of codes from `start` on, and the row of ones.
    fn rows(&self, start: usize, count: usize) -> Self {
        let codes = &self.codes[start * self.k..][..count * self.k];
        Self { codes, sums: &self.sums[start..][..count], ..*self }
    }

    fn row(&self, i: usize) -> &'a [i8] {
        if i < self.sums.len() {
            return &self.codes[i * self.k..][..self.k];
        }
        let upper = i - self.sums.len();
        match self.ones {
            Some(ones) if upper == self.upper_sums.len() => ones,
            _ => &self.upper[upper * self.k..][..self.k],
        }
    }

    /// The same rows with zeros at the end of each where `k` is no multiple of four.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "scalar code rearranges nothing"))]
    fn in_whole_quads<'b>(self, padded: &'b mut Vec<i8>) -> CodeRows<'b>
    where
        'a: 'b,
    {
        let k = self.k.next_multiple_of(4);
        if k == self.k {
            return self;
        }
        padded.clear();
        for row in self.codes.chunks_exact(self.k) {
            padded.extend_from_slice(row);
            padded.resize(padded.len().next_multiple_of(k), 0);
        }
        // The row of ones may be longer than the weights: they are padded with zeros.
        CodeRows { codes: padded, k, ones: self.ones.map(|_| &ONES[..k]), ..self }
    }

    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "scalar code flips no signs"))]
    fn sum(&self, i: usize) -> i32 {
        let upper = i.saturating_sub(self.sums.len());
        self.sums.get(i).or(self.upper_sums.get(upper)).copied().unwrap_or(self.k as i32)
    }
}

/// A chunk of sums.
type Lanes = [i32; LANES];

/// The integer sums of one tile of the output.
pub(crate) struct Product<'a> {
    sums: &'a mut [i32],
    stride: usize,
    first_row: usize,
    planes: usize,
    /// Rows of sums before those of outliers' digits.
    code_rows: usize,
    /// The weights, row-major: those of the sums from the first on, and from the seventeenth on.
    w: [&'a [i8]; 2],
    /// The same if the kernel rearranged them so: for each quadruple of inputs a line per chunk of sums, which holds the
    /// codes of sixteen outputs with flipped sign bits.
    panel: Option<&'a [[Line; PANEL / LANES]]>,
}

impl<'a> Product<'a> {
    /// The sums of one plane of output row `row`, for the rows of the weights and some unused ones after them.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize, plane: usize) -> &[i32] {
        &self.sums[((row - self.first_row) * self.planes + plane) * self.stride..][..self.stride]
    }

    /// The sums of one row of outliers' digits for chunk `c` of the columns.
    #[inline(always)]
    fn upper(&self, row: usize, c: usize) -> &Lanes {
        &self.sums[(self.code_rows + row) * self.stride..][..self.stride].as_chunks().0[c]
    }

    /// The sums of the weights' codes for chunk `c` of the columns, where they were computed: the last row.
    #[inline(always)]
    fn weight_sums(&self, c: usize) -> &Lanes {
        &self.sums[self.sums.len() - self.stride..].as_chunks().0[c]
    }
}

/// One cache line of rearranged weights, aligned so that a vector load touches one line only.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "scalar code rearranges nothing"))]
struct Line([u8; 64]);

/// Room for rearranged weights and activations.
#[derive(Default)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "scalar code rearranges nothing"))]
struct Rearranged {
    packed: Vec<Line>,
    padded: Vec<i8>,
    #[cfg(target_arch = "x86_64")]
    factors: Vec<avx2::Factors>,
    excess: Vec<i32>,
    /// The call and the first of the rows of activations that were rearranged last.
    rows: Option<(u64, usize)>,
}

/// A thread's buffers, kept between calls.
#[derive(Default)]
struct Scratch {
    rearranged: Rearranged,
    sums: Vec<i32>,
    floats: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Computes the integer sums of `y[m, n]` tile by tile and lets `finish` turn each into outputs. `x` has `planes`
/// rows for each row of `y`. `prepare` is called with the columns of each tile before its sums are computed, where that
/// takes a while of reading memory; `finish` also gets a buffer that it may use as it likes.
#[expect(clippy::too_many_arguments, reason = "the operands of a product and what goes on around it")]
pub(crate) fn for_each_product<T: Send>(
    cx: &Context,
    x: CodeRows<'_>,
    planes: usize,
    w: &[i8],
    n: usize,
    y: &mut [T],
    prepare: impl Fn(Range<usize>) + Sync,
    finish: impl Fn(Product<'_>, &mut Vec<f32>, &mut Tile<'_, T>) + Sync,
) {
    let k = x.k;
    let parallel = x.m() * n * k >= PARALLEL;
    if x.sums.len() <= FEW_ROWS {
        let pattern = cx.isa.read_pattern();
        let pieces = if parallel { cx.threads.count() * pattern.pieces } else { 1 };
        let width = n.div_ceil(pattern.runs * pieces).next_multiple_of(LANES).min(MAX_STRIPE);
        for_each_stripe(cx.threads_if(parallel), y, n, pattern.runs, width, |mut tiles| {
            SCRATCH.with_borrow_mut(|Scratch { rearranged, sums, floats }| {
                let stride = width.next_multiple_of(LANES);
                let sums = room(sums, RUNS * x.m() * stride);
                tiles.iter().for_each(|tile| prepare(tile.columns()));
                let runs = tiles.each_ref().map(|tile| {
                    let columns = tile.columns();
                    &w[columns.start * k..columns.end * k]
                });
                match cx.isa.level() {
                    Level::Scalar(_) => scalar::stream(x, runs, stride, sums),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2(avx2) => avx2.stream(x, runs, pattern, stride, rearranged, sums),
                    #[cfg(target_arch = "x86_64")]
                    Level::AvxVnni(avx) => avx.stream(x, runs, pattern, stride, sums),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512Vnni(avx512) => avx512.stream(x, runs, pattern, stride, sums),
                }
                for ((tile, sums), w) in tiles.iter_mut().zip(sums.chunks_exact_mut(x.m() * stride)).zip(runs)
                {
                    let (code_rows, w) = (x.sums.len(), [w, &[][..]]);
                    finish(
                        Product { sums, stride, first_row: 0, planes, code_rows, w, panel: None },
                        floats,
                        tile,
                    );
                }
            });
        });
        return;
    }
    let panel = |columns: Range<usize>| {
        let w = &w[columns.start * k..columns.end * k];
        w.split_at(w.len().min(PANEL / 2 * k)).into()
    };
    for_each_panel(cx, x, planes, n, PANEL, panel, y, finish);
}

/// [`for_each_product`] where there are many rows: the tiles are `width` columns of `y[m, n]` wide, and `panel` gives the
/// weights for each, at most half a panel's rows in either part.
#[expect(clippy::too_many_arguments, reason = "the operands of a product and what goes on around it")]
fn for_each_panel<'w, T: Send>(
    cx: &Context,
    x: CodeRows<'_>,
    planes: usize,
    n: usize,
    width: usize,
    panel: impl Fn(Range<usize>) -> [&'w [i8]; 2] + Sync,
    y: &mut [T],
    finish: impl Fn(Product<'_>, &mut Vec<f32>, &mut Tile<'_, T>) + Sync,
) {
    /// Numbers the calls, so that a thread knows which rows it has rearranged.
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let parallel = x.m() * n * x.k >= PARALLEL;
    for_each_tile(cx.threads_if(parallel), y, n, ROW_BLOCK / planes, width, |tile| {
        SCRATCH.with_borrow_mut(|Scratch { rearranged, sums, floats }| {
            let (rows, columns) = (tile.rows(), tile.columns());
            let x = x.rows(planes * rows.start, planes * rows.len());
            let sums = room(sums, x.m() * PANEL);
            let w = panel(columns.clone());
            // Most often this thread's next.
            #[cfg(target_arch = "x86_64")]
            let next = panel(columns.end..n.min(columns.end + columns.len()));
            #[cfg(target_arch = "x86_64")]
            let new_rows = rearranged.rows.replace((call, rows.start)) != Some((call, rows.start));
            let quads = match cx.isa.level() {
                Level::Scalar(_) => {
                    scalar::product(x, w, sums);
                    None
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx2(avx2) => Some(avx2.product(x, new_rows, w, next, rearranged, sums)),
                #[cfg(target_arch = "x86_64")]
                Level::AvxVnni(avx) => Some(avx.product(x, w, next, rearranged, sums)),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512Vnni(avx512) => Some(avx512.product(x, w, next, rearranged, sums)),
            };
            let code_rows = x.sums.len();
            let panel = quads.map(|quads| quads.as_chunks().0);
            let product = Product { sums, stride: PANEL, first_row: rows.start, planes, code_rows, w, panel };
            finish(product, floats, tile);
        });
    });
}

/// The first `length` elements of a buffer that only grows. Every sum of a real column is overwritten before it is
/// read, so what they hold does not matter.
fn room(sums: &mut Vec<i32>, length: usize) -> &mut [i32] {
    sums.resize(sums.len().max(length), 0);
    &mut sums[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_worked_out_by_hand() {
        let mut out = [0; 4];
        for isa in Isa::available() {
            gemm_i32(&isa.into(), &[1, -2, 3, -128, 127, 0], &[-128, 127, 1, 5, 6, 7], 2, 2, 3, &mut out);
            assert_eq!(out, [-128 - 254 + 3, 5 - 12 + 21, 16384 + 16129, -640 + 762]);
        }
    }

    #[test]
    fn a_layer_with_an_outlier_worked_out_by_hand() {
        let codes = [127, -64, 2, 0, 1, -1];
        let w = Int8Rowwise::new(&codes, &[127.0, 254.0], 2, 3);
        let mut x = QuantizedRows::default();
        // 100 is 10,000 steps: 128 · 78 + 16.
        quantize_rows(&Isa::SCALAR.into(), &[1.27, 100.0, -0.01], 3, ActivationPrecision::Int8, &mut x);
        assert_eq!(x.codes(), [127, 16, -1]);
        let scale = 1.27_f32 / 127.0;
        let first = (128.0 * (78 * -64) as f32 + (127 * 127 - 16 * 64 - 2) as f32) * scale + 0.5;
        let second = (128.0 * 78.0 + (16 + 1) as f32) * (scale * 2.0) + 0.25;
        let epilogue = Epilogue::with_bias(Some(&[0.5, 0.25]));
        for isa in Isa::available() {
            let mut y = [0.0; 2];
            linear_int8(&isa.into(), &x, &w, &epilogue, &mut y);
            assert_eq!(y, [first, second], "{isa}");
            // The same row six times goes another way.
            let mut x = QuantizedRows::default();
            quantize_rows(&isa.into(), &[1.27, 100.0, -0.01].repeat(6), 3, ActivationPrecision::Int8, &mut x);
            let mut y = [0.0; 12];
            linear_int8(&isa.into(), &x, &w, &epilogue, &mut y);
            assert_eq!(y, [first, second].repeat(6)[..], "{isa}");
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        let a = vec![-128; MAX_K];
        for isa in Isa::available() {
            let mut out = [0; 6];
            let many = [&a[..]; 6].concat();
            gemm_i32(&isa.into(), &many, &a, 6, 1, MAX_K, &mut out);
            assert_eq!(out, [MAX_K as i32 * 16384; 6], "{isa}");
            gemm_i32(&isa.into(), &a, &many, 1, 6, MAX_K, &mut out);
            assert_eq!(out, [MAX_K as i32 * 16384; 6], "{isa}");
            gemm_i32(&isa.into(), &a, &vec![127; MAX_K], 1, 1, MAX_K, &mut out[..1]);
            assert_eq!(out[0], MAX_K as i32 * -16256, "{isa}");
        }
    }

    #[test]
    #[should_panic(expected = "k = 131072 is above 131071")]
    fn a_k_that_could_overflow_panics() {
        Int8Rowwise::new(&vec![0; MAX_K + 1], &[0.0], 1, MAX_K + 1);
    }

    #[test]
    #[should_panic(expected = "k of x, k of w")]
    fn different_k_panic() {
        let mut x = QuantizedRows::default();
        quantize_rows(&Isa::SCALAR.into(), &[1.0; 4], 4, ActivationPrecision::Int8, &mut x);
        linear_int8(
            &Isa::SCALAR.into(),
            &x,
            &Int8Rowwise::new(&[0; 3], &[0.0], 1, 3),
            &Epilogue::default(),
            &mut [0.0],
        );
    }
}
