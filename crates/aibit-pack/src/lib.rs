//! Sources in, one archive out.
//!
//! [`ModelSource`] finds a model in a folder or a file, [`hub`] fetches one from the model hub, [`pack`] quantizes it once,
//! or takes over the codes that it has, and writes the archive. Weights come as safetensors, sharded or not, as torch
//! checkpoints, which [`torch`] reads without executing anything in them, plain or quantized by bitsandbytes, and as GGUF.

mod bnb;
mod checkpoint;
mod encoding;
mod error;
mod foreign;
mod gguf;
mod gguf_sampling;
pub mod hub;
mod json_dialect;
mod pack;
mod plan;
mod poc;
mod precision;
mod progress;
mod recipe;
mod shard_index;
mod small_file;
mod source;
mod tokenizer_files;
pub mod torch;
mod write;

pub use checkpoint::SourceDtype;
pub use error::PackError;
pub use pack::{PackOptions, PackReport, pack};
pub use precision::Measured;
pub use progress::Progress;
pub use recipe::Preset;
pub use source::ModelSource;
