//! LLM.int8() exactly as bitsandbytes computes it on a CPU.

use aibit_quant::{dequantize_int8, quantize_int8_activations, round_through_bf16, round_through_f16};
use ndarray::ArrayView2;

use crate::{
    Context, Epilogue,
    int8::{CodeRows, Int8Rowwise, Product, code_sums, for_each_product},
    simd::{LANES, Scalar},
    tiles::Tile,
};

/// bitsandbytes' CPU stand-in for `1 / 127²` (which is 6.2000124e-05), read as f32.
const INVERSE_127_SQUARED: f32 = 6.200_124e-5;

/// The type that the activations of the reference model have; every result is rounded to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationDtype {
    /// 32-bit float: no rounding.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl ActivationDtype {
    #[inline(always)]
    fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => round_through_f16(x),
            Self::Bf16 => round_through_bf16(x),
        }
    }
}

/// Writes the LLM.int8() layer `x[m, k] · w[n, k]ᵀ + bias[n]` to `y[m, n]`, bit for bit as bitsandbytes'
/// CPU path in evaluation mode, then applies the rest of `epilogue`.
///
/// `x` holds values of type `dtype`, widened. They are rounded through f16, then quantized with one
/// scale per row; columns in which any row of the call has `abs(x) >= threshold` leave the integer
/// product (`threshold` 0: none do). The product is scaled with the constant 6.200124e-05, the bias
/// (rounded to `dtype`) is added in f32 and the sum rounded to `dtype`. Then the outlier columns are
/// added: the original `x` times the weights dequantized and rounded to `dtype`, summed in column
/// order in f32 and rounded to `dtype` at the end. Only that order is not bitsandbytes' own.
///
/// An element of `x` beyond f16 becomes infinite there: without a threshold its row is NaN.
///
/// # Panics
/// If `x` is not a whole number of rows of `k`, `bias` is not `n` or `y` not `m · n` long.
///
/// Source: bitsandbytes, `MatMul8bitLt` and its CPU back end; Dettmers et al. 2022 (arXiv:2208.07339), §3.
pub fn linear_llm_int8(
    cx: &Context,
    x: &[f32],
    dtype: ActivationDtype,
    w: &Int8Rowwise<'_>,
    epilogue: &Epilogue<'_>,
    threshold: f32,
    y: &mut [f32],
) {
    let (n, k) = (w.n(), w.k());
    assert!(k > 0 && x.len().is_multiple_of(k), "linear_llm_int8: x has {} elements in rows of {k}", x.len());
    let m = x.len() / k;
    assert_eq!(y.len(), m * n, "linear_llm_int8: elements of y, m · n with m = {m}, n = {n}");
    epilogue.check("linear_llm_int8", n);
    let halves: Vec<f32> = x.iter().map(|x| round_through_f16(*x)).collect();
    let view = ArrayView2::from_shape((m, k), &halves).expect("m · k elements, as computed above");
    let quantized = quantize_int8_activations(view, threshold);
    let sums = code_sums(&quantized.codes, m, k);
    let rows = CodeRows::new(&quantized.codes, &sums, k);
    let bias: Option<Vec<f32>> =
        epilogue.bias.map(|bias| bias.iter().map(|bias| dtype.round(*bias)).collect());
    let layer = Layer {
        x,
        dtype,
        w,
        bias: bias.as_deref(),
        absmax: &quantized.absmax,
        outliers: &quantized.outlier_columns,
        // The bias is added before the outliers, so it is the layer's own.
        rest: Epilogue { bias: None, ..*epilogue },
    };
    for_each_product(
        cx,
        rows,
        1,
        w.codes(),
        n,
        y,
        |_| {},
        |product, scratch, tile| layer.finish(product, scratch, tile),
    );
}

/// What turns integer sums into outputs.
struct Layer<'a> {
    x: &'a [f32],
    dtype: ActivationDtype,
    w: &'a Int8Rowwise<'a>,
    bias: Option<&'a [f32]>,
    absmax: &'a [f32],
    outliers: &'a [usize],
    rest: Epilogue<'a>,
}

impl Layer<'_> {
    fn finish(&self, product: Product<'_>, scratch: &mut Vec<f32>, tile: &mut Tile<'_, f32>) {
        let (dtype, k, count) = (self.dtype, self.w.k(), self.outliers.len());
        let columns = tile.columns();
        // The outlier columns of the tile's weights, `[columns, outliers]`.
        scratch.clear();
        for j in columns.clone() {
            let (codes, absmax) = (&self.w.codes()[j * k..][..k], self.w.absmax()[j]);
            scratch.extend(
                self.outliers.iter().map(|column| dtype.round(dequantize_int8(codes[*column], absmax))),
            );
        }
        for row in tile.rows() {
            let (x, absmax) = (&self.x[row * k..][..k], self.absmax[row]);
            let sums = product.row(row, 0);
            let value = |at: usize| {
                let j = columns.start + at;
                let scaled = sums[at] as f32 * (absmax * self.w.absmax()[j]) * INVERSE_127_SQUARED;
                let value = dtype.round(self.bias.map_or(scaled, |bias| scaled + bias[j]));
                if count == 0 {
                    return value;
                }
                let weights = &scratch[at * count..][..count];
                let products = self.outliers.iter().zip(weights);
                dtype.round(value + products.fold(0.0, |sum, (column, w)| x[*column].mul_add(*w, sum)))
            };
            for (c, y) in tile.row_mut(row).chunks_mut(LANES).enumerate() {
                let lanes = std::array::from_fn(|l| if l < y.len() { value(c * LANES + l) } else { 0.0 });
                let first = columns.start + c * LANES;
                self.rest.of(Scalar, first..first + y.len()).write(y, lanes);
            }
        }
    }
}
