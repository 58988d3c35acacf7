//! Fetching, from outside.

mod fetching;
mod server;
