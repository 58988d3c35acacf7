//! The description of a model that an architecture crate gives to `aibit-pack`.

use crate::Graph;

/// A model: its graph and its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelDescription {
    /// Name of the architecture family, informative.
    pub architecture: &'static str,
    /// The graph, with its buffer plan.
    pub graph: Graph,
    /// Every tensor that the graph names, in the order of first use.
    pub parameters: Vec<Parameter>,
    /// Other names of parameters: `(alias, parameter)`.
    pub tied: Vec<(String, String)>,
}

/// A tensor in canonical layout: matrices are `[out_features, in_features]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// The checkpoint's own name, with any optional prefix restored.
    pub name: String,
    /// Canonical shape.
    pub shape: Vec<usize>,
    /// The role of the tensor, by which recipes choose a scheme.
    pub role: Role,
    /// The source of its elements.
    pub origin: Origin,
}

/// The role of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weight of a linear layer inside a block.
    Linear,
    /// Token embedding, also used by a tied head.
    Embedding,
    /// Learned position embedding.
    PositionEmbedding,
    /// Untied output head.
    Head,
    /// Vector, such as a bias or a norm's weight.
    Vector,
}

/// The source of a parameter's elements.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// The checkpoint has it in its canonical shape.
    Canonical,
    /// The checkpoint stores the matrix as `[in_features, out_features]`, and it must be transposed.
    Transposed,
    /// Computed from the configuration; no checkpoint has it.
    Constant(Vec<f32>),
    /// Other parameters, concatenated by rows ([`ModelDescription::fuse`]).
    Joined(Vec<Parameter>),
}

/// The role of a checkpoint's tensor in a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointName {
    /// A parameter, under its canonical name.
    Parameter(String),
    /// A constant that the package does not need, such as a causal mask.
    Buffer,
}
