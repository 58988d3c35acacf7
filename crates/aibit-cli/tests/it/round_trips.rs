//! Every kind of model through every export and back, with the same codes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::interchange::same_tensors;
use crate::models::{SourceTensor, safetensors_file};
use crate::support::{json as report, parse_json, run, succeeds, temporary_folder};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in fs::read_dir(from).expect("fixture") {
        let file = file.expect("file").path();
        // Fixtures may be read-only, so their contents are copied.
        fs::write(to.join(file.file_name().expect("name")), fs::read(&file).expect("file")).expect("written");
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = read_json(&path);
    edit(&mut config);
    fs::write(path, config.to_string()).expect("written");
}

/// A model to export: the folder `source`, or the file `source.gguf`.
struct Subject {
    name: &'static str,
    around: TempDir,
    source: &'static str,
    /// Whether its layers are supported by compressed-tensors.
    has_linear_layers: bool,
}

impl Subject {
    /// A tiny model of `fixtures/golden`.
    fn golden(name: &'static str) -> Self {
        let around = temporary_folder();
        let folder = around.path().join("source");
        let is_gpt2 = name == "gpt2";
        let path = if is_gpt2 { "tiny-gpt2/fp32".to_owned() } else { format!("tiny-llama/{name}") };
        copy(&fixture("golden").join(path), &folder);
        copy(&fixture("golden/tiny-gpt2/tokenizer"), &folder);
        Self { name, around, source: "source", has_linear_layers: !is_gpt2 }
    }

    /// The same with an untied head.
    fn untied(name: &'static str, base: &'static str) -> Self {
        let subject = Self { name, ..Self::golden(base) };
        let folder = subject.around.path().join("source");
        edit_config(&folder, |config| config["tie_word_embeddings"] = false.into());
        let file = fs::read(folder.join("model.safetensors")).expect("weights");
        let file = safetensors::SafeTensors::deserialize(&file).expect("safetensors");
        let owned = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            let (dtype, shape, data) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name, SourceTensor { dtype, shape, data })
        };
        let mut tensors: std::collections::BTreeMap<_, _> = file.tensors().into_iter().map(owned).collect();
        // The embedding's rows in reverse order.
        let embedding = &tensors["model.embed_tokens.weight"];
        let row = embedding.data.len() / embedding.shape[0];
        let data = embedding.data.rchunks(row).flatten().copied().collect();
        let head = SourceTensor { data, ..embedding.clone() };
        tensors.insert("lm_head.weight".to_owned(), head);
        fs::write(folder.join("model.safetensors"), safetensors_file(&tensors)).expect("written");
        subject
    }

    /// Another model exported as a GGUF file in `preset`.
    fn born_from_gguf(self, name: &'static str, preset: &str) -> Self {
        let folder = self.around.path();
        succeeds(folder, &["pack", self.source, "-o", "parent.aibit", "-q", preset]);
        succeeds(folder, &["export", "parent.aibit", "--to", "gguf", "-o", "source.gguf"]);
        fs::remove_dir_all(folder.join("source")).expect("removed");
        Self { name, source: "source.gguf", ..self }
    }

    /// Packs it as `name`.
    fn pack(&self, preset: &str, name: &str) {
        succeeds(self.around.path(), &["pack", self.source, "-o", name, "-q", preset, "--requantize"]);
    }

    fn run(&self, args: &[&str]) -> String {
        succeeds(self.around.path(), args)
    }

    #[track_caller]
    fn same_codes(&self, first: &str, second: &str) {
        let text = run(self.around.path(), &["diff", first, second, "--codes"]).stdout;
        assert!(text.trim().starts_with("no difference in "), "{}: {text}", self.name);
    }

    /// The continuation of a prompt.
    fn ids(&self, archive: &str) -> Value {
        let args = ["run", archive, "-p", "Row by row", "-n", "12", "--temp", "0"];
        report(self.around.path(), &args)["generated_ids"].clone()
    }
}

fn subjects() -> Vec<Subject> {
    let mut long = Subject::golden("llama3");
    long.name = "llama3";
    let theta = Subject { name: "llama, theta 5e5", ..Subject::golden("llama") };
    edit_config(&theta.around.path().join("source"), |config| {
        config["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 500_000.0 });
    });
    vec![
        Subject::golden("gpt2"),
        Subject::golden("llama"),
        Subject::golden("llama-mha"),
        long,
        Subject::golden("qwen2"),
        Subject::untied("qwen2, untied", "qwen2"),
        Subject::golden("qwen3"),
        theta.born_from_gguf("llama from GGUF", "f32"),
        Subject::golden("llama-mha").born_from_gguf("untied llama from GGUF", "f32"),
        Subject::golden("llama3").born_from_gguf("llama3 from GGUF", "int8-g32"),
        Subject::golden("qwen2").born_from_gguf("qwen2 from GGUF", "f16"),
        Subject::golden("gpt2").born_from_gguf("gpt2 from GGUF", "f32"),
    ]
}

#[test]
fn gguf_files_come_and_go_byte_for_byte() {
    for subject in subjects() {
        for preset in ["int8-g32", "int4-g32", "f16", "f32"] {
            subject.pack(preset, "a.aibit");
            subject.run(&["export", "a.aibit", "--to", "gguf", "-o", "a.gguf", "--check", "--force"]);
            subject.run(&["pack", "a.gguf", "-o", "b.aibit", "-q", "keep"]);
            subject.same_codes("a.aibit", "b.aibit");
            subject.run(&["export", "b.aibit", "--to", "gguf", "-o", "b.gguf", "--force"]);
            let [first, second] =
                ["a.gguf", "b.gguf"].map(|name| fs::read(subject.around.path().join(name)).expect("file"));
            assert!(first == second, "{}, {preset}", subject.name);
        }
    }
}

#[test]
fn layers_that_bitsandbytes_quantizes_come_back_with_their_codes() {
    // A model quantized in its GGUF file is exported with an F32 embedding.
    for subject in subjects().into_iter().filter(|subject| subject.name != "llama3 from GGUF") {
        for preset in ["bnb-int8", "nf4", "nf4-dq", "fp4", "fp4-dq"] {
            // Models of 64 and 128 columns have whole blocks of 64; this one has 96 columns.
            if preset != "bnb-int8"
                && !["gpt2", "llama", "llama from GGUF", "gpt2 from GGUF"].contains(&subject.name)
            {
                continue;
            }
            subject.pack(preset, "a.aibit");
            let _ = fs::remove_dir_all(subject.around.path().join("out"));
            subject.run(&["export", "a.aibit", "--to", "bnb", "-o", "out", "--check"]);
            subject.run(&["pack", "out", "-o", "b.aibit"]);
            subject.same_codes("a.aibit", "b.aibit");
            subject.run(&["export", "b.aibit", "--to", "bnb", "-o", "again"]);
            subject.run(&["pack", "again", "-o", "c.aibit"]);
            assert_eq!(subject.ids("b.aibit"), subject.ids("c.aibit"), "{}, {preset}", subject.name);
            let [first, second] =
                ["out", "again"].map(|name| subject.around.path().join(name).join("model.safetensors"));
            same_tensors(&second, &first);
            fs::remove_dir_all(subject.around.path().join("again")).expect("removed");
            let config = read_json(&subject.around.path().join("out/config.json"));
            assert_eq!(config["quantization_config"]["llm_int8_threshold"], 6.0);
        }
    }
}

#[test]
fn the_outlier_threshold_of_a_checkpoint_comes_back() {
    let subject = &subjects()[0];
    subject.pack("bnb-int8", "a.aibit");
    subject.run(&["export", "a.aibit", "--to", "bnb", "-o", "out"]);
    let path = subject.around.path().join("out/config.json");
    for threshold in [3.5, 0.0] {
        let mut config = read_json(&path);
        config["quantization_config"]["llm_int8_threshold"] = json!(threshold);
        fs::write(&path, config.to_string()).expect("config");
        subject.run(&["pack", "out", "-o", "b.aibit"]);
        subject.run(&["export", "b.aibit", "--to", "bnb", "-o", "again"]);
        let config = read_json(&subject.around.path().join("again/config.json"));
        assert_eq!(config["quantization_config"]["llm_int8_threshold"], threshold);
        fs::remove_dir_all(subject.around.path().join("again")).expect("removed");
    }
}

#[test]
fn folders_of_floats_come_back_with_their_values() {
    for subject in subjects() {
        for (preset, dtype) in [("f32", "f32"), ("f16", "f16"), ("int8", "f32"), ("int4-g32", "f32")] {
            subject.pack(preset, "a.aibit");
            let _ = fs::remove_dir_all(subject.around.path().join("out"));
            subject.run(&["export", "a.aibit", "--to", "hf", "--dtype", dtype, "-o", "out", "--check"]);
            let outcome = run(subject.around.path(), &["diff", "a.aibit", "out", "--tensors", "--json"]);
            let found = parse_json(&outcome.stdout);
            assert_eq!((&found["removed"], &found["added"]), (&json!([]), &json!([])), "{}", subject.name);
            for change in found["changed"].as_array().expect("changes") {
                // Vectors are F32 in every archive, and differ by half a unit in the last place in F16.
                let limit = if dtype == "f16" { 1.0 / 2048.0 } else { 0.0 };
                let error = change["relative_error"].as_f64().expect("a number");
                assert!(error <= limit, "{}, {preset}: {change}", subject.name);
            }
            if dtype == "f32" && preset == "f32" {
                subject.run(&["pack", "out", "-o", "b.aibit", "-q", preset]);
                subject.same_codes("a.aibit", "b.aibit");
                assert_eq!(subject.ids("a.aibit"), subject.ids("b.aibit"), "{}, {preset}", subject.name);
            }
        }
    }
}

#[test]
fn compressed_tensors_and_own_tensors_hold_the_codes() {
    for subject in subjects() {
        for preset in ["int8", "int8-g32", "int4-g32", "nf4-dq", "bnb-int8"] {
            if preset == "nf4-dq" && !["gpt2", "llama", "llama from GGUF"].contains(&subject.name) {
                continue;
            }
            subject.pack(preset, "a.aibit");
            let folder = subject.around.path();
            let args = ["export", "a.aibit", "--to", "safetensors", "-o", "own", "--check", "--force"];
            let checked = report(folder, &args);
            assert_eq!((&checked["written"], &checked["check"]["changed"]), (&json!(true), &json!([])));
            if !subject.has_linear_layers || preset == "nf4-dq" {
                continue;
            }
            let _ = fs::remove_dir_all(folder.join("out"));
            let checked =
                report(folder, &["export", "a.aibit", "--to", "compressed-tensors", "-o", "out", "--check"]);
            assert_eq!(checked["check"]["changed"], json!([]), "{}, {preset}", subject.name);
            assert!(checked["kept"].as_u64() >= Some(14), "{}, {preset}: {checked}", subject.name);
        }
    }
}

/// Transformers 4 reads only `rope_theta`, `rope_scaling` and, in its older versions, `torch_dtype`.
#[test]
fn configurations_are_those_of_transformers_4_and_5_at_once() {
    for subject in subjects() {
        for (preset, kind) in [("f32", "hf"), ("bnb-int8", "bnb"), ("int8", "compressed-tensors")] {
            if kind == "compressed-tensors" && !subject.has_linear_layers {
                continue;
            }
            subject.pack(preset, "a.aibit");
            let _ = fs::remove_dir_all(subject.around.path().join("out"));
            subject.run(&["export", "a.aibit", "--to", kind, "-o", "out"]);
            let config = read_json(&subject.around.path().join("out/config.json"));
            let name = subject.name;
            assert_eq!(config["dtype"], config["torch_dtype"], "{name}, {kind}");
            assert!(config["dtype"].is_string(), "{name}, {kind}");
            assert!(config["tie_word_embeddings"].is_boolean(), "{name}, {kind}");
            if name.starts_with("gpt2") {
                continue;
            }
            let parameters = &config["rope_parameters"];
            assert_eq!(config["rope_theta"], parameters["rope_theta"], "{name}, {kind}");
            let theta = if name == "llama from GGUF" {
                500_000.0
            } else {
                parameters["rope_theta"].as_f64().expect("a number")
            };
            assert_eq!(config["rope_theta"].as_f64(), Some(theta), "{name}, {kind}");
            if name.starts_with("llama3") {
                for key in
                    ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
                {
                    assert_eq!(config["rope_scaling"][key], parameters[key], "{name}, {kind}: {key}");
                    assert!(parameters[key].is_number(), "{name}, {kind}: {key}");
                }
                assert_eq!(config["rope_scaling"]["rope_type"], "llama3", "{name}, {kind}");
            } else {
                assert!(config["rope_scaling"].is_null(), "{name}, {kind}");
            }
            // Both versions know the class, which uses `tokenizer.json` unchanged.
            let tokenizer = read_json(&subject.around.path().join("out/tokenizer_config.json"));
            assert_ne!(tokenizer["tokenizer_class"], Value::Null, "{name}, {kind}");
        }
    }
}

/// What version 5 writes and version 4 cannot read.
#[test]
fn settings_of_a_tokenizer_have_names_that_transformers_4_knows() {
    let subject = Subject::golden("llama");
    let settings = json!({
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "eos_token": "<|endoftext|>",
        "extra_special_tokens": ["<|endoftext|>"],
    });
    fs::write(subject.around.path().join("source/tokenizer_config.json"), settings.to_string())
        .expect("written");
    subject.pack("f16", "a.aibit");
    subject.run(&["export", "a.aibit", "--to", "hf", "-o", "out"]);
    let found = read_json(&subject.around.path().join("out/tokenizer_config.json"));
    assert_eq!(found["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(found["additional_special_tokens"], json!(["<|endoftext|>"]));
    assert_eq!(found.get("extra_special_tokens"), None);
    assert_eq!(found["eos_token"], "<|endoftext|>");
    // A folder without the file gets one, otherwise version 4 would assume Llama 2's tokenizer.
    fs::remove_file(subject.around.path().join("source/tokenizer_config.json")).expect("removed");
    subject.pack("f16", "a.aibit");
    subject.run(&["export", "a.aibit", "--to", "hf", "-o", "out", "--force"]);
    let found = read_json(&subject.around.path().join("out/tokenizer_config.json"));
    assert_eq!(found, json!({ "tokenizer_class": "PreTrainedTokenizerFast" }));
}

/// Every end-of-text token has a key, or llama.cpp recognises it by its text.
#[test]
fn ends_of_texts_leave_for_gguf() {
    let subject = Subject::golden("llama");
    let folder = subject.around.path();
    let key = |name: &str| -> Option<u64> {
        let file = fs::read(folder.join("a.gguf")).expect("a file");
        let gguf = aibit_gguf::Gguf::parse(&file).expect("a GGUF file");
        gguf.metadata().integer(&format!("tokenizer.ggml.{name}_token_id")).expect("an id")
    };
    let export = |ends: Value, eos_token: &str| {
        fs::write(folder.join("source/generation_config.json"), json!({ "eos_token_id": ends }).to_string())
            .expect("written");
        let settings = json!({ "eos_token": { "content": eos_token }, "pad_token": "%" });
        fs::write(folder.join("source/tokenizer_config.json"), settings.to_string()).expect("written");
        subject.pack("f16", "a.aibit");
        run(folder, &["export", "a.aibit", "--to", "gguf", "-o", "a.gguf", "--force"])
    };
    // `<|endoftext|>` is token 0 of this vocabulary, `#` token 3.
    for (ends, eos_token, [eos, eot, eom]) in [
        (json!([9]), "#", [Some(9), Some(3), None]),
        (json!(9), "<|endoftext|>", [Some(9), None, None]),
        (json!([9, 11]), "#", [Some(9), Some(11), Some(3)]),
        (json!([9, 11, 12, 0]), "<|endoftext|>", [Some(9), Some(11), Some(12)]),
    ] {
        let outcome = export(ends.clone(), eos_token);
        assert_eq!(outcome.code, Some(0), "{ends}: {}", outcome.stderr);
        assert_eq!(["eos", "eot", "eom"].map(key), [eos, eot, eom], "{ends}");
        assert_eq!(key("padding"), Some(5), "{ends}");
        // They end texts in the model made from the file.
        succeeds(folder, &["pack", "a.gguf", "-o", "b.aibit"]);
        let archive = aibit_format::Archive::open(folder.join("b.aibit")).expect("an archive");
        let generation = archive.entry("generation_config.json").expect("an entry").data;
        let again: Value = serde_json::from_slice(generation).expect("JSON");
        let again = again["eos_token_id"].as_array().expect("ids").clone();
        for id in [eos, eot, eom].into_iter().flatten() {
            assert!(again.contains(&id.into()), "{ends}: {again:?}");
        }
    }
    let outcome = export(json!([9, 11, 12, 13]), "#");
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("5 tokens end a text"), "{}", outcome.stderr);
}
