use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use aibit_cpu::{Model, Threads};
use aibit_format::{Archive, FileKind, FormatError, check_values, entry_names};
use aibit_pack::Progress;
use aibit_runtime::{Check, Golden};
use aibit_tokenizer::Tokenizer;
use serde::Serialize;
use tracing::info_span;

use super::{ArchiveArg, ThreadsArg};
use crate::output::Output;
use crate::visible::on_one_line;

/// Verify an archive
///
/// Compares every entry with its digest, checks every stored value, and checks that the graph can be executed with
/// the tensors. --run also replays the golden outputs: tokenizer ids, greedy continuations and logits. The exit code
/// is 1 if anything differs.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  aibit verify gpt2.aibit\n  aibit verify gpt2.aibit --run --json")]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArg,
    /// Replay the golden outputs recorded at pack time
    #[arg(long)]
    run: bool,
    #[command(flatten)]
    threads: ThreadsArg,
}

/// What was checked, and whether every check passed.
#[derive(Serialize)]
pub(crate) struct Report {
    ok: bool,
    checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        Self { ok: checks.iter().all(|check| check.ok), checks }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { name, ok, detail } in &self.checks {
            let (name, detail) = (on_one_line(name), on_one_line(detail));
            writeln!(f, "{:<4} {name}: {detail}", if *ok { "ok" } else { "FAIL" })?;
        }
        let failed = self.checks.iter().filter(|check| !check.ok).count();
        match failed {
            0 => write!(f, "sound: {} checks", self.checks.len()),
            _ => write!(f, "not sound: {failed} of {} checks failed", self.checks.len()),
        }
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    let threads = args.threads.start()?;
    let path = args.archive.path();
    readable(path)?;
    let progress = out.progress();
    let report = match open(path) {
        Ok(archive) => {
            let mut checks = checks(&archive, &progress);
            if args.run {
                match replay_golden(&archive, threads) {
                    Ok(replayed) => checks.extend(replayed),
                    Err(e) => checks.push(check("golden outputs", Err(e.to_string()))),
                }
            }
            Report::new(checks)
        }
        Err(report) => report,
    };
    drop(progress);
    out.emit(&report)?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Opens an archive and checks it as `aibit verify` without `--run` does. An unreadable file is an error; an archive
/// that fails a check gives the report.
pub(crate) fn open_checked(path: &Path, progress: &dyn Progress) -> anyhow::Result<Result<Archive, Report>> {
    readable(path)?;
    Ok(open(path).and_then(|archive| {
        let report = Report::new(checks(&archive, progress));
        if report.ok { Ok(archive) } else { Err(report) }
    }))
}

/// An unreadable file is a failure, not a negative answer. Folders, devices and pipes are not opened.
fn readable(path: &Path) -> Result<(), FormatError> {
    FileKind::read(path).map(drop)
}

fn open(path: &Path) -> Result<Archive, Report> {
    Archive::open(path).map_err(|e| Report::new(vec![check("container", Err(e.to_string()))]))
}

fn checks(archive: &Archive, progress: &dyn Progress) -> Vec<Check> {
    let _span = info_span!("check").entered();
    let entries = archive.entries().count();
    let mut checks = vec![check(
        "container",
        Ok(format!("{entries} entries, {} bytes, all headers valid", archive.file_bytes())),
    )];
    progress.start("verifying", archive.file_bytes());
    for entry in archive.entries() {
        let outcome = archive.verify_entry(entry.name);
        let kind = if entry.name == entry_names::MANIFEST { "checksum" } else { "digest" };
        let detail = format!("{} bytes, {kind} as recorded", entry.data.len());
        checks.push(check(
            &format!("entry {}", entry.name),
            outcome.map(|()| detail).map_err(|e| e.to_string()),
        ));
        progress.advance(entry.data.len() as u64);
    }
    let values = check_values(archive.weights(), archive.manifest());
    let tensors = archive.weights().index().tensors().len();
    let detail = format!("{tensors} tensors, all values in range");
    checks.push(check("values", values.map(|()| detail).map_err(|e| e.to_string())));
    if archive.entry(entry_names::GRAPH).is_ok() {
        let loaded = Model::load(archive);
        let detail =
            loaded.map(|model| format!("{} nodes, executable on these tensors", model.graph().nodes.len()));
        checks.push(check("graph", detail.map_err(|e| e.to_string())));
    }
    progress.finish();
    checks
}

fn replay_golden(archive: &Archive, threads: Threads) -> anyhow::Result<Vec<Check>> {
    let model = Model::load(archive)?.with_threads(threads);
    let tokenizer = Tokenizer::load(archive)?;
    let golden = Golden::from_json(archive.entry(entry_names::GOLDEN)?.data)?;
    Ok(golden.replay(&model, &tokenizer, archive.entry(entry_names::TOKENIZER)?.data)?)
}

fn check(name: &str, outcome: Result<String, String>) -> Check {
    let (ok, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(detail) => (false, detail),
    };
    Check { name: name.to_owned(), ok, detail }
}
