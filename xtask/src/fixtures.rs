//! `cargo xtask fixtures`: brings the real models that `e2e` and `bench` run on, pinned byte for byte.

use std::path::Path;

use aibit_pack::Progress;
use aibit_pack::hub::{self, HubOptions, PinnedFile};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// A model at a commit. Files without a digest are pinned by the commit alone.
struct Fixture {
    name: &'static str,
    repository: &'static str,
    revision: &'static str,
    files: &'static [PinnedFile<'static>],
}

const fn pin(name: &'static str, bytes: Option<u64>, sha256: Option<&'static str>) -> PinnedFile<'static> {
    PinnedFile { name, bytes, sha256 }
}

const FIXTURES: [Fixture; 1] = [Fixture {
    name: "gpt2",
    repository: "openai-community/gpt2",
    revision: "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    files: &[
        pin("config.json", None, None),
        pin("generation_config.json", None, None),
        pin("vocab.json", None, Some("196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783")),
        pin("merges.txt", None, Some("1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5")),
        pin(
            "model.safetensors",
            Some(548_105_171),
            Some("248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
        ),
    ],
}];

/// Brings `model` into `target/fixtures/<model>`. Files that are there and right are not fetched again.
pub(crate) fn run(model: &str) -> anyhow::Result<()> {
    let Some(fixture) = FIXTURES.iter().find(|fixture| fixture.name == model) else {
        let known: Vec<&str> = FIXTURES.iter().map(|fixture| fixture.name).collect();
        bail!("no fixture `{model}`; there is {}", known.join(", "));
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let folder = root.join("target/fixtures").join(fixture.name);
    let options = HubOptions { revision: Some(fixture.revision.to_owned()), ..HubOptions::default() };
    hub::fetch_pinned(fixture.repository, fixture.files, &folder, &options, &Bar::new())?;
    eprintln!("{} is complete: {} files checked", folder.display(), fixture.files.len());
    Ok(())
}

/// A bar on stderr, which indicatif hides when that is not a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style = "{msg:24} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::no_length().with_style(style))
    }
}

impl Progress for Bar {
    fn start(&self, file: &str, bytes: u64) {
        self.0.reset();
        self.0.set_length(bytes);
        self.0.set_message(file.to_owned());
    }
    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
    fn finish(&self) {
        self.0.finish_and_clear();
    }
}
