//! INT8 row-wise absmax, as bitsandbytes' LLM.int8() computes it.
//!
//! Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), §2.1 and §3.1; order of operations as in
//! bitsandbytes' CPU path, see `docs/quantization.md`.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::round::{self, nearest_integer_bits};
use crate::{QuantError, first_not_finite, round_through_f16};

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
    quantize_rows(w, |value| value)
}

impl Int8Rowwise {
    /// Quantizes rows of a checkpoint: rounds every value through fp16, then
    /// [`quantize_int8_rowwise`], which is what bitsandbytes does to a module's weight.
    ///
    /// # Errors
    /// [`QuantError::NotFinite`] for NaN and infinity, [`QuantError::BeyondF16`] for a finite value
    /// that fp16 cannot hold.
    pub fn from_checkpoint_rows(w: ArrayView2<'_, f32>) -> Result<Self, QuantError> {
        quantize_rows(w, round_through_f16)
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
        let inliers: Vec<f32> = row.iter().map(|&v| if is_outlier(v) { 0.0 } else { v }).collect();
        let row_absmax = round::absmax(&inliers);
        let start = codes.len();
        if row_absmax.is_finite() {
            encode(&inliers, code_scale(row_absmax), &mut codes);
        } else {
            codes.resize(start + inliers.len(), 0);
        }
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

/// Quantizes `w` row by row, `prepare` applied to each value first.
fn quantize_rows(w: ArrayView2<'_, f32>, prepare: impl Fn(f32) -> f32) -> Result<Int8Rowwise, QuantError> {
    let mut codes = Vec::with_capacity(w.len());
    let mut row_absmax = Vec::with_capacity(w.nrows());
    let mut prepared = Array1::zeros(w.ncols());
    for (row, values) in w.rows().into_iter().enumerate() {
        prepared.zip_mut_with(&values, |prepared, &value| *prepared = prepare(value));
        let prepared = prepared.as_slice().expect("one row");
        let largest = round::absmax(prepared);
        if !largest.is_finite()
            && let Some(column) = first_not_finite(prepared)
        {
            let value = values[column];
            return Err(if value.is_finite() {
                QuantError::BeyondF16 { row, column, value }
            } else {
                QuantError::NotFinite { row, column, value }
            });
        }
        encode(prepared, code_scale(largest), &mut codes);
        row_absmax.push(largest);
    }
    let codes = Array2::from_shape_vec(w.dim(), codes).expect("a code for each value");
    Ok(Int8Rowwise { codes, absmax: row_absmax.into() })
}

/// The factor from value to code. The reference writes `127.0 / absmax`, which its tensor library
/// computes as `reciprocal(absmax) * 127.0`: two roundings, and another code about once in 10,000.
fn code_scale(absmax: f32) -> f32 {
    (1.0 / absmax) * 127.0
}

/// Appends the code of every value, `value * scale` rounded half to even. A row of zeros has scale infinity and zero codes.
fn encode(values: &[f32], scale: f32, codes: &mut Vec<i8>) {
    if scale.is_finite() {
        codes.extend(values.iter().map(|value| nearest_integer_bits(value * scale) as i8));
    } else {
        codes.resize(codes.len() + values.len(), 0);
    }
}
