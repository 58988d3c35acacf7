use aibit_chat::ChatError;
use aibit_format::FormatError;
use aibit_graph::ContextLimit;
use aibit_tokenizer::TokenizerError;

use crate::sampler::SamplerError;
use crate::text_stream::StopError;

/// Why a package cannot be executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The archive is broken.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A sampling option is out of range, or the logits are not numbers.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The stop strings cannot be used.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The tokenizer cannot be used, or not for this text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A conversation cannot be written as text.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// `golden.json` cannot be used.
    #[error("golden.json: {0:.1000}")]
    Golden(String),
    /// A package's generation settings cannot be used.
    #[error("{file}: {problem:.1000}")]
    Settings {
        /// Name of the entry.
        file: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A token id beyond the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocabulary} ids")]
    TokenId {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// More tokens than the context holds.
    #[error(
        "{tokens} tokens do not fit: {used} of {context} positions of the context are taken{}",
        limit.map_or("", reason)
    )]
    ContextFull {
        /// Tokens to be added.
        tokens: usize,
        /// Positions already taken.
        used: usize,
        /// All positions.
        context: usize,
        /// Why there are not more, where the model has an end of its own.
        limit: Option<ContextLimit>,
    },
    /// Nothing to start from.
    #[error("the prompt has no tokens; give at least one")]
    EmptyPrompt,
    /// The system does not give the memory that a sequence needs.
    #[error(
        "no memory for {what}: {} bytes are needed; ask for a shorter context",
        .bytes.map_or("more than 2^64".to_owned(), |bytes| bytes.to_string())
    )]
    Memory {
        /// What it is for.
        what: &'static str,
        /// How much; `None` if no `usize` can say.
        bytes: Option<usize>,
    },
    /// Every page of the KV cache is in use.
    #[error("all {pages} pages of the KV cache are in use; end a sequence, or allow for more pages")]
    PagesExhausted {
        /// Pages that there may be.
        pages: usize,
    },
    /// A text too short to be scored.
    #[error("the text has {tokens} tokens, at least 2 are needed to predict one from another")]
    TextTooShort {
        /// Its length.
        tokens: usize,
    },
    /// Numbers that cannot be a window and its stride.
    #[error(
        "window {window}, stride {stride}: allowed are 2 <= window <= {context} and 1 <= stride <= window"
    )]
    Window {
        /// Tokens per window.
        window: usize,
        /// Tokens from one window to the next.
        stride: usize,
        /// Longest window that the model takes.
        context: usize,
    },
    /// A text of which no second halves of windows can be scored.
    #[error(
        "no second half of a window can be scored: the text has {tokens} tokens, windows are {window} long every \
         {stride}; at least 3, all of them one after the other, and one whole window are needed"
    )]
    SecondHalf {
        /// Tokens per window.
        window: usize,
        /// Tokens from one window to the next.
        stride: usize,
        /// Length of the text.
        tokens: usize,
    },
    /// Two packages that cannot be compared token by token.
    #[error("the two packages cannot be compared: {0}")]
    NotComparable(String),
}

/// What ends a context, as an error says it.
fn reason(limit: ContextLimit) -> &'static str {
    match limit {
        ContextLimit::DynamicRope => {
            ", which is the model's original context: beyond it its dynamic RoPE scaling depends on the length of the \
             sequence, which is not supported"
        }
        ContextLimit::SlidingWindow => {
            ", which is the model's sliding window: attention that leaves out what is further back is not supported"
        }
    }
}
