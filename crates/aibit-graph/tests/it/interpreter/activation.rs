use aibit_graph::ActivationFunction;
use aibit_graph::ops::Activation;

use super::{Interpret, Pass};

impl Interpret for Activation {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        pass.value(self.input).iter().map(|x| apply(self.function, *x)).collect()
    }
}

pub(super) fn apply(function: ActivationFunction, x: f32) -> f32 {
    match function {
        ActivationFunction::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        ActivationFunction::Relu => x.max(0.0),
        ActivationFunction::Silu => x / (1.0 + (-x).exp()),
        other => panic!("no test here uses {other:?}"),
    }
}
