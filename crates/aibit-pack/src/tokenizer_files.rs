//! `tokenizer.json`, or its making from the older pair `vocab.json` and `merges.txt`.

use aibit_format::entry_names;
use serde_json::json;

use crate::{ModelSource, PackError};

/// The older pair of files.
pub(crate) const VOCABULARY: &str = "vocab.json";
pub(crate) const MERGES: &str = "merges.txt";

/// The tokenizer's JSON and the names of the files it came from.
pub(crate) struct TokenizerFiles {
    pub(crate) json: Vec<u8>,
    pub(crate) read: Vec<&'static str>,
}

/// The source's own `tokenizer.json`, byte for byte, where there is one. Otherwise the byte-level BPE that
/// GPT-2's two files describe, with `<|endoftext|>` as its special token.
pub(crate) fn load(source: &ModelSource) -> Result<TokenizerFiles, PackError> {
    if let Some(json) = source.read(entry_names::TOKENIZER)? {
        return Ok(TokenizerFiles { read: vec![entry_names::TOKENIZER], json });
    }
    let (Some(vocab), Some(merges)) = (source.read(VOCABULARY)?, source.read(MERGES)?) else {
        let problem = "it holds no tokenizer: tokenizer.json, or vocab.json with merges.txt".to_owned();
        return Err(PackError::NotAModel { path: source.folder.clone(), problem });
    };
    let json = from_pair(&vocab, &merges)
        .map_err(|problem| PackError::SourceFile { path: source.folder.join("vocab.json"), problem })?;
    Ok(TokenizerFiles { json, read: vec![VOCABULARY, MERGES] })
}

fn from_pair(vocab: &[u8], merges: &[u8]) -> Result<Vec<u8>, String> {
    const END_OF_TEXT: &str = "<|endoftext|>";
    let vocab: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(vocab).map_err(|e| e.to_string())?;
    let merges = std::str::from_utf8(merges).map_err(|e| format!("merges.txt: {e}"))?;
    let merges: Vec<&str> =
        merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
    let special: Vec<_> = vocab
        .get(END_OF_TEXT)
        .map(|id| {
            json!({"id": id, "content": END_OF_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": true, "special": true})
        })
        .into_iter()
        .collect();
    let byte_level = |trim_offsets: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim_offsets, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special,
        "normalizer": null,
        "pre_tokenizer": byte_level(true),
        "post_processor": byte_level(false),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    });
    serde_json::to_vec(&tokenizer).map_err(|e| e.to_string())
}
