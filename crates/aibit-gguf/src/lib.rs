//! GGUF, the file format of llama.cpp: metadata, tensors, block formats and tokenizers, read and written.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod error;
mod metadata;

pub use error::GgufError;
pub use metadata::{Array, Metadata, Value};
