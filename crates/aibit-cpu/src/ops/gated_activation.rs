use aibit_graph::ops::GatedActivation;
use aibit_kernels::gated_activation;

use super::Execute;
use crate::forward::Execution;
use crate::vocabulary;

impl Execute for GatedActivation {
    fn execute(&self, pass: &mut Execution<'_>) {
        let (function, width) = (vocabulary::function(self.function), pass.width(self.output));
        let [x, y] = pass.arena.disjoint([self.input, self.output]);
        gated_activation(pass.cx, function, x, width, y);
    }
}
