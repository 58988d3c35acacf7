//! The package's tokenizer: the source's own `tokenizer.json`, and the bytes behind each id.

use aibit_format::{Archive, entry_names};
use tokenizers::DecoderWrapper;

use crate::RuntimeError;

/// Text to ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// The tokenizer of an open archive.
    ///
    /// # Errors
    /// As [`Tokenizer::from_json`]; [`RuntimeError::Format`] where the archive has none.
    pub fn load(archive: &Archive) -> Result<Self, RuntimeError> {
        Self::from_json(archive.entry(entry_names::TOKENIZER)?.data)
    }

    /// A tokenizer from the bytes of `tokenizer.json`.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] for a malformed file, and for one whose decoder is not byte-level, the only
    /// kind so far.
    pub fn from_json(json: &[u8]) -> Result<Self, RuntimeError> {
        let mut inner =
            tokenizers::Tokenizer::from_bytes(json).map_err(|e| RuntimeError::Tokenizer(e.to_string()))?;
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(RuntimeError::Tokenizer(
                "its decoder is not `ByteLevel`, the only kind that this build turns back into text".into(),
            ));
        }
        // A file may ask for both; prompts are taken as they are.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| RuntimeError::Tokenizer(e.to_string()))?;
        Ok(Self { inner })
    }

    /// The ids of `text`. Special tokens are recognised where they are written out; none are added.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] if the text cannot be expressed, which byte-level vocabularies never cause.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|e| RuntimeError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, special tokens left out; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> =
            ids.iter().filter(|&&id| !self.is_special(id)).flat_map(|&id| self.bytes(id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that a token stands for; none for an unknown id.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        if self.inner.get_added_tokens_decoder().contains_key(&id) {
            return token.into_bytes(); // written out, not in the byte alphabet
        }
        token.chars().flat_map(bytes_of_char).collect()
    }

    /// Whether an id stands for a control token and not for text.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// The id of a token written as in `tokenizer.json`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// One more than the largest id.
    pub fn id_limit(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }
}

/// A character of the byte-level alphabet back to its byte: printable Latin-1 stands for itself, the other 68
/// bytes for U+0100 onwards in order. Source: `bytes_to_unicode` in GPT-2's `encoder.py`.
fn bytes_of_char(c: char) -> Vec<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => vec![code as u8],
        code @ 0x100..=0x143 => {
            let nth = (code - 0x100) as u8;
            vec![match nth {
                0..=0x20 => nth,
                0x21..=0x42 => nth - 0x21 + 0x7f,
                _ => 0xad,
            }]
        }
        _ => c.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_that_of_gpt2() {
        // bytes_to_unicode() of encoder.py, stated as a loop over bytes.
        let mut next = 0x100;
        for byte in 0..=255_u8 {
            let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable { u32::from(byte) } else { next };
            next += u32::from(!printable);
            assert_eq!(bytes_of_char(char::from_u32(code).expect("a character")), [byte], "byte {byte:#04x}");
        }
        assert_eq!(next, 0x144);
    }
}
