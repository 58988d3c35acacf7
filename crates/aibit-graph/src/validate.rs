//! Validation of a graph from a file, after which it can be executed.

use crate::ops::Attention;
use crate::{Graph, GraphError, KvPrecision, Op, StoredTensor, TensorKind, ValueId};

/// Limits on a file's values, far above those of current models.
const MAX_CONTEXT: usize = 1 << 24;
const MAX_WIDTH: usize = 1 << 24;
const MAX_NODES: usize = 1 << 16;
const MAX_VOCABULARY: usize = 1 << 24;

impl Graph {
    /// Checks everything that execution relies on: limits, the order of values, attributes, KV slots, the buffer
    /// plan, and each tensor, which `tensor_of` looks up by name: that it exists, has the right shape and is a
    /// parameter, and that a vector is stored in F32.
    ///
    /// # Errors
    /// The first violation, with the node, the tensor and the numbers.
    pub fn validate<'a>(
        &self,
        tensor_of: impl Fn(&str) -> Option<StoredTensor<'a>>,
    ) -> Result<(), GraphError> {
        self.check_limits()?;
        if self.context_limit.is_some() && self.version < 2 {
            return Err(GraphError::OutOfRange {
                what: "the version of a graph with a `context_limit`".into(),
                found: self.version.to_string(),
                allowed: "2".into(),
            });
        }
        let mut written = vec![false; self.values.len()];
        let mut slot_used = vec![false; self.kv_slots.len()];
        for (node, op) in self.nodes.iter().enumerate() {
            let check = NodeCheck { graph: self, node, op, tensor_of: &tensor_of };
            for value in op.inputs() {
                check.value_exists(value)?;
                if !written[value] {
                    return Err(check.value_error(value, "is read before it is written"));
                }
            }
            if let Some(value) = op.output() {
                check.value_exists(value)?;
                if std::mem::replace(&mut written[value], true) {
                    return Err(check.value_error(value, "is written twice"));
                }
            }
            if op.version() > self.version {
                let (needed, found) = (op.version(), self.version);
                return Err(check.attribute(format!(
                    "has attributes of graph version {needed}, this is version {found}"
                )));
            }
            op.check(&check)?;
            if let Op::Attention(Attention { slot, .. }) = *op
                && std::mem::replace(&mut slot_used[slot], true)
            {
                return Err(check.attribute(format!("KV slot {slot} is used by an earlier node")));
            }
            if matches!(op, Op::Logits(_)) != (node + 1 == self.nodes.len()) {
                return Err(check.attribute("`logits` is the last node and stands nowhere else".into()));
            }
        }
        if let Some(value) = written.iter().position(|written| !written) {
            return Err(GraphError::OutOfRange {
                what: "the number of values".into(),
                found: format!("{} (no node writes value {value})", self.values.len()),
                allowed: "one per node that writes".into(),
            });
        }
        if let Some(slot) = slot_used.iter().position(|used| !used) {
            return Err(GraphError::OutOfRange {
                what: "the number of KV slots".into(),
                found: format!("{} (no attention node uses KV slot {slot})", self.kv_slots.len()),
                allowed: "one per attention node".into(),
            });
        }
        self.validate_plan()
    }

    fn check_limits(&self) -> Result<(), GraphError> {
        let within = |what: &str, found: usize, max: usize| {
            if (1..=max).contains(&found) {
                return Ok(());
            }
            let (found, allowed) = (found.to_string(), format!("1 to {max}"));
            Err(GraphError::OutOfRange { what: what.into(), found, allowed })
        };
        within("context", self.context, MAX_CONTEXT)?;
        within("vocabulary", self.vocabulary, MAX_VOCABULARY)?;
        within("the number of nodes", self.nodes.len(), MAX_NODES)?;
        within("the number of values", self.values.len(), MAX_NODES)?;
        for (v, value) in self.values.iter().enumerate() {
            within(&format!("the width of value {v}"), value.width, MAX_WIDTH)?;
        }
        within("the arena's width", self.plan.width, MAX_WIDTH)?;
        for (s, slot) in self.kv_slots.iter().enumerate() {
            within(&format!("n_kv_head of KV slot {s}"), slot.n_kv_head, MAX_WIDTH)?;
            let (head_dim, context) = match slot.precision {
                KvPrecision::F32 | KvPrecision::F16 => (MAX_WIDTH, MAX_CONTEXT),
                KvPrecision::Int8 => (KvPrecision::MAX_INT8_HEAD_DIM, KvPrecision::MAX_INT8_CONTEXT),
            };
            within(&format!("head_dim of KV slot {s}"), slot.head_dim, head_dim)?;
            within(&format!("the context with KV slot {s}"), self.context, context)?;
            let width = slot.n_kv_head.saturating_mul(slot.head_dim);
            within(&format!("the width of KV slot {s}"), width, MAX_WIDTH)?;
        }
        Ok(())
    }
}

/// One node of a graph that is being validated: what its op's shape rule is checked with.
pub(crate) struct NodeCheck<'g, 's> {
    graph: &'g Graph,
    node: usize,
    op: &'g Op,
    tensor_of: &'g dyn Fn(&str) -> Option<StoredTensor<'s>>,
}

impl<'g, 's> NodeCheck<'g, 's> {
    pub(crate) fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Elements per token of a value.
    pub(crate) fn width(&self, value: ValueId) -> usize {
        self.graph.values[value].width
    }

    /// The parameter called `name`.
    fn parameter(&self, name: &str) -> Result<StoredTensor<'s>, GraphError> {
        let (node, op) = (self.node, self.op.name());
        let found = (self.tensor_of)(name);
        let tensor = found.ok_or_else(|| GraphError::MissingTensor { node, op, tensor: name.to_owned() })?;
        match tensor.kind {
            TensorKind::F32 | TensorKind::Encoded => Ok(tensor),
            TensorKind::Part => Err(self.kind(name, "is part of another parameter, such as its scales")),
        }
    }

    /// The length of a vector whose length is not fixed by the graph.
    pub(crate) fn vector(&self, name: &str) -> Result<usize, GraphError> {
        let tensor = self.parameter(name)?;
        match *tensor.shape {
            [length] if length > 0 => self.in_f32(name, tensor).map(|()| length),
            ref shape => Err(self
                .attribute(format!("tensor `{name:.80}` has shape {shape:?}, the node requires a vector"))),
        }
    }

    pub(crate) fn vector_of(&self, name: &str, length: usize) -> Result<(), GraphError> {
        let tensor = self.parameter(name)?;
        self.has_shape(name, tensor, &[length])?;
        self.in_f32(name, tensor)
    }

    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<(), GraphError> {
        self.has_shape(name, self.parameter(name)?, &shape)
    }

    fn has_shape(&self, name: &str, tensor: StoredTensor<'_>, expected: &[usize]) -> Result<(), GraphError> {
        if tensor.shape != expected {
            let (node, op) = (self.node, self.op.name());
            let (found, expected) = (tensor.shape.to_vec(), expected.to_vec());
            return Err(GraphError::TensorShape { node, op, tensor: name.to_owned(), found, expected });
        }
        Ok(())
    }

    fn in_f32(&self, name: &str, tensor: StoredTensor<'_>) -> Result<(), GraphError> {
        match tensor.kind {
            TensorKind::F32 => Ok(()),
            TensorKind::Encoded | TensorKind::Part => {
                Err(self.kind(name, "is not stored in F32, in which vectors are executed where they lie"))
            }
        }
    }

    fn kind(&self, name: &str, problem: &'static str) -> GraphError {
        GraphError::TensorKind { node: self.node, op: self.op.name(), tensor: name.to_owned(), problem }
    }

    pub(crate) fn epsilon(&self, epsilon: f32) -> Result<(), GraphError> {
        if !(epsilon.is_finite() && epsilon > 0.0) {
            return Err(self.attribute(format!("epsilon is {epsilon}, it must be positive and finite")));
        }
        Ok(())
    }

    pub(crate) fn outlier_threshold(&self, threshold: Option<f32>) -> Result<(), GraphError> {
        match threshold {
            Some(t) if !(t.is_finite() && t > 0.0) => {
                Err(self.attribute(format!("outlier_threshold is {t}, it must be positive and finite")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn equal_widths(&self, a: ValueId, b: ValueId) -> Result<(), GraphError> {
        let (width_a, width_b) = (self.graph.values[a].width, self.graph.values[b].width);
        if width_a != width_b {
            return Err(
                self.attribute(format!("value {a} has width {width_a}, value {b} has width {width_b}"))
            );
        }
        Ok(())
    }

    fn value_exists(&self, value: ValueId) -> Result<(), GraphError> {
        if value >= self.graph.values.len() {
            let count = self.graph.values.len();
            return Err(self.value_error(value, &format!("does not exist, the graph has {count}")));
        }
        Ok(())
    }

    pub(crate) fn value_error(&self, value: ValueId, problem: &str) -> GraphError {
        GraphError::Value { node: self.node, op: self.op.name(), value, problem: problem.to_owned() }
    }

    pub(crate) fn attribute(&self, problem: String) -> GraphError {
        GraphError::Attribute { node: self.node, op: self.op.name(), problem }
    }
}
