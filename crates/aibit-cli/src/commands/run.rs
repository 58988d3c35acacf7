use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use aibit_chat::ChatMessage;
use aibit_cpu::Model;
use aibit_runtime::{Generation, PackageDefaults, StopReason, generate};
use aibit_tokenizer::Tokenizer;
use serde::Serialize;
use tracing::info_span;

use super::generation::GenerationArgs;
use super::unsupported::UnsupportedArgs;
use super::{ArchiveArg, INTERRUPTED, chat, open_archive, text, verify, watch_for_interrupt};
use crate::clock;
use crate::output::Output;
use crate::timings::{Recorder, Spans};

/// Generate text
///
/// Continues the prompt and prints tokens as they are generated. Settings are taken from options, else from the
/// package, else from the defaults below, which are greedy. Generation ends at an end-of-text token of the package,
/// at a stop string, after -n tokens, or when the context is full; there is no context shift.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
        aibit run gpt2.aibit -p \"The history of the city begins\" -n 48\n  \
        aibit run gpt2.aibit -p \"Once upon a time\" --temp 0.8 --top-k 40 --seed 7\n  \
        echo \"Dear reader,\" | aibit run gpt2.aibit -f - --stop \"\\n\\n\"\n  \
        aibit run assistant.aibit -p \"Which colour is the sky?\" --chat")]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArg,
    /// The prompt
    #[arg(short, long, value_name = "TEXT", required_unless_present = "file")]
    prompt: Option<String>,
    /// Read the prompt from a file; `-` is standard input. Trailing newlines are part of the prompt, see --trim
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Strip trailing newlines from the file, such as the one that `echo` and editors add
    #[arg(long, conflicts_with = "prompt")]
    trim: bool,
    /// Treat the prompt as a user message and apply the package's chat template
    #[arg(long)]
    chat: bool,
    /// The system message of the conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Encode special tokens in a message as special tokens, not as text
    #[arg(long, requires = "chat")]
    allow_special: bool,
    /// Print the text when it is complete instead of streaming it
    #[arg(long)]
    no_stream: bool,
    /// Verify the archive first, as `aibit verify` does, and do not run it if a check fails
    #[arg(long)]
    check: bool,
    /// Show the time of each stage, as a tree on standard error or in the timings of --json
    ///
    /// For each stage: when it started, in milliseconds since program start, how long it took, and how many times it
    /// ran. The time that the system needs to load the program is not included.
    #[arg(long)]
    timings: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    unsupported: UnsupportedArgs,
}

#[derive(Serialize)]
struct Report {
    prompt_ids: Vec<u32>,
    generated_ids: Vec<u32>,
    text: String,
    stop_reason: StopReason,
    seed: u64,
    timings: Timings,
    /// Absent where the system does not report it.
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
    args.unsupported.refuse()?;
    let recorder = args.timings.then(|| Recorder::install(out.start())).transpose()?;
    let team = info_span!("threads").in_scope(|| args.generation.threads.start())?;
    let threads = team.count();
    let archive = if args.check {
        match verify::open_checked(args.archive.path(), &out.progress())? {
            Ok(archive) => archive,
            Err(report) => {
                // Text output has no place for a report; with `--json` the object says what it is.
                if out.is_json() {
                    out.emit_json(&report)?
                } else {
                    out.note(&report)
                }
                return Ok(ExitCode::from(1));
            }
        }
    } else {
        open_archive(args.archive.path())?
    };
    let model = Model::load(&archive)?.with_threads(team);
    let tokenizer = Tokenizer::load(&archive)?;
    let defaults = PackageDefaults::load(&archive, &tokenizer, model.graph().vocabulary)?;
    let options = args.generation.options(&defaults)?;
    let prompt = prompt(args)?;
    let prompt_ids = if args.chat {
        let system = args.system.iter().map(|system| ChatMessage::new("system", system));
        let messages: Vec<_> = system.chain([ChatMessage::new("user", prompt)]).collect();
        let text = chat::template(&archive)?.render(&messages, true, clock::now())?;
        // A template writes the tokens before a text itself.
        info_span!("encode prompt").in_scope(|| text.encode(&tokenizer, args.allow_special))?
    } else {
        info_span!("encode prompt").in_scope(|| tokenizer.encode_prompt(&prompt))?
    };
    let load = out.elapsed();

    let interrupted = watch_for_interrupt()?;

    let mut session = args.generation.session(&model, out)?;
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
        return Err(e);
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
        args.generation.profile,
        model.context().isa.name(),
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
            profile: args.generation.profile.name(),
            isa: model.context().isa.name(),
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

/// Peak resident memory of this process, mapped files included.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

fn prompt(args: &Args) -> anyhow::Result<String> {
    match (&args.prompt, &args.file) {
        (Some(prompt), _) => Ok(prompt.clone()),
        (None, Some(file)) => {
            let text = text::read(file, text::LONGEST_PROMPT)?;
            Ok(if args.trim { text::without_line_ends(&text).to_owned() } else { text })
        }
        (None, None) => unreachable!("one of the two is required"),
    }
}
