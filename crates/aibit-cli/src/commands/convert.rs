use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use aibit_format::{OutputFile, copy_archive};
use aibit_pack::{ModelSource, PackOptions, Preset, pack};
use serde::Serialize;

use super::{ThreadsArg, open_archive};
use crate::output::{Output, bytes};
use crate::signals;

/// Rewrite an archive in the newest version of the container
///
/// Accepts archives of every version that this program reads, and those of the proof of concept that preceded the
/// format. Every entry is verified against its digest and copied unchanged. The output may replace the input or
/// another archive.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    aibit convert old.aibit -o new.aibit\n  \
    aibit convert proof-of-concept.aibit -o gpt2.aibit")]
pub(crate) struct Args {
    /// The archive to read
    #[arg(value_name = "FILE")]
    archive: PathBuf,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace a file that is not an archive
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    threads: ThreadsArg,
}

#[derive(Serialize)]
struct Report {
    output: String,
    /// `archive`, or `proof of concept`.
    from: &'static str,
    file_bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, from an {}", self.output, bytes(self.file_bytes), self.from)
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    let threads = args.threads.start_all()?;
    signals::remove_partials_on_signals()?;
    let options =
        PackOptions { preset: Some(Preset::Keep), force: args.force, threads, ..PackOptions::default() };
    let target = options.target(&args.output)?;
    let (from, file_bytes) = match open_archive(&args.archive) {
        // Also in place: the source is mapped, and only its container changes.
        Ok(archive) => ("archive", copy_archive(&archive, OutputFile::create(target)?)?),
        Err(error) => {
            // Unless it is the older layout, the first error is more informative.
            let Ok(source) = ModelSource::proof_of_concept(&args.archive) else { return Err(error) };
            let progress = out.progress();
            let packed = pack(&source, &args.output, &options, &progress)?;
            drop(progress);
            ("archive of the proof of concept", packed.file_bytes)
        }
    };
    out.emit(&Report { output: args.output.display().to_string(), from, file_bytes })?;
    Ok(ExitCode::SUCCESS)
}
