use aibit_graph::ops::LayerNorm;

use super::{Interpret, Pass};

impl Interpret for LayerNorm {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        let (weight, bias) = (pass.tensor(&self.weight), self.bias.as_ref().map(|bias| pass.tensor(bias)));
        let mut result = Vec::new();
        for x in pass.value(self.input).chunks(pass.width(self.input)) {
            let mean = x.iter().sum::<f32>() / x.len() as f32;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / x.len() as f32;
            for (i, x) in x.iter().enumerate() {
                let normed = (x - mean) / (variance + self.epsilon).sqrt() * weight[i];
                result.push(normed + bias.as_ref().map_or(0.0, |bias| bias[i]));
            }
        }
        result
    }
}
