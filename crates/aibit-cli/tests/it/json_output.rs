//! JSON output of the commands: fields and types, on which other programs depend.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::models;
use crate::support::{
    json, parse_json, run, shelf, small_f32, small_int8, succeeds, temporary_folder, text, tiny_int8,
};
use crate::text_output::TEXT;

/// Every path in a value with the types found there, one per line.
fn structure(value: &Value) -> String {
    fn walk(path: &str, value: &Value, lines: &mut BTreeSet<String>) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(items) => {
                items.iter().for_each(|item| walk(&format!("{path}[]"), item, lines));
                "array"
            }
            Value::Object(fields) => {
                fields.iter().for_each(|(key, item)| walk(&format!("{path}.{key}"), item, lines));
                "object"
            }
        };
        lines.insert(format!("{path}: {kind}"));
    }
    let mut lines = BTreeSet::new();
    walk("", value, &mut lines);
    lines.into_iter().filter(|line| line != ": object").collect::<Vec<_>>().join("\n")
}

/// Fails unless every path in the list, such as `timings.load_ms`, is present.
#[track_caller]
fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        let found = field.split('.').try_fold(value, |value, key| value.get(key));
        assert!(found.is_some_and(|value| !value.is_null()), "no {field} in {value}");
    }
}

fn small_source() -> String {
    models::small().to_str().expect("a UTF-8 path").to_owned()
}

#[test]
fn pack() {
    let folder = temporary_folder();
    let report = json(folder.path(), &["pack", &small_source(), "-o", "out.aibit"]);
    insta::assert_snapshot!("pack", structure(&report));
    assert_eq!(report["output"], "out.aibit");
    assert_eq!(report["parameters"], 10_183_680);
    let length = fs::metadata(folder.path().join("out.aibit")).expect("an archive").len();
    assert_eq!(report["file_bytes"], length);
}

#[test]
fn run_greedy() {
    let mut report = json(shelf(), &["run", small_int8(), "-p", "Once upon a time", "-n", "4", "-t", "2"]);
    // Only where the system reports it.
    report.as_object_mut().expect("an object").remove("peak_rss_bytes");
    insta::assert_snapshot!("run", structure(&report));
    has(
        &report,
        &[
            "prompt_ids",
            "generated_ids",
            "text",
            "stop_reason",
            "timings.load_ms",
            "timings.first_token_ms",
            "timings.prefill_tokens_per_s",
            "timings.decode_tokens_per_s",
            "profile",
            "isa",
            "threads",
        ],
    );
    assert_eq!((text(&report["profile"]), &report["threads"]), ("fast", &2.into()));
    assert_eq!(text(&report["stop_reason"]), "length");
    let time = |name: &str| report["timings"][name].as_f64().expect("a number");
    assert!(0.0 < time("load_ms") && time("load_ms") < time("first_token_ms"), "{report}");
}

#[test]
fn run_with_timings() {
    let mut report = json(shelf(), &["run", tiny_int8(), "-p", "x", "-n", "3", "--ignore-eos", "--timings"]);
    report.as_object_mut().expect("an object").remove("peak_rss_bytes");
    insta::assert_snapshot!("run_timings", structure(&report));
    let spans = report["timings"]["spans"].as_array().expect("an array");
    let names: Vec<_> = spans.iter().map(|span| text(&span["name"])).collect();
    for stage in ["open", "load model", "tokenizer", "encode prompt", "session", "first token", "decode"] {
        assert!(names.contains(&stage), "no {stage} in {names:?}");
    }
    let time = |value: &Value| value.as_f64().expect("a number");
    let starts: Vec<_> = spans.iter().map(|span| time(&span["start_ms"])).collect();
    assert!(starts.is_sorted() && starts[0] > 0.0, "{starts:?}");
    let first = &spans[names.iter().position(|name| *name == "first token").expect("found above")];
    assert_eq!(text(&first["spans"][0]["name"]), "prefill");
    assert!(time(&first["start_ms"]) >= time(&report["timings"]["load_ms"]), "{report}");
    assert!(time(&first["spans"][0]["ms"]) <= time(&first["ms"]), "{first}");
    let decode = &spans[names.iter().position(|name| *name == "decode").expect("found above")];
    assert_eq!(decode["count"], 2, "tokens after the first");
}

#[test]
fn run_of_one_token_has_no_decoding_speed() {
    let report = json(shelf(), &["run", tiny_int8(), "-p", "x", "-n", "1"]);
    assert_eq!(report["timings"]["decode_tokens_per_s"], Value::Null);
}

#[test]
fn inspect() {
    let report = json(shelf(), &["inspect", small_int8()]);
    insta::assert_snapshot!("inspect", structure(&report));
    has(
        &report,
        &[
            "architecture",
            "parameters",
            "bits_per_weight",
            "file_bytes",
            "tensors",
            "entries",
            "recipe",
            "provenance",
        ],
    );
    for tensor in report["tensors"].as_array().expect("an array") {
        has(tensor, &["name", "scheme", "dtype", "shape", "bytes", "offset"]);
    }
    assert_eq!(report, json(shelf(), &["inspect", "--tensors", small_int8()]), "the list is always there");
}

#[test]
fn inspect_with_recipe() {
    let report = json(shelf(), &["inspect", "--recipe", small_int8()]);
    insta::assert_snapshot!("inspect_recipe", structure(&report));
    let (layers, slots) = (report["layers"].as_array(), report["kv_slots"].as_array());
    assert_eq!(
        (layers.map(Vec::len), slots.map(Vec::len)),
        (Some(25), Some(6)),
        "six blocks of four layers, and the head"
    );
    // Nothing was measured, and there was no choice.
    let report = json(shelf(), &["inspect", "--recipe", small_f32()]);
    assert_eq!(report.get("measured_tokens"), None);
    assert!(report["layers"].as_array().expect("layers").iter().all(|layer| layer["reason"] == "default"));
}

#[test]
fn offsets_of_tensors_are_places_in_the_file() {
    let file = fs::read(shelf().join(tiny_int8())).expect("an archive");
    let report = json(shelf(), &["inspect", tiny_int8()]);
    assert_eq!(report["file_bytes"], file.len());
    let tensors = report["tensors"].as_array().expect("an array");
    let bias = tensors.iter().find(|t| t["name"] == "transformer.ln_f.bias").expect("a tensor");
    let start = bias["offset"].as_u64().expect("an offset") as usize;
    let stored = &file[start..][..bias["bytes"].as_u64().expect("a length") as usize];
    assert_eq!(stored, models::Tiny::new().tensors()["transformer.ln_f.bias"].data);
    for entry in report["entries"].as_array().expect("an array") {
        assert_eq!(entry["offset"].as_u64().expect("an offset") % 4096, 0, "{entry}");
    }
}

#[test]
fn verify() {
    let report = json(shelf(), &["verify", tiny_int8(), "--run"]);
    insta::assert_snapshot!("verify", structure(&report));
    assert_eq!(report["ok"], true);
    let checks = report["checks"].as_array().expect("an array");
    for check in checks {
        has(check, &["name", "ok", "detail"]);
        assert_eq!(check["ok"], true, "{check}");
    }
    let without_replay = json(shelf(), &["verify", tiny_int8()]);
    assert!(without_replay["checks"].as_array().expect("an array").len() < checks.len());
}

#[test]
fn verify_of_what_is_no_archive() {
    let folder = temporary_folder();
    fs::write(folder.path().join("text.aibit"), "certainly not an archive").expect("write");
    let outcome = run(folder.path(), &["verify", "text.aibit", "--json"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(1), ""));
    let report = parse_json(&outcome.stdout);
    assert_eq!(report["ok"], false);
    assert_eq!(report["checks"][0]["ok"], false);
}

#[test]
fn eval() {
    let folder = temporary_folder();
    fs::write(folder.path().join("text.txt"), TEXT).expect("write");
    let absolute = |name: &str| shelf().join(name).to_str().expect("a UTF-8 path").to_owned();
    let report = evaluate(folder.path(), &absolute(small_int8()), &absolute(small_f32()));
    insta::assert_snapshot!("eval", structure(&report));
    has(&report, &["perplexity", "mean_nll", "tokens", "window", "stride", "profile", "isa", "threads"]);
    let number = |value: &Value| value.as_f64().expect("a number");
    let ratio = number(&report["perplexity"]) / number(&report["mean_nll"]).exp();
    assert!((ratio - 1.0).abs() < 1e-9, "perplexity is exp(mean_nll): {report}");
    assert!(number(&report["base"]["mean_kl"]) > 0.0, "{report}");
    assert_eq!((&report["window"], &report["stride"]), (&32.into(), &16.into()));

    let itself = evaluate(folder.path(), &absolute(small_f32()), &absolute(small_f32()));
    assert_eq!(number(&itself["base"]["mean_kl"]), 0.0);
    assert_eq!(number(&itself["base"]["top1_agreement"]), 1.0);
    assert_eq!(itself["base"]["perplexity"], itself["perplexity"]);
}

fn evaluate(folder: &Path, archive: &str, base: &str) -> Value {
    let args = ["eval", archive, "--ppl", "text.txt", "--window", "32", "--stride", "16", "--kl-base", base];
    json(folder, &args)
}

#[test]
fn completions() {
    let report = json(shelf(), &["completions", "bash"]);
    insta::assert_snapshot!("completions", structure(&report));
    assert!(text(&report["script"]).contains("_aibit"));
}

#[test]
fn bench() {
    let args =
        ["bench", tiny_int8(), "-p", "16,8", "-n", "4", "-d", "0,32", "-r", "2", "-t", "1,2", "-o", "json"];
    let report = parse_json(&succeeds(shelf(), &args));
    has(&report, &["isa", "read_pattern", "profile", "rows"]);
    let rows = report["rows"].as_array().expect("rows");
    let reads: Vec<_> = rows.iter().filter(|row| row.get("reads").is_some()).collect();
    assert_eq!(reads.iter().map(|row| text(&row["test"])).collect::<Vec<_>>(), ["tg4", "tg4"]);
    assert!(reads.iter().all(|row| row["reads"]["weights_gb_s"].as_f64() > Some(0.0)), "{reads:?}");
    assert!(reads.iter().all(|row| row["reads"]["bandwidth_gb_s"].as_f64() > Some(0.0)), "{reads:?}");
    let tests: Vec<_> = rows.iter().filter(|row| row["threads"] == 2).map(|row| text(&row["test"])).collect();
    let speeds = ["pp16", "pp8", "tg4", "pp16 @ d32", "pp8 @ d32", "tg4 @ d32"];
    assert_eq!(tests[..8], [&speeds[..], &["load", "first token"]].concat());
    for row in rows {
        has(row, &["model", "file_bytes", "parameters", "threads", "test", "unit", "mean", "sd", "samples"]);
        let samples = row["samples"].as_array().expect("samples");
        assert!(samples.len() == 2 && samples.iter().all(|s| s.as_f64().is_some_and(|s| s > 0.0)), "{row}");
    }
    assert_eq!(rows.len() % 2, 0);
}

#[test]
fn bench_of_batches() {
    let args = ["bench", tiny_int8(), "-p", "8", "-n", "4", "-b", "1,3", "-d", "0,32", "-r", "2", "-t", "1"];
    let report = parse_json(&succeeds(shelf(), &[&args[..], &["-o", "json"]].concat()));
    let rows = report["rows"].as_array().expect("rows");
    let tests: Vec<_> = rows.iter().map(|row| text(&row["test"])).collect();
    assert_eq!(tests[..6], ["pp8", "tg4", "tg4 b3", "pp8 @ d32", "tg4 @ d32", "tg4 b3 @ d32"]);
    // The weights are read once for all three.
    let of = |test: &str| rows.iter().find(|row| row["test"] == test).expect("a row");
    let bytes_per_token = |test: &str| {
        let row = of(test);
        row["reads"]["weights_gb_s"].as_f64().expect("a number") / row["mean"].as_f64().expect("a number")
    };
    assert!((bytes_per_token("tg4") / bytes_per_token("tg4 b3") - 3.0).abs() < 1e-6);
}

#[test]
fn bench_in_other_forms() {
    let args = ["bench", tiny_int8(), "-p", "8", "-n", "0", "-r", "1", "-t", "1"];
    let markdown = succeeds(shelf(), &args);
    assert!(markdown.starts_with("| model | size | params | threads | test |"), "{markdown}");
    assert!(markdown.contains("| pp8 |") && !markdown.contains("| tg"), "{markdown}");
    let csv = succeeds(shelf(), &[&args[..], &["-o", "csv"]].concat());
    assert!(csv.starts_with("model,file_bytes,parameters,isa,profile,threads,test,unit,mean,sd\n"), "{csv}");
    assert!(csv.lines().all(|line| line.split(',').count() == 10), "{csv}");
}

/// The error object of a run with `--json`, and the text on standard error.
#[track_caller]
fn error(folder: &Path, args: &[&str]) -> (Value, String) {
    let outcome = run(folder, &[args, &["--json"]].concat());
    assert_eq!(outcome.code, Some(2), "{args:?}: {outcome:?}");
    let report = parse_json(&outcome.stdout);
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        (keys(&report), keys(&report["error"])),
        (
            vec!["error".to_owned(), "schema_version".to_owned()],
            vec!["code".to_owned(), "hint".to_owned(), "message".to_owned()],
        )
    );
    (report["error"].clone(), outcome.stderr)
}

#[test]
fn errors_have_a_code() {
    let folder = temporary_folder();
    fs::write(folder.path().join("page.aibit"), "<!DOCTYPE html><html></html>").expect("written");
    fs::write(folder.path().join("latin1.txt"), b"caf\xe9").expect("written");
    fs::create_dir(folder.path().join("empty")).expect("a folder");
    let archive = shelf().join(tiny_int8());
    let archive = archive.to_str().expect("a UTF-8 path");
    for (args, code) in [
        (&["inspect", "missing.aibit"] as &[&str], "not_found"),
        (&["verify", "page.aibit", "--check"], "usage"),
        (&["run", "page.aibit", "-p", "x"], "not_an_archive"),
        (&["run", "empty", "-p", "x"], "not_a_file"),
        (&["run", archive, "-p", "x", "--min-p", "2"], "sampling"),
        (&["run", archive, "-p", ""], "empty_prompt"),
        (&["run", archive, "-p", "one two three", "-c", "2"], "context_full"),
        (&["run", archive, "-f", "latin1.txt"], "not_utf8"),
        (&["run", archive, "-f", "missing.txt"], "not_found"),
        (&["run", archive], "usage"),
        (&["eval", archive, "--ppl", "page.aibit", "--stride", "0"], "window"),
        (&["pack", "empty", "-o", "out.aibit"], "not_a_model"),
        (
            &[
                "pack",
                models::Tiny::new().path().to_str().expect("UTF-8"),
                "-o",
                "x",
                "--tensor-type",
                "x=f16",
            ],
            "recipe",
        ),
        (&["bogus"], "usage"),
    ] {
        let (error, stderr) = error(folder.path(), args);
        assert_eq!(text(&error["code"]), code, "{args:?}: {error}");
        let message = text(&error["message"]);
        let first_line = message.lines().next().expect("a line");
        let first_line = first_line.split(": No such file").next().expect("a part");
        assert!(stderr.starts_with(&format!("error: {first_line}")), "{args:?}: {stderr} against {message}");
        if let Some(hint) = error["hint"].as_str() {
            assert!(stderr.contains(hint), "{args:?}: {stderr}");
        }
        // The same text as without --json, except for errors in the arguments.
        let without = run(folder.path(), args).stderr;
        assert!(code == "usage" || without == stderr, "{args:?}: {without} against {stderr}");
    }
}

#[test]
fn help_is_no_error() {
    let outcome = run(shelf(), &["run", "--json", "--help"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    assert!(outcome.stdout.starts_with("Generate text"));
}

#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_text_are_shown() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = temporary_folder();
    let path = folder.path().join(OsStr::from_bytes(b"caf\xe9.aibit"));
    fs::copy(shelf().join(tiny_int8()), &path).expect("a copy");
    let of = |command: &[&str], path: &Path, rest: &[&str]| {
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_aibit"))
            .current_dir(folder.path())
            .args(command)
            .arg(path)
            .args(rest)
            .arg("--json")
            .output()
            .expect("the binary starts");
        (output.status.code(), parse_json(&String::from_utf8(output.stdout).expect("JSON is UTF-8")))
    };
    let (code, report) = of(&["inspect"], &path, &[]);
    assert_eq!(code, Some(0));
    assert!(text(&report["file"]).ends_with("caf\u{fffd}.aibit"), "{report}");
    let target = folder.path().join(OsStr::from_bytes(b"\xff.gguf"));
    let (code, report) = of(
        &["export", shelf().join(tiny_int8()).to_str().expect("UTF-8"), "--to", "gguf", "-o"],
        &target,
        &[],
    );
    assert_eq!(code, Some(0), "{report}");
    assert!(text(&report["output"]).ends_with("\u{fffd}.gguf"), "{report}");
    let (code, report) = of(&["inspect"], &target, &[]);
    assert_eq!((code, text(&report["file"]).ends_with("\u{fffd}.gguf")), (Some(0), true));
    let target = folder.path().join(OsStr::from_bytes(b"\xfe.aibit"));
    let source = models::Tiny::new();
    let (code, report) = of(&["pack", source.path().to_str().expect("UTF-8"), "-o"], &target, &[]);
    assert_eq!((code, text(&report["output"]).ends_with("\u{fffd}.aibit")), (Some(0), true), "{report}");
    let (code, report) = of(&["inspect"], &folder.path().join(OsStr::from_bytes(b"\xfd.aibit")), &[]);
    assert_eq!((code, text(&report["error"]["code"])), (Some(2), "not_found"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_named() {
    for (args, message) in [
        (&["inspect", tiny_int8()] as &[&str], "error: cannot write the result to standard output\n"),
        (&["inspect", tiny_int8(), "--json"], "error: cannot write the result to standard output\n"),
        (&["run", tiny_int8(), "-p", "x", "-n", "2"], "error: cannot write the text to standard output\n"),
        (&["run", "--help"], "error: cannot write the help to standard output\n"),
    ] {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_aibit"))
            .current_dir(shelf())
            .args(args)
            .stdout(full)
            .output()
            .expect("the binary starts");
        let stderr = String::from_utf8(output.stderr).expect("messages are UTF-8");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert_eq!(
            stderr,
            format!("{message}  caused by: No space left on device (os error 28)\n"),
            "{args:?}"
        );
    }
}
