use aibit_graph::ops::Linear;
use aibit_kernels::Epilogue;

use super::Execute;
use crate::forward::Execution;
use crate::linear::{Activations, Layer};
use crate::model::Tensor;
use crate::vocabulary;

impl Execute for Linear<Tensor> {
    fn execute(&self, pass: &mut Execution<'_>) {
        if let Some(residual) = self.residual {
            pass.arena.in_place(residual, self.output);
        }
        let [x, y] = pass.arena.disjoint([self.input, self.output]);
        (pass.observe)(pass.node, x);
        let (weight, bound) = (self.weight.matrix(), pass.bound);
        let layer = Layer {
            cx: pass.cx,
            bound,
            profile: pass.profile,
            weight,
            activations: Activations::of(self.activations, self.outlier_threshold),
            runs: pass.run_rows,
        };
        let bias = self.bias.as_ref().map(|bias| bound.vector(bias));
        if let Some(gate) = self.gate {
            let wide = &mut pass.wide[..pass.tokens.len() * weight.rows];
            layer.multiply_gated(x, bias, vocabulary::function(gate), pass.quantized, wide, y);
        } else {
            let activation = self.function.map(vocabulary::function);
            let epilogue = Epilogue { bias, activation, accumulate: self.residual.is_some() };
            layer.multiply(x, &epilogue, pass.quantized, y);
        }
    }
}
