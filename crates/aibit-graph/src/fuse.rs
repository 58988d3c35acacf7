//! Fusion: ops that only pass over what a linear layer has just written become part of it.

use crate::{Graph, Op, ValueId};

impl Graph {
    /// Moves each activation function and each residual addition into the linear layer whose output it alone reads,
    /// drops the values that nobody writes any more, and plans the buffers anew.
    ///
    /// The fused node computes the same operations on each element in the same order, so a graph and its fused form
    /// give the same bits; what goes is a pass over memory and a wait for all threads. This is done when a package is
    /// made and stored in it: whoever executes a graph executes it as it stands.
    ///
    /// The graph must be well-formed ([`Graph::validate`] tells), as an architecture crate emits it.
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

    /// The linear node that node `at` can become part of, and what the two become, in the place of `at`.
    fn fused(&self, at: usize) -> Option<(usize, Op)> {
        match self.nodes[at] {
            Op::Activation { input, function, output } => {
                let linear = self.sole_linear(input)?;
                let mut fused = self.nodes[linear].clone();
                let Op::Linear { function: own, residual: None, output: own_output, .. } = &mut fused else {
                    return None;
                };
                if own.replace(function).is_some() {
                    return None;
                }
                *own_output = output;
                Some((linear, fused))
            }
            // The later operand, if it can be: the earlier one is then the residual stream.
            Op::Add { a, b, output } => [(b, a), (a, b)].into_iter().find_map(|(sum, rest)| {
                let linear = self.sole_linear(sum)?;
                let mut fused = self.nodes[linear].clone();
                let Op::Linear { residual, output: own_output, .. } = &mut fused else { return None };
                if residual.replace(rest).is_some() {
                    return None;
                }
                *own_output = output;
                Some((linear, fused))
            }),
            _ => None,
        }
    }

    /// The linear node that writes `value`, if exactly one node reads it.
    fn sole_linear(&self, value: ValueId) -> Option<usize> {
        let reads: usize =
            self.nodes.iter().map(|node| node.inputs().filter(|input| *input == value).count()).sum();
        let writer = self.nodes.iter().position(|node| node.output() == Some(value))?;
        (reads == 1 && matches!(self.nodes[writer], Op::Linear { .. })).then_some(writer)
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
            node.for_each_value(|value| *value = new_ids[*value]);
        }
    }
}
