use std::path::PathBuf;
use std::process::ExitCode;

use aibit_export::{DiffOptions, diff};

use super::{Opened, ThreadsArg};
use crate::output::Output;
use crate::signals;

/// Compare two models
///
/// Each may be an archive, a model folder, a safetensors or torch file next to its config.json, or a GGUF file. The
/// exit code is 1 if anything differs.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    aibit diff a.aibit b.aibit\n  \
    aibit diff ./gpt2-int8 gpt2.aibit --codes\n  \
    aibit diff gpt2.gguf gpt2.aibit --json")]
pub(crate) struct Args {
    /// The first model
    #[arg(value_name = "A")]
    first: PathBuf,
    /// The second model
    #[arg(value_name = "B")]
    second: PathBuf,
    /// Compare codes and scales [default: everything]
    #[arg(long)]
    codes: bool,
    /// Compare names, shapes, schemes and values
    #[arg(long)]
    tensors: bool,
    /// Compare configuration, tokenizer and graph
    #[arg(long)]
    metadata: bool,
    #[command(flatten)]
    threads: ThreadsArg,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    let threads = args.threads.start_all()?;
    signals::remove_partials_on_signals()?;
    let progress = out.progress();
    let (first, second) =
        (Opened::any(&args.first, &threads, &progress)?, Opened::any(&args.second, &threads, &progress)?);
    drop(progress);
    let all = !(args.codes || args.tensors || args.metadata);
    let options = DiffOptions {
        codes: all || args.codes,
        tensors: all || args.tensors,
        metadata: all || args.metadata,
    };
    let found = diff(&first.archive, &second.archive, &options)?;
    let code = ExitCode::from(u8::from(!found.is_empty()));
    out.emit(&found)?;
    Ok(code)
}
