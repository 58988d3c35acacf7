//! Checks of stored values. They read every element, which opening an archive does not.

use half::{bf16, f16};

use crate::{Dtype, FormatError, Manifest, Scheme, Weights};

/// Checks every stored value: floats and scales are finite; in the scheme `int8` scales are not negative, codes are
/// in `-127..=127`, and a row whose scale is zero has only zero codes.
///
/// # Errors
/// [`FormatError::Value`] with the first offending element.
pub fn check_values(weights: &Weights, manifest: &Manifest) -> Result<(), FormatError> {
    for info in weights.index().tensors() {
        let data = weights.get(&info.name).expect("listed in the index").data;
        let bad = match info.dtype {
            Dtype::F32 => not_finite(data.as_chunks().0, |b| f32::from_le_bytes(*b).is_finite()),
            Dtype::F16 => not_finite(data.as_chunks().0, |b| f16::from_le_bytes(*b).is_finite()),
            Dtype::Bf16 => not_finite(data.as_chunks().0, |b| bf16::from_le_bytes(*b).is_finite()),
            Dtype::I8 | Dtype::U8 => None,
        };
        if let Some(index) = bad {
            let problem = format!("a {} value that is NaN or infinite", info.dtype);
            return Err(FormatError::Value { name: info.name.clone(), index, problem });
        }
    }
    for (name, record) in &manifest.tensors {
        if record.scheme == Scheme::Int8 {
            check_int8_rows(weights, name)?;
        }
    }
    Ok(())
}

fn not_finite<const N: usize>(elements: &[[u8; N]], is_finite: impl Fn(&[u8; N]) -> bool) -> Option<usize> {
    elements.iter().position(|bytes| !is_finite(bytes))
}

fn check_int8_rows(weights: &Weights, name: &str) -> Result<(), FormatError> {
    // Their presence and shapes are checked when an archive is opened.
    let Some(codes) = weights.get(name) else { return Ok(()) };
    let Some(part) = Scheme::Int8.parts(name, &codes.info.shape).pop() else { return Ok(()) };
    let Some(scales) = weights.get(&part.name) else { return Ok(()) };
    if let Some(index) = codes.data.iter().position(|&code| code as i8 == i8::MIN) {
        let problem = "the code -128, which symmetric quantization never writes".to_owned();
        return Err(FormatError::Value { name: name.to_owned(), index, problem });
    }
    let columns = codes.info.shape[1];
    for (row, (scale, codes)) in
        scales.data.as_chunks().0.iter().zip(codes.data.chunks_exact(columns)).enumerate()
    {
        let scale = f32::from_le_bytes(*scale);
        if scale < 0.0 || (scale == 0.0 && codes.iter().any(|&code| code != 0)) {
            return Err(FormatError::Value {
                name: part.name,
                index: row,
                problem: format!(
                    "the scale {scale}: a scale must not be negative, and may be zero only for a row of zeros"
                ),
            });
        }
    }
    Ok(())
}
