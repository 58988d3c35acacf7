//! SentencePiece's BPE, against the ids that llama.cpp gives.

use aibit_gguf::{
    Array, GgufError, Metadata, SpecialIds, Value, special_ids, tokenizer_json, tokenizer_metadata,
};
use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::tokenizer::{fixture, ids, library};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

/// `interop/make_sentencepiece_cases.py` wrote it.
#[derive(Deserialize)]
struct Cases {
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
    texts: Vec<String>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    add_space_prefix: bool,
    changes: Vec<(usize, String, i32)>,
    ids: Vec<Vec<u32>>,
}

fn cases() -> Cases {
    serde_json::from_slice(&fixture("golden/gguf-tokenizer/sentencepiece.json")).expect("cases")
}

impl Cases {
    fn metadata(&self, changes: &[(usize, String, i32)]) -> Metadata {
        let (mut tokens, mut types) = (self.tokens.clone(), self.types.clone());
        for (id, token, kind) in changes {
            (tokens[*id], types[*id]) = (token.clone(), *kind);
        }
        let mut metadata = Metadata::default();
        metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
        metadata.set(TOKENS, Value::Array(Array::String(tokens)));
        metadata.set(TOKEN_TYPE, Value::Array(Array::I32(types)));
        metadata.set(SCORES, Value::Array(Array::F32(self.scores.clone())));
        metadata
    }
}

fn read(metadata: &Metadata) -> Tokenizer {
    library(&tokenizer_json(metadata).expect("a tokenizer.json"))
}

#[test]
fn ids_are_those_that_llama_cpp_gives() {
    let cases = cases();
    assert_eq!(cases.runs.len(), 3);
    for run in &cases.runs {
        let mut metadata = cases.metadata(&run.changes);
        metadata.set(ADD_SPACE_PREFIX, Value::Bool(run.add_space_prefix));
        let tokenizer = read(&metadata);
        assert_eq!(cases.texts.len(), run.ids.len());
        for (text, expected) in cases.texts.iter().zip(&run.ids) {
            assert_eq!(&ids(&tokenizer, text), expected, "{} {text:?}", run.add_space_prefix);
        }
    }
}

#[test]
fn ids_become_the_text_again() {
    let cases = cases();
    for run in &cases.runs[..2] {
        let mut metadata = cases.metadata(&[]);
        metadata.set(ADD_SPACE_PREFIX, Value::Bool(run.add_space_prefix));
        let tokenizer = read(&metadata);
        // A special token inside a text puts a space behind itself, as in llama.cpp.
        let has_special = |text: &&String| ["<s>", "</s>", "<unk>"].iter().any(|token| text.contains(token));
        for text in cases.texts.iter().filter(|text| !has_special(text)) {
            assert_eq!(&tokenizer.decode(&ids(&tokenizer, text), false).expect("decoded"), text);
        }
    }
}

#[test]
fn prompts_begin_as_the_file_says() {
    let cases = cases();
    let encoded = |metadata: &Metadata| {
        let encoding = read(metadata).encode_fast("a b", true).expect("encoded");
        encoding.get_ids().to_vec()
    };
    let plain = ids(&read(&cases.metadata(&[])), "a b");
    // Without a word about it, with the second token: SentencePiece's `<s>`.
    assert_eq!(encoded(&cases.metadata(&[])), [&[1], &plain[..]].concat());
    let mut metadata = cases.metadata(&[]);
    metadata.set(ADD_BOS, Value::Bool(false));
    assert_eq!(encoded(&metadata), plain);
}

/// The `tokenizer.json` of the first run, and what it becomes by way of a GGUF file.
fn there_and_back(json: &[u8]) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::default();
    let specials = SpecialIds { bos: Some(1), eos: Some(2), add_bos: true, ..SpecialIds::default() };
    for (key, value) in tokenizer_metadata(json, 800, &specials)? {
        metadata.set(key, value);
    }
    Ok(metadata)
}

#[test]
fn a_round_trip_changes_nothing() {
    let cases = cases();
    for run in &cases.runs {
        let mut metadata = cases.metadata(&run.changes);
        metadata.set(ADD_SPACE_PREFIX, Value::Bool(run.add_space_prefix));
        let json = tokenizer_json(&metadata).expect("a tokenizer.json");
        let back = there_and_back(&json).expect("keys");
        for key in ["tokenizer.ggml.model", TOKENS, TOKEN_TYPE, ADD_SPACE_PREFIX] {
            assert_eq!(back.get(key), metadata.get(key), "{key}");
        }
        assert_eq!(special_ids(&back).expect("ids"), special_ids(&metadata).expect("ids"));
        assert!(tokenizer_json(&back).expect("a tokenizer.json") == json);
    }
}

#[test]
fn what_scores_cannot_say_is_refused() {
    let json = tokenizer_json(&cases().metadata(&[])).expect("a tokenizer.json");
    let check = |edit: &dyn Fn(&mut serde_json::Value), expected: &str| {
        let mut file: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        edit(&mut file);
        let error =
            there_and_back(&serde_json::to_vec(&file).expect("JSON")).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    let merges = |file: &mut serde_json::Value| {
        std::mem::take(file["model"]["merges"].as_array_mut().expect("merges"))
    };
    check(
        &|file| {
            let mut list = merges(file);
            list.remove(0);
            file["model"]["merges"] = list.into();
        },
        "are not merged, although their union is a token",
    );
    check(
        &|file| {
            // Two pairs give the same token here; what stands between them is another's.
            let mut list = merges(file);
            let union = |pair: &serde_json::Value| {
                format!("{}{}", pair[0].as_str().expect("a part"), pair[1].as_str().expect("a part"))
            };
            let at = (1..list.len()).find(|at| union(&list[at - 1]) == union(&list[*at])).expect("two pairs");
            let last = list.remove(at);
            list.push(last);
            file["model"]["merges"] = list.into();
        },
        "stand apart, which scores cannot say",
    );
    check(&|file| file["normalizer"] = serde_json::Value::Null, "its normalizer and decoder are not");
    check(
        &|file| file["decoder"] = serde_json::json!({"type": "Metaspace"}),
        "its normalizer and decoder are not",
    );
    check(
        &|file| file["pre_tokenizer"] = serde_json::json!({"type": "Digits"}),
        "it splits texts before merging",
    );
    check(&|file| file["model"]["byte_fallback"] = false.into(), "a token for some byte");
    check(&|file| file["added_tokens"][0]["normalized"] = true.into(), "has normalized");
}

#[test]
fn malformed_keys_are_refused() {
    let cases = cases();
    let check = |key: &str, value: Option<Value>, expected: &str| {
        let mut metadata = Metadata::default();
        for (name, old) in cases.metadata(&[]).iter().filter(|(name, _)| *name != key) {
            metadata.set(name, old.clone());
        }
        if let Some(value) = value {
            metadata.set(key, value);
        }
        let error = tokenizer_json(&metadata).expect_err("refused");
        assert!(matches!(error, GgufError::Metadata { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    let floats = |floats: Vec<f32>| Some(Value::Array(Array::F32(floats)));
    for key in [TOKENS, TOKEN_TYPE, SCORES] {
        check(key, None, &format!("`{key}` is missing"));
        check(key, Some(Value::Bool(true)), &format!("`{key}` must be an array"));
    }
    check(SCORES, floats(vec![0.0; 7]), "has 7 values, but there are 800 tokens");
    let mut scores = cases.scores.clone();
    scores[5] = f32::NAN;
    check(SCORES, floats(scores), "is no number at 5, \"<0x02>\"");
    check(ADD_SPACE_PREFIX, Some(Value::U32(1)), "must be");
    let with_token = |token: &str| {
        let mut tokens = cases.tokens.clone();
        tokens[700] = token.to_owned();
        Some(Value::Array(Array::String(tokens)))
    };
    check(TOKENS, with_token("a b"), "has \"a b\" at 700, which is not written in SentencePiece's way");
    check(TOKENS, with_token("<s>"), "has \"<s>\" twice, at 1 and at 700");
    check(TOKENS, with_token(&"x".repeat(40_000)), "tokens of up to 40000 bytes: too long");
}
