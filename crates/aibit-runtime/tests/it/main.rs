//! The runtime, from outside.

mod tokenizer;
mod tokenizer_steps;
