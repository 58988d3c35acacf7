//! One sequence being computed: the executor and its state.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use aibit_graph::{KvPrecision, KvSlot, ValueId};
use aibit_kernels::{
    Activation, ActivationDtype, ActivationPrecision, AttentionShape, Epilogue, Int8Kv, Isa, QuantizedRows,
    RopeTable, activate, add, add_assign, attention, attention_int8, embed_blocks, embed_float, embed_int8,
    gated_activation, layer_norm, linear_blocks, linear_float, linear_int8, linear_int8_gated,
    linear_llm_int8, quantize_rows, rms_norm, rms_norm_runs, rope, store_kv, store_kv_int8,
};
use half::f16;
use memmap2::MmapMut;
use tracing::info_span;

use crate::RuntimeError;
use crate::machine_memory::machine_memory;
use crate::model::{Activations, Matrix, MatrixView, Model, Step};

/// How integer matrix products treat activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Each token on its own, in the precision that the graph asks for: quantized by its own scale, its outlier
    /// elements in floating point. No result depends on how a prompt was split.
    #[default]
    Fast,
    /// As fast, with two bytes for every activation that is multiplied in integers: as good as f32 activations,
    /// and no element is an outlier. Free where a token waits for memory, twice the products in a long prompt.
    /// Cached keys and values that the graph wants in INT8 are kept in F16.
    Precise,
    /// LLM.int8() as bitsandbytes computes it on CPU: activations through fp16, outlier columns found over
    /// all tokens of a call, its constants. The prompt is one call. Cached keys and values are kept in F32.
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
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == name)
            .ok_or_else(|| format!("unknown profile `{name}`, known are fast, precise and exact"))
    }
}

/// Tokens computed at a time where the profile lets a prompt be split: two blocks of rows of the integer product, so that
/// each of two threads works on rows of its own and reads what it wrote itself, which counts where the cores share no
/// cache. More would only make the arena larger.
const CHUNK: usize = 512;

/// Memory that one pass may take for what it computes, beyond an eighth of the weights': where a graph's values are very
/// wide for the size of its weights, fewer tokens are computed at a time.
const PASS_BYTES: u64 = 32 << 20;

/// Rows of logits computed at a time: 13 MB for a vocabulary of 50,000. The profile exact counts on this number.
const LOGIT_ROWS: usize = 64;

/// The keys and values of one sequence, and its length.
#[derive(Debug)]
pub struct KvCache {
    slots: Vec<KvSlotData>,
    capacity: usize,
    len: usize,
}

/// The keys and values of one attention node, laid out as the kernels want them.
#[derive(Debug)]
enum KvSlotData {
    F32 { keys: Zeroed, values: Zeroed },
    F16 { keys: Zeroed, values: Zeroed },
    Int8 { keys: Zeroed, values: Zeroed, key_scales: Zeroed, value_scales: Zeroed },
}

impl KvSlotData {
    fn new(shape: &AttentionShape, precision: KvPrecision) -> Result<Self, RuntimeError> {
        // As elements of four bytes with everything rounded up, the whole is larger than any part below.
        let (heads, positions) = (shape.n_kv_head, shape.capacity.checked_next_multiple_of(16));
        let width = shape.head_dim.next_multiple_of(16).checked_mul(heads * size_of::<f32>());
        if width.zip(positions).and_then(|(width, positions)| width.checked_mul(positions)).is_none() {
            return Err(RuntimeError::Memory { what: CACHE, bytes: None });
        }
        let elements = shape.cache_len();
        Ok(match precision {
            KvPrecision::F32 => Self::F32 {
                keys: Zeroed::new::<f32>(elements, CACHE)?,
                values: Zeroed::new::<f32>(elements, CACHE)?,
            },
            KvPrecision::F16 => Self::F16 {
                keys: Zeroed::new::<f16>(elements, CACHE)?,
                values: Zeroed::new::<f16>(elements, CACHE)?,
            },
            KvPrecision::Int8 => Self::Int8 {
                keys: Zeroed::new::<u8>(shape.int8_keys_len(), CACHE)?,
                values: Zeroed::new::<u8>(shape.int8_values_len(), CACHE)?,
                key_scales: Zeroed::new::<f32>(shape.int8_scales_len(), CACHE)?,
                value_scales: Zeroed::new::<f32>(shape.int8_scales_len(), CACHE)?,
            },
        })
    }

    fn bytes(&self) -> u64 {
        let of = |parts: &[&Zeroed]| parts.iter().map(|part| part.0.len() as u64).sum();
        match self {
            Self::F32 { keys, values } | Self::F16 { keys, values } => of(&[keys, values]),
            Self::Int8 { keys, values, key_scales, value_scales } => {
                of(&[keys, values, key_scales, value_scales])
            }
        }
    }

    /// Appends the keys and values of `qkv`, `m` tokens after `past` others, and writes their attention to `y`.
    fn attend(
        &mut self,
        isa: Isa,
        shape: &AttentionShape,
        qkv: &[f32],
        m: usize,
        past: usize,
        y: &mut [f32],
    ) {
        match self {
            Self::F32 { keys, values } => {
                let (keys, values) = (keys.as_mut::<f32>(), values.as_mut::<f32>());
                store_kv(shape, qkv, m, past, keys, values);
                attention(isa, shape, qkv, m, past, keys, values, y);
            }
            Self::F16 { keys, values } => {
                let (keys, values) = (keys.as_mut::<f16>(), values.as_mut::<f16>());
                store_kv(shape, qkv, m, past, keys, values);
                attention(isa, shape, qkv, m, past, keys, values, y);
            }
            Self::Int8 { keys, values, key_scales, value_scales } => {
                let mut cache = Int8Kv {
                    keys: keys.as_mut(),
                    values: values.as_mut(),
                    key_scales: key_scales.as_mut(),
                    value_scales: value_scales.as_mut(),
                };
                store_kv_int8(isa, shape, qkv, m, past, &mut cache);
                attention_int8(isa, shape, qkv, m, past, &cache, y);
            }
        }
    }
}

/// Names of what a pass takes memory for, in errors.
const CACHE: &str = "the KV cache";
const INTERMEDIATE: &str = "intermediate results";
const ROPE_TABLES: &str = "the angles of rotary embeddings";
const LOGITS: &str = "logits";

/// Zeros that take memory page by page as they are written, from the start of a page on. A size that the system
/// refuses is an error here, where a vector would end the program.
#[derive(Debug)]
struct Zeroed(MmapMut);

impl Zeroed {
    fn new<T>(elements: usize, what: &'static str) -> Result<Self, RuntimeError> {
        let bytes = elements.checked_mul(size_of::<T>());
        let map = bytes.and_then(|bytes| MmapMut::map_anon(bytes).ok());
        map.map(Self).ok_or(RuntimeError::Memory { what, bytes })
    }

    fn as_ref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }

    fn as_mut<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl KvCache {
    /// An empty cache for up to `capacity` tokens, at most the model's context, in the precision that `profile`
    /// makes of the graph's. Memory is taken by the pages that are written.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] where the system refuses the size.
    pub fn new(model: &Model, profile: Profile, capacity: usize) -> Result<Self, RuntimeError> {
        let capacity = capacity.clamp(1, model.graph().context);
        let slot = |slot: &KvSlot| {
            let &KvSlot { n_kv_head, head_dim, precision } = slot;
            // Room does not depend on the number of queries.
            let shape = AttentionShape { n_head: n_kv_head, n_kv_head, head_dim, scale: 1.0, capacity };
            KvSlotData::new(&shape, kv_precision(profile, precision))
        };
        let slots = model.graph().kv_slots.iter().map(slot).collect::<Result<_, RuntimeError>>()?;
        Ok(Self { slots, capacity, len: 0 })
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token has been computed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes that `tokens` take, as far as memory is taken only where something is written.
    fn bytes_of(&self, tokens: usize) -> u64 {
        let all: u64 = self.slots.iter().map(KvSlotData::bytes).fold(0, u64::saturating_add);
        (all / self.capacity as u64).saturating_mul(tokens as u64)
    }
}

/// How a profile keeps keys and values that the graph wants in `precision`.
fn kv_precision(profile: Profile, precision: KvPrecision) -> KvPrecision {
    match (profile, precision) {
        (Profile::Fast, precision) => precision,
        (Profile::Precise, KvPrecision::F16 | KvPrecision::Int8) => KvPrecision::F16,
        (Profile::Precise, KvPrecision::F32) | (Profile::Exact, _) => KvPrecision::F32,
    }
}

/// Executes a model for one sequence. Prefill and decode are the same path with more or fewer tokens.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Model,
    profile: Profile,
    kv: KvCache,
    /// Intermediate results, `plan.width` elements per token of a pass.
    arena: Zeroed,
    /// A gated layer's outputs before the gate, where a kernel wants to keep them: `gate_width` elements per token.
    wide: Zeroed,
    gate_width: usize,
    /// Bytes that a pass takes per token, but for the cache.
    token_bytes: u64,
    /// Bytes that a pass may take, where the number of its tokens is free.
    pass_bytes: u64,
    /// Bytes that there are at all.
    machine_bytes: Option<u64>,
    /// Tokens of the last pass, whose final values lie in the arena.
    tokens: usize,
    quantized: QuantizedRows,
    /// One for each of [`Model::turns`], for the positions of the last pass.
    rope_tables: Vec<RopeTable>,
    logits: Vec<f32>,
}

impl<'m> Session<'m> {
    /// An empty sequence with room for `capacity` tokens. Where a model turns long sequences by other frequencies than
    /// short ones, `capacity` decides which, not how many tokens there are.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] where the system refuses the cache's size.
    pub fn new(model: &'m Model, profile: Profile, capacity: usize) -> Result<Self, RuntimeError> {
        let _span = info_span!("session").entered();
        let gates = model.steps.iter().filter_map(|step| match step {
            Step::Linear { weight, gate: Some(_), .. } => Some(weight.rows),
            _ => None,
        });
        let gate_width = gates.max().unwrap_or(0);
        let inputs = model.steps.iter().filter_map(|step| match step {
            Step::Linear { weight, .. } | Step::Logits { weight, .. } => Some(weight.columns),
            _ => None,
        });
        let pairs: usize = model.turns.iter().map(|turns| model.vector(&turns.frequencies).len()).sum();
        // A quantized input has two bytes per element, and any element may be an outlier.
        let quantized = 16 * inputs.max().unwrap_or(0) as u64;
        let f32s = model.graph().plan.width as u64 + gate_width as u64 + 2 * pairs as u64;
        Ok(Self {
            model,
            profile,
            kv: KvCache::new(model, profile, capacity)?,
            arena: Zeroed::new::<f32>(1, INTERMEDIATE)?,
            wide: Zeroed::new::<f32>(1, INTERMEDIATE)?,
            gate_width,
            token_bytes: 4 * f32s + quantized,
            pass_bytes: PASS_BYTES + model.weights_bytes() / 8,
            machine_bytes: machine_memory(),
            tokens: 0,
            quantized: QuantizedRows::default(),
            rope_tables: model.turns.iter().map(|_| RopeTable::default()).collect(),
            logits: Vec::new(),
        })
    }

    /// The model that the sequence is of.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// The sequence's cache.
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// Forgets all tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.kv.truncate(len);
    }

    /// Appends `ids` to the sequence and returns the logits after the last one, `[vocabulary]`.
    ///
    /// # Errors
    /// [`RuntimeError::TokenId`], [`RuntimeError::ContextFull`], [`RuntimeError::EmptyPrompt`] for no ids; the
    /// sequence is then unchanged.
    pub fn append(&mut self, ids: &[u32]) -> Result<&mut [f32], RuntimeError> {
        self.check(ids)?;
        let chunk_len = self.chunk(ids.len());
        self.reserve(chunk_len.min(ids.len()), ids.len(), 1)?;
        for chunk in ids.chunks(chunk_len) {
            info_span!("layers").in_scope(|| self.pass(chunk, &mut |_, _| {}));
        }
        let last = self.tokens - 1;
        info_span!("logits").in_scope(|| self.compute_logits(last..last + 1));
        Ok(&mut self.logits)
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
        self.check(ids)?;
        let chunk_len = self.chunk(ids.len());
        let logit_rows = self.logit_rows();
        self.reserve(chunk_len.min(ids.len()), ids.len(), logit_rows.min(ids.len()))?;
        for (chunk_index, chunk) in ids.chunks(chunk_len).enumerate() {
            self.pass(chunk, &mut |_, _| {});
            for first in (0..chunk.len()).step_by(logit_rows) {
                self.compute_logits(first..(first + logit_rows).min(chunk.len()));
                visit(chunk_index * chunk_len + first, &self.logits);
            }
        }
        Ok(())
    }

    /// Appends `ids` in one pass and gives the input of each linear layer and of each attention to `observe`: the step's
    /// index, and `[tokens, width]`. The head is not computed.
    ///
    /// # Errors
    /// As [`Session::append`].
    pub(crate) fn append_observed(
        &mut self,
        ids: &[u32],
        observe: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), RuntimeError> {
        self.check(ids)?;
        self.reserve(ids.len(), ids.len(), 0)?;
        self.pass(ids, observe);
        Ok(())
    }

    /// Tokens of a pass, of a call of so many.
    pub(crate) fn chunk(&self, tokens: usize) -> usize {
        match self.profile {
            Profile::Fast | Profile::Precise => self.within_bytes(self.token_bytes, CHUNK),
            Profile::Exact => tokens,
        }
    }

    /// Rows of logits that are computed at a time.
    fn logit_rows(&self) -> usize {
        match self.profile {
            Profile::Fast | Profile::Precise => {
                self.within_bytes(4 * self.model.graph().vocabulary as u64, LOGIT_ROWS)
            }
            Profile::Exact => LOGIT_ROWS,
        }
    }

    /// How many of something take no more than a pass may, from 1 to `most`.
    fn within_bytes(&self, bytes_of_one: u64, most: usize) -> usize {
        (self.pass_bytes / bytes_of_one.max(1)).clamp(1, most as u64) as usize
    }

    fn check(&self, ids: &[u32]) -> Result<(), RuntimeError> {
        let vocabulary = self.model.graph().vocabulary;
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(RuntimeError::TokenId { id, vocabulary });
        }
        if ids.len() > self.kv.capacity - self.kv.len {
            return Err(self.context_full(ids.len(), self.kv.len));
        }
        Ok(())
    }

    /// The error for `tokens` behind `used` others that do not fit.
    pub(crate) fn context_full(&self, tokens: usize, used: usize) -> RuntimeError {
        let (graph, context) = (self.model.graph(), self.kv.capacity);
        let limit = graph.context_limit.filter(|_| context == graph.context);
        RuntimeError::ContextFull { tokens, used, context, limit }
    }

    /// Makes room for passes of up to `tokens`, `all` in total, and for `logit_rows`.
    fn reserve(&mut self, tokens: usize, all: usize, logit_rows: usize) -> Result<(), RuntimeError> {
        let graph = self.model.graph();
        for (what, needed) in [
            (CACHE, self.kv.bytes_of(self.kv.len + all)),
            (INTERMEDIATE, self.token_bytes.saturating_mul(tokens as u64)),
        ] {
            if self.machine_bytes.is_some_and(|machine| needed > machine) {
                return Err(RuntimeError::Memory { what, bytes: usize::try_from(needed).ok() });
            }
        }
        for (room, width) in [(&mut self.arena, graph.plan.width), (&mut self.wide, self.gate_width)] {
            let elements = width.saturating_mul(tokens);
            if elements > room.as_ref().len() {
                *room = Zeroed::new::<f32>(elements, INTERMEDIATE)?;
            }
        }
        for (table, turns) in self.rope_tables.iter_mut().zip(&self.model.turns) {
            let pairs = self.model.vector(&turns.frequencies).len();
            let bytes = pairs.checked_mul(8).and_then(|bytes| bytes.checked_mul(tokens));
            let refused = |_| RuntimeError::Memory { what: ROPE_TABLES, bytes };
            table.try_reserve(pairs, tokens).map_err(refused)?;
        }
        let elements = logit_rows.saturating_mul(graph.vocabulary);
        let bytes = elements.checked_mul(size_of::<f32>());
        let refused = |_| RuntimeError::Memory { what: LOGITS, bytes };
        self.logits.try_reserve_exact(elements.saturating_sub(self.logits.len())).map_err(refused)
    }

    /// Runs every node but the logits for `ids`; `observe` sees the inputs of linear layers and of attention.
    fn pass(&mut self, ids: &[u32], observe: &mut dyn FnMut(usize, &[f32])) {
        let model = self.model;
        let m = ids.len();
        let past = self.kv.len;
        self.tokens = m;
        for (table, turns) in self.rope_tables.iter_mut().zip(&model.turns) {
            table.fill(model.vector(turns.frequencies_for(self.kv.capacity)), turns.factor, past, m);
        }
        let arena = self.arena.as_mut::<f32>();
        for (index, step) in model.steps.iter().enumerate() {
            match step {
                Step::Embed { table, output } => {
                    embed(model, table, ids, &mut arena[model.arena_range(*output, m)]);
                }
                Step::PositionEmbed { table, output } => {
                    let positions: Vec<u32> = (past..past + m).map(|position| position as u32).collect();
                    embed(model, table, &positions, &mut arena[model.arena_range(*output, m)]);
                }
                Step::Add { a, b, output } => add_values(model, arena, *a, *b, *output, m),
                Step::LayerNorm { input, weight, bias, epsilon, output } => {
                    let [x, y] = disjoint(arena, model, [*input, *output], m);
                    let bias = bias.as_ref().map(|bias| model.vector(bias));
                    let weight = model.vector(weight);
                    layer_norm(model.isa(), x, weight.len(), weight, bias, *epsilon, y);
                }
                Step::RmsNorm { input, weight, epsilon, range: None, output } => {
                    let [x, y] = disjoint(arena, model, [*input, *output], m);
                    let (weight, width) = (model.vector(weight), model.graph().values[*input].width);
                    if weight.len() == width {
                        rms_norm(model.isa(), x, weight, *epsilon, y);
                    } else {
                        y.copy_from_slice(x);
                        rms_norm_runs(model.isa(), y, width, 0..width, weight, *epsilon);
                    }
                }
                Step::RmsNorm { input, weight, epsilon, range: Some([start, end]), output } => {
                    let y = in_place(arena, model, *input, *output, m);
                    let width = model.graph().values[*input].width;
                    rms_norm_runs(model.isa(), y, width, *start..*end, model.vector(weight), *epsilon);
                }
                Step::Rope { input, turns, shape, output } => {
                    let y = in_place(arena, model, *input, *output, m);
                    rope(model.isa(), *shape, &self.rope_tables[*turns], y);
                }
                Step::Concat { parts, output } => {
                    let (to, width) = (model.arena_range(*output, m), model.graph().values[*output].width);
                    let mut column = 0;
                    for part in parts {
                        let (from, part) = (model.arena_range(*part, m), model.graph().values[*part].width);
                        for row in 0..m {
                            let start = from.start + row * part;
                            arena.copy_within(start..start + part, to.start + row * width + column);
                        }
                        column += part;
                    }
                }
                Step::Linear { input, weight, bias, activations, function, gate, residual, output } => {
                    if let Some(residual) = residual {
                        in_place(arena, model, *residual, *output, m);
                    }
                    let [x, y] = disjoint(arena, model, [*input, *output], m);
                    observe(index, x);
                    let bias = bias.as_ref().map(|bias| model.vector(bias));
                    if let Some(gate) = gate {
                        let (quantized, wide) = (&mut self.quantized, self.wide.as_mut::<f32>());
                        let wide = &mut wide[..m * weight.rows];
                        gated_linear(
                            model,
                            self.profile,
                            x,
                            weight,
                            bias,
                            *gate,
                            *activations,
                            quantized,
                            wide,
                            y,
                        );
                        continue;
                    }
                    let epilogue = Epilogue { bias, activation: *function, accumulate: residual.is_some() };
                    linear(model, self.profile, x, weight, &epilogue, *activations, &mut self.quantized, y);
                }
                Step::Activation { input, function, output } => {
                    activate(model.isa(), *function, in_place(arena, model, *input, *output, m));
                }
                Step::GatedActivation { input, function, output } => {
                    let [x, y] = disjoint(arena, model, [*input, *output], m);
                    gated_activation(model.isa(), *function, x, model.graph().values[*output].width, y);
                }
                Step::Attention { qkv, slot, n_head, scale, output } => {
                    let shape = attention_shape(model, *slot, *n_head, *scale, self.kv.capacity);
                    let [qkv, y] = disjoint(arena, model, [*qkv, *output], m);
                    observe(index, qkv);
                    self.kv.slots[*slot].attend(model.isa(), &shape, qkv, m, past, y);
                }
                Step::Logits { .. } => {} // on request, for the rows that are wanted
            }
        }
        self.kv.len += m;
    }

    /// Computes the logits of some tokens of the last pass.
    fn compute_logits(&mut self, rows: Range<usize>) {
        let model = self.model;
        let Some(Step::Logits { input, weight, activations }) = model.steps.last() else {
            unreachable!("a valid graph ends with logits")
        };
        let start = model.arena_range(*input, self.tokens).start;
        let width = weight.columns;
        let x = &self.arena.as_ref()[start + rows.start * width..start + rows.end * width];
        self.logits.resize(rows.len() * weight.rows, 0.0);
        let (quantized, logits) = (&mut self.quantized, &mut self.logits);
        linear(model, self.profile, x, weight, &Epilogue::default(), *activations, quantized, logits);
    }
}

pub(crate) fn attention_shape(
    model: &Model,
    slot: usize,
    n_head: usize,
    scale: f32,
    capacity: usize,
) -> AttentionShape {
    let KvSlot { n_kv_head, head_dim, .. } = model.graph().kv_slots[slot];
    AttentionShape { n_head, n_kv_head, head_dim, scale, capacity }
}

/// Attention of a sequence of [`AttentionShape::capacity`] tokens whose keys and values are kept in `precision`,
/// `[tokens, n_head · head_dim]`.
pub(crate) fn attend_once(
    isa: Isa,
    shape: &AttentionShape,
    precision: KvPrecision,
    qkv: &[f32],
) -> Result<Vec<f32>, RuntimeError> {
    let mut y = vec![0.0; shape.capacity * shape.n_head * shape.head_dim];
    KvSlotData::new(shape, precision)?.attend(isa, shape, qkv, shape.capacity, 0, &mut y);
    Ok(y)
}

fn add_values(model: &Model, arena: &mut [f32], a: ValueId, b: ValueId, output: ValueId, m: usize) {
    if model.arena_range(a, m) == model.arena_range(output, m) {
        let [y, b] = disjoint(arena, model, [output, b], m);
        add_assign(model.isa(), y, b);
    } else {
        let [a, b, y] = disjoint(arena, model, [a, b, output], m);
        add(model.isa(), a, b, y);
    }
}

/// The arena's part of `output`, which holds what `input` does.
fn in_place<'a>(
    arena: &'a mut [f32],
    model: &Model,
    input: ValueId,
    output: ValueId,
    tokens: usize,
) -> &'a mut [f32] {
    let (from, to) = (model.arena_range(input, tokens), model.arena_range(output, tokens));
    if from != to {
        arena.copy_within(from, to.start);
    }
    &mut arena[to]
}

/// The arena's parts of values that a valid plan keeps apart.
fn disjoint<'a, const N: usize>(
    arena: &'a mut [f32],
    model: &Model,
    values: [ValueId; N],
    tokens: usize,
) -> [&'a mut [f32]; N] {
    arena
        .get_disjoint_mut(values.map(|value| model.arena_range(value, tokens)))
        .expect("the buffer plan was validated: live values do not overlap")
}

fn embed(model: &Model, table: &Matrix, ids: &[u32], y: &mut [f32]) {
    let view = model.matrix(table);
    match &view {
        MatrixView::Int8(w) => embed_int8(w, ids, y),
        MatrixView::Blocks(w) => embed_blocks(model.isa(), w, ids, y),
        MatrixView::Float(_) | MatrixView::F16(_) | MatrixView::Bf16(_) => {
            let w = view.float().expect("a floating-point view");
            embed_float(w, table.rows, table.columns, ids, y);
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the operands of one linear layer, without a name of their own"
)]
pub(crate) fn linear(
    model: &Model,
    profile: Profile,
    x: &[f32],
    weight: &Matrix,
    epilogue: &Epilogue<'_>,
    activations: Activations,
    quantized: &mut QuantizedRows,
    y: &mut [f32],
) {
    let (n, k) = (weight.rows, weight.columns);
    let view = model.matrix(weight);
    match (&view, profile) {
        (MatrixView::Int8(w), Profile::Fast | Profile::Precise) => {
            quantize(model.isa(), profile, x, k, activations, quantized);
            linear_int8(model.isa(), quantized, w, epilogue, y);
        }
        (MatrixView::Int8(w), Profile::Exact) => {
            let threshold = activations.outlier_threshold.unwrap_or(0.0);
            linear_llm_int8(model.isa(), x, ActivationDtype::F32, w, epilogue, threshold, y);
        }
        (MatrixView::Blocks(w), _) => linear_blocks(model.isa(), x, w, x.len() / k, epilogue, y),
        (MatrixView::Float(_) | MatrixView::F16(_) | MatrixView::Bf16(_), _) => {
            let w = view.float().expect("a floating-point view");
            linear_float(model.isa(), x, w, x.len() / k, n, k, epilogue, y);
        }
    }
}

/// [`linear`] with a gate behind it; `wide` has room for what is before the gate.
#[expect(clippy::too_many_arguments, reason = "as of `linear`")]
fn gated_linear(
    model: &Model,
    profile: Profile,
    x: &[f32],
    weight: &Matrix,
    bias: Option<&[f32]>,
    function: Activation,
    activations: Activations,
    quantized: &mut QuantizedRows,
    wide: &mut [f32],
    y: &mut [f32],
) {
    match (model.matrix(weight), profile) {
        (MatrixView::Int8(w), Profile::Fast | Profile::Precise) => {
            quantize(model.isa(), profile, x, weight.columns, activations, quantized);
            linear_int8_gated(model.isa(), quantized, &w, bias, function, wide, y);
        }
        _ => {
            let epilogue = Epilogue::with_bias(bias);
            linear(model, profile, x, weight, &epilogue, activations, quantized, wide);
            gated_activation(model.isa(), function, wide, weight.rows / 2, y);
        }
    }
}

/// Quantizes each token on its own, as the graph asks for unless `profile` is precise.
fn quantize(
    isa: Isa,
    profile: Profile,
    x: &[f32],
    k: usize,
    activations: Activations,
    to: &mut QuantizedRows,
) {
    let precision = match profile {
        Profile::Precise => ActivationPrecision::Int8x2,
        _ => activations.precision,
    };
    quantize_rows(isa, x, k, precision, to);
}
