//! `aibit eval`: which tokens are scored, and after which.

use std::fs;

use aibit_cpu::Model;
use aibit_format::Archive;
use aibit_runtime::{Profile, Session, Tokenizer};
use serde_json::Value;

use crate::models::Tiny;
use crate::support::{json, refuses, shelf, small_f32, temporary_folder, text};

const TEXT: &str = "The city lies on both banks of the river. Its market was held on the bridge until the flood, and \
    the merchants then moved to the square in front of the church, where they have remained to this day.";

/// The mean loss on the tokens at `scored` of the text, with each window computed on its own and `first` in place of
/// its first token: sums of probabilities in f64, one token at a time.
fn by_hand(
    windows: &[std::ops::Range<usize>],
    scored: impl Fn(usize) -> bool,
    first: Option<u32>,
) -> (f64, usize) {
    let archive = Archive::open(shelf().join(small_f32())).expect("an archive");
    let (model, tokenizer) =
        (Model::load(&archive).expect("a model"), Tokenizer::load(&archive).expect("one"));
    let ids = tokenizer.encode(TEXT).expect("ids");
    let mut session = Session::new(&model, Profile::Fast, 64).expect("memory");
    let (mut sum, mut count) = (0.0, 0);
    for window in windows {
        session.truncate(0);
        for place in window.clone() {
            let id = if place == window.start { first.unwrap_or(ids[place]) } else { ids[place] };
            let logits = session.append(&[id]).expect("logits");
            let target = place + 1;
            if target < window.end && scored(target - window.start) {
                let probabilities: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
                sum -= (probabilities[ids[target] as usize] / probabilities.iter().sum::<f64>()).ln();
                count += 1;
            }
        }
    }
    (sum / count as f64, count)
}

#[track_caller]
fn eval(options: &[&str]) -> Value {
    let folder = temporary_folder();
    fs::write(folder.path().join("text.txt"), TEXT).expect("written");
    let archive = shelf().join(small_f32());
    let archive = archive.to_str().expect("a UTF-8 path");
    json(folder.path(), &[&["eval", archive, "--ppl", "text.txt"], options].concat())
}

#[track_caller]
fn check(report: &Value, (mean, scored): (f64, usize)) {
    assert_eq!(report["scored_tokens"], scored, "{report}");
    let found = report["mean_nll"].as_f64().expect("a number");
    assert!((found - mean).abs() < 1e-5, "{report} against {mean}");
    let perplexity = report["perplexity"].as_f64().expect("a number");
    assert!((perplexity.ln() - mean).abs() < 1e-5, "{report} against {mean}");
}

#[test]
fn second_halves_are_those_of_llama_cpp() {
    // tools/perplexity/perplexity.cpp: of a window of n tokens the logits of n/2 .. n-1 (exclusive) are scored
    // against the following tokens; only whole windows count, and GPT-2's tokenizer adds no BOS.
    let tokens = eval(&[])["tokens"].as_u64().expect("a number") as usize;
    for n in [8_usize, 11] {
        assert!(!tokens.is_multiple_of(n), "there is a rest to leave out");
        let windows: Vec<_> = (0..tokens / n).map(|i| i * n..(i + 1) * n).collect();
        let report = eval(&["--window", &n.to_string(), "--second-half"]);
        let by_hand = by_hand(&windows, |target| target > n / 2, None);
        assert_eq!(by_hand.1, windows.len() * (n - 1 - n / 2));
        check(&report, by_hand);
        assert_eq!((&report["second_half"], &report["bos_per_window"]), (&true.into(), &false.into()));
    }
}

#[test]
fn a_window_of_0_is_the_context() {
    assert_eq!(eval(&["-w", "0"])["mean_nll"], eval(&[])["mean_nll"]);
    assert_eq!(eval(&["--ctx-size", "0"])["window"], eval(&[])["window"]);
}

#[test]
fn bos_takes_the_place_of_each_first_token() {
    let tokens = eval(&[])["tokens"].as_u64().expect("a number") as usize;
    let archive = Archive::open(shelf().join(small_f32())).expect("an archive");
    let config: Value =
        serde_json::from_slice(archive.entry("config.json").expect("one").data).expect("JSON");
    let bos = config["bos_token_id"].as_u64().expect("an id") as u32;
    let windows: Vec<_> = (0..tokens).step_by(16).map(|start| start..(start + 16).min(tokens)).collect();
    check(&eval(&["--window", "16", "--bos-per-window"]), by_hand(&windows, |_| true, Some(bos)));
    let whole: Vec<_> = windows.iter().filter(|window| window.len() == 16).cloned().collect();
    let report = eval(&["--window", "16", "--bos-per-window", "--second-half"]);
    check(&report, by_hand(&whole, |target| target > 8, Some(bos)));
}

#[test]
fn the_line_end_of_the_text_can_be_left_out() {
    let folder = temporary_folder();
    let archive = shelf().join(small_f32());
    let archive = archive.to_str().expect("a UTF-8 path");
    fs::write(folder.path().join("text.txt"), TEXT).expect("written");
    fs::write(folder.path().join("ended.txt"), format!("{TEXT}\r\n\n")).expect("written");
    let of =
        |options: &[&str]| json(folder.path(), &[&["eval", archive], options].concat())["mean_nll"].clone();
    assert_eq!(of(&["--ppl", "ended.txt", "--trim"]), of(&["--ppl", "text.txt"]));
    assert_ne!(of(&["--ppl", "ended.txt"]), of(&["--ppl", "text.txt"]));
}

#[test]
fn windows_that_have_no_second_half_are_refused() {
    let folder = temporary_folder();
    fs::write(folder.path().join("text.txt"), "one two").expect("written");
    let archive = shelf().join(small_f32());
    let archive = archive.to_str().expect("a UTF-8 path");
    let of = |options: &[&str]| {
        refuses(folder.path(), &[&["eval", archive, "--ppl", "text.txt", "--second-half"], options].concat())
    };
    for (options, tokens) in
        [(&["--window", "2"] as &[&str], "windows are 2"), (&["--window", "64"], "windows are 64")]
    {
        let message = of(options);
        assert!(message.contains(tokens) && message.contains("at least 3"), "{message}");
    }
    assert!(of(&["--stride", "4"]).contains("cannot be used with"));
}

#[test]
fn a_package_without_a_bos_is_refused() {
    let model = Tiny::new().edit_json("config.json", |config| {
        config.as_object_mut().expect("an object").remove("bos_token_id");
    });
    assert_eq!(crate::support::run(model.around(), &["pack", "tiny", "-o", "tiny.aibit"]).code, Some(0));
    fs::write(model.around().join("text.txt"), TEXT).expect("written");
    let args = ["eval", "tiny.aibit", "--ppl", "text.txt", "--bos-per-window", "--json"];
    let outcome = crate::support::run(model.around(), &args);
    let report = crate::support::parse_json(&outcome.stdout);
    assert_eq!((outcome.code, text(&report["error"]["code"])), (Some(2), "usage"));
    assert!(outcome.stderr.contains("bos_token_id"), "{}", outcome.stderr);
}
