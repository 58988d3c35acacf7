//! What depends on the crate, as its users do.

mod outside;
