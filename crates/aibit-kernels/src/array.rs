//! The kernels on `ndarray` matrices.
//!
//! Forms that return a new matrix take any view, and copy one that is not row-major, a transposed one for instance. Forms
//! that end in `_into` allocate nothing once their buffers have grown, and take row-major views alone: others are a panic
//! that prints the strides.
//!
//! ```
//! use aibit_kernels::{Context, Isa, array};
//! use ndarray::array as matrix;
//!
//! let cx = Context::from(Isa::best());
//! let (a, b) = (matrix![[1_i8, -2], [3, 4]], matrix![[5_i8, 6], [-7, 8], [0, 1]]);
//! assert_eq!(array::gemm_int8(&cx, a.view(), b.view()), matrix![[-7, -23, -2], [39, 11, 4]]);
//! ```

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2};

use crate::{
    ActivationPrecision, Context, Epilogue, Int8Rowwise, QuantizedRows, gemm_i32, linear_int8,
    quantize_rows as quantize_slice,
};

/// The exact product `a[m, k] · b[n, k]ᵀ`, `[m, n]`.
///
/// # Panics
/// If `k` of `a` and `b` differ or exceeds 131 071, beyond which a sum could overflow `i32`.
pub fn gemm_int8(cx: &Context, a: ArrayView2<'_, i8>, b: ArrayView2<'_, i8>) -> Array2<i32> {
    let mut out = Array2::zeros((a.nrows(), b.nrows()));
    gemm_int8_into(cx, a.as_standard_layout().view(), b.as_standard_layout().view(), out.view_mut());
    out
}

/// [`gemm_int8`] to `out`, `[m, n]`.
///
/// # Panics
/// As [`gemm_int8`], and if `out` has another shape, or a view is not row-major.
pub fn gemm_int8_into(
    cx: &Context,
    a: ArrayView2<'_, i8>,
    b: ArrayView2<'_, i8>,
    mut out: ArrayViewMut2<'_, i32>,
) {
    let ((m, k), (n, other_k)) = (a.dim(), b.dim());
    assert_eq!(k, other_k, "gemm_int8: columns of a {:?}, of b {:?}", a.shape(), b.shape());
    assert_eq!(out.dim(), (m, n), "gemm_int8: shape of out for a {:?} and b {:?}", a.shape(), b.shape());
    gemm_i32(cx, row_major("a", &a), row_major("b", &b), m, n, k, row_major_mut("out", &mut out));
}

/// The rows of `x[m, k]`, each quantized on its own.
///
/// # Panics
/// If `x` has no columns.
pub fn quantize_rows(cx: &Context, x: ArrayView2<'_, f32>, precision: ActivationPrecision) -> QuantizedRows {
    let mut rows = QuantizedRows::default();
    quantize_rows_into(cx, x.as_standard_layout().view(), precision, &mut rows);
    rows
}

/// [`quantize_rows`] to `rows`, whatever it held.
///
/// # Panics
/// If `x` has no columns or is not row-major.
pub fn quantize_rows_into(
    cx: &Context,
    x: ArrayView2<'_, f32>,
    precision: ActivationPrecision,
    rows: &mut QuantizedRows,
) {
    quantize_slice(cx, row_major("x", &x), x.ncols(), precision, rows);
}

/// `x[m, k] · w[n, k]ᵀ + bias[n]`, `[m, n]`: a linear layer whose input is quantized in `precision`.
///
/// # Panics
/// If `k` of `x` and `w` differ, is zero, or is too large for [`linear_int8`], or the bias is not `n` long or not
/// contiguous.
pub fn linear(
    cx: &Context,
    x: ArrayView2<'_, f32>,
    w: &Int8Rowwise<'_>,
    bias: Option<ArrayView1<'_, f32>>,
    precision: ActivationPrecision,
) -> Array2<f32> {
    let mut y = Array2::zeros((x.nrows(), w.n()));
    let mut rows = QuantizedRows::default();
    linear_into(cx, x.as_standard_layout().view(), w, bias, precision, &mut rows, y.view_mut());
    y
}

/// [`linear`] to `y`, `[m, n]`; `rows` is where the quantized input goes.
///
/// # Panics
/// As [`linear`], and if `y` has another shape, or a view is not row-major.
pub fn linear_into(
    cx: &Context,
    x: ArrayView2<'_, f32>,
    w: &Int8Rowwise<'_>,
    bias: Option<ArrayView1<'_, f32>>,
    precision: ActivationPrecision,
    rows: &mut QuantizedRows,
    mut y: ArrayViewMut2<'_, f32>,
) {
    let shape = [w.n(), w.k()];
    assert_eq!(x.ncols(), w.k(), "linear: columns of x {:?}, of w {shape:?}", x.shape());
    assert_eq!(y.dim(), (x.nrows(), w.n()), "linear: shape of y for x {:?} and w {shape:?}", x.shape());
    let bias = bias.as_ref().map(|bias| {
        let strides = bias.strides();
        bias.as_slice().unwrap_or_else(|| panic!("bias is not contiguous: strides {strides:?}"))
    });
    quantize_rows_into(cx, x, precision, rows);
    linear_int8(cx, rows, w, &Epilogue::with_bias(bias), row_major_mut("y", &mut y));
}

fn row_major<'a, T>(name: &str, view: &'a ArrayView2<'_, T>) -> &'a [T] {
    view.as_slice().unwrap_or_else(|| not_row_major(name, view.shape(), view.strides()))
}

fn row_major_mut<'a, T>(name: &str, view: &'a mut ArrayViewMut2<'_, T>) -> &'a mut [T] {
    let (shape, strides) = (view.shape().to_vec(), view.strides().to_vec());
    view.as_slice_mut().unwrap_or_else(|| not_row_major(name, &shape, &strides))
}

fn not_row_major(name: &str, shape: &[usize], strides: &[isize]) -> ! {
    panic!("{name} {shape:?} is not row-major: strides {strides:?}; pass a copy in standard layout")
}

#[cfg(test)]
mod tests {
    use ndarray::{array, s};

    use super::*;
    use crate::Isa;

    fn contexts() -> impl Iterator<Item = Context> {
        Isa::available().into_iter().map(Context::from)
    }

    #[test]
    fn any_view_is_multiplied() {
        let a = array![[1_i8, 2, 3], [-4, 5, -6]];
        let b = array![[7_i8, -8, 9], [1, 0, -1], [-128, 127, 2], [3, 3, 3]];
        let want = array![[18, -2, 132, 18], [-122, 2, 1135, -15]];
        for cx in contexts() {
            assert_eq!(gemm_int8(&cx, a.view(), b.view()), want);
            let columns = a.t().as_standard_layout().into_owned(); // [k, m], to be transposed back
            assert_eq!(gemm_int8(&cx, columns.t(), b.view()), want);
            let every_second = b.slice(s![..;2, ..]);
            assert_eq!(gemm_int8(&cx, a.view(), every_second), want.slice(s![.., ..;2]));
            let backwards = b.slice(s![..;-1, ..]);
            assert_eq!(gemm_int8(&cx, a.view(), backwards), want.slice(s![.., ..;-1]));
        }
    }

    #[test]
    fn a_layer_of_any_view() {
        let x = array![[127.0_f32, -3.0], [1.0, 127.0]];
        let w = Int8Rowwise::new(&[1, 2, -1, 0, 5, 127], &[127.0, 254.0, 127.0], 3, 2);
        let bias = array![0.5_f32, 0.0, -1.0];
        let want = array![[121.5_f32, -254.0, 253.0], [255.5, -2.0, 16133.0]];
        for cx in contexts() {
            let first = linear(&cx, x.view(), &w, Some(bias.view()), ActivationPrecision::Int8x2);
            // Two bytes for an activation: half a step of the larger of a row's two is 127 / 127 / 128 / 2.
            let bound = 0.004 * (127.0 + 5.0);
            assert!((&first - &want).iter().all(|error| error.abs() <= bound), "{first}");
            let transposed = x.t().as_standard_layout().into_owned();
            let second = linear(&cx, transposed.t(), &w, Some(bias.view()), ActivationPrecision::Int8x2);
            assert_eq!(second, first);
            let (mut rows, mut y) = (QuantizedRows::default(), Array2::zeros((2, 3)));
            linear_into(&cx, x.view(), &w, None, ActivationPrecision::Int8x2, &mut rows, y.view_mut());
            assert!((y + &bias - &first).iter().all(|error| error.abs() <= 1e-3));
        }
    }

    #[test]
    #[should_panic(expected = "a [2, 3] is not row-major: strides [1, 2]")]
    fn a_transposed_view_is_refused_where_nothing_is_allocated() {
        let a = array![[1_i8, 2], [3, 4], [5, 6]];
        let mut out = Array2::zeros((2, 2));
        gemm_int8_into(&Isa::SCALAR.into(), a.t(), array![[1_i8, 2, 3], [4, 5, 6]].view(), out.view_mut());
    }

    #[test]
    #[should_panic(expected = "columns of a [1, 2], of b [1, 3]")]
    fn different_columns_panic() {
        gemm_int8(&Isa::SCALAR.into(), array![[1_i8, 2]].view(), array![[1_i8, 2, 3]].view());
    }
}
