//! Validation of a graph from a file, after which it can be executed.

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
            check.tensors_and_attributes()?;
            if let Op::Attention { slot, .. } = *op
                && std::mem::replace(&mut slot_used[slot], true)
            {
                return Err(check.attribute(format!("KV slot {slot} is used by an earlier node")));
            }
            if matches!(op, Op::Logits { .. }) != (node + 1 == self.nodes.len()) {
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

struct NodeCheck<'g, F> {
    graph: &'g Graph,
    node: usize,
    op: &'g Op,
    tensor_of: F,
}

impl<'s, F: Fn(&str) -> Option<StoredTensor<'s>>> NodeCheck<'_, F> {
    fn tensors_and_attributes(&self) -> Result<(), GraphError> {
        let width = |value: ValueId| self.graph.values[value].width;
        match *self.op {
            Op::Embed { ref table, output } => self.matrix(table, [self.graph.vocabulary, width(output)]),
            Op::PositionEmbed { ref table, output } => {
                self.matrix(table, [self.graph.context, width(output)])
            }
            Op::Add { a, b, output } => {
                self.equal_widths(a, output)?;
                self.equal_widths(b, output)?;
                if a == b {
                    return Err(self.value_error(a, "is added to itself"));
                }
                Ok(())
            }
            Op::LayerNorm { input, ref weight, ref bias, epsilon, output } => {
                self.equal_widths(input, output)?;
                self.epsilon(epsilon)?;
                self.vector_of(weight, width(input))?;
                bias.iter().try_for_each(|bias| self.vector_of(bias, width(input)))
            }
            Op::RmsNorm { input, ref weight, epsilon, range, output } => {
                self.equal_widths(input, output)?;
                self.epsilon(epsilon)?;
                let [start, end] = range.unwrap_or([0, width(input)]);
                if start >= end || end > width(input) {
                    return Err(self.attribute(format!("range {start}..{end} of {} elements", width(input))));
                }
                let run = self.vector(weight)?;
                if !(end - start).is_multiple_of(run) {
                    return Err(self.attribute(format!(
                        "{} elements are not whole runs of {run}, the length of `{weight:.80}`",
                        end - start
                    )));
                }
                Ok(())
            }
            Op::Rope {
                input,
                ref frequencies,
                ref long,
                attention_factor,
                heads,
                head_dim,
                output,
                pairing: _,
            } => {
                self.equal_widths(input, output)?;
                let turned = heads.checked_mul(head_dim).filter(|turned| (1..=width(input)).contains(turned));
                if turned.is_none() {
                    return Err(self.attribute(format!(
                        "{heads} heads of {head_dim} elements do not fit the width {}",
                        width(input)
                    )));
                }
                let pairs = self.vector(frequencies)?;
                if pairs.checked_mul(2).is_none_or(|elements| elements > head_dim) {
                    return Err(self.attribute(format!(
                        "{pairs} pairs, the length of `{frequencies:.80}`, do not fit heads of {head_dim} elements"
                    )));
                }
                if let Some(long) = long {
                    if long.above == 0 {
                        return Err(self.attribute("`above` is 0, it must be positive".into()));
                    }
                    self.vector_of(&long.frequencies, pairs)?;
                }
                if let Some(factor) = attention_factor
                    && !factor.is_finite()
                {
                    return Err(self.attribute(format!("attention_factor is {factor}, it must be finite")));
                }
                Ok(())
            }
            Op::Concat { ref parts, output } => {
                if parts.len() < 2 {
                    return Err(self.attribute(format!("{} parts, two or more are required", parts.len())));
                }
                let sum = parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(width(*part)));
                if sum != Some(width(output)) {
                    return Err(self.attribute(format!(
                        "the widths of its parts do not add up to the width {} of value {output}",
                        width(output)
                    )));
                }
                Ok(())
            }
            Op::Linear {
                input,
                ref weight,
                ref bias,
                outlier_threshold,
                function,
                gate,
                residual,
                output,
                activations: _,
            } => {
                self.outlier_threshold(outlier_threshold)?;
                if gate.is_some() && (function.is_some() || residual.is_some()) {
                    let other = if function.is_some() { "function" } else { "residual" };
                    return Err(self.attribute(format!("a gate and a {other}, which exclude each other")));
                }
                residual.map_or(Ok(()), |residual| self.equal_widths(residual, output))?;
                let rows = if gate.is_some() { width(output).saturating_mul(2) } else { width(output) };
                self.matrix(weight, [rows, width(input)])?;
                bias.iter().try_for_each(|bias| self.vector_of(bias, rows))
            }
            Op::Activation { input, output, function: _ } => self.equal_widths(input, output),
            Op::GatedActivation { input, output, function: _ } => {
                if width(output).checked_mul(2) != Some(width(input)) {
                    return Err(self.attribute(format!(
                        "value {input} of width {} is not twice as wide as value {output} of width {}",
                        width(input),
                        width(output)
                    )));
                }
                Ok(())
            }
            Op::Attention { qkv, slot, n_head, scale, output } => {
                let Some(kv) = self.graph.kv_slots.get(slot) else {
                    let slots = self.graph.kv_slots.len();
                    return Err(self.attribute(format!("KV slot {slot} of {slots}")));
                };
                if !scale.is_finite() {
                    return Err(self.attribute(format!("scale is {scale}, it must be finite")));
                }
                if n_head == 0 || !n_head.is_multiple_of(kv.n_kv_head) {
                    return Err(self.attribute(format!(
                        "n_head {n_head} is not a positive multiple of n_kv_head {}",
                        kv.n_kv_head
                    )));
                }
                let heads = n_head.checked_add(2 * kv.n_kv_head);
                let expected =
                    (heads.and_then(|h| h.checked_mul(kv.head_dim)), n_head.checked_mul(kv.head_dim));
                if expected != (Some(width(qkv)), Some(width(output))) {
                    return Err(self.attribute(format!(
                        "{n_head} query heads and {} key-value heads of {} elements do not fit widths {} and {}",
                        kv.n_kv_head,
                        kv.head_dim,
                        width(qkv),
                        width(output)
                    )));
                }
                Ok(())
            }
            Op::Logits { input, ref weight, outlier_threshold, activations: _ } => {
                self.outlier_threshold(outlier_threshold)?;
                self.matrix(weight, [self.graph.vocabulary, width(input)])
            }
        }
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
    fn vector(&self, name: &str) -> Result<usize, GraphError> {
        let tensor = self.parameter(name)?;
        match *tensor.shape {
            [length] if length > 0 => self.in_f32(name, tensor).map(|()| length),
            ref shape => Err(self
                .attribute(format!("tensor `{name:.80}` has shape {shape:?}, the node requires a vector"))),
        }
    }

    fn vector_of(&self, name: &str, length: usize) -> Result<(), GraphError> {
        let tensor = self.parameter(name)?;
        self.has_shape(name, tensor, &[length])?;
        self.in_f32(name, tensor)
    }

    fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<(), GraphError> {
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

    fn epsilon(&self, epsilon: f32) -> Result<(), GraphError> {
        if !(epsilon.is_finite() && epsilon > 0.0) {
            return Err(self.attribute(format!("epsilon is {epsilon}, it must be positive and finite")));
        }
        Ok(())
    }

    fn outlier_threshold(&self, threshold: Option<f32>) -> Result<(), GraphError> {
        match threshold {
            Some(t) if !(t.is_finite() && t > 0.0) => {
                Err(self.attribute(format!("outlier_threshold is {t}, it must be positive and finite")))
            }
            _ => Ok(()),
        }
    }

    fn equal_widths(&self, a: ValueId, b: ValueId) -> Result<(), GraphError> {
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

    fn value_error(&self, value: ValueId, problem: &str) -> GraphError {
        GraphError::Value { node: self.node, op: self.op.name(), value, problem: problem.to_owned() }
    }

    fn attribute(&self, problem: String) -> GraphError {
        GraphError::Attribute { node: self.node, op: self.op.name(), problem }
    }
}
