//! The tokenizer, from outside.

mod hostile;
mod pairs;
mod plain;
mod prompts;
mod steps;
