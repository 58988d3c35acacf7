use aibit_graph::ops::Activation;
use aibit_kernels::activate;

use super::Execute;
use crate::forward::Execution;
use crate::vocabulary;

impl Execute for Activation {
    fn execute(&self, pass: &mut Execution<'_>) {
        let function = vocabulary::function(self.function);
        activate(pass.cx, function, pass.arena.in_place(self.input, self.output));
    }
}
