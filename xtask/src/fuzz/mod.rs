//! Fuzzing with structure-aware mutations of every kind of input file.
//!
//! Each target runs in a process of its own, case by case, under a watchdog. A case must end within [`LIMIT_MS`] of
//! processor time and [`LIMIT_MB`] beyond its own size, with a result or an error of bounded length: panics, signals
//! and endless loops are findings. A case follows from the seed and its number alone.

mod case;
mod json;
mod resources;
mod target;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, panic, thread};

use anyhow::{Context, bail};
use clap::ValueEnum;

use self::case::Bases;
use self::resources::{peak_bytes, processor_ms, reset_peak};
use self::target::{Outcome, Target};
use crate::root;

const LIMIT_MS: u64 = 1000;
const LIMIT_MB: u64 = 200;
/// Maximum length of an error.
const LIMIT_TEXT: usize = 4096;
/// A case that takes this long in wall-clock time is stuck, however busy the machine is.
const STUCK: Duration = Duration::from_secs(60);
/// Cases per process, limited because memory retained by the allocator would count towards later cases.
const CASES_PER_PROCESS: u64 = 500;
/// Findings after which a target is aborted.
const MOST_FINDINGS: usize = 20;

/// Options of `cargo xtask fuzz`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Total time in seconds, over all targets
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the cases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this target
    #[arg(long, value_enum)]
    target: Option<Target>,
    /// Run the case in a folder saved by an earlier run
    #[arg(long, value_name = "FOLDER", requires = "target")]
    replay: Option<PathBuf>,
    /// Run cases in this process, starting with this number
    #[arg(long, hide = true, requires = "target")]
    from: Option<u64>,
}

/// The results of one target.
#[derive(Default)]
struct Tally {
    cases: u64,
    accepted: u64,
    slowest_ms: u64,
    most_mb: u64,
    findings: Vec<String>,
}

/// Runs the targets and prints a line for each.
///
/// # Errors
/// If there are findings.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !cfg!(debug_assertions) {
        // The development build checks for overflow, and tests have already built it.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut again = Command::new(cargo);
        again.current_dir(root()).args(["run", "--quiet", "--package", "xtask", "--"]);
        let status = again.args(std::env::args_os().skip(1)).status()?;
        return if status.success() { Ok(()) } else { bail!("fuzzing found something, or failed") };
    }
    if let (Some(folder), Some(target)) = (&args.replay, args.target) {
        let outcome = target.run(folder);
        eprintln!("{outcome:?}");
        return Ok(());
    }
    if let (Some(from), Some(target)) = (args.from, args.target) {
        return cases(target, args.seed, from, Duration::from_secs(args.seconds));
    }
    let targets: Vec<Target> = args.target.map_or_else(|| Target::value_variants().to_vec(), |one| vec![one]);
    let seconds = args.seconds.div_ceil(targets.len() as u64);
    let mut findings = 0;
    eprintln!(
        "{:<12} {:>8} {:>9} {:>8} {:>11} {:>8}",
        "target", "cases", "accepted", "refused", "slowest ms", "most MB"
    );
    for target in targets {
        let tally = watch(target, args.seed, Duration::from_secs(seconds))?;
        let Tally { cases, accepted, slowest_ms, most_mb, .. } = tally;
        let refused = cases - accepted;
        eprintln!(
            "{:<12} {cases:>8} {accepted:>9} {refused:>8} {slowest_ms:>11} {most_mb:>8}",
            target.name()
        );
        for finding in &tally.findings {
            eprintln!("  {finding}");
        }
        findings += tally.findings.len();
    }
    if findings > 0 {
        bail!("{findings} findings with seed {}", args.seed);
    }
    Ok(())
}

/// The folder of the case that a target runs.
fn work_folder(target: Target) -> PathBuf {
    root().join("target/fuzz").join(format!("running-{}", target.name()))
}

/// Saves a target's current case for `--replay`, and returns the path.
fn keep(target: Target, seed: u64, index: u64) -> anyhow::Result<String> {
    let kept = root().join("target/fuzz").join(format!("{}-{seed}-{index}", target.name()));
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    fs::rename(work_folder(target), &kept)?;
    Ok(kept.strip_prefix(root()).unwrap_or(&kept).display().to_string())
}

/// Runs a target's cases in processes, which end early if a case crashes.
fn watch(target: Target, seed: u64, time: Duration) -> anyhow::Result<Tally> {
    let (mut tally, mut next, until) = (Tally::default(), 0, Instant::now() + time);
    while tally.findings.len() < MOST_FINDINGS {
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 && tally.cases > 0 {
            break;
        }
        let mut child = start(target, seed, next, left.max(1))?;
        let lines = lines_of(&mut child);
        let (mut is_ready, mut is_complete) = (false, false);
        let how = loop {
            let line = match lines.recv_timeout(STUCK) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    break Some(format!("does not end in {} s", STUCK.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => break Some(format!("{}", child.wait()?)),
            };
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            match words[..] {
                ["ready"] => is_ready = true,
                ["begin", index] => next = index.parse()?,
                ["end", outcome, ms, mb, finding] => {
                    tally.cases += 1;
                    tally.accepted += u64::from(outcome == "accepted");
                    tally.slowest_ms = tally.slowest_ms.max(ms.parse()?);
                    tally.most_mb = tally.most_mb.max(mb.parse()?);
                    if finding != "-" {
                        tally.findings.push(finding.to_owned());
                        if tally.findings.len() == MOST_FINDINGS {
                            is_complete = true;
                            break None;
                        }
                    }
                }
                ["again"] => break None,
                ["stop"] => {
                    is_complete = true;
                    break None;
                }
                _ => bail!("{} says `{line}`", target.name()),
            }
        };
        let _ = child.kill();
        child.wait()?;
        if is_complete {
            break;
        }
        let Some(how) = how else {
            next += 1;
            continue;
        };
        if !is_ready {
            bail!("{}: {how} before the first case", target.name());
        }
        tally.cases += 1;
        tally.findings.push(format!("{how}: {}", keep(target, seed, next)?));
        next += 1;
    }
    Ok(tally)
}

/// Starts a process that runs cases, starting with `from`.
fn start(target: Target, seed: u64, from: u64, seconds: u64) -> anyhow::Result<Child> {
    // The shell's limit protects the machine from any allocation.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 12000000; exec \"$0\" \"$@\""]).arg(std::env::current_exe()?);
    command.args(["fuzz", "--target", target.name(), "--seed", &seed.to_string()]);
    command.args(["--from", &from.to_string(), "--seconds", &seconds.to_string()]);
    // So that processor time equals elapsed time.
    command.env("RAYON_NUM_THREADS", "1");
    command.stdout(Stdio::piped()).spawn().context("a process for the cases")
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
    }
    receiver
}

/// Message and location of the last panic in any thread.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs cases, starting with `from`, and reports the result of each on standard output.
fn cases(target: Target, seed: u64, from: u64, time: Duration) -> anyhow::Result<()> {
    panic::set_hook(Box::new(|info| {
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.to_string());
    }));
    let bases = Bases::load(target)?;
    let folder = work_folder(target);
    // Memory for one-time initialization, such as tables and threads, does not count for a case.
    fresh(&folder)?;
    bases.write(0, &folder)?;
    if let Outcome::Refused(error) = target.run(&folder) {
        bail!("{}: the first base is refused: {error}", target.name());
    }
    reset_peak();
    let before = peak_bytes();
    let (start, mut out) = (Instant::now(), std::io::stdout());
    writeln!(out, "ready")?;
    for index in from.. {
        if index == from + CASES_PER_PROCESS {
            writeln!(out, "again")?;
            return Ok(());
        }
        if start.elapsed() >= time {
            break;
        }
        fresh(&folder)?;
        // Skip mutations that the archive writer refuses.
        let Ok(bytes) = bases.write_case(seed, index, &folder) else { continue };
        writeln!(out, "begin {index}")?;
        out.flush()?;
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = None;
        reset_peak();
        let started = processor_ms();
        let outcome = panic::catch_unwind(|| target.run(&folder));
        let ms = processor_ms() - started;
        let mb = peak_bytes().saturating_sub(before + bytes) >> 20;
        let panicked = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
        let word = if matches!(outcome, Ok(Outcome::Accepted)) { "accepted" } else { "refused" };
        let finding = match (panicked, outcome) {
            (Some(panicked), _) => Some(format!("panic: {}", panicked.replace('\n', " "))),
            (None, Ok(Outcome::Refused(text))) if text.len() > LIMIT_TEXT => {
                Some(format!("an error of {} bytes", text.len()))
            }
            _ if ms > LIMIT_MS => Some(format!("takes {ms} ms")),
            _ if mb > LIMIT_MB => Some(format!("takes {mb} MB")),
            _ => None,
        };
        let finding = match finding {
            Some(finding) => format!("{finding}: {}", keep(target, seed, index)?),
            None => "-".to_owned(),
        };
        writeln!(out, "end {word} {ms} {mb} {finding}")?;
        out.flush()?;
    }
    writeln!(out, "stop")?;
    Ok(())
}

/// Makes an empty folder.
fn fresh(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(fs::create_dir_all(folder)?)
}
