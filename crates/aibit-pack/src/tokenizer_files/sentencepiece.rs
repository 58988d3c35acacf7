//! Conversion of SentencePiece's `tokenizer.model`, a small protobuf, to a `tokenizer.json` with the same ids.
//!
//! Source: `sentencepiece_model.proto`; the steps are those of transformers' `build_tokenizer_from_spm_proto`.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::Object;

/// Replaces a space.
const SPACE: &str = "\u{2581}";

/// Bounds the bytes compared to find pairs; a vocabulary of 256,000 pieces needs less than a hundredth of it.
const MAX_COMPARED: u64 = 1 << 30;

/// A parsed, supported model.
#[derive(Debug, Default)]
pub(super) struct Model {
    pieces: Vec<Piece>,
    is_bpe: bool,
    byte_fallback: bool,
    unk_id: i64,
    bos_id: i64,
    eos_id: i64,
    unk_piece: String,
    bos_piece: String,
    eos_piece: String,
    charsmap: Vec<u8>,
    adds_prefix: bool,
    removes_spaces: bool,
    escapes_spaces: bool,
}

#[derive(Debug)]
struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// Values of a piece's `type`.
mod kind {
    pub(super) const NORMAL: u64 = 1;
    pub(super) const CONTROL: u64 = 3;
    pub(super) const USER_DEFINED: u64 = 4;
}

impl Model {
    /// # Errors
    /// What it is instead, or why it is not supported.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            bos_id: 1,
            eos_id: 2,
            unk_piece: "<unk>".into(),
            bos_piece: "<s>".into(),
            eos_piece: "</s>".into(),
            adds_prefix: true,
            removes_spaces: true,
            escapes_spaces: true,
            ..Self::default()
        };
        let mut kind = 1;
        let mut is_suffix = false;
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => model.pieces.push(Piece::parse(piece)?),
                (2, Field::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        match field? {
                            (3, Field::Number(number)) => kind = number,
                            (24, Field::Number(number)) => is_suffix = number != 0,
                            (35, Field::Number(number)) => model.byte_fallback = number != 0,
                            (40, Field::Number(number)) => model.unk_id = number.cast_signed(),
                            (41, Field::Number(number)) => model.bos_id = number.cast_signed(),
                            (42, Field::Number(number)) => model.eos_id = number.cast_signed(),
                            (45, Field::Bytes(piece)) => model.unk_piece = text(piece)?,
                            (46, Field::Bytes(piece)) => model.bos_piece = text(piece)?,
                            (47, Field::Bytes(piece)) => model.eos_piece = text(piece)?,
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    for field in Fields(normalizer) {
                        match field? {
                            (2, Field::Bytes(charsmap)) => model.charsmap = charsmap.to_owned(),
                            (3, Field::Number(number)) => model.adds_prefix = number != 0,
                            (4, Field::Number(number)) => model.removes_spaces = number != 0,
                            (5, Field::Number(number)) => model.escapes_spaces = number != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        model.is_bpe = match kind {
            1 => false,
            2 => true,
            3 => return Err("it is a word model, not BPE or unigram".into()),
            4 => return Err("it is a character model, not BPE or unigram".into()),
            other => return Err(format!("it is a model of unknown type {other}")),
        };
        if is_suffix {
            return Err("it treats whitespace as a suffix".into());
        }
        if model.pieces.is_empty() {
            return Err(NOT_A_MODEL.into());
        }
        Ok(model)
    }

    /// Whether a space is prepended to a text.
    pub(super) fn adds_prefix(&self) -> bool {
        self.adds_prefix
    }

    /// The model's special tokens, by the names of transformers' fields.
    pub(super) fn names(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("bos_token", self.bos_id, &self.bos_piece),
            ("eos_token", self.eos_id, &self.eos_piece),
            ("unk_token", self.unk_id, &self.unk_piece),
        ]
        .into_iter()
        .filter(|(_, id, _)| *id >= 0)
        .map(|(name, _, piece)| (name, piece.as_str()))
    }

    /// The `tokenizer.json`. With `is_legacy`, a space is prepended to each part of a text between special tokens,
    /// otherwise only to the first.
    ///
    /// # Errors
    /// What is wrong with the model's pieces.
    pub(super) fn tokenizer(&self, is_legacy: bool) -> Result<Object, String> {
        let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let regex = |regex: &str| json!({ "Regex": regex });
        let user_defined: Vec<&str> =
            self.pieces_of(kind::USER_DEFINED).map(|(_, piece)| piece.text.as_str()).collect();
        // Llama 2's, with the steps that transformers writes for it, which exports recognise.
        let is_plain = self.charsmap.is_empty()
            && !self.removes_spaces
            && self.escapes_spaces
            && user_defined.is_empty();
        let prepends = is_plain && self.adds_prefix && is_legacy;
        let mut normalizers = Vec::new();
        if prepends {
            normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
        }
        if !self.charsmap.is_empty() {
            normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(&self.charsmap)}));
        }
        if self.removes_spaces {
            normalizers.push(replace(regex(r"\A +| +\z"), ""));
            normalizers.push(replace(regex(" {2,}"), " "));
        }
        if self.escapes_spaces {
            normalizers.push(replace(json!({ "String": " " }), SPACE));
        }
        if self.adds_prefix && is_legacy && !prepends {
            // The next step does not prepend a space before an existing one.
            normalizers.push(replace(regex(r"\A▁"), "▁▁"));
        }
        let mut pre_tokenizers = Vec::new();
        if self.adds_prefix && !prepends {
            let scheme = if is_legacy { "always" } else { "first" };
            pre_tokenizers.push(
                json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false}),
            );
        }
        if !user_defined.is_empty() {
            let mut pieces = user_defined.clone();
            pieces.sort_by_key(|piece| (std::cmp::Reverse(piece.chars().count()), *piece));
            let pattern = pieces.iter().map(|piece| escaped(piece)).collect::<Vec<_>>().join("|");
            pre_tokenizers.push(
                json!({"type": "Split", "pattern": regex(&pattern), "behavior": "Isolated", "invert": false}),
            );
        }
        let mut decoders = vec![replace(json!({ "String": SPACE }), " ")];
        if self.byte_fallback {
            decoders.push(json!({"type": "ByteFallback"}));
        }
        if self.byte_fallback || self.adds_prefix {
            decoders.push(json!({"type": "Fuse"}));
        }
        if self.adds_prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let control = self.pieces_of(kind::CONTROL).map(|(id, piece)| {
            json!({"id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        });
        let pre_tokenizer = if pre_tokenizers.is_empty() {
            Value::Null
        } else {
            json!({"type": "Sequence", "pretokenizers": pre_tokenizers})
        };
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": control.collect::<Vec<_>>(),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": pre_tokenizer,
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": if self.is_bpe { self.bpe(!user_defined.is_empty())? } else { self.unigram()? },
        });
        match file {
            Value::Object(file) => Ok(file),
            _ => Ok(Object::new()),
        }
    }

    fn pieces_of(&self, kind: u64) -> impl Iterator<Item = (usize, &Piece)> {
        self.pieces.iter().enumerate().filter(move |(_, piece)| piece.kind == kind)
    }

    fn bpe(&self, ignores_merges: bool) -> Result<Value, String> {
        let mut vocab = Object::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            if let Some(first) = vocab.insert(piece.text.clone(), id.into()) {
                return Err(format!(
                    "the piece {:?} is duplicate, with the ids {first} and {id}",
                    piece.text
                ));
            }
        }
        Ok(json!({
            "type": "BPE", "dropout": null, "unk_token": self.unk_piece, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.byte_fallback,
            "ignore_merges": ignores_merges, "vocab": vocab, "merges": self.merges()?,
        }))
    }

    /// Every pair of pieces whose union is a piece, by decreasing score: SentencePiece merges by the union's score.
    fn merges(&self) -> Result<Vec<[&str; 2]>, String> {
        let compared = self.pieces.iter().map(|piece| (piece.text.len() as u64).saturating_pow(2));
        if compared.fold(0, u64::saturating_add) > MAX_COMPARED {
            return Err("its pieces are too long to find how they are merged".into());
        }
        let normal: HashMap<&str, f32> =
            self.pieces_of(kind::NORMAL).map(|(_, piece)| (piece.text.as_str(), piece.score)).collect();
        let mut ranked = Vec::new();
        for (id, piece) in self.pieces_of(kind::NORMAL) {
            for (cut, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(cut);
                if normal.contains_key(left) && normal.contains_key(right) {
                    ranked.push((piece.score, id, left, right));
                }
            }
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        Ok(ranked.into_iter().map(|(_, _, left, right)| [left, right]).collect())
    }

    fn unigram(&self) -> Result<Value, String> {
        let unk_id = usize::try_from(self.unk_id).ok().filter(|&id| id < self.pieces.len());
        let unk_id = unk_id
            .ok_or_else(|| format!("its unk_id is {}, of {} pieces", self.unk_id, self.pieces.len()))?;
        let vocab: Vec<Value> = self.pieces.iter().map(|piece| json!([piece.text, piece.score])).collect();
        Ok(json!({"type": "Unigram", "unk_id": unk_id, "vocab": vocab, "byte_fallback": self.byte_fallback}))
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: kind::NORMAL };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(bytes)) => piece.text = text(bytes)?,
                (2, Field::Float(score)) => piece.score = score,
                (3, Field::Number(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        if piece.text.is_empty() || !piece.score.is_finite() {
            return Err(format!("it has the piece {:?} with the score {}", piece.text, piece.score));
        }
        Ok(piece)
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| NOT_A_MODEL.to_owned())
}

const NOT_A_MODEL: &str =
    "it is not a SentencePiece model (some folders have a tiktoken tokenizer under this name)";

/// A value of a protobuf message.
enum Field<'a> {
    Number(u64),
    Float(f32),
    Double,
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message, by number.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.number()?;
        let field = match key & 7 {
            0 => Field::Number(self.number()?),
            1 => {
                self.take(8)?;
                Field::Double
            }
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| NOT_A_MODEL.to_owned()))
    }
}

/// A regular expression that matches a text literally.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && c != '_' && c != '<' && c != '>' {
            escaped.push('\\');
        }
        match c {
            '\n' | '\r' | '\t' => write!(escaped, r"\x{:02x}", u32::from(c)).expect("memory"),
            _ => escaped.push(c),
        }
    }
    escaped
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let value = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let is_padding = digit > group.len();
            text.push(if is_padding {
                '='
            } else {
                char::from(DIGITS[(value >> (18 - 6 * digit)) as usize & 63])
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_its_specification_has_it() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmE=", "fooba")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn other_files_are_no_models() {
        for bytes in [&b""[..], b"IQ== 0\nIg== 1\n", b"{\"a\": 1}", &[0x0a, 0xff], &[0x0a, 0x02, 0x0a, 0x05]]
        {
            Model::parse(bytes).expect_err("not a model");
        }
    }
}
