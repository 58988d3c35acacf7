//! The graph, its values and its KV slots.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{BufferPlan, GraphError, Op};

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

impl Graph {
    /// The version of graphs that need no newer one.
    pub const VERSION: u32 = 1;

    /// The newest version that this build supports: version 2 adds [`Graph::context_limit`], and `long` and
    /// `attention_factor` of [`Rope`](crate::ops::Rope).
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
