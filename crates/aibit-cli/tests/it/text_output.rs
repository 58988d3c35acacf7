//! Text output of the commands.

use std::fs;
use std::path::Path;

use crate::models;
use crate::support::{run, shelf, small_f32, small_int8, temporary_folder, tiny_int8};

/// Standard output of a run that must succeed; it ends with a newline.
#[track_caller]
fn succeeds(folder: &Path, args: &[&str]) -> String {
    let stdout = crate::support::succeeds(folder, args);
    assert!(stdout.ends_with('\n') && !stdout.ends_with("\n\n"), "{stdout:?}");
    stdout
}

/// Replaces what may change between versions: version numbers, and sizes that depend on the digits of recorded
/// numbers.
fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"aibit \d+\.\d+\.\d+", "aibit [VERSION]");
    settings.add_filter(r"(?m)^(measured|golden|manifest)\.json .*$", "$1.json [SIZE AND OFFSET]");
    settings.add_filter(r"(entry (measured|golden|manifest)\.json: )\d+ bytes", "$1[SIZE] bytes");
    settings.add_filter(r"\d+ bytes, all headers", "[SIZE] bytes, all headers");
    settings
}

#[test]
fn pack() {
    let folder = temporary_folder();
    let source = models::small();
    let source = source.to_str().expect("a UTF-8 path");
    for preset in ["int8", "bnb-int8", "f16"] {
        let report = succeeds(folder.path(), &["pack", source, "-o", "out.aibit", "-q", preset]);
        insta::assert_snapshot!(format!("pack_{preset}"), report);
    }
}

#[test]
fn inspect() {
    let report = succeeds(shelf(), &["inspect", small_int8()]);
    settings().bind(|| insta::assert_snapshot!("inspect", report));
}

#[test]
fn inspect_with_tensors() {
    let report = succeeds(shelf(), &["inspect", small_int8(), "--tensors"]);
    settings().bind(|| insta::assert_snapshot!("inspect_tensors", report));
}

#[test]
fn inspect_shows_exceptions_to_the_preset() {
    let folder = temporary_folder();
    let source = models::Tiny::new();
    let source = source.path().to_str().expect("a UTF-8 path");
    let exceptions = ["--tensor-type", r"h\.1\..*c_proj\.weight=f16", "--tensor-type", "wte=bf16"];
    succeeds(folder.path(), &[&["pack", source, "-o", "out.aibit"], exceptions.as_slice()].concat());
    let report = succeeds(folder.path(), &["inspect", "out.aibit"]);
    settings().bind(|| insta::assert_snapshot!("inspect_exceptions", report));
}

#[test]
fn inspect_with_recipe() {
    let folder = temporary_folder();
    let source = models::Tiny::new();
    let source = source.path().to_str().expect("a UTF-8 path");
    let options =
        ["--activations", "gate=int8x2", "--kv-cache", "f16", "--tensor-type", "attn.c_proj.weight=f16"];
    succeeds(folder.path(), &[&["pack", source, "-o", "out.aibit"], options.as_slice()].concat());
    let report = succeeds(folder.path(), &["inspect", "out.aibit", "--recipe"]);
    let mut settings = settings();
    settings.add_filter(r"\d\.\d{4}\b", "[ERR]");
    settings.add_filter(r" +\d+\.\d ", " [ABSMAX] ");
    settings.bind(|| insta::assert_snapshot!("inspect_recipe", report));
}

#[test]
fn verify() {
    let report = succeeds(shelf(), &["verify", small_int8()]);
    settings().bind(|| insta::assert_snapshot!("verify", report));
}

#[test]
fn verify_run() {
    let report = succeeds(shelf(), &["verify", small_int8(), "--run"]);
    settings().bind(|| insta::assert_snapshot!("verify_run", report));
}

#[test]
fn verify_of_a_damaged_archive() {
    let folder = temporary_folder();
    let mut bytes = fs::read(shelf().join(tiny_int8())).expect("an archive");
    let field =
        bytes.windows(10).position(|w| w == b"\"vocab_siz").expect("config.json lies in the file as is");
    bytes[field + 1] = b'w';
    fs::write(folder.path().join("damaged.aibit"), bytes).expect("write");
    let outcome = run(folder.path(), &["verify", "damaged.aibit"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(1), ""));
    settings().bind(|| insta::assert_snapshot!("verify_damaged", outcome.stdout));
}

#[test]
fn eval() {
    let folder = temporary_folder();
    fs::write(folder.path().join("text.txt"), TEXT).expect("write");
    let (int8, f32) = (shelf().join(small_int8()), shelf().join(small_f32()));
    let (int8, f32) = (int8.to_str().expect("UTF-8"), f32.to_str().expect("UTF-8"));
    let text = ["--ppl", "text.txt", "--window", "32", "--stride", "16"];
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d+\.\d+", "[NUMBER]");
    settings.bind(|| {
        let alone = succeeds(folder.path(), &[&["eval", int8], text.as_slice()].concat());
        insta::assert_snapshot!("eval", alone);
        let against = succeeds(folder.path(), &[&["eval", int8, "--kl-base", f32], text.as_slice()].concat());
        insta::assert_snapshot!("eval_base", against);
    });
}

/// A text of a known number of tokens.
pub(crate) const TEXT: &str = "The city lies on both banks of the river. Its market was held on the bridge until the \
    flood, and the merchants then moved to the square in front of the church, where they have remained to this day.";

#[test]
fn greedy_text() {
    let prompt = "The history of the city begins";
    let continuation = succeeds(shelf(), &["run", small_int8(), "-p", prompt, "-n", "24"]);
    insta::assert_snapshot!("run", continuation);
}

#[test]
fn timings() {
    let args = ["run", tiny_int8(), "-p", "x y", "-n", "4", "--ignore-eos"];
    let plain = run(shelf(), &args);
    assert_eq!((plain.code, plain.stderr.as_str()), (Some(0), ""));
    let timed = run(shelf(), &[&args[..], &["--timings", "--check"]].concat());
    assert_eq!((timed.code, timed.stdout), (Some(0), plain.stdout), "the text is the same");
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r" +\d+\.\d{3} +\d+\.\d{3} +", " [MS] [MS] ");
    settings.bind(|| insta::assert_snapshot!("timings", timed.stderr));
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = succeeds(shelf(), &["completions", shell]);
        for command in ["pack", "run", "inspect", "verify", "eval", "bench", "completions"] {
            assert!(script.contains(command), "{shell}: no {command}");
        }
    }
}
