//! Rounding through 16-bit formats, nearest even.

use half::{bf16, f16};

/// Rounds `x` to the nearest fp16 value, ties to even, and returns it as f32.
///
/// Magnitudes of 65520 and more become infinity; fp16 subnormals are kept.
pub fn round_through_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Rounds `x` to the nearest bfloat16 value, ties to even, and returns it as f32.
pub fn round_through_bf16(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}
