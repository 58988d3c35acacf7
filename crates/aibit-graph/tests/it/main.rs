//! Graphs: sound ones are executed as planned, all others are refused.

mod fusion;
mod gated_ops;
mod interpreter;
mod joining;
mod json;
mod places;
mod plans;
mod support;
mod validation;
