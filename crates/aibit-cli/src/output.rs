//! Results go to standard output, everything else to standard error.

use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use aibit_pack::Progress;
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::errors;
use crate::visible::{escaped, escaped_json};

/// Version of the JSON objects printed by `--json`; adding a field does not change it.
const SCHEMA_VERSION: u32 = 1;

/// Destination of results and messages. Text for a terminal is [`escaped`] here; pipes and files receive results
/// unchanged.
pub(crate) struct Output {
    json: bool,
    start: Instant,
    /// Whether standard output is a terminal.
    terminal: bool,
    /// The last character printed to it.
    last: char,
}

#[derive(Serialize)]
struct Versioned<'a, R> {
    schema_version: u32,
    #[serde(flatten)]
    report: &'a R,
}

/// The object that `--json` prints if the command fails.
#[derive(Serialize)]
struct Failure<'a> {
    error: Problem<'a>,
}

#[derive(Serialize)]
struct Problem<'a> {
    message: &'a str,
    hint: Option<&'a str>,
    code: &'static str,
}

impl Output {
    pub(crate) fn new(json: bool, start: Instant) -> Self {
        Self { json, start, terminal: io::stdout().is_terminal(), last: '\n' }
    }

    /// Whether `--json` was given.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// When the program started: the first instant that it can observe, after the system has loaded it.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// Time since the program started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Prints a result: text, or JSON with `--json`.
    pub(crate) fn emit(&mut self, report: &(impl Display + Serialize)) -> anyhow::Result<()> {
        if self.json {
            return self.emit_json(report);
        }
        let mut text = String::new();
        writeln!(text, "{report}").context("the result cannot be written as text")?;
        self.print(&text).context("cannot write the result to standard output")
    }

    /// Prints a result as JSON.
    pub(crate) fn emit_json(&mut self, report: &impl Serialize) -> anyhow::Result<()> {
        // Serialized completely first, so that an error leaves no partial object behind.
        let mut json = serde_json::to_string(&Versioned { schema_version: SCHEMA_VERSION, report })
            .context("the result cannot be written as JSON")?;
        json.push('\n');
        self.print(&escaped_json(&json)).context("cannot write the result to standard output")
    }

    /// Prints a piece of text at once.
    pub(crate) fn write(&mut self, text: &str) -> anyhow::Result<()> {
        self.print(text).context("cannot write the text to standard output")
    }

    fn print(&mut self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.terminal {
            stdout.write_all(escaped(text, self.last).as_bytes())?;
            self.last = text.chars().next_back().unwrap_or(self.last);
        } else {
            stdout.write_all(text.as_bytes())?;
        }
        stdout.flush()
    }

    /// A remark, shown only if standard error is a terminal.
    pub(crate) fn remark(&self, text: &str) {
        if io::stderr().is_terminal() && !self.json {
            self.note(&text);
        }
    }

    /// Prints requested lines that are not the result to standard error, whether or not it is a terminal.
    pub(crate) fn note(&self, text: &impl Display) {
        let _ = writeln!(io::stderr(), "{}", escaped(&text.to_string(), '\n'));
    }

    /// Prints an error with its causes and a hint.
    pub(crate) fn complain(&self, error: &anyhow::Error, hint: Option<&str>) {
        let mut text = format!("error: {}", errors::messages(error).join("\n  caused by: "));
        if let Some(hint) = hint {
            write!(text, "\nhint: {hint}").expect("a string takes any text");
        }
        self.note(&text);
    }

    /// Reports the error that ends the program: on standard error, and with `--json` also on standard output.
    pub(crate) fn fail(&mut self, error: &anyhow::Error) {
        let hint = errors::hint(error);
        self.complain(error, hint.as_deref());
        self.fail_as(&errors::messages(error).join(": "), hint.as_deref(), errors::code(error));
    }

    /// With `--json`, prints an error as an object. Its text is already on standard error.
    pub(crate) fn fail_as(&mut self, message: &str, hint: Option<&str>, code: &'static str) {
        if self.json {
            let failure = Failure { error: Problem { message, hint, code } };
            // The error is already on standard error, so a failure to write here is ignored.
            let _ = self.emit_json(&failure);
        }
    }

    /// A progress bar on standard error, if that is a terminal.
    pub(crate) fn progress(&self) -> Bar {
        Bar(Mutex::new(None))
    }
}

/// A progress bar, replaced when the next task starts.
pub(crate) struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    /// Starts counting to `total` units other than bytes.
    pub(crate) fn start_count(&self, what: &str, total: u64) {
        self.replace(what, total, "{msg:>24} [{bar:40}] {pos}/{len} {eta}");
    }

    fn replace(&self, what: &str, total: u64, template: &str) {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = if total == 0 { "{msg:>24} {spinner}" } else { template };
        bar.set_style(
            ProgressStyle::with_template(template).expect("a constant template").progress_chars("=> "),
        );
        bar.set_message(escaped(what, '\n').into_owned());
        bar.tick();
        if let Some(old) = self.lock().replace(bar) {
            old.finish_and_clear();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Progress for Bar {
    fn start(&self, what: &str, bytes: u64) {
        self.replace(what, bytes, "{msg:>24} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.lock() {
            bar.inc(bytes);
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.lock().take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

/// `1234567` as `1.2 MB`.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// `124439808` as `124.4 M`.
pub(crate) fn count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.2} G", count as f64 / 1e9),
    }
}
