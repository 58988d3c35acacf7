//! Handling of signals that end the program while it writes.

use std::thread;

use aibit_format::remove_partials_for_exit;
use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// On SIGINT, SIGTERM or SIGHUP, removes partial files and then ends the program by that signal. Signals that were
/// ignored at start, as with `nohup`, stay ignored.
pub(crate) fn remove_partials_on_signals() -> anyhow::Result<()> {
    let ignored = ignored_signals();
    let watched = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(watched).context("cannot watch for signals")?;
    let end = move || {
        for signal in signals.forever() {
            remove_partials_for_exit();
            let _ = emulate_default_handler(signal);
        }
    };
    thread::Builder::new().name("aibit-signals".to_owned()).spawn(end).context("cannot start a thread")?;
    Ok(())
}

/// The signals that were ignored when this process started, as a bit mask with signal 1 in the lowest bit.
#[cfg(target_os = "linux")]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// There is no safe portable call; of the three signals only SIGHUP is commonly ignored.
#[cfg(not(target_os = "linux"))]
fn ignored_signals() -> u64 {
    1 << (SIGHUP - 1)
}
