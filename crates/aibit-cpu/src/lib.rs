#![doc = include_str!("../README.md")]
//! # In detail
//!
//! Executes an archive's graph on the CPU, on the stored integers: the [`Executor`](aibit_runtime::Executor) that every
//! machine has.
//!
//! - [`Model`]: an archive's graph with its tensors found in the map. Immutable and shared; cloning it is free.
//! - [`Measurement`]: what low precision costs a package, measured when it is packed.
//!
//! No weight is converted or copied when a model is loaded.

mod error;
mod forward;
mod linear;
mod machine_memory;
mod measure;
mod memory;
mod model;
mod ops;
mod pages;
mod sequences;
mod vocabulary;

pub use aibit_kernels::limits::read_bandwidth;
pub use aibit_kernels::{Context, Isa, Threads};
pub use error::LoadError;
pub use measure::{LayerError, Measurement, SlotError};
pub use model::Model;
