//! Q8_0: 8-bit codes, one scale for 32 elements.
//!
//! ```text
//! bytes 0..2    d      fp16
//! bytes 2..34   q[32]  i8
//! ```
//!
//! `w[i] = d * q[i]`. Codes are written in `-127..=127`; −128 is accepted when read.
//!
//! Source: `class Q8_0` in llama.cpp's `gguf-py/gguf/quants.py`.

use half::f16;

use super::{assert_parts, f16_at};
use crate::GgmlType;

pub(super) fn dequantize_q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = f16_at(block, 0);
    for (value, &code) in out.iter_mut().zip(&block[2..]) {
        *value = scale * f32::from(code as i8);
    }
}

/// Splits blocks into 32 codes and one scale each, unchanged.
///
/// # Panics
/// If the lengths do not match.
pub fn split_q8_0(bytes: &[u8], codes: &mut [i8], scales: &mut [f16]) {
    assert_parts(GgmlType::Q8_0, bytes.len(), codes.len(), scales.len(), 32);
    let outputs = codes.as_chunks_mut::<32>().0.iter_mut().zip(scales);
    for ([low, high, block @ ..], (codes, scale)) in bytes.as_chunks::<34>().0.iter().zip(outputs) {
        *scale = f16::from_le_bytes([*low, *high]);
        *codes = block.map(|byte: u8| byte as i8);
    }
}

/// Joins codes and scales from [`split_q8_0`] into blocks.
///
/// # Panics
/// If there are not 32 codes for every scale.
pub fn join_q8_0(codes: &[i8], scales: &[f16]) -> Vec<u8> {
    assert_parts(GgmlType::Q8_0, scales.len() * 34, codes.len(), scales.len(), 32);
    let mut bytes = Vec::with_capacity(scales.len() * 34);
    for (codes, scale) in codes.as_chunks::<32>().0.iter().zip(scales) {
        bytes.extend(scale.to_le_bytes());
        bytes.extend(codes.map(|code| code as u8));
    }
    bytes
}
