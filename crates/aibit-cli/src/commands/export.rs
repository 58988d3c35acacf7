use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use aibit_export::{
    ActivationDtype, Diff, DiffOptions, ExportOptions, ExportReport, FloatDtype, Target,
    check_compressed_tensors, diff, export,
};
use aibit_format::Archive;
use serde::Serialize;

use super::{Opened, ThreadsArg};
use crate::output::{Output, bytes};

/// Write an archive in the format of another engine
///
/// Codes and scales go over as they are where the target can hold them. What it cannot hold is refused with the reason.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    aibit export gpt2.aibit --to gguf -o gpt2.gguf --check\n  \
    aibit export gpt2.aibit --to bnb -o gpt2-bnb\n  \
    aibit export gpt2.aibit --to hf --dtype f32 -o gpt2-f32\n  \
    aibit export llama.aibit --to compressed-tensors -o llama-vllm")]
pub(crate) struct Args {
    /// The archive
    #[arg(value_name = "FILE")]
    archive: PathBuf,
    /// The target: hf (a folder of floats), bnb (a folder for transformers with bitsandbytes), gguf (a file for
    /// llama.cpp), compressed-tensors (a folder for vLLM; not for GPT-2), safetensors (the archive's own tensors)
    #[arg(long, value_name = "KIND")]
    to: Target,
    /// The folder (hf, bnb, compressed-tensors) or file to write
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Quantize again what the target cannot hold as it is
    #[arg(long)]
    requantize: bool,
    /// Type of floating-point weights with `--to hf` and `--to compressed-tensors`: f16 or f32 [default: f16]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<FloatDtype>,
    /// Activations with `--to compressed-tensors`: float or int8, which is faster and loses more [default: float]
    #[arg(long, value_name = "TYPE", default_value = "float", hide_default_value = true)]
    activations: ActivationDtype,
    /// Read what was written and compare it with the archive
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    threads: ThreadsArg,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    exported: ExportReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Diff>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ExportReport { output, target, kept, dequantized, requantized, bytes: size } = &self.exported;
        write!(f, "{}: {target}, {}\n  {kept} matrices with their codes", output.display(), bytes(*size))?;
        if *dequantized > 0 {
            write!(f, ", {dequantized} dequantized")?;
        }
        if *requantized > 0 {
            write!(f, ", {requantized} quantized again")?;
        }
        match &self.check {
            Some(check) => write!(f, "\nread again:\n{check}"),
            None => Ok(()),
        }
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    args.threads.start()?;
    let archive = Archive::open(&args.archive)?;
    let options =
        ExportOptions { requantize: args.requantize, dtype: args.dtype, activations: args.activations };
    let exported = export(&archive, args.to, &args.output, &options)?;
    let mut code = ExitCode::SUCCESS;
    let check = if args.check {
        let found = if args.to == Target::CompressedTensors {
            check_compressed_tensors(&archive, &args.output)?
        } else {
            let progress = out.progress();
            let written = Opened::any(&args.output, &progress)?;
            drop(progress);
            let options = DiffOptions { codes: true, tensors: true, metadata: false };
            diff(&archive, &written.archive, &options)?
        };
        // Codes that were to be kept must be the same; scales may have been rounded to the target's type.
        let lost = found.changed.iter().any(|change| change.codes.is_some_and(|codes| codes.changed > 0));
        if (lost && !args.requantize) || !found.removed.is_empty() || !found.added.is_empty() {
            code = ExitCode::from(1);
        }
        Some(found)
    } else {
        None
    };
    out.emit(&Report { exported, check })?;
    Ok(code)
}
