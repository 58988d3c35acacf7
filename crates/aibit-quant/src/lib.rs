#![doc = include_str!("../README.md")]
//! # In detail
//!
//! Numbers to codes and back.
//!
//! Every quantizer here is a pure function from floating-point values to codes and scales, and equals
//! its reference implementation bit for bit. This crate opens no files and starts no threads; callers
//! split matrices by rows if they want parallelism.
//!
//! - [`quantize_int8_rowwise`]: weights, one scale per output row (LLM.int8()).
//! - [`quantize_int8_activations`]: activations, one scale per token, outlier columns left out.
//! - [`quantize_four_bit`]: NF4 and FP4 in blocks of 64 (QLoRA); [`NestedAbsmax`] is their double quantization.
//! - [`quantize_int8_groups`], [`quantize_int4_groups`]: groups of 32 with f16 scales (GGUF's Q8_0 and Q4_0).
//! - [`round_through_f16`], [`round_through_bf16`]: the rounding steps that the reference takes first.
//!
//! Loops over values use operations that are vectorized for any target: no call for each rounding, no early exit.

mod error;
mod four_bit;
mod groups;
mod int8;
mod round;

pub use error::QuantError;
pub use four_bit::{
    FOUR_BIT_BLOCK, FourBit, FourBitBlocks, NESTED_BLOCK, NestedAbsmax, dequantize_four_bit, dynamic_map,
    quantize_four_bit,
};
pub use groups::{GROUP, Int4Groups, Int8Groups, quantize_int4_groups, quantize_int8_groups};
pub use int8::{
    Int8Activations, Int8Rowwise, dequantize_int8, quantize_int8_activations, quantize_int8_rowwise,
};
pub use round::{first_not_finite, round_through_bf16, round_through_f16};
