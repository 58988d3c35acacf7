//! What quantization costs: the small model of this repository is packed as F32 and as INT8, and both predict a text.
//!
//! `cargo run --release --package aibit --example perplexity`

#![expect(clippy::print_stdout, reason = "what an example shows")]

use std::error::Error;

use aibit::pack::{ModelSource, PackOptions, Preset, pack};
use aibit::runtime::{PerplexityOptions, Scored, perplexity};
use aibit::{Archive, Model, Profile, Tokenizer};

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/aibit-small-gpt2");
const TEXT: &str = "The house stood at the end of the road, where the river turned to the west. In the morning the \
    people of the village came to the market and sold what they had made: bread, cloth, and baskets of fruit. The \
    children played by the water until the sun went down, and then they were called home. It was said that the old \
    bridge had been built by a king, but nobody could remember his name.";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let packed = |preset, name| -> Result<Archive, Box<dyn Error>> {
        let path = folder.path().join(name);
        let options = PackOptions { preset: Some(preset), ..PackOptions::default() };
        pack(&ModelSource::open(SMALL)?, &path, &options, &())?;
        Ok(Archive::open(&path)?)
    };
    let (base, int8) = (packed(Preset::F32, "f32.aibit")?, packed(Preset::Int8, "int8.aibit")?);
    let ids = Tokenizer::load(&base)?.encode_prompt(TEXT)?;
    let options = PerplexityOptions {
        window: None,
        stride: None,
        scored: Scored::All,
        first_token: None,
        profile: Profile::Fast,
    };
    let (model, base) = (Model::load(&int8)?, Model::load(&base)?);
    let found = perplexity(&model, Some(&base), &ids, &options, &mut |_| ())?;
    let divergence = found.base.expect("a base was given");
    println!("f32   perplexity {:.3}", divergence.perplexity);
    println!("int8  perplexity {:.3}, KL divergence to f32 {:.6}", found.perplexity, divergence.mean_kl);
    assert!(found.perplexity < 1.05 * divergence.perplexity);
    Ok(())
}
