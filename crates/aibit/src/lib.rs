#![doc = include_str!("../README.md")]
//! # In detail
//!
//! Each crate is a module here, and what a program needs to run a model is at the root. [`ndarray`] is the version whose
//! arrays [`quant`] takes.

pub use ndarray;

pub use aibit_chat as chat;
pub use aibit_cpu as cpu;
pub use aibit_export as export;
pub use aibit_families as families;
pub use aibit_format as format;
pub use aibit_gguf as gguf;
pub use aibit_graph as graph;
pub use aibit_hub as hub;
pub use aibit_kernels as kernels;
pub use aibit_pack as pack;
pub use aibit_quant as quant;
pub use aibit_runtime as runtime;
pub use aibit_tokenizer as tokenizer;
pub use aibit_torch as torch;

pub use aibit_chat::{ChatMessage, ChatTemplate, LocalTime};
pub use aibit_cpu::{Isa, LoadError, Model, Threads};
pub use aibit_format::Archive;
pub use aibit_runtime::{
    Chat, ChatOptions, Executor, GenerateOptions, Generation, PackageDefaults, Profile, RuntimeError,
    Session, StopReason, generate,
};
pub use aibit_tokenizer::Tokenizer;
