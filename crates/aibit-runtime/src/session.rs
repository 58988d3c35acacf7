//! One sequence and what computes it.

use tracing::info_span;

use crate::executor::{Batch, Executor, Limits, PAGE, Profile, Run, SequenceId, Sequences};
use crate::{RuntimeError, executor};

/// One sequence of an [`Executor`]. Prefill and decode are the same path with more or fewer tokens.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    sequences: Box<dyn Sequences>,
    id: SequenceId,
}

impl Session {
    /// An empty sequence with room for `capacity` tokens, at most the model's context.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] where the cache could not have that size.
    pub fn new(executor: &dyn Executor, profile: Profile, capacity: usize) -> Result<Self, RuntimeError> {
        let _span = info_span!("session").entered();
        let limits = executor.limits();
        let pages = capacity.clamp(1, limits.context).div_ceil(PAGE);
        let mut sequences = executor.sequences(profile, pages)?;
        let id = sequences.start(capacity);
        Ok(Self { limits, sequences, id })
    }

    /// What the model takes.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Tokens of the sequence.
    pub fn len(&self) -> usize {
        self.sequences.len(self.id)
    }

    /// Whether no token has been computed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.sequences.capacity(self.id)
    }

    /// Removes all tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.sequences.truncate(self.id, len);
    }

    /// Appends `ids` to the sequence and returns the logits after the last one, `[vocabulary]`.
    ///
    /// # Errors
    /// [`RuntimeError::TokenId`], [`RuntimeError::ContextFull`], [`RuntimeError::EmptyPrompt`] for no ids; the
    /// sequence is then unchanged.
    pub fn append(&mut self, ids: &[u32]) -> Result<&mut [f32], RuntimeError> {
        let rows = self.prepare(ids)?;
        let mut last = 0;
        for chunk in ids.chunks(rows) {
            info_span!("layers").in_scope(|| self.forward(chunk))?;
            last = chunk.len() - 1;
        }
        info_span!("logits").in_scope(|| self.sequences.logits(&[last]))
    }

    /// Appends `ids` and gives the logits after each of them to `visit`, a few rows at a time: the position
    /// in `ids` of the first row, and the rows, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// As [`Session::append`].
    pub fn append_all(
        &mut self,
        ids: &[u32],
        mut visit: impl FnMut(usize, &[f32]),
    ) -> Result<(), RuntimeError> {
        let rows = self.prepare(ids)?;
        let logit_rows = self.sequences.logits_per_call();
        for (index, chunk) in ids.chunks(rows).enumerate() {
            self.forward(chunk)?;
            for first in (0..chunk.len()).step_by(logit_rows) {
                let wanted: Vec<usize> = (first..(first + logit_rows).min(chunk.len())).collect();
                visit(index * rows + first, self.sequences.logits(&wanted)?);
            }
        }
        Ok(())
    }

    /// Checks `ids`, takes memory for them and returns how many go through a pass together.
    fn prepare(&mut self, ids: &[u32]) -> Result<usize, RuntimeError> {
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        executor::check_ids(ids, self.limits.vocabulary)?;
        self.sequences.reserve(self.id, ids.len())?;
        Ok(self.sequences.rows_per_pass())
    }

    fn forward(&mut self, tokens: &[u32]) -> Result<(), RuntimeError> {
        self.sequences.forward(&Batch { tokens, runs: &[Run { sequence: self.id, len: tokens.len() }] })
    }

    /// The error for `tokens` behind `used` others that do not fit.
    pub(crate) fn context_full(&self, tokens: usize, used: usize) -> RuntimeError {
        self.limits.context_full(tokens, used, self.capacity())
    }
}
