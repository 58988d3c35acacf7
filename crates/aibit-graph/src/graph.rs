//! Ops, values and the graph itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{BufferPlan, GraphError};

/// Index of a [`Value`] in [`Graph::values`].
pub type ValueId = usize;

/// An inference graph: nodes in execution order over values `[tokens, width]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// Version of the op set, [`Graph::VERSION`] to [`Graph::NEWEST`].
    pub version: u32,
    /// Longest sequence the model was made for (`n_ctx`).
    pub context: usize,
    /// What ends the context there, where the model could go on. Only messages say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_limit: Option<ContextLimit>,
    /// Number of token ids; the width of the logits.
    pub vocabulary: usize,
    /// Intermediate results.
    pub values: Vec<Value>,
    /// One slot of cached keys and values per attention node.
    pub kv_slots: Vec<KvSlot>,
    /// Operations in execution order; the last one is [`Op::Logits`].
    pub nodes: Vec<Op>,
    /// Where each value lies in the arena.
    pub plan: BufferPlan,
}

/// Why a context ends before the model does: what it does to longer sequences is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContextLimit {
    /// Frequencies of the rotary embedding that change with the length of the sequence.
    DynamicRope,
    /// Layers that see the last positions only.
    SlidingWindow,
}

/// An intermediate result of shape `[tokens, width]`, f32, row-major.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// For people; execution never looks at it.
    pub name: String,
    /// Elements per token.
    pub width: usize,
}

/// Shape of one layer's cached keys and values: `[n_kv_head, context, head_dim]` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvSlot {
    /// Heads with keys and values of their own.
    pub n_kv_head: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// How the elements are kept.
    #[serde(default, skip_serializing_if = "KvPrecision::is_default")]
    pub precision: KvPrecision,
}

/// How cached keys and values are kept; see `docs/format.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvPrecision {
    /// As they were computed.
    #[default]
    F32,
    /// Rounded to half precision.
    F16,
    /// One signed byte per element, one scale for each head and token.
    Int8,
}

impl KvPrecision {
    /// The longest head of an [`Int8`](Self::Int8) slot: integer products with a query cannot leave i32.
    pub const MAX_INT8_HEAD_DIM: usize = 65_535;

    /// The longest context with an [`Int8`](Self::Int8) slot: sums over positions cannot leave i32.
    pub const MAX_INT8_CONTEXT: usize = 131_072;
}

impl KvPrecision {
    /// Every precision, the finest first.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Int8];

    /// The name in graphs, manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for KvPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvPrecision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|precision| precision.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("unknown precision of cached keys and values `{name}`, known are {known}")
        })
    }
}

/// One operation. The formula of each stands in `docs/format.md`; `x` is the input value, `y` the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// `y[t] = table[id[t]]`.
    Embed {
        /// Tensor `[vocabulary, width]`.
        table: String,
        /// The looked-up rows.
        output: ValueId,
    },
    /// `y[t] = table[position[t]]`, positions counted from the start of the sequence.
    PositionEmbed {
        /// Tensor `[context, width]`.
        table: String,
        /// The looked-up rows.
        output: ValueId,
    },
    /// `y = a + b`, element by element.
    Add {
        /// First operand.
        a: ValueId,
        /// Second operand, of the same width.
        b: ValueId,
        /// The sum.
        output: ValueId,
    },
    /// `y = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias`, per token.
    LayerNorm {
        /// Normalized value.
        input: ValueId,
        /// Tensor `[width]`.
        weight: String,
        /// Tensor `[width]`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
        /// Added to the variance; positive.
        epsilon: f32,
        /// The result.
        output: ValueId,
    },
    /// `y = x / sqrt(mean(x²) + epsilon) * weight`, for each run of `weight`'s length by itself.
    RmsNorm {
        /// Normalized value.
        input: ValueId,
        /// Tensor `[run]`; the part of the value that is normalized consists of whole runs.
        weight: String,
        /// Added to the mean of the squares; positive.
        epsilon: f32,
        /// First element that is normalized and first after them; all others stay as they are. Absent: all are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        range: Option<[usize; 2]>,
        /// The result.
        output: ValueId,
    },
    /// Rotary position embedding: pairs of elements are turned by `position * frequency`.
    Rope {
        /// Heads side by side.
        input: ValueId,
        /// Tensor `[pairs]`, in radians per position; a head's first `2 * pairs` elements are turned.
        frequencies: String,
        /// Others for long contexts. Absent: there are none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        long: Option<LongFrequencies>,
        /// Multiplies cosines and sines. Absent: nothing does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f32>,
        /// Heads that are turned, from the first on; what follows stays as it is.
        heads: usize,
        /// Elements per head.
        head_dim: usize,
        /// Which elements are a pair.
        pairing: RopePairing,
        /// The result.
        output: ValueId,
    },
    /// The parts side by side.
    Concat {
        /// Two or more.
        parts: Vec<ValueId>,
        /// As wide as all of them.
        output: ValueId,
    },
    /// `y = residual + function(x · weightᵀ + bias)`, or gated: `y = gate(first half) * second half` of
    /// `x · weightᵀ + bias`.
    Linear {
        /// Left operand, `[tokens, in_features]`.
        input: ValueId,
        /// Tensor `[out_features, in_features]`; gated, there are twice as many rows as out features.
        weight: String,
        /// Tensor `[out_features]`, or twice as long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
        /// Where the weight is quantized to integers: how the activations are.
        #[serde(default, skip_serializing_if = "ActivationPrecision::is_default")]
        activations: ActivationPrecision,
        /// Where the weight is quantized to integers: the magnitude from which on LLM.int8() keeps activations in
        /// floating point. Absent: it keeps none. Nothing else uses it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outlier_threshold: Option<f32>,
        /// Applied to each element after the bias. Absent: none is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        function: Option<ActivationFunction>,
        /// Applied to the gates, as in [`Op::GatedActivation`]; with neither a function nor a residual. Absent: there is
        /// no gate.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gate: Option<ActivationFunction>,
        /// Added last, of the output's width. Absent: nothing is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        residual: Option<ValueId>,
        /// The result, `[tokens, out_features]`.
        output: ValueId,
    },
    /// `y = function(x)`, element by element.
    Activation {
        /// Argument.
        input: ValueId,
        /// Which function.
        function: ActivationFunction,
        /// The result.
        output: ValueId,
    },
    /// `y = function(first half of x) * second half of x`, element by element.
    GatedActivation {
        /// Gate and gated value side by side.
        input: ValueId,
        /// Applied to the gate.
        function: ActivationFunction,
        /// Half as wide.
        output: ValueId,
    },
    /// Causal self-attention over all positions so far; appends to the KV slot.
    Attention {
        /// `[tokens, (n_head + 2 * n_kv_head) * head_dim]`: queries, keys and values side by side.
        qkv: ValueId,
        /// Index into [`Graph::kv_slots`].
        slot: usize,
        /// Query heads; a multiple of the slot's `n_kv_head`.
        n_head: usize,
        /// Factor on `q · k` before the softmax.
        scale: f32,
        /// `[tokens, n_head * head_dim]`.
        output: ValueId,
    },
    /// The model's result, `x · weightᵀ`, `[tokens, vocabulary]`; not kept in the arena.
    Logits {
        /// Left operand, `[tokens, in_features]`.
        input: ValueId,
        /// Tensor `[vocabulary, in_features]`; the embedding itself where the head is tied.
        weight: String,
        /// As in [`Op::Linear`].
        #[serde(default, skip_serializing_if = "ActivationPrecision::is_default")]
        activations: ActivationPrecision,
        /// As in [`Op::Linear`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outlier_threshold: Option<f32>,
    },
}

/// How activations become integers where the weight is quantized; see `docs/format.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationPrecision {
    /// One signed byte per element, one scale per token.
    #[default]
    Int8,
    /// One byte per element, one scale and one zero point per token: for one-sided values.
    Int8Asym,
    /// Two signed bytes per element, one scale per token: as good as f32.
    Int8x2,
}

impl ActivationPrecision {
    /// Every precision.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int8Asym, Self::Int8x2];

    /// The name in graphs, manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int8Asym => "int8-asym",
            Self::Int8x2 => "int8x2",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for ActivationPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ActivationPrecision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|precision| precision.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("unknown precision of activations `{name}`, known are {known}")
        })
    }
}

/// Frequencies of a rotary embedding for sequences that may become long.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongFrequencies {
    /// Tensor of the same shape as the node's `frequencies`, whose place it takes.
    pub frequencies: String,
    /// It does so where room for more positions than this is reserved; positive.
    pub above: usize,
}

/// Which elements of a head are turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopePairing {
    /// Elements `i` and `i + pairs`.
    Half,
    /// Elements `2 i` and `2 i + 1`.
    Adjacent,
}

/// Element-wise functions, with the formula of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationFunction {
    /// `0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt(2)))`.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `tanh(x)`.
    Tanh,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl Graph {
    /// The op set of graphs that need no newer one.
    pub const VERSION: u32 = 1;

    /// The newest op set that this build executes: version 2 has [`Graph::context_limit`], and `long` and
    /// `attention_factor` of [`Op::Rope`].
    pub const NEWEST: u32 = 2;

    /// Longest JSON that is read. The graph of a model of 400 billion parameters has a fifth of it.
    pub const MAX_JSON: usize = 4 << 20;

    /// Reads a graph from JSON. Only the syntax is checked here; see [`Graph::validate`].
    ///
    /// # Errors
    /// [`GraphError::Parse`] with line and column for bad JSON, unknown ops and unknown attributes,
    /// [`GraphError::Version`] for another op set, and [`GraphError::TooLong`] beyond [`Graph::MAX_JSON`].
    pub fn from_json(json: &[u8]) -> Result<Self, GraphError> {
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u32,
        }
        let (bytes, allowed) = (json.len(), Self::MAX_JSON);
        if bytes > allowed {
            return Err(GraphError::TooLong { bytes, allowed });
        }
        let VersionOnly { version: found } = serde_json::from_slice(json)?;
        if !(Self::VERSION..=Self::NEWEST).contains(&found) {
            return Err(GraphError::Version { found, supported: Self::NEWEST });
        }
        Ok(serde_json::from_slice(json)?)
    }

    /// The graph as JSON, the same bytes for equal graphs.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a graph has only string keys and finite numbers")
    }
}

impl Op {
    /// The op's name in `graph.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::PositionEmbed { .. } => "position_embed",
            Self::Add { .. } => "add",
            Self::LayerNorm { .. } => "layer_norm",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Rope { .. } => "rope",
            Self::Concat { .. } => "concat",
            Self::Linear { .. } => "linear",
            Self::Activation { .. } => "activation",
            Self::GatedActivation { .. } => "gated_activation",
            Self::Attention { .. } => "attention",
            Self::Logits { .. } => "logits",
        }
    }

    /// The first op set that has the op with its attributes.
    pub(crate) fn version(&self) -> u32 {
        match self {
            Self::Rope { long: Some(_), .. } | Self::Rope { attention_factor: Some(_), .. } => 2,
            _ => 1,
        }
    }

    /// Values that the op reads.
    pub fn inputs(&self) -> impl Iterator<Item = ValueId> {
        let (first, second, rest) = match *self {
            Self::Embed { .. } | Self::PositionEmbed { .. } => (None, None, &[][..]),
            Self::Add { a, b, .. } => (Some(a), Some(b), &[][..]),
            Self::LayerNorm { input, .. }
            | Self::RmsNorm { input, .. }
            | Self::Rope { input, .. }
            | Self::Activation { input, .. }
            | Self::GatedActivation { input, .. }
            | Self::Logits { input, .. } => (Some(input), None, &[][..]),
            Self::Linear { input, residual, .. } => (Some(input), residual, &[][..]),
            Self::Attention { qkv, .. } => (Some(qkv), None, &[][..]),
            Self::Concat { ref parts, .. } => (None, None, parts.as_slice()),
        };
        first.into_iter().chain(second).chain(rest.iter().copied())
    }

    /// The value that the op writes; [`Op::Logits`] writes none.
    pub fn output(&self) -> Option<ValueId> {
        match *self {
            Self::Embed { output, .. }
            | Self::PositionEmbed { output, .. }
            | Self::Add { output, .. }
            | Self::LayerNorm { output, .. }
            | Self::RmsNorm { output, .. }
            | Self::Rope { output, .. }
            | Self::Concat { output, .. }
            | Self::Linear { output, .. }
            | Self::Activation { output, .. }
            | Self::GatedActivation { output, .. }
            | Self::Attention { output, .. } => Some(output),
            Self::Logits { .. } => None,
        }
    }

    /// Tensors that the op names.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Embed { table, .. } | Self::PositionEmbed { table, .. } => (Some(table), None),
            Self::LayerNorm { weight, bias, .. } | Self::Linear { weight, bias, .. } => {
                (Some(weight), bias.as_ref())
            }
            Self::RmsNorm { weight, .. } | Self::Logits { weight, .. } => (Some(weight), None),
            Self::Rope { frequencies, long, .. } => {
                (Some(frequencies), long.as_ref().map(|long| &long.frequencies))
            }
            Self::Add { .. }
            | Self::Concat { .. }
            | Self::Activation { .. }
            | Self::GatedActivation { .. }
            | Self::Attention { .. } => (None, None),
        };
        first.into_iter().chain(second).map(String::as_str)
    }

    /// The one input whose buffer the output may take over: what is done element by element can be done in place.
    pub(crate) fn in_place_input(&self) -> Option<ValueId> {
        match *self {
            Self::Add { a, .. } => Some(a),
            Self::Activation { input, .. }
            | Self::Rope { input, .. }
            | Self::RmsNorm { input, range: Some(_), .. } => Some(input),
            Self::Linear { input, residual, .. } => residual.filter(|residual| *residual != input),
            _ => None,
        }
    }

    /// Calls `edit` for each value that the op names.
    pub(crate) fn for_each_value(&mut self, mut edit: impl FnMut(&mut ValueId)) {
        match self {
            Self::Embed { output, .. } | Self::PositionEmbed { output, .. } => edit(output),
            Self::Add { a, b, output } => [a, b, output].into_iter().for_each(edit),
            Self::LayerNorm { input, output, .. }
            | Self::RmsNorm { input, output, .. }
            | Self::Rope { input, output, .. }
            | Self::Activation { input, output, .. }
            | Self::GatedActivation { input, output, .. } => {
                [input, output].into_iter().for_each(edit);
            }
            Self::Concat { parts, output } => parts.iter_mut().chain([output]).for_each(edit),
            Self::Linear { input, residual, output, .. } => {
                [input, output].into_iter().chain(residual).for_each(edit);
            }
            Self::Attention { qkv, output, .. } => [qkv, output].into_iter().for_each(edit),
            Self::Logits { input, .. } => edit(input),
        }
    }
}
