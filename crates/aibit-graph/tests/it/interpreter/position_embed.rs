use aibit_graph::ops::PositionEmbed;

use super::embed::rows;
use super::{Interpret, Pass};

impl Interpret for PositionEmbed {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        rows(&pass.tensor(&self.table), pass.width(self.output), 0..pass.ids.len())
    }
}
