use aibit_graph::ops::LayerNorm;
use aibit_kernels::layer_norm;

use super::Execute;
use crate::forward::Execution;
use crate::model::Tensor;

impl Execute for LayerNorm<Tensor> {
    fn execute(&self, pass: &mut Execution<'_>) {
        let weight = pass.bound.vector(&self.weight);
        let bias = self.bias.as_ref().map(|bias| pass.bound.vector(bias));
        let [x, y] = pass.arena.disjoint([self.input, self.output]);
        layer_norm(pass.cx, x, weight.len(), weight, bias, self.epsilon, y);
    }
}
