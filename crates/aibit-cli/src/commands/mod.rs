//! One file per command: arguments, what it does, and a report that is both text and JSON.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aibit_format::{Archive, PartialFolder};
use aibit_pack::{ModelSource, PackError, PackOptions, Preset, Progress, pack};
use anyhow::Context;
use signal_hook::consts::SIGINT;

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
pub(crate) mod run;
mod stop_string;
mod text;
pub(crate) mod verify;

/// Exit code of a program that was interrupted.
pub(crate) const INTERRUPTED: i32 = 130;

/// The archive that a command works on.
#[derive(clap::Args)]
pub(crate) struct ArchiveArg {
    /// The archive
    #[arg(value_name = "FILE", required_unless_present = "model")]
    archive: Option<PathBuf>,
    /// The archive, as other tools call it
    #[arg(short, long, value_name = "FILE", conflicts_with = "archive")]
    model: Option<PathBuf>,
}

impl ArchiveArg {
    pub(crate) fn path(&self) -> &Path {
        self.archive.as_deref().or(self.model.as_deref()).expect("one of the two is required")
    }
}

/// The number of threads that compute.
#[derive(clap::Args)]
pub(crate) struct ThreadsArg {
    /// Threads that compute [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ThreadsArg {
    /// Starts the threads, once, and tells how many there are.
    pub(crate) fn start(&self) -> anyhow::Result<usize> {
        // This thread computes as well: handing each layer over to others would cost a wake-up.
        let mut pool = rayon::ThreadPoolBuilder::new().use_current_thread();
        if let Some(threads) = self.threads {
            pool = pool.num_threads(threads.into());
        }
        pool.build_global().context("cannot start the threads")?;
        Ok(rayon::current_num_threads())
    }
}

/// An archive, or one made of something else for as long as it is looked at.
pub(crate) struct Opened {
    pub(crate) archive: Archive,
    _folder: Option<PartialFolder>,
}

impl Opened {
    /// Opens an archive, or packs any other source, as it is, to a temporary one.
    pub(crate) fn any(path: &Path, progress: &dyn Progress) -> anyhow::Result<Self> {
        let not_an_archive = match Archive::open(path) {
            Ok(archive) => return Ok(Self { archive, _folder: None }),
            Err(error) => error,
        };
        let source = match ModelSource::open(path) {
            Ok(source) => source,
            // Of a file that is neither the first message says more.
            Err(PackError::NotAModel { .. }) if path.is_file() => return Err(not_an_archive.into()),
            Err(error) => return Err(error.into()),
        };
        let folder = PartialFolder::create(&std::env::temp_dir(), "opened")
            .context("cannot create a temporary folder")?;
        let target = folder.path().join("packed.aibit");
        let options = PackOptions { preset: Some(Preset::Keep), ..PackOptions::default() };
        pack(&source, &target, &options, progress)?;
        Ok(Self { archive: Archive::open(&target)?, _folder: Some(folder) })
    }
}

/// A flag that the first Ctrl-C sets; one that comes while it is set ends the program.
pub(crate) fn watch_for_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    // In this order, or the first would end the program as well.
    signal_hook::flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&interrupted))
        .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(&interrupted)))
        .context("cannot watch for Ctrl-C")?;
    Ok(interrupted)
}
