use aibit_graph::ops::Concat;

use super::Execute;
use crate::forward::Execution;

impl Execute for Concat {
    fn execute(&self, pass: &mut Execution<'_>) {
        let mut column = 0;
        for &part in &self.parts {
            pass.arena.copy_columns(part, self.output, column);
            column += pass.width(part);
        }
    }
}
