//! One pass: every node of the graph for the rows of a batch.

use std::ops::Range;

use aibit_graph::{KvSlot, ValueId};
use aibit_kernels::{
    AttentionShape, Context, Epilogue, QuantizedRows, activate, add, add_assign, attention, gated_activation,
    layer_norm, rms_norm, rms_norm_runs, rope, store_kv,
};
use aibit_runtime::Profile;

use crate::Model;
use crate::linear::{self, Layer};
use crate::model::{Bound, Step};
use crate::pages::{PageLayout, Slot};
use crate::sequences::{RunRows, Workspace};

/// The rows of one pass.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model,
    pub(crate) profile: Profile,
    pub(crate) layout: &'a PageLayout,
    pub(crate) tokens: &'a [u32],
    pub(crate) runs: &'a mut [RunRows],
}

/// Runs every node but the logits; `observe` gets the inputs of linear layers and of attention.
pub(crate) fn run(pass: &mut Pass<'_>, workspace: &mut Workspace, observe: &mut dyn FnMut(usize, &[f32])) {
    let m = pass.tokens.len();
    if m == 0 {
        return;
    }
    let (bound, cx) = (pass.model.bound(), pass.model.context());
    let Workspace { arena, wide, quantized, rope_tables } = workspace;
    for (table, angles) in rope_tables.iter_mut().zip(&bound.angles) {
        table.clear();
        for RunRows { rows, sequence } in &*pass.runs {
            let frequencies = bound.vector(angles.frequencies_for(sequence.capacity));
            table.append(frequencies, angles.factor, sequence.len, rows.len());
        }
    }
    let runs: Vec<Range<usize>> = pass.runs.iter().map(|run| run.rows.clone()).collect();
    let mut arena = Arena { elements: arena.floats_mut(), bound, rows: m };
    for (index, step) in bound.steps.iter().enumerate() {
        match step {
            Step::Embed { table, output } => {
                linear::embed(cx, bound, table, pass.tokens, arena.value(*output))
            }
            Step::PositionEmbed { table, output } => {
                let positions = pass.runs.iter().flat_map(|RunRows { rows, sequence }| {
                    (sequence.len..sequence.len + rows.len()).map(|position| position as u32)
                });
                let positions: Vec<u32> = positions.collect();
                linear::embed(cx, bound, table, &positions, arena.value(*output));
            }
            Step::Add { a, b, output } => arena.add(cx, *a, *b, *output),
            Step::LayerNorm { input, weight, bias, epsilon, output } => {
                let [x, y] = arena.disjoint([*input, *output]);
                let bias = bias.as_ref().map(|bias| bound.vector(bias));
                let weight = bound.vector(weight);
                layer_norm(cx, x, weight.len(), weight, bias, *epsilon, y);
            }
            Step::RmsNorm { input, weight, epsilon, range: None, output } => {
                let [x, y] = arena.disjoint([*input, *output]);
                let (weight, width) = (bound.vector(weight), bound.graph.values[*input].width);
                if weight.len() == width {
                    rms_norm(cx, x, weight, *epsilon, y);
                } else {
                    y.copy_from_slice(x);
                    rms_norm_runs(cx, y, width, 0..width, weight, *epsilon);
                }
            }
            Step::RmsNorm { input, weight, epsilon, range: Some([start, end]), output } => {
                let width = bound.graph.values[*input].width;
                let y = arena.in_place(*input, *output);
                rms_norm_runs(cx, y, width, *start..*end, bound.vector(weight), *epsilon);
            }
            Step::Rope { input, angles, shape, output } => {
                rope(cx, *shape, &rope_tables[*angles], arena.in_place(*input, *output));
            }
            Step::Concat { parts, output } => arena.concat(parts, *output),
            Step::Linear { input, weight, bias, activations, function, gate, residual, output } => {
                if let Some(residual) = residual {
                    arena.in_place(*residual, *output);
                }
                let [x, y] = arena.disjoint([*input, *output]);
                observe(index, x);
                let layer = Layer {
                    cx,
                    bound,
                    profile: pass.profile,
                    weight,
                    activations: *activations,
                    runs: &runs,
                };
                let bias = bias.as_ref().map(|bias| bound.vector(bias));
                if let Some(gate) = gate {
                    let wide = &mut wide.floats_mut()[..m * weight.rows];
                    layer.multiply_gated(x, bias, *gate, quantized, wide, y);
                } else {
                    let epilogue = Epilogue { bias, activation: *function, accumulate: residual.is_some() };
                    layer.multiply(x, &epilogue, quantized, y);
                }
            }
            Step::Activation { input, function, output } => {
                activate(cx, *function, arena.in_place(*input, *output));
            }
            Step::GatedActivation { input, function, output } => {
                let [x, y] = arena.disjoint([*input, *output]);
                gated_activation(cx, *function, x, bound.graph.values[*output].width, y);
            }
            Step::Attention { qkv, slot, n_head, scale, output } => {
                let shape = attention_shape(bound, *slot, *n_head, *scale);
                let [qkv, y] = arena.disjoint([*qkv, *output]);
                observe(index, qkv);
                attend(cx, &shape, &pass.layout.slots[*slot], qkv, pass.runs, y);
            }
            Step::Logits { .. } => {} // on request, for the rows that are wanted
        }
    }
}

/// Writes the logits of rows `x` to `y[rows, vocabulary]`; `runs` are the rows of each sequence.
pub(crate) fn logits(
    model: &Model,
    profile: Profile,
    x: &[f32],
    runs: &[Range<usize>],
    quantized: &mut QuantizedRows,
    y: &mut [f32],
) {
    let (bound, cx) = (model.bound(), model.context());
    let Some(Step::Logits { weight, activations, .. }) = bound.steps.last() else {
        unreachable!("a valid graph ends with logits")
    };
    let layer = Layer { cx, bound, profile, weight, activations: *activations, runs };
    layer.multiply(x, &Epilogue::default(), quantized, y);
}

pub(crate) fn attention_shape(bound: &Bound, slot: usize, n_head: usize, scale: f32) -> AttentionShape {
    let KvSlot { n_kv_head, head_dim, .. } = bound.graph.kv_slots[slot];
    AttentionShape { n_head, n_kv_head, head_dim, scale }
}

/// Stores the keys and values of `qkv` and writes the attention of its rows to `y`.
fn attend(
    cx: &Context,
    shape: &AttentionShape,
    slot: &Slot,
    qkv: &[f32],
    runs: &mut [RunRows],
    y: &mut [f32],
) {
    let places = runs.iter_mut().flat_map(|run| run.sequence.places(slot, run.rows.clone()));
    store_kv(cx, shape, slot.dtype, qkv, &mut places.collect::<Vec<_>>());
    let runs: Vec<_> = runs.iter().map(|run| run.sequence.run(slot, run.rows.len())).collect();
    attention(cx, shape, slot.dtype, qkv, &runs, y);
}

/// The values of a pass.
struct Arena<'a> {
    elements: &'a mut [f32],
    bound: &'a Bound,
    rows: usize,
}

impl Arena<'_> {
    fn range(&self, value: ValueId) -> Range<usize> {
        self.bound.arena_range(value, self.rows)
    }

    fn value(&mut self, value: ValueId) -> &mut [f32] {
        let range = self.range(value);
        &mut self.elements[range]
    }

    /// `output`, which holds what `input` does.
    fn in_place(&mut self, input: ValueId, output: ValueId) -> &mut [f32] {
        let (from, to) = (self.range(input), self.range(output));
        if from != to {
            self.elements.copy_within(from, to.start);
        }
        &mut self.elements[to]
    }

    /// Values that a valid plan keeps apart.
    fn disjoint<const N: usize>(&mut self, values: [ValueId; N]) -> [&mut [f32]; N] {
        let ranges = values.map(|value| self.range(value));
        self.elements
            .get_disjoint_mut(ranges)
            .expect("the buffer plan was validated: live values do not overlap")
    }

    fn add(&mut self, cx: &Context, a: ValueId, b: ValueId, output: ValueId) {
        if self.range(a) == self.range(output) {
            let [y, b] = self.disjoint([output, b]);
            add_assign(cx, y, b);
        } else {
            let [a, b, y] = self.disjoint([a, b, output]);
            add(cx, a, b, y);
        }
    }

    fn concat(&mut self, parts: &[ValueId], output: ValueId) {
        let width_of = |value: ValueId| self.bound.graph.values[value].width;
        let (to, width) = (self.range(output), width_of(output));
        let mut column = 0;
        for &part in parts {
            let (from, part) = (self.range(part), width_of(part));
            for row in 0..self.rows {
                let start = from.start + row * part;
                self.elements.copy_within(start..start + part, to.start + row * width + column);
            }
            column += part;
        }
    }
}
