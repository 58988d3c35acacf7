//! End-of-text tokens as llama.cpp determines them: by key and by text.

use std::collections::HashSet;

use super::{TOKENS, bad, required, special_ids};
use crate::{GgufError, Metadata};

/// Tokens that end a text regardless of keys.
const TEXTS: [&str; 20] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
];

/// Keys of tokens that separate files and end a text, and their texts if the key is missing.
const BETWEEN_FILES: [(&str, &[&str]); 3] = [
    ("tokenizer.ggml.fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (
        "tokenizer.ggml.fim_rep_token_id",
        &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    ),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"]),
];

/// Whether llama.cpp may end a text at the token with this text without a key in the file.
pub fn is_end_of_text(token: &str) -> bool {
    TEXTS.contains(&token) || BETWEEN_FILES.iter().any(|(_, texts)| texts.contains(&token))
}

/// The ids at which generation ends: end of text, end of turn and end of message by their keys, and all tokens whose
/// text is that of one of these or of a file separator. The first is the end of text, if there is one.
///
/// # Errors
/// As for [`special_ids`], and [`GgufError::Metadata`] for the other keys.
///
/// Source: llama.cpp, `src/llama-vocab.cpp`, `special_eog_ids`.
pub fn ends_of_text(metadata: &Metadata) -> Result<Vec<u32>, GgufError> {
    let specials = special_ids(metadata)?;
    let tokens = required(TOKENS, metadata.strings(TOKENS)?)?;
    let has = |text: &str| tokens.iter().any(|token| token == text);
    let by_key = |key: &str| match metadata.integer(key)? {
        Some(id) if id >= tokens.len() as u64 => {
            Err(bad(key, format!("is {id}, but there are {} tokens", tokens.len())))
        }
        id => Ok(id.map(|id| id as u32)),
    };
    let mut ends: Vec<u32> = [specials.eos, specials.eot, specials.eom].into_iter().flatten().collect();
    // If other tokens end a text, these two have another role.
    let calls = has("<|call|>") || has("<|calls|>");
    let is_inner_end = calls && (has("<|return|>") && has("<|call|>") || has("<|flush|>"));
    let is_part = |text: &str| match text {
        "<|end|>" => is_inner_end,
        "</s>" => has("<|tool_response>"),
        _ => false,
    };
    let id_of = |place: usize| u32::try_from(place).ok();
    let written = tokens.iter().enumerate().filter(|(_, text)| TEXTS.contains(&text.as_str()));
    ends.extend(written.filter_map(|(place, _)| id_of(place)));
    ends.retain(|&id| tokens.get(id as usize).is_none_or(|text| !is_part(text)));
    for (key, texts) in BETWEEN_FILES {
        let written = || tokens.iter().position(|token| texts.contains(&token.as_str())).and_then(id_of);
        ends.extend(by_key(key)?.or_else(written));
    }
    let mut seen = HashSet::new();
    ends.retain(|&id| seen.insert(id));
    Ok(ends)
}
