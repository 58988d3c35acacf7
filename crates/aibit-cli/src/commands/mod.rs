//! One file per command: arguments, what it does, and a report that is both text and JSON.

use std::path::{Path, PathBuf};

use anyhow::Context;

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod pack;
pub(crate) mod run;
pub(crate) mod verify;

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

/// Reads a text file, whole.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
