use aibit_graph::ops::Embed;

use super::Execute;
use crate::forward::Execution;
use crate::linear::embed;
use crate::model::Tensor;

impl Execute for Embed<Tensor> {
    fn execute(&self, pass: &mut Execution<'_>) {
        embed(pass.cx, pass.bound, self.table.matrix(), pass.tokens, pass.arena.value(self.output));
    }
}
