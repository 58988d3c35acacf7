//! Files of a tokenizer that must be refused by name, quickly, before the library sees them. Each row made the library
//! panic, abort, or run for minutes.

use std::time::{Duration, Instant};

use aibit_tokenizer::{Tokenizer, compile};
use serde_json::{Value, json};

use crate::pairs::{SMALL, TINY, added, changed_json};

/// Far above what an answer takes on a busy machine. Each row took minutes, or never ended.
const LIMIT: Duration = Duration::from_secs(60);

/// Both ways to a tokenizer refuse the file, with these words.
#[track_caller]
fn refused(json: &[u8], words: &[&str]) {
    let start = Instant::now();
    let errors = [Tokenizer::from_json(json).map(drop), compile(json).map(drop)].map(|result| match result {
        Ok(()) => panic!("it passed, and should be refused with {words:?}"),
        Err(e) => e.to_string(),
    });
    let elapsed = start.elapsed();
    for error in &errors {
        assert!(error.starts_with("tokenizer.json: "), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in: {error}");
        assert!(error.len() < 1000, "{} bytes", error.len());
    }
    assert!(elapsed < LIMIT, "{elapsed:?}: {}", errors[0]);
}

#[track_caller]
fn changed(words: &[&str], change: impl FnOnce(&mut Value)) {
    refused(&changed_json(change), words);
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

#[test]
fn normalizers_that_panic_grow_or_never_end() {
    let set = |normalizer: Value, words: &[&str]| changed(words, |json| json["normalizer"] = normalizer);
    let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "normalizers": steps});
    set(replace(json!({"String": ""}), "x"), &["normalizer \"Replace\"", "empty"]);
    set(replace(json!({"Regex": ""}), "x"), &["normalizer \"Replace\"", "empty"]);
    set(replace(json!({"Regex": "a*"}), "x"), &["normalizer \"Replace\"", "empty"]);
    set(replace(json!({"Regex": "(a+)+(?!b)"}), "x"), &["normalizer \"Replace\"", "not supported"]);
    set(
        replace(json!({"String": "a"}), &"b".repeat(256).replacen("b", "é", 2)),
        &["normalizer \"Replace\"", "bytes"],
    );
    set(
        sequence(vec![replace(json!({"String": "a"}), "aaaaaaaaaa"); 7]),
        &["\"Replace\"", "1000 times longer"],
    );
    for charsmap in ["", "AAAA", "AAAAAAAAAAAAAAAA", "////fwAAAAA=", "BAAAAAAAAAA="] {
        let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": charsmap});
        set(precompiled, &["normalizer \"Precompiled\""]);
    }
    set(sequence(vec![json!({"type": "NFC"}); 3]), &["normalizer \"NFC\"", "more than 2"]);
    set(sequence(vec![json!({"type": "NFC"}); 100_000]), &["too large"]);
    set(sequence(vec![json!({"type": "Nmt"}); 33]), &["normalizer", "more than 32 steps"]);
    let nested = (0..9).fold(json!({"type": "NFC"}), |inner, _| sequence(vec![inner]));
    set(nested, &["normalizer", "in each other"]);
    set(json!({"type": "BertNormalizer", "lowercase": true}), &["\"BertNormalizer\"", "not supported"]);
    set(json!({"type": "NFC", "why": 1}), &["normalizer \"NFC\"", "\"why\""]);
    set(json!({"why": 1}), &["normalizer", "no `type`"]);
    set(json!([]), &["normalizer", "must be an object"]);
    set(json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)}), &["\"Prepend\"", "1048576 bytes"]);
}

#[test]
fn pre_tokenizers_that_panic_or_go_back_and_forth() {
    let set = |steps: Value, words: &[&str]| changed(words, |json| json["pre_tokenizer"] = steps);
    let split = |pattern: Value| json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
    set(json!({"type": "FixedLength", "length": 0}), &["pre_tokenizer \"FixedLength\"", "not supported"]);
    set(json!({"type": "CharDelimiterSplit", "delimiter": "x"}), &["\"CharDelimiterSplit\""]);
    set(split(json!({"Regex": r"(x+x+)+y(?!\S)"})), &["pre_tokenizer \"Split\"", "not supported"]);
    set(split(json!({"Regex": r"(?:a?){999}\b(?:\p{L}{500}){500}"})), &["\"Split\"", "automaton"]);
    set(split(json!({"Regex": "x".repeat(1 << 20)})), &["\"Split\"", "1048576 bytes"]);
    set(split(json!({"String": ""})), &["\"Split\"", "empty"]);
    set(split(json!({"Glob": "x"})), &["\"Split\"", "pattern must be"]);
    set(json!({"type": "Metaspace", "replacement": "xy"}), &["\"Metaspace\"", "2 characters"]);
    let level = json!({"type": "ByteLevel", "add_prefix_space": false});
    set(json!({"type": "Sequence", "pretokenizers": vec![level; 9]}), &["\"ByteLevel\"", "512 times longer"]);
}

#[test]
fn templates_without_text_without_tokens_and_of_any_size() {
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let token = json!({"SpecialToken": {"id": "t", "type_id": 0}});
    let template = |single: Value, ids: Value, words: &[&str]| {
        changed(words, |json| {
            let texts: Vec<_> = ids.as_array().expect("ids").iter().map(|_| "t").collect();
            json["post_processor"] = json!({"type": "TemplateProcessing", "single": single, "pair": [text("A"), text("B")],
                "special_tokens": {"t": {"id": "t", "ids": ids, "tokens": texts}}});
        });
    };
    let other = json!({"SpecialToken": {"id": "u", "type_id": 0}});
    template(json!([other, text("A")]), json!([0]), &["TemplateProcessing", "\"u\"", "not defined"]);
    template(json!([token]), json!([0]), &["TemplateProcessing", "`single` holds the texts []"]);
    template(json!([text("B")]), json!([0]), &["TemplateProcessing", "`single` holds the texts"]);
    template(json!([text("A"), text("A")]), json!([0]), &["TemplateProcessing", "`single` holds the texts"]);
    template(json!([token, text("A")]), json!([512]), &["TemplateProcessing", "id 512, which no token has"]);
    template(json!([token, text("A")]), json!(vec![0; 65]), &["TemplateProcessing", "more than 64"]);
    template(json!(vec![token.clone(); 65]), json!([0]), &["TemplateProcessing", "more than 64"]);
    template(json!(vec![token.clone(); 200_000]), json!(vec![0; 1000]), &["too large"]);
    template(json!([{"Other": 1}]), json!([0]), &["TemplateProcessing", "neither text nor token"]);
    changed(&["post_processor \"Other\"", "not supported"], |json| {
        json["post_processor"] = json!({"type": "Other"})
    });
}

#[test]
fn models_that_are_none_or_of_another_kind() {
    changed(&["WordPiece", "only `BPE` and `Unigram`"], |json| json["model"]["type"] = "WordPiece".into());
    changed(&["continuing_subword_prefix", "\"##\""], |json| {
        json["model"]["continuing_subword_prefix"] = "##".into()
    });
    changed(&["end_of_word_suffix"], |json| json["model"]["end_of_word_suffix"] = "</w>".into());
    changed(&["dropout is 0.5", "random"], |json| json["model"]["dropout"] = 0.5.into());
    changed(&["merge 0", "no token"], |json| json["model"]["merges"] = json!([["Q", "Qx"]]));
    changed(&["merge 0", "\"<|endoftext|>a\""], |json| {
        json["model"]["merges"] = json!([["<|endoftext|>", "a"]])
    });
    // A token that is added and not of the model.
    changed(&["merge 0", "\"<new>\""], |json| {
        json["added_tokens"].as_array_mut().expect("tokens").push(added(512, "<new>", false, false));
        json["model"]["merges"] = json!([["<new>", "a"]]);
    });
    changed(&["not two tokens"], |json| json["model"]["merges"] = json!(["a b c"]));
    changed(&["two tokens"], |json| json["model"]["merges"] = json!([["a"]]));
    changed(&["vocab"], |json| drop(json["model"].as_object_mut().expect("a model").remove("vocab")));
    changed(&["unknown field `prefix`"], |json| json["model"]["prefix"] = 1.into());
    changed(&["unknown field `more`"], |json| json["more"] = 1.into());
    changed(&["another model"], |json| json["model"]["vocab"] = json!([["a", 0.0]]));

    let unigram = |pieces: Value, unk_id: Value, words: &[&str]| {
        changed(words, |json| {
            json["added_tokens"] = json!([]);
            json["post_processor"] = Value::Null;
            json["model"] =
                json!({"type": "Unigram", "unk_id": unk_id, "vocab": pieces, "byte_fallback": false});
        });
    };
    unigram(json!([["a", 0.0], ["a", -1.0]]), json!(0), &["\"a\" twice"]);
    unigram(json!([["a", 0.0]]), json!(1), &["unk_id"]);
    unigram(json!([["", 0.0]]), json!(0), &["id 0 is empty"]);
    unigram(json!([["a", 1e300]]), json!(0), &["score"]);
    unigram(json!([["x".repeat(257), 0.0]]), json!(0), &["257 bytes"]);
}

#[test]
fn decoders_of_other_kinds() {
    for kind in ["WordPiece", "CTC", "BPEDecoder"] {
        changed(&[kind, "neither `ByteLevel` nor that of SentencePiece"], |json| {
            json["decoder"] = json!({"type": kind})
        });
    }
}

#[test]
fn ids_that_are_shared_or_beyond_all_bounds() {
    for id in [16_777_217_u32, u32::MAX - 1, u32::MAX, 1 << 24, 100_000] {
        let id_text = format!("id {id}");
        changed(&["\"they\"", &id_text, "must be below"], |json| json["model"]["vocab"]["they"] = id.into());
        changed(&["\"<far>\"", &id_text], |json| {
            json["added_tokens"] = json!([added(id, "<far>", false, true)])
        });
    }
    changed(&["two tokens have the id 17"], |json| json["model"]["vocab"]["they"] = 17.into());
    changed(&["\"<new>\"", "id 600", "next that is free is 512"], |json| {
        json["added_tokens"].as_array_mut().expect("tokens").push(added(600, "<new>", false, true));
    });
    changed(&["two tokens have the id 17", "\"<new>\""], |json| {
        json["added_tokens"].as_array_mut().expect("tokens").push(added(17, "<new>", false, true));
    });
    changed(&["\"<|endoftext|>\"", "the vocabulary gives it"], |json| {
        json["added_tokens"][0]["id"] = 512.into()
    });
    changed(&["\"<new>\"", "two entries"], |json| {
        let tokens = json["added_tokens"].as_array_mut().expect("tokens");
        tokens.extend([added(512, "<new>", false, true), added(513, "<new>", true, false)]);
    });
    changed(&["id 512 is empty"], |json| {
        json["added_tokens"].as_array_mut().expect("tokens").push(added(512, "", false, true));
    });
    changed(&["expected u32"], |json| json["model"]["vocab"]["they"] = json!(-1));
    changed(&["expected u32"], |json| json["model"]["vocab"]["they"] = json!(4_294_967_296_u64));
}

/// Neither serde's reading of the file nor the library's is asked which of two entries counts.
#[test]
fn names_that_are_given_twice() {
    let text = String::from_utf8(TINY.json.clone()).expect("UTF-8");
    let once = text.replacen("\"version\"", "\"normalizer\": null, \"normalizer\": null, \"version\"", 1);
    refused(once.as_bytes(), &["duplicate field `normalizer`"]);
    let vocabulary =
        text.replacen("\"<|endoftext|>\":", "\"they\": 600, \"they\": 601, \"<|endoftext|>\":", 1);
    assert_ne!(vocabulary, text);
    refused(vocabulary.as_bytes(), &["\"they\" twice"]);
}

#[test]
fn padding_and_truncation_are_of_no_consequence() {
    let json = changed_json(|json| {
        json["padding"] = json!({"strategy": {"Fixed": 1_000_000_000_000_u64}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
        json["truncation"] =
            json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
    });
    let compiled = compile(&json).expect("a tokenizer").expect("expressible");
    assert_eq!(compiled, TINY.bytes);
    let ids = Tokenizer::from_json(&json).expect("a tokenizer").encode("the reader").expect("ids");
    assert_eq!(ids, TINY.library.encode("the reader").expect("ids"));
}

/// What a broken download or a broken disk makes of a file.
#[test]
fn no_truncation_and_no_flipped_bit_makes_it_panic() {
    let pretty = {
        let mut json: Value = serde_json::from_slice(&TINY.json).expect("JSON");
        json["post_processor"] = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "t", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"t": {"id": "t", "ids": [0], "tokens": ["t"]}}});
        json["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, replace(json!({"String": "x"}), "y")]});
        json["model"]["merges"].as_array_mut().expect("merges").truncate(10);
        serde_json::to_vec_pretty(&json).expect("JSON")
    };
    let try_both = |json: &[u8]| {
        let _ = compile(json);
        if let Ok(tokenizer) = Tokenizer::from_json(json) {
            let _ = tokenizer.encode("The reader's <|endoftext|> xé 12");
        }
    };
    try_both(&pretty);
    for length in (0..pretty.len()).step_by(pretty.len() / 200) {
        try_both(&pretty[..length]);
    }
    let mut state = 7_u32;
    for _ in 0..600 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut json = pretty.clone();
        let at = (state >> 4) as usize % json.len();
        json[at] ^= 1 << (state & 7);
        try_both(&json);
    }
}

/// A hundred thousand tokens that are searched for: each was copied for every question.
#[test]
fn many_added_tokens_are_read_and_compared() {
    let json = changed_json(|json| {
        let tokens = json["added_tokens"].as_array_mut().expect("tokens");
        tokens.extend((512..100_512).map(|id| added(id, &format!("<token {id}>"), false, id % 2 == 0)));
    });
    let start = Instant::now();
    let library = Tokenizer::from_json(&json).expect("a tokenizer");
    let specials = (0..library.id_limit() as u32).filter(|&id| library.is_special(id)).count();
    assert_eq!(specials, 50_001);
    let compiled = compile(&json).expect("a tokenizer").expect("expressible");
    let compiled = Tokenizer::from_compiled(compiled).expect("sound");
    assert!(compiled.agrees_with_json(&json).expect("compared").ok);
    let elapsed = start.elapsed();
    assert!(elapsed < LIMIT, "{elapsed:?}");
    changed(&["131073 added tokens"], |json| {
        let tokens = (0..131_073).map(|id| added(512 + id, &format!("<{id}>"), false, false));
        json["added_tokens"] = tokens.collect();
    });
}

/// Any change of the compiled form that its reader accepts is found by comparing it with what it was compiled from.
#[test]
fn any_other_compiled_form_fails_the_comparison() {
    let merges = u64::from_le_bytes(SMALL.bytes[40 + 5 * 16..][..8].try_into().expect("8 bytes")) as usize;
    let empty = (merges..SMALL.bytes.len()).step_by(16).find(|&at| SMALL.bytes[at..at + 16] == [0xff; 16]);
    let mut with_merge = SMALL.bytes.clone();
    let at = empty.expect("an empty slot");
    for (place, number) in [49_u32, 56, 0, 300].into_iter().enumerate() {
        with_merge[at + 4 * place..][..4].copy_from_slice(&number.to_le_bytes());
    }
    let mut other_bytes = vec![with_merge];
    for at in [24, 28, 32, SMALL.bytes.len() - 1] {
        let mut bytes = SMALL.bytes.clone();
        bytes[at] ^= 1;
        other_bytes.push(bytes);
    }
    let mut compared = 0;
    for bytes in other_bytes {
        let Ok(tokenizer) = Tokenizer::from_compiled(bytes) else { continue };
        let check = tokenizer.agrees_with_json(&SMALL.json).expect("compared");
        assert!(!check.ok && check.detail.contains("does not compile to these bytes"), "{check:?}");
        compared += 1;
    }
    assert!(compared > 0);
    // What cannot be compiled has no compiled form.
    let json =
        changed_json(|json| json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "\u{2581}"}));
    let check = TINY.compiled.agrees_with_json(&json).expect("compared");
    assert!(!check.ok && check.detail.contains("cannot be compiled"), "{check:?}");
}
