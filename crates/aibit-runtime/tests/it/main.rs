//! The runtime, from outside.

mod decoder;
mod foreign_model;
