//! Conversion of SentencePiece BPE between keys of a GGUF file and `tokenizer.json`.
//!
//! SentencePiece merges the adjacent pair whose union has the highest score; the library merges the pair with the
//! lowest rank. So every pair whose union is a token is ranked by the score of the union.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::from_json::{self, Keys};
use super::to_json::{File, Model, added_tokens, ids, prompts_prefix};
use super::{ADD_SPACE_PREFIX, MODEL, PRE, SCORES, SENTENCEPIECE, TOKEN_TYPE, TOKENS};
use super::{bad, quoted, required, special_ids, token_type};
use crate::{Array, GgufError, Metadata, Value as Key};

/// Replaces a space.
const SPACE: &str = "\u{2581}";

/// Bounds the bytes compared to find pairs; a vocabulary of 256,000 tokens needs less than a hundredth of it.
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
    let added_tokens = added_tokens(tokens, types, is_written_in_it, ALPHABET)?;
    let merges = merges(tokens, scores, &ids)?;

    let steps = Steps::new(metadata.boolean(ADD_SPACE_PREFIX)?.unwrap_or(true));
    let unk = special_ids(metadata)?.unk;
    let file = File {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens,
        normalizer: steps.normalizer,
        pre_tokenizer: Value::Null,
        post_processor: prompts_prefix(metadata, tokens)?.unwrap_or(Value::Null),
        decoder: steps.decoder,
        model: Model {
            kind: "BPE",
            dropout: (),
            unk_token: unk.and_then(|id| tokens.get(id as usize)).map(String::as_str),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: true,
            byte_fallback: bytes().all(|token| ids.contains_key(token.as_str())),
            ignore_merges: false,
            vocab: tokens,
            merges,
        },
    };
    file.to_json()
}

/// Normalization before splitting, and its reverse in decoding.
#[derive(PartialEq)]
struct Steps {
    normalizer: Value,
    decoder: Value,
}

impl Steps {
    /// With or without a space before every text and after every special token in it.
    fn new(has_prefix: bool) -> Self {
        let replace =
            |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let mut normalizers = vec![replace(" ", SPACE)];
        let mut decoders =
            vec![replace(SPACE, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
        if has_prefix {
            normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let sequence = |members: &str, steps: Vec<Value>| json!({ "type": "Sequence", members: steps });
        Self { normalizer: sequence("normalizers", normalizers), decoder: sequence("decoders", decoders) }
    }
}

/// The byte tokens for a character without a token.
fn bytes() -> impl Iterator<Item = String> {
    (0..=255).map(|byte: u8| format!("<0x{byte:02X}>"))
}

const ALPHABET: &str = "SentencePiece's way, `\u{2581}` for a space";

fn is_written_in_it(token: &str) -> bool {
    !token.contains(' ')
}

/// Whether the decoder of a `tokenizer.json` is a SentencePiece decoder.
pub(super) fn is_decoder(decoder: &Value) -> bool {
    let steps = decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
    steps.iter().any(|step| step["type"] == "Metaspace" || step["pattern"]["String"] == SPACE)
}

/// The keys for a `tokenizer.json`, the reverse of [`tokenizer_json`].
pub(super) fn keys(file: &from_json::File, vocabulary: usize) -> Result<Keys, String> {
    let (normalizer, decoder) = (file.normalizer.clone(), file.decoder.clone());
    let found = Steps { normalizer, decoder };
    let Some(has_prefix) = [true, false].into_iter().find(|has_prefix| found == Steps::new(*has_prefix))
    else {
        return Err(
            "its normalizer and decoder are not `Prepend` and `Replace` of \u{2581} with `ByteFallback`, \
                    the way of SentencePiece that llama.cpp follows"
                .into(),
        );
    };
    if !file.pre_tokenizer.is_null() {
        return Err(
            "it splits texts before merging, which llama.cpp does not do with SentencePiece scores".into()
        );
    }
    if let Some(token) = file.added_tokens.iter().find(|token| token.normalized) {
        let content = quoted(&token.content);
        return Err(format!("the added token {content} has normalized, which GGUF files cannot say"));
    }
    let model = &file.model;
    if model.ignore_merges || !model.byte_fallback || !bytes().all(|token| model.vocab.contains_key(&token)) {
        return Err(
            "the model has ignore_merges, or lacks a token for some byte; llama.cpp needs all of them".into(),
        );
    }
    let (tokens, mut types) = from_json::tokens(file, vocabulary, is_written_in_it, ALPHABET)?;
    let typed = bytes().map(|token| (token, token_type::BYTE));
    for (token, kind) in typed.chain(model.unk_token.clone().map(|token| (token, token_type::UNKNOWN))) {
        if let Some(&id) = model.vocab.get(&token) {
            types[id as usize] = kind;
        }
    }
    let scores = scores(model, &tokens)?;
    Ok(vec![
        (MODEL, Key::String(SENTENCEPIECE.into())),
        (PRE, Key::String("default".into())),
        (TOKENS, Key::Array(Array::String(tokens))),
        (SCORES, Key::Array(Array::F32(scores))),
        (TOKEN_TYPE, Key::Array(Array::I32(types))),
        (ADD_SPACE_PREFIX, Key::Bool(has_prefix)),
    ])
}

/// A score per token that gives the merges their order: lower for tokens that are merged later.
fn scores(model: &from_json::Model, tokens: &[String]) -> Result<Vec<f32>, String> {
    let pairs = from_json::merges(model)?;
    let mut places = HashMap::new();
    let mut last = 0;
    for (left, right) in &pairs {
        let place = places.len();
        let place = *places.entry([*left, *right].concat()).or_insert(place);
        if place < last {
            let token = quoted(&[*left, *right].concat());
            return Err(format!("the merges that give {token} stand apart, which scores cannot say"));
        }
        last = place;
    }
    let score = |token: &String| -(*places.get(token).unwrap_or(&places.len()) as f32);
    let scores: Vec<f32> = tokens.iter().map(score).collect();
    // llama.cpp performs any merge that gives a token; added tokens are matched before.
    let ids = model.vocab.iter().map(|(token, id)| (token.as_str(), *id)).collect();
    let all = merges(tokens, &scores, &ids).map_err(|e| e.to_string())?;
    let known: HashSet<_> = pairs.into_iter().map(|(left, right)| [left, right]).collect();
    let is_missing = |pair: &&[&str; 2]| !known.contains(*pair) && model.vocab.contains_key(&pair.concat());
    if let Some([left, right]) = all.iter().find(is_missing) {
        let (left, right) = (quoted(left), quoted(right));
        return Err(format!(
            "{left} and {right} are not merged, although their union is a token; scores cannot express this"
        ));
    }
    Ok(scores)
}

/// Every pair of tokens whose union is a token, by decreasing score; among equal scores the longer left part first,
/// the order of transformers' converter.
fn merges<'a>(
    tokens: &'a [String],
    scores: &[f32],
    ids: &HashMap<&str, u32>,
) -> Result<Vec<[&'a str; 2]>, GgufError> {
    // Each part of a token is hashed for every cut position.
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
