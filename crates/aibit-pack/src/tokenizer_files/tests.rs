//! Folders with all combinations of tokenizer files compared with transformers and SentencePiece
//! (`fixtures/golden/tokenizer-files`), and folders with contradicting files.

use std::fs;
use std::path::Path;

use aibit_tokenizer::{Tokenizer, compile};
use serde_json::{Value, json};

use super::load;
use crate::ModelSource;

/// A folder with these files; weights are not read.
fn folder(config: &Value, files: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
    write("config.json", config.to_string().as_bytes());
    write("model.safetensors", b"");
    for (name, content) in files.as_object().expect("files") {
        match content {
            Value::String(base64) if name.ends_with(".model") => write(name, &decoded(base64)),
            Value::String(text) => write(name, text.as_bytes()),
            json => write(name, json.to_string().as_bytes()),
        }
    }
    folder
}

fn decoded(base64: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = base64.trim_end_matches('=').chars().map(|c| DIGITS.find(c).expect("base64") as u32);
    let (mut bytes, mut value, mut bits) = (Vec::new(), 0_u32, 0);
    for digit in digits {
        (value, bits) = (value << 6 | digit, bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((value >> bits) as u8);
        }
    }
    bytes
}

/// The tokenizer of a folder, compiled if possible, and its JSON.
fn tokenizer(config: &Value, files: &Value) -> Result<(Tokenizer, Vec<u8>), String> {
    let folder = folder(config, files);
    let source = ModelSource::folder(folder.path()).map_err(|e| e.to_string())?;
    let json = load(&source).map_err(|e| e.to_string())?.json;
    let tokenizer = match compile(&json).map_err(|e| e.to_string())? {
        Some(bytes) => Tokenizer::from_compiled(bytes),
        None => Tokenizer::from_json(&json),
    };
    Ok((tokenizer.map_err(|e| e.to_string())?, json))
}

fn llama() -> Value {
    json!({"model_type": "llama"})
}

/// A `tokenizer.json` of single letters with these added tokens.
fn letters(added: &[Value]) -> Value {
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3}, "merges": ["a b"]}})
}

fn added(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true})
}

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/tokenizer-files/cases.json");
    serde_json::from_slice(&fs::read(path).expect("cases")).expect("cases")
}

/// A model like Llama 2's is converted to steps that a GGUF file can express.
#[test]
fn a_sentencepiece_model_like_llama_2_can_be_exported() {
    let cases = cases();
    let case = cases.iter().find(|case| case["name"] == "bpe, as Llama 2").expect("a case");
    let (tokenizer, json) = tokenizer(&case["config"], &case["files"]).expect("a tokenizer");
    aibit_gguf::tokenizer_metadata(&json, tokenizer.id_limit(), &aibit_gguf::SpecialIds::default())
        .expect("known steps");
}

#[test]
fn every_folder_gives_the_ids_of_transformers() {
    let cases = cases();
    let mut wrong = Vec::new();
    for case in &cases {
        let (tokenizer, _) = match tokenizer(&case["config"], &case["files"]) {
            Ok(found) => found,
            Err(e) => {
                wrong.push(format!("{}: {e}", case["name"]));
                continue;
            }
        };
        for text in case["texts"].as_array().expect("texts") {
            let ids: Vec<u32> = serde_json::from_value(text[1].clone()).expect("ids");
            let found = tokenizer.encode_prompt(text[0].as_str().expect("a text")).expect("encoded");
            if found != ids {
                wrong.push(format!("{}, {}: {found:?}, not {ids:?}", case["name"], text[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases.len() > 30);
}

#[test]
fn a_file_that_says_everything_is_carried_as_it_is() {
    let file = letters(&[added(4, "<x>")]);
    for config in [
        json!({}),
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<x>"}),
        json!({"added_tokens_decoder": {"4": added(4, "<x>")}, "pad_token": "<x>"}),
    ] {
        let files = json!({"tokenizer.json": file, "tokenizer_config.json": config});
        let (_, json) = tokenizer(&llama(), &files).expect("a tokenizer");
        assert_eq!(json, file.to_string().into_bytes());
    }
}

#[test]
fn a_token_has_the_id_that_is_written_there() {
    let config =
        json!({"added_tokens_decoder": {"9": added(9, "<y>"), "6": added(6, "<x>")}, "pad_token": "<z>"});
    let files = json!({"tokenizer.json": letters(&[]), "tokenizer_config.json": config});
    let (tokenizer, _) = tokenizer(&llama(), &files).expect("a tokenizer");
    assert_eq!(tokenizer.encode("ab<x>c<y><z>").expect("encoded"), [3, 6, 2, 9, 10]);
}

#[test]
fn files_that_contradict_each_other_are_refused() {
    let check = |files: Value, words: &[&str]| {
        let error = tokenizer(&llama(), &files).map(drop).expect_err("refused");
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
    };
    let with =
        |name: &str, content: Value| json!({"tokenizer.json": letters(&[added(4, "<x>")]), name: content});
    let decoder = |id: u32, content: &str| {
        with("tokenizer_config.json", json!({"added_tokens_decoder": {id.to_string(): added(id, content)}}))
    };
    check(decoder(5, "<x>"), &["tokenizer_config.json", "\"<x>\" has the id 5 here and the id 4"]);
    check(decoder(7, "ab"), &["tokenizer_config.json", "\"ab\" has the id 7 here and the id 3"]);
    check(decoder(4, "<y>"), &["tokenizer_config.json", "\"<y>\" has the id 4, which is that of \"<x>\""]);
    check(decoder(2, "<y>"), &["\"<y>\" has the id 2, which is that of \"c\""]);
    check(with("added_tokens.json", json!({"<x>": 6})), &["added_tokens.json", "the id 6 here and the id 4"]);
    check(with("added_tokens.json", json!({"<y>": "6"})), &["added_tokens.json", "\"<y>\" has no id"]);
    let wrong = json!({"added_tokens_decoder": {"x": added(5, "<y>")}});
    check(with("tokenizer_config.json", wrong), &["added_tokens_decoder", "the id \"x\""]);
    check(with("tokenizer_config.json", json!([])), &["tokenizer_config.json"]);
    check(
        with("tokenizer_config.json", json!({"pad_token": ["<y>"]})),
        &["tokenizer_config.json", "`pad_token` is"],
    );
    check(with("special_tokens_map.json", json!({"additional_special_tokens": ["<y>", 7]})), &["holds 7"]);
}

#[test]
fn a_pair_of_a_class_that_is_not_known_is_refused_by_name() {
    let check = |config: Value, word: &str| {
        let files = json!({"vocab.json": {"a": 0, "b": 1, "ab": 2}, "merges.txt": "a b\n", "tokenizer_config.json": config});
        let error = tokenizer(&llama(), &files).map(drop).expect_err("refused");
        for word in [word, "vocab.json", "known are GPT2Tokenizer", "save_pretrained"] {
            assert!(error.contains(word), "{word} in {error}");
        }
    };
    for class in [
        "RobertaTokenizer",
        "GPTNeoXTokenizerFast",
        "PreTrainedTokenizerFast",
        "MyOwnTokenizer",
        "LlamaTokenizer",
    ] {
        check(json!({ "tokenizer_class": class }), class.trim_end_matches("Fast"));
    }
    check(json!({}), "no file names");
}

#[test]
fn merges_of_a_pair_that_are_none_are_refused() {
    let files = |merges: &str| json!({"vocab.json": {"a": 0, "b": 1}, "merges.txt": merges});
    for (merges, word) in
        [("a b\n", "\"ab\" is no token"), ("a b c\n", "not two tokens"), ("a\n", "not two tokens")]
    {
        let error = tokenizer(&json!({"model_type": "gpt2"}), &files(merges)).map(drop).expect_err("refused");
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_model_that_is_not_sentencepiece_is_refused_with_what_to_do() {
    let folder = folder(&llama(), &json!({}));
    for bytes in [&b"IQ== 0\nIg== 1\n"[..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
        fs::write(folder.path().join("tokenizer.model"), bytes).expect("written");
        let source = ModelSource::folder(folder.path()).expect("a source");
        let error = load(&source).map(drop).expect_err("refused").to_string();
        for word in ["tokenizer.model", "not a SentencePiece model", "convert", "tokenizer.json"] {
            assert!(error.contains(word), "{word} in {error}");
        }
    }
}
