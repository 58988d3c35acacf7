use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use aibit_format::{Archive, copy_archive};
use aibit_pack::{ModelSource, PackOptions, Preset, pack};
use serde::Serialize;

use super::ThreadsArg;
use crate::output::{Output, bytes};

/// Write an archive anew, in the newest version of the container
///
/// Takes archives of every version that this program reads, and those of the proof of concept that came before the format.
/// Every entry is compared with its digest and copied as it is.
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
    args.threads.start()?;
    let opened = Archive::open(&args.archive);
    let (from, file_bytes) = match opened {
        Ok(archive) => ("archive", copy_archive(&archive, &args.output)?),
        Err(error) => {
            // Its reason says more about anything but the older layout.
            let Ok(source) = ModelSource::proof_of_concept(&args.archive) else { return Err(error.into()) };
            let progress = out.progress();
            let options = PackOptions { preset: Some(Preset::Keep), ..PackOptions::default() };
            let packed = pack(&source, &args.output, &options, &progress)?;
            drop(progress);
            ("archive of the proof of concept", packed.file_bytes)
        }
    };
    out.emit(&Report { output: args.output.display().to_string(), from, file_bytes })?;
    Ok(ExitCode::SUCCESS)
}
