//! `cargo xtask bench --kv`: the quality of the KV cache with large channels in keys or values.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::shape::{path, run};
use crate::shape::{self, Options, Shape};
use crate::{e2e, root};

/// The text on which predictions are compared: any text will do for random weights, and this one does not change.
const TEXT: &str = "LICENSE-APACHE";

/// Norms of the key biases: none, a typical layer's, and the two largest of Qwen2.5-7B.
const KEY_BIASES: [f32; 4] = [0.0, 22.0, 605.0, 921.0];
const VALUE_CHANNEL: f32 = 100.0;

/// Limit of the divergence of a default package, relative to the same with an f32 cache.
const PROMISE: f64 = 1.25;

/// Packs and compares, and returns the page.
pub(super) fn measure(given: Option<&Path>) -> anyhow::Result<String> {
    let aibit = match given {
        Some(path) => path.to_owned(),
        None => e2e::build()?.0,
    };
    let mut page = format!(
        "# Quality of the KV cache\n\n\
         Written by `cargo xtask bench --kv`. Qwen2 shapes with seeded weights (`cargo xtask shape`), with key biases of \
         the given norm in every layer, or with one value channel of every head at {VALUE_CHANNEL} times the others. Mean \
         KL divergence of the int8 package from the same weights in f32, and top-1 agreement, on the text of `{TEXT}` in \
         windows of 512 tokens; with the KV cache precision that `aibit pack` chooses, and with an f32 cache. The limit \
         of the ratio is {PROMISE}.\n\n\
         | shape | | mean KL, default | mean KL, cache in f32 | ratio | top-1, default | top-1, cache in f32 | |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n"
    );
    for shape in [Shape::Qwen2Small, Shape::Qwen2] {
        let biases = KEY_BIASES
            .map(|key_bias| (format!("key bias {key_bias}"), Options { key_bias, ..Options::default() }));
        let value = Options { value_channel: VALUE_CHANNEL, ..Options::default() };
        let all = biases.into_iter().chain([(format!("value channel at {VALUE_CHANNEL} ×"), value)]);
        for (name, options) in all {
            let [default, f32] = divergences(&aibit, shape, &options)?;
            let ratio = default.0 / f32.0;
            let verdict = if ratio <= PROMISE { "met" } else { "**missed**" };
            let row = format!(
                "| {} | {name} | {:.5} | {:.5} | {ratio:.2} | {:.1} % | {:.1} % | {verdict} |",
                shape.name(),
                default.0,
                f32.0,
                100.0 * default.1,
                100.0 * f32.1
            );
            eprintln!("{row}");
            writeln!(page, "{row}")?;
        }
    }
    Ok(page)
}

/// Mean KL and top-1 agreement with the default cache and with an f32 cache.
fn divergences(aibit: &Path, shape: Shape, options: &Options) -> anyhow::Result<[(f64, f64); 2]> {
    let source = shape::make(shape, options)?;
    let archive = |name: &str| root().join("target/bench").join(format!("kv-{name}.aibit"));
    let pack = |name: &str, options: &[&str]| -> anyhow::Result<()> {
        let archive = archive(name);
        run(aibit, &[&["pack", path(&source)?, "-o", path(&archive)?, "--force"], options].concat())?;
        Ok(())
    };
    pack("base", &["-q", "f32"])?;
    pack("default", &["-q", "int8"])?;
    pack("f32", &["-q", "int8", "--kv-cache", "f32"])?;
    let mut results = [(0.0, 0.0); 2];
    for (name, result) in ["default", "f32"].into_iter().zip(&mut results) {
        let (archive, base, text) = (archive(name), archive("base"), root().join(TEXT));
        let report = run(
            aibit,
            &["eval", path(&archive)?, "--kl-base", path(&base)?, "--ppl", path(&text)?, "-w", "512"],
        )?;
        let number =
            |name: &str| report["base"][name].as_f64().with_context(|| format!("{name} in {report}"));
        *result = (number("mean_kl")?, number("top1_agreement")?);
    }
    for name in ["base", "default", "f32"] {
        fs::remove_file(archive(name))?;
    }
    Ok(results)
}
