//! From a prompt to a continuation.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::info_span;

use crate::logits_processors::{History, LogitsProcessors};
use crate::sampler::{Sampler, SamplerOptions};
use crate::text_stream::TextStream;
use crate::{RuntimeError, Session, Tokenizer};

/// What to generate and when to stop.
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
    let start = Instant::now();
    tokenizer.check_ids(&prompt[computed..], session.limits().vocabulary)?;
    let mut sampler = Sampler::new(options.sampler.clone(), options.processors.clone())?;
    let mut stream = TextStream::new(options.stop_strings.clone())?;
    let mut history = prompt.to_vec();
    let mut text = String::new();
    let mut decode = Duration::ZERO;
    let mut decode_steps = 0;

    let mut until_first_token = Some(info_span!("first token").entered());
    let mut logits = info_span!("prefill").in_scope(|| session.append(&prompt[computed..]))?;
    let prefill = start.elapsed();
    let mut first_token = None;
    let mut stop_reason = loop {
        if options.max_tokens.is_some_and(|max| history.len() - prompt.len() >= max) {
            break StopReason::Length;
        }
        let (max_tokens, stop_ids) = (options.max_tokens, options.stop_ids.as_slice());
        let so_far = History { ids: &history, prompt: prompt.len(), max_tokens, stop_ids };
        let id = info_span!("sample").in_scope(|| sampler.sample(logits, &so_far))?;
        first_token.get_or_insert_with(|| start.elapsed());
        drop(until_first_token.take());
        if options.stop_ids.contains(&id) {
            break StopReason::StopId;
        }
        history.push(id);
        let bytes = if tokenizer.is_special(id) { Vec::new() } else { tokenizer.bytes(id) };
        let step = stream.push(&bytes);
        text.push_str(&step.text);
        let flow = on_text(&step.text);
        if step.stopped.is_some() {
            break StopReason::StopString;
        }
        if flow.is_break() {
            break StopReason::Interrupted;
        }
        if options.max_tokens.is_some_and(|max| history.len() - prompt.len() >= max) {
            break StopReason::Length; // before a pass whose result nobody reads
        }
        if session.len() == session.capacity() {
            break StopReason::Context;
        }
        let step_start = Instant::now();
        logits = info_span!("decode").in_scope(|| session.append(&[id]))?;
        decode += step_start.elapsed();
        decode_steps += 1;
    };
    let rest = stream.finish();
    if stream.stopped().is_some() {
        stop_reason = StopReason::StopString; // one stop string that begins another was settled by the end
    }
    text.push_str(&rest);
    let _ = on_text(&rest); // the end has been reached either way
    let first_token = first_token.unwrap_or(prefill);
    let ids = history.split_off(prompt.len());
    Ok(Generation { ids, text, stop_reason, prefill, first_token, decode, decode_steps })
}
