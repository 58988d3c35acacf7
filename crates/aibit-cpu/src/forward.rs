//! One pass: every node of the graph for the rows of a batch.

use std::ops::Range;

use aibit_graph::{Op, ValueId};
use aibit_kernels::{Context, Epilogue, QuantizedRows, RopeTable};
use aibit_runtime::Profile;

use crate::Model;
use crate::linear::{Activations, Layer};
use crate::model::Bound;
use crate::ops;
use crate::pages::PageLayout;
use crate::sequences::{RunRows, Workspace};

/// The rows of one pass.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model,
    pub(crate) profile: Profile,
    pub(crate) layout: &'a PageLayout,
    pub(crate) tokens: &'a [u32],
    pub(crate) runs: &'a mut [RunRows],
}

/// A pass while its nodes are executed.
pub(crate) struct Execution<'a> {
    pub(crate) cx: &'a Context,
    pub(crate) bound: &'a Bound,
    pub(crate) profile: Profile,
    pub(crate) layout: &'a PageLayout,
    pub(crate) tokens: &'a [u32],
    pub(crate) runs: &'a mut [RunRows],
    /// The rows of each run.
    pub(crate) run_rows: &'a [Range<usize>],
    /// Index of the node that is executed.
    pub(crate) node: usize,
    pub(crate) arena: Arena<'a>,
    /// As in [`Workspace`].
    pub(crate) wide: &'a mut [f32],
    pub(crate) quantized: &'a mut QuantizedRows,
    pub(crate) rope_tables: &'a [RopeTable],
    /// Gets the index and the input of each node that multiplies or attends.
    pub(crate) observe: &'a mut dyn FnMut(usize, &[f32]),
}

impl Execution<'_> {
    /// Elements per row of a value.
    pub(crate) fn width(&self, value: ValueId) -> usize {
        self.bound.graph.values[value].width
    }
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
            let frequencies = bound.elements(angles.frequencies_for(sequence.capacity));
            table.append(frequencies, angles.factor, sequence.len, rows.len());
        }
    }
    let run_rows: Vec<Range<usize>> = pass.runs.iter().map(|run| run.rows.clone()).collect();
    let mut execution = Execution {
        cx,
        bound,
        profile: pass.profile,
        layout: pass.layout,
        tokens: pass.tokens,
        runs: pass.runs,
        run_rows: &run_rows,
        node: 0,
        arena: Arena { elements: arena.floats_mut(), bound, rows: m },
        wide: wide.floats_mut(),
        quantized,
        rope_tables,
        observe,
    };
    for (node, op) in bound.nodes.iter().enumerate() {
        execution.node = node;
        ops::execute(op, &mut execution);
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
    let Some(Op::Logits(head)) = bound.nodes.last() else { unreachable!("a valid graph ends with logits") };
    let activations = Activations::of(head.activations, head.outlier_threshold);
    let layer = Layer { cx, bound, profile, weight: head.weight.matrix(), activations, runs };
    layer.multiply(x, &Epilogue::default(), quantized, y);
}

/// The values of a pass.
pub(crate) struct Arena<'a> {
    elements: &'a mut [f32],
    bound: &'a Bound,
    rows: usize,
}

impl Arena<'_> {
    pub(crate) fn range(&self, value: ValueId) -> Range<usize> {
        self.bound.arena_range(value, self.rows)
    }

    pub(crate) fn value(&mut self, value: ValueId) -> &mut [f32] {
        let range = self.range(value);
        &mut self.elements[range]
    }

    /// `output`, which holds what `input` does.
    pub(crate) fn in_place(&mut self, input: ValueId, output: ValueId) -> &mut [f32] {
        let (from, to) = (self.range(input), self.range(output));
        if from != to {
            self.elements.copy_within(from, to.start);
        }
        &mut self.elements[to]
    }

    /// Values that a valid plan keeps apart.
    pub(crate) fn disjoint<const N: usize>(&mut self, values: [ValueId; N]) -> [&mut [f32]; N] {
        let ranges = values.map(|value| self.range(value));
        self.elements
            .get_disjoint_mut(ranges)
            .expect("the buffer plan was validated: live values do not overlap")
    }

    /// Writes columns `column..` of `output`: those of `part`.
    pub(crate) fn copy_columns(&mut self, part: ValueId, output: ValueId, column: usize) {
        let width_of = |value: ValueId| self.bound.graph.values[value].width;
        let (part_width, width) = (width_of(part), width_of(output));
        let (from, to) = (self.range(part).start, self.range(output).start);
        for row in 0..self.rows {
            let start = from + row * part_width;
            self.elements.copy_within(start..start + part_width, to + row * width + column);
        }
    }
}
