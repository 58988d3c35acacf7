#![doc = include_str!("../README.md")]
//! # In detail
//!
//! The Llama family: a model's `config.json` becomes a graph and a list of canonical tensors.
//!
//! Covers Llama, Mistral, Qwen2 and Qwen3 of every size, with or without grouped-query attention (GQA): RMS norm,
//! rotary position embedding, a gated MLP (SwiGLU), and optional biases and norms of queries and keys. Source:
//! Touvron et al. 2023 (arXiv:2302.13971), Dubey et al. 2024 (arXiv:2407.21783), Jiang et al. 2023
//! (arXiv:2310.06825), Yang et al. 2024 and 2025 (arXiv:2407.10671, arXiv:2505.09388); the settings are those of
//! transformers. An unsupported setting that would change the result is refused by name.

mod build;
mod checkpoint;
mod config;
mod gguf;
mod gguf_rope;
mod rope;
mod rope_settings;

pub use build::describe;
pub use checkpoint::checkpoint_name;
pub use config::{LlamaConfig, ModelType};
pub use gguf::{
    GGUF_NAMES, GgufHeader, gguf_config, gguf_head_dim, gguf_header, gguf_may_lack, has_interleaved_rows,
};
pub use rope::{Rope, RopeScaling};
pub use rope_settings::rope_settings;
