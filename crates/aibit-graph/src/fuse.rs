//! Fusion: linear layers with the same input are joined, and element-wise ops after a linear layer become part of it.

use crate::ops::{Activation, Add, Concat, GatedActivation, Linear};
use crate::{Graph, ModelDescription, Op, Origin, Parameter, ValueId};

impl ModelDescription {
    /// Joins linear layers whose outputs are only read by one [`Concat`] into one layer, and then applies
    /// [`Graph::fuse`].
    ///
    /// The joined layer's weight is the concatenation of the parts' weights by rows; its name is that of the
    /// `concat`'s output, followed by `.weight`; likewise its bias. Rows are unchanged, so results are bit-equal.
    /// `may_join` says whether parameters may be joined; those with different schemes cannot.
    ///
    /// The graph must be well-formed (see [`Graph::validate`]), as an architecture crate emits it.
    pub fn fuse(&mut self, may_join: impl Fn(&[&Parameter]) -> bool) {
        let mut at = 0;
        while at < self.graph.nodes.len() {
            match self.joined(at, &may_join) {
                Some(Joined { linears, op, parameters }) => {
                    self.graph.nodes[at] = op;
                    for linear in linears.into_iter().rev() {
                        self.graph.nodes.remove(linear);
                        at -= 1;
                    }
                    for parameter in parameters {
                        self.replace_parts(parameter);
                    }
                }
                None => at += 1,
            }
        }
        self.graph.fuse();
    }

    /// The joined layer for the linear layers whose outputs node `at` concatenates, if any.
    fn joined(&self, at: usize, may_join: &impl Fn(&[&Parameter]) -> bool) -> Option<Joined> {
        let Op::Concat(Concat { parts, output }) = &self.graph.nodes[at] else { return None };
        let mut linears: Vec<_> =
            parts.iter().map(|part| self.graph.sole_linear(*part)).collect::<Option<_>>()?;
        let Op::Linear(mut first) = self.graph.nodes[linears[0]].clone() else { return None };
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for linear in &linears {
            let Op::Linear(linear) = &self.graph.nodes[*linear] else { return None };
            weights.push(self.parameter(&linear.weight)?);
            biases.extend(linear.bias.as_deref().and_then(|bias| self.parameter(bias)));
            if !linear.differs_in_tensors_only(&first) {
                return None;
            }
        }
        // A tensor that another layer also uses is not joined.
        let is_used_once = |parameter: &&Parameter| {
            self.graph.nodes.iter().flat_map(Op::tensors).filter(|name| **name == parameter.name).count() == 1
        };
        if !weights.iter().chain(&biases).all(is_used_once) {
            return None;
        }
        let all_have_biases = biases.len() == weights.len();
        if !may_join(&weights) || !(biases.is_empty() || all_have_biases && may_join(&biases)) {
            return None;
        }
        if first.gate.is_some() || first.residual.is_some() {
            return None;
        }
        let module = &self.graph.values[*output].name;
        first.output = *output;
        first.weight = format!("{module}.weight");
        let mut parameters = vec![join(first.weight.clone(), &weights)?];
        if let Some(bias) = &mut first.bias {
            *bias = format!("{module}.bias");
            parameters.push(join(bias.clone(), &biases)?);
        }
        linears.sort_unstable();
        Some(Joined { linears, op: first.into(), parameters })
    }

    fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// Replaces the parts of a joined parameter by that parameter, at the position of the first part.
    fn replace_parts(&mut self, joined: Parameter) {
        let Origin::Joined(parts) = &joined.origin else { return };
        let is_part = |parameter: &Parameter| parts.iter().any(|part| part.name == parameter.name);
        let first = self.parameters.iter().position(is_part).expect("the parts are parameters of this model");
        self.parameters.retain(|parameter| !is_part(parameter));
        self.parameters.insert(first, joined);
    }
}

/// Linear layers to be joined.
struct Joined {
    /// In ascending order.
    linears: Vec<usize>,
    op: Op,
    parameters: Vec<Parameter>,
}

/// Joins parameters by rows.
fn join(name: String, parts: &[&Parameter]) -> Option<Parameter> {
    let first = parts.first()?;
    let is_alike = |part: &&&Parameter| {
        let is_plain = matches!(part.origin, Origin::Canonical | Origin::Transposed);
        is_plain && part.role == first.role && part.shape.get(1..) == first.shape.get(1..)
    };
    if !parts.iter().all(|part| is_alike(&part)) {
        return None;
    }
    let mut shape = first.shape.clone();
    shape[0] = parts.iter().map(|part| part.shape[0]).sum();
    let parts = parts.iter().map(|part| (*part).clone()).collect();
    Some(Parameter { name, shape, role: first.role, origin: Origin::Joined(parts) })
}

impl Linear {
    /// Whether two linear layers differ only in their tensors and outputs.
    fn differs_in_tensors_only(&self, other: &Self) -> bool {
        let plain = |linear: &Self| {
            let bias = linear.bias.as_ref().map(|_| String::new());
            Self { weight: String::new(), bias, output: 0, ..linear.clone() }
        };
        plain(self) == plain(other)
    }
}

impl Graph {
    /// Moves each activation function, gated or not, and each residual addition into the linear layer whose output
    /// only it reads, removes values that are no longer written, and plans the buffers again.
    ///
    /// The fused node computes the same operations on each element in the same order, so a graph and its fused form
    /// give the same bits; it saves a pass over memory and a synchronization of threads. The result is stored in the
    /// package, and an executor executes the stored graph as it is.
    ///
    /// The graph must be well-formed (see [`Graph::validate`]), as an architecture crate emits it.
    pub fn fuse(&mut self) {
        let mut at = 0;
        while at < self.nodes.len() {
            match self.fused(at) {
                Some((linear, fused)) => {
                    self.nodes[at] = fused;
                    self.nodes.remove(linear);
                }
                None => at += 1,
            }
        }
        self.drop_unwritten_values();
        self.plan_buffers();
    }

    /// The linear node with which node `at` can be fused, and the fused node, which replaces `at`.
    fn fused(&self, at: usize) -> Option<(usize, Op)> {
        let fused_into = |value: ValueId, fuse: &dyn Fn(&mut Linear) -> bool| {
            let at = self.sole_linear(value)?;
            let Op::Linear(mut linear) = self.nodes[at].clone() else { return None };
            // Nothing comes after a gate or a residual.
            let is_fused = linear.gate.is_none() && linear.residual.is_none() && fuse(&mut linear);
            is_fused.then_some((at, linear.into()))
        };
        match self.nodes[at] {
            Op::Activation(Activation { input, function, output }) => fused_into(input, &|linear| {
                linear.output = output;
                linear.function.replace(function).is_none()
            }),
            Op::GatedActivation(GatedActivation { input, function, output }) => {
                fused_into(input, &|linear| {
                    (linear.gate, linear.output) = (Some(function), output);
                    linear.function.is_none()
                })
            }
            // Prefer the later operand: the earlier one is then the residual stream.
            Op::Add(Add { a, b, output }) => [(b, a), (a, b)].into_iter().find_map(|(sum, rest)| {
                fused_into(sum, &|linear| {
                    (linear.residual, linear.output) = (Some(rest), output);
                    true
                })
            }),
            _ => None,
        }
    }

    /// The linear node that writes `value`, if exactly one node reads `value`.
    fn sole_linear(&self, value: ValueId) -> Option<usize> {
        let reads: usize =
            self.nodes.iter().map(|node| node.inputs().filter(|input| *input == value).count()).sum();
        let writer = self.nodes.iter().position(|node| node.output() == Some(value))?;
        (reads == 1 && matches!(self.nodes[writer], Op::Linear(_))).then_some(writer)
    }

    fn drop_unwritten_values(&mut self) {
        let written: Vec<ValueId> = self.nodes.iter().filter_map(Op::output).collect();
        let mut new_ids = vec![0; self.values.len()];
        let mut kept = Vec::with_capacity(written.len());
        for (old, value) in self.values.drain(..).enumerate() {
            if written.contains(&old) {
                new_ids[old] = kept.len();
                kept.push(value);
            }
        }
        self.values = kept;
        for node in &mut self.nodes {
            node.for_each_value(&mut |value| *value = new_ids[*value]);
        }
    }
}
