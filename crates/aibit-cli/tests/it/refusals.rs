//! What the commands refuse by name, with advice.

use std::fs;
use std::path::Path;

use insta::assert_snapshot;

use crate::models::Tiny;
use crate::support::{refuses, run, run_with, shelf, temporary_folder, tiny_int8};

/// Every command that takes an archive, applied to `file`.
#[track_caller]
fn commands(folder: &Path, file: &str) -> Vec<String> {
    fs::write(folder.join("text.txt"), "one two three").expect("written");
    let archive = shelf().join(tiny_int8());
    let archive = archive.to_str().expect("a UTF-8 path");
    let commands: [&[&str]; 7] = [
        &["run", file, "-p", "x"],
        &["chat", file],
        &["eval", file, "--ppl", "text.txt"],
        &["eval", archive, "--ppl", "text.txt", "--kl-base", file],
        &["bench", file, "-p", "4", "-n", "0"],
        &["export", file, "--to", "gguf", "-o", "out.gguf"],
        &["run", "-m", file, "-p", "x"],
    ];
    commands.into_iter().map(|args| refuses(folder, args)).collect()
}

#[test]
fn a_model_that_is_not_packed_comes_with_the_command_that_packs_it() {
    let folder = temporary_folder();
    let name = "it's my model";
    let copy = folder.path().join(name);
    fs::create_dir(&copy).expect("a folder");
    for file in fs::read_dir(Tiny::new().path()).expect("a folder").flatten() {
        fs::copy(file.path(), copy.join(file.file_name())).expect("a copy");
    }
    let expected = r"hint: pack it first: aibit pack 'it'\''s my model' -o 'it'\''s my model.aibit'";
    for file in [name.to_owned(), format!("{name}/model.safetensors")] {
        for message in commands(folder.path(), &file) {
            assert!(message.ends_with(&format!("{expected}\n")), "{message}");
        }
    }
    // The suggested command works when typed.
    let command = expected.split_once("first: aibit ").expect("a command").1;
    let typed = format!("{} {command}", env!("CARGO_BIN_EXE_aibit"));
    let shell = std::process::Command::new("sh").current_dir(folder.path()).args(["-c", &typed]).output();
    assert!(shell.expect("a shell").status.success(), "{typed}");
    assert_eq!(run(folder.path(), &["run", "it's my model.aibit", "-p", "x", "-n", "1"]).code, Some(0));
    // Also from inside the folder.
    let message = refuses(&copy, &["run", ".", "-p", "x"]);
    assert!(message.contains(r"aibit pack . -o 'it'\''s my model.aibit'"), "{message}");
    let message = refuses(&copy, &["run", "model.safetensors", "-p", "x"]);
    assert!(message.contains(r"aibit pack . -o 'it'\''s my model.aibit'"), "{message}");
}

#[test]
fn a_gguf_file_comes_with_the_command_that_packs_it() {
    let folder = temporary_folder();
    fs::write(folder.path().join("a b.Q8_0.gguf"), b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
        .expect("written");
    for message in commands(folder.path(), "a b.Q8_0.gguf") {
        assert!(message.ends_with("aibit pack 'a b.Q8_0.gguf' -o 'a b.Q8_0.aibit'\n"), "{message}");
    }
}

#[test]
fn a_folder_that_holds_no_model_comes_without_one() {
    let folder = temporary_folder();
    fs::create_dir(folder.path().join("empty")).expect("a folder");
    for message in commands(folder.path(), "empty") {
        assert_eq!(message, "error: empty is a folder, not a regular file\n");
    }
    fs::write(folder.path().join("page"), "<!DOCTYPE html>").expect("written");
    for message in commands(folder.path(), "page") {
        assert!(!message.contains("aibit pack"), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_opened() {
    let folder = temporary_folder();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    for file in ["pipe", "/dev/null"] {
        let mut messages = commands(folder.path(), file);
        let more: [&[&str]; 6] = [
            &["inspect", file],
            &["verify", file],
            &["verify", file, "--run"],
            &["run", file, "-p", "x", "--check"],
            &["inspect", file, "--tokenizer"],
            &["convert", file, "-o", "out.aibit"],
        ];
        messages.extend(more.into_iter().map(|args| refuses(folder.path(), args)));
        for message in messages {
            assert_eq!(message, format!("error: {file} is a device or pipe, not a regular file\n"));
        }
        for args in [&["diff", file, file] as &[&str], &["pack", file, "-o", "out.aibit"]] {
            let message = refuses(folder.path(), args);
            assert!(message.contains(file), "{message}");
        }
    }
}

#[test]
fn options_of_other_programs() {
    let of = |args: &[&str]| {
        let message = refuses(shelf(), args);
        let outcome = run(shelf(), &[&["--json"], args].concat());
        assert!(outcome.stdout.contains(r#""code":"unsupported""#), "{}", outcome.stdout);
        message
    };
    let run = ["run", tiny_int8(), "-p", "x"];
    let eval = ["eval", tiny_int8(), "--ppl", "text.txt"];
    let chat = ["chat", tiny_int8()];
    for command in [&run[..], &eval, &chat] {
        for (options, why) in [
            (["--logprobs", "5"], "--logprobs is not supported yet: token probabilities cannot be printed"),
            (
                ["--top-logprobs", "5"],
                "--logprobs is not supported yet: token probabilities cannot be printed",
            ),
            (
                ["--logit-bias", "-100"],
                "--logit-bias is not supported yet: logits of single tokens cannot be biased",
            ),
            (
                ["--grammar", "root ::= x"],
                "--grammar is not supported yet: text cannot be constrained by a grammar",
            ),
            (
                ["--json-schema", "{}"],
                "--json-schema is not supported yet: text cannot be constrained by a schema",
            ),
        ] {
            assert_eq!(of(&[command, &options].concat()), format!("error: {why}\n"));
            // Also without a value.
            assert_eq!(of(&[command, &options[..1]].concat()), format!("error: {why}\n"));
        }
    }
    assert_snapshot!(of(&[&eval[..], &["--chat"]].concat()), @"error: --chat is not supported by `eval`: a text is scored without the chat template");
}

#[test]
fn numbers_of_threads_in_the_environment() {
    let with = |number: &str, args: &[&str]| run_with(shelf(), args, "", &[("RAYON_NUM_THREADS", number)]);
    let args = ["run", tiny_int8(), "-p", "x", "-n", "1"];
    for number in ["20000", "1025", "-1", "many", "99999999999999999999"] {
        for args in
            [&args[..], &["verify", tiny_int8()], &["bench", tiny_int8(), "-p", "4", "-n", "0", "-r", "1"]]
        {
            let outcome = with(number, args);
            assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
            let expected = format!(
                "error: RAYON_NUM_THREADS is `{number}`; allowed are 1 to 1024, or 0 for one per core\n"
            );
            assert_eq!(outcome.stderr, expected);
        }
        // An option takes precedence.
        assert_eq!(with(number, &[&args[..], &["-t", "2"]].concat()).code, Some(0));
    }
    for (number, threads) in [("3", 3), ("0", 0), ("", 0)] {
        let outcome = with(number, &[&args[..], &["--json"]].concat());
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        assert!(threads == 0 || report["threads"] == threads, "{report}");
    }
}

#[test]
fn measurements_beyond_the_context() {
    let of = |options: &[&str]| refuses(shelf(), &[&["bench", tiny_int8(), "-r", "1"], options].concat());
    for sequences in ["0", "1025", "-1", "8,x"] {
        let message = of(&[&format!("--batch={sequences}")]);
        assert!(
            message.contains("--batch <N,...>") && message.contains("allowed are 1 to 1024"),
            "{message}"
        );
    }
    assert_snapshot!(of(&["-p", "99999999999"]), @r"
    error: --n-prompt 99999999999 after 0 tokens of --n-depth: the model's context is 128 tokens
    hint: choose -p, -n and -d that fit; 0 omits a test
    ");
    assert_snapshot!(of(&["-p", "0", "-n", "18446744073709551615", "-d", "1"]), @r"
    error: --n-gen 18446744073709551615 after 1 tokens of --n-depth: the model's context is 128 tokens
    hint: choose -p, -n and -d that fit; 0 omits a test
    ");
    assert_snapshot!(of(&["-p", "100", "-n", "0", "-d", "0,29"]), @r"
    error: --n-prompt 100 after 29 tokens of --n-depth: the model's context is 128 tokens
    hint: choose -p, -n and -d that fit; 0 omits a test
    ");
}
