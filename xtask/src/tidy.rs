//! Rules of this project that the compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::root;

/// Which crates of the workspace a crate may use; see ARCHITECTURE.md.
const ARROWS: [(&str, &[&str]); 20] = [
    ("aibit-format", &[]),
    ("aibit-quant", &[]),
    ("aibit-gguf", &[]),
    ("aibit-graph", &[]),
    ("aibit-torch", &[]),
    ("aibit-hub", &[]),
    ("aibit-tokenizer", &["aibit-format"]),
    ("aibit-chat", &["aibit-format", "aibit-tokenizer"]),
    ("aibit-kernels", &["aibit-quant"]),
    ("aibit-gpt2", &["aibit-gguf", "aibit-graph"]),
    ("aibit-llama", &["aibit-gguf", "aibit-graph"]),
    ("aibit-families", &["aibit-gguf", "aibit-gpt2", "aibit-graph", "aibit-llama"]),
    ("aibit-runtime", &["aibit-chat", "aibit-format", "aibit-graph", "aibit-tokenizer"]),
    ("aibit-cpu", &["aibit-format", "aibit-graph", "aibit-kernels", "aibit-runtime"]),
    (
        "aibit-pack",
        &[
            "aibit-chat",
            "aibit-cpu",
            "aibit-families",
            "aibit-format",
            "aibit-gguf",
            "aibit-graph",
            "aibit-hub",
            "aibit-quant",
            "aibit-runtime",
            "aibit-tokenizer",
            "aibit-torch",
        ],
    ),
    (
        "aibit-export",
        &[
            "aibit-chat",
            "aibit-families",
            "aibit-format",
            "aibit-gguf",
            "aibit-graph",
            "aibit-quant",
            "aibit-runtime",
            "aibit-tokenizer",
        ],
    ),
    (
        "aibit-cli",
        &[
            "aibit-chat",
            "aibit-cpu",
            "aibit-export",
            "aibit-format",
            "aibit-gguf",
            "aibit-graph",
            "aibit-hub",
            "aibit-pack",
            "aibit-runtime",
            "aibit-tokenizer",
        ],
    ),
    (
        "aibit",
        &[
            "aibit-chat",
            "aibit-cpu",
            "aibit-export",
            "aibit-families",
            "aibit-format",
            "aibit-gguf",
            "aibit-graph",
            "aibit-hub",
            "aibit-kernels",
            "aibit-pack",
            "aibit-quant",
            "aibit-runtime",
            "aibit-tokenizer",
            "aibit-torch",
        ],
    ),
    ("aibit-benches", &["aibit-kernels"]),
    (
        "xtask",
        &[
            "aibit-chat",
            "aibit-cpu",
            "aibit-format",
            "aibit-hub",
            "aibit-kernels",
            "aibit-pack",
            "aibit-runtime",
            "aibit-tokenizer",
        ],
    ),
];

/// The only files that may contain unsafe code.
const UNSAFE_FILES: [&str; 2] = ["crates/aibit-format/src/mmap.rs", "crates/aibit-kernels/src/"];

/// Names of architectures, which the blind crates must not contain.
const ARCHITECTURES: [&str; 5] = ["gpt2", "gpt-2", "llama", "mistral", "qwen"];
const BLIND_CRATES: [&str; 7] = [
    "aibit-chat",
    "aibit-cpu",
    "aibit-format",
    "aibit-kernels",
    "aibit-runtime",
    "aibit-tokenizer",
    "aibit-torch",
];

/// Runs all checks and lists every violation.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut problems = Vec::new();
    check_arrows(&mut problems)?;
    check_documents(&mut problems)?;
    check_sources(&mut problems)?;
    if problems.is_empty() {
        eprintln!("tidy: crate arrows, documents and unsafe code are as they should be");
        return Ok(());
    }
    bail!("{} violations:\n  {}", problems.len(), problems.join("\n  "))
}

fn check_arrows(problems: &mut Vec<String>) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"].as_str().context("name")?;
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            problems.push(format!("{name}: a crate that the arrows in xtask/src/tidy.rs do not know"));
            continue;
        };
        // An empty list stands for `publish = false`.
        if package["publish"].as_array().is_none() {
            for field in ["description", "repository", "readme"] {
                if !package[field].is_string() {
                    problems.push(format!("{name} is published and has no `{field}` in its Cargo.toml"));
                }
            }
        }
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let used = dependency["name"].as_str().context("name")?;
            let is_test_only = dependency["kind"] == "dev" && name != "aibit-benches";
            if dependency["path"].is_string() && !is_test_only && !allowed.contains(&used) {
                problems.push(format!("{name} depends on {used}; allowed are {allowed:?}"));
            }
        }
    }
    Ok(())
}

/// Folders whose documents are checked, besides the root.
const DOCUMENT_FOLDERS: [&str; 6] = ["benches", "crates", "docs", "fixtures", "interop", "xtask"];

/// Links, files and tasks in documents must exist, and `docs/README.md` must list every document beside it.
fn check_documents(problems: &mut Vec<String>) -> anyhow::Result<()> {
    let mut documents = Vec::new();
    for entry in fs::read_dir(root())? {
        documents.extend(Some(entry?.path()).filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    for folder in DOCUMENT_FOLDERS {
        documents.extend(files_below(&root().join(folder), "md")?);
    }
    documents.sort();
    for document in &documents {
        let text = fs::read_to_string(document).with_context(|| document.display().to_string())?;
        let folder = document.parent().context("a folder")?;
        let shown = document.strip_prefix(root()).unwrap_or(document).display().to_string();
        for (target, anchor) in links(&text) {
            let file = if target.is_empty() { document.clone() } else { folder.join(target) };
            if !file.exists() {
                problems.push(format!("{shown} links to `{target}`, which does not exist"));
            } else if !anchor.is_empty() && !anchors(&fs::read_to_string(&file)?).contains(&anchor.to_owned())
            {
                problems.push(format!("{shown} links to `{target}#{anchor}`, which is no heading there"));
            }
        }
        for name in named_files(&text) {
            if !root().join(name).exists() && !folder.join(name).exists() {
                problems.push(format!("{shown} names `{name}`, which does not exist"));
            }
        }
        for task in text.split("cargo xtask ").skip(1) {
            let task: String = task.chars().take_while(char::is_ascii_alphanumeric).collect();
            let known = ["bench", "e2e", "fixtures", "fuzz", "interop", "shape", "tidy"];
            if !task.is_empty() && !known.contains(&task.as_str()) {
                problems.push(format!("{shown} names `cargo xtask {task}`, which does not exist"));
            }
        }
    }
    check_index(&documents, problems)
}

/// Every document in `docs/` has a link in `docs/README.md`.
fn check_index(documents: &[PathBuf], problems: &mut Vec<String>) -> anyhow::Result<()> {
    let folder = root().join("docs");
    let index = folder.join("README.md");
    let text = fs::read_to_string(&index).context("docs/README.md")?;
    let listed: Vec<PathBuf> = links(&text).iter().map(|(target, _)| folder.join(target)).collect();
    for document in documents.iter().filter(|path| path.starts_with(&folder) && **path != index) {
        if !listed.contains(document) {
            let shown = document.strip_prefix(root()).unwrap_or(document).display();
            problems.push(format!("docs/README.md does not list {shown}"));
        }
    }
    Ok(())
}

/// Targets of relative links outside code, each with its anchor: `(file, anchor)`, either of which may be empty.
fn links(text: &str) -> Vec<(&str, &str)> {
    let targets = prose(text).flat_map(|line| line.split("](").skip(1));
    let targets = targets.map(|link| link.split([')', ' ']).next().unwrap_or_default());
    let relative = targets.filter(|target| !target.is_empty() && !target.contains("://"));
    relative.map(|target| target.split_once('#').unwrap_or((target, ""))).collect()
}

/// The anchors of a document's headings, as forges make them.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for heading in prose(text).filter(|line| line.starts_with('#')) {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let earlier = anchors.iter().filter(|other| **other == anchor).count();
        anchors.push(if earlier == 0 { anchor } else { format!("{anchor}-{earlier}") });
    }
    anchors
}

/// Lines outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Names in backquotes that look like files of the repository: with a folder, or with the extension of a source file
/// or document.
fn named_files(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for line in text.lines() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let plain = quoted.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
            let repository_folder = [
                "crates/",
                "docs/",
                "fixtures/",
                "interop/",
                "xtask/",
                "benches/",
                ".ci/",
                ".cargo/",
                ".github/",
            ]
            .iter()
            .any(|f| quoted.starts_with(f));
            let extension = [".rs", ".md", ".py", ".toml"].iter().any(|e| quoted.ends_with(e));
            if plain && (repository_folder || extension) {
                names.push(quoted);
            }
        }
    }
    names
}

fn check_sources(problems: &mut Vec<String>) -> anyhow::Result<()> {
    for folder in ["crates", "xtask", "benches"] {
        for file in files_below(&root().join(folder), "rs")? {
            let text = fs::read_to_string(&file)?;
            let shown = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
            let is_test = shown.contains("/tests/");
            let lines: Vec<&str> = text.lines().collect();
            for (index, line) in lines.iter().enumerate() {
                let code = line.split(['"', '/']).next().unwrap_or_default();
                if !code.contains("unsafe {") && !code.contains("unsafe impl") {
                    continue;
                }
                if !UNSAFE_FILES.iter().any(|allowed| shown.starts_with(allowed)) {
                    problems.push(format!("{shown}:{}: unsafe code outside {UNSAFE_FILES:?}", index + 1));
                }
                let before = &lines[index.saturating_sub(6)..=index];
                if !before.iter().any(|line| line.contains("SAFETY:")) {
                    problems.push(format!("{shown}:{}: unsafe without a SAFETY comment", index + 1));
                }
            }
            let blind = BLIND_CRATES.iter().any(|name| shown.starts_with(&format!("crates/{name}/src")));
            if blind && !is_test {
                let unit_tests =
                    lines.iter().position(|line| line.contains("#[cfg(test)]")).unwrap_or(lines.len());
                for (index, line) in lines[..unit_tests].iter().enumerate() {
                    let code = line.split("//").next().unwrap_or_default().to_ascii_lowercase();
                    if let Some(word) = ARCHITECTURES.iter().find(|word| code.contains(**word)) {
                        problems.push(format!("{shown}:{}: names the architecture `{word}`", index + 1));
                    }
                }
            }
        }
    }
    Ok(())
}

fn files_below(folder: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path, extension)?);
        } else if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_the_anchors_of_forges() {
        let text =
            "# The format\n## 6.1 Ops\n```sh\n# no heading\n```\n## Import: `pack SRC -o FILE`\n## 6.1 Ops\n";
        assert_eq!(anchors(text), ["the-format", "61-ops", "import-pack-src--o-file", "61-ops-1"]);
    }

    #[test]
    fn links_are_relative_and_outside_code() {
        let text = "[a](b.md#c) and [d](https://e/f) and [g](#h)\n```\n[i](j.md)\n```\n![k](l.svg)\n";
        assert_eq!(links(text), [("b.md", "c"), ("", "h"), ("l.svg", "")]);
    }
}
