use std::fmt;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aibit_format::Archive;
use aibit_runtime::sampler::SamplerOptions;
use aibit_runtime::{
    GenerateOptions, Generation, Model, PackageDefaults, Profile, Session, StopReason, Tokenizer, generate,
};
use anyhow::Context;
use serde::Serialize;
use signal_hook::consts::SIGINT;
use tracing::info_span;

use super::{ArchiveArg, ThreadsArg, read_text, verify};
use crate::output::Output;
use crate::timings::{Recorder, Spans};

/// Exit code of a program that was interrupted.
const INTERRUPTED: i32 = 130;

/// Generate text
///
/// Continues the prompt and prints the continuation as it comes. Without sampling options the most likely
/// token is taken each time; what the package itself asks for comes before these defaults, and options come
/// before both. Generation ends at the package's end-of-text token, at a stop string, after -n tokens, or when
/// the context is full; nothing is ever shifted out of the context.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
        aibit run gpt2.aibit -p \"The history of the city begins\" -n 48\n  \
        aibit run gpt2.aibit -p \"Once upon a time\" --temp 0.8 --top-k 40 --seed 7\n  \
        echo \"Dear reader,\" | aibit run gpt2.aibit -f - --stop \"\\n\\n\"")]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArg,
    /// The prompt
    #[arg(short, long, value_name = "TEXT", required_unless_present = "file")]
    prompt: Option<String>,
    /// Read the prompt from a file; `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Most tokens to generate; -1: until something else ends the text
    #[arg(
        short = 'n',
        long = "predict",
        value_name = "N",
        default_value_t = 128,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..),
        aliases = ["n-predict", "num-predict", "max-tokens"]
    )]
    predict: i64,
    /// Tokens of context to reserve, prompt included [default: the model's context]
    #[arg(short, long, value_name = "N", alias = "num-ctx")]
    ctx_size: Option<usize>,
    /// Temperature; 0 takes the most likely token [default: 0]
    #[arg(long = "temp", value_name = "T", alias = "temperature", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Consider only the K most likely tokens; 0: all [default: 40]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Consider the most likely tokens up to this probability mass; 1: all [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Drop tokens below this share of the largest probability; 0: none [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Penalty on tokens that have occurred; 1: none [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// Tokens that the penalties look back on; 0: none, -1: all
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..)
    )]
    repeat_last_n: i64,
    /// Subtracted once from the logit of each token that has occurred
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Subtracted from a token's logit for each time it has occurred
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Seed of the sampler; -1: a random one
    #[arg(
        short,
        long,
        value_name = "SEED",
        default_value_t = -1,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..)
    )]
    seed: i64,
    /// End the text before this string; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// End the text at this token id; may be repeated
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,
    /// Do not stop at the package's end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Print the text when it is complete, not as it comes
    #[arg(long)]
    no_stream: bool,
    /// Check the archive first, as `aibit verify` does; one that is not sound is not run
    #[arg(long)]
    check: bool,
    /// Tell where the time went: stages as a tree on standard error, or in the timings of --json
    ///
    /// For each stage: when it began, in milliseconds since the program started, how long it took, and how many
    /// times it ran. What the system needs to load the program comes before and is not counted.
    #[arg(long)]
    timings: bool,
    /// How integer products are computed: fast; precise, with two bytes per activation; or exact, as bitsandbytes does
    #[arg(long, default_value_t = Profile::Fast)]
    profile: Profile,
    #[command(flatten)]
    threads: ThreadsArg,
}

#[derive(Serialize)]
struct Report {
    prompt_ids: Vec<u32>,
    generated_ids: Vec<u32>,
    text: String,
    stop_reason: StopReason,
    seed: u64,
    timings: Timings,
    /// Where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_bytes: Option<u64>,
    profile: &'static str,
    isa: &'static str,
    threads: usize,
}

/// Times since the program started, and speeds.
#[derive(Serialize)]
struct Timings {
    load_ms: f64,
    first_token_ms: f64,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: Option<f64>,
    /// With `--timings`.
    #[serde(skip_serializing_if = "Option::is_none")]
    spans: Option<Spans>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    let recorder = args.timings.then(|| Recorder::install(out.start())).transpose()?;
    let threads = info_span!("threads").in_scope(|| args.threads.start())?;
    let archive = if args.check {
        match verify::open_checked(args.archive.path(), &out.progress())? {
            Ok(archive) => archive,
            Err(report) => {
                // Nobody takes a report for the continuation: it is the result only where results say what they are.
                if out.is_json() {
                    out.emit_json(&report)?
                } else {
                    out.note(&report)
                }
                return Ok(ExitCode::from(1));
            }
        }
    } else {
        Archive::open(args.archive.path())?
    };
    let model = Model::load(&archive)?;
    let tokenizer = Tokenizer::load(&archive)?;
    let defaults = PackageDefaults::load(&archive)?;
    let options = options(args, &defaults);
    options.sampler.validate()?;
    let prompt = prompt(args)?;
    let prompt_ids = info_span!("encode prompt").in_scope(|| tokenizer.encode(&prompt))?;
    let load = out.elapsed();

    let interrupted = Arc::new(AtomicBool::new(false));
    // Registered in this order, the first Ctrl-C ends the text and the second ends the program.
    signal_hook::flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&interrupted))
        .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(&interrupted)))
        .context("cannot watch for Ctrl-C")?;

    let capacity = args.ctx_size.unwrap_or(usize::MAX).min(model.graph().context);
    let mut session = Session::new(&model, args.profile, capacity)?;
    let stream = !args.no_stream && !out.is_json();
    let mut failure = None;
    let mut on_text = |text: &str| {
        if stream && let Err(e) = out.write(text) {
            failure = Some(e);
            return ControlFlow::Break(());
        }
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let generation = generate(&mut session, &tokenizer, &prompt_ids, &options, &mut on_text)?;
    if let Some(e) = failure {
        return Err(e.into());
    }

    let Generation { prefill, first_token, decode, decode_steps, stop_reason, .. } = generation;
    let milliseconds = |duration: std::time::Duration| 1e3 * duration.as_secs_f64();
    let timings = Timings {
        load_ms: milliseconds(load),
        first_token_ms: milliseconds(load + first_token),
        prefill_tokens_per_s: prompt_ids.len() as f64 / prefill.as_secs_f64(),
        decode_tokens_per_s: (decode_steps > 0).then(|| decode_steps as f64 / decode.as_secs_f64()),
        spans: recorder.as_ref().filter(|_| out.is_json()).map(|recorder| recorder.spans()),
    };
    let decode_speed =
        timings.decode_tokens_per_s.map_or(String::new(), |speed| format!(", decode {speed:.0} tok/s"));
    let remark = format!(
        "\n[load {:.0} ms, first token {:.0} ms, prefill {:.0} tok/s{decode_speed}; {} + {} tokens, {stop_reason:?}, {}, {}, {threads} threads]",
        timings.load_ms,
        timings.first_token_ms,
        timings.prefill_tokens_per_s,
        prompt_ids.len(),
        generation.ids.len(),
        args.profile,
        model.isa().name(),
    );
    if stream {
        out.write("\n")?;
    } else {
        out.emit(&Report {
            prompt_ids,
            generated_ids: generation.ids,
            text: generation.text,
            stop_reason,
            seed: options.sampler.seed,
            timings,
            peak_rss_bytes: peak_rss_bytes(),
            profile: args.profile.name(),
            isa: model.isa().name(),
            threads,
        })?;
    }
    out.remark(&remark);
    if let Some(recorder) = recorder.filter(|_| !out.is_json()) {
        out.note(&recorder.spans());
    }
    Ok(if stop_reason == StopReason::Interrupted {
        ExitCode::from(INTERRUPTED as u8)
    } else {
        ExitCode::SUCCESS
    })
}

/// Options given, else what the package asks for, else the documented defaults.
fn options(args: &Args, package: &PackageDefaults) -> GenerateOptions {
    let mut stop_ids = args.stop_id.clone();
    if !args.ignore_eos {
        stop_ids.extend(&package.stop_ids);
    }
    let sampler = SamplerOptions {
        temperature: args.temperature.or(package.temperature).unwrap_or(0.0),
        top_k: args.top_k.or(package.top_k).unwrap_or(40),
        top_p: args.top_p.or(package.top_p).unwrap_or(0.95),
        min_p: args.min_p.or(package.min_p).unwrap_or(0.05),
        repeat_penalty: args.repeat_penalty.or(package.repeat_penalty).unwrap_or(1.0),
        repeat_last_n: usize::try_from(args.repeat_last_n).unwrap_or(usize::MAX),
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        seed: u64::try_from(args.seed).unwrap_or_else(|_| random_seed()),
    };
    GenerateOptions {
        max_tokens: usize::try_from(args.predict).ok(),
        sampler,
        stop_ids,
        stop_strings: args.stop.clone(),
    }
}

/// The most memory that this process has held, mapped files included.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

/// A seed that differs from run to run, small enough for any JSON reader to hold.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 12
}

fn prompt(args: &Args) -> anyhow::Result<String> {
    match (&args.prompt, &args.file) {
        (Some(prompt), _) => Ok(prompt.clone()),
        (None, Some(file)) if file.as_os_str() == "-" => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read the prompt from standard input")?;
            Ok(text)
        }
        (None, Some(file)) => read_text(file),
        (None, None) => unreachable!("one of the two is required"),
    }
}
