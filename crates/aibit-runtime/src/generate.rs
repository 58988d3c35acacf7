//! From a prompt to a continuation.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::info_span;

use crate::decoder::{Decoder, Piece};
use crate::logits_processors::LogitsProcessors;
use crate::sampler::SamplerOptions;
use crate::{RuntimeError, Session, Tokenizer};

/// What to generate and when to stop. By default the likeliest tokens, until something else stops.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Most tokens to generate; `None`: until something else stops.
    pub max_tokens: Option<usize>,
    /// How the next token is chosen.
    pub sampler: SamplerOptions,
    /// Rules on which tokens may come.
    pub processors: LogitsProcessors,
    /// Ids that end the text; they are not part of it.
    pub stop_ids: Vec<u32>,
    /// Strings that end the text; they are not part of it.
    pub stop_strings: Vec<String>,
    /// Whether pieces have their log-probabilities, which take a pass over the logits each.
    pub logprobs: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: None,
            sampler: SamplerOptions::greedy(),
            processors: LogitsProcessors::default(),
            stop_ids: Vec::new(),
            stop_strings: Vec::new(),
            logprobs: false,
        }
    }
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The number of tokens asked for.
    Length,
    /// A stop id, the end-of-text token for instance.
    StopId,
    /// A stop string.
    StopString,
    /// All positions of the context are taken.
    Context,
    /// The caller asked to stop.
    Interrupted,
}

/// A continuation.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The tokens generated, without the stop id that ended them.
    pub ids: Vec<u32>,
    /// Their text, without the stop string that ended it.
    pub text: String,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// From the call to the logits after the prompt.
    pub prefill: Duration,
    /// From the call to the choice of the first token.
    pub first_token: Duration,
    /// Spent on the passes after the first token.
    pub decode: Duration,
    /// Number of those passes.
    pub decode_steps: usize,
}

/// Appends `prompt` to the session and generates. `on_text` gets the text as it comes, never half a character
/// and never part of a stop string, and may break to stop.
///
/// When the context is full, generation ends with [`StopReason::Context`]; nothing is shifted or forgotten.
///
/// # Errors
/// [`RuntimeError::ContextFull`] for a prompt that does not fit, [`RuntimeError::EmptyPrompt`],
/// [`RuntimeError::Tokenizer`] for a token that the model has no row for, [`RuntimeError::Sampler`] and
/// [`RuntimeError::Stop`] for options out of range.
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation, RuntimeError> {
    generate_after(session, tokenizer, prompt, 0, options, on_text)
}

/// As [`generate`], where the session ends with the first `computed` ids of `prompt`.
pub(crate) fn generate_after(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    computed: usize,
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation, RuntimeError> {
    let decoder = Decoder::new(tokenizer, prompt, options)?;
    let mut pieces = Pieces::new(session, decoder, &prompt[computed..])?;
    let mut text = String::new();
    while let Some(piece) = pieces.next() {
        let piece = piece?;
        text.push_str(&piece.text);
        if on_text(&piece.text).is_break() && pieces.decoder.stopped() != Some(StopReason::StopString) {
            pieces.decoder.interrupt();
        }
    }
    let rest = pieces.decoder.finish();
    text.push_str(&rest);
    let _ = on_text(&rest); // the end has been reached either way
    let Pieces { decoder, prefill, first_token, decode, decode_steps, .. } = pieces;
    let stop_reason = decoder.stopped().unwrap_or(StopReason::Interrupted);
    let (ids, first_token) = (decoder.generated().to_vec(), first_token.unwrap_or(prefill));
    Ok(Generation { ids, text, stop_reason, prefill, first_token, decode, decode_steps })
}

/// A continuation, token by token: computes in `session`, with what `decoder` chooses.
///
/// The text ends with what [`Decoder::finish`] returns.
pub struct Pieces<'a, 't> {
    session: &'a mut Session,
    decoder: Decoder<'t>,
    /// Ids that have not been appended to the session.
    pending: Vec<u32>,
    start: Instant,
    prefill: Duration,
    /// From the start to the choice of the first token.
    first_token: Option<Duration>,
    decode: Duration,
    decode_steps: usize,
    has_begun: bool,
}

impl<'a, 't> Pieces<'a, 't> {
    /// What follows the session and `prompt`, which is not part of it yet.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] for a token that the model has no row for.
    pub fn new(session: &'a mut Session, decoder: Decoder<'t>, prompt: &[u32]) -> Result<Self, RuntimeError> {
        let start = Instant::now();
        decoder.tokenizer().check_ids(prompt, session.limits().vocabulary)?;
        Ok(Self {
            session,
            decoder,
            pending: prompt.to_vec(),
            start,
            prefill: Duration::ZERO,
            first_token: None,
            decode: Duration::ZERO,
            decode_steps: 0,
            has_begun: false,
        })
    }

    /// The decoder: why generation has stopped, the rest of the text.
    pub fn decoder(&mut self) -> &mut Decoder<'t> {
        &mut self.decoder
    }

    fn first(&mut self) -> Result<Option<Piece>, RuntimeError> {
        let _span = info_span!("first token").entered();
        let logits = info_span!("prefill").in_scope(|| self.session.append(&self.pending))?;
        self.prefill = self.start.elapsed();
        let piece = self.decoder.push(logits)?;
        if self.decoder.stopped() != Some(StopReason::Length) || piece.is_some() {
            self.first_token = Some(self.start.elapsed());
        }
        Ok(piece)
    }

    fn following(&mut self) -> Result<Option<Piece>, RuntimeError> {
        let start = Instant::now();
        let logits = info_span!("decode").in_scope(|| self.session.append(&self.pending))?;
        self.decode += start.elapsed();
        self.decode_steps += 1;
        self.decoder.push(logits)
    }
}

impl Iterator for Pieces<'_, '_> {
    type Item = Result<Piece, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if !is_first {
            if self.decoder.stopped().is_some() {
                return None;
            }
            if self.session.len() == self.session.capacity() {
                self.decoder.stop(StopReason::Context);
                return None;
            }
        }
        let piece = if is_first { self.first() } else { self.following() };
        if let Ok(Some(piece)) = &piece {
            self.pending.clear();
            self.pending.push(piece.id);
        }
        piece.transpose()
    }
}
