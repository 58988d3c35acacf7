//! `aibit run`: generated tokens, stop conditions, and behaviour as a process.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;

use serde_json::Value;

use crate::models;
use crate::support::{
    ids, json, parse_json, refuses, run, run_with, shelf, small_f32, small_int8, succeeds, temporary_folder,
    text, tiny_int8,
};
use crate::verification::rebuild;

const PROMPT: &str = "The history of the city begins";

#[test]
fn greedy_ids_are_those_of_the_reference_implementation() {
    let expected = models::small_expected();
    let cases = expected["greedy"].as_array().expect("an array");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let prompt = text(&case["prompt"]);
        let report = json(shelf(), &["run", small_f32(), "-p", prompt, "-n", "48"]);
        assert_eq!(report["prompt_ids"], case["prompt_ids"], "{prompt}");
        assert_eq!(report["generated_ids"], case["continuation_ids"], "{prompt}");
        assert_eq!(report["text"], case["continuation_text"], "{prompt}");
    }
}

#[test]
fn the_prompt_comes_from_an_option_a_file_or_standard_input() {
    let folder = temporary_folder();
    let prompt = "Dear reader,\n\nthe naïve café “closes” — at 9";
    let file = folder.path().join("prompt.txt");
    fs::write(&file, prompt).expect("write");
    let reference = succeeds(shelf(), &["run", tiny_int8(), "-p", prompt, "-n", "8"]);
    let file = file.to_str().expect("a UTF-8 path");
    assert_eq!(succeeds(shelf(), &["run", tiny_int8(), "-f", file, "-n", "8"]), reference);
    let piped = run_with(shelf(), &["run", tiny_int8(), "-f", "-", "-n", "8"], prompt, &[]);
    assert_eq!((piped.code, piped.stdout), (Some(0), reference));
}

#[test]
fn names_of_other_tools_mean_the_same() {
    let reference = succeeds(shelf(), &["run", tiny_int8(), "-p", "x", "-n", "5", "--temp", "0", "-c", "99"]);
    for predict in ["--predict", "--n-predict", "--num-predict", "--max-tokens"] {
        let args =
            ["run", "-m", tiny_int8(), "-p", "x", predict, "5", "--temperature", "0", "--num-ctx", "99"];
        assert_eq!(succeeds(shelf(), &args), reference, "{predict}");
    }
}

#[test]
fn text_as_it_comes_is_the_text_of_the_report() {
    let args = ["run", small_int8(), "-p", PROMPT, "-n", "16"];
    let report = json(shelf(), &args);
    let printed = format!("{}\n", text(&report["text"]));
    assert_eq!(succeeds(shelf(), &args), printed);
    assert_eq!(succeeds(shelf(), &[&args[..], &["--no-stream"]].concat()), printed);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let args = ["run", small_int8(), "-p", PROMPT, "-n", "16"];
    let report = json(shelf(), &args);
    let whole = text(&report["text"]);
    // From the middle of one word to the middle of the next, across a token boundary.
    let (second, _) = whole.match_indices(' ').nth(4).expect("several words");
    let stop = &whole[second - 2..second + 2];
    let expected = &whole[..whole.find(stop).expect("it stands there")];
    assert!(!expected.is_empty());
    let with_stop = [&args[..], &["--stop", "never in this text", "--stop", stop]].concat();
    let stopped = json(shelf(), &with_stop);
    assert_eq!((text(&stopped["text"]), text(&stopped["stop_reason"])), (expected, "stop_string"));
    assert_eq!(succeeds(shelf(), &with_stop), format!("{expected}\n"));
}

#[test]
fn escapes_in_a_stop_string_are_the_characters_that_they_stand_for() {
    // The text is ` is the only river in the world to be seen.\n\nThe river is …`.
    let args = ["run", small_f32(), "-p", "The river runs through the valley and", "-n", "24"];
    let whole = json(shelf(), &args);
    let whole = text(&whole["text"]);
    for (typed, stop) in [(r"\n\n", "\n\n"), (r"\x0a", "\n"), (r"\u{20}to", " to"), ("\n", "\n")] {
        let stopped = json(shelf(), &[&args[..], &["--stop", typed]].concat());
        let (expected, _) = whole.split_once(stop).unwrap_or_else(|| panic!("{stop:?} is not in {whole:?}"));
        assert_eq!(
            (text(&stopped["text"]), text(&stopped["stop_reason"])),
            (expected, "stop_string"),
            "{typed}"
        );
    }
    for typed in ["", "\\", r"\q", r"\x1"] {
        refuses(shelf(), &[&args[..], &["--stop", typed]].concat());
    }
}

#[test]
fn a_stop_id_ends_the_text_before_it() {
    let args = ["run", small_int8(), "-p", PROMPT, "-n", "16"];
    let generated = ids(&json(shelf(), &args)["generated_ids"]);
    let stop = generated[7];
    let expected = &generated[..generated.iter().position(|&id| id == stop).expect("it is there")];
    let stopped = json(shelf(), &[&args[..], &["--stop-id", &stop.to_string()]].concat());
    assert_eq!(ids(&stopped["generated_ids"]), expected);
    assert_eq!(text(&stopped["stop_reason"]), "stop_id");
}

#[test]
fn the_end_of_text_token_of_the_package_ends_the_text_unless_it_is_ignored() {
    let args = ["-p", PROMPT, "-n", "16"];
    let free = json(shelf(), &[&["run", tiny_int8()], &args[..]].concat());
    let generated = ids(&free["generated_ids"]);
    let end = generated[9];
    let before = generated.iter().position(|&id| id == end).expect("it is there");

    let folder = temporary_folder();
    rebuild(&shelf().join(tiny_int8()), &folder.path().join("ends.aibit"), |name, data| {
        if name == "generation_config.json" {
            let mut settings: Value = serde_json::from_slice(data).expect("JSON");
            settings["eos_token_id"] = serde_json::json!([511, end]);
            *data = settings.to_string().into_bytes();
        }
    });
    let stopped = json(folder.path(), &[&["run", "ends.aibit"], &args[..]].concat());
    assert_eq!(ids(&stopped["generated_ids"]), &generated[..before]);
    assert_eq!(text(&stopped["stop_reason"]), "stop_id");
    let ignoring = json(folder.path(), &[&["run", "ends.aibit", "--ignore-eos"], &args[..]].concat());
    assert_eq!(ids(&ignoring["generated_ids"]), generated);
    assert_eq!(text(&ignoring["stop_reason"]), "length");
}

#[test]
fn settings_of_the_package_count_until_an_option_is_given() {
    let folder = temporary_folder();
    rebuild(&shelf().join(tiny_int8()), &folder.path().join("samples.aibit"), |name, data| {
        if name == "generation_config.json" {
            *data = br#"{"do_sample": true, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}"#
                .to_vec();
        }
    });
    let args = ["-p", PROMPT, "-n", "16", "--seed", "5"];
    let greedy = json(shelf(), &[&["run", tiny_int8()], &args[..]].concat());
    let sampled = json(folder.path(), &[&["run", "samples.aibit"], &args[..]].concat());
    assert_ne!(greedy["generated_ids"], sampled["generated_ids"]);
    let overridden = json(folder.path(), &[&["run", "samples.aibit", "--temp", "0"], &args[..]].concat());
    assert_eq!(greedy["generated_ids"], overridden["generated_ids"]);
    let options = ["--temp", "2", "--top-k", "0", "--top-p", "1", "--min-p", "0"];
    let same = json(shelf(), &[&["run", tiny_int8()], &args[..], &options].concat());
    assert_eq!(same["generated_ids"], sampled["generated_ids"]);
}

#[test]
fn generation_ends_where_the_context_does() {
    let args = ["run", tiny_int8(), "-p", PROMPT, "-n", "-1", "--ignore-eos"];
    let whole = json(shelf(), &args);
    assert_eq!(text(&whole["stop_reason"]), "context");
    let length = |report: &Value| ids(&report["prompt_ids"]).len() + ids(&report["generated_ids"]).len();
    // The last token needs no position: nothing is computed from it.
    assert_eq!(length(&whole), 128 + 1);
    let all = json(shelf(), &[&args[..], &["-c", "0"]].concat());
    assert_eq!(all["generated_ids"], whole["generated_ids"]);
    let beyond = run(shelf(), &[&args[..], &["-c", "100000", "--json"]].concat());
    assert_eq!(parse_json(&beyond.stdout)["generated_ids"], whole["generated_ids"]);
    assert_eq!(beyond.stderr, "note: -c 100000 exceeds the model's context; 128 tokens are reserved\n");

    let short = json(shelf(), &[&args[..], &["-c", "24"]].concat());
    assert_eq!(text(&short["stop_reason"]), "context");
    assert_eq!(length(&short), 24 + 1);
    assert!(ids(&whole["generated_ids"]).starts_with(&ids(&short["generated_ids"])));
}

#[test]
fn no_token_may_be_asked_for() {
    let report = json(shelf(), &["run", tiny_int8(), "-p", PROMPT, "-n", "0"]);
    assert_eq!((text(&report["text"]), text(&report["stop_reason"])), ("", "length"));
}

#[test]
fn a_seed_decides_the_samples() {
    let sample = |seed: &str, threads: &str| {
        let sampling = ["--temp", "0.9", "--seed", seed, "-t", threads];
        json(shelf(), &[&["run", small_int8(), "-p", PROMPT, "-n", "24"], &sampling[..]].concat())
    };
    let first = sample("7", "1");
    assert_eq!(first["seed"], 7);
    assert_eq!(first["generated_ids"], sample("7", "2")["generated_ids"]);
    assert_ne!(first["generated_ids"], sample("8", "1")["generated_ids"]);

    let random = sample("-1", "1");
    let seed = random["seed"].as_u64().expect("a seed").to_string();
    assert_eq!(
        random["generated_ids"],
        sample(&seed, "1")["generated_ids"],
        "a random seed can be used again"
    );
}

#[test]
fn profiles_and_threads_give_the_ids_that_they_promise() {
    let args = ["run", small_int8(), "-p", PROMPT, "-n", "16"];
    let generate = |options: &[&str]| json(shelf(), &[&args[..], options].concat())["generated_ids"].clone();
    assert_eq!(generate(&["-t", "1"]), generate(&["-t", "3"]));
    assert_eq!(generate(&["-t", "1", "--profile", "exact"]), generate(&["-t", "2", "--profile", "exact"]));
}

#[test]
fn random_bytes_of_a_model_become_whole_characters() {
    let mut replaced = BTreeSet::new();
    for seed in ["1", "2", "3", "4"] {
        // The random model often generates partial characters.
        let sampling = ["--temp", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", seed];
        let args = [&["run", tiny_int8(), "-p", "é", "-n", "100", "--ignore-eos"], &sampling[..]].concat();
        let printed = succeeds(shelf(), &args); // fails unless it is UTF-8
        let report = json(shelf(), &args);
        assert_eq!(printed, format!("{}\n", text(&report["text"])));
        replaced.extend(printed.chars().filter(|&c| c == '\u{fffd}'));
    }
    assert!(!replaced.is_empty(), "no half character occurred, so nothing was tested");
}

#[cfg(unix)]
mod processes {
    use std::process::Command;

    use super::*;
    use crate::support::spawn;

    /// Long enough to be interrupted: up to the end of the context.
    const LONG: [&str; 6] = ["-p", PROMPT, "-n", "-1", "--ignore-eos", "-t1"];

    #[test]
    fn a_closed_pipe_is_success() {
        let archive = shelf().join(small_int8());
        let folder = temporary_folder();
        let args = [&["run", archive.to_str().expect("a UTF-8 path")], &LONG[..]].concat();
        let mut running = spawn(folder.path(), &args);
        let mut stdout = running.child.stdout.take().expect("piped");
        stdout.read_exact(&mut [0]).expect("a first byte");
        drop(stdout);
        assert_eq!(running.child.wait().expect("it ends").code(), Some(0));
        assert_eq!(running.stderr(), "");
    }

    #[test]
    fn a_report_into_a_closed_pipe_is_success() {
        let archive = shelf().join(small_int8());
        let archive = archive.to_str().expect("a UTF-8 path");
        let folder = temporary_folder();
        let commands: [&[&str]; 3] =
            [&["inspect", archive, "--json"], &["verify", archive], &["completions", "zsh"]];
        for args in commands {
            let mut running = spawn(folder.path(), args);
            drop(running.child.stdout.take());
            assert_eq!(running.child.wait().expect("it ends").code(), Some(0), "{args:?}");
            assert_eq!(running.stderr(), "", "{args:?}");
        }
    }

    #[test]
    fn an_interrupt_ends_the_text_cleanly() {
        let archive = shelf().join(small_int8());
        let args = [&["run", archive.to_str().expect("a UTF-8 path")], &LONG[..]].concat();
        let whole = succeeds(shelf(), &args);

        let folder = temporary_folder();
        let mut running = spawn(folder.path(), &args);
        let mut stdout = running.child.stdout.take().expect("piped");
        let mut printed = vec![0];
        stdout.read_exact(&mut printed).expect("a first byte");
        let sent = Command::new("kill").args(["-INT", &running.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
        stdout.read_to_end(&mut printed).expect("the rest");
        assert_eq!(running.child.wait().expect("it ends").code(), Some(130));
        assert_eq!(running.stderr(), "");
        let printed = String::from_utf8(printed).expect("whole characters");
        let partial = printed.strip_suffix('\n').expect("a last line that ends");
        assert!(whole.starts_with(partial), "{partial}");
        assert!(partial.len() + 1 < whole.len(), "the run was over before it was interrupted");
    }
}
