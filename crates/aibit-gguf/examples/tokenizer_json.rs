//! Prints the `tokenizer.json` that says what a GGUF file says about its tokenizer.
//!
//! ```sh
//! cargo run -p aibit-gguf --example tokenizer_json model.gguf
//! ```

use std::io::Write;

use aibit_gguf::{Gguf, tokenizer_json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("name a GGUF file")?;
    let file = std::fs::read(path)?;
    let json = tokenizer_json(Gguf::parse(&file)?.metadata())?;
    std::io::stdout().write_all(&json)?;
    Ok(())
}
