use aibit_graph::ops::PositionEmbed;

use super::Execute;
use crate::forward::Execution;
use crate::linear::embed;
use crate::model::Tensor;
use crate::sequences::RunRows;

impl Execute for PositionEmbed<Tensor> {
    fn execute(&self, pass: &mut Execution<'_>) {
        let positions = pass.runs.iter().flat_map(|RunRows { rows, sequence }| {
            (sequence.len..sequence.len + rows.len()).map(|position| position as u32)
        });
        let positions: Vec<u32> = positions.collect();
        embed(pass.cx, pass.bound, self.table.matrix(), &positions, pass.arena.value(self.output));
    }
}
