//! Conversion of keys of a GGUF file to `tokenizer.json`.

use std::collections::{HashMap, HashSet};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::pre_tokenizer::{self, Step};
use super::{AddedToken, MERGES, MODEL, SENTENCEPIECE, TOKEN_TYPE, TOKENS};
use super::{bad, byte_alphabet, pre_tokenizer_of, quoted, required, sentencepiece, special_ids, token_type};
use crate::{GgufError, Metadata};

/// The `tokenizer.json` of the Hugging Face library that is equivalent to the `tokenizer.ggml.*` keys.
///
/// Texts get llama.cpp's ids; special tokens are recognised in every text; tokens before a prompt are added by the
/// post-processor. Ids can differ, for byte-level BPE: for letters and digits newer than Unicode 15, which llama.cpp
/// treats as symbols; for the long s, U+017F, after an apostrophe, which the models' own expressions treat as a
/// contraction; and where two added tokens overlap. For SentencePiece: where two candidates of the same score
/// overlap, of which llama.cpp merges the left one and the library the one of lower rank; and for a token with an
/// unassigned character, which no trained vocabulary has.
///
/// # Errors
/// [`GgufError::Metadata`] for a tokenizer that is neither byte-level BPE (`gpt2`) nor SentencePiece BPE (`llama`),
/// an unknown pre-tokenizer, missing keys, and contradicting keys.
pub fn tokenizer_json(metadata: &Metadata) -> Result<Vec<u8>, GgufError> {
    if metadata.string(MODEL)? == Some(SENTENCEPIECE) {
        return sentencepiece::tokenizer_json(metadata);
    }
    let pre_tokenizer = pre_tokenizer_of(metadata)?;
    let tokens = required(TOKENS, metadata.strings(TOKENS)?)?;
    let types = required(TOKEN_TYPE, metadata.integers(TOKEN_TYPE)?)?;
    let ids = ids(tokens)?;
    let added_tokens = added_tokens(tokens, types, byte_alphabet::is_written_in_it, "the byte alphabet")?;
    let merges = merges(required(MERGES, metadata.strings(MERGES)?)?, &ids)?;

    let without_token = byte_alphabet::without_token(|token| ids.contains_key(token));
    let byte_level = |trim_offsets| Step::ByteLevel { add_prefix_space: true, trim_offsets, use_regex: true };
    let file = File {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens,
        normalizer: Value::Null,
        pre_tokenizer: json!(pre_tokenizer::steps(pre_tokenizer.splitting, &without_token)),
        post_processor: match prompts_prefix(metadata, tokens)? {
            // The library handles offsets.
            None => json!(byte_level(false)),
            Some(prefix) => json!({ "type": "Sequence", "processors": [byte_level(false), prefix] }),
        },
        decoder: json!(byte_level(true)),
        model: Model {
            kind: "BPE",
            dropout: (),
            unk_token: None,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: pre_tokenizer.ignore_merges,
            vocab: tokens,
            merges,
        },
    };
    file.to_json()
}

/// The step that prepends a token to prompts, if any.
pub(super) fn prompts_prefix(metadata: &Metadata, tokens: &[String]) -> Result<Option<Value>, GgufError> {
    let specials = special_ids(metadata)?;
    let Some(id) = specials.bos.filter(|_| specials.add_bos) else { return Ok(None) };
    let token = &tokens[id as usize];
    let [bos, a, b] =
        [json!({"SpecialToken": {"id": token, "type_id": 0}}), sequence("A", 0), sequence("B", 1)];
    Ok(Some(json!({
        "type": "TemplateProcessing",
        "single": [bos, a],
        "pair": [bos, a, b],
        "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
    })))
}

fn sequence(id: &str, type_id: u32) -> Value {
    json!({ "Sequence": { "id": id, "type_id": type_id } })
}

#[derive(Serialize)]
pub(super) struct File<'a> {
    pub(super) version: &'static str,
    pub(super) truncation: (),
    pub(super) padding: (),
    pub(super) added_tokens: Vec<AddedToken>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: Model<'a>,
}

impl File<'_> {
    pub(super) fn to_json(&self) -> Result<Vec<u8>, GgufError> {
        serde_json::to_vec(self).map_err(|e| GgufError::TokenizerJson { problem: e.to_string() })
    }
}

#[derive(Serialize)]
pub(super) struct Model<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) dropout: (),
    pub(super) unk_token: Option<&'a str>,
    pub(super) continuing_subword_prefix: (),
    pub(super) end_of_word_suffix: (),
    pub(super) fuse_unk: bool,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
    /// All tokens, added ones included: the library would renumber those that are missing here.
    #[serde(serialize_with = "numbered")]
    pub(super) vocab: &'a [String],
    pub(super) merges: Vec<[&'a str; 2]>,
}

/// Tokens with their ids, in id order.
fn numbered<S: Serializer>(tokens: &&[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().zip(0_u32..))
}

/// The ids of tokens, which must be distinct.
pub(super) fn ids(tokens: &[String]) -> Result<HashMap<&str, u32>, GgufError> {
    if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
        return Err(bad(TOKENS, format!("has {} tokens", tokens.len())));
    }
    let mut ids = HashMap::with_capacity(tokens.len());
    for (token, id) in tokens.iter().zip(0..) {
        if token.is_empty() {
            return Err(bad(TOKENS, format!("is empty at {id}")));
        }
        if let Some(first) = ids.insert(token.as_str(), id) {
            return Err(bad(TOKENS, format!("has {} twice, at {first} and at {id}", quoted(token))));
        }
    }
    Ok(ids)
}

/// The tokens that are matched literally; the others must be in an alphabet.
pub(super) fn added_tokens(
    tokens: &[String],
    types: &[i32],
    is_written: impl Fn(&str) -> bool,
    alphabet: &str,
) -> Result<Vec<AddedToken>, GgufError> {
    if types.len() != tokens.len() {
        let problem = format!("has {} values, but there are {} tokens", types.len(), tokens.len());
        return Err(bad(TOKEN_TYPE, problem));
    }
    let mut added = Vec::new();
    for ((token, &kind), id) in tokens.iter().zip(types).zip(0..) {
        let special = match kind {
            token_type::NORMAL | token_type::BYTE if is_written(token) => continue,
            token_type::NORMAL | token_type::BYTE => {
                let problem = format!("has {} at {id}, which is not written in {alphabet}", quoted(token));
                return Err(bad(TOKENS, problem));
            }
            token_type::UNUSED => continue,
            token_type::UNKNOWN | token_type::CONTROL => true,
            token_type::USER_DEFINED => false,
            _ => return Err(bad(TOKEN_TYPE, format!("is {kind} at {id}; known are 1 to 6"))),
        };
        added.push(AddedToken {
            id,
            content: token.clone(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special,
        });
    }
    Ok(added)
}

/// The merges as pairs of tokens; of two with the same pair the first applies, as in llama.cpp.
fn merges<'a>(merges: &'a [String], ids: &HashMap<&str, u32>) -> Result<Vec<[&'a str; 2]>, GgufError> {
    let mut seen = HashSet::with_capacity(merges.len());
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let Some((left, right)) = merge.split_once(' ').filter(|(_, right)| !right.contains(' ')) else {
            let problem = format!("has {} at {rank}, not two tokens with a space between", quoted(merge));
            return Err(bad(MERGES, problem));
        };
        let whole = [left, right].concat();
        if let Some(unknown) = [left, right, &whole].into_iter().find(|part| !ids.contains_key(part)) {
            let problem = format!("has {} at {rank}, but {} is not a token", quoted(merge), quoted(unknown));
            return Err(bad(MERGES, problem));
        }
        if seen.insert([left, right]) {
            pairs.push([left, right]);
        }
    }
    Ok(pairs)
}
