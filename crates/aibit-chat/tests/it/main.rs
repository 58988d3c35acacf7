//! Chat templates, from outside.

mod expressions;
mod templates;
