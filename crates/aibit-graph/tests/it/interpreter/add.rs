use aibit_graph::ops::Add;

use super::{Interpret, Pass};

impl Interpret for Add {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        pass.value(self.a).iter().zip(pass.value(self.b)).map(|(a, b)| a + b).collect()
    }
}
