//! Checkpoints, from outside.

mod checkpoints;
