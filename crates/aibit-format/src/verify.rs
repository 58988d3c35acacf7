//! Values that no quantizer writes: found by reading every element, which opening an archive does not do.

use half::{bf16, f16};

use crate::{Dtype, FormatError, Manifest, Scheme, Weights};

/// Checks every stored value: floats and scales are finite, scales are not negative, codes lie in
/// `-127..=127`, and a row with scale zero has only zero codes.
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
            Dtype::I8 => data.iter().position(|&code| code as i8 == i8::MIN),
        };
        if let Some(index) = bad {
            let problem = match info.dtype {
                Dtype::I8 => "the code -128, which symmetric quantization never writes".to_owned(),
                dtype => format!("a {dtype} value that is NaN or infinite"),
            };
            return Err(FormatError::Value { name: info.name.clone(), index, problem });
        }
    }
    for (name, record) in &manifest.tensors {
        match record.scheme {
            Scheme::F32 | Scheme::F16 | Scheme::Bf16 => {}
            Scheme::Int8 => check_int8_rows(weights, name)?,
        }
    }
    Ok(())
}

fn not_finite<const N: usize>(elements: &[[u8; N]], is_finite: impl Fn(&[u8; N]) -> bool) -> Option<usize> {
    elements.iter().position(|bytes| !is_finite(bytes))
}

fn check_int8_rows(weights: &Weights, name: &str) -> Result<(), FormatError> {
    let scales_name = Scheme::Int8.scales_name(name).expect("int8 has scales");
    let (Some(codes), Some(scales)) = (weights.get(name), weights.get(&scales_name)) else {
        return Ok(()); // their presence is checked when an archive is opened
    };
    let columns = codes.info.shape[1];
    for (row, (scale, codes)) in
        scales.data.as_chunks().0.iter().zip(codes.data.chunks_exact(columns)).enumerate()
    {
        let scale = f32::from_le_bytes(*scale);
        if scale < 0.0 || (scale == 0.0 && codes.iter().any(|&code| code != 0)) {
            return Err(FormatError::Value {
                name: scales_name,
                index: row,
                problem: format!(
                    "the scale {scale}: scales are not negative, and zero only for rows of zeros"
                ),
            });
        }
    }
    Ok(())
}
