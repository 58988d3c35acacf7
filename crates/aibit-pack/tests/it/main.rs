//! The importers and the packer, from outside.

mod hub;
mod torch;
