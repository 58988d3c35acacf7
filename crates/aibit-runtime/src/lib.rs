//! Executes the graph that an archive carries.
//!
//! - [`Model`]: an archive's graph with its tensors found in the map. Immutable, shared between sequences.
//! - [`Session`]: one sequence, its KV cache and its buffers. Prefill and decode are one code path.
//! - [`generate`](fn@generate): prompt to continuation, with a [`sampler`], stop conditions, and text that
//!   comes out in whole characters.
//! - [`Chat`]: a conversation, written as the package's [`ChatTemplate`] says, in one session.
//! - [`perplexity`](fn@perplexity): how well a model predicts a text.
//! - [`Measurement`]: what low precision costs a package, measured when it is packed.
//! - [`Golden`]: what a package must give, recorded when it is packed and replayed to verify it.
//!
//! Nothing here knows an architecture by name, and no weight is converted or copied when a model is loaded.

mod chat;
mod defaults;
mod error;
mod generate;
mod golden;
pub mod logits_processors;
mod machine_memory;
mod measure;
mod model;
mod perplexity;
pub mod sampler;
mod session;
mod settings_file;
pub mod text_stream;
mod tokenizer;

pub use aibit_kernels::limits::read_bandwidth;
pub use chat::{Chat, ChatFiles, ChatMessage, ChatOptions, ChatTemplate, ChatText, LocalTime};
pub use defaults::{PackageDefaults, SettingsFiles};
pub use error::RuntimeError;
pub use generate::{GenerateOptions, Generation, StopReason, generate};
pub use golden::{Check, Golden, GoldenRun, GoldenText, GoldenTokenizer, NUMERICS};
pub use measure::{LayerError, Measurement, SlotError};
pub use model::Model;
pub use perplexity::{Divergence, Perplexity, PerplexityOptions, Scored, perplexity};
pub use session::{KvCache, Profile, Session};
pub use tokenizer::{
    CompiledBytes, Tokenizer, check_components as check_tokenizer_components, compile as compile_tokenizer,
};
