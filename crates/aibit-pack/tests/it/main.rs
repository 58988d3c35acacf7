//! The importers and the packer, from outside.

mod golden_models;
mod hub;
mod torch;
