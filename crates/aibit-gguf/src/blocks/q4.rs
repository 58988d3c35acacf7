//! Q4_0 and Q4_1: 4-bit codes, one scale for 32 elements, in Q4_1 a minimum too.
//!
//! ```text
//! Q4_0                          Q4_1
//! bytes 0..2    d       fp16    bytes 0..2    d       fp16
//! bytes 2..18   qs[16]  u8      bytes 2..4    m       fp16
//!                               bytes 4..20   qs[16]  u8
//! ```
//!
//! The low half of `qs[j]` is the code of element `j`, the high half that of element `j + 16`. Q4_0: `w = d * (q - 8)`.
//! Q4_1: `w = d * q + m`.
//!
//! Source: `class Q4_0` and `class Q4_1` in llama.cpp's `gguf-py/gguf/quants.py`.

use half::f16;

use super::{assert_parts, f16_at, nibble};
use crate::GgmlType;

pub(super) fn dequantize_q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = f16_at(block, 0);
    let [_, _, codes @ ..] = block;
    for (index, value) in out.iter_mut().enumerate() {
        *value = scale * f32::from(nibble(codes, index) as i8 - 8);
    }
}

pub(super) fn dequantize_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
    let [_, _, _, _, codes @ ..] = block;
    for (index, value) in out.iter_mut().enumerate() {
        *value = scale * f32::from(nibble(codes, index)) + min;
    }
}

/// Splits blocks of Q4_0 into 16 bytes of codes, two per byte, and one scale each, unchanged.
///
/// # Panics
/// If the lengths do not match.
pub fn split_q4_0(bytes: &[u8], codes: &mut [u8], scales: &mut [f16]) {
    assert_parts(GgmlType::Q4_0, bytes.len(), codes.len(), scales.len(), 16);
    let outputs = codes.as_chunks_mut::<16>().0.iter_mut().zip(scales);
    for ([low, high, block @ ..], (codes, scale)) in bytes.as_chunks::<18>().0.iter().zip(outputs) {
        *scale = f16::from_le_bytes([*low, *high]);
        *codes = *block;
    }
}

/// Joins codes and scales from [`split_q4_0`] into blocks.
///
/// # Panics
/// If there are not 16 bytes of codes for every scale.
pub fn join_q4_0(codes: &[u8], scales: &[f16]) -> Vec<u8> {
    assert_parts(GgmlType::Q4_0, scales.len() * 18, codes.len(), scales.len(), 16);
    let mut bytes = Vec::with_capacity(scales.len() * 18);
    for (codes, scale) in codes.as_chunks::<16>().0.iter().zip(scales) {
        bytes.extend(scale.to_le_bytes());
        bytes.extend(codes);
    }
    bytes
}
