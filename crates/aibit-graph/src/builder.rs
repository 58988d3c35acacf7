//! Builds a graph node by node, together with its parameters.

use crate::ops::{Add, Linear, Logits};
use crate::{
    ActivationPrecision, BufferPlan, Graph, KvSlot, ModelDescription, Op, Origin, Parameter, Role, Value,
    ValueId,
};

/// Collects the nodes, values and parameters of a model in execution order.
///
/// Precisions of activations and of the KV cache are not part of the model: nodes and slots have the defaults, and
/// `pack` sets them.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    values: Vec<Value>,
    nodes: Vec<Op>,
    kv_slots: Vec<KvSlot>,
    parameters: Vec<Parameter>,
}

/// A linear layer to be built.
#[derive(Debug, Clone, Copy)]
pub struct LinearLayer<'a> {
    /// The module's name: its weight is `{name}.weight`, its bias `{name}.bias`.
    pub name: &'a str,
    /// Its input.
    pub input: ValueId,
    /// Width of its output.
    pub out_features: usize,
    /// Whether it has a bias.
    pub has_bias: bool,
    /// Whether checkpoints store the transpose of its weight.
    pub is_transposed: bool,
}

impl GraphBuilder {
    /// Adds a value of `width` elements per token.
    pub fn value(&mut self, name: &str, width: usize) -> ValueId {
        self.values.push(Value { name: name.to_owned(), width });
        self.values.len() - 1
    }

    /// Elements per token of a value.
    pub fn width(&self, value: ValueId) -> usize {
        self.values[value].width
    }

    /// Adds a parameter and returns its name.
    pub fn parameter(&mut self, name: &str, shape: &[usize], role: Role, origin: Origin) -> String {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.parameters.push(Parameter { name: name.clone(), shape, role, origin });
        name
    }

    /// Adds a matrix that checkpoints have in canonical layout, and returns its name.
    pub fn matrix(&mut self, name: &str, shape: [usize; 2], role: Role) -> String {
        self.parameter(name, &shape, role, Origin::Canonical)
    }

    /// Adds a vector from the checkpoint, and returns its name.
    pub fn vector(&mut self, name: &str, width: usize) -> String {
        self.parameter(name, &[width], Role::Vector, Origin::Canonical)
    }

    /// Appends a node.
    pub fn push(&mut self, op: impl Into<Op>) {
        self.nodes.push(op.into());
    }

    /// Appends the sum of two values.
    pub fn add(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        let output = self.value(name, self.width(a));
        self.push(Add { a, b, output });
        output
    }

    /// Appends a linear layer with its parameters.
    pub fn linear(&mut self, layer: LinearLayer<'_>) -> ValueId {
        let LinearLayer { name, input, out_features, has_bias, is_transposed } = layer;
        let shape = [out_features, self.width(input)];
        let origin = if is_transposed { Origin::Transposed } else { Origin::Canonical };
        let weight = self.parameter(&format!("{name}.weight"), &shape, Role::Linear, origin);
        let bias = has_bias.then(|| self.vector(&format!("{name}.bias"), out_features));
        let output = self.value(name, out_features);
        self.push(Linear {
            input,
            weight,
            bias,
            activations: ActivationPrecision::default(),
            outlier_threshold: None,
            function: None,
            gate: None,
            residual: None,
            output,
        });
        output
    }

    /// Adds a KV slot and returns its index.
    pub fn kv_slot(&mut self, slot: KvSlot) -> usize {
        self.kv_slots.push(slot);
        self.kv_slots.len() - 1
    }

    /// Appends the head, which ends every graph. It multiplies by `head`, or by the table `embedding` if the head is
    /// tied to it; checkpoints may then use the name `head` as well.
    pub fn finish(
        mut self,
        architecture: &'static str,
        [context, vocabulary]: [usize; 2],
        input: ValueId,
        head: &str,
        tied_to: Option<String>,
    ) -> ModelDescription {
        let mut tied = Vec::new();
        let weight = match tied_to {
            Some(embedding) => {
                tied.push((head.to_owned(), embedding.clone()));
                embedding
            }
            None => self.matrix(head, [vocabulary, self.width(input)], Role::Head),
        };
        self.push(Logits {
            input,
            weight,
            activations: ActivationPrecision::default(),
            outlier_threshold: None,
        });
        let Self { values, nodes, kv_slots, parameters } = self;
        let plan = BufferPlan::default();
        let version = nodes.iter().map(Op::version).fold(Graph::VERSION, u32::max);
        let context_limit = None;
        let mut graph = Graph { version, context, context_limit, vocabulary, values, kv_slots, nodes, plan };
        graph.plan_buffers();
        ModelDescription { architecture, graph, parameters, tied }
    }
}
