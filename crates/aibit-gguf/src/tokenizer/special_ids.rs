//! Special tokens: those used in prompts and to end a text.

use super::{ADD_BOS, ADD_EOS, BOS, CHAT_TEMPLATE, EOM, EOS, EOT, MODEL, PAD, SENTENCEPIECE, TOKENS, UNK};
use super::{bad, pre_tokenizer_of, required};
use crate::{GgufError, Metadata};

/// The special tokens of a GGUF file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// Replaces text without a token.
    pub unk: Option<u32>,
    /// Pads the rows of a batch.
    pub pad: Option<u32>,
    /// End of a turn in a conversation.
    pub eot: Option<u32>,
    /// End of a message to a tool.
    pub eom: Option<u32>,
    /// Whether `bos` is prepended to prompts.
    pub add_bos: bool,
    /// Whether `eos` is appended to prompts.
    pub add_eos: bool,
    /// Jinja template that renders a conversation as a prompt.
    pub chat_template: Option<String>,
}

/// The texts that llama.cpp treats as end of turn if the file names no token, in order of preference.
const END_OF_TURN: [&str; 9] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "<|end_of_text|>",
    "<|endoftext|>",
];

/// The text that it treats as end of message if the file names no token.
const END_OF_MESSAGE: &str = "<|eom_id|>";

/// The special tokens of a GGUF file.
///
/// Defaults are llama.cpp's: `add_bos` and `add_eos` depend on the kind of tokenizer, `eot` and `eom` are the tokens
/// with the usual texts, and SentencePiece's first three tokens are `unk`, `bos` and `eos`. Other tokens that the
/// file does not name are `None`: llama.cpp uses number 11, which is right for few models.
///
/// # Errors
/// [`GgufError::Metadata`] for an unknown tokenizer, a value of the wrong type, an id without a token, and
/// `add_bos_token` or `add_eos_token` without the token.
pub fn special_ids(metadata: &Metadata) -> Result<SpecialIds, GgufError> {
    let tokens = required(TOKENS, metadata.strings(TOKENS)?)?;
    let model = required(MODEL, metadata.string(MODEL)?)?;
    let (bos_by_default, eos_by_default) = match model {
        SENTENCEPIECE | "bert" => (true, false),
        "t5" => (false, true),
        "rwkv" => (false, false),
        _ => (pre_tokenizer_of(metadata)?.add_bos, false),
    };
    let id = |key| match metadata.integer(key)? {
        Some(id) if id >= tokens.len() as u64 => {
            Err(bad(key, format!("is {id}, but there are {} tokens", tokens.len())))
        }
        id => Ok(id.map(|id| id as u32)),
    };
    // SentencePiece's trainer assigns them these ids.
    let by_default =
        |place: u32| (model == SENTENCEPIECE && (place as usize) < tokens.len()).then_some(place);
    let (bos, eos) = (id(BOS)?.or(by_default(1)), id(EOS)?.or(by_default(2)));
    let add = |key, token: Option<u32>, token_key, default: bool| match (metadata.boolean(key)?, token) {
        (Some(true), None) => Err(bad(key, format!("is true, but there is no `{token_key}`"))),
        (add, token) => Ok(token.is_some() && add.unwrap_or(default)),
    };
    let place = |text: &&str| tokens.iter().position(|token| token == text);
    let first_of = |texts: &[&str]| texts.iter().find_map(place).and_then(|id| u32::try_from(id).ok());
    Ok(SpecialIds {
        bos,
        eos,
        unk: id(UNK)?.or(by_default(0)),
        pad: id(PAD)?,
        eot: id(EOT)?.or_else(|| first_of(&END_OF_TURN)),
        eom: id(EOM)?.or_else(|| first_of(&[END_OF_MESSAGE])),
        add_bos: add(ADD_BOS, bos, BOS, bos_by_default)?,
        add_eos: add(ADD_EOS, eos, EOS, eos_by_default)?,
        chat_template: metadata.string(CHAT_TEMPLATE)?.map(str::to_owned),
    })
}
