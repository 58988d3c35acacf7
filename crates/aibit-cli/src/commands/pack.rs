use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aibit_format::Override;
use aibit_graph::{ActivationPrecision, KvPrecision, Place};
use aibit_hub::HubOptions;
use aibit_pack::{ModelSource, PackOptions, PackReport, Preset, pack};
use serde::Serialize;

use super::ThreadsArg;
use crate::errors::Advised;
use crate::output::{Output, bytes, count};
use crate::signals;

/// Pack a model into one archive
///
/// Quantizes the weights and writes them with the tokenizer, the configuration, the inference graph and golden
/// outputs. The archive appears only when complete and replaces an existing archive of that name.
#[derive(clap::Args)]
#[command(
    visible_alias = "create",
    alias = "quantize",
    after_help = "Examples:\n  \
        aibit pack ./gpt2 -o gpt2.aibit\n  \
        aibit pack openai-community/gpt2 -o gpt2.aibit -q bnb-int8\n  \
        aibit pack ./gpt2 -o gpt2.aibit --tensor-type 'h\\.11\\.mlp.*weight=f16' --tensor-type wte=f16\n  \
        aibit pack ./qwen -o qwen.aibit --kv-cache f16 --activations norm=int8x2 --activations gate=int8x2"
)]
pub(crate) struct Args {
    /// A model folder, a weight file next to its config.json, a GGUF file, or the name of a model on the hub
    #[arg(value_name = "SRC")]
    source: String,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Quantization preset [default: int8, or keep for a source that is already quantized]
    ///
    /// int8 (every linear layer and the embedding); int8-g32, int4-g32 (in groups of 32, as GGUF's Q8_0 and Q4_0);
    /// bnb-int8, nf4, nf4-dq, fp4, fp4-dq (the layers that bitsandbytes quantizes); f32; f16; keep (as in the
    /// source).
    #[arg(short, long, value_name = "PRESET")]
    quantize: Option<Preset>,
    /// Requantize a source that is already quantized
    #[arg(long)]
    requantize: bool,
    /// Scheme for parameters whose name matches the regular expression (f32, f16, bf16, int8, int8-g32, int4-g32,
    /// nf4, fp4, nf4-dq, fp4-dq); may be repeated, the last match applies
    #[arg(long, value_name = "PATTERN=SCHEME", value_parser = parse_override)]
    tensor_type: Vec<Override>,
    /// Input precision of linear layers with int8 weights at a place, instead of the measured choice; may be repeated
    ///
    /// Places: norm (after a norm), attention (after attention), gate (after the activation function of an MLP),
    /// head, other. Precisions: int8 (one byte), int8-asym (one byte and a zero point), int8x2 (two bytes).
    #[arg(long, value_name = "PLACE=PRECISION", value_parser = parse_activations)]
    activations: Vec<(Place, ActivationPrecision)>,
    /// Precision of the KV cache: f32, f16 or int8 [default: by preset, higher where measurements require it]
    #[arg(long, value_name = "PRECISION")]
    kv_cache: Option<KvPrecision>,
    /// Replace a file that is not an archive
    #[arg(long)]
    force: bool,
    /// Branch, tag or commit on the hub [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Use only the hub cache on this machine; no network access
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    threads: ThreadsArg,
}

fn parse_override(text: &str) -> Result<Override, String> {
    let (pattern, scheme) = text.rsplit_once('=').ok_or("it has no `=`: write PATTERN=SCHEME")?;
    Ok(Override { pattern: pattern.to_owned(), scheme: scheme.parse()? })
}

fn parse_activations(text: &str) -> Result<(Place, ActivationPrecision), String> {
    let (place, precision) = text.split_once('=').ok_or("it has no `=`: write PLACE=PRECISION")?;
    Ok((place.parse()?, precision.parse()?))
}

#[derive(Serialize)]
struct Report {
    output: String,
    #[serde(flatten)]
    packed: PackReport,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PackReport { architecture, parameters, bits_per_weight, source_weight_bytes, file_bytes, .. } =
            &self.packed;
        let schemes: Vec<_> =
            self.packed.schemes.iter().map(|(name, n)| format!("{name} {}", count(*n))).collect();
        writeln!(f, "{}: {architecture}, {} parameters", self.output, count(*parameters))?;
        writeln!(f, "  {:.2} bits per weight ({})", bits_per_weight, schemes.join(", "))?;
        write!(f, "  {} from {} of weights", bytes(*file_bytes), bytes(*source_weight_bytes))
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    let threads = args.threads.start_all()?;
    signals::remove_partials_on_signals()?;
    let options = PackOptions {
        preset: args.quantize,
        overrides: args.tensor_type.clone(),
        requantize: args.requantize,
        activations: args.activations.iter().copied().collect(),
        kv_cache: args.kv_cache,
        force: args.force,
        threads,
    };
    options.target(&args.output)?; // before anything is downloaded
    let progress = out.progress();
    let source = if Path::new(&args.source).exists() {
        if args.revision.is_some() || args.offline {
            let message = format!(
                "`{}` is a local path; --revision and --offline are for models on the hub",
                args.source
            );
            return Err(Advised::new("usage", message).into());
        }
        ModelSource::open(&args.source)?
    } else if aibit_hub::looks_like_repository(&args.source) {
        let options =
            HubOptions { revision: args.revision.clone(), offline: args.offline, ..HubOptions::default() };
        ModelSource::hub(aibit_hub::fetch(&args.source, &options, &progress)?)?
    } else {
        ModelSource::folder(&args.source)? // reports what is wrong with the path
    };
    let packed = pack(&source, &args.output, &options, &progress)?;
    drop(progress);
    for note in &packed.notes {
        out.note(&format_args!("note: {note}"));
    }
    out.emit(&Report { output: args.output.display().to_string(), packed })?;
    Ok(ExitCode::SUCCESS)
}
