//! The runtime, from outside.

mod chat;
mod tokenizer;
mod tokenizer_steps;
