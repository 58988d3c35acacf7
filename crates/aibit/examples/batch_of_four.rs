//! Continues four prompts that begin alike: the common part is computed once, then every pass has a row of each.
//!
//! `cargo run --release --package aibit --example batch_of_four -- [FILE.aibit]`

#![expect(clippy::print_stdout, reason = "what an example shows")]

use std::error::Error;
use std::path::PathBuf;

use aibit::pack::{ModelSource, PackOptions, pack};
use aibit::runtime::{Batch, Decoder, PAGE, Run};
use aibit::{Archive, Executor, GenerateOptions, Model, Profile, Threads, Tokenizer};

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/aibit-small-gpt2");
const BEGINNING: &str = "The history of the city begins";
const ENDINGS: [&str; 4] = [" with", " in", " at the", " when"];
const TOKENS: usize = 24;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = match std::env::args().nth(1) {
        Some(path) => PathBuf::from(path),
        None => {
            let path = folder.path().join("small.aibit");
            pack(&ModelSource::open(SMALL)?, &path, &PackOptions::default(), &())?;
            path
        }
    };
    let archive = Archive::open(&path)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = Model::load(&archive)?.with_threads(Threads::team(threads));
    let tokenizer = Tokenizer::load(&archive)?;

    // Sixteen pages of the KV cache are enough for all four.
    let mut sequences = model.sequences(Profile::Fast, 16)?;
    let beginning = tokenizer.encode_prompt(BEGINNING)?;
    let first = sequences.start(4 * PAGE);
    sequences
        .forward(&Batch { tokens: &beginning, runs: &[Run { sequence: first, len: beginning.len() }] })?;

    let options = GenerateOptions { max_tokens: Some(TOKENS), ..GenerateOptions::default() };
    let mut texts = Vec::new();
    for ending in ENDINGS {
        let tokens = tokenizer.encode(ending)?;
        let prompt = [&beginning[..], &tokens].concat();
        let decoder = Decoder::new(&tokenizer, &prompt, &options)?;
        texts.push((sequences.fork(first, beginning.len()), decoder, tokens, ending.to_owned()));
    }
    // Prompts of different lengths are a batch as well.
    while texts.iter().any(|(_, decoder, ..)| decoder.stopped().is_none()) {
        let (mut tokens, mut runs, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, _, pending, _) in texts.iter().filter(|(_, decoder, ..)| decoder.stopped().is_none()) {
            tokens.extend_from_slice(pending);
            runs.push(Run { sequence: *sequence, len: pending.len() });
            last.push(tokens.len() - 1);
        }
        sequences.forward(&Batch { tokens: &tokens, runs: &runs })?;
        let logits = sequences.logits(&last)?;
        let rows = logits.chunks_exact_mut(model.graph().vocabulary);
        let running = texts.iter_mut().filter(|(_, decoder, ..)| decoder.stopped().is_none());
        for ((_, decoder, pending, text), logits) in running.zip(rows) {
            if let Some(piece) = decoder.push(logits)? {
                *pending = vec![piece.id];
                text.push_str(&piece.text);
            }
        }
    }
    for (_, decoder, _, text) in &mut texts {
        text.push_str(&decoder.finish());
        println!("{BEGINNING}{text}\n[{} tokens, {:?}]\n", decoder.generated().len(), decoder.stopped());
    }
    assert!(texts.iter().all(|(_, decoder, ..)| !decoder.generated().is_empty()));
    let pages = sequences.pages();
    println!("{} pages of {} KB for four texts", pages.used, pages.page_bytes / 1000);
    Ok(())
}
