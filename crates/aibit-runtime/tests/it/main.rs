//! The runtime, from outside.

mod chat;
mod foreign_model;
mod tokenizer;
mod tokenizer_steps;
