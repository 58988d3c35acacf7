//! Sources in, one archive out.
//!
//! [`ModelSource`] finds a model in a folder, [`hub`] fetches one from the model hub, [`pack`] quantizes it once
//! and writes the archive. Checkpoints are safetensors files, sharded or not, or torch's `pytorch_model.bin`,
//! which [`torch`] reads without executing anything in it.

mod bnb;
mod checkpoint;
mod encoding;
mod error;
mod gguf;
pub mod hub;
mod pack;
mod poc;
mod progress;
mod recipe;
mod source;
mod tokenizer_files;
pub mod torch;

pub use checkpoint::SourceDtype;
pub use error::PackError;
pub use pack::{PackOptions, PackReport, pack};
pub use progress::Progress;
pub use recipe::Preset;
pub use source::ModelSource;
