//! Block formats of quantized elements: dequantization, and splitting into codes and scales.
//!
//! All values equal those of llama.cpp's `gguf` package bit for bit, by the same operations on `f32` in the same
//! order, except for the bits of a NaN, which depend on the processor. Scales are used unchanged: an infinite one
//! gives infinities and NaN.
//!
//! Source: <https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/quants.py>.

mod float;
mod k;
mod q4;
mod q5;
mod q8;

use half::f16;

use crate::GgmlType;

pub use q4::{join_q4_0, split_q4_0};
pub use q8::{join_q8_0, split_q8_0};

/// Dequantizes `bytes`, whole blocks of `dtype`, to `out`.
///
/// # Panics
/// If the length of `bytes` is not what [`GgmlType::bytes`] gives for the length of `out`.
pub fn dequantize(dtype: GgmlType, bytes: &[u8], out: &mut [f32]) {
    assert!(
        dtype.bytes(out.len()) == Some(bytes.len()),
        "{} bytes for {} elements of {dtype}, which has {} bytes for {} elements",
        bytes.len(),
        out.len(),
        dtype.block_bytes(),
        dtype.block_len()
    );
    match dtype {
        GgmlType::F32 => each(bytes, out, float::dequantize_f32),
        GgmlType::F16 => each(bytes, out, float::dequantize_f16),
        GgmlType::Bf16 => each(bytes, out, float::dequantize_bf16),
        GgmlType::Q4_0 => each(bytes, out, q4::dequantize_q4_0),
        GgmlType::Q4_1 => each(bytes, out, q4::dequantize_q4_1),
        GgmlType::Q5_0 => each(bytes, out, q5::dequantize_q5_0),
        GgmlType::Q5_1 => each(bytes, out, q5::dequantize_q5_1),
        GgmlType::Q8_0 => each(bytes, out, q8::dequantize_q8_0),
        GgmlType::Q4K => each(bytes, out, k::dequantize_q4_k),
        GgmlType::Q5K => each(bytes, out, k::dequantize_q5_k),
        GgmlType::Q6K => each(bytes, out, k::dequantize_q6_k),
    }
}

/// Calls `block` for every block of `B` bytes and its `N` elements.
fn each<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(bytes, out);
    }
}

/// The fp16 number at byte `at`.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The 4-bit code of element `index` of 32: the low halves of 16 bytes, then the high ones.
fn nibble(codes: &[u8; 16], index: usize) -> u8 {
    if index < 16 { codes[index] & 15 } else { codes[index - 16] >> 4 }
}

/// Checks that blocks of `bytes` bytes in total match their codes and scales.
fn assert_parts(dtype: GgmlType, bytes: usize, codes: usize, scales: usize, codes_per_block: usize) {
    assert!(
        bytes == scales * dtype.block_bytes() && codes == scales * codes_per_block,
        "{dtype}: blocks of {bytes} bytes, {codes} codes and {scales} scales; \
         a block of {} bytes has {codes_per_block} codes",
        dtype.block_bytes()
    );
}
