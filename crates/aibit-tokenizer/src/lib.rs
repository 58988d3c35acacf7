#![doc = include_str!("../README.md")]
//! # In detail
//!
//! - [`Tokenizer`]: made from a `tokenizer.json`, which the `tokenizers` library then executes, or from the compiled form.
//! - [`compile`]: compiles a byte-level BPE tokenizer.
//! - [`check_components`]: refuses components that are not supported. A file is hostile until it has passed: the library
//!   panics, runs for minutes or fills the memory on some of what a `tokenizer.json` can contain.

mod added_tokens;
mod byte_alphabet;
mod char_classes;
mod charsmap;
mod compile;
mod compiled;
mod components;
mod error;
mod expression;
mod json;
mod layout;
mod library;
mod merge;
mod pretokenize;
mod tokenizer;

pub use compile::compile;
pub use compiled::CompiledBytes;
pub use components::check_components;
pub use error::TokenizerError;
pub use pretokenize::{Class as CharacterClass, class_of as character_class};
pub use tokenizer::{Agreement, Tokenizer};
