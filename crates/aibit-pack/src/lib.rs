#![doc = include_str!("../README.md")]
//! # In detail
//!
//! Sources in, one archive out.
//!
//! [`ModelSource`] finds a model in a folder or a file, [`pack`] quantizes it once, or takes over the codes that it has, and
//! writes the archive. Weights come as safetensors, sharded or not, as torch checkpoints, plain or quantized by
//! bitsandbytes, and as GGUF. `aibit-hub` fetches models from the hub.

mod bnb;
mod checkpoint;
mod encoding;
mod error;
mod foreign;
mod gguf;
mod gguf_sampling;
mod json_dialect;
mod pack;
mod plan;
mod poc;
mod precision;
mod recipe;
mod shard_index;
mod small_file;
mod source;
mod tokenizer_files;
mod write;

pub use aibit_hub::Progress;
pub use checkpoint::SourceDtype;
pub use error::PackError;
pub use pack::{PackOptions, PackReport, pack};
pub use precision::Measured;
pub use recipe::Preset;
pub use source::ModelSource;
