//! `fixtures/cases`: variants of published models, each with the result of transformers, llama.cpp or jinja2. The
//! README there describes the format of a case.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::support::{self, Outcome};

#[derive(Deserialize)]
struct Case {
    name: String,
    base: Option<String>,
    #[serde(default)]
    without: Vec<String>,
    files: Option<String>,
    source: Option<String>,
    command: Vec<String>,
    prompt: String,
    #[serde(default)]
    chat: bool,
    n: u32,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expect {
    Any { any: Vec<Way> },
    One(Way),
}

/// An acceptable outcome.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Way {
    prompt_ids: Option<Value>,
    generated_ids: Option<Value>,
    text: Option<Value>,
    stop_reason: Option<Value>,
    #[serde(default)]
    notes: Vec<String>,
    refused_with: Option<Vec<String>>,
    run_refused_with: Option<Vec<String>>,
}

/// The outcome of a case.
#[derive(Debug)]
enum Found {
    Refused(String),
    RunRefused(String),
    Ran { notes: String, report: Value },
}

impl Way {
    fn is(&self, found: &Found) -> bool {
        match found {
            Found::Refused(message) => self.refused_with.as_ref().is_some_and(|words| holds(message, words)),
            Found::RunRefused(message) => {
                self.run_refused_with.as_ref().is_some_and(|words| holds(message, words))
            }
            Found::Ran { notes, report } => {
                let is_run = self.refused_with.is_none() && self.run_refused_with.is_none();
                let fields = [
                    ("prompt_ids", &self.prompt_ids),
                    ("generated_ids", &self.generated_ids),
                    ("text", &self.text),
                    ("stop_reason", &self.stop_reason),
                ];
                is_run
                    && holds(notes, &self.notes)
                    && fields.iter().all(|(field, value)| value.as_ref().is_none_or(|v| *v == report[*field]))
            }
        }
    }
}

/// Whether every word is in the message, ignoring case; `a|b` is either.
fn holds(message: &str, words: &[String]) -> bool {
    let message = message.to_lowercase();
    words.iter().all(|word| word.split('|').any(|word| message.contains(&word.to_lowercase())))
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn copy(from: &Path, to: &Path, without: &[String]) {
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        if !without.iter().any(|left_out| name == left_out.as_str()) {
            fs::copy(entry.path(), to.join(name)).expect("a copy");
        }
    }
}

fn found(case: &Case) -> Found {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    fs::create_dir(&source).expect("a folder");
    if let Some(base) = &case.base {
        let base = match base.strip_prefix("fixtures/") {
            Some(fixture) => fixtures().join(fixture),
            None => fixtures().join("cases").join(base),
        };
        copy(&base, &source, &case.without);
    }
    if let Some(files) = &case.files {
        copy(&fixtures().join("cases").join(files), &source, &[]);
    }
    let path = case.source.as_ref().map_or("source".to_owned(), |file| format!("source/{file}"));
    let command: Vec<&str> = case.command.iter().map(String::as_str).collect();
    let pack = [&["pack", &path, "-o", "out.aibit"], command.as_slice()].concat();
    let Outcome { code, stderr: notes, .. } = support::run(folder.path(), &pack);
    if code != Some(0) {
        assert_eq!(code, Some(2), "{}: {notes}", case.name);
        let left: Vec<_> = fs::read_dir(folder.path()).expect("the folder").flatten().collect();
        assert_eq!(left.len(), 1, "{}: beside the source there is something left: {left:?}", case.name);
        return Found::Refused(notes);
    }
    let n = case.n.to_string();
    let mut run = vec!["run", "out.aibit", "-p", &case.prompt, "-n", &n, "--temp", "0", "--json"];
    if case.chat {
        run.push("--chat");
    }
    let Outcome { code, stdout, stderr } = support::run(folder.path(), &run);
    if code != Some(0) {
        assert_eq!(code, Some(2), "{}: {stderr}", case.name);
        return Found::RunRefused(stderr);
    }
    Found::Ran { notes, report: support::parse_json(&stdout) }
}

/// Runs the cases whose names start with `group`.
fn check(group: &str) {
    let json = fs::read(fixtures().join("cases/cases.json")).expect("cases");
    let cases: Vec<Case> = serde_json::from_slice(&json).expect("cases");
    let cases: Vec<_> = cases.iter().filter(|case| case.name.starts_with(group)).collect();
    assert!(!cases.is_empty(), "no case begins with {group}");
    let mut wrong = Vec::new();
    for case in cases {
        let found = found(case);
        let ways = match &case.expect {
            Expect::Any { any } => any.as_slice(),
            Expect::One(way) => std::slice::from_ref(way),
        };
        if !ways.iter().any(|way| way.is(&found)) {
            wrong.push(format!("{}: {ways:#?}, but {found:#?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

macro_rules! groups {
    ($($name:ident $group:literal)*) => {
        $(#[test] fn $name() { check($group); })*
    };
}

groups! {
    unchanged_bases_run "base"
    safetensors_headers_of_any_length "f01"
    vocabulary_and_merges_follow_their_class "f02"
    tokens_that_the_tokenizer_lacks_are_added "f03"
    rope_scaling_counts_beside_rope_parameters "f04"
    linear_scaling_in_gguf_files_of_every_age "f05"
    both_names_of_one_setting "f06"
    line_ends_of_templates "f07"
    what_templates_ask_of_values "f08"
    tied_tensors_under_either_name "f09"
    tokens_beyond_the_embedding "f10"
    settings_are_read_when_packing "f11"
    the_day_and_generation_blocks "f12"
    ends_of_turns "f13"
    split_gguf_files "f14"
    the_space_before_the_first_word "f15"
    the_template_language "p17"
    files_that_are_something_else "p18"
    wrapped_and_foreign_checkpoints "p19"
    defaults_of_the_class "p20"
    sentencepiece_models_alone "p21"
    tied_in_name_only "p22"
    some_biases "p23"
    files_that_are_overlooked "p24"
}
