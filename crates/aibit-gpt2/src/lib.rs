#![doc = include_str!("../README.md")]
//! # In detail
//!
//! The GPT-2 family: a model's `config.json` becomes a graph and a list of canonical tensors.
//!
//! Covers every GPT-2 size. Source: Radford et al. 2019, "Language Models are Unsupervised Multitask
//! Learners"; the settings are those of transformers' `GPT2Config`. An unsupported setting that would change the
//! result is refused by name.

mod build;
mod checkpoint;
mod config;
mod gguf;

pub use build::describe;
pub use checkpoint::checkpoint_name;
pub use config::Gpt2Config;
pub use gguf::{GGUF_ARCHITECTURE, GGUF_NAMES, gguf_config, gguf_metadata};

/// The `model_type` in `config.json` of this family.
pub const MODEL_TYPE: &str = "gpt2";
