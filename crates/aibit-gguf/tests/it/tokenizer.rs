//! Tokenizers from one form to the other, and against the ids that llama.cpp gives.

use std::path::PathBuf;

use aibit_gguf::{Array, GgufError, Metadata, SpecialIds, Value};
use aibit_gguf::{ends_of_text, special_ids, tokenizer_json, tokenizer_metadata};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tokenizers::Tokenizer;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

pub(crate) fn fixture(path: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    std::fs::read(root.join(path)).expect("a fixture")
}

fn metadata_of(keys: Vec<(String, Value)>) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in keys {
        metadata.set(key, value);
    }
    metadata
}

pub(crate) fn library(json: &[u8]) -> Tokenizer {
    Tokenizer::from_bytes(json).expect("a tokenizer.json that the library reads")
}

pub(crate) fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).expect("encoded").get_ids().to_vec()
}

/// The tokenizer of `json`, and what becomes of it by way of GGUF.
fn there_and_back(json: &[u8]) -> (Tokenizer, Tokenizer) {
    let library_of = library(json);
    let vocabulary = library_of.get_vocab_size(true);
    let keys = tokenizer_metadata(json, vocabulary, &SpecialIds::default()).expect("keys");
    let rebuilt = tokenizer_json(&metadata_of(keys)).expect("a tokenizer.json");
    (library_of, library(&rebuilt))
}

fn aibit_small() -> Vec<u8> {
    fixture("aibit-small-gpt2/tokenizer.json")
}

fn tiny_gpt2() -> Vec<u8> {
    fixture("golden/tiny-gpt2/tokenizer/tokenizer.json")
}

/// `tokenizer.json` with another pre-tokenizer.
fn with_pre_tokenizer(json: &[u8], pre_tokenizer: Json, ignore_merges: bool) -> Vec<u8> {
    let mut json: Json = serde_json::from_slice(json).expect("JSON");
    json["pre_tokenizer"] = pre_tokenizer;
    json["model"]["ignore_merges"] = ignore_merges.into();
    serde_json::to_vec(&json).expect("JSON")
}

fn by_expression(expression: &str) -> Json {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]})
}

/// As Llama 3's `tokenizer.json` has it.
fn llama3() -> Json {
    by_expression(concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ))
}

/// As Qwen 2's `tokenizer.json` has it.
fn qwen2() -> Json {
    by_expression(concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ))
}

/// As SmolLM2's `tokenizer.json` has it.
fn smollm() -> Json {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    ]})
}

/// One tokenizer for every pre-tokenizer that `tokenizer.json` files have, with the name in GGUF files.
fn tokenizers_of_all_kinds() -> Vec<(&'static str, Vec<u8>)> {
    let small = aibit_small();
    vec![
        ("gpt-2", tiny_gpt2()),
        ("gpt-2", small.clone()),
        ("smollm", with_pre_tokenizer(&small, smollm(), false)),
        ("llama-bpe", with_pre_tokenizer(&small, llama3(), true)),
        ("smaug-bpe", with_pre_tokenizer(&small, llama3(), false)),
        ("qwen2", with_pre_tokenizer(&small, qwen2(), false)),
    ]
}

/// Texts with the ids that llama.cpp gives for them; `interop/make_tokenizer_cases.py` wrote them.
fn llama_cpp_cases() -> (Vec<String>, Vec<Json>) {
    let cases: Json = serde_json::from_slice(&fixture("golden/gguf-tokenizer/cases.json")).expect("JSON");
    let texts = serde_json::from_value(cases["texts"].clone()).expect("texts");
    (texts, cases["runs"].as_array().expect("runs").clone())
}

/// The vocabulary of aibit-small-gpt2 as a run changes it.
fn metadata_of_run(run: &Json) -> Metadata {
    let mut metadata =
        metadata_of(tokenizer_metadata(&aibit_small(), 8192, &SpecialIds::default()).expect("keys"));
    let mut tokens = metadata.strings(TOKENS).expect("strings").expect("tokens").to_vec();
    let mut types = metadata.integers(TOKEN_TYPE).expect("integers").expect("types").to_vec();
    let mut merges = metadata.strings(MERGES).expect("strings").expect("merges").to_vec();
    if let Some(every) = run["without_every"].as_u64().filter(|&every| every > 0) {
        let mut rank = 0;
        merges.retain(|_| {
            rank += 1;
            rank % every != 0
        });
    }
    for change in run["changes"].as_array().expect("changes") {
        let id = change[0].as_u64().expect("an id") as usize;
        let new = change[1].as_str().expect("a token").to_owned();
        let old = std::mem::replace(&mut tokens[id], new);
        types[id] = change[2].as_i64().expect("a type") as i32;
        merges.retain(|merge| merge.split(' ').all(|part| part != old) && merge.replace(' ', "") != old);
    }
    metadata.set(PRE, Value::String(run["pre"].as_str().expect("a name").into()));
    metadata.set(TOKENS, Value::Array(Array::String(tokens)));
    metadata.set(TOKEN_TYPE, Value::Array(Array::I32(types)));
    metadata.set(MERGES, Value::Array(Array::String(merges)));
    metadata
}

#[test]
fn ids_are_those_that_llama_cpp_gives() {
    let (texts, runs) = llama_cpp_cases();
    assert_eq!(runs.len(), 6);
    for run in &runs {
        let tokenizer = library(&tokenizer_json(&metadata_of_run(run)).expect("a tokenizer.json"));
        for (text, expected) in texts.iter().zip(run["ids"].as_array().expect("ids")) {
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).expect("ids");
            assert_eq!(ids(&tokenizer, text), expected, "{} {text:?}", run["pre"]);
        }
    }
}

#[test]
fn keys_are_the_same_after_a_round_trip() {
    let (_, runs) = llama_cpp_cases();
    for run in &runs {
        let metadata = metadata_of_run(run);
        let json = tokenizer_json(&metadata).expect("a tokenizer.json");
        let keys = tokenizer_metadata(&json, 8192, &SpecialIds::default()).expect("keys");
        for (key, value) in metadata_of(keys).iter() {
            assert!(metadata.get(key) == Some(value), "{} of {}", key, run["pre"]);
        }
    }
}

#[test]
fn texts_have_the_same_ids_after_a_round_trip() {
    let (texts, _) = llama_cpp_cases();
    for (name, json) in tokenizers_of_all_kinds() {
        let (original, rebuilt) = there_and_back(&json);
        for text in &texts {
            assert_eq!(ids(&rebuilt, text), ids(&original, text), "{name} {text:?}");
        }
        assert_eq!(rebuilt.get_vocab(true), original.get_vocab(true));
    }
}

#[test]
fn golden_cases_have_the_same_ids_and_texts_after_a_round_trip() {
    let (_, rebuilt) = there_and_back(&tiny_gpt2());
    let cases: Vec<Json> =
        serde_json::from_slice(&fixture("golden/tiny-gpt2/tokenizer/tokenizer_cases.json")).expect("cases");
    for case in &cases {
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(ids(&rebuilt, case["text"].as_str().expect("a text")), expected);
        assert_eq!(rebuilt.decode(&expected, false).expect("decoded"), case["decoded"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_has_the_same_ids_after_a_round_trip(
        texts in prop::collection::vec(prop_oneof![
            "[ \t\r\n\u{a0}\u{3000}a1'stremvld!ST\u{301}é漢½²]{0,24}",
            "(['a ]|'s|'RE|'ll|ſ| |\r|\n|1|<\\|endoftext\\|>|\\PC){0,16}",
            prop::collection::vec(any::<char>(), 0..24).prop_map(String::from_iter),
        ], 100)
    ) {
        thread_local! {
            static PAIRS: Vec<(Tokenizer, Tokenizer)> =
                tokenizers_of_all_kinds().iter().map(|(_, json)| there_and_back(json)).collect();
        }
        PAIRS.with(|pairs| {
            for (original, rebuilt) in pairs {
                for text in &texts {
                    assert_eq!(ids(rebuilt, text), ids(original, text), "{text:?}");
                }
            }
        });
    }
}

#[test]
fn the_pre_tokenizer_is_recognised_from_its_steps() {
    for (name, json) in tokenizers_of_all_kinds() {
        let vocabulary = library(&json).get_vocab_size(true);
        let keys = tokenizer_metadata(&json, vocabulary, &SpecialIds::default()).expect("keys");
        assert_eq!(metadata_of(keys).string(PRE).expect("a string"), Some(name));
    }
}

#[test]
fn merges_may_be_lines_or_pairs() {
    let pairs = aibit_small();
    let mut lines: Json = serde_json::from_slice(&pairs).expect("JSON");
    for merge in lines["model"]["merges"].as_array_mut().expect("merges") {
        *merge = format!("{} {}", merge[0].as_str().expect("left"), merge[1].as_str().expect("right")).into();
    }
    let lines = serde_json::to_vec(&lines).expect("JSON");
    let keys = |json: &[u8]| tokenizer_metadata(json, 8192, &SpecialIds::default()).expect("keys");
    assert_eq!(keys(&lines), keys(&pairs));
}

#[test]
fn rows_without_a_token_are_named_as_padding() {
    let keys = tokenizer_metadata(&tiny_gpt2(), 515, &SpecialIds::default()).expect("keys");
    let metadata = metadata_of(keys);
    let tokens = metadata.strings(TOKENS).expect("strings").expect("tokens");
    let types = metadata.integers(TOKEN_TYPE).expect("integers").expect("types");
    assert_eq!(tokens[511..], ["?;", "[PAD512]", "[PAD513]", "[PAD514]"]);
    assert_eq!(types[511..], [1, 5, 5, 5]);
    assert_eq!(types[0], 3);
}

/// A vocabulary of all bytes, `th`, `the`, and three tokens of other types.
fn small() -> Metadata {
    let bytes = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0x143);
    let mut tokens: Vec<String> =
        bytes.filter_map(char::from_u32).map(String::from).chain(["th".into(), "the".into()]).collect();
    let mut types = vec![1; tokens.len()];
    for (token, kind) in [("<|end|>", 3), ("of course", 4), ("not ours", 5)] {
        tokens.push(token.into());
        types.push(kind);
    }
    let merges = vec!["t h".into(), "th e".into()];
    metadata_of(vec![
        (MODEL.into(), Value::String("gpt2".into())),
        (PRE.into(), Value::String("llama-bpe".into())),
        (TOKENS.into(), Value::Array(Array::String(tokens))),
        (TOKEN_TYPE.into(), Value::Array(Array::I32(types))),
        (MERGES.into(), Value::Array(Array::String(merges))),
        (BOS.into(), Value::U32(258)),
    ])
}

fn string(text: &str) -> Value {
    Value::String(text.into())
}

fn strings(texts: &[&str]) -> Value {
    Value::Array(Array::String(texts.iter().map(|&text| text.into()).collect()))
}

/// `small` without a key.
fn without(key: &str) -> Metadata {
    metadata_of(small().iter().filter(|&(k, _)| k != key).map(|(k, v)| (k.to_owned(), v.clone())).collect())
}

fn with(key: &str, value: Value) -> Metadata {
    let mut metadata = small();
    metadata.set(key, value);
    metadata
}

fn with_token(id: usize, token: &str) -> Metadata {
    let mut tokens = small().strings(TOKENS).expect("strings").expect("tokens").to_vec();
    tokens[id] = token.into();
    with(TOKENS, Value::Array(Array::String(tokens)))
}

fn with_type(id: usize, kind: i32) -> Metadata {
    let mut types = small().integers(TOKEN_TYPE).expect("integers").expect("types").to_vec();
    types[id] = kind;
    with(TOKEN_TYPE, Value::Array(Array::I32(types)))
}

#[track_caller]
fn check_error<T: std::fmt::Debug>(found: Result<T, GgufError>, expected: &str) {
    let message = found.expect_err(expected).to_string();
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    assert!(message.len() < 400, "{message:?} is long");
}

#[test]
fn types_decide_which_tokens_are_searched_for_in_a_text() {
    let tokenizer = library(&tokenizer_json(&small()).expect("a tokenizer.json"));
    assert_eq!(ids(&tokenizer, "the<|end|>th"), [257, 258, 256]);
    assert_eq!(ids(&tokenizer, "of course"), [259]);
    assert_eq!(ids(&tokenizer, "not ours").len(), "not ours".len());
    assert_eq!(tokenizer.decode(&[257, 258, 259], true).expect("decoded"), "theof course");
}

#[test]
fn the_first_of_two_merges_counts_in_gguf_and_the_last_in_json() {
    let mut metadata = with(MERGES, strings(&["t h", "h e", "th e", "t h"]));
    let mut tokens = metadata.strings(TOKENS).expect("strings").expect("tokens").to_vec();
    tokens[259] = "he".into();
    tokens[260] = "x!".into();
    metadata.set(TOKENS, Value::Array(Array::String(tokens)));
    let json = tokenizer_json(&metadata).expect("a tokenizer.json");
    let mut json: Json = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["model"]["merges"], json!([["t", "h"], ["h", "e"], ["th", "e"]]));

    json["model"]["merges"] = json!(["t h", "h e", "th e", "t h"]);
    let json = serde_json::to_vec(&json).expect("JSON");
    let keys = metadata_of(tokenizer_metadata(&json, 261, &SpecialIds::default()).expect("keys"));
    assert_eq!(keys.strings(MERGES).expect("strings").expect("merges"), ["h e", "th e", "t h"]);
    for text in ["the", "thhe", "hethe"] {
        assert_eq!(
            ids(&library(&json), text),
            ids(&library(&tokenizer_json(&keys).expect("a tokenizer.json")), text)
        );
    }
}

#[test]
fn other_tokenizers_are_refused_by_name() {
    for (model, kind) in [("bert", "WordPiece"), ("t5", "Unigram"), ("rwkv", "rwkv")] {
        let metadata = with(MODEL, string(model));
        check_error(tokenizer_json(&metadata), kind);
        check_error(tokenizer_json(&metadata), "use the original checkpoint");
    }
    for pre in ["deepseek-v3", "gpt-4o", "tekken", "viking", "", "LLAMA-BPE"] {
        check_error(tokenizer_json(&with(PRE, string(pre))), &format!("is {pre:?}, which is unknown"));
    }
    check_error(tokenizer_json(&with(PRE, string("default"))), "does not say how texts are split");
    check_error(tokenizer_json(&without(PRE)), "does not say how texts are split");
    check_error(tokenizer_json(&with(PRE, string(&"x".repeat(10_000)))), "xxx\"..., which is unknown");
}

#[test]
fn malformed_keys_are_refused() {
    for key in [MODEL, TOKENS, TOKEN_TYPE, MERGES] {
        check_error(tokenizer_json(&without(key)), &format!("`{key}` is missing"));
        check_error(tokenizer_json(&with(key, Value::F32(1.0))), &format!("`{key}` must be "));
    }
    let cases = [
        (with(TOKENS, strings(&[])), "has 0 tokens"),
        (with(TOKENS, strings(&["a", "b"])), "has 261 values, but there are 2 tokens"),
        (with(TOKEN_TYPE, Value::Array(Array::I32(vec![1; 5]))), "has 5 values, but there are 261 tokens"),
        (with_type(7, 0), "is 0 at 7; known are 1 to 6"),
        (with_type(7, -1), "is -1 at 7"),
        (with_type(7, 7), "is 7 at 7"),
        (with_token(9, ""), "is empty at 9"),
        (with_token(260, "the"), "has \"the\" twice, at 257 and at 260"),
        (with_token(257, "t he"), "has \"t he\" at 257, which is not written in the byte alphabet"),
        (with_token(257, "漢"), "has \"漢\" at 257, which is not written in the byte alphabet"),
        (with_type(259, 1), "has \"of course\" at 259, which is not written in the byte alphabet"),
        (with_type(259, 6), "has \"of course\" at 259, which is not written in the byte alphabet"),
        (with(MERGES, strings(&["th"])), "has \"th\" at 0, not two tokens with a space between"),
        (with(MERGES, strings(&["t h", "t h e"])), "has \"t h e\" at 1, not two tokens with a space between"),
        (with(MERGES, strings(&[""])), "has \"\" at 0, not two tokens with a space between"),
        (with(MERGES, strings(&["t "])), "has \"t \" at 0, but \"\" is not a token"),
        (with(MERGES, strings(&["漢 t"])), "has \"漢 t\" at 0, but \"漢\" is not a token"),
        (with(MERGES, strings(&["t h", "the y"])), "has \"the y\" at 1, but \"they\" is not a token"),
    ];
    for (metadata, expected) in cases {
        check_error(tokenizer_json(&metadata), expected);
    }
}

#[test]
fn the_token_before_prompts_is_the_post_processors() {
    let prompt = |add: bool| {
        let metadata = with("tokenizer.ggml.add_bos_token", Value::Bool(add));
        let tokenizer = library(&tokenizer_json(&metadata).expect("a tokenizer.json"));
        tokenizer.encode("th", true).expect("encoded").get_ids().to_vec()
    };
    assert_eq!(prompt(false), [256]);
    assert_eq!(prompt(true), [258, 256], "the token that `tokenizer.ggml.bos_token_id` names");
}

#[test]
fn bytes_without_a_token_are_left_out_of_a_text() {
    let mut metadata = with_token(usize::from(b'x' - b'!'), "[PAD0]");
    let tokenizer = library(&tokenizer_json(&metadata).expect("a tokenizer.json"));
    let (t, e) = (u32::from(b't' - b'!'), u32::from(b'e' - b'!'));
    assert_eq!(ids(&tokenizer, "txhe"), [t, u32::from(b'h' - b'!'), e], "no merge over the gap");
    assert_eq!(ids(&tokenizer, "xthx"), [256]);
    assert_eq!(ids(&tokenizer, "x"), [0; 0]);

    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(0));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(0));
    metadata.set(TOKENS, strings(&["a", "b"]));
    metadata.set(TOKEN_TYPE, Value::Array(Array::I32(vec![1, 1])));
    metadata.set(MERGES, strings(&[]));
    let tokenizer = library(&tokenizer_json(&metadata).expect("a tokenizer.json"));
    assert_eq!(ids(&tokenizer, "abc漢\u{10fffd}]^-\\b"), [0, 1, 1]);
}

#[test]
fn special_ids_are_read_with_the_defaults_of_llama_cpp() {
    let found = special_ids(&small()).expect("special ids");
    let expected = SpecialIds { bos: Some(258), eot: Some(258), add_bos: true, ..SpecialIds::default() };
    assert_eq!(found, expected, "llama-bpe begins texts with BOS, and <|end|> is the end of a turn");

    assert!(!special_ids(&with(PRE, string("gpt-2"))).expect("special ids").add_bos);
    assert!(!special_ids(&with(ADD_BOS, Value::Bool(false))).expect("special ids").add_bos);
    assert!(!special_ids(&without(BOS)).expect("special ids").add_bos, "no token to begin with");
    let sentencepiece = special_ids(&with(MODEL, string("llama"))).expect("special ids");
    assert!(sentencepiece.add_bos && !sentencepiece.add_eos);
    assert_eq!((sentencepiece.unk, sentencepiece.bos, sentencepiece.eos), (Some(0), Some(258), Some(2)));
}

/// By hand from `src/llama-vocab.cpp` of llama.cpp: the keys, then the texts in the order of ids, then what separates files.
#[test]
fn texts_end_where_llama_cpp_ends_them() {
    #[track_caller]
    fn check(texts: &[&str], keys: &[(&str, u32)], ends: &[u32]) {
        let mut metadata = Metadata::default();
        let tokens: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        metadata.set(MODEL, string("gpt2"));
        metadata.set(PRE, string("gpt-2"));
        metadata.set(TOKENS, Value::Array(Array::String(tokens)));
        for (name, id) in keys {
            metadata.set(format!("tokenizer.ggml.{name}_token_id"), Value::U32(*id));
        }
        assert_eq!(ends_of_text(&metadata).expect("ids"), ends, "{texts:?}");
    }
    check(&["a", "b"], &[], &[]);
    check(&["a", "b"], &[("eos", 1)], &[1]);
    check(&["a", "b", "c", "d"], &[("eos", 3), ("eot", 1), ("eom", 0)], &[3, 1, 0]);
    check(&["a", "b"], &[("eos", 1), ("eot", 1), ("eom", 1)], &[1]);
    // As Qwen2's and Llama 3's, with the key of one of their ends only.
    check(&["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|file_sep|>"], &[("eos", 2)], &[2, 0, 3]);
    check(&["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"], &[("eos", 0)], &[0, 1, 2]);
    // Where tools are called, the end of a message is not that of a text.
    check(&["<|end|>", "<|return|>", "<|call|>"], &[("eos", 1)], &[1, 2]);
    check(&["<|end|>", "<|return|>", "a"], &[("eos", 1)], &[1, 0]);
    check(&["<|end|>", "<|calls|>", "<|flush|>"], &[("eos", 1)], &[1, 2]);
    check(&["</s>", "<|tool_response>", "<turn|>"], &[], &[1, 2]);
    check(&["a", "[PAD]", "<fim_pad>", "<reponame>"], &[("fim_rep", 0)], &[1, 0]);

    let outside = with("tokenizer.ggml.fim_sep_token_id", Value::U32(261));
    check_error(ends_of_text(&outside), "`tokenizer.ggml.fim_sep_token_id` is 261, but there are 261 tokens");
}

#[test]
fn special_ids_are_the_same_after_a_round_trip() {
    let specials = SpecialIds {
        bos: Some(1),
        eos: Some(2),
        unk: Some(3),
        pad: Some(4),
        eot: Some(5),
        eom: Some(6),
        add_bos: false,
        add_eos: true,
        chat_template: Some("{{ messages }}".into()),
    };
    let keys = tokenizer_metadata(&tiny_gpt2(), 512, &specials).expect("keys");
    assert_eq!(special_ids(&metadata_of(keys)).expect("special ids"), specials);
}

#[test]
fn malformed_special_ids_are_refused() {
    for name in ["bos", "eos", "unknown", "padding", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let outside = format!("`{key}` is 261, but there are 261 tokens");
        check_error(special_ids(&with(&key, Value::U32(261))), &outside);
        check_error(special_ids(&with(&key, Value::U64(u64::MAX))), "is 18446744073709551615, but there are");
        check_error(special_ids(&with(&key, Value::I32(-1))), "must be a non-negative integer");
        check_error(special_ids(&with(&key, string("1"))), "must be a non-negative integer");
    }
    check_error(special_ids(&with(ADD_BOS, Value::U8(1))), "must be true or false");
    let add_eos = with("tokenizer.ggml.add_eos_token", Value::Bool(true));
    check_error(special_ids(&add_eos), "is true, but there is no `tokenizer.ggml.eos_token_id`");
    check_error(special_ids(&with("tokenizer.chat_template", Value::U8(1))), "must be a string");
    check_error(special_ids(&without(TOKENS)), "is missing");
    check_error(special_ids(&with(PRE, string("unheard of"))), "is unknown");

    let keys = |specials| tokenizer_metadata(&tiny_gpt2(), 512, &specials);
    check_error(
        keys(SpecialIds { pad: Some(512), ..SpecialIds::default() }),
        "is to be 512, but the vocabulary has 512 rows",
    );
    check_error(
        keys(SpecialIds { add_bos: true, ..SpecialIds::default() }),
        "is to be true, but there is no",
    );
}

/// The error for `tokenizer.json` of tiny-gpt2 with a change.
#[track_caller]
fn check_json_error(change: impl FnOnce(&mut Json), expected: &str) {
    let mut json: Json = serde_json::from_slice(&tiny_gpt2()).expect("JSON");
    change(&mut json);
    let json = serde_json::to_vec(&json).expect("JSON");
    check_error(tokenizer_metadata(&json, 520, &SpecialIds::default()), expected);
}

fn added(id: u32, content: &str) -> Json {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

#[test]
fn malformed_json_is_refused() {
    for text in
        ["", "{", "[]", "null", "{}", "{\"model\": 1}", "\u{0}", "{\"model\": {\"type\": \"\\ud800\"}}"]
    {
        check_error(tokenizer_metadata(text.as_bytes(), 512, &SpecialIds::default()), "tokenizer.json: ");
    }
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let nested = format!("{{\"normalizer\": {open}{close}, \"model\": {{}}}}");
    check_error(tokenizer_metadata(nested.as_bytes(), 512, &SpecialIds::default()), "recursion limit");
    check_error(
        tokenizer_metadata(b"{\"model\": \"\xff\"}", 512, &SpecialIds::default()),
        "tokenizer.json: ",
    );

    fn model(json: &mut Json) -> &mut serde_json::Map<String, Json> {
        json["model"].as_object_mut().expect("a model")
    }
    check_json_error(|json| drop(model(json).remove("merges")), "missing field `merges`");
    check_json_error(|json| drop(model(json).remove("vocab")), "missing field `vocab`");
    check_json_error(|json| json["model"]["merges"] = json!([["t", "漢"]]), "\"漢\" is not a token");
    check_json_error(|json| json["model"]["merges"] = json!([["t", "~"]]), "\"t~\" is not a token");
    check_json_error(
        |json| json["model"]["merges"] = json!(["t"]),
        "merge 0 is \"\\\"t\\\"\", not two tokens",
    );
    check_json_error(|json| json["model"]["merges"] = json!([["t", "h", "e"]]), "not two tokens");
    check_json_error(|json| json["model"]["merges"] = json!(["h e", 7]), "merge 1 is \"7\", not two tokens");
    check_json_error(|json| json["model"]["vocab"]["!"] = 2.into(), "\"!\" and \"\\\"\" both have id 2");
    check_json_error(|json| json["model"]["vocab"]["!"] = (-1).into(), "expected u32");
    check_json_error(|json| json["model"]["vocab"]["!"] = (1_u64 << 32).into(), "expected u32");
    check_json_error(|json| json["model"]["vocab"]["!"] = 1.5.into(), "expected u32");
    check_json_error(
        |json| json["model"]["vocab"]["!"] = 520.into(),
        "has id 520, but the vocabulary has 520 rows",
    );
    check_json_error(|json| json["model"]["vocab"]["a b"] = 512.into(), "not written in the byte alphabet");
    check_json_error(|json| json["model"]["vocab"][""] = 512.into(), "not written in the byte alphabet");
    check_json_error(
        |json| json["model"]["vocab"]["[PAD513]"] = 512.into(),
        "named [PAD513], which is a token",
    );
    check_json_error(|json| json["added_tokens"][0]["id"] = 1.into(), "has id 1, but its place is 0");
    check_json_error(
        |json| json["added_tokens"] = json!([added(513, "new")]),
        "has id 513, but its place is 512",
    );
    check_json_error(|json| json["added_tokens"] = json!([added(512, "")]), "is empty or there twice");
    check_json_error(
        |json| json["added_tokens"] = json!([added(512, "new"), added(513, "new")]),
        "is empty or there twice",
    );
    for rows in [0, 511, usize::MAX] {
        check_error(
            tokenizer_metadata(&tiny_gpt2(), rows, &SpecialIds::default()),
            &format!("the vocabulary has {rows} rows"),
        );
    }
}

#[test]
fn what_gguf_cannot_say_is_refused() {
    check_json_error(|json| json["model"]["type"] = "Unigram".into(), "the model is \"Unigram\"");
    check_json_error(
        |json| json["model"] = json!({"type": "WordPiece", "vocab": []}),
        "the model is \"WordPiece\"",
    );
    check_json_error(|json| json["model"]["dropout"] = 0.1.into(), "drops merges at random");
    check_json_error(
        |json| json["model"]["end_of_word_suffix"] = "</w>".into(),
        "end_of_word_suffix \"</w>\"",
    );
    check_json_error(|json| json["model"]["ignore_merges"] = true.into(), "ignore_merges true");
    check_json_error(
        |json| json["normalizer"] = json!({"type": "Lowercase"}),
        "the normalizer is \"Lowercase\"",
    );
    check_json_error(
        |json| {
            json["normalizer"] =
                json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]})
        },
        "the normalizer is \"Sequence\"",
    );
    check_json_error(|json| json["decoder"] = Json::Null, "the decoder is \"none\"");
    check_json_error(|json| json["decoder"]["type"] = "WordPiece".into(), "the decoder is \"WordPiece\"");
    check_json_error(|json| json["pre_tokenizer"] = Json::Null, "the pre-tokenizer is none that llama.cpp");
    check_json_error(
        |json| json["pre_tokenizer"]["type"] = "Metaspace".into(),
        "unknown variant `Metaspace`",
    );
    check_json_error(|json| json["pre_tokenizer"]["add_prefix_space"] = true.into(), "puts a space before");
    check_json_error(
        |json| json["pre_tokenizer"]["use_regex"] = false.into(),
        "the pre-tokenizer is \"ByteLevel\"",
    );
    check_json_error(
        |json| json["pre_tokenizer"] = by_expression("(a*)*$"),
        "splits by \"(a*)*$\", which is not an expression",
    );
    check_json_error(
        |json| json["pre_tokenizer"] = by_expression(""),
        "splits by \"\", which is not an expression",
    );
    for option in ["lstrip", "rstrip", "single_word"] {
        check_json_error(
            |json| json["added_tokens"][0][option] = true.into(),
            &format!("has {option}, which"),
        );
    }
    let mut normalized = added(512, "text|");
    normalized["normalized"] = true.into();
    check_json_error(
        |json| json["added_tokens"].as_array_mut().expect("tokens").push(normalized),
        "\"<|endoftext|>\" and \"text|\" overlap",
    );
    let mut long = [added(512, &"a".repeat(70_000)), added(513, &"b".repeat(70_000))];
    long[1]["normalized"] = true.into();
    check_json_error(|json| json["added_tokens"] = json!(long), "of 70000 bytes together with `normalized`");
}

#[test]
fn the_normalizer_nfc_is_left_out() {
    let mut json: Json = serde_json::from_slice(&tiny_gpt2()).expect("JSON");
    json["normalizer"] = json!({"type": "NFC"});
    let (original, rebuilt) = there_and_back(&serde_json::to_vec(&json).expect("JSON"));
    assert_eq!(ids(&rebuilt, "é"), ids(&original, "e\u{301}"));
    assert_ne!(ids(&rebuilt, "e\u{301}"), ids(&original, "e\u{301}"));
}

proptest! {
    #[test]
    fn any_keys_give_an_error_or_a_file_that_the_library_reads(
        tokens in prop::collection::vec("[ab<Ġ 漢]{0,3}", 0..12),
        types in prop::collection::vec(0..8_i32, 0..12),
        merges in prop::collection::vec("[ab ]{0,4}", 0..4),
    ) {
        let mut metadata = small();
        let matching: Vec<i32> = types.iter().copied().chain(std::iter::repeat(1)).take(tokens.len()).collect();
        metadata.set(TOKENS, Value::Array(Array::String(tokens)));
        metadata.set(TOKEN_TYPE, Value::Array(Array::I32(matching)));
        metadata.set(MERGES, Value::Array(Array::String(merges)));
        if let Ok(json) = tokenizer_json(&metadata) {
            let tokenizer = library(&json);
            ids(&tokenizer, "ab<Ġ 漢");
        }
    }

    #[test]
    fn any_bytes_give_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(tokenizer_metadata(&bytes, 512, &SpecialIds::default()).is_err());
    }
}
