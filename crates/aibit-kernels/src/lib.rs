#![doc = include_str!("../README.md")]
//! # In detail
//!
//! Arithmetic on codes at the machine's speed, with run-time SIMD dispatch.
//!
//! Every kernel gives **the same bits** on every instruction set, for any thread count and any
//! batching: row `i` of a batch equals the same row computed alone.
//!
//! * Integer sums are exact in `i32`.
//! * A sum of `f32` over `k` has one fixed order, see [`dot_f32`]: sixteen lanes, each a chain of
//!   fused multiply-adds, then a tree.
//! * Functions of one element are one polynomial written in plain Rust ([`exp`], [`tanh`]) and
//!   compiled once per instruction set; the platform's `expf` is never called.
//!
//! NaN stays NaN, but the payload of a NaN is not specified.
//!
//! [`Isa`] picks the instruction set at run time. Shapes are checked in the public functions, before
//! any thread starts; a violated shape rule is a panic that prints both shapes. A [`Context`] hands in the instruction set
//! and the [`Threads`]: a team of the crate's own, which begins and ends the hundred short parallel regions of a token
//! faster than a pool made for longer work, a rayon pool of the caller's, or the calling thread alone.
//!
//! Weights are `[out, in]` row-major and `y[m, n] = x[m, k] · w[n, k]ᵀ`. They may come straight from
//! a memory map: alignment beyond that of the element is never assumed.

#![expect(
    clippy::needless_range_loop,
    reason = "register and lane indices run over several arrays at once; iterators would hide which"
)]

mod activation;
pub mod array;
mod attention;
mod blocks;
mod context;
mod elementwise;
mod embed;
mod epilogue;
mod float;
mod int8;
mod isa;
pub mod limits;
mod llm_int8;
mod math;
mod norm;
mod read;
mod rope;
mod simd;
mod threads;
mod tiles;

pub use activation::{Activation, activate, gated_activation};
pub use aibit_quant::FourBit;
pub use attention::{AttentionShape, KvDtype, KvPlace, KvRun, PAGE, attention, store_kv};
pub use blocks::{BlockMatrix, BlockScales, embed_blocks, linear_blocks};
pub use context::Context;
pub use elementwise::{add, add_assign};
pub use embed::{embed_float, embed_int8};
pub use epilogue::Epilogue;
pub use float::{FloatMatrix, dot_f32, linear_float};
pub use int8::{
    ActivationPrecision, Int8Rowwise, QuantizedRows, gemm_i32, linear_int8, linear_int8_gated, quantize_rows,
};
pub use isa::{Isa, IsaError};
pub use llm_int8::{ActivationDtype, linear_llm_int8};
pub use math::{exp, tanh};
pub use norm::{layer_norm, rms_norm, rms_norm_runs};
pub use read::ReadPattern;
pub use rope::{RopeShape, RopeTable, rope};
pub use threads::Threads;
