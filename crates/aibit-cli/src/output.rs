//! Standard output is data, standard error is everything else.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use aibit_pack::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Version of the JSON objects that `--json` prints; fields may be added without raising it.
const SCHEMA_VERSION: u32 = 1;

/// Where results and messages go.
pub(crate) struct Output {
    json: bool,
    start: Instant,
}

#[derive(Serialize)]
struct Versioned<'a, R> {
    schema_version: u32,
    #[serde(flatten)]
    report: &'a R,
}

impl Output {
    pub(crate) fn new(json: bool, start: Instant) -> Self {
        Self { json, start }
    }

    /// Whether `--json` was given.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// When the program started: the first instant that it can read itself, after the system has loaded it.
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
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{report}")?;
        Ok(stdout.flush()?)
    }

    /// Prints a result as JSON.
    pub(crate) fn emit_json(&mut self, report: &impl Serialize) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer(&mut stdout, &Versioned { schema_version: SCHEMA_VERSION, report })
            .map_err(io::Error::from)?;
        writeln!(stdout)?;
        Ok(stdout.flush()?)
    }

    /// Prints a piece of text as it comes.
    pub(crate) fn write(&mut self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// A remark for a person at a terminal.
    pub(crate) fn remark(&self, text: &str) {
        if io::stderr().is_terminal() && !self.json {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Lines that were asked for and are not the result: printed to standard error, at a terminal or not.
    pub(crate) fn note(&self, text: &impl Display) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// An error with its causes, and advice.
    pub(crate) fn complain(&self, error: &anyhow::Error, hint: Option<&str>) {
        let mut stderr = io::stderr().lock();
        let mut text = error.to_string();
        for cause in error.chain().skip(1).map(ToString::to_string) {
            if !text.contains(&cause) {
                text = format!("{text}\n  caused by: {cause}");
            }
        }
        // Names out of a hostile file must not steer the terminal.
        let escape = |c: char| {
            if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() }
        };
        let text: String = text.chars().map(escape).collect();
        let _ = writeln!(stderr, "error: {text}");
        if let Some(hint) = hint {
            let _ = writeln!(stderr, "hint: {hint}");
        }
    }

    /// A progress bar on standard error, if that is a terminal.
    pub(crate) fn progress(&self) -> Bar {
        Bar(Mutex::new(None))
    }
}

/// A progress bar that is replaced when the next piece of work starts.
pub(crate) struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    /// Starts counting to `total` of something other than bytes.
    pub(crate) fn start_count(&self, what: &str, total: u64) {
        self.replace(what, total, "{msg:>24} [{bar:40}] {pos}/{len} {eta}");
    }

    fn replace(&self, what: &str, total: u64, template: &str) {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = if total == 0 { "{msg:>24} {spinner}" } else { template };
        bar.set_style(
            ProgressStyle::with_template(template).expect("a constant template").progress_chars("=> "),
        );
        bar.set_message(what.to_owned());
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
