use aibit_graph::ActivationFunction;
use aibit_graph::ops::GatedActivation;

use super::activation::apply;
use super::{Interpret, Pass};

impl Interpret for GatedActivation {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        gated(pass.value(self.input), pass.width(self.input), self.function)
    }
}

/// The function of the first half of each row of `x[m, width]` times the second half.
pub(super) fn gated(x: &[f32], width: usize, function: ActivationFunction) -> Vec<f32> {
    let row = |x: &[f32]| {
        let (gates, gated) = x.split_at(width / 2);
        gates.iter().zip(gated).map(|(g, x)| apply(function, *g) * x).collect::<Vec<_>>()
    };
    x.chunks(width).flat_map(row).collect()
}
