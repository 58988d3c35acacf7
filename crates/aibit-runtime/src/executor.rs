//! What computes a model: the one interface between text and arithmetic.

use std::fmt;
use std::str::FromStr;

use aibit_graph::ContextLimit;

use crate::RuntimeError;

/// A loaded model on some device. Immutable: every sequence's state is in the [`Sequences`] that it makes.
pub trait Executor: fmt::Debug + Send + Sync {
    /// What the model takes.
    fn limits(&self) -> Limits;

    /// No sequences yet, and memory for up to `pages` pages of [`PAGE`] positions, taken as they are written.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] where a page is larger than any memory.
    fn sequences(&self, profile: Profile, pages: usize) -> Result<Box<dyn Sequences>, RuntimeError>;
}

/// What a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of token ids; the width of a row of logits.
    pub vocabulary: usize,
    /// Longest sequence.
    pub context: usize,
    /// Why it is not longer, where the model could go on.
    pub context_limit: Option<ContextLimit>,
    /// Bytes of the weights.
    pub weights_bytes: u64,
}

impl Limits {
    /// The error for `tokens` behind `used` others in a sequence for `capacity`.
    pub fn context_full(&self, tokens: usize, used: usize, capacity: usize) -> RuntimeError {
        let limit = self.context_limit.filter(|_| capacity == self.context);
        RuntimeError::ContextFull { tokens, used, context: capacity, limit }
    }
}

/// Refuses ids that the model has no row for.
///
/// # Errors
/// [`RuntimeError::TokenId`] with the first of them.
pub fn check_ids(ids: &[u32], vocabulary: usize) -> Result<(), RuntimeError> {
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(&id) => Err(RuntimeError::TokenId { id, vocabulary }),
        None => Ok(()),
    }
}

/// Names one of the sequences of a [`Sequences`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u32);

/// Rows of one pass, of any number of sequences. Rows do not see each other but through the positions of their own
/// sequence, so each sequence gets the bits that it would get alone.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The tokens of all runs, one run after the other.
    pub tokens: &'a [u32],
    /// Whose they are.
    pub runs: &'a [Run],
}

/// The next tokens of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The sequence that they are appended to; at most once in a batch.
    pub sequence: SequenceId,
    /// How many.
    pub len: usize,
}

/// Memory that sequences take, in pages of [`PAGE`] positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct PageUse {
    /// Pages that sequences use; one that several share counts once.
    pub used: usize,
    /// Pages that could still be used.
    pub available: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
}

/// Positions of a page of the KV cache.
pub const PAGE: usize = 64;

/// Sequences that are being computed: their KV caches, and the buffers of a pass.
///
/// # Panics
/// Every method that takes a [`SequenceId`] panics where it names no sequence.
pub trait Sequences: fmt::Debug + Send {
    /// An empty sequence for up to `capacity` positions, at least one and at most the model's context. Where a model
    /// rotates long sequences by other frequencies than short ones, `capacity` decides which, not how many tokens there
    /// are.
    fn start(&mut self, capacity: usize) -> SequenceId;

    /// A sequence that begins with the first `len` positions of `sequence`, all of them at most. It has the same capacity.
    /// Pages are shared; one that is not full is copied when either sequence goes on.
    fn fork(&mut self, sequence: SequenceId, len: usize) -> SequenceId;

    /// Removes all positions from `len` on.
    fn truncate(&mut self, sequence: SequenceId, len: usize);

    /// Removes the sequence.
    fn end(&mut self, sequence: SequenceId);

    /// Positions of the sequence.
    fn len(&self, sequence: SequenceId) -> usize;

    /// Most positions of the sequence.
    fn capacity(&self, sequence: SequenceId) -> usize;

    /// Memory in use.
    fn pages(&self) -> PageUse;

    /// Rows that a pass should have at most: a longer prompt is appended in several.
    fn rows_per_pass(&self) -> usize;

    /// Rows of logits that [`logits`](Self::logits) should compute at most.
    fn logits_per_call(&self) -> usize;

    /// Takes the memory for `tokens` more positions, so that no pass fails for want of it.
    ///
    /// # Errors
    /// [`RuntimeError::ContextFull`], [`RuntimeError::PagesExhausted`], [`RuntimeError::Memory`]; the sequence is then
    /// unchanged.
    fn reserve(&mut self, sequence: SequenceId, tokens: usize) -> Result<(), RuntimeError>;

    /// Appends a batch to its sequences.
    ///
    /// # Errors
    /// [`RuntimeError::TokenId`], and those of [`reserve`](Self::reserve); all sequences are then unchanged.
    ///
    /// # Panics
    /// If the runs are not as long as the tokens, or two are of one sequence.
    fn forward(&mut self, batch: &Batch<'_>) -> Result<(), RuntimeError>;

    /// The logits of some rows of the last pass, `[rows, vocabulary]`, in the order of `rows`.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`].
    ///
    /// # Panics
    /// If a row is not in the last pass.
    fn logits(&mut self, rows: &[usize]) -> Result<&mut [f32], RuntimeError>;
}

/// How integer matrix products treat activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Each token on its own, in the precision that the graph states: quantized by its own scale, its outliers as further
    /// digits. No result depends on how a prompt was split.
    #[default]
    Fast,
    /// As fast, with two bytes for every activation that is multiplied in integers: as good as f32 activations.
    /// Free where a token waits for memory, twice the products in a long prompt. Cached keys and values that the graph
    /// states in INT8 are stored in F16.
    Precise,
    /// LLM.int8() as bitsandbytes computes it on CPU: activations through fp16, outlier columns found over
    /// all tokens of a call, its constants. The prompt is one call. Cached keys and values are stored in F32.
    Exact,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Precise, Self::Exact];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Precise => "precise",
            Self::Exact => "exact",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|profile| profile.name() == name);
        found.ok_or_else(|| UnknownProfile { name: name.to_owned() })
    }
}

/// A name that no [`Profile`] has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown profile `{name:.100}`, known are fast, precise and exact")]
pub struct UnknownProfile {
    /// The name.
    pub name: String,
}
