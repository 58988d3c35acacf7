//! Opens an archive and lists its tensors. Nothing is read but headers, the manifest and the tensor index.
//!
//! `cargo run --package aibit --example open_and_list -- [FILE.aibit]`

#![expect(clippy::print_stdout, reason = "what an example shows")]

use std::error::Error;

use aibit::Archive;

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/tiny-llama/qwen3.aibit");

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| SMALL.to_owned());
    let archive = Archive::open(&path)?;
    let manifest = archive.manifest();
    println!("{path}: {}, {} bytes", manifest.architecture, archive.file_bytes());
    for entry in archive.entries() {
        println!("entry  {:<24} {:>10} bytes", entry.name, entry.data.len());
    }
    for (name, record) in &manifest.tensors {
        println!("tensor {name:<48} {}", record.scheme);
    }
    assert!(!manifest.tensors.is_empty());
    Ok(())
}
