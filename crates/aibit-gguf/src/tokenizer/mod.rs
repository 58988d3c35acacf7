//! Conversion between the `tokenizer.ggml.*` keys of a GGUF file and the `tokenizer.json` of Hugging Face.
//!
//! Supported are byte-level BPE (`gpt2` in a GGUF file) with the pre-tokenizers of [`pre_tokenizer`], and
//! SentencePiece BPE (`llama`).

mod byte_alphabet;
mod ends_of_text;
mod from_json;
mod pre_tokenizer;
mod sentencepiece;
mod special_ids;
mod to_json;

use serde::{Deserialize, Serialize};

use self::pre_tokenizer::PreTokenizer;
use crate::{GgufError, Metadata};

pub use self::ends_of_text::{ends_of_text, is_end_of_text};
pub use self::from_json::tokenizer_metadata;
pub use self::special_ids::{SpecialIds, special_ids};
pub use self::to_json::tokenizer_json;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNK: &str = "tokenizer.ggml.unknown_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The values of `tokenizer.ggml.token_type`.
mod token_type {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// A token of `tokenizer.json` that is matched literally before the text is split.
#[derive(Debug, Serialize, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// A key's value, or an error if the key is missing.
fn required<T>(key: &str, value: Option<T>) -> Result<T, GgufError> {
    value.ok_or_else(|| bad(key, "is missing; the file has no complete tokenizer".into()))
}

fn bad(key: &str, problem: String) -> GgufError {
    GgufError::Metadata { key: key.to_owned(), problem }
}

/// The value of `tokenizer.ggml.model` for SentencePiece BPE.
const SENTENCEPIECE: &str = "llama";

/// The pre-tokenizer of a GGUF file's byte-level tokenizer.
///
/// # Errors
/// [`GgufError::Metadata`] unless it is byte-level BPE with a known pre-tokenizer.
fn pre_tokenizer_of(metadata: &Metadata) -> Result<&'static PreTokenizer, GgufError> {
    let model = required(MODEL, metadata.string(MODEL)?)?;
    let kind = match model {
        "gpt2" => None,
        "bert" => Some("WordPiece"),
        "t5" => Some("Unigram"),
        _ => Some("of a kind of its own"),
    };
    if let Some(kind) = kind {
        let problem = format!(
            "is {} ({kind}); only byte-level BPE, `gpt2`, and SentencePiece BPE, `llama`, are supported: use the original \
             checkpoint of the model",
            quoted(model)
        );
        return Err(bad(MODEL, problem));
    }
    let name = metadata.string(PRE)?.filter(|&name| name != "default").ok_or_else(|| {
        let problem = "does not say how texts are split: convert the original checkpoint again, \
                       llama.cpp writes the key since April 2024";
        bad(PRE, problem.into())
    })?;
    PreTokenizer::of_name(name).ok_or_else(|| {
        let problem = format!(
            "is {}, which is unknown; known are gpt-2, smollm, llama-bpe, qwen2 and the names that llama.cpp \
             treats like one of them: use the original checkpoint of the model",
            quoted(name)
        );
        bad(PRE, problem)
    })
}

/// A text from the file for error messages: quoted and truncated.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}
