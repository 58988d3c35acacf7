//! The importers and the packer, from outside.

mod documents;
mod golden_llama;
mod golden_models;
mod hub;
mod support;
mod torch;
