//! The meaning of a graph, in the plainest form: f32, one buffer per value, one loop per op, no plan. One file per op.

mod activation;
mod add;
mod attention;
mod concat;
mod embed;
mod gated_activation;
mod layer_norm;
mod linear;
mod logits;
mod position_embed;
mod rms_norm;
mod rope;

use aibit_graph::{Graph, ModelDescription, Op, Origin, Parameter, ValueId};

use crate::support::Shapes;

/// What an op means.
trait Interpret {
    /// The output value.
    fn result(&self, pass: &Pass<'_>) -> Vec<f32>;
}

/// What the nodes of a graph are computed from.
struct Pass<'a> {
    graph: &'a Graph,
    tensor: &'a dyn Fn(&str) -> Vec<f32>,
    ids: &'a [usize],
    /// Those that are written already.
    values: Vec<Vec<f32>>,
}

impl Pass<'_> {
    fn width(&self, value: ValueId) -> usize {
        self.graph.values[value].width
    }

    fn value(&self, value: ValueId) -> &[f32] {
        &self.values[value]
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        (self.tensor)(name)
    }
}

/// The logits of the last of `ids`, with tensors drawn from their names.
pub(crate) fn last_logits(graph: &Graph, shapes: &Shapes, ids: &[usize]) -> Vec<f32> {
    logits_with(graph, &|name| drawn(name, shapes[name].iter().product()), ids)
}

/// The same for a model. A joined tensor has the rows of its parts, each drawn from its own name.
pub(crate) fn model_logits(model: &ModelDescription, ids: &[usize]) -> Vec<f32> {
    fn elements(parameter: &Parameter) -> Vec<f32> {
        match &parameter.origin {
            Origin::Joined(parts) => parts.iter().flat_map(elements).collect(),
            Origin::Constant(values) => values.clone(),
            Origin::Canonical | Origin::Transposed => {
                drawn(&parameter.name, parameter.shape.iter().product())
            }
        }
    }
    let tensor = |name: &str| {
        let parameter = model.parameters.iter().find(|parameter| parameter.name == name);
        elements(parameter.expect("a parameter of the model"))
    };
    logits_with(&model.graph, &tensor, ids)
}

fn logits_with(graph: &Graph, tensor: &dyn Fn(&str) -> Vec<f32>, ids: &[usize]) -> Vec<f32> {
    let mut pass = Pass { graph, tensor, ids, values: vec![Vec::new(); graph.values.len()] };
    for node in &graph.nodes {
        let result = match node {
            Op::Embed(op) => op.result(&pass),
            Op::PositionEmbed(op) => op.result(&pass),
            Op::Add(op) => op.result(&pass),
            Op::LayerNorm(op) => op.result(&pass),
            Op::RmsNorm(op) => op.result(&pass),
            Op::Rope(op) => op.result(&pass),
            Op::Concat(op) => op.result(&pass),
            Op::Linear(op) => op.result(&pass),
            Op::Activation(op) => op.result(&pass),
            Op::GatedActivation(op) => op.result(&pass),
            Op::Attention(op) => op.result(&pass),
            Op::Logits(op) => op.result(&pass),
        };
        match node.output() {
            Some(output) => pass.values[output] = result,
            None => return result,
        }
    }
    unreachable!("a graph ends with logits")
}

/// Numbers in -1..1 that depend on the name only.
fn drawn(name: &str, elements: usize) -> Vec<f32> {
    let mut state = name.bytes().fold(17_u64, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(elements).collect()
}
