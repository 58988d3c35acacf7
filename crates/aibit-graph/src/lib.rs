#![doc = include_str!("../README.md")]
//! # In detail
//!
//! The inference graph as data.
//!
//! A [`Graph`] is a list of [`Op`]s in execution order over f32 values of shape `[tokens, width]`. An architecture
//! crate emits it, [`ModelDescription::fuse`] fuses nodes, [`Graph::plan_buffers`] assigns each value a range of one
//! arena, the archive stores the result, and the runtime executes it without knowing the architecture. This crate
//! computes nothing, and a graph contains no code.
//!
//! A graph from a file is hostile until [`Graph::validate`] has accepted it: every value, tensor shape, KV slot and
//! arena range is checked before a kernel uses it.

mod builder;
mod config_error;
mod config_fields;
mod error;
mod fuse;
mod graph;
pub mod ops;
mod parameter;
mod place;
mod plan;
mod stored_tensor;
mod validate;

pub use builder::{GraphBuilder, LinearLayer};
pub use config_error::ConfigError;
pub use config_fields::ConfigFields;
pub use error::GraphError;
pub use graph::{ContextLimit, Graph, KvPrecision, KvSlot, Value, ValueId};
pub use ops::{ActivationFunction, ActivationPrecision, LongFrequencies, Op, RopeStyle, TensorUse};
pub use parameter::{CheckpointName, ModelDescription, Origin, Parameter, Role};
pub use place::Place;
pub use plan::BufferPlan;
pub use stored_tensor::{StoredTensor, TensorKind};
