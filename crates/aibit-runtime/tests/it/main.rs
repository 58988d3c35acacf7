//! The runtime, from outside.

mod foreign_model;
