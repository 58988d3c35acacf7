//! What an architecture crate tells the packer about a model.

use crate::Graph;

/// A model as its architecture crate describes it: what to compute, and from which tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelDescription {
    /// Name of the architecture family, for people and reports.
    pub architecture: &'static str,
    /// The graph, with its buffer plan.
    pub graph: Graph,
    /// Every tensor that the graph names, in the order in which execution first needs it.
    pub parameters: Vec<Parameter>,
    /// Names that stand for a parameter stored under another name: `(alias, parameter)`.
    pub tied: Vec<(String, String)>,
}

/// A tensor in canonical layout: matrices are `[out_features, in_features]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// The checkpoint's own name, with any optional prefix restored.
    pub name: String,
    /// Canonical shape.
    pub shape: Vec<usize>,
    /// What the tensor is for; recipes choose a scheme by it.
    pub role: Role,
    /// Where its elements come from.
    pub origin: Origin,
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weight of a linear layer inside a block.
    Linear,
    /// Token embedding, which a tied head shares.
    Embedding,
    /// Table of learned positions.
    PositionEmbedding,
    /// Output head with weights of its own.
    Head,
    /// Bias or norm vector, or another one.
    Vector,
}

/// Where a parameter's elements come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// The checkpoint has it in its canonical shape.
    Canonical,
    /// A floating-point checkpoint has the matrix as `[in_features, out_features]`: to be transposed.
    Transposed,
    /// No checkpoint has it; these are its elements, by the configuration.
    Constant(Vec<f32>),
    /// Other parameters, the rows of one after those of another ([`ModelDescription::fuse`]).
    Joined(Vec<Parameter>),
}

/// What a tensor of a checkpoint is to a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointName {
    /// A parameter, under its canonical name.
    Parameter(String),
    /// A constant that the package expresses itself, such as a causal mask.
    Buffer,
}
