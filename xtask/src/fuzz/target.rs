//! Running a case: what a user's command would do with the file.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use aibit_chat::{ChatFiles, ChatMessage, ChatTemplate, LocalTime};
use aibit_cpu::Model;
use aibit_format::{Archive, check_values, entry_names};
use aibit_pack::{ModelSource, PackOptions, pack};
use aibit_runtime::sampler::SamplerError;
use aibit_runtime::{GenerateOptions, Golden, PackageDefaults, Profile, RuntimeError, Session, generate};
use aibit_tokenizer::Tokenizer;
use clap::ValueEnum;

use super::case::ARCHIVE;

/// A kind of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Target {
    /// Archives with modified entries and correct digests.
    Archive,
    /// `tokenizer.json`.
    Tokenizer,
    /// Chat templates.
    Template,
    /// GGUF files.
    Gguf,
    /// Safetensors checkpoints, with and without an index.
    Safetensors,
    /// Torch checkpoints.
    Pickle,
    /// Configurations of the model and of the tokenizer.
    Config,
    /// bitsandbytes checkpoints.
    Bnb,
}

/// The expected outcomes of a case.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A result.
    Accepted,
    /// An error and its text.
    Refused(String),
}

impl Target {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Tokenizer => "tokenizer",
            Self::Template => "template",
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
            Self::Pickle => "pickle",
            Self::Config => "config",
            Self::Bnb => "bnb",
        }
    }

    /// Runs the case in `folder`.
    pub(super) fn run(self, folder: &Path) -> Outcome {
        let result = match self {
            Self::Archive => archive(&folder.join(ARCHIVE)),
            Self::Tokenizer => tokenizer(folder),
            Self::Template => template(folder),
            Self::Gguf => packed(&folder.join("model.gguf"), folder),
            Self::Safetensors | Self::Pickle | Self::Config | Self::Bnb => packed(folder, folder),
        };
        match result {
            Ok(()) => Outcome::Accepted,
            Err(error) => Outcome::Refused(format!("{error:#}")),
        }
    }
}

const TEXTS: [&str; 4] =
    ["Hello, world!  <|endoftext|>", "aaaa eeee 1234 \u{e9}\u{301}", "漢字 \u{0}\u{10ffff}", ""];

/// As `inspect`, `verify --run`, `run` and `chat`. An error in one part does not end the others.
fn archive(path: &Path) -> anyhow::Result<()> {
    let archive = Archive::open(path)?;
    let mut first = None;
    let mut note = |result: anyhow::Result<()>| {
        if let Err(error) = result {
            first.get_or_insert(error);
        }
    };
    for entry in archive.entries() {
        note(archive.verify_entry(entry.name).map_err(Into::into));
    }
    note(check_values(archive.weights(), archive.manifest()).map_err(Into::into));
    note(chat(&archive));
    note(replay(&archive));
    first.map_or(Ok(()), Err)
}

fn chat(archive: &Archive) -> anyhow::Result<()> {
    let template = ChatTemplate::load(archive)?;
    template.map_or(Ok(()), |template| render(&template))
}

fn replay(archive: &Archive) -> anyhow::Result<()> {
    let model = Model::load(archive)?;
    let tokenizer = Tokenizer::load(archive)?;
    let defaults = PackageDefaults::load(archive, &tokenizer, model.graph().vocabulary)?;
    for profile in Profile::ALL {
        let mut session = Session::new(&model, profile, 64)?;
        let options = GenerateOptions {
            max_tokens: Some(2),
            processors: defaults.processors.clone(),
            stop_ids: defaults.stop_ids.clone(),
            stop_strings: defaults.stop_strings.clone(),
            ..GenerateOptions::default()
        };
        let prompt = tokenizer.encode_prompt("Once upon a time")?;
        generate(&mut session, &tokenizer, &prompt, &options, &mut |_| ControlFlow::Continue(()))?;
    }
    let golden = Golden::from_json(archive.entry(entry_names::GOLDEN)?.data)?;
    let json = archive.entry(entry_names::TOKENIZER)?.data;
    let checks = golden.replay(&model, &tokenizer, json)?;
    match checks.into_iter().find(|check| !check.ok) {
        Some(check) => Err(anyhow::anyhow!("{}: {}", check.name, check.detail)),
        None => Ok(()),
    }
}

fn tokenizer(folder: &Path) -> anyhow::Result<()> {
    let json = fs::read(folder.join("tokenizer.json"))?;
    let tokenizer = Tokenizer::from_json(&json)?;
    for text in TEXTS {
        let ids = tokenizer.encode_prompt(text)?;
        tokenizer.decode(&ids);
    }
    if let Some(compiled) = aibit_tokenizer::compile(&json)? {
        let compiled = Tokenizer::from_compiled(compiled)?;
        for text in TEXTS {
            let (found, expected) = (compiled.encode(text)?, tokenizer.encode(text)?);
            assert_eq!(found, expected, "the compiled tokenizer is another: {text:?}");
        }
    }
    Ok(())
}

fn template(folder: &Path) -> anyhow::Result<()> {
    let template = fs::read(folder.join("chat_template.jinja"))?;
    let template =
        ChatTemplate::from_files(&ChatFiles { template: Some(&template), ..ChatFiles::default() })?;
    template.map_or(Ok(()), |template| render(&template))
}

fn render(template: &ChatTemplate) -> anyhow::Result<()> {
    let messages = [
        ChatMessage::new("system", "Be brief."),
        ChatMessage::new("user", "What is 1 + 1?"),
        ChatMessage::new("assistant", "2"),
        ChatMessage::new("user", "{{ x }} <|im_end|>"),
    ];
    template.render(&messages, true, LocalTime::EPOCH)?;
    Ok(())
}

/// Packs a source and loads the package: a package that could be packed must run.
fn packed(source: &Path, folder: &Path) -> anyhow::Result<()> {
    let target = folder.join("packed.aibit");
    let packed = pack(&ModelSource::open(source)?, &target, &PackOptions::default(), &());
    if let Err(error) = packed {
        let left = fs::read_dir(folder)?.flatten().map(|entry| entry.file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("aibit")).collect();
        assert!(left.is_empty(), "a pack that failed leaves {left:?}");
        return Err(error.into());
    }
    let archive = Archive::open(&target)?;
    let ran = chat(&archive).and_then(|()| replay(&archive));
    match ran {
        Err(error) if !is_of_this_text(&error) => {
            panic!("a package that was packed does not run: {error:#}")
        }
        ran => ran,
    }
}

/// Whether an error only says that this text is too long for the model, or that finite weights give values that are
/// not finite.
fn is_of_this_text(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(
            RuntimeError::ContextFull { .. }
                | RuntimeError::Sampler(
                    SamplerError::NotFinite { .. } | SamplerError::NothingPossible { .. }
                )
        )
    )
}
