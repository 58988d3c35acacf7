//! The `tokenizers` library, for what the compiled form cannot express.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use regex_syntax::is_word_character;
use serde_json::Value;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString,
    PreTokenizer, Token,
};

use super::byte_alphabet;
use super::compiled::overlaps;
use super::components::Checked;
use crate::TokenizerError;

/// A tokenizer of the library, and what its tokens stand for.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) tokenizer: tokenizers::Tokenizer,
    /// The added tokens by their ids; the library copies them all for each question.
    pub(super) added: BTreeMap<u32, AddedToken>,
    /// One more than the largest id.
    pub(super) id_limit: usize,
    spelling: Spelling,
    prefix: Vec<u32>,
}

/// How tokens spell the bytes of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// Each byte as a character of the byte alphabet.
    ByteAlphabet,
    /// As SentencePiece does: `▁` for a space, and `<0x..>` for single bytes.
    Sentencepiece {
        /// Whether there is a space before every text, which does not belong to it.
        has_prefix: bool,
    },
}

const SPACE: char = '\u{2581}';

impl Library {
    /// # Errors
    /// As [`Checked::new`], and [`TokenizerError::Json`] for a decoder of another kind.
    pub(super) fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let bad = |e: tokenizers::Error| TokenizerError::Json(e.to_string());
        let tokenizer = Checked::new(json)?.library()?;
        let spelling = spelling(tokenizer.get_decoder()).ok_or_else(|| {
            TokenizerError::Json(
                "its decoder is neither `ByteLevel` nor that of SentencePiece (`Metaspace`, or `Replace` of \u{2581} \
                 with `ByteFallback`), the kinds that this build turns back into text"
                    .into(),
            )
        })?;
        let prefix = prefix(&tokenizer).map_err(bad)?;
        let id_limit = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let added = tokenizer.get_added_tokens_decoder().into_iter().collect();
        Ok(Self { tokenizer, added, id_limit, spelling, prefix })
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding =
            self.tokenizer.encode_fast(text, false).map_err(|e| TokenizerError::Json(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`Self::encode`], but special tokens that overlap one of `plain` stay text, which the library can say only
    /// of a whole text: its steps, with a search for added tokens that knows their places.
    pub(super) fn encode_partly_plain(
        &self,
        text: &str,
        plain: &[Range<usize>],
    ) -> Result<Vec<u32>, TokenizerError> {
        let bad = |e: tokenizers::Error| TokenizerError::Json(e.to_string());
        let tokenizer = &self.tokenizer;
        let normalizer = tokenizer.get_normalizer();
        let normalize = |text: &mut NormalizedString| normalizer.map_or(Ok(()), |n| n.normalize(text));
        let is_text = |token: &AddedToken, place: &NormalizedString| {
            let (start, end) = place.offsets_original();
            token.special && overlaps(plain, &(start..end))
        };
        let mut parts = PreTokenizedString::from(text);
        let search = AddedTokens::new(&self.added, false, |_| Ok(())).map_err(bad)?;
        parts.split(|_, part| search.split(&part, is_text)).map_err(bad)?;
        let search = AddedTokens::new(&self.added, true, normalize).map_err(bad)?;
        parts
            .split(|_, mut part| {
                normalize(&mut part)?;
                search.split(&part, is_text)
            })
            .map_err(bad)?;
        if let Some(steps) = tokenizer.get_pre_tokenizer() {
            steps.pre_tokenize(&mut parts).map_err(bad)?;
        }
        let model = tokenizer.get_model();
        parts.tokenize(|part| model.tokenize(part.get())).map_err(bad)?;
        let encoding = parts.into_encoding(None, 0, OffsetType::None).map_err(bad)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids that stand before the text of a prompt.
    pub(super) fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The text behind the bytes of all tokens of one.
    pub(super) fn text_of(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        match self.spelling {
            Spelling::ByteAlphabet => text.into_owned(),
            Spelling::Sentencepiece { has_prefix } => {
                text.strip_prefix(' ').filter(|_| has_prefix).unwrap_or(&text).to_owned()
            }
        }
    }

    pub(super) fn bytes(&self, id: u32) -> Vec<u8> {
        if let Some(token) = self.added.get(&id) {
            return token.content.clone().into_bytes(); // written out, not spelled
        }
        let Some(token) = self.tokenizer.id_to_token(id) else { return Vec::new() };
        match self.spelling {
            Spelling::ByteAlphabet => {
                let mut bytes = Vec::with_capacity(token.len());
                for c in token.chars() {
                    match byte_alphabet::byte_of(c) {
                        Some(byte) => bytes.push(byte),
                        None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
                bytes
            }
            Spelling::Sentencepiece { .. } => {
                let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                match byte.filter(|hex| hex.len() == 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => vec![byte],
                    None => token.replace(SPACE, " ").into_bytes(),
                }
            }
        }
    }
}

/// Added tokens that are searched for together, by the first byte of their texts.
struct AddedTokens<'a> {
    /// Longest text first.
    tokens: HashMap<u8, Vec<(String, u32, &'a AddedToken)>>,
}

impl<'a> AddedTokens<'a> {
    /// Those that are searched for in texts as they are, or in normalized ones.
    fn new(
        added: &'a BTreeMap<u32, AddedToken>,
        normalized: bool,
        normalize: impl Fn(&mut NormalizedString) -> tokenizers::Result<()>,
    ) -> tokenizers::Result<Self> {
        let mut tokens: HashMap<u8, Vec<_>> = HashMap::new();
        for (&id, token) in added.iter().filter(|(_, token)| token.normalized == normalized) {
            let mut text = NormalizedString::from(token.content.as_str());
            normalize(&mut text)?;
            if let Some(&first) = text.get().as_bytes().first() {
                tokens.entry(first).or_default().push((text.get().to_owned(), id, token));
            }
        }
        tokens.values_mut().for_each(|tokens| tokens.sort_by_key(|(text, ..)| Reverse(text.len())));
        Ok(Self { tokens })
    }

    /// The parts of a text: the tokens in it, but those for which `is_text` holds, and what lies between.
    fn split(
        &self,
        text: &NormalizedString,
        is_text: impl Fn(&AddedToken, &NormalizedString) -> bool,
    ) -> tokenizers::Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
        let whole = text.get();
        let slice = |range: Range<usize>| {
            text.slice(tokenizers::normalizer::Range::Normalized(range)).ok_or("a place out of the text")
        };
        let mut parts = Vec::new();
        let (mut done, mut from) = (0, 0);
        while let Some((place, id, token)) = self.find(whole, from) {
            from = place.end;
            let (before, after) = (&whole[..place.start], &whole[place.end..]);
            let is_in_word = before.chars().next_back().is_some_and(is_word_character)
                || after.chars().next().is_some_and(is_word_character);
            if is_text(token, &slice(place.clone())?) || token.single_word && is_in_word {
                continue;
            }
            let start = if token.lstrip { before.trim_end().len().max(done) } else { place.start };
            let end = if token.rstrip { whole.len() - after.trim_start().len() } else { place.end };
            if done < start {
                parts.push((slice(done..start)?, None));
            }
            let found = slice(start..end)?;
            let token = Token::new(id, found.get().to_owned(), (0, end - start));
            parts.push((found, Some(vec![token])));
            done = end;
        }
        if done < whole.len() {
            parts.push((slice(done..whole.len())?, None));
        }
        Ok(parts)
    }

    /// The leftmost token of a text behind `from`, the longest of those that begin together.
    fn find(&self, text: &str, from: usize) -> Option<(Range<usize>, u32, &'a AddedToken)> {
        let bytes = text.as_bytes();
        (from..bytes.len()).find_map(|at| {
            let tokens = self.tokens.get(&bytes[at])?;
            let (found, id, token) =
                tokens.iter().find(|(token, ..)| bytes[at..].starts_with(token.as_bytes()))?;
            Some((at..at + found.len(), *id, *token))
        })
    }
}

/// The ids that the post-processor puts before a text.
pub(super) fn prefix(tokenizer: &tokenizers::Tokenizer) -> tokenizers::Result<Vec<u32>> {
    const TEXT: &str = "a";
    let (with, without) = (tokenizer.encode_fast(TEXT, true)?, tokenizer.encode_fast(TEXT, false)?);
    let (with, without) = (with.get_ids(), without.get_ids());
    let at = with.windows(without.len().max(1)).position(|ids| ids == without);
    Ok(with[..at.unwrap_or(0)].to_vec())
}

fn spelling(decoder: Option<&DecoderWrapper>) -> Option<Spelling> {
    if let Some(DecoderWrapper::ByteLevel(_)) = decoder {
        return Some(Spelling::ByteAlphabet);
    }
    let decoder = serde_json::to_value(decoder?).ok()?;
    let steps = match decoder["decoders"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(&decoder),
    };
    let space = Value::from(SPACE.to_string());
    let is_space = |step: &Value| match step["type"].as_str() {
        Some("Metaspace") => step["replacement"] == space,
        Some("Replace") => step["pattern"]["String"] == space && step["content"] == " ",
        _ => false,
    };
    let is_known = |step: &Value| match step["type"].as_str() {
        Some("ByteFallback" | "Fuse") => true,
        Some("Strip") => step["content"] == " ",
        _ => is_space(step),
    };
    let is_prefix = |step: &Value| match step["type"].as_str() {
        Some("Metaspace") => step["prepend_scheme"] != "never",
        Some("Strip") => step["start"] != 0,
        _ => false,
    };
    let has_prefix = steps.iter().any(is_prefix);
    (steps.iter().any(is_space) && steps.iter().all(is_known))
        .then_some(Spelling::Sentencepiece { has_prefix })
}
