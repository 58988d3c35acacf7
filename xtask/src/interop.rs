//! Other engines load what `aibit export` writes: `interop/*.py`, in a virtual environment of their own.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::python::{self, answer, needs};
use crate::{e2e, root};

const SCRIPTS: [&str; 3] = ["check_bnb.py", "check_compressed_tensors.py", "check_gguf.py"];

/// Marks the part of `docs/interop.md` that this task writes.
const MARKS: [&str; 2] = ["<!-- written by `cargo xtask interop` -->\n", "<!-- end -->"];

/// Runs every check, prints a table, and writes it into the document.
#[expect(clippy::print_stdout, reason = "the table is what was asked for")]
pub(crate) fn run() -> anyhow::Result<()> {
    for compiler in ["cc", "c++"] {
        needs(compiler, "install a C and C++ compiler; on Debian: apt install build-essential")?;
    }
    let folder = root().join("target/interop");
    let scripts = root().join("interop");
    let python = python::environment(&folder.join("venv"), &scripts.join("requirements.txt"))?;
    let aibit = e2e::build()?.0;
    let work = folder.join("work");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let mut table = String::from("| engine | file | outcome | |\n| --- | --- | --- | --- |\n");
    let (mut checks, mut failed) = (0, 0);
    for script in SCRIPTS {
        let mut command = Command::new(&python);
        command.arg("-B").arg(scripts.join(script)).arg(&aibit);
        let lines = answer(command.arg(root().join("fixtures/aibit-small-gpt2")).arg(&work))?;
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
