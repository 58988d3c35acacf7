//! `-h` and `--help`.

use crate::support::{run, shelf, succeeds};

fn check(command: &str) {
    let before: &[&str] = if command == "aibit" { &[] } else { &[command] };
    for (name, flag) in [("short", "-h"), ("long", "--help")] {
        let help = succeeds(shelf(), &[before, &[flag]].concat());
        insta::assert_snapshot!(format!("{command}_{name}"), help);
    }
}

#[test]
fn of_the_program() {
    check("aibit");
}

#[test]
fn of_pack() {
    check("pack");
}

#[test]
fn of_run() {
    check("run");
}

#[test]
fn of_chat() {
    check("chat");
}

#[test]
fn of_export() {
    check("export");
}

#[test]
fn of_convert() {
    check("convert");
}

#[test]
fn of_diff() {
    check("diff");
}

#[test]
fn of_inspect() {
    check("inspect");
}

#[test]
fn of_verify() {
    check("verify");
}

#[test]
fn of_eval() {
    check("eval");
}

#[test]
fn of_bench() {
    check("bench");
}

#[test]
fn of_completions() {
    check("completions");
}

#[test]
fn without_arguments_the_help_is_an_error_message() {
    let outcome = run(shelf(), &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
    assert_eq!(outcome.stderr, succeeds(shelf(), &["-h"]));
}

#[test]
fn every_command_tells_the_version() {
    let version = format!(" {}\n", env!("CARGO_PKG_VERSION"));
    for command in [
        "pack",
        "run",
        "chat",
        "export",
        "convert",
        "diff",
        "inspect",
        "verify",
        "eval",
        "bench",
        "completions",
    ] {
        assert!(succeeds(shelf(), &[command, "--version"]).ends_with(&version), "{command}");
    }
    assert_eq!(succeeds(shelf(), &["-V"]), format!("aibit{version}"));
}
