//! SentencePiece's BPE from the keys of a GGUF file.
//!
//! SentencePiece merges the two neighbours whose union has the highest score; the library merges the pair that stands
//! first in a list. So the list has every pair whose union is a token, by the union's score.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::to_json::{File, Model, added_tokens, ids, prompts_prefix};
use super::{ADD_SPACE_PREFIX, SCORES, TOKEN_TYPE, TOKENS};
use super::{bad, quoted, required, special_ids};
use crate::{GgufError, Metadata};

/// Stands for a space.
const SPACE: &str = "\u{2581}";

/// Bounds the bytes that are compared to find pairs; a vocabulary of 256,000 tokens needs less than a hundredth.
const MAX_COMPARED: u64 = 1 << 30;

pub(super) fn tokenizer_json(metadata: &Metadata) -> Result<Vec<u8>, GgufError> {
    let tokens = required(TOKENS, metadata.strings(TOKENS)?)?;
    let types = required(TOKEN_TYPE, metadata.integers(TOKEN_TYPE)?)?;
    let scores = required(SCORES, metadata.floats(SCORES)?)?;
    let ids = ids(tokens)?;
    if scores.len() != tokens.len() {
        let problem = format!("has {} values, but there are {} tokens", scores.len(), tokens.len());
        return Err(bad(SCORES, problem));
    }
    if let Some(at) = scores.iter().position(|score| score.is_nan()) {
        return Err(bad(SCORES, format!("is no number at {at}, {}", quoted(&tokens[at]))));
    }
    let added_tokens = added_tokens(
        tokens,
        types,
        |token| !token.contains(' '),
        "SentencePiece's way, `\u{2581}` for a space",
    )?;
    let merges = merges(tokens, scores, &ids)?;

    let has_prefix = metadata.boolean(ADD_SPACE_PREFIX)?.unwrap_or(true);
    let step = |kind: &str, from: &str, to: &str| json!({ "type": kind, "pattern": { "String": from }, "content": to });
    let spaces = step("Replace", " ", SPACE);
    let prefix = json!({ "type": "Prepend", "prepend": SPACE });
    let mut decoders =
        vec![step("Replace", SPACE, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    decoders.extend(has_prefix.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 })));
    let unk = special_ids(metadata)?.unk;
    let file = File {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens,
        normalizer: if has_prefix { sequence("normalizers", vec![prefix, spaces]) } else { spaces },
        pre_tokenizer: Value::Null,
        post_processor: prompts_prefix(metadata, tokens)?.unwrap_or(Value::Null),
        decoder: sequence("decoders", decoders),
        model: Model {
            kind: "BPE",
            dropout: (),
            unk_token: unk.and_then(|id| tokens.get(id as usize)).map(String::as_str),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: true,
            byte_fallback: (0..=255).all(|byte| ids.contains_key(format!("<0x{byte:02X}>").as_str())),
            ignore_merges: false,
            vocab: tokens,
            merges,
        },
    };
    file.to_json()
}

fn sequence(members: &str, steps: Vec<Value>) -> Value {
    json!({ "type": "Sequence", members: steps })
}

/// Every pair of tokens whose union is one, highest score first; of those of one score the longer left part first, as
/// transformers' converter orders them.
fn merges<'a>(
    tokens: &'a [String],
    scores: &[f32],
    ids: &HashMap<&str, u32>,
) -> Result<Vec<[&'a str; 2]>, GgufError> {
    // Each part of a token is hashed for every place where it can be cut.
    let compared = tokens.iter().map(|token| (token.len() as u64).saturating_mul(token.len() as u64));
    if compared.fold(0, u64::saturating_add) > MAX_COMPARED {
        let longest = tokens.iter().map(String::len).max().unwrap_or(0);
        let problem = format!("has tokens of up to {longest} bytes: too long to find how they are merged");
        return Err(bad(TOKENS, problem));
    }
    let mut pairs = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        for (left_len, (cut, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(cut);
            if ids.contains_key(left) && ids.contains_key(right) {
                pairs.push((*score, left_len, right.chars().count(), [left, right]));
            }
        }
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then((b.1, b.2).cmp(&(a.1, a.2))));
    Ok(pairs.into_iter().map(|(.., pair)| pair).collect())
}
