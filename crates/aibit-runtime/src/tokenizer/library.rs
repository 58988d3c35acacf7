//! The `tokenizers` library, for what the compiled form cannot express.

use serde_json::Value;
use tokenizers::DecoderWrapper;

use super::byte_alphabet;
use crate::RuntimeError;

/// A tokenizer of the library, and what its tokens stand for.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) tokenizer: tokenizers::Tokenizer,
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
    /// [`RuntimeError::Tokenizer`] for a malformed file, and for a decoder of another kind.
    pub(super) fn from_json(json: &[u8]) -> Result<Self, RuntimeError> {
        let bad = |e: tokenizers::Error| RuntimeError::Tokenizer(e.to_string());
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(bad)?;
        let spelling = spelling(tokenizer.get_decoder()).ok_or_else(|| {
            RuntimeError::Tokenizer(
                "its decoder is neither `ByteLevel` nor that of SentencePiece (`Metaspace`, or `Replace` of \u{2581} \
                 with `ByteFallback`), the kinds that this build turns back into text"
                    .into(),
            )
        })?;
        // A file may ask for both; prompts are taken as they are.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(bad)?;
        let prefix = prefix(&tokenizer).map_err(bad)?;
        Ok(Self { tokenizer, spelling, prefix })
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        let encoding =
            self.tokenizer.encode_fast(text, false).map_err(|e| RuntimeError::Tokenizer(e.to_string()))?;
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
        let Some(token) = self.tokenizer.id_to_token(id) else { return Vec::new() };
        if self.tokenizer.get_added_tokens_decoder().contains_key(&id) {
            return token.into_bytes(); // written out, not spelled
        }
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
