//! The runtime, from outside.

mod tokenizer;
