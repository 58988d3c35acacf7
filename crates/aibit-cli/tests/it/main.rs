//! Tests of the `aibit` binary: its output, exit codes and archives.

mod cases;
mod chat;
mod error_messages;
mod eval;
mod generation;
mod help;
#[cfg(target_os = "linux")]
mod hostile_archives;
mod interchange;
mod json_output;
mod llama;
#[cfg(target_os = "linux")]
mod memory;
mod models;
#[cfg(unix)]
mod outputs;
mod packing;
mod prompt_files;
mod refusals;
mod round_trips;
mod settings;
mod sources;
mod support;
#[cfg(unix)]
mod terminal;
mod text_output;
mod tokenizers;
mod torch_file;
mod verification;
