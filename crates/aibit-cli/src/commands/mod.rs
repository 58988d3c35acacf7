//! One file per command: its arguments, its action, and a report that is both text and JSON.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aibit_cpu::Threads;
use aibit_format::{Archive, FileKind, PartialFolder, entry_names};
use aibit_pack::{ModelSource, PackError, PackOptions, Preset, Progress, pack};
use anyhow::Context;
use signal_hook::consts::SIGINT;

use crate::errors::Advised;

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod diff;
pub(crate) mod eval;
pub(crate) mod export;
mod generation;
mod gguf;
pub(crate) mod inspect;
mod message_input;
pub(crate) mod pack;
mod recipe;
pub(crate) mod run;
mod stop_string;
mod text;
mod unsupported;
pub(crate) mod verify;

/// Exit code of an interrupted program.
pub(crate) const INTERRUPTED: i32 = 130;

/// The archive that a command works on.
#[derive(clap::Args)]
pub(crate) struct ArchiveArg {
    /// The archive
    #[arg(value_name = "FILE", required_unless_present = "model")]
    archive: Option<PathBuf>,
    /// The archive, under the option name of other tools
    #[arg(short, long, value_name = "FILE", conflicts_with = "archive")]
    model: Option<PathBuf>,
}

impl ArchiveArg {
    pub(crate) fn path(&self) -> &Path {
        self.archive.as_deref().or(self.model.as_deref()).expect("one of the two is required")
    }
}

/// The number of compute threads.
#[derive(clap::Args)]
pub(crate) struct ThreadsArg {
    /// Compute threads [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ThreadsArg {
    /// Starts the threads of the kernels.
    pub(crate) fn start(&self) -> anyhow::Result<Threads> {
        Ok(Threads::team(self.count()?))
    }

    /// Starts as many threads for work that is not a kernel's, packing for instance, and those of the kernels.
    pub(crate) fn start_all(&self) -> anyhow::Result<Threads> {
        let pool = rayon::ThreadPoolBuilder::new().use_current_thread().num_threads(self.count()?);
        pool.build_global().context("cannot start the threads")?;
        self.start()
    }

    fn count(&self) -> anyhow::Result<usize> {
        self.threads.map_or_else(default_threads, |threads| Ok(threads.into()))
    }
}

/// The largest number of threads.
const MAX_THREADS: usize = 1024;

/// The number of threads if no option gives it: from the environment variable, or one per core.
pub(crate) fn default_threads() -> anyhow::Result<usize> {
    const VARIABLE: &str = "RAYON_NUM_THREADS";
    match std::env::var(VARIABLE) {
        Ok(number) if !matches!(number.as_str(), "" | "0") => match number.parse() {
            Ok(threads @ 1..=MAX_THREADS) => Ok(threads),
            _ => {
                let message = format!(
                    "{VARIABLE} is `{number}`; allowed are 1 to {MAX_THREADS}, or 0 for one per core"
                );
                Err(Advised::new("usage", message).into())
            }
        },
        _ => Ok(std::thread::available_parallelism().map_or(1, |cores| usize::from(cores).min(MAX_THREADS))),
    }
}

/// Opens an archive. If the path holds another kind of model, the error's hint is the command that packs it.
pub(crate) fn open_archive(path: &Path) -> anyhow::Result<Archive> {
    Archive::open(path).map_err(|error| match pack_command(path) {
        Some(command) => Advised::of(error).hint(format!("pack it first: {command}")).into(),
        None => error.into(),
    })
}

/// The command that packs the model at `path`, if one seems to be there.
fn pack_command(path: &Path) -> Option<String> {
    let holds_config = |folder: &Path| folder.join(entry_names::CONFIG).is_file();
    let is_gguf = |path: &Path| matches!(FileKind::read(path), Ok(FileKind::Gguf));
    let (source, named_for) = if path.is_dir() {
        let mut files = std::fs::read_dir(path).ok()?.flatten().map(|entry| entry.path());
        if !holds_config(path) && !files.any(|file| is_gguf(&file)) {
            return None;
        }
        (path.to_owned(), path.canonicalize().ok()?)
    } else {
        match FileKind::read(path).ok()? {
            FileKind::Gguf => (path.to_owned(), path.with_extension("")),
            FileKind::Safetensors | FileKind::Pickle | FileKind::Zip => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                if !holds_config(folder) {
                    return None;
                }
                (folder.to_owned(), folder.canonicalize().ok()?)
            }
            _ => return None,
        }
    };
    let mut target = named_for.file_name().unwrap_or("model".as_ref()).to_owned();
    // Do not overwrite a source that already has the target's name.
    target.push(if source.extension().is_some_and(|extension| extension == "aibit") {
        "-packed.aibit"
    } else {
        ".aibit"
    });
    Some(format!("aibit pack {} -o {}", for_shell(&source), for_shell(Path::new(&target))))
}

/// A path as a word that a POSIX shell reads.
fn for_shell(path: &Path) -> String {
    let word = path.display().to_string();
    let word = if word.starts_with('-') { format!("./{word}") } else { word };
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if word.chars().all(is_plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// An archive, or another source packed to a temporary one.
pub(crate) struct Opened {
    pub(crate) archive: Archive,
    _folder: Option<PartialFolder>,
}

impl Opened {
    /// Opens an archive, or packs any other source, as it is, to a temporary one.
    pub(crate) fn any(path: &Path, threads: &Threads, progress: &dyn Progress) -> anyhow::Result<Self> {
        let not_an_archive = match Archive::open(path) {
            Ok(archive) => return Ok(Self { archive, _folder: None }),
            Err(error) => error,
        };
        let source = match ModelSource::open(path) {
            Ok(source) => source,
            // For a file that is neither, the first error is more informative.
            Err(PackError::NotAModel { .. }) if path.is_file() => return Err(not_an_archive.into()),
            Err(error) => return Err(error.into()),
        };
        let folder = PartialFolder::create(&std::env::temp_dir(), "opened")
            .context("cannot create a temporary folder")?;
        let target = folder.path().join("packed.aibit");
        let threads = threads.clone();
        let options = PackOptions { preset: Some(Preset::Keep), threads, ..PackOptions::default() };
        pack(&source, &target, &options, progress)?;
        Ok(Self { archive: Archive::open(&target)?, _folder: Some(folder) })
    }
}

/// A flag that the first Ctrl-C sets; a second one while it is set ends the program.
pub(crate) fn watch_for_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    // In this order, so that the first Ctrl-C does not end the program.
    signal_hook::flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&interrupted))
        .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(&interrupted)))
        .context("cannot watch for Ctrl-C")?;
    Ok(interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        let check = |path: &str, word: &str| assert_eq!(for_shell(Path::new(path)), word);
        check("models/gpt2.gguf", "models/gpt2.gguf");
        check("my model's", r"'my model'\''s'");
        check("$(x)", "'$(x)'");
        check("-o", "./-o");
    }
}
