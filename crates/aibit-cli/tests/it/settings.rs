//! Settings that a package carries: what they mean, and what of them `pack` refuses or remarks.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::models::{self, Tiny};
use crate::support::{self, Numbers, ids, refuses, run, shelf, small_f32, succeeds, temporary_folder, text};
use crate::verification::rebuild;

/// `fixtures/golden/generation`: the ids that transformers generates with settings of every kind.
#[test]
fn ids_are_those_of_transformers_with_the_same_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/generation/cases.json");
    let golden: Value = serde_json::from_slice(&fs::read(path).expect("a fixture")).expect("JSON");
    let cases = golden["cases"].as_array().expect("an array");
    assert!(cases.len() >= 24);
    let folder = temporary_folder();
    for case in cases {
        let target = folder.path().join("model.aibit");
        if case["generation_config"].is_null() {
            pack_small_without_generation_config(folder.path(), &case["config"]);
        } else {
            rebuild(&shelf().join(small_f32()), &target, |name, data| match name {
                "generation_config.json" => *data = case["generation_config"].to_string().into_bytes(),
                "config.json" => *data = with_fields(data, &case["config"]),
                _ => {}
            });
        }
        let n = case["n"].to_string();
        let args = ["run", "model.aibit", "-p", text(&case["prompt"]), "-n", &n];
        let report = support::json(folder.path(), &args);
        let name = text(&case["name"]);
        assert_eq!(report["prompt_ids"], case["prompt_ids"], "{name}");
        assert_eq!(report["generated_ids"], case["generated_ids"], "{name}");
        assert_eq!(report["stop_reason"], case["stop_reason"], "{name}");
    }
}

fn with_fields(json: &[u8], fields: &Value) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(json).expect("JSON");
    for (field, value) in fields.as_object().into_iter().flatten() {
        config[field] = value.clone();
    }
    config.to_string().into_bytes()
}

/// As configurations were before there were files of settings.
fn pack_small_without_generation_config(folder: &Path, fields: &Value) {
    let source = folder.join("source");
    fs::create_dir(&source).expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        let file = fs::read(models::small().join(name)).expect("a fixture");
        let file = if name == "config.json" { with_fields(&file, fields) } else { file };
        fs::write(source.join(name), file).expect("write");
    }
    succeeds(folder, &["pack", "source", "-o", "model.aibit", "-q", "f32"]);
}

#[test]
fn the_window_of_penalties_can_be_chosen() {
    let folder = temporary_folder();
    rebuild(&shelf().join(small_f32()), &folder.path().join("model.aibit"), |name, data| {
        if name == "generation_config.json" {
            *data = br#"{"eos_token_id": 8191, "repetition_penalty": 1.3}"#.to_vec();
        }
    });
    let prompt = "The history of the city begins with a river. ".repeat(10);
    let generated = |archive: &Path, options: &[&str]| {
        let archive = archive.to_str().expect("a UTF-8 path");
        let args = [&["run", archive, "-p", &prompt, "-n", "24"], options].concat();
        support::json(shelf(), &args)["generated_ids"].clone()
    };
    let (own, plain) = (folder.path().join("model.aibit"), shelf().join(small_f32()));
    let all = generated(&own, &[]);
    assert_eq!(all, generated(&plain, &["--repeat-penalty", "1.3", "--repeat-last-n", "-1"]));
    let window = generated(&plain, &["--repeat-penalty", "1.3"]);
    assert_ne!(all, window);
    assert_eq!(window, generated(&own, &["--repeat-last-n", "64"]));
    assert_eq!(window, generated(&own, &["--repeat-penalty", "1.3"]));
    assert_eq!(generated(&plain, &[]), generated(&own, &["--repeat-penalty", "1"]));
}

/// Packs the tiny model with settings and returns what `pack` says, and whether it succeeded.
fn packed(tiny: &Tiny) -> (Option<i32>, String) {
    let outcome = run(tiny.around(), &["pack", "tiny", "-o", "out.aibit", "-q", "f32"]);
    if outcome.code != Some(0) {
        assert!(!tiny.around().join("out.aibit").exists());
    }
    (outcome.code, outcome.stderr)
}

fn tiny_with(settings: &str) -> Tiny {
    Tiny::new().write("generation_config.json", settings.as_bytes())
}

#[test]
fn settings_that_cannot_be_meant_are_refused_when_packing() {
    for (settings, field) in [
        (r#"{"temperature": "0.7"}"#, "temperature"),
        (r#"{"temperature": -0.5}"#, "temperature"),
        (r#"{"temperature": 1e300}"#, "temperature"),
        (r#"{"top_k": -7}"#, "top_k"),
        (r#"{"top_k": 12.5}"#, "top_k"),
        (r#"{"top_k": [40]}"#, "top_k"),
        (r#"{"top_p": -0.1}"#, "top_p"),
        (r#"{"min_p": 1.5}"#, "min_p"),
        (r#"{"typical_p": 0}"#, "typical_p"),
        (r#"{"epsilon_cutoff": -1}"#, "epsilon_cutoff"),
        (r#"{"do_sample": "yes"}"#, "do_sample"),
        (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
        (r#"{"repetition_penalty": -1.1}"#, "repetition_penalty"),
        (r#"{"repetition_penalty": 1e-30}"#, "repetition_penalty"),
        (r#"{"eos_token_id": "511"}"#, "eos_token_id"),
        (r#"{"eos_token_id": 1.5}"#, "eos_token_id"),
        (r#"{"eos_token_id": true}"#, "eos_token_id"),
        (r#"{"eos_token_id": [[511]]}"#, "eos_token_id"),
        (r#"{"eos_token_id": {"id": 511}}"#, "eos_token_id"),
        (r#"{"eos_token_id": [511, -2]}"#, "eos_token_id"),
        (r#"{"suppress_tokens": ["a"]}"#, "suppress_tokens"),
        (r#"{"bad_words_ids": [1, 2]}"#, "bad_words_ids"),
        (r#"{"bad_words_ids": [[]]}"#, "bad_words_ids"),
        (r#"{"bad_words_ids": [[1, null]]}"#, "bad_words_ids"),
        (r#"{"sequence_bias": {"[1]": 2.0}}"#, "sequence_bias"),
        (r#"{"sequence_bias": [[[1], 1e30]]}"#, "sequence_bias"),
        (r#"{"forced_bos_token_id": [1, 2]}"#, "forced_bos_token_id"),
        (r#"{"exponential_decay_length_penalty": [1.5, 2]}"#, "exponential_decay_length_penalty"),
        (r#"{"exponential_decay_length_penalty": 1.5}"#, "exponential_decay_length_penalty"),
        (r#"{"no_repeat_ngram_size": "3"}"#, "no_repeat_ngram_size"),
        (r#"{"min_new_tokens": -3}"#, "min_new_tokens"),
        (r#"{"max_new_tokens": 1.25}"#, "max_new_tokens"),
        (r#"{"stop_strings": [""]}"#, "stop_strings"),
        (r#"{"stop_strings": 5}"#, "stop_strings"),
        ("[]", "object"),
        (r#"{"top_k": 5"#, "generation_config.json"),
    ] {
        let (code, message) = packed(&tiny_with(settings));
        assert_eq!(code, Some(2), "{settings}: {message}");
        assert!(
            message.contains("generation_config.json") && message.contains(field),
            "{settings}: {message}"
        );
    }
}

#[test]
fn settings_that_change_the_text_and_are_not_supported_are_refused_by_name() {
    for (field, on, off) in [
        ("num_beams", json!(4), json!(1)),
        ("num_beam_groups", json!(2), json!(1)),
        ("diversity_penalty", json!(0.5), json!(0.0)),
        ("penalty_alpha", json!(0.6), json!(0.0)),
        ("guidance_scale", json!(1.5), json!(1.0)),
        ("encoder_repetition_penalty", json!(1.2), json!(1)),
        ("encoder_no_repeat_ngram_size", json!(2), json!(0)),
        ("dola_layers", json!("high"), json!(null)),
        ("constraints", json!([{"token_ids": [1]}]), json!([])),
        ("force_words_ids", json!([[1]]), json!(null)),
        ("forced_decoder_ids", json!([[1, 2]]), json!(null)),
        ("watermarking_config", json!({"bias": 2.5}), json!(null)),
        ("token_healing", json!(true), json!(false)),
        ("top_h", json!(0.4), json!(null)),
    ] {
        let (code, message) = packed(&tiny_with(&json!({ field: on }).to_string()));
        assert_eq!(code, Some(2), "{field}: {message}");
        assert!(message.contains(&format!("generation_config.json: `{field}` is {on}; ")), "{message}");
        assert!(message.contains("is not supported; remove the field"), "{message}");
        let (code, message) = packed(&tiny_with(&json!({ field: off }).to_string()));
        assert_eq!((code, message.as_str()), (Some(0), ""), "{field}");
    }
    // Without a file of settings those of config.json count.
    let tiny = Tiny::new().remove("generation_config.json").with_config("num_beams", json!(3));
    let (code, message) = packed(&tiny);
    assert_eq!(code, Some(2));
    assert!(message.contains("config.json: `num_beams` is 3; "), "{message}");
}

#[test]
fn what_has_no_effect_is_noted() {
    for (settings, notes) in [
        (r#"{"top_q": 0.5}"#, &["`top_q` is not known"][..]),
        (r#"{"max_length": 50}"#, &["`max_length` 50 has no effect", "-n"]),
        (r#"{"max_time": 2.5}"#, &["`max_time`"]),
        (r#"{"num_return_sequences": 3, "do_sample": true}"#, &["`num_return_sequences` 3"]),
        (r#"{"eos_token_id": [511, 512, 70000]}"#, &["`eos_token_id` has 512 and 1 more", "512 tokens"]),
        (r#"{"suppress_tokens": [5, 9999999999999]}"#, &["`suppress_tokens` has 9999999999999"]),
        (r#"{"bad_words_ids": [[5, 512]]}"#, &["`bad_words_ids` has 512"]),
    ] {
        let tiny = tiny_with(settings);
        let (code, stderr) = packed(&tiny);
        assert_eq!(code, Some(0), "{settings}: {stderr}");
        for words in notes {
            assert!(
                stderr.starts_with("note: generation_config.json: ") && stderr.contains(words),
                "{stderr}"
            );
        }
        support::json(tiny.around(), &["run", "out.aibit", "-p", "x", "-n", "4"]);
    }
    let tiny = Tiny::new().remove("generation_config.json").with_config("max_length", json!(50));
    let (code, stderr) = packed(&tiny);
    assert_eq!(code, Some(0));
    assert!(
        stderr.starts_with("note: config.json: `max_length` 50 has no effect") && stderr.lines().count() == 1
    );
    for settings in [
        r#"{"eos_token_id": -1, "top_k": -1, "top_p": 1, "repetition_penalty": 1, "no_repeat_ngram_size": 0}"#,
        r#"{"eos_token_id": 511.0, "top_k": 40.0, "top_k": null, "max_new_tokens": 7.0, "suppress_tokens": [-1]}"#,
        r#"{"_from_model_config": true, "transformers_version": "4.40.0", "pad_token_id": 9999, "use_cache": false,
            "cache_implementation": "hybrid", "output_scores": true, "length_penalty": 2.0, "early_stopping": true}"#,
    ] {
        assert_eq!(packed(&tiny_with(settings)), (Some(0), String::new()), "{settings}");
    }
}

#[test]
fn every_file_that_names_an_end_of_text_counts() {
    let args = ["run", "out.aibit", "-p", "The history", "-n", "16"];
    let plain = Tiny::new().remove("generation_config.json").with_config("eos_token_id", json!(null));
    let plain = plain.edit_json("tokenizer_config.json", |config| config["eos_token"] = json!(null));
    assert_eq!(packed(&plain).0, Some(0));
    let free = ids(&support::json(plain.around(), &args)["generated_ids"]);
    let first = |id: u64| free.iter().position(|&other| other == id).expect("it is there");
    // Ends that come one before the other.
    let places: Vec<u64> = (0..16).filter(|&at| first(free[at]) == at).map(|at| free[at]).collect();
    let [early, late] = [places[3], places[5]];
    let token = |id: u64| {
        let tokenizer: Value =
            serde_json::from_slice(&fs::read(plain.path().join("tokenizer.json")).expect("read"))
                .expect("JSON");
        let vocabulary = tokenizer["model"]["vocab"].as_object().expect("a vocabulary").clone();
        vocabulary.into_iter().find(|(_, other)| *other == json!(id)).expect("a token").0
    };
    let check = |tiny: Tiny, end: Option<u64>| {
        let (code, stderr) = packed(&tiny);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let report = support::json(tiny.around(), &args);
        let length = end.map_or(16, first);
        assert_eq!(ids(&report["generated_ids"]), free[..length]);
        assert_eq!(text(&report["stop_reason"]), if end.is_some() { "stop_id" } else { "length" });
    };
    let base = || {
        let tiny = Tiny::new().remove("generation_config.json").with_config("eos_token_id", json!(null));
        tiny.edit_json("tokenizer_config.json", |config| config["eos_token"] = json!(null))
    };
    check(base(), None);
    check(base().with_config("eos_token_id", json!(late)), Some(late));
    check(base().with_config("eos_token_id", json!([511, late])), Some(late));
    let settings = |settings: Value| base().write("generation_config.json", settings.to_string().as_bytes());
    check(settings(json!({ "eos_token_id": [late, null, 511.0] })), Some(late));
    // The file of settings comes before config.json; without an id there, config.json counts.
    let both = settings(json!({ "eos_token_id": late })).with_config("eos_token_id", json!(early));
    check(both, Some(late));
    let null = settings(json!({ "eos_token_id": null })).with_config("eos_token_id", json!(early));
    check(null, Some(early));
    let off = settings(json!({ "eos_token_id": -1 })).with_config("eos_token_id", json!(early));
    check(off, None);
    // The tokenizer's end counts besides, as a string or an object, in either file.
    for end in [json!(token(early)), json!({ "content": token(early), "special": true })] {
        let beside = settings(json!({ "eos_token_id": late }));
        check(
            beside.edit_json("tokenizer_config.json", |config| config["eos_token"] = end.clone()),
            Some(early),
        );
        let map =
            json!({ "eos_token": end, "bos_token": null, "additional_special_tokens": [token(free[0])] });
        check(base().write("special_tokens_map.json", map.to_string().as_bytes()), Some(early));
    }
    for none in [json!(null), json!("")] {
        check(base().edit_json("tokenizer_config.json", |config| config["eos_token"] = none), None);
    }
    let unknown =
        base().edit_json("tokenizer_config.json", |config| config["eos_token"] = json!("<|no such|>"));
    let (code, stderr) = packed(&unknown);
    assert_eq!(code, Some(0), "{stderr}");
    for nonsense in [json!(5), json!(["</s>"]), json!({ "id": 3 }), json!(true)] {
        let tiny = base().edit_json("tokenizer_config.json", |config| config["eos_token"] = nonsense);
        let (code, stderr) = packed(&tiny);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("tokenizer_config.json") && stderr.contains("eos_token"), "{stderr}");
    }
}

/// Of the case `f13-eos-only-in-tokenizer`, whose answer to `Hi` is two tokens and the end of a turn.
#[test]
fn turns_of_a_conversation_end_where_the_tokenizer_says() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/cases");
    let folder = temporary_folder();
    let source = folder.path().join("source");
    fs::create_dir(&source).expect("a folder");
    for from in ["base/llama", "f13-eos-only-in-tokenizer"] {
        for file in fs::read_dir(cases.join(from)).expect("a folder") {
            let file = file.expect("a file").path();
            fs::write(source.join(file.file_name().expect("a name")), fs::read(&file).expect("read"))
                .expect("write");
        }
    }
    succeeds(folder.path(), &["pack", "source", "-o", "model.aibit", "-q", "f32"]);
    let args = ["run", "model.aibit", "-p", "Hi", "-n", "8", "--chat"];
    let answer = support::json(folder.path(), &args);
    assert_eq!(ids(&answer["generated_ids"]), [243, 614]);
    let said = support::run_with(folder.path(), &["chat", "model.aibit", "-n", "8"], "Hi\n", &[]);
    assert_eq!((said.code, said.stdout), (Some(0), format!("{}\n", text(&answer["text"]))));
    let ignored = support::json(folder.path(), &[&args[..], &["--ignore-eos"]].concat());
    assert_eq!(ids(&ignored["generated_ids"])[..3], [243, 614, 1002]);
}

#[test]
fn the_package_says_how_much_to_generate_and_where_to_stop() {
    let tiny = tiny_with(r#"{"max_new_tokens": 5, "eos_token_id": null}"#);
    assert_eq!(packed(&tiny).0, Some(0));
    let report = support::json(tiny.around(), &["run", "out.aibit", "-p", "x"]);
    assert_eq!(ids(&report["generated_ids"]).len(), 5);
    let report = support::json(tiny.around(), &["run", "out.aibit", "-p", "x", "-n", "7", "--ignore-eos"]);
    assert_eq!(ids(&report["generated_ids"]).len(), 7);

    let whole = support::json(shelf(), &["run", small_f32(), "-p", "The history of the city", "-n", "24"]);
    let (before, _) = text(&whole["text"]).split_once(" the").expect("a common word");
    let folder = temporary_folder();
    for strings in [json!(" the"), json!(["nothing like it", " the"])] {
        rebuild(&shelf().join(small_f32()), &folder.path().join("model.aibit"), |name, data| {
            if name == "generation_config.json" {
                *data = json!({ "stop_strings": strings }).to_string().into_bytes();
            }
        });
        let args = ["run", "model.aibit", "-p", "The history of the city", "-n", "24"];
        let report = support::json(folder.path(), &args);
        assert_eq!((text(&report["text"]), text(&report["stop_reason"])), (before, "stop_string"));
    }
}

/// With `do_sample`, fields that are missing have the defaults of transformers' class: 50, 1 and 0.
#[test]
fn sampling_settings_are_completed_as_transformers_does() {
    let sampled = |settings: &str, options: &[&str]| {
        let tiny = tiny_with(settings);
        assert_eq!(packed(&tiny), (Some(0), String::new()), "{settings}");
        let args = [&["run", "out.aibit", "-p", "x", "-n", "24", "--seed", "11"], options].concat();
        support::json(tiny.around(), &args)["generated_ids"].clone()
    };
    let all = ["--temp", "2", "--top-k", "50", "--top-p", "1", "--min-p", "0"];
    let explicit = sampled("{}", &all);
    assert_eq!(sampled(r#"{"do_sample": true, "temperature": 2}"#, &[]), explicit);
    // Without it they count for those who ask to sample.
    let given = r#"{"temperature": 9.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}"#;
    assert_eq!(sampled(given, &["--temp", "2"]), explicit);
    assert_eq!(sampled(given, &[]), sampled("{}", &[]));
    // No limit at all, however that is written.
    let unlimited = sampled("{}", &["--temp", "2", "--top-k", "0", "--top-p", "1", "--min-p", "0"]);
    for top_k in ["0", "-1", "0.0", "18446744073709551616"] {
        let settings = format!(r#"{{"do_sample": true, "temperature": 2, "top_k": {top_k}, "top_p": 1.5}}"#);
        assert_eq!(sampled(&settings, &[]), unlimited, "{top_k}");
    }
    // Only the most likely token, however that is written.
    let greedy = sampled("{}", &[]);
    for field in [r#""top_p": 0"#, r#""top_k": 1"#, r#""min_p": 1"#, r#""temperature": 0"#] {
        assert_eq!(sampled(&format!(r#"{{"do_sample": true, {field}}}"#), &[]), greedy, "{field}");
    }
}

impl Numbers {
    fn settings(&mut self) -> Value {
        let mut settings = json!({});
        for _ in 0..=self.below(4) {
            let (field, value) = self.field();
            settings[field] = if self.below(8) > 0 { value } else { self.anything() };
        }
        settings
    }

    /// A field and a value of its kind, not always in its range.
    fn field(&mut self) -> (&'static str, Value) {
        let (id, other, count) = (self.below(520), self.below(512), self.below(9));
        let share = json!([0.0, 0.001, 0.5, 1.0, 1.5][self.below(5)]);
        match self.below(24) {
            0..3 => ("do_sample", json!(true)),
            3 => ("temperature", json!([0.0, 1e-30, 0.7, 1e30][count % 4])),
            4 => ("top_k", json!(count as i64 - 1)),
            5 => ("top_p", share),
            6 => ("min_p", share),
            7 => ("typical_p", share),
            8 => ("epsilon_cutoff", share),
            9 => ("eta_cutoff", share),
            10 => ("repetition_penalty", json!([1e-6, 0.5, 1.0, 1.3, 1e6][count % 5])),
            11 => ("no_repeat_ngram_size", json!(count)),
            12 => ("eos_token_id", json!([id, null, other])),
            // From a few to all of the model's 512 tokens.
            13 => ("suppress_tokens", json!((0..[1, 100, 511, 512][count % 4]).collect::<Vec<_>>())),
            14 => ("begin_suppress_tokens", json!((other..512).collect::<Vec<_>>())),
            15 => ("bad_words_ids", json!([[id], [other, id], [id, other, id]])),
            16 => ("sequence_bias", json!([[[other], -1e6], [[other, id], 1e6], [[id], 0.5]])),
            17 => ("forced_bos_token_id", json!(id)),
            18 => ("forced_eos_token_id", json!([id, other])),
            19 => ("min_length", json!(count)),
            20 => ("min_new_tokens", json!(count)),
            21 => ("max_new_tokens", json!(1 + count)),
            22 => ("exponential_decay_length_penalty", json!((count / 2, [1e-6, 1.1, 1e6][count % 3]))),
            _ => ("stop_strings", json!(["a", "the"])),
        }
    }

    fn anything(&mut self) -> Value {
        let values = [
            json!(null),
            json!(true),
            json!(-1),
            json!(0),
            json!("1"),
            json!([]),
            json!({}),
            json!([[1, 2]]),
        ];
        values[self.below(values.len())].clone()
    }
}

#[test]
fn a_package_that_packs_runs() {
    let mut numbers = Numbers(12);
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..150 {
        let settings = numbers.settings();
        let tiny = tiny_with(&settings.to_string());
        let (code, message) = packed(&tiny);
        if code == Some(0) {
            ran += 1;
            let seed = numbers.below(1000).to_string();
            let args = ["run", "out.aibit", "-p", "The city", "-n", "6", "--seed", &seed, "--json"];
            let outcome = run(tiny.around(), &args);
            assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{settings}");
        } else {
            refused += 1;
            assert_eq!(code, Some(2), "{settings}: {message}");
            let named = settings.as_object().expect("an object").keys().any(|field| message.contains(field));
            assert!(named && message.contains("generation_config.json"), "{settings}: {message}");
        }
    }
    assert!(ran > 20 && refused > 20, "{ran} ran, {refused} were refused");
    assert_eq!(refuses(shelf(), &["run", small_f32(), "-p", "x", "--temp", "NaN"]).lines().count(), 1);
}
