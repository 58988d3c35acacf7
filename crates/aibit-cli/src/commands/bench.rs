use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use aibit_cpu::{Model, Threads, read_bandwidth};
use aibit_runtime::{Batch, Executor, PAGE, Profile, Run, RuntimeError, SequenceId};
use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Serialize;

use super::{default_threads, open_archive};
use crate::errors::Advised;
use crate::output::{Output, bytes, count};

/// Measure speed, load time and memory
///
/// Every figure is the mean over the repetitions, with the standard deviation. `pp512` is prefill of a prompt of 512
/// tokens, `tg128` generation of 128 tokens one by one, `b8` of eight sequences at once, `@ d512` after a context of 512,
/// in tokens per second of all sequences together. Load time, time to the first token and peak memory are measured on
/// `aibit run` in separate processes. The bandwidth at which generation reads weights is given as a share of this
/// machine's read bandwidth, measured beside each repetition; the head of the table gives the read pattern: number of
/// runs, prefetch distance in bytes, pieces per thread.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
        aibit bench gpt2.aibit\n  \
        aibit bench gpt2.aibit -p 128,512 -n 128 -t 1,2 -r 5 -o json\n  \
        aibit bench gpt2.aibit -p 0 --batch 1,2,4,8,16")]
pub(crate) struct Args {
    /// The archives
    #[arg(value_name = "FILE", required = true)]
    archives: Vec<PathBuf>,
    /// Prompt lengths; 0: none
    #[arg(short = 'p', long, value_name = "N,...", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,
    /// Numbers of tokens to generate; 0: none
    #[arg(short = 'n', long, value_name = "N,...", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<usize>,
    /// Tokens of context before each measurement
    #[arg(short = 'd', long, value_name = "N,...", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,
    /// Repetitions, after a warm-up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Batch sizes: sequences that generate at once; speeds are those of all sequences together
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = sequences)]
    batch: Vec<usize>,
    /// Numbers of threads [default: one per core]
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,
    /// How integer products are computed: fast; precise, with two bytes per activation; or exact, as in bitsandbytes
    #[arg(long, default_value_t = Profile::Fast)]
    profile: Profile,
    /// Table format
    #[arg(short, long, value_enum, default_value_t = Form::Md)]
    output: Form,
}

/// A number of sequences.
fn sequences(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(sequences @ 1..=1024) => Ok(sequences),
        _ => Err("allowed are 1 to 1024".to_owned()),
    }
}

/// Several times the last-level cache of most machines.
const BANDWIDTH_BYTES: usize = 256 << 20;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Md,
    Csv,
    Json,
}

#[derive(Serialize)]
struct Report {
    isa: &'static str,
    read_pattern: String,
    profile: &'static str,
    rows: Vec<Row>,
    #[serde(skip)]
    form: Form,
}

#[derive(Serialize)]
struct Row {
    model: String,
    file_bytes: u64,
    parameters: u64,
    threads: usize,
    test: String,
    /// `t/s` or `ms` or `MB`.
    unit: &'static str,
    mean: f64,
    sd: f64,
    samples: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<Reads>,
}

/// The bandwidth of reading weights and the machine's read bandwidth, in GB/s (10⁹ bytes).
#[derive(Serialize)]
struct Reads {
    weights_gb_s: f64,
    bandwidth_gb_s: f64,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    let threads: Vec<usize> = match args.threads.as_slice() {
        [] => vec![default_threads()?],
        numbers => numbers.iter().map(|&n| n.into()).collect(),
    };
    let mut rows = Vec::new();
    let (mut isa, mut read_pattern) = ("", String::new());
    for path in &args.archives {
        let archive = open_archive(path)?;
        let model = Model::load(&archive)?;
        let kernels = model.context().isa;
        (isa, read_pattern) = (kernels.name(), kernels.read_pattern().to_string());
        check_lengths(args, model.graph().context)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let parameters =
            archive.manifest().tensors.keys().filter_map(|name| archive.weights().index().get(name));
        let parameters: usize = parameters.map(|t| t.elements()).sum();
        let row = |threads: usize, test: String, unit, samples: Vec<f64>| {
            let (mean, sd) = mean_and_deviation(&samples);
            let (model, file_bytes, parameters) = (name.clone(), archive.file_bytes(), parameters as u64);
            Row { model, file_bytes, parameters, threads, test, unit, mean, sd, samples, reads: None }
        };
        for &threads in &threads {
            let model = model.with_threads(Threads::team(threads));
            for &depth in &args.n_depth {
                let prompts = args.n_prompt.iter().map(|&n| Test { kind: "pp", n, depth, batch: 1 });
                let generations = args
                    .batch
                    .iter()
                    .flat_map(|&batch| args.n_gen.iter().map(move |&n| Test { kind: "tg", n, depth, batch }));
                for test in prompts.chain(generations).filter(|test| test.n > 0) {
                    let label = test.label();
                    let mut bandwidths = Vec::new();
                    // A machine's bandwidth may change within seconds, so it is measured beside each repetition.
                    let before = || {
                        if test.kind == "tg" && depth == 0 {
                            bandwidths.push(read_bandwidth(kernels, threads, BANDWIDTH_BYTES, 2));
                        }
                    };
                    let speeds = speeds(&model, args, test, before).with_context(|| label.clone())?;
                    let mut row = row(threads, label, "t/s", speeds);
                    if !bandwidths.is_empty() {
                        let (bandwidth_gb_s, _) = mean_and_deviation(&bandwidths);
                        // A pass reads the weights once for all of its sequences.
                        let passes = row.mean / test.batch as f64;
                        let weights_gb_s = passes * model.bytes_per_token() as f64 / 1e9;
                        row.reads = Some(Reads { weights_gb_s, bandwidth_gb_s });
                    }
                    rows.push(row);
                }
            }
            for (test, unit, samples) in starts(path, threads, args)? {
                rows.push(row(threads, test, unit, samples));
            }
        }
    }
    let report = Report { isa, read_pattern, profile: args.profile.name(), rows, form: args.output };
    if args.output == Form::Json {
        out.emit_json(&report)?;
    } else {
        out.emit(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses tests that exceed the context, before the first one is run.
fn check_lengths(args: &Args, context: usize) -> Result<(), Advised> {
    let lengths = [("--n-prompt", &args.n_prompt), ("--n-gen", &args.n_gen)];
    for (option, lengths) in lengths {
        for (&n, &depth) in lengths.iter().flat_map(|n| args.n_depth.iter().map(move |depth| (n, depth))) {
            if n.checked_add(depth).is_none_or(|tokens| tokens > context) {
                let message = format!(
                    "{option} {n} after {depth} tokens of --n-depth: the model's context is {context} tokens"
                );
                return Err(Advised::new("context_full", message)
                    .hint("choose -p, -n and -d that fit; 0 omits a test"));
            }
        }
    }
    Ok(())
}

/// One line of the table.
#[derive(Clone, Copy)]
struct Test {
    /// `pp`, prefill, or `tg`, generation token by token.
    kind: &'static str,
    /// Tokens of each sequence.
    n: usize,
    /// Tokens before them.
    depth: usize,
    /// Sequences at once.
    batch: usize,
}

impl Test {
    fn label(self) -> String {
        let Self { kind, n, depth, batch } = self;
        let mut label = format!("{kind}{n}");
        if batch > 1 {
            label.push_str(&format!(" b{batch}"));
        }
        if depth > 0 {
            label.push_str(&format!(" @ d{depth}"));
        }
        label
    }
}

/// Tokens per second of all sequences together in each repetition, after a warm-up. `before` is called before each
/// repetition but not before the warm-up.
fn speeds(
    model: &Model,
    args: &Args,
    test: Test,
    mut before: impl FnMut(),
) -> Result<Vec<f64>, RuntimeError> {
    let Test { kind, n, depth, batch } = test;
    let pages = (depth + n).div_ceil(PAGE).saturating_mul(batch);
    let mut sequences = model.sequences(args.profile, pages)?;
    let ids: Vec<SequenceId> = (0..batch).map(|_| sequences.start(depth + n)).collect();
    // Any valid tokens do; they do not affect speed.
    let vocabulary = model.graph().vocabulary;
    let token = |i: usize| (i % vocabulary * 7919 % vocabulary) as u32;
    let tokens: Vec<u32> = (0..depth + n).map(token).collect();
    let runs: Vec<Run> = ids.iter().map(|&sequence| Run { sequence, len: 1 }).collect();
    let (rows, wanted): (usize, Vec<usize>) = (sequences.rows_per_pass(), (0..batch).collect());
    let mut samples = Vec::new();
    for repetition in 0..=args.repetitions {
        for &sequence in &ids {
            sequences.truncate(sequence, 0);
            for tokens in tokens[..depth].chunks(rows) {
                sequences.forward(&Batch { tokens, runs: &[Run { sequence, len: tokens.len() }] })?;
            }
        }
        if repetition > 0 {
            before();
        }
        let start = Instant::now();
        if kind == "pp" {
            let mut last = 0;
            for tokens in tokens[depth..].chunks(rows) {
                sequences.forward(&Batch { tokens, runs: &[Run { sequence: ids[0], len: tokens.len() }] })?;
                last = tokens.len() - 1;
            }
            sequences.logits(&[last])?;
        } else {
            for position in depth..depth + n {
                let tokens: Vec<u32> = (0..batch).map(|sequence| token(position + sequence)).collect();
                sequences.forward(&Batch { tokens: &tokens, runs: &runs })?;
                sequences.logits(&wanted)?;
            }
        }
        if repetition > 0 {
            samples.push((batch * n) as f64 / start.elapsed().as_secs_f64());
        }
    }
    Ok(samples)
}

/// Load time, time to the first token and peak memory of `aibit run`, in separate processes.
fn starts(
    path: &std::path::Path,
    threads: usize,
    args: &Args,
) -> anyhow::Result<Vec<(String, &'static str, Vec<f64>)>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let (mut load, mut first, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.repetitions {
        let output = Command::new(&program)
            .arg("run")
            .arg(path)
            .args([
                "-p",
                "Hello, world! The quick brown fox",
                "-n",
                "1",
                "--json",
                "--profile",
                args.profile.name(),
            ])
            .args(["-t", &threads.to_string()])
            .output()
            .context("cannot start a process")?;
        if !output.status.success() {
            bail!("aibit run: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        load.extend(report["timings"]["load_ms"].as_f64());
        first.extend(report["timings"]["first_token_ms"].as_f64());
        memory.extend(report["peak_rss_bytes"].as_f64().map(|bytes| bytes / 1e6));
    }
    let rows = [("load", "ms", load), ("first token", "ms", first), ("peak memory", "MB", memory)];
    Ok(rows
        .into_iter()
        .filter(|(_, _, samples)| !samples.is_empty())
        .map(|(test, unit, samples)| (test.to_owned(), unit, samples))
        .collect())
}

fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, variance.sqrt())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = match self.form {
            Form::Csv => {
                let head = "model,file_bytes,parameters,isa,profile,threads,test,unit,mean,sd".to_owned();
                let line = |row: &Row| {
                    let Row { model, file_bytes, parameters, threads, test, unit, mean, sd, .. } = row;
                    format!(
                        "{model},{file_bytes},{parameters},{},{},{threads},{test},{unit},{mean:.3},{sd:.3}",
                        self.isa, self.profile
                    )
                };
                std::iter::once(head).chain(self.rows.iter().map(line)).collect()
            }
            Form::Md | Form::Json => {
                let head = [
                    format!(
                        "| model | size | params | threads | test | {} {}, reads {} |",
                        self.isa, self.profile, self.read_pattern
                    ),
                    "| --- | ---: | ---: | ---: | ---: | ---: |".to_owned(),
                ];
                let line = |row: &Row| {
                    let (size, parameters) = (bytes(row.file_bytes), count(row.parameters));
                    let reads = row.reads.as_ref().map(|reads| {
                        let share = 100.0 * reads.weights_gb_s / reads.bandwidth_gb_s;
                        format!(", {share:.0} % of {:.1} GB/s", reads.bandwidth_gb_s)
                    });
                    format!(
                        "| {} | {size} | {parameters} | {} | {} | {:.2} ± {:.2} {}{} |",
                        row.model,
                        row.threads,
                        row.test,
                        row.mean,
                        row.sd,
                        row.unit,
                        reads.unwrap_or_default()
                    )
                };
                head.into_iter().chain(self.rows.iter().map(line)).collect()
            }
        };
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[2.0, 4.0, 4.0, 6.0]), (4.0, (8.0_f64 / 3.0).sqrt()));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
    }
}
