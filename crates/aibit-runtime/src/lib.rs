#![doc = include_str!("../README.md")]
//! # In detail
//!
//! Text generation on an executor.
//!
//! - [`Executor`]: what computes a model, on the CPU or another device; [`Sequences`]: any number of sequences that go
//!   through passes together, their KV caches in pages.
//! - [`Session`]: one sequence. Prefill and decode are one code path.
//! - [`Decoder`]: logits to text, with a [`sampler`], stop conditions, and whole characters. [`Pieces`] iterates over a
//!   continuation, [`generate`](fn@generate) returns all of it.
//! - [`Chat`]: a conversation in one session, written as a [`ChatTemplate`] says.
//! - [`perplexity`](fn@perplexity): how well a model predicts a text.
//! - [`Golden`]: what a package must give, recorded when it is packed and replayed to verify it.
//!
//! Nothing here knows an architecture or a device by name.

mod chat;
mod decoder;
mod defaults;
mod error;
mod executor;
mod generate;
mod golden;
pub mod logits_processors;
mod perplexity;
pub mod sampler;
mod session;
mod settings_file;
pub mod text_stream;

pub use aibit_chat::{ChatMessage, ChatTemplate, LocalTime};
pub use aibit_tokenizer::Tokenizer;
pub use chat::{Chat, ChatOptions};
pub use decoder::{ChooseToken, Decoder, Piece};
pub use defaults::{PackageDefaults, SettingsFiles};
pub use error::RuntimeError;
pub use executor::{
    Batch, Executor, Limits, PAGE, PageUse, Profile, Run, SequenceId, Sequences, UnknownProfile, check_ids,
};
pub use generate::{GenerateOptions, Generation, Pieces, StopReason, generate};
pub use golden::{Check, Golden, GoldenRun, GoldenText, GoldenTokenizer, NUMERICS};
pub use perplexity::{Divergence, Perplexity, PerplexityOptions, Scored, perplexity};
pub use session::Session;
