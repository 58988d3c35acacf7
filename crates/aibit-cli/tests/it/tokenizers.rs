//! Tokenizers that do not match their model, and archives with an altered tokenizer.

use std::fs;
use std::path::Path;

use aibit_format::entry_names;
use serde_json::{Value, json};

use crate::support::{Outcome, refuses, run, run_with, shelf, small_int8, succeeds, temporary_folder};
use crate::verification::rebuild;

/// The Llama of the cases with a modified tokenizer, in the folder `source`.
fn source(folder: &Path, change: impl FnOnce(&mut Value)) {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/cases/base/llama");
    let source = folder.join("source");
    fs::create_dir(&source).expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        fs::copy(base.join(name), source.join(name)).expect("a copy");
    }
    let mut tokenizer: Value =
        serde_json::from_slice(&fs::read(base.join("tokenizer.json")).expect("a tokenizer")).expect("JSON");
    change(&mut tokenizer);
    fs::write(source.join("tokenizer.json"), tokenizer.to_string()).expect("written");
}

fn added(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true})
}

/// The model has 1024 rows and the tokenizer 1030 tokens.
fn with_tokens_beyond(tokenizer: &mut Value) {
    let tokens = tokenizer["added_tokens"].as_array_mut().expect("tokens");
    tokens.extend((tokens.len() + 1000..1030).map(|id| added(id, &format!("<extra {id}>"))));
}

#[test]
fn texts_with_tokens_beyond_the_embedding_are_refused_wherever_they_come_from() {
    let folder = temporary_folder();
    source(folder.path(), with_tokens_beyond);
    let Outcome { code, stderr, .. } = run(folder.path(), &["pack", "source", "-q", "f32", "-o", "a.aibit"]);
    assert_eq!(code, Some(0), "{stderr}");
    for word in ["note: ", "1024 rows", "\"<extra 1024>\" (1024)", "\"<extra 1028>\" (1028)", "1 more"] {
        assert!(stderr.contains(word), "{word} in {stderr}");
    }
    succeeds(folder.path(), &["verify", "a.aibit", "--run"]);
    let run = |text: &str| ["run", "a.aibit", "-p", text, "-n", "2", "--temp", "0"].map(str::to_owned);
    let words = |text: &str| run(text).to_vec();
    succeeds(
        folder.path(),
        &words("Once upon <extra 1023> a").iter().map(String::as_str).collect::<Vec<_>>(),
    );
    fs::write(folder.path().join("text"), "Once upon a <extra 1027> time").expect("written");
    let args = words("Once <extra 1027>");
    let errors = [
        refuses(folder.path(), &args.iter().map(String::as_str).collect::<Vec<_>>()),
        refuses(folder.path(), &["eval", "a.aibit", "--ppl", "text"]),
    ];
    for error in errors {
        for word in ["<extra 1027>", "1027", "1024"] {
            assert!(error.contains(word), "{word} in {error}");
        }
    }
}

#[test]
fn a_tokenizer_that_puts_a_token_beyond_the_embedding_before_every_prompt_is_refused() {
    let folder = temporary_folder();
    source(folder.path(), |tokenizer| {
        with_tokens_beyond(tokenizer);
        let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
        let token = "<extra 1029>";
        tokenizer["post_processor"] = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, text("A")], "pair": [text("A"), text("B")],
            "special_tokens": {token: {"id": token, "ids": [1029], "tokens": [token]}}});
    });
    let error = refuses(folder.path(), &["pack", "source", "-o", "a.aibit"]);
    for word in ["tokenizer.json", "every prompt", "<extra 1029>", "1029"] {
        assert!(error.contains(word), "{word} in {error}");
    }
    assert!(!folder.path().join("a.aibit").exists());
}

#[test]
fn a_tokenizer_that_encodes_to_nothing_is_refused() {
    let folder = temporary_folder();
    source(folder.path(), |tokenizer| {
        tokenizer["added_tokens"] = json!([]);
        tokenizer["model"]["vocab"] = json!({"\u{144}": 0});
        tokenizer["model"]["merges"] = json!([]);
    });
    fs::remove_file(folder.path().join("source/tokenizer_config.json")).expect("removed");
    let error = refuses(folder.path(), &["pack", "source", "-o", "a.aibit"]);
    assert!(error.contains("tokenizer.json") && error.contains("to nothing"), "{error}");
    assert!(!folder.path().join("a.aibit").exists());
}

#[test]
fn packing_names_the_component_that_is_not_supported() {
    let folder = temporary_folder();
    source(folder.path(), |tokenizer| {
        tokenizer["normalizer"] = json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"});
    });
    let error = refuses(folder.path(), &["pack", "source", "-o", "a.aibit"]);
    assert!(error.contains("normalizer \"Replace\"") && error.contains("empty"), "{error}");
}

/// One additional merge in an empty slot, with correct digests: only the comparison with `tokenizer.json` can detect
/// it.
#[test]
fn verify_finds_a_compiled_tokenizer_that_says_something_else() {
    let folder = temporary_folder();
    let target = folder.path().join("a.aibit");
    rebuild(&shelf().join(small_int8()), &target, |name, data| {
        if name == entry_names::TOKENIZER_COMPILED {
            let merges = u64::from_le_bytes(data[40 + 5 * 16..][..8].try_into().expect("8 bytes")) as usize;
            let empty = (merges..data.len()).step_by(16).find(|&at| data[at..at + 16] == [0xff; 16]);
            let slot = [49_u32, 56, 0, 300].map(u32::to_le_bytes);
            data[empty.expect("an empty slot")..][..16].copy_from_slice(slot.as_flattened());
        }
    });
    succeeds(folder.path(), &["verify", "a.aibit"]);
    let Outcome { code, stdout, .. } = run_with(folder.path(), &["verify", "a.aibit", "--run"], "", &[]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("does not compile to these bytes"), "{stdout}");
}
