//! The runtime, from outside.

mod chat;
mod chat_expressions;
mod foreign_model;
mod tokenizer;
mod tokenizer_hostile;
mod tokenizer_plain;
mod tokenizer_prompts;
mod tokenizer_steps;
