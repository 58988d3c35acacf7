use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aibit_cpu::Threads;
use aibit_export::{
    ActivationDtype, Diff, DiffOptions, ExportOptions, ExportReport, FloatDtype, Target, TensorDiff,
    check_compressed_tensors, check_own_tensors, diff, export,
};
use aibit_format::{Archive, OutputTarget, Replace};
use serde::Serialize;

use super::{Opened, ThreadsArg, open_archive};
use crate::output::{Output, bytes};
use crate::signals;

/// Write an archive in the format of another engine
///
/// Codes and scales are copied unchanged where the target can represent them; anything else is refused with the
/// reason.
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
    /// Requantize what the target cannot represent
    #[arg(long)]
    requantize: bool,
    /// Type of floating-point weights with `--to hf` and `--to compressed-tensors`: f16 or f32 [default: f16]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<FloatDtype>,
    /// Activations with `--to compressed-tensors`: float, or int8 (faster, less accurate) [default: float]
    #[arg(long, value_name = "TYPE", default_value = "float", hide_default_value = true)]
    activations: ActivationDtype,
    /// Read the output back and compare it with the archive; discard it if codes differ
    #[arg(long)]
    check: bool,
    /// Replace an existing file, or a folder that contains nothing but a model
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    threads: ThreadsArg,
}

impl Args {
    /// Whether floating-point weights are written in F16.
    fn in_f16(&self) -> bool {
        matches!(self.to, Target::Hf | Target::CompressedTensors)
            && self.dtype.unwrap_or_default() == FloatDtype::F16
    }
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    exported: ExportReport,
    /// Whether the output was kept.
    written: bool,
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
        if let Some(check) = &self.check {
            write!(f, "\nread again:\n{check}")?;
        }
        if !self.written {
            write!(f, "\nnothing was written: what was read again is not what the archive holds")?;
        }
        Ok(())
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    let threads = args.threads.start_all()?;
    signals::remove_partials_on_signals()?;
    let replace = if args.force { Replace::Any } else { Replace::Nothing };
    let target = match args.to.is_folder() {
        true => OutputTarget::folder(&args.output, replace)?,
        false => OutputTarget::file(&args.output, replace)?,
    };
    target.check_apart_from([&args.archive])?;
    let archive = open_archive(&args.archive)?;
    let options =
        ExportOptions { requantize: args.requantize, dtype: args.dtype, activations: args.activations };
    let exported = export(&archive, args.to, target, &options)?;
    let check = match args.check {
        true => Some(check(&archive, args.to, exported.partial_path(), &threads, out)?),
        false => None,
    };
    let is_lost = check.as_ref().is_some_and(|found| is_lost(found, args));
    let (exported, code) = match is_lost {
        true => (exported.report().clone(), ExitCode::from(1)),
        false => (exported.finish()?, ExitCode::SUCCESS),
    };
    out.emit(&Report { exported, written: !is_lost, check })?;
    Ok(code)
}

/// Whether more differs than the target and the options imply.
fn is_lost(found: &Diff, args: &Args) -> bool {
    let has_other = |change: &TensorDiff| match change.codes {
        // Scales may have been rounded to the target's type.
        Some(codes) if change.schemes[0].is_quantized() => codes.changed > 0 && !args.requantize,
        // Values rounded to F16 differ by at most half a unit in the last place.
        Some(_) if args.in_f16() => change.relative_error.is_some_and(|error| error > 1.0 / 2048.0),
        Some(codes) => codes.changed > 0,
        None => false,
    };
    found.changed.iter().any(has_other) || !found.removed.is_empty() || !found.added.is_empty()
}

/// What differs between the archive and the export that was written to `path`.
fn check(
    archive: &Archive,
    target: Target,
    path: &Path,
    threads: &Threads,
    out: &Output,
) -> anyhow::Result<Diff> {
    Ok(match target {
        Target::CompressedTensors => check_compressed_tensors(archive, path)?,
        Target::Safetensors => check_own_tensors(archive, path)?,
        Target::Hf | Target::Bnb | Target::Gguf => {
            let progress = out.progress();
            let written = Opened::any(path, threads, &progress)?;
            drop(progress);
            let options = DiffOptions { codes: true, tensors: true, metadata: false };
            diff(archive, &written.archive, &options)?
        }
    })
}
