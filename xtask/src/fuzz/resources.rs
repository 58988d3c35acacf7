//! Resource usage of this process, from Linux's /proc; not measured on other systems.

use std::fs;

/// Processor time of this process in milliseconds, in steps of ten.
pub(super) fn processor_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may contain anything; the twelfth and thirteenth field after it are ticks of 10 ms.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).map(|ticks| 10 * ticks).sum()
}

/// Peak memory of this process since [`reset_peak`], mapped files included.
pub(super) fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().map_or(0, |kilobytes| kilobytes << 10)
}

/// Resets the peak of [`peak_bytes`].
pub(super) fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}
