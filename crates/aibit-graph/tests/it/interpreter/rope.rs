use aibit_graph::RopeStyle;
use aibit_graph::ops::Rope;

use super::{Interpret, Pass};

impl Interpret for Rope {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        let frequencies = match &self.long {
            Some(long) if pass.ids.len() > long.above => pass.tensor(&long.frequencies),
            _ => pass.tensor(&self.frequencies),
        };
        let factor = self.attention_factor.unwrap_or(1.0);
        let mut result = pass.value(self.input).to_vec();
        for (position, x) in result.chunks_mut(pass.width(self.input)).enumerate() {
            for head in x.chunks_mut(self.head_dim).take(self.heads) {
                for (pair, frequency) in frequencies.iter().enumerate() {
                    let (a, b) = match self.style {
                        RopeStyle::NeoX => (pair, pair + frequencies.len()),
                        RopeStyle::GptJ => (2 * pair, 2 * pair + 1),
                    };
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    let (sin, cos) = (sin * factor, cos * factor);
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
                }
            }
        }
        result
    }
}
