//! INT8 row-wise absmax, as bitsandbytes' LLM.int8() computes it.
//!
//! Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), §2.1 and §3.1; order of operations as in
//! bitsandbytes' CPU path, see `docs/quantization.md`.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::{QuantError, round_through_f16};

/// A matrix quantized row by row: `w[n, k] ≈ absmax[n] / 127 * codes[n, k]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Rowwise {
    /// `[out_features, in_features]`, in `-127..=127`.
    pub codes: Array2<i8>,
    /// `[out_features]`: the largest magnitude of each row, not divided by 127.
    pub absmax: Array1<f32>,
}

/// Activations quantized row by row with outlier columns left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Activations {
    /// `[m, k]`, row-major, in `-127..=127`; zero in every outlier column when `m > 1`.
    pub codes: Vec<i8>,
    /// `[m]`: the largest magnitude of each row among elements below the threshold.
    pub absmax: Vec<f32>,
    /// Columns that hold an outlier in any row, ascending.
    pub outlier_columns: Vec<usize>,
}

/// Quantizes `w` row by row with absmax INT8: `w[n, k] ≈ absmax[n] / 127 * codes[n, k]`.
///
/// `w` is `[out_features, in_features]`. Codes lie in `-127..=127`, rounded half to even, and equal
/// bitsandbytes bit for bit. The values are taken as they are; a caller that packs a checkpoint rounds
/// them [through fp16](round_through_f16) first, as bitsandbytes' modules do, or calls
/// [`Int8Rowwise::from_checkpoint_rows`], which does both. An all-zero row gets absmax `0.0` and zero codes.
///
/// # Errors
/// [`QuantError::NotFinite`] with the position of the first NaN or infinity, which would
/// otherwise spread to its whole row.
///
/// Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), §2.1 and §3.1.
pub fn quantize_int8_rowwise(w: ArrayView2<'_, f32>) -> Result<Int8Rowwise, QuantError> {
    if let Some(((row, column), &value)) = w.indexed_iter().find(|(_, v)| !v.is_finite()) {
        return Err(QuantError::NotFinite { row, column, value });
    }
    let mut codes = Array2::zeros(w.dim());
    let mut absmax = Array1::zeros(w.nrows());
    for (row, (values, mut row_codes)) in w.rows().into_iter().zip(codes.rows_mut()).enumerate() {
        absmax[row] = absmax_of(values.iter().copied());
        let scale = code_scale(absmax[row]);
        row_codes.zip_mut_with(&values, |code, &value| *code = encode(value, scale));
    }
    Ok(Int8Rowwise { codes, absmax })
}

impl Int8Rowwise {
    /// Quantizes rows of a checkpoint: rounds every value through fp16, then
    /// [`quantize_int8_rowwise`], which is what bitsandbytes does to a module's weight.
    ///
    /// # Errors
    /// [`QuantError::NotFinite`] for NaN and infinity, [`QuantError::BeyondF16`] for a finite value
    /// that fp16 cannot hold.
    pub fn from_checkpoint_rows(w: ArrayView2<'_, f32>) -> Result<Self, QuantError> {
        let rounded = w.mapv(round_through_f16);
        let overflow = w.indexed_iter().find(|(at, v)| v.is_finite() && rounded[*at].is_infinite());
        if let Some(((row, column), &value)) = overflow {
            return Err(QuantError::BeyondF16 { row, column, value });
        }
        quantize_int8_rowwise(rounded.view())
    }

    /// The stored matrix in floating point, `[out_features, in_features]`, each element as
    /// [`dequantize_int8`] gives it.
    pub fn dequantize(&self) -> Array2<f32> {
        let mut values = Array2::zeros(self.codes.dim());
        for ((mut row, codes), &absmax) in
            values.rows_mut().into_iter().zip(self.codes.rows()).zip(&self.absmax)
        {
            row.zip_mut_with(&codes, |value, &code| *value = dequantize_int8(code, absmax));
        }
        values
    }
}

/// Quantizes activations row by row, leaving outliers to the floating-point path.
///
/// `x` is `[m, k]`, already [rounded through fp16](round_through_f16). With `threshold > 0.0` an
/// element with `abs(x) >= threshold` is an outlier: it does not count for its row's absmax, and
/// when `m > 1` its whole column gets code 0 in every row. A threshold of `0.0` finds no outliers.
/// Infinite elements are outliers when a threshold is set; a row whose absmax is not finite gets
/// zero codes.
///
/// Source: LLM.int8(), §3.2; bitsandbytes `int8_vectorwise_quant`.
pub fn quantize_int8_activations(x: ArrayView2<'_, f32>, threshold: f32) -> Int8Activations {
    let is_outlier = |value: f32| threshold > 0.0 && value.abs() >= threshold;
    let outlier_columns: Vec<usize> = if threshold > 0.0 {
        let has_outlier = |column: ArrayView1<'_, f32>| column.iter().any(|&v| is_outlier(v));
        (0..x.ncols()).filter(|&c| has_outlier(x.column(c))).collect()
    } else {
        Vec::new()
    };
    let mut codes = Vec::with_capacity(x.len());
    let mut absmax = Vec::with_capacity(x.nrows());
    for row in x.rows() {
        let row_absmax = absmax_of(row.iter().copied().filter(|&v| !is_outlier(v)));
        let scale = code_scale(row_absmax);
        let start = codes.len();
        codes.extend(row.iter().map(|&v| if is_outlier(v) { 0 } else { encode(v, scale) }));
        if x.nrows() > 1 {
            for &column in &outlier_columns {
                codes[start + column] = 0;
            }
        }
        absmax.push(row_absmax);
    }
    Int8Activations { codes, absmax, outlier_columns }
}

/// The value that a code stands for: `code * absmax / 127`, with bitsandbytes' two roundings.
pub fn dequantize_int8(code: i8, absmax: f32) -> f32 {
    const INVERSE_127: f32 = 1.0 / 127.0;
    f32::from(code) * absmax * INVERSE_127
}

/// The largest magnitude, NaN if any value is NaN (as the reference's `max` does).
fn absmax_of(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0_f32, |max, v| if v.is_nan() || max.is_nan() { f32::NAN } else { max.max(v.abs()) })
}

/// The factor from value to code. The reference writes `127.0 / absmax`, which its tensor library
/// computes as `reciprocal(absmax) * 127.0`: two roundings, and another code about once in 10,000.
fn code_scale(absmax: f32) -> f32 {
    (1.0 / absmax) * 127.0
}

/// Rounds half to even. A zero row has scale infinity and `0 * inf = NaN`, which encodes as 0.
fn encode(value: f32, scale: f32) -> i8 {
    if !scale.is_finite() {
        return 0; // `inf as i8` would saturate to 127
    }
    (value * scale).round_ties_even() as i8
}
