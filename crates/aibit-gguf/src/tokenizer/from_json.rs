//! Conversion of a `tokenizer.json` to keys of a GGUF file.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value as Json;

use super::pre_tokenizer::{self, PreTokenizer, Step};
use super::{
    ADD_BOS, ADD_EOS, BOS, CHAT_TEMPLATE, EOM, EOS, EOT, MERGES, MODEL, PAD, PRE, TOKEN_TYPE, TOKENS, UNK,
};
use super::{AddedToken, SpecialIds, byte_alphabet, quoted, sentencepiece, token_type};
use crate::{Array, GgufError, Value};

/// The `tokenizer.*` keys that llama.cpp needs, from the `tokenizer.json` of byte-level or SentencePiece BPE.
///
/// `vocabulary` is the number of rows of the embedding; ids without a token become `[PADn]` of type 5, the name that
/// llama.cpp's converter uses. Texts get the same ids in llama.cpp, except for two features that it lacks and that
/// its converter also drops: the normalizer NFC, and replacements for bytes that have no token. SentencePiece scores
/// are converted to merge ranks; ids can differ in the cases described at [`tokenizer_json`](super::tokenizer_json).
///
/// If `specials` has no `bos` or no `eos`, llama.cpp uses token 11.
///
/// # Errors
/// [`GgufError::TokenizerJson`] for a malformed file, ids that are duplicate or not below `vocabulary`, and anything
/// for which llama.cpp would give other ids: another model, pre-tokenizer, normalizer or decoder, and added tokens
/// that are not matched literally.
pub fn tokenizer_metadata(
    tokenizer_json: &[u8],
    vocabulary: usize,
    specials: &SpecialIds,
) -> Result<Vec<(String, Value)>, GgufError> {
    let problem = |problem: String| GgufError::TokenizerJson { problem };
    keys(tokenizer_json, vocabulary, specials).map_err(problem)
}

/// Only the type of the model: other models' vocabularies have another form.
#[derive(Deserialize)]
struct FileKind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Json,
    #[serde(default)]
    pub(super) pre_tokenizer: Json,
    #[serde(default)]
    pub(super) decoder: Json,
    pub(super) model: Model,
}

#[derive(Deserialize)]
pub(super) struct Model {
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    pub(super) vocab: HashMap<String, u32>,
    merges: Vec<Json>,
}

/// The keys that depend on the kind of tokenizer.
pub(super) type Keys = Vec<(&'static str, Value)>;

fn keys(json: &[u8], vocabulary: usize, specials: &SpecialIds) -> Result<Vec<(String, Value)>, String> {
    let kind: FileKind = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    if let Some(kind) = kind.model.kind.filter(|kind| kind != "BPE") {
        return Err(format!("the model is {}; only BPE is written to GGUF", quoted(&kind)));
    }
    let file: File = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    check_model(&file.model)?;
    check_added(&file.added_tokens)?;
    let is_sentencepiece = sentencepiece::is_decoder(&file.decoder);
    let mut keys = if is_sentencepiece {
        sentencepiece::keys(&file, vocabulary)
    } else {
        byte_level(&file, vocabulary)
    }?;
    let unk = || file.model.unk_token.as_ref().and_then(|token| file.model.vocab.get(token)).copied();
    for (key, id) in [
        (BOS, specials.bos),
        (EOS, specials.eos),
        (UNK, specials.unk.or_else(|| unk().filter(|_| is_sentencepiece))),
        (PAD, specials.pad),
        (EOT, specials.eot),
        (EOM, specials.eom),
    ] {
        let Some(id) = id else { continue };
        if id as usize >= vocabulary {
            return Err(format!("`{key}` is to be {id}, but the vocabulary has {vocabulary} rows"));
        }
        keys.push((key, Value::U32(id)));
    }
    for (key, add, token, token_key) in
        [(ADD_BOS, specials.add_bos, specials.bos, BOS), (ADD_EOS, specials.add_eos, specials.eos, EOS)]
    {
        if add && token.is_none() {
            return Err(format!("`{key}` is to be true, but there is no `{token_key}`"));
        }
        keys.push((key, Value::Bool(add)));
    }
    keys.extend(specials.chat_template.clone().map(|template| (CHAT_TEMPLATE, Value::String(template))));
    Ok(keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn byte_level(file: &File, vocabulary: usize) -> Result<Keys, String> {
    if !is_left_out(&file.normalizer) {
        let kind = quoted(kind_of(&file.normalizer));
        return Err(format!("the normalizer is {kind}, which llama.cpp does not know; known is NFC"));
    }
    if kind_of(&file.decoder) != "ByteLevel" {
        let kind = quoted(kind_of(&file.decoder));
        return Err(format!("the decoder is {kind}, neither \"ByteLevel\" nor that of SentencePiece"));
    }
    let pre = pre_tokenizer(file)?;
    let merges = merges(&file.model)?.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
    let (tokens, types) = tokens(file, vocabulary, byte_alphabet::is_written_in_it, "the byte alphabet")?;
    Ok(vec![
        (MODEL, Value::String("gpt2".into())),
        (PRE, Value::String(pre.name().into())),
        (TOKENS, Value::Array(Array::String(tokens))),
        (TOKEN_TYPE, Value::Array(Array::I32(types))),
        (MERGES, Value::Array(Array::String(merges))),
    ])
}

/// Refuses settings that change ids and have no key.
fn check_model(model: &Model) -> Result<(), String> {
    if model.dropout.is_some_and(|probability| probability != 0.0) {
        return Err(format!("the model drops merges at random, dropout {:?}", model.dropout));
    }
    for (name, affix) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
            return Err(format!("the model has the {name} {}, which llama.cpp does not know", quoted(affix)));
        }
    }
    Ok(())
}

fn kind_of(step: &Json) -> &str {
    step.get("type").and_then(Json::as_str).unwrap_or(if step.is_null() { "none" } else { "of unknown type" })
}

/// Whether the normalizer is one that llama.cpp's converter drops.
fn is_left_out(normalizer: &Json) -> bool {
    let members = normalizer.get("normalizers").and_then(Json::as_array);
    match (normalizer, kind_of(normalizer)) {
        (Json::Null, _) | (_, "NFC") => true,
        (_, "Sequence") => {
            members.is_some_and(|members| members.iter().all(|member| kind_of(member) == "NFC"))
        }
        _ => false,
    }
}

fn check_added(added: &[AddedToken]) -> Result<(), String> {
    /// Bounds the comparisons of every token of one group with every token of the other; far above any model.
    const MAX_PRODUCT: u64 = 1 << 32;
    for token in added {
        let options =
            [("lstrip", token.lstrip), ("rstrip", token.rstrip), ("single_word", token.single_word)];
        if let Some((option, _)) = options.into_iter().find(|&(_, is_set)| is_set) {
            let content = quoted(&token.content);
            return Err(format!("the added token {content} has {option}, which GGUF files cannot say"));
        }
    }
    let (second, first): (Vec<&AddedToken>, Vec<_>) = added.iter().partition(|token| token.normalized);
    let bytes = |group: &[&AddedToken]| group.iter().map(|token| token.content.len()).sum::<usize>();
    let (bytes_first, bytes_second) = (bytes(&first), bytes(&second));
    if (bytes_first as u64).saturating_mul(bytes_second as u64) > MAX_PRODUCT {
        return Err(format!(
            "there are added tokens of {bytes_second} bytes together with `normalized`, and of {bytes_first} bytes \
             without: too many to compare"
        ));
    }
    // The library matches the first group before the second; llama.cpp matches all of them together.
    for one in &first {
        if let Some(other) = second.iter().find(|other| overlap(&one.content, &other.content)) {
            let (one, other) = (quoted(&one.content), quoted(&other.content));
            return Err(format!(
                "the added tokens {one} and {other} overlap and differ in `normalized`, which a GGUF file cannot express"
            ));
        }
    }
    Ok(())
}

/// Whether a text can contain both so that they share characters.
fn overlap(one: &str, other: &str) -> bool {
    let ends_as_begins =
        |one: &str, other: &str| one.char_indices().skip(1).any(|(at, _)| other.starts_with(&one[at..]));
    one.contains(other) || other.contains(one) || ends_as_begins(one, other) || ends_as_begins(other, one)
}

fn pre_tokenizer(file: &File) -> Result<&'static PreTokenizer, String> {
    let vocab = &file.model.vocab;
    let without_token = byte_alphabet::without_token(|token| vocab.contains_key(token));
    let step = Step::deserialize(&file.pre_tokenizer)
        .map_err(|e| format!("the pre-tokenizer is none that llama.cpp has a name for: {e}"))?;
    let splitting = pre_tokenizer::recognise(step, &without_token)?;
    PreTokenizer::of(splitting, file.model.ignore_merges).ok_or_else(|| {
        format!(
            "the model has ignore_merges {}, which llama.cpp does not support with this pre-tokenizer",
            file.model.ignore_merges
        )
    })
}

/// The merges; of two with the same pair the last applies, as in the library.
pub(super) fn merges(model: &Model) -> Result<Vec<(&str, &str)>, String> {
    let mut pairs = Vec::with_capacity(model.merges.len());
    for (rank, merge) in model.merges.iter().enumerate() {
        let pair = match merge {
            Json::String(line) if line.starts_with("#version") => continue,
            Json::String(line) => line.split_once(' '),
            Json::Array(pair) => match pair.as_slice() {
                [Json::String(left), Json::String(right)] => Some((left.as_str(), right.as_str())),
                _ => None,
            },
            _ => None,
        };
        let Some((left, right)) = pair.filter(|(left, right)| !left.contains(' ') && !right.contains(' '))
        else {
            let merge = quoted(&merge.to_string());
            return Err(format!("merge {rank} is {merge}, not two tokens without spaces"));
        };
        let whole = [left, right].concat();
        if let Some(unknown) = [left, right, &whole].into_iter().find(|&part| !model.vocab.contains_key(part))
        {
            let (left, right) = (quoted(left), quoted(right));
            return Err(format!(
                "merge {rank} is of {left} and {right}, but {} is not a token",
                quoted(unknown)
            ));
        }
        pairs.push((left, right));
    }
    let mut seen = HashSet::with_capacity(pairs.len());
    let mut merges: Vec<_> = pairs.into_iter().rev().filter(|&pair| seen.insert(pair)).collect();
    merges.reverse();
    Ok(merges)
}

/// Tokens and their types, by id; those that are not added tokens must be in the byte alphabet.
pub(super) fn tokens(
    file: &File,
    vocabulary: usize,
    is_written: impl Fn(&str) -> bool,
    alphabet: &str,
) -> Result<(Vec<String>, Vec<i32>), String> {
    let vocab = &file.model.vocab;
    // llama.cpp uses i32.
    if i32::try_from(vocabulary).is_err() || vocabulary == 0 {
        return Err(format!("the vocabulary has {vocabulary} rows"));
    }
    let mut by_id: HashMap<u32, (&str, i32)> = HashMap::with_capacity(vocab.len());
    let mut put = |id: u32, token, kind| {
        if id as usize >= vocabulary {
            return Err(format!("{} has id {id}, but the vocabulary has {vocabulary} rows", quoted(token)));
        }
        match by_id.insert(id, (token, kind)) {
            Some((other, _)) if other != token => {
                Err(format!("{} and {} both have id {id}", quoted(other), quoted(token)))
            }
            _ => Ok(()),
        }
    };
    let mut entries: Vec<(u32, &String)> = vocab.iter().map(|(token, &id)| (id, token)).collect();
    entries.sort_unstable();
    for (id, token) in entries {
        put(id, token, if *token == padding_name(id) { token_type::UNUSED } else { token_type::NORMAL })?;
    }
    let mut next = vocab.len(); // the first id that the library assigns to added tokens
    let mut contents = HashSet::new();
    for AddedToken { id, content, special, .. } in &file.added_tokens {
        let expected = match vocab.get(content) {
            Some(&id) => id as usize,
            None => {
                next += 1;
                next - 1
            }
        };
        if content.is_empty() || !contents.insert(content.as_str()) {
            return Err(format!("the added token {} with id {id} is empty or there twice", quoted(content)));
        }
        if expected != *id as usize {
            let content = quoted(content);
            return Err(format!("the added token {content} has id {id}, but its place is {expected}"));
        }
        put(*id, content, if *special { token_type::CONTROL } else { token_type::USER_DEFINED })?;
    }

    let mut padding = Vec::new();
    let mut tokens = Vec::with_capacity(vocabulary);
    let mut types = Vec::with_capacity(vocabulary);
    for id in 0..vocabulary as u32 {
        let (token, kind) = match by_id.get(&id) {
            Some(&(token, kind)) => (token.to_owned(), kind),
            None => {
                padding.push(id);
                (padding_name(id), token_type::UNUSED)
            }
        };
        if token.is_empty() || (kind == token_type::NORMAL && !is_written(&token)) {
            let token = quoted(&token);
            return Err(format!("the token {token} with id {id} is not written in {alphabet}"));
        }
        tokens.push(token);
        types.push(kind);
    }
    let taken = |id: &&u32| {
        let token = &tokens[**id as usize];
        vocab.contains_key(token) || contents.contains(token.as_str())
    };
    if let Some(id) = padding.iter().find(taken) {
        return Err(format!("id {id} has no token and is to be named [PAD{id}], which is a token already"));
    }
    Ok((tokens, types))
}

/// The token of a row without one, as named by llama.cpp's converter.
fn padding_name(id: u32) -> String {
    format!("[PAD{id}]")
}
