#![doc = include_str!("../README.md")]
//! # In detail
//!
//! GGUF, the file format of llama.cpp: metadata, tensors, block formats and tokenizers, read and written.
//!
//! - [`Gguf`] parses a file's structure strictly: [`Metadata`], and the location of each [`GgufTensor`].
//! - [`Split`] and [`join_parts`] handle models in several files.
//! - [`GgufLayout`] plans a file to be written.
//! - [`dequantize`] computes the values of a tensor of any supported [`GgmlType`]; blocks of Q8_0 and Q4_0 can be
//!   split into codes and scales and joined again.
//! - [`tokenizer_json`] builds a `tokenizer.json` from the metadata, [`tokenizer_metadata`] does the reverse.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod blocks;
mod error;
mod metadata;
mod names;
mod reader;
mod rows;
mod split;
mod tensor;
mod tokenizer;
mod types;
mod writer;

pub use blocks::{dequantize, join_q4_0, join_q8_0, split_q4_0, split_q8_0};
pub use error::GgufError;
pub use metadata::{Array, Metadata, Value};
pub use names::TensorNames;
pub use reader::Gguf;
pub use rows::{deinterleave_rows, interleave_rows};
pub use split::{Split, join_parts};
pub use tensor::GgufTensor;
pub use tokenizer::{
    SpecialIds, ends_of_text, is_end_of_text, special_ids, tokenizer_json, tokenizer_metadata,
};
pub use types::{GgmlType, UnsupportedType};
pub use writer::GgufLayout;
