//! Loads exports of `aibit export` in other engines: `interop/*.py`, in their own virtual environment.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use aibit_cpu::Model;
use aibit_format::Archive;
use aibit_runtime::{Profile, Session};
use aibit_tokenizer::Tokenizer;
use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::python::{self, answer, finish, needs};
use crate::{e2e, fixtures, root};

/// Programs that check a model, called with `AIBIT MODEL WORK`.
const SCRIPTS: [(&str, Subject); 5] = [
    ("check_transformers.py", Subject::Small),
    ("check_bnb.py", Subject::Small),
    ("check_compressed_tensors.py", Subject::Small),
    ("check_gguf.py", Subject::Small),
    ("check_smollm2.py", Subject::Smollm2),
];

#[derive(Clone, Copy)]
enum Subject {
    Small,
    Smollm2,
}

/// Delimiters of the part of `docs/interop.md` that this task writes.
const MARKS: [&str; 2] = ["<!-- written by `cargo xtask interop` -->\n", "<!-- end -->"];

/// A prompt of twenty tokens, and the number of tokens to generate.
const PROMPT: &str =
    "The old lighthouse keeper counted 3 ships on the horizon that evening, and wrote in his book:";
const STEPS: usize = 16;

/// Runs every check, prints a table, and writes it into the document.
#[expect(clippy::print_stdout, reason = "the table is what was asked for")]
pub(crate) fn run() -> anyhow::Result<()> {
    for compiler in ["cc", "c++"] {
        needs(compiler, "install a C and C++ compiler; on Debian: apt install build-essential")?;
    }
    let folder = root().join("target/interop");
    let scripts = root().join("interop");
    let python = python::environment(&folder.join("venv"), &scripts.join("requirements.txt"))?;
    let transformers_4 = folder.join("transformers4");
    python::overlay(&python, &transformers_4, &scripts.join("requirements-transformers4.txt"))?;
    let aibit = e2e::build()?.0;
    let work = folder.join("work");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let mut table = String::from("| engine | file | outcome | |\n| --- | --- | --- | --- |\n");
    let (mut checks, mut failed) = (0, 0);
    for (script, subject) in SCRIPTS {
        let program = scripts.join(script);
        let model = match subject {
            Subject::Small => root().join("fixtures/aibit-small-gpt2"),
            Subject::Smollm2 => prepare_smollm2(&python, &program, &aibit, &work)?,
        };
        let mut check = Command::new(&python);
        check.arg("-B").arg(program).arg(&aibit).arg(model).arg(&work).env("TRANSFORMERS_4", &transformers_4);
        let lines = answer(&mut check)?;
        for line in lines.lines() {
            let check: Value = serde_json::from_str(line).with_context(|| format!("{script}: {line}"))?;
            let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
            let ok = check["ok"] == true;
            let verdict = if ok { "ok" } else { "**failed**" };
            writeln!(table, "| {} | {} | {} | {verdict} |", text("engine"), text("what"), text("result"))?;
            checks += 1;
            failed += usize::from(!ok);
        }
    }
    print!("{table}");
    let path = root().join("docs/interop.md");
    let document = fs::read_to_string(&path)?;
    let (before, rest) = document.split_once(MARKS[0]).context("docs/interop.md has lost its marks")?;
    let (_, after) = rest.split_once(MARKS[1]).context("docs/interop.md has lost its marks")?;
    fs::write(&path, format!("{before}{}\n{table}\n{}{after}", MARKS[0], MARKS[1]))?;
    ensure!(checks > 0 && failed == 0, "{failed} of {checks} checks failed");
    Ok(())
}

/// Packs SmolLM2's values as f32 and writes aibit's results for texts and a prompt to `ours.json` and `ours.f32` in
/// `work` for comparison. The command line gives neither ids of ten thousand texts at once nor logits.
fn prepare_smollm2(python: &Path, program: &Path, aibit: &Path, work: &Path) -> anyhow::Result<PathBuf> {
    let source = fixtures::smollm2()?;
    let package = work.join("smollm2-f32.aibit");
    let mut pack = Command::new(aibit);
    finish(pack.arg("pack").arg(&source).arg("-o").arg(&package).args(["-q", "f32"]), "aibit pack")?;
    let archive = Archive::open(&package)?;
    fs::write(work.join("tokenizer.json"), archive.entry(aibit_format::entry_names::TOKENIZER)?.data)?;

    let texts = work.join("texts.jsonl");
    finish(
        Command::new(python).arg("-B").arg(program).arg("--texts").arg(root()).arg(&texts),
        "writing texts",
    )?;
    let tokenizer = Tokenizer::load(&archive)?;
    let mut ids = Vec::new();
    for line in fs::read_to_string(&texts)?.lines() {
        ids.push(tokenizer.encode(&serde_json::from_str::<String>(line)?)?);
    }

    let model = Model::load(&archive)?;
    let prompt = tokenizer.encode(PROMPT)?;
    let mut session = Session::new(&model, Profile::Fast, prompt.len() + STEPS)?;
    let mut logits = Vec::new();
    session.append_all(&prompt, |_, rows| logits.extend_from_slice(rows))?;
    let vocabulary = model.graph().vocabulary;
    let mut generated = Vec::new();
    for _ in 0..STEPS {
        let last = &logits[logits.len() - vocabulary..];
        let best = (0..vocabulary).max_by(|&a, &b| last[a].total_cmp(&last[b])).context("a vocabulary")?;
        generated.push(u32::try_from(best)?);
        logits.extend_from_slice(session.append(&generated[generated.len() - 1..])?);
    }
    let ours = json!({
        "prompt": PROMPT, "prompt_ids": prompt, "generated_ids": generated, "vocabulary": vocabulary, "texts": ids,
        "compiled": tokenizer.is_compiled(),
    });
    fs::write(work.join("ours.json"), serde_json::to_vec(&ours)?)?;
    let mut file = BufWriter::new(File::create(work.join("ours.f32"))?);
    for value in logits {
        file.write_all(&value.to_le_bytes())?;
    }
    file.flush()?;
    Ok(source)
}
