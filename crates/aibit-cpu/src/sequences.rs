//! Sequences on the CPU: their pages, and the buffers of a pass.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use aibit_graph::Op;
use aibit_graph::ops::{Linear, Logits};
use aibit_kernels::{QuantizedRows, RopeTable};
use aibit_runtime::{
    Batch, Executor, Limits, PageUse, Profile, RuntimeError, SequenceId, Sequences, check_ids,
};

use crate::Model;
use crate::forward::{self, Pass};
use crate::machine_memory::machine_memory;
use crate::memory::Zeroed;
use crate::model::Bound;
use crate::pages::{CACHE, PageLayout, PagePool, Sequence};

const _: () = assert!(aibit_runtime::PAGE == aibit_kernels::PAGE);

/// Rows of a pass where the profile lets a prompt be split: two blocks of rows of the integer product, so that each of two
/// threads works on rows of its own and reads what it wrote itself, which counts where the cores share no cache. More
/// would only make the arena larger.
const ROWS: usize = 512;

/// Memory that one pass may take for what it computes, beyond an eighth of the weights': where a graph's values are very
/// wide for the size of its weights, fewer tokens are computed at a time.
const PASS_BYTES: u64 = 32 << 20;

/// Rows of logits computed at a time: 13 MB for a vocabulary of 50,000. The profile exact counts on this number.
const LOGIT_ROWS: usize = 64;

/// Names of what a pass takes memory for, in errors.
const INTERMEDIATE: &str = "intermediate results";
const ROPE_TABLES: &str = "the angles of rotary embeddings";
const LOGITS: &str = "logits";

impl Executor for Model {
    fn limits(&self) -> Limits {
        let graph = self.graph();
        Limits {
            vocabulary: graph.vocabulary,
            context: graph.context,
            context_limit: graph.context_limit,
            weights_bytes: self.weights_bytes(),
        }
    }

    fn sequences(&self, profile: Profile, pages: usize) -> Result<Box<dyn Sequences>, RuntimeError> {
        Ok(Box::new(CpuSequences::new(self, profile, pages)?))
    }
}

/// The rows of one sequence in a pass.
#[derive(Debug)]
pub(crate) struct RunRows {
    pub(crate) rows: Range<usize>,
    pub(crate) sequence: Sequence,
}

/// What a pass computes in.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Intermediate results, `plan.width` elements per row of a pass.
    pub(crate) arena: Zeroed,
    /// A gated layer's outputs before the gate, where a kernel wants to keep them: `gate_width` elements per row.
    pub(crate) wide: Zeroed,
    pub(crate) quantized: QuantizedRows,
    /// One for each of [`Bound::angles`], for the positions of the rows.
    pub(crate) rope_tables: Vec<RopeTable>,
}

/// The sequences of one [`Model`] in one profile.
#[derive(Debug)]
pub(crate) struct CpuSequences {
    model: Model,
    profile: Profile,
    pool: PagePool,
    sequences: Vec<Option<Sequence>>,
    workspace: Workspace,
    gate_width: usize,
    /// Bytes that a pass takes per row, but for the cache.
    row_bytes: u64,
    /// Bytes that a pass may take, where the number of its rows is free.
    pass_bytes: u64,
    /// Bytes that there are at all.
    machine_bytes: Option<u64>,
    /// The rows of each run of the last pass, whose final values lie in the arena.
    last: Vec<Range<usize>>,
    /// Inputs of the head that do not lie together in the arena.
    gathered: Vec<f32>,
    logits: Vec<f32>,
}

impl CpuSequences {
    pub(crate) fn new(model: &Model, profile: Profile, pages: usize) -> Result<Self, RuntimeError> {
        let bound: &Bound = model.bound();
        let layout = PageLayout::new(&bound.graph, profile)?;
        let largest = pages.min(bound.graph.context.div_ceil(aibit_kernels::PAGE));
        if largest.checked_mul(layout.bytes).is_none() {
            return Err(RuntimeError::Memory { what: CACHE, bytes: None });
        }
        let gates = bound.nodes.iter().filter_map(|op| match op {
            Op::Linear(Linear { weight, gate: Some(_), .. }) => Some(weight.matrix().rows),
            _ => None,
        });
        let gate_width = gates.max().unwrap_or(0);
        let inputs = bound.nodes.iter().filter_map(|op| match op {
            Op::Linear(Linear { weight, .. }) | Op::Logits(Logits { weight, .. }) => {
                Some(weight.matrix().columns)
            }
            _ => None,
        });
        let pairs: usize = bound.angles.iter().map(|angles| bound.elements(&angles.frequencies).len()).sum();
        // A quantized input has two bytes per element, and any element may be an outlier.
        let quantized = 16 * inputs.max().unwrap_or(0) as u64;
        let f32s = bound.graph.plan.width as u64 + gate_width as u64 + 2 * pairs as u64;
        Ok(Self {
            profile,
            pool: PagePool::new(Arc::new(layout), pages),
            sequences: Vec::new(),
            workspace: Workspace {
                arena: Zeroed::new::<f32>(0, INTERMEDIATE)?,
                wide: Zeroed::new::<f32>(0, INTERMEDIATE)?,
                quantized: QuantizedRows::default(),
                rope_tables: bound.angles.iter().map(|_| RopeTable::default()).collect(),
            },
            gate_width,
            row_bytes: 4 * f32s + quantized,
            pass_bytes: PASS_BYTES + model.weights_bytes() / 8,
            machine_bytes: machine_memory(),
            last: Vec::new(),
            gathered: Vec::new(),
            logits: Vec::new(),
            model: model.clone(),
        })
    }

    fn sequence(&self, id: SequenceId) -> &Sequence {
        self.sequences
            .get(id.0 as usize)
            .and_then(Option::as_ref)
            .unwrap_or_else(|| panic!("no sequence {id:?}"))
    }

    fn insert(&mut self, sequence: Sequence) -> SequenceId {
        let free = self.sequences.iter().position(Option::is_none);
        let index = free.unwrap_or(self.sequences.len());
        if free.is_none() {
            self.sequences.push(None);
        }
        self.sequences[index] = Some(sequence);
        SequenceId(u32::try_from(index).expect("fewer than 2^32 sequences"))
    }

    /// How many of something take no more than a pass may, from 1 to `most`.
    fn within_bytes(&self, bytes_of_one: u64, most: usize) -> usize {
        (self.pass_bytes / bytes_of_one.max(1)).clamp(1, most as u64) as usize
    }

    fn check_memory(&self, what: &'static str, bytes: u64) -> Result<(), RuntimeError> {
        if self.machine_bytes.is_some_and(|machine| bytes > machine) {
            return Err(RuntimeError::Memory { what, bytes: usize::try_from(bytes).ok() });
        }
        Ok(())
    }

    /// Takes memory for a pass of `rows`.
    fn reserve_rows(&mut self, rows: usize) -> Result<(), RuntimeError> {
        self.check_memory(INTERMEDIATE, self.row_bytes.saturating_mul(rows as u64))?;
        let bound = self.model.bound();
        let Workspace { arena, wide, rope_tables, .. } = &mut self.workspace;
        for (room, width) in [(arena, bound.graph.plan.width), (wide, self.gate_width)] {
            let elements = width.saturating_mul(rows);
            if elements > room.floats().len() {
                *room = Zeroed::new::<f32>(elements, INTERMEDIATE)?;
            }
        }
        for (table, angles) in rope_tables.iter_mut().zip(&bound.angles) {
            let pairs = bound.elements(&angles.frequencies).len();
            let bytes = pairs.checked_mul(8).and_then(|bytes| bytes.checked_mul(rows));
            let refused = |_| RuntimeError::Memory { what: ROPE_TABLES, bytes };
            table.try_reserve(pairs, rows).map_err(refused)?;
        }
        Ok(())
    }

    /// [`forward`](Sequences::forward); `observe` gets the index of each node that multiplies or attends, and its input,
    /// `[rows, width]`.
    pub(crate) fn forward_observed(
        &mut self,
        batch: &Batch<'_>,
        observe: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), RuntimeError> {
        let rows: usize = batch.runs.iter().map(|run| run.len).sum();
        assert_eq!(rows, batch.tokens.len(), "rows of the runs, tokens of the batch");
        let mut seen = HashSet::new();
        for run in batch.runs {
            assert!(seen.insert(run.sequence), "two runs of {:?}", run.sequence);
        }
        check_ids(batch.tokens, self.limits().vocabulary)?;
        self.reserve_rows(rows)?;
        if let Err(refused) = batch.runs.iter().try_for_each(|run| self.reserve(run.sequence, run.len)) {
            for run in batch.runs {
                self.truncate(run.sequence, usize::MAX); // gives back what was reserved
            }
            return Err(refused);
        }
        let mut start = 0;
        let runs = batch.runs.iter().map(|run| {
            let rows = start..start + run.len;
            start = rows.end;
            let sequence = self.sequences[run.sequence.0 as usize].take().expect("reserved above");
            RunRows { rows, sequence }
        });
        let mut runs: Vec<RunRows> = runs.collect();
        forward::run(
            &mut Pass {
                model: &self.model,
                profile: self.profile,
                layout: self.pool.layout(),
                tokens: batch.tokens,
                runs: &mut runs,
            },
            &mut self.workspace,
            observe,
        );
        self.last.clear();
        for (run, RunRows { rows, mut sequence }) in batch.runs.iter().zip(runs) {
            sequence.len += run.len;
            self.sequences[run.sequence.0 as usize] = Some(sequence);
            self.last.push(rows);
        }
        Ok(())
    }

    fn limits(&self) -> Limits {
        Executor::limits(&self.model)
    }

    /// Rows of the last pass.
    fn rows(&self) -> usize {
        self.last.last().map_or(0, |rows| rows.end)
    }
}

impl Sequences for CpuSequences {
    fn start(&mut self, capacity: usize) -> SequenceId {
        self.insert(Sequence::new(capacity.clamp(1, self.model.graph().context)))
    }

    fn fork(&mut self, sequence: SequenceId, len: usize) -> SequenceId {
        let fork = self.sequence(sequence).fork(len);
        self.insert(fork)
    }

    fn truncate(&mut self, sequence: SequenceId, len: usize) {
        self.sequence(sequence);
        if let Some(sequence) = &mut self.sequences[sequence.0 as usize] {
            sequence.truncate(len, &mut self.pool);
        }
    }

    fn end(&mut self, sequence: SequenceId) {
        self.truncate(sequence, 0);
        self.sequences[sequence.0 as usize] = None;
    }

    fn len(&self, sequence: SequenceId) -> usize {
        self.sequence(sequence).len
    }

    fn capacity(&self, sequence: SequenceId) -> usize {
        self.sequence(sequence).capacity
    }

    fn pages(&self) -> PageUse {
        let (used, available) = (self.pool.used(), self.pool.available());
        PageUse { used, available, page_bytes: self.pool.layout().bytes }
    }

    fn rows_per_pass(&self) -> usize {
        match self.profile {
            Profile::Fast | Profile::Precise => self.within_bytes(self.row_bytes, ROWS),
            Profile::Exact => usize::MAX,
        }
    }

    fn logits_per_call(&self) -> usize {
        match self.profile {
            Profile::Fast | Profile::Precise => {
                self.within_bytes(4 * self.model.graph().vocabulary as u64, LOGIT_ROWS)
            }
            Profile::Exact => LOGIT_ROWS,
        }
    }

    fn reserve(&mut self, id: SequenceId, tokens: usize) -> Result<(), RuntimeError> {
        let sequence = self.sequence(id);
        let (used, capacity) = (sequence.len, sequence.capacity);
        if tokens > capacity - used {
            return Err(self.limits().context_full(tokens, used, capacity));
        }
        let missing = sequence.missing_pages(tokens);
        if missing > self.pool.available() {
            return Err(RuntimeError::PagesExhausted { pages: self.pool.used() + self.pool.available() });
        }
        let pages = (self.pool.existing() + missing) as u64;
        self.check_memory(CACHE, pages.saturating_mul(self.pool.layout().bytes as u64))?;
        let sequence = self.sequences[id.0 as usize].as_mut().expect("found above");
        let reserved = sequence.reserve(tokens, &mut self.pool);
        if reserved.is_err() {
            sequence.truncate(used, &mut self.pool);
        }
        reserved
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<(), RuntimeError> {
        self.forward_observed(batch, &mut |_, _| {})
    }

    fn logits(&mut self, rows: &[usize]) -> Result<&mut [f32], RuntimeError> {
        let bound = self.model.bound();
        let Some(Op::Logits(Logits { input, weight, .. })) = bound.nodes.last() else {
            unreachable!("a valid graph ends with logits")
        };
        let weight = weight.matrix();
        let (all, width, vocabulary) = (self.rows(), weight.columns, weight.rows);
        assert!(rows.iter().all(|row| *row < all), "logits of rows {rows:?} of {all}");
        let elements = rows.len().saturating_mul(vocabulary);
        let bytes = elements.checked_mul(size_of::<f32>());
        let refused = |_| RuntimeError::Memory { what: LOGITS, bytes };
        self.logits.try_reserve_exact(elements.saturating_sub(self.logits.len())).map_err(refused)?;
        self.logits.resize(elements, 0.0);
        let start = bound.arena_range(*input, all).start;
        let inputs = &self.workspace.arena.floats()[start..start + all * width];
        let x = if rows.windows(2).all(|pair| pair[0] + 1 == pair[1]) {
            rows.first().map_or(&[][..], |first| &inputs[first * width..(first + rows.len()) * width])
        } else {
            self.gathered.clear();
            for row in rows {
                self.gathered.extend_from_slice(&inputs[row * width..][..width]);
            }
            &self.gathered
        };
        // The runs that the rows are of, one after the other.
        let mut runs: Vec<Range<usize>> = Vec::new();
        let mut last_run = None;
        for (at, row) in rows.iter().enumerate() {
            let run = self.last.partition_point(|rows| rows.end <= *row);
            match runs.last_mut() {
                Some(rows) if last_run == Some(run) => rows.end = at + 1,
                _ => runs.push(at..at + 1),
            }
            last_run = Some(run);
        }
        forward::logits(&self.model, self.profile, x, &runs, &mut self.workspace.quantized, &mut self.logits);
        Ok(&mut self.logits)
    }
}
