//! The importers and the packer, from outside.

mod committed_archive;
mod documents;
mod gguf_llama;
mod golden_llama;
mod golden_models;
mod golden_rope;
mod packing;
mod precision;
mod support;
