#![doc = include_str!("../README.md")]
//! # In detail
//!
//! Reads `torch.save` checkpoints (`pytorch_model.bin`, `.pt`) without running the pickle inside.
//!
//! Such a file is a zip archive of uncompressed members: `<root>/data.pkl` describes the tensors and
//! `<root>/data/<key>` holds one storage each. A pickle may import and call anything, so reading one
//! with Python runs whatever its author put there. Here it is data: see the `pickle` module.
//!
//! The archive, too, is hostile until proven otherwise. Two zip readers must not be able to see two
//! different checkpoints (local and central headers agree, names are unique, no member hides between
//! others), and every tensor is proved to lie inside its storage before an offset is handed out.
//! Only `data.pkl` is read and checksummed while parsing; [`TorchCheckpoint::verify`] does the rest.

mod archive;
mod checkpoint;
mod dtype;
mod error;
mod pickle;

pub use checkpoint::{TorchCheckpoint, TorchTensor};
pub use dtype::TorchDtype;
pub use error::TorchError;
