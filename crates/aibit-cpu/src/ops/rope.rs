use aibit_graph::ops::Rope;
use aibit_kernels::{RopeShape, rope};

use super::Execute;
use crate::forward::Execution;
use crate::model::Tensor;
use crate::vocabulary;

impl Execute for Rope<Tensor> {
    fn execute(&self, pass: &mut Execution<'_>) {
        let &Self { input, heads, head_dim, style, output, .. } = self;
        let is_adjacent = vocabulary::is_adjacent(style);
        let shape = RopeShape { width: pass.width(input), heads, head_dim, is_adjacent };
        let table = &pass.rope_tables[pass.bound.angles_of(pass.node)];
        rope(pass.cx, shape, table, pass.arena.in_place(input, output));
    }
}
