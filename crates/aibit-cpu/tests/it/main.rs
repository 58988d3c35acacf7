//! The CPU executor on a committed package.

mod batches;
mod support;
