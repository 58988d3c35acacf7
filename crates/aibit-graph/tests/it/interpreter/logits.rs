use aibit_graph::ops::Logits;

use super::linear::product;
use super::{Interpret, Pass};

impl Interpret for Logits {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        let k = pass.width(self.input);
        product(&pass.value(self.input)[(pass.ids.len() - 1) * k..], k, &pass.tensor(&self.weight))
    }
}
