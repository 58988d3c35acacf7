use aibit_graph::ops::RmsNorm;
use aibit_kernels::{rms_norm, rms_norm_runs};

use super::Execute;
use crate::forward::Execution;
use crate::model::Tensor;

impl Execute for RmsNorm<Tensor> {
    fn execute(&self, pass: &mut Execution<'_>) {
        let &Self { input, epsilon, range, output, .. } = self;
        let (weight, width) = (pass.bound.vector(&self.weight), pass.width(input));
        if let Some([start, end]) = range {
            let y = pass.arena.in_place(input, output);
            rms_norm_runs(pass.cx, y, width, start..end, weight, epsilon);
            return;
        }
        let [x, y] = pass.arena.disjoint([input, output]);
        if weight.len() == width {
            rms_norm(pass.cx, x, weight, epsilon, y);
        } else {
            y.copy_from_slice(x);
            rms_norm_runs(pass.cx, y, width, 0..width, weight, epsilon);
        }
    }
}
