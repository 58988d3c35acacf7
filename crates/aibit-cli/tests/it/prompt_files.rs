//! Prompts and texts from files and pipes.

use std::fs;

use serde_json::Value;

use crate::support::{
    Outcome, ids, json, parse_json, refuses, run, run_with, shelf, temporary_folder, tiny_int8,
};

/// The ids of a prompt from standard input.
fn prompt_ids(options: &[&str], input: &str) -> Vec<u64> {
    let args = [&["run", tiny_int8(), "-n", "1", "--json"], options].concat();
    let Outcome { code, stdout, stderr } = run_with(shelf(), &args, input, &[]);
    assert_eq!(code, Some(0), "{stderr}");
    ids(&parse_json(&stdout)["prompt_ids"])
}

#[test]
fn a_line_end_stays_unless_it_is_trimmed() {
    let of_text =
        |text: &str| ids(&json(shelf(), &["run", tiny_int8(), "-n", "1", "-p", text])["prompt_ids"]);
    assert_eq!(prompt_ids(&["-f", "-"], "one two\n"), of_text("one two\n"));
    assert_eq!(prompt_ids(&["-f", "-", "--trim"], "one two\n"), of_text("one two"));
    assert_eq!(prompt_ids(&["-f", "-", "--trim"], "\n one two \r\n\n"), of_text("\n one two "));
    let message = refuses(shelf(), &["run", tiny_int8(), "-p", "x", "--trim"]);
    assert!(message.contains("cannot be used with"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_has_no_end_is_not_read_for_ever() {
    let run = ["run", tiny_int8(), "-f"];
    let eval = ["eval", tiny_int8(), "--ppl"];
    for (command, limit) in [(run, 16 << 20), (eval, 64 << 20)] {
        let message = refuses(shelf(), &[&command[..], &["/dev/zero"]].concat());
        assert_eq!(message, format!("error: /dev/zero has more than {limit} bytes, the maximum\n"));
        let message = refuses(shelf(), &[&command[..], &["/"]].concat());
        assert!(message.starts_with("error: cannot read /\n"), "{message}");
    }
    let args = ["run", tiny_int8(), "-f", "-"];
    let Outcome { code, stderr, .. } = run_with(shelf(), &args, &"x".repeat((16 << 20) + 1), &[]);
    assert_eq!(code, Some(2));
    assert_eq!(stderr, "error: standard input has more than 16777216 bytes, the maximum\n");
}

#[test]
fn a_file_that_is_too_long_is_not_read_at_all() {
    let folder = temporary_folder();
    // Sparse: it uses no disk space, but would not fit in memory.
    let file = fs::File::create(folder.path().join("long.txt")).expect("a file");
    file.set_len(1 << 40).expect("a length");
    let archive = shelf().join(tiny_int8());
    let archive = archive.to_str().expect("a UTF-8 path");
    for args in [&["run", archive, "-f", "long.txt"] as &[&str], &["eval", archive, "--ppl", "long.txt"]] {
        let outcome = run(folder.path(), &[args, &["--json"]].concat());
        let report: Value = parse_json(&outcome.stdout);
        assert_eq!((outcome.code, &report["error"]["code"]), (Some(2), &"text_too_long".into()));
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_with_a_name_is_read() {
    let folder = temporary_folder();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let archive = shelf().join(tiny_int8());
    let archive = archive.to_str().expect("a UTF-8 path");
    let writer = std::thread::spawn(move || fs::write(pipe, "one two\n"));
    let report = json(folder.path(), &["run", archive, "-f", "pipe", "--trim", "-n", "1"]);
    writer.join().expect("no panic").expect("written");
    assert_eq!(
        report["prompt_ids"],
        json(folder.path(), &["run", archive, "-p", "one two", "-n", "1"])["prompt_ids"]
    );
}
