//! From logits to text: chooses tokens, decodes them, knows when to stop. Holds no model.

use aibit_tokenizer::Tokenizer;
use tracing::info_span;

use crate::RuntimeError;
use crate::generate::{GenerateOptions, StopReason};
use crate::logits_processors::History;
use crate::sampler::{Sampler, SamplerError};
use crate::text_stream::TextStream;

/// Chooses the next token. [`Sampler`] is the one of the library; a program may bring its own.
pub trait ChooseToken {
    /// The id of the next token after `history`, from its logits, `[vocabulary]`, which may be changed.
    ///
    /// # Errors
    /// [`SamplerError`] for logits of which none can be chosen.
    fn choose(&mut self, logits: &mut [f32], history: &History<'_>) -> Result<u32, SamplerError>;
}

impl ChooseToken for Sampler {
    fn choose(&mut self, logits: &mut [f32], history: &History<'_>) -> Result<u32, SamplerError> {
        self.sample(logits, history)
    }
}

/// One token of a continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// The text that it completes: whole characters, without what may become a stop string.
    pub text: String,
    /// The natural logarithm of its probability, before any sampling option; `None` unless
    /// [`GenerateOptions::logprobs`].
    pub logprob: Option<f32>,
}

/// What becomes of one sequence's logits. A session has one for each continuation, a batch one for each of its sequences.
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer,
    sampler: Box<dyn ChooseToken + Send>,
    stream: TextStream,
    stop_ids: Vec<u32>,
    max_tokens: Option<usize>,
    logprobs: bool,
    /// The prompt, then what was generated.
    ids: Vec<u32>,
    prompt: usize,
    stopped: Option<StopReason>,
}

impl<'t> Decoder<'t> {
    /// A decoder for what follows `prompt`, with the sampler that `options` describe.
    ///
    /// # Errors
    /// [`RuntimeError::Sampler`] and [`RuntimeError::Stop`] for options out of range.
    pub fn new(
        tokenizer: &'t Tokenizer,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Self, RuntimeError> {
        let sampler = Sampler::new(options.sampler.clone(), options.processors.clone())?;
        Self::with_sampler(tokenizer, prompt, options, Box::new(sampler))
    }

    /// The same with another sampler; those of `options` are not used.
    ///
    /// # Errors
    /// [`RuntimeError::Stop`] for stop strings that cannot be used.
    pub fn with_sampler(
        tokenizer: &'t Tokenizer,
        prompt: &[u32],
        options: &GenerateOptions,
        sampler: Box<dyn ChooseToken + Send>,
    ) -> Result<Self, RuntimeError> {
        Ok(Self {
            tokenizer,
            sampler,
            stream: TextStream::new(options.stop_strings.clone())?,
            stop_ids: options.stop_ids.clone(),
            max_tokens: options.max_tokens,
            logprobs: options.logprobs,
            ids: prompt.to_vec(),
            prompt: prompt.len(),
            stopped: (options.max_tokens == Some(0)).then_some(StopReason::Length),
        })
    }

    /// Chooses the token that follows, from the logits after the last one; `None` for a stop id, which is no part of the
    /// text, and where generation has stopped already.
    ///
    /// # Errors
    /// [`RuntimeError::Sampler`] for logits of which none can be chosen.
    pub fn push(&mut self, logits: &mut [f32]) -> Result<Option<Piece>, RuntimeError> {
        if self.stopped.is_some() {
            return Ok(None);
        }
        // Before sampling, which changes them.
        let log_sum = self.logprobs.then(|| crate::perplexity::log_sum_exp(logits));
        let unchanged = log_sum.map(|_| logits.to_vec());
        let history = History {
            ids: &self.ids,
            prompt: self.prompt,
            max_tokens: self.max_tokens,
            stop_ids: &self.stop_ids,
        };
        let id = info_span!("sample").in_scope(|| self.sampler.choose(logits, &history))?;
        if self.stop_ids.contains(&id) {
            self.stopped = Some(StopReason::StopId);
            return Ok(None);
        }
        self.ids.push(id);
        let logprob = log_sum.zip(unchanged.as_ref().and_then(|logits| logits.get(id as usize)));
        let logprob = logprob.map(|(log_sum, logit)| (f64::from(*logit) - log_sum) as f32);
        let bytes = if self.tokenizer.is_special(id) { Vec::new() } else { self.tokenizer.bytes(id) };
        let step = self.stream.push(&bytes);
        if step.stopped.is_some() {
            self.stopped = Some(StopReason::StopString);
        } else if self.max_tokens.is_some_and(|max| self.ids.len() - self.prompt >= max) {
            self.stopped = Some(StopReason::Length);
        }
        Ok(Some(Piece { id, text: step.text, logprob }))
    }

    /// Why generation has stopped, if it has.
    pub fn stopped(&self) -> Option<StopReason> {
        self.stopped
    }

    /// The tokenizer that turns ids into text.
    pub fn tokenizer(&self) -> &'t Tokenizer {
        self.tokenizer
    }

    /// Stops because the caller wants no more: that counts more than a length or a context that ended there as well.
    pub(crate) fn interrupt(&mut self) {
        self.stopped = Some(StopReason::Interrupted);
    }

    /// Stops for a reason that the decoder cannot see: a full context, a caller that wants no more.
    pub fn stop(&mut self, reason: StopReason) {
        self.stopped.get_or_insert(reason);
    }

    /// The ids after the prompt.
    pub fn generated(&self) -> &[u32] {
        &self.ids[self.prompt..]
    }

    /// The rest of the text, which waited for a stop string or for the end of a character.
    pub fn finish(&mut self) -> String {
        let rest = self.stream.finish();
        if self.stream.stopped().is_some() {
            self.stopped = Some(StopReason::StopString); // one stop string that begins another was settled by the end
        }
        rest
    }
}
