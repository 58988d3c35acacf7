#![doc = include_str!("../README.md")]
//! # In detail
//!
//! Archives out, to the formats of other engines.
//!
//! [`export`] writes a model that another engine loads, with the very codes of the archive where the target can hold them;
//! what it cannot hold is refused, or quantized once more where that was asked for.

mod bnb;
mod compressed_tensors;
mod diff;
mod error;
mod export;
mod gguf;
mod hf;
mod own_tensors;
mod parameter;
mod portable;
mod target;

pub use compressed_tensors::check_compressed_tensors;
pub use diff::{Count, Diff, DiffOptions, MetadataDiff, TensorDiff, diff};
pub use error::ExportError;
pub use export::{ActivationDtype, ExportOptions, ExportReport, Exported, FloatDtype, export};
pub use own_tensors::check_own_tensors;
pub use target::Target;
