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
    /// Longest sequence, in tokens (`n_ctx`).
    pub context: usize,
    /// Why the context ends there although the model could continue; for messages only.
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
    /// The location of each value in the arena.
    pub plan: BufferPlan,
}

/// Why the context is shorter than the model would allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContextLimit {
    /// Rotary frequencies that depend on the length of the sequence, which is not supported.
    DynamicRope,
    /// Layers with a sliding window.
    SlidingWindow,
}

/// An intermediate result of shape `[tokens, width]`, f32, row-major.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Informative; execution ignores it.
    pub name: String,
    /// Elements per token.
    pub width: usize,
}

/// Shape of one layer's cached keys and values: `[n_kv_head, context, head_dim]` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvSlot {
    /// Number of KV heads.
    pub n_kv_head: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Precision of the cached elements.
    #[serde(default, skip_serializing_if = "KvPrecision::is_default")]
    pub precision: KvPrecision,
}

/// Precision of cached keys and values; see `docs/format.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvPrecision {
    /// Unrounded.
    #[default]
    F32,
    /// Rounded to half precision.
    F16,
    /// One signed byte per element, one scale per head and token.
    Int8,
}

impl KvPrecision {
    /// The longest head of an [`Int8`](Self::Int8) slot, for which integer products with a query fit in i32.
    pub const MAX_INT8_HEAD_DIM: usize = 65_535;

    /// The longest context with an [`Int8`](Self::Int8) slot, for which sums over positions fit in i32.
    pub const MAX_INT8_CONTEXT: usize = 131_072;
}

impl KvPrecision {
    /// Every precision, from the highest to the lowest.
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

/// One operation. `docs/format.md` defines the formulas; `x` is the input value, `y` the output.
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
        /// The value to normalize.
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
    /// `y = x / sqrt(mean(x²) + epsilon) * weight`, separately for each run of `weight`'s length.
    RmsNorm {
        /// The value to normalize.
        input: ValueId,
        /// Tensor `[run]`; the normalized range consists of whole runs.
        weight: String,
        /// Added to the mean of the squares; positive.
        epsilon: f32,
        /// Start and end of the normalized range; other elements are copied. Absent: the whole row.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        range: Option<[usize; 2]>,
        /// The result.
        output: ValueId,
    },
    /// Rotary position embedding: pairs of elements are rotated by `position * frequency`.
    Rope {
        /// Heads side by side.
        input: ValueId,
        /// Tensor `[pairs]`, in radians per position; the first `2 * pairs` elements of a head are rotated.
        frequencies: String,
        /// Frequencies for long contexts, if they differ.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        long: Option<LongFrequencies>,
        /// Factor on cosines and sines. Absent: 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f32>,
        /// Number of heads to rotate, from the first; elements after them are copied.
        heads: usize,
        /// Elements per head.
        head_dim: usize,
        /// Which elements are a pair.
        pairing: RopePairing,
        /// The result.
        output: ValueId,
    },
    /// Concatenation of the parts' rows.
    Concat {
        /// At least two values.
        parts: Vec<ValueId>,
        /// As wide as the parts together.
        output: ValueId,
    },
    /// `y = residual + function(x · weightᵀ + bias)`, or gated: `y = gate(first half) * second half` of
    /// `x · weightᵀ + bias`.
    Linear {
        /// Left operand, `[tokens, in_features]`.
        input: ValueId,
        /// Tensor `[out_features, in_features]`; with a gate, twice as many rows.
        weight: String,
        /// Tensor `[out_features]`; with a gate, twice as long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
        /// Precision of the activations, for an INT8 weight.
        #[serde(default, skip_serializing_if = "ActivationPrecision::is_default")]
        activations: ActivationPrecision,
        /// LLM.int8()'s outlier threshold, for an INT8 weight: activations of at least this magnitude stay in
        /// floating point. Absent: none do. Used only by the profile `exact`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outlier_threshold: Option<f32>,
        /// Applied to each element after the bias, if present.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        function: Option<ActivationFunction>,
        /// Applied to the gates, as in [`Op::GatedActivation`], if present; excludes a function and a residual.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gate: Option<ActivationFunction>,
        /// Added last, if present; as wide as the output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        residual: Option<ValueId>,
        /// The result, `[tokens, out_features]`.
        output: ValueId,
    },
    /// `y = function(x)`, element by element.
    Activation {
        /// Argument.
        input: ValueId,
        /// The function.
        function: ActivationFunction,
        /// The result.
        output: ValueId,
    },
    /// `y = function(first half of x) * second half of x`, element by element.
    GatedActivation {
        /// Gates, followed by the values to be gated.
        input: ValueId,
        /// Applied to the gates.
        function: ActivationFunction,
        /// Half as wide as the input.
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
        /// Tensor `[vocabulary, in_features]`; the embedding if the head is tied.
        weight: String,
        /// As in [`Op::Linear`].
        #[serde(default, skip_serializing_if = "ActivationPrecision::is_default")]
        activations: ActivationPrecision,
        /// As in [`Op::Linear`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outlier_threshold: Option<f32>,
    },
}

/// Precision of the activations of a linear layer with an INT8 weight; see `docs/format.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationPrecision {
    /// One signed byte per element, one scale per token.
    #[default]
    Int8,
    /// One byte per element, one scale and one zero point per token: for one-sided distributions.
    Int8Asym,
    /// Two signed bytes per element, one scale per token: as accurate as f32.
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

/// Rotary frequencies for long contexts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongFrequencies {
    /// Tensor of the same shape as the node's `frequencies`, which it replaces.
    pub frequencies: String,
    /// Used if more positions than this are reserved; positive.
    pub above: usize,
}

/// Which elements of a head form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopePairing {
    /// Elements `i` and `i + pairs` (GPT-NeoX).
    Half,
    /// Elements `2 i` and `2 i + 1` (GPT-J).
    Adjacent,
}

/// Element-wise functions.
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
    /// The version of graphs that need no newer one.
    pub const VERSION: u32 = 1;

    /// The newest version that this build supports: version 2 adds [`Graph::context_limit`], and `long` and
    /// `attention_factor` of [`Op::Rope`].
    pub const NEWEST: u32 = 2;

    /// Maximum length of the JSON, five times that of a model with 400 billion parameters.
    pub const MAX_JSON: usize = 4 << 20;

    /// Parses a graph from JSON. Checks only the syntax; see [`Graph::validate`].
    ///
    /// # Errors
    /// [`GraphError::Parse`] with line and column for bad JSON, unknown ops and unknown attributes,
    /// [`GraphError::Version`] for an unsupported version, and [`GraphError::TooLong`] beyond [`Graph::MAX_JSON`].
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

    /// The graph as JSON, with equal bytes for equal graphs.
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

    /// The first version that has the op with its attributes.
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

    /// The value that the op writes; none for [`Op::Logits`].
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

    /// The input whose buffer the output may reuse, for element-wise ops.
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
