//! Graphs: sound ones are executed as planned, all others are refused.

mod fusion;
mod interpreter;
mod json;
mod plans;
mod support;
mod validation;
