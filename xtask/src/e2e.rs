//! The main use case end to end through the binary, in the order in which a user does it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::root;

/// A model and the expected results.
struct Subject {
    name: &'static str,
    /// The file or folder to pack, relative to the workspace.
    source: &'static str,
    /// Options of `pack` besides the preset.
    pack: &'static [&'static str],
    quality: &'static [Quality],
    /// Length of the evaluated part of the documentation, in bytes.
    text_bytes: usize,
    chat: Option<Chat>,
}

/// How close a package of each preset must be to the f32 package, on the project's own documentation.
struct Quality {
    preset: &'static str,
    /// Largest ratio of perplexities, in either direction.
    ratio: f64,
    /// Largest mean divergence, in nats.
    kl: f64,
}

/// A question to a chat model, and what its greedy answer must contain.
struct Chat {
    question: &'static str,
    answer: &'static str,
}

const F32: Quality = Quality { preset: "f32", ratio: 1.0, kl: 1e-9 };

/// f16 differs only by rounding. For int8 the perplexity bound is the project's promise; the divergence bound is four
/// times that of the small model (docs/quantization.md), so that it detects a broken kernel or scale.
const GPT2_QUALITY: [Quality; 3] = [
    F32,
    Quality { preset: "f16", ratio: 1.001, kl: 1e-4 },
    Quality { preset: "int8", ratio: 1.01, kl: 0.04 },
];

/// The promise for this model, 1.005, is for WikiText-2; a few thousand tokens of Markdown get twice that. There is
/// no bound for f16: the source's values are products of f16 scales and need not be representable in f16.
const SMOLLM2_QUALITY: [Quality; 2] = [F32, Quality { preset: "int8", ratio: 1.01, kl: 0.04 }];

const SUBJECTS: [Subject; 3] = [
    Subject {
        name: "small",
        source: "fixtures/aibit-small-gpt2",
        pack: &[],
        quality: &GPT2_QUALITY,
        text_bytes: usize::MAX,
        chat: None,
    },
    Subject {
        name: "gpt2",
        source: "target/fixtures/gpt2",
        pack: &[],
        quality: &GPT2_QUALITY,
        text_bytes: usize::MAX,
        chat: None,
    },
    Subject {
        name: "smollm2",
        source: "target/fixtures/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        // No archive scheme can hold codes of Q4_1.
        pack: &["--requantize"],
        quality: &SMOLLM2_QUALITY,
        // About 8000 tokens: its f32 package processes some 300 of them per second on two cores.
        text_bytes: 24_500,
        chat: Some(Chat { question: "What is the capital of France?", answer: "Paris" }),
    },
];

const PROMPT: &str = "The history of the city begins";
const RUNS: usize = 5;

/// Runs all steps for one model; fails if an id, a digest, the quality or an answer is not as expected.
#[expect(clippy::print_stdout, reason = "the outcome is the task's result")]
pub(crate) fn run(model: &str) -> anyhow::Result<()> {
    let Some(subject) = SUBJECTS.iter().find(|subject| subject.name == model) else {
        bail!("no model `{model}`; there are {}", SUBJECTS.map(|subject| subject.name).join(", "));
    };
    let source = root().join(subject.source);
    ensure!(
        source.exists(),
        "{} is not there: run `cargo xtask fixtures --model {model}` first",
        source.display()
    );
    let aibit = build()?;
    let folder = root().join("target/e2e").join(model);
    fs::create_dir_all(&folder)?;
    let text = documentation(&folder, subject.text_bytes)?;

    let mut rows = Vec::new();
    for quality in subject.quality {
        rows.push(check_preset(&aibit, subject, quality, &source, &folder, &text)?);
    }
    print_table(model, &rows);
    if let Some(chat) = &subject.chat {
        for Quality { preset, .. } in subject.quality {
            let answer = chat.check(&aibit, &package(&folder, model, preset))?;
            println!("\n{preset} answers: {}\n    {}", chat.question, answer.trim());
        }
    }
    // After the whole table, which shows whether one preset fails or all do.
    for (row, quality) in rows.iter().zip(subject.quality) {
        quality.check(row)?;
    }
    println!("\nall as expected: ids, digests, two packs byte for byte, quality");
    Ok(())
}

/// Packs with one preset; verifies, runs and measures the package.
fn check_preset(
    aibit: &Aibit,
    subject: &Subject,
    &Quality { preset, .. }: &Quality,
    source: &Path,
    folder: &Path,
    text: &Path,
) -> anyhow::Result<Row> {
    eprintln!("{preset}: pack, verify, run, eval");
    let archive = package(folder, subject.name, preset);
    let archive_path = path(&archive);
    let mut pack = vec!["pack", path(source), "-o", archive_path, "-q", preset];
    pack.extend(subject.pack);
    let packed = aibit.json(&pack)?;
    check_reproducible(aibit, subject, source, folder, preset)?;
    let verified = aibit.json(&["verify", archive_path, "--run"])?;
    ensure!(verified["ok"] == true, "{preset}: verify --run: {verified}");
    let inspected = aibit.json(&["inspect", archive_path])?;
    check_source(source, &inspected)?;

    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(aibit.json(&["run", archive_path, "-p", PROMPT, "-n", "48", "--temp", "0"])?);
    }
    ensure!(
        runs.iter().all(|run| run["generated_ids"] == runs[0]["generated_ids"]),
        "{preset}: greedy runs differ from each other"
    );
    if preset == "f32" {
        check_ids(source, &runs[0])?;
    }
    let base = package(folder, subject.name, "f32");
    let window = inspected["context"].as_u64().context("context")?.min(512).to_string();
    let eval =
        aibit.json(&["eval", archive_path, "--ppl", path(text), "--kl-base", path(&base), "-w", &window])?;
    let row = Row::new(preset, &packed, &runs, &eval)?;
    Ok(row)
}

/// The path of a preset's package.
fn package(folder: &Path, model: &str, preset: &str) -> PathBuf {
    folder.join(format!("{model}-{preset}.aibit"))
}

impl Quality {
    fn check(&self, row: &Row) -> anyhow::Result<()> {
        let Self { preset, ratio, kl } = self;
        ensure!(
            row.ratio <= *ratio && row.ratio >= 1.0 / ratio && row.kl <= *kl,
            "{preset}: perplexity ratio {} (at most {ratio}) or mean KL {} (at most {kl}) is not as expected",
            row.ratio,
            row.kl
        );
        Ok(())
    }
}

impl Chat {
    /// Asks the question and returns the answer if it is as expected.
    fn check(&self, aibit: &Aibit, archive: &Path) -> anyhow::Result<String> {
        let asked = ["run", path(archive), "--chat", "-p", self.question, "--temp", "0", "-n", "40"];
        let report = aibit.json(&asked)?;
        let answer = report["text"].as_str().context("no text")?;
        ensure!(
            answer.contains(self.answer),
            "{}: asked \"{}\" it says \"{answer}\", without \"{}\"",
            archive.display(),
            self.question,
            self.answer
        );
        Ok(answer.to_owned())
    }
}

/// The release binary, built by the same cargo.
pub(crate) struct Aibit(pub(crate) PathBuf);

pub(crate) fn build() -> anyhow::Result<Aibit> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Cargo's variables about this package would make other build scripts run again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let output = command
        .args(["build", "--release", "--package", "aibit-cli", "--message-format=json-render-diagnostics"])
        .current_dir(root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the binary does not build");
    let binary = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "aibit")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    Ok(Aibit(binary.context("cargo built no binary called aibit")?))
}

impl Aibit {
    /// Runs the binary in a new process and parses its `--json`.
    fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let output = Command::new(&self.0).args(args).arg("--json").output().context("cannot run aibit")?;
        let command = format!("aibit {}", args.join(" "));
        if output.stdout.is_empty() {
            bail!("{command}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).with_context(|| command)
    }
}

/// The beginning of the project's documents, at most `limit` bytes, as one text: the repository has no other English
/// text that may be used for evaluation.
fn documentation(folder: &Path, limit: usize) -> anyhow::Result<PathBuf> {
    let names = ["README.md", "ARCHITECTURE.md", "docs/format.md", "docs/quantization.md"];
    let parts: Vec<_> = names
        .iter()
        .map(|name| fs::read_to_string(root().join(name)).with_context(|| name.to_string()))
        .collect::<Result<_, _>>()?;
    let target = folder.join("documentation.txt");
    let text = parts.join("\n");
    let end = (0..=limit.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    fs::write(&target, &text[..end.unwrap_or(0)])?;
    Ok(target)
}

/// Packs a copy in another folder with another number of threads: the bytes must be the same.
fn check_reproducible(
    aibit: &Aibit,
    subject: &Subject,
    source: &Path,
    folder: &Path,
    preset: &str,
) -> anyhow::Result<()> {
    let copies = folder.join("copy");
    fs::create_dir_all(&copies)?;
    let files = match source.is_dir() {
        true => fs::read_dir(source)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?,
        false => vec![source.to_owned()],
    };
    let copy_of = |file: &Path| Ok::<_, anyhow::Error>(copies.join(file.file_name().context("a file name")?));
    for file in &files {
        let target = copy_of(file)?;
        if !target.exists() {
            link_or_copy(file, &target)?;
        }
    }
    let copy = if source.is_dir() { copies.clone() } else { copy_of(source)? };
    let again = folder.join("again.aibit");
    let mut pack = vec!["pack", path(&copy), "-o", path(&again), "-q", preset, "-t", "1"];
    pack.extend(subject.pack);
    aibit.json(&pack)?;
    let equal = fs::read(package(folder, subject.name, preset))? == fs::read(&again)?;
    fs::remove_file(&again)?;
    fs::remove_dir_all(&copies)?;
    ensure!(equal, "{preset}: two packs of one source differ");
    Ok(())
}

/// The same file under another name.
fn link_or_copy(file: &Path, target: &Path) -> anyhow::Result<()> {
    fs::hard_link(file, target)
        .or_else(|_| fs::copy(file, target).map(drop))
        .with_context(|| format!("cannot copy {} to {}", file.display(), target.display()))
}

/// Checks that the provenance has the weights' digest that the source's expectations state.
fn check_source(source: &Path, inspected: &Value) -> anyhow::Result<()> {
    let Some(expected) = expectations(source)? else { return Ok(()) };
    let files = inspected["provenance"]["source"]["files"].as_array().context("provenance")?;
    let weights =
        files.iter().find(|file| file["name"] == "model.safetensors").context("model.safetensors")?;
    ensure!(
        weights["sha256"] == expected["model_safetensors_sha256"],
        "the provenance has another digest than expected.json: {weights}"
    );
    Ok(())
}

/// Checks ids of the reference implementation, if the model comes with them.
fn check_ids(source: &Path, run: &Value) -> anyhow::Result<()> {
    let Some(expected) = expectations(source)? else {
        eprintln!("no reference ids for this model: greedy runs are only compared with each other");
        return Ok(());
    };
    let cases = expected["greedy"].as_array().context("greedy cases")?;
    let case = cases.iter().find(|case| case["prompt"] == PROMPT).context("a case with the prompt")?;
    ensure!(run["prompt_ids"] == case["prompt_ids"], "prompt ids {}", run["prompt_ids"]);
    ensure!(run["generated_ids"] == case["continuation_ids"], "greedy ids {}", run["generated_ids"]);
    Ok(())
}

/// The expectations in a model folder of this repository.
fn expectations(source: &Path) -> anyhow::Result<Option<Value>> {
    match fs::read(source.join("expected.json")) {
        Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
        Err(_) => Ok(None),
    }
}

struct Row {
    preset: &'static str,
    file_bytes: f64,
    bits_per_weight: f64,
    load_ms: f64,
    first_token_ms: f64,
    decode: f64,
    perplexity: f64,
    ratio: f64,
    kl: f64,
    top1: f64,
    text: String,
}

impl Row {
    fn new(preset: &'static str, packed: &Value, runs: &[Value], eval: &Value) -> anyhow::Result<Self> {
        let number =
            |value: &Value, what: &str| value.as_f64().with_context(|| format!("{preset}: no {what}"));
        let median = |field: &str| -> anyhow::Result<f64> {
            let mut values: Vec<f64> =
                runs.iter().map(|run| number(&run["timings"][field], field)).collect::<Result<_, _>>()?;
            values.sort_by(f64::total_cmp);
            Ok(values[values.len() / 2])
        };
        let perplexity = number(&eval["perplexity"], "perplexity")?;
        Ok(Self {
            preset,
            file_bytes: number(&packed["file_bytes"], "file_bytes")?,
            bits_per_weight: number(&packed["bits_per_weight"], "bits_per_weight")?,
            load_ms: median("load_ms")?,
            first_token_ms: median("first_token_ms")?,
            decode: median("decode_tokens_per_s")?,
            perplexity,
            ratio: perplexity / number(&eval["base"]["perplexity"], "base perplexity")?,
            kl: number(&eval["base"]["mean_kl"], "mean_kl")?.abs(),
            top1: number(&eval["base"]["top1_agreement"], "top1_agreement")?,
            text: runs[0]["text"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

#[expect(clippy::print_stdout, reason = "the table is the task's result")]
fn print_table(model: &str, rows: &[Row]) {
    println!(
        "\n{model}: packed, verified, run in new processes (medians of {RUNS}), measured on the documentation\n"
    );
    println!(
        "{:<7} {:>9} {:>8} {:>9} {:>12} {:>13} {:>11} {:>9} {:>11} {:>7}",
        "",
        "file MB",
        "bits/w",
        "load ms",
        "1st token ms",
        "decode tok/s",
        "perplexity",
        "ratio",
        "KL to f32",
        "top-1"
    );
    for row in rows {
        println!(
            "{:<7} {:>9.2} {:>8.2} {:>9.1} {:>12.1} {:>13.0} {:>11.3} {:>9.5} {:>11.6} {:>6.2}%",
            row.preset,
            row.file_bytes / 1e6,
            row.bits_per_weight,
            row.load_ms,
            row.first_token_ms,
            row.decode,
            row.perplexity,
            row.ratio,
            row.kl,
            100.0 * row.top1
        );
    }
    for row in rows {
        println!("\n{} continues: {PROMPT}\u{2026}{}", row.preset, row.text);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the workspace's path is UTF-8")
}
