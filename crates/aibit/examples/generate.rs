//! Continues a prompt, with an archive or with the small model of this repository, which is packed first.
//!
//! `cargo run --release --package aibit --example generate -- [FILE.aibit [PROMPT]]`

#![expect(clippy::print_stdout, reason = "what an example shows")]

use std::error::Error;
use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;

use aibit::pack::{ModelSource, PackOptions, pack};
use aibit::{Archive, GenerateOptions, Model, PackageDefaults, Profile, Session, Tokenizer, generate};

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/aibit-small-gpt2");

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = tempfile::tempdir()?;
    let path = match arguments.next() {
        Some(path) => PathBuf::from(path),
        None => {
            let path = folder.path().join("small.aibit");
            pack(&ModelSource::open(SMALL)?, &path, &PackOptions::default(), &())?;
            path
        }
    };
    let prompt = arguments.next().unwrap_or_else(|| "The history of the city begins".to_owned());

    let archive = Archive::open(&path)?;
    let model = Model::load(&archive)?;
    let tokenizer = Tokenizer::load(&archive)?;
    let defaults = PackageDefaults::load(&archive, &tokenizer, model.graph().vocabulary)?;
    let options = GenerateOptions {
        max_tokens: Some(32),
        stop_ids: defaults.stop_ids,
        stop_strings: defaults.stop_strings,
        ..GenerateOptions::default()
    };
    let mut session = Session::new(&model, Profile::Fast, model.graph().context)?;
    print!("{prompt}");
    let ids = tokenizer.encode_prompt(&prompt)?;
    let generation = generate(&mut session, &tokenizer, &ids, &options, &mut |text| {
        print!("{text}");
        match stdout().flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    println!("\n[{} tokens, {:?}]", generation.ids.len(), generation.stop_reason);
    assert!(!generation.ids.is_empty());
    Ok(())
}
