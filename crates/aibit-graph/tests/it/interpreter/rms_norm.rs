use aibit_graph::ops::RmsNorm;

use super::{Interpret, Pass};

impl Interpret for RmsNorm {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        let (weight, width) = (pass.tensor(&self.weight), pass.width(self.input));
        let [start, end] = self.range.unwrap_or([0, width]);
        let mut result = pass.value(self.input).to_vec();
        for x in result.chunks_mut(width) {
            for run in x[start..end].chunks_mut(weight.len()) {
                let mean = run.iter().map(|x| x.powi(2)).sum::<f32>() / run.len() as f32;
                run.iter_mut().zip(&weight).for_each(|(x, w)| *x *= w / (mean + self.epsilon).sqrt());
            }
        }
        result
    }
}
