//! Time and memory of packing, compared with llama.cpp's quantization of the same weights.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::install;
use super::llama::{self, BuiltFor, LLAMA};
use super::results::summary;
use crate::python::{answer, finish};
use crate::shape::{self, Options, Shape};
use crate::{e2e, root};

/// The cost of creating one file with one program.
#[derive(Clone, Copy)]
struct Cost {
    /// Wall-clock time.
    seconds: f64,
    /// Wall-clock time until the file is on disk.
    on_disk_seconds: f64,
    /// Processor time of all threads, in user and kernel mode.
    cpu_seconds: f64,
    /// Peak private memory.
    private_bytes: f64,
    file_bytes: f64,
}

/// A column of the table.
type Column = (&'static str, fn(&Cost) -> f64, usize);

const COLUMNS: [Column; 5] = [
    ("seconds", |cost| cost.seconds, 2),
    ("until on disk, seconds", |cost| cost.on_disk_seconds, 2),
    ("CPU, seconds", |cost| cost.cpu_seconds, 2),
    ("private memory, MB", |cost| cost.private_bytes / 1e6, 0),
    ("file, MB", |cost| cost.file_bytes / 1e6, 0),
];

/// Creates the models of `shapes`, packs and quantizes each alternately, and returns the page of results.
pub(super) fn measure(shapes: &[Shape], rounds: usize, aibit: Option<&Path>) -> anyhow::Result<String> {
    ensure!(Path::new("/proc/self/stat").is_file(), "the measurement reads Linux's /proc: run it on Linux");
    let llama = llama::build(&LLAMA, BuiltFor::Native)?;
    let aibit = match aibit {
        Some(path) => path.to_path_buf(),
        None => e2e::build()?.0,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let folder = install::folder().join("packing");
    fs::create_dir_all(&folder)?;

    let mut page = head(&llama, &aibit, &threads, rounds)?;
    for &shape in shapes {
        let source = shape::make(shape, &Options::default())?;
        let gguf = f16_gguf(&aibit, &source, &folder.join(format!("{}-f16.gguf", shape.name())))?;
        let (package, quantized) = (folder.join("int8.aibit"), folder.join("q8_0.gguf"));
        let mut pack = Command::new(&aibit);
        pack.arg("pack").arg(&source).arg("-o").arg(&package).args(["-q", "int8", "-t", &threads]);
        let mut theirs = Command::new(&llama);
        theirs.arg("quantize").arg(&gguf).arg(&quantized).args(["q8_0", &threads]);

        let mut costs = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for ((command, file), costs) in
                [(&mut pack, &package), (&mut theirs, &quantized)].into_iter().zip(&mut costs)
            {
                let cost = cost_of(command, file)?;
                let program = command.get_program().display();
                eprintln!("{}, round {}: {program} {:.2} s", shape.name(), round + 1, cost.seconds);
                costs.push(cost);
            }
        }
        page.push_str(&table(&shape.name(), &costs));
    }
    Ok(page)
}

/// The weights of `source` as a GGUF file in F16, llama.cpp's input; created once.
fn f16_gguf(aibit: &Path, source: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    if changed(target).is_none() || changed(target) < changed(&source.join("config.json")) {
        let package = target.with_extension("aibit");
        let mut pack = Command::new(aibit);
        finish(pack.arg("pack").arg(source).arg("-o").arg(&package).args(["-q", "f16"]), "aibit pack")?;
        let mut export = Command::new(aibit);
        export.arg("export").arg(&package).args(["--to", "gguf", "--force", "-o"]).arg(target);
        finish(&mut export, "aibit export")?;
        fs::remove_file(package)?;
    }
    Ok(target.to_owned())
}

/// Runs a program that creates `file`, which is removed before and after.
fn cost_of(command: &mut Command, file: &Path) -> anyhow::Result<Cost> {
    let program = command.get_program().display().to_string();
    let cpu = children_cpu_seconds()?;
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().with_context(|| program.clone())?;
    let mut private_bytes = 0.0_f64;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        private_bytes = private_bytes.max(anonymous_bytes(child.id()));
        sleep(Duration::from_millis(10));
    };
    let seconds = start.elapsed().as_secs_f64();
    ensure!(status.success(), "{program}: {status}");
    let cpu_seconds = children_cpu_seconds()? - cpu;
    let made = File::open(file).with_context(|| file.display().to_string())?;
    made.sync_all()?;
    let on_disk_seconds = start.elapsed().as_secs_f64();
    let file_bytes = made.metadata()?.len() as f64;
    fs::remove_file(file)?;
    Ok(Cost { seconds, on_disk_seconds, cpu_seconds, private_bytes, file_bytes })
}

/// Anonymous memory of a process, from a counter: adding up its pages would slow it down.
fn anonymous_bytes(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

/// Processor time of all child processes that have ended.
fn children_cpu_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // After the program's name, which may contain spaces; in ticks, of which Linux counts a hundred per second.
    let fields: Vec<&str> = stat.rsplit(") ").next().context("/proc/self/stat")?.split(' ').collect();
    let ticks: Vec<f64> =
        fields.get(13..15).context("/proc/self/stat")?.iter().flat_map(|n| n.parse()).collect();
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn head(llama: &Path, aibit: &Path, threads: &str, rounds: usize) -> anyhow::Result<String> {
    let git = |args: &[&str]| answer(Command::new("git").args(args).current_dir(root()));
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|_| "unknown".into());
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib: f64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).context("MemTotal")?;
    let llama = answer(Command::new(llama).arg("version"))?;
    Ok(format!(
        "# Packing: time and memory\n\n\
         Written by `cargo xtask bench --packing`: {}, {} on {}, {threads} threads, {:.1} GiB, commit {commit}; llama.cpp of \
         {} {}, {llama}.\n\n\
         `aibit pack -q int8` of a folder of BF16 safetensors, compared with `llama_model_quantize` (the function behind \
         `llama-quantize`) to Q8_0 of the same weights as a GGUF file in F16. Alternating, {rounds} rounds, medians with \
         minimum and maximum in parentheses. Sources are in the page cache as far as memory allows. `aibit` also computes \
         the digests of its source and its package, records golden outputs, and ends when the package is on disk; the \
         second column therefore adds the time until the other program's file is on disk. Private memory is the peak of \
         pages not backed by a file.\n",
        answer(Command::new("date").args(["-u", "+%F"]))?,
        answer(Command::new(aibit).arg("--version"))?,
        cpu.trim_start_matches([' ', '\t', ':']),
        kib / 1024.0 / 1024.0,
        LLAMA.package,
        LLAMA.version,
    ))
}

fn table(shape: &str, [ours, theirs]: &[Vec<Cost>; 2]) -> String {
    let header: Vec<_> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    let mut text =
        format!("\n## {shape}\n\n| | {} |\n|---|{}\n", header.join(" | "), "---|".repeat(COLUMNS.len()));
    let column = |costs: &[Cost], of: fn(&Cost) -> f64| summary(&costs.iter().map(of).collect::<Vec<_>>());
    for (name, costs) in [("aibit pack", ours), ("llama.cpp Q8_0", theirs)] {
        let cells = COLUMNS.iter().filter_map(|(_, of, digits)| {
            let of = column(costs, *of)?;
            Some(format!("{:.digits$} ({:.digits$} to {:.digits$})", of.median, of.min, of.max))
        });
        text.push_str(&format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    let ratios = COLUMNS.iter().filter_map(|(_, of, _)| {
        Some(format!("{:.2}", column(ours, *of)?.median / column(theirs, *of)?.median))
    });
    text.push_str(&format!("| ratio of the medians | {} |\n", ratios.collect::<Vec<_>>().join(" | ")));
    text
}
