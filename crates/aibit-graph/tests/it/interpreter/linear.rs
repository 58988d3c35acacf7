use aibit_graph::ops::Linear;

use super::activation::apply;
use super::gated_activation::gated;
use super::{Interpret, Pass};

impl Interpret for Linear {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        let mut y = product(pass.value(self.input), pass.width(self.input), &pass.tensor(&self.weight));
        if let Some(bias) = &self.bias {
            let bias = pass.tensor(bias);
            y.iter_mut().zip(bias.iter().cycle()).for_each(|(y, bias)| *y += bias);
        }
        if let Some(function) = self.function {
            y.iter_mut().for_each(|y| *y = apply(function, *y));
        }
        if let Some(gate) = self.gate {
            y = gated(&y, 2 * pass.width(self.output), gate);
        }
        if let Some(residual) = self.residual {
            y.iter_mut().zip(pass.value(residual)).for_each(|(y, residual)| *y += residual);
        }
        y
    }
}

/// `x[m, k] · w[n, k]ᵀ`.
pub(super) fn product(x: &[f32], k: usize, w: &[f32]) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
}
