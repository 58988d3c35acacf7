use aibit_graph::ops::Add;
use aibit_kernels::{add, add_assign};

use super::Execute;
use crate::forward::Execution;

impl Execute for Add {
    fn execute(&self, pass: &mut Execution<'_>) {
        let &Self { a, b, output } = self;
        let arena = &mut pass.arena;
        if arena.range(a) == arena.range(output) {
            let [y, b] = arena.disjoint([output, b]);
            add_assign(pass.cx, y, b);
        } else {
            let [a, b, y] = arena.disjoint([a, b, output]);
            add(pass.cx, a, b, y);
        }
    }
}
