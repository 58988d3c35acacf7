//! `cargo xtask bench --shape NAME`: speed on a model of a real shape, as shares of this machine's limits.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use aibit_kernels::{Isa, limits};
use anyhow::{Context, bail};
use serde_json::Value;

use crate::shape::{self, Dimensions, Options, Shape};
use crate::{e2e, root};

const TESTS: [&str; 6] = ["-p", "128,512", "-n", "64", "-r", "5"];

/// Several times the last-level cache of any server.
pub(super) const BANDWIDTH_BYTES: usize = 512 << 20;

/// The limits of a test.
struct Limits {
    threads: usize,
    /// In GB/s.
    bandwidth: f64,
    /// In 10⁹ operations per second.
    int8: f64,
    f32: f64,
}

/// Measures aibit, or the binary `given`, and returns the table.
pub(super) fn measure(shape: Shape, options: &Options, given: Option<&Path>) -> anyhow::Result<String> {
    let aibit = match given {
        Some(path) => path.to_owned(),
        None => e2e::build()?.0,
    };
    let dimensions = Dimensions::of(shape, options)?;
    let archive = archive(&aibit, shape, options)?;
    let isa = Isa::selected()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut thread_counts = vec![1, 2.min(cores)];
    thread_counts.dedup();
    let limits: Vec<_> = thread_counts.iter().map(|&threads| Limits::measure(isa, threads)).collect();
    let mut text = format!("{}, int8, {isa}\n\n", options.label(shape));
    for Limits { threads, bandwidth, int8, f32 } in &limits {
        writeln!(
            text,
            "{threads} threads at most: {bandwidth:.1} GB/s from memory, {int8:.0} GOPS int8, {f32:.0} GFLOPS f32"
        )?;
    }
    writeln!(text, "\n{:>7} {:>11} {:>20}   share of the limit", "threads", "test", "mean and deviation")?;
    let counts = thread_counts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let report =
        run(&aibit, &[&["bench", path(&archive)?, "-t", &counts, "-o", "json"], &TESTS[..]].concat())?;
    for row in report["rows"].as_array().context("rows")? {
        let threads = row["threads"].as_u64().context("threads")? as usize;
        let limits = limits.iter().find(|limits| limits.threads == threads).context("known threads")?;
        let (test, unit) = (row["test"].as_str().context("test")?, row["unit"].as_str().context("unit")?);
        let (mean, sd) = (row["mean"].as_f64().context("mean")?, row["sd"].as_f64().context("sd")?);
        let speed = format!("{mean:.1} ± {sd:.1} {unit}");
        let share = limits.share(&dimensions, test, mean).unwrap_or_default();
        writeln!(text, "{threads:>7} {test:>11} {speed:>20}   {share}")?;
    }
    Ok(text.trim_end().to_owned())
}

impl Limits {
    fn measure(isa: Isa, threads: usize) -> Self {
        Self {
            threads,
            bandwidth: limits::read_bandwidth(isa, threads, BANDWIDTH_BYTES, limits::PASSES),
            int8: limits::int8_peak(isa, threads),
            f32: limits::f32_peak(isa, threads),
        }
    }

    /// Tokens per second in `test` as a share of the limit: decode reads every matrix once per token; tokens of a
    /// prompt share reads, and each is multiplied by every matrix except the head's.
    fn share(&self, dimensions: &Dimensions, test: &str, tokens_per_second: f64) -> Option<String> {
        let (amount, unit, limit) = match test.split_at_checked(2)? {
            ("tg", _) => (dimensions.bytes_per_token() as f64, "GB/s", self.bandwidth),
            ("pp", _) => (2.0 * dimensions.layer_products() as f64, "GOPS", self.int8),
            _ => return None,
        };
        let speed = amount * tokens_per_second / 1e9;
        Some(format!("{:.0} % of {limit:.1} {unit}", 100.0 * speed / limit))
    }
}

/// The shape's archive, packed again if the binary is newer.
pub(super) fn archive(aibit: &Path, shape: Shape, options: &Options) -> anyhow::Result<PathBuf> {
    let archive = root().join("target/bench").join(format!("{}-int8.aibit", options.label(shape)));
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let source = shape::make(shape, options)?;
    let is_current = modified(&archive).is_ok_and(|packed| {
        [aibit, &source.join("shape.json")]
            .into_iter()
            .all(|made_of| modified(made_of).is_ok_and(|made| made <= packed))
    });
    if !is_current {
        run(aibit, &["pack", path(&source)?, "-o", path(&archive)?, "-q", "int8", "--force"])?;
    }
    Ok(archive)
}

/// Runs `aibit` and parses its `--json`.
pub(super) fn run(aibit: &Path, args: &[&str]) -> anyhow::Result<Value> {
    let output = Command::new(aibit).args(args).arg("--json").output().context("cannot run aibit")?;
    let command = || format!("aibit {}", args.join(" "));
    if !output.status.success() {
        bail!("{}: {}", command(), String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).with_context(command)
}

pub(super) fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_limit_that_counts() {
        let limits = Limits { threads: 1, bandwidth: 24.8131, int8: 339.74, f32: 1.0 };
        let gpt2 = Dimensions::of(Shape::Gpt2, &Options::default()).unwrap();
        assert_eq!(limits.share(&gpt2, "tg64", 100.0).as_deref(), Some("50 % of 24.8 GB/s"));
        assert_eq!(limits.share(&gpt2, "pp512", 1000.0).as_deref(), Some("50 % of 339.7 GOPS"));
        assert_eq!(limits.share(&gpt2, "load", 1.0), None);
    }
}
