//! The compiled tokenizer against the library for every pre-tokenization that can be compiled, and what leads
//! around them: normalization, bytes without a token, pieces that are tokens before anything is merged.

use std::sync::LazyLock;

use aibit_tokenizer::compile;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::pairs::{Pair, SMALL, TINY, added, any_text, changed_json, use_all};

// As the `tokenizer.json` of Llama 3 and Qwen2 have them.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

fn sequence(steps: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": steps})
}

fn split(regex: &str, behavior: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": false})
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn digits(individual: bool) -> Value {
    json!({"type": "Digits", "individual_digits": individual})
}

fn nfc() -> Value {
    json!({"type": "NFC"})
}

/// Leaves out every third merge, so that some tokens are no longer what their bytes merge into.
fn ignore_merges(json: &mut Value) {
    json["model"]["ignore_merges"] = true.into();
    let merges = json["model"]["merges"].as_array_mut().expect("merges");
    let kept = merges.iter().enumerate().filter(|(rank, _)| rank % 3 != 0).map(|(_, merge)| merge.clone());
    *merges = kept.collect();
}

/// Takes out tokens of bytes, as characters of the byte alphabet, and the merges that need them.
fn without_tokens(json: &mut Value, characters: &[char]) {
    let vocabulary = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
    for c in characters {
        vocabulary.remove(&c.to_string()).expect("a token");
    }
    let needs = |text: &Value| text.as_str().is_some_and(|text| text.contains(characters));
    let merges = json["model"]["merges"].as_array_mut().expect("merges");
    merges.retain(|merge| !needs(&merge[0]) && !needs(&merge[1]));
}

fn small(change: impl FnOnce(&mut Value)) -> Pair {
    let mut json = serde_json::from_slice(&SMALL.json).expect("JSON");
    change(&mut json);
    Pair::new(serde_json::to_vec(&json).expect("JSON"))
}

/// What the families have, and what none has: every step with every other.
static PAIRS: LazyLock<Vec<(&str, Pair)>> = LazyLock::new(|| {
    vec![
        ("digits apart", small(|json| json["pre_tokenizer"] = sequence(&[digits(true), byte_level(true)]))),
        (
            "up to three digits, tokens before merges",
            small(|json| {
                json["pre_tokenizer"] = sequence(&[split(LLAMA3, "Isolated"), byte_level(false)]);
                json["post_processor"] = json!({"type": "Sequence", "processors": [byte_level(true), {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                               {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0],
                                                         "tokens": ["<|endoftext|>"]}}}]});
                ignore_merges(json);
            }),
        ),
        (
            "lines and digits, composed",
            small(|json| {
                json["normalizer"] = nfc();
                json["pre_tokenizer"] = sequence(&[split(QWEN2, "Isolated"), byte_level(false)]);
            }),
        ),
        (
            "words, written out",
            Pair::new(changed_json(|json| {
                json["pre_tokenizer"] = sequence(&[sequence(&[split(GPT2, "Isolated")]), byte_level(false)]);
            })),
        ),
        (
            "digits apart, some bytes apart",
            small(|json| {
                without_tokens(json, &['!', 'x', 'Ġ', 'Ã', 'ĵ']);
                let removal = split(r"[\x{120}\x{21}\x{78}\x{135}\x{c3}]", "Removed");
                json["pre_tokenizer"] = sequence(&[digits(true), byte_level(true), removal]);
            }),
        ),
        (
            "up to three digits, some bytes apart, tokens before merges",
            small(|json| {
                without_tokens(json, &['!', 'e']);
                let removal = split(r"[\x{21}\x{65}]", "Removed");
                json["pre_tokenizer"] = sequence(&[split(LLAMA3, "Isolated"), byte_level(false), removal]);
                ignore_merges(json);
            }),
        ),
        (
            "tokens before merges, bytes passed over",
            small(|json| {
                without_tokens(json, &['!', 'e']);
                ignore_merges(json);
            }),
        ),
        (
            "composed, with added tokens that composing makes or breaks",
            Pair::new(changed_json(|json| {
                json["normalizer"] = nfc();
                ignore_merges(json);
                let vocabulary = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
                let letter = vocabulary["K"].as_u64().expect("an id") as u32;
                let list = json["added_tokens"].as_array_mut().expect("a list");
                list.push(added(letter, "K", false, false));
                list.push(added(512, "e\u{301}", false, false));
                list.push(added(513, "ǹ", true, false));
                list.push(added(514, "漢", true, true));
            })),
        ),
    ]
});

fn check(text: &str) {
    PAIRS.iter().for_each(|(_, pair)| pair.check(text));
}

#[test]
fn every_token_is_the_same() {
    for (name, pair) in &*PAIRS {
        pair.check_vocabulary();
        assert!(pair.compiled.is_compiled() && !pair.library.is_compiled(), "{name}");
        assert_eq!(compile(&pair.json).expect("a tokenizer").as_ref(), Some(&pair.bytes), "{name}");
    }
}

#[test]
fn chosen_texts_have_the_same_ids() {
    for text in [
        "",
        "In 1984, 12345 readers' 3.14 and 1,000,000",
        "١٢٣٤ १२३४ 𝟘𝟙𝟚𝟛 ½¾ ⅧⅨ ²³",
        "It's WE'RE i'Ll THEY'VE 'Tis it\u{17f} it'\u{17f}",
        "line\r\n\r\nline\n\n\n  indented\r\n\t tab \n ",
        "e\u{301}e\u{300} cafe\u{301}s, \u{212a}elvin K \u{1100}\u{1161}\u{11a8} \u{f900}\u{37e}",
        "a\u{323}\u{307} a\u{307}\u{323} \u{958} \u{2126}",
        "漢字かな交じり文。ハングル한글 👩\u{200d}🚀👍🏽",
        "<|endoftext|>!x! xx é é!<|endoftext|> ǹ漢 n\u{300}",
        "!",
        "x x!x  !!",
    ] {
        check(text);
    }
    for length in [1, 2, 3, 4, 64, 65, 1000, 20_000] {
        for part in ["7", " ", "\n", "\r\n ", "a", "A!", "\u{301}", "e\u{301}", "漢", "'s", "x!", "½"] {
            check(&part.repeat(length));
        }
    }
}

/// The texts in which the rules differ.
fn splitting_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => "[ ]?[0-9]{1,8}",
        2 => "\\pN{1,5}",
        3 => "[a-z]{1,8}'([sStTmMdD\u{17f}]|[rRvV][eE]|[lL][lL])[a-z]?",
        3 => "[ \t]{0,3}(\r\n|\n|\r){1,3}[ \t]{0,3}",
        2 => "[ ]?[!-/:-@\u{2014}\u{3002}]{1,3}(\r\n|\n)?",
        2 => "[aeiouAEIOUcK\u{212a}\u{1100}][\u{300}\u{301}\u{308}\u{323}\u{327}\u{1161}]{1,3}",
        2 => "\\PC{1,6}",
        1 => any::<char>().prop_map(String::from),
        4 => "[ ]?[a-zA-Z]{1,12}",
    ];
    prop::collection::vec(part, 0..10).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_text_has_the_same_ids(text in prop_oneof![2 => splitting_text(), 1 => any_text()]) {
        check(&text);
    }

    #[test]
    fn added_tokens_are_found_before_and_after_composing(text in "[enǹK\u{212a}\u{300}\u{301}漢\u{fa47} <|]{0,16}") {
        check(&text);
    }
}

/// Otherwise the other tests would say nothing about `ignore_merges`.
#[test]
fn a_piece_that_is_a_token_is_not_merged() {
    let (_, pair) =
        PAIRS.iter().find(|(name, _)| name.ends_with("digits, tokens before merges")).expect("a pair");
    let merged: Value = {
        let mut json: Value = serde_json::from_slice(&pair.json).expect("JSON");
        json["model"]["ignore_merges"] = false.into();
        json
    };
    let merged = Pair::new(serde_json::to_vec(&merged).expect("JSON"));
    let differing = (0..pair.library.id_limit() as u32).filter(|&id| {
        let text = String::from_utf8_lossy(&pair.library.bytes(id)).into_owned();
        merged.check(&text);
        pair.compiled.encode(&text).expect("ids") != merged.compiled.encode(&text).expect("ids")
    });
    assert!(differing.count() > 1000);
}

#[test]
fn other_steps_are_left_to_the_library() {
    let check = |name: &str, change: &dyn Fn(&mut Value)| {
        let json = changed_json(change);
        assert!(compile(&json).expect("a tokenizer").is_none(), "{name}");
    };
    let steps = |name: &str, steps: &[Value]| {
        check(name, &|json| json["pre_tokenizer"] = sequence(steps));
    };
    steps("nothing", &[]);
    steps("an unknown expression", &[split(&LLAMA3.replace("1,3", "1,2"), "Isolated"), byte_level(false)]);
    steps("the matches removed", &[split(QWEN2, "Removed"), byte_level(false)]);
    steps("split twice", &[split(QWEN2, "Isolated"), byte_level(true)]);
    steps("two expressions", &[split(QWEN2, "Isolated"), split(LLAMA3, "Isolated"), byte_level(false)]);
    steps("digits together", &[digits(false), byte_level(true)]);
    steps("digits after bytes", &[byte_level(true), digits(true)]);
    steps("digits and nothing else", &[digits(true), byte_level(false)]);
    steps("not in bytes", &[split(QWEN2, "Isolated")]);
    steps("a token removed", &[byte_level(true), split(r"[\x{21}]", "Removed")]);
    let mut inverted = split(QWEN2, "Isolated");
    inverted["invert"] = true.into();
    steps("inverted", &[inverted, byte_level(false)]);
    let mut space_in_front = byte_level(true);
    space_in_front["add_prefix_space"] = true.into();
    steps("space in front", &[digits(true), space_in_front]);
    steps(
        "a string",
        &[
            json!({"type": "Split", "pattern": {"String": QWEN2}, "behavior": "Isolated", "invert": false}),
            byte_level(false),
        ],
    );
    check("not all bytes without a token removed", &|json| {
        without_tokens(json, &['!', 'x']);
        json["pre_tokenizer"] = sequence(&[byte_level(true), split(r"[\x{21}]", "Removed")]);
    });
    check("another post-processor", &|json| {
        json["post_processor"] = json!({"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["a", 1],
                                        "trim_offsets": true, "add_prefix_space": true});
    });
    for normalizer in [json!({"type": "NFKC"}), json!({"type": "Lowercase"})] {
        check("another normalizer", &|json| json["normalizer"] = normalizer.clone());
    }
    check("an added token that composing changes", &|json| {
        json["normalizer"] = nfc();
        json["added_tokens"].as_array_mut().expect("a list").push(added(512, "e\u{301}", true, false));
    });
    check("an added token that is also a piece, of other bytes", &|json| {
        json["model"]["ignore_merges"] = true.into();
        json["model"]["vocab"]["Ġxyz"] = 512.into();
        json["added_tokens"].as_array_mut().expect("a list").push(added(512, "Ġxyz", false, false));
    });
}

#[test]
fn no_step_and_no_option_makes_broken_bytes_panic() {
    for pair in PAIRS.iter().map(|(_, pair)| pair).chain([&*TINY]).filter(|pair| pair.bytes.len() < 100_000) {
        for steps in 0..32 {
            let mut bytes = pair.bytes.clone();
            (bytes[16], bytes[20]) = (steps % 8, steps / 8);
            assert_eq!(
                use_all(bytes.clone()),
                steps % 8 < 4,
                "splitting {}, options {}",
                steps % 8,
                steps / 8
            );
            bytes[152..152 + 1024].fill(0xff); // no byte has a token
            use_all(bytes);
        }
    }
}
