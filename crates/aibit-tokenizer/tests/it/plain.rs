//! Special tokens that somebody has typed stay text; those of a chat template count. The reference is the library's own
//! switch for a whole text.

use std::ops::Range;

use aibit_tokenizer::{Tokenizer, compile};
use serde_json::{Value, json};

use crate::pairs::{added, changed_json};

/// A single plain part.
fn one(range: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(range).collect()
}

fn expected(json: &[u8], text: &str) -> Vec<u32> {
    let mut library = tokenizers::Tokenizer::from_bytes(json).expect("a tokenizer");
    library.set_encode_special_tokens(true);
    library.encode_fast(text, false).expect("encoded").get_ids().to_vec()
}

/// Byte-level tokenizers that compile, with tokens of every kind, and their library forms.
fn tokenizers() -> Vec<(Vec<u8>, Vec<Tokenizer>)> {
    let tokens = |normalized: bool, options: Value| {
        changed_json(|json| {
            let tokens = json["added_tokens"].as_array_mut().expect("tokens");
            tokens.push(added(512, "<|turn|>", normalized, true));
            tokens.push(added(513, "<tool>", normalized, false));
            tokens.push(added(514, "<|turn|>er", false, false));
            for token in tokens.iter_mut() {
                token.as_object_mut().expect("a token").extend(options.as_object().expect("options").clone());
            }
            json["normalizer"] = json!({"type": "NFC"});
        })
    };
    let jsons = [
        tokens(false, json!({})),
        tokens(true, json!({})),
        tokens(false, json!({"lstrip": true, "rstrip": true})),
        tokens(true, json!({"single_word": true, "rstrip": true})),
    ];
    let both = |json: Vec<u8>| {
        let library = Tokenizer::from_json(&json).expect("a tokenizer");
        let compiled = compile(&json).expect("a tokenizer");
        let compiled = compiled.map(|bytes| Tokenizer::from_compiled(bytes).expect("compiled"));
        (json, [library].into_iter().chain(compiled).collect())
    };
    jsons.into_iter().map(both).collect()
}

const TEXTS: [&str; 8] = [
    "",
    "the reader",
    "<|turn|>",
    "a <|turn|>  <tool> <|endoftext|>the<|turn|>er",
    "<tool><|turn|><|turn|> e\u{301} <|turn|>",
    "cafe\u{301} <|turn|>x <tool>",
    "the <|turn|>the <tool>y",
    "  <tool>  <|endoftext|>  ",
];

#[test]
fn typed_special_tokens_stay_text_as_in_the_library() {
    let tokenizers = tokenizers();
    assert!(tokenizers.iter().any(|(_, both)| both.len() == 2));
    for (json, both) in &tokenizers {
        for text in TEXTS {
            let expected = expected(json, text);
            for tokenizer in both {
                assert_eq!(tokenizer.encode_plain(text).expect("ids"), expected, "{text:?}");
            }
        }
    }
}

#[test]
fn without_plain_parts_all_tokens_count() {
    for (_, both) in &tokenizers() {
        for (text, tokenizer) in TEXTS.iter().flat_map(|text| both.iter().map(move |t| (text, t))) {
            let ids = tokenizer.encode(text).expect("ids");
            assert_eq!(tokenizer.encode_partly_plain(text, &[]).expect("ids"), ids, "{text:?}");
            // A part in which there is no special token changes nothing.
            let begin = text.find("the").or_else(|| text.find("cafe")).unwrap_or(text.len());
            let plain = one(begin..(begin + 3).min(text.len()));
            assert_eq!(tokenizer.encode_partly_plain(text, &plain).expect("ids"), ids, "{text:?}");
        }
    }
}

#[test]
fn the_tokens_around_a_message_count_and_those_in_it_do_not() {
    for (_, both) in &tokenizers()[..2] {
        for tokenizer in both {
            let (before, message, after) = ("<|turn|>", "cafe\u{301} <|turn|> <tool>", "<|endoftext|>");
            let text = [before, message, after].concat();
            let plain = one(before.len()..before.len() + message.len());
            let ids = tokenizer.encode_partly_plain(&text, &plain).expect("ids");
            let expected = [
                tokenizer.encode(before).expect("ids"),
                tokenizer.encode_plain(message).expect("ids"),
                tokenizer.encode(after).expect("ids"),
            ];
            assert_eq!(ids, expected.concat());
            assert_eq!(ids.iter().filter(|&&id| id == 512).count(), 1, "{ids:?}");
            // A token that begins in the message is of it.
            let plain = one(before.len()..before.len() + message.len() + 1);
            let ids = tokenizer.encode_partly_plain(&text, &plain).expect("ids");
            assert!(!ids.contains(&0), "{ids:?}");
        }
    }
}

/// SentencePiece's: only the first word has a space before it, however the text is cut.
#[test]
fn only_the_first_word_has_a_space_before_it() {
    let ids: serde_json::Map<String, Value> =
        ["<unk>", "<s>", "\u{2581}", "a", "b", "\u{2581}a", "<", "s", ">"]
            .iter()
            .enumerate()
            .map(|(id, token)| ((*token).to_owned(), id.into()))
            .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>", false, true), added(1, "<s>", false, true)],
        "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false},
        "post_processor": null,
        "decoder": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": false, "ignore_merges": false,
            "vocab": ids, "merges": [["\u{2581}", "a"]]},
    });
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&file).expect("JSON")).expect("a tokenizer");
    assert_eq!(tokenizer.encode("<s>a<s>a").expect("ids"), [1, 3, 1, 3]);
    assert_eq!(tokenizer.encode_partly_plain("<s>a<s>a", &one(3..8)).expect("ids"), [1, 3, 6, 7, 8, 3]);
    assert_eq!(tokenizer.encode_plain("a<s>").expect("ids"), [5, 6, 7, 8]);
}
