//! What a tokenizer puts before the text of a prompt, and tokens spelled as SentencePiece does: the library decides.

use aibit_tokenizer::{Tokenizer, compile};
use serde_json::{Value, json};

use crate::pairs::SMALL;

fn library(json: &[u8]) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(json).expect("a tokenizer")
}

fn check_prompts(tokenizer: &Tokenizer, json: &[u8]) {
    for text in ["", "a", "Row by row, the largest value", "  two spaces\n"] {
        let expected = library(json).encode(text, true).expect("encoded").get_ids().to_vec();
        assert_eq!(tokenizer.encode_prompt(text).expect("encoded"), expected, "{text:?}");
    }
}

#[test]
fn a_token_before_prompts_is_added_once() {
    let mut file: Value = serde_json::from_slice(&SMALL.json).expect("JSON");
    let (token, id) = ("<|endoftext|>", file["added_tokens"][0]["id"].clone());
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template = |single: &[&Value]| {
        json!({"type": "TemplateProcessing", "single": single, "pair": [text, json!({"Sequence": {"id": "B", "type_id": 1}})],
            "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
    };
    for (single, is_compiled) in [(&[&special, &text][..], true), (&[&special, &special, &text], false)] {
        file["post_processor"] = template(single);
        let json = serde_json::to_vec(&file).expect("JSON");
        check_prompts(&Tokenizer::from_json(&json).expect("a tokenizer"), &json);
        let compiled = compile(&json).expect("a tokenizer");
        assert_eq!(compiled.is_some(), is_compiled);
        if let Some(compiled) = compiled {
            let tokenizer = Tokenizer::from_compiled(compiled).expect("compiled");
            check_prompts(&tokenizer, &json);
            assert!(tokenizer.agrees_with_json(&json).expect("compared").ok);
            assert!(!tokenizer.agrees_with_json(&SMALL.json).expect("compared").ok);
            assert!(!tokenizer.encode("a").expect("encoded").contains(&(id.as_u64().expect("an id") as u32)));
        }
    }
}

/// Both ways in which files write SentencePiece's rules: Llama 2's and that of newer converters.
#[test]
fn tokens_spelled_as_sentencepiece_does_give_their_text() {
    let mut vocabulary: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    vocabulary.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    vocabulary.extend("\u{2581}abcdefghijklmnopqrstuvwxyz.,".chars().map(String::from));
    vocabulary.extend(["\u{2581}a", "he", "\u{2581}t", "\u{2581}the"].map(str::to_owned));
    let ids: serde_json::Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": ids,
            "merges": [["h", "e"], ["\u{2581}", "t"], ["\u{2581}t", "he"], ["\u{2581}", "a"]]},
    });
    for metaspace in [false, true] {
        if metaspace {
            file["normalizer"] = Value::Null;
            file["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
            file["decoder"] = json!({"type": "Sequence", "decoders": [
                {"type": "ByteFallback"},
                {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false}]});
        }
        let json = serde_json::to_vec(&file).expect("JSON");
        assert!(compile(&json).expect("a tokenizer").is_none());
        let tokenizer = Tokenizer::from_json(&json).expect("a tokenizer");
        check_prompts(&tokenizer, &json);
        for text in ["the cat", "a  b.", "gr\u{fc}n \u{1f600}", "then, a 7"] {
            let ids = tokenizer.encode_prompt(text).expect("encoded");
            let expected = library(&json).decode(&ids, true).expect("decoded");
            assert_eq!((tokenizer.decode(&ids).as_str(), expected.as_str()), (text, text), "{metaspace}");
        }
    }
}

#[test]
fn another_spelling_is_refused_by_name() {
    let mut file: Value = serde_json::from_slice(&SMALL.json).expect("JSON");
    file["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let error = Tokenizer::from_json(&serde_json::to_vec(&file).expect("JSON")).expect_err("refused");
    assert!(error.to_string().contains("neither `ByteLevel` nor that of SentencePiece"), "{error}");
}
