//! Numbers to codes and back.
//!
//! Every quantizer here is a pure function from floating-point values to codes and scales, and equals
//! its reference implementation bit for bit. This crate opens no files and starts no threads; callers
//! split matrices by rows if they want parallelism.
//!
//! - [`quantize_int8_rowwise`]: weights, one scale per output row (LLM.int8()).
//! - [`quantize_int8_activations`]: activations, one scale per token, outlier columns left out.
//! - [`round_through_f16`], [`round_through_bf16`]: the rounding steps that the reference takes first.

mod error;
mod int8;
mod round;

pub use error::QuantError;
pub use int8::{
    Int8Activations, Int8Rowwise, dequantize_int8, quantize_int8_activations, quantize_int8_rowwise,
};
pub use round::{round_through_bf16, round_through_f16};
