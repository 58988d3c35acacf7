use aibit_graph::ops::Concat;

use super::{Interpret, Pass};

impl Interpret for Concat {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        let part = |t: usize, part: usize| &pass.value(part)[t * pass.width(part)..][..pass.width(part)];
        let row = |t: usize| self.parts.iter().flat_map(move |id| part(t, *id).to_vec());
        (0..pass.ids.len()).flat_map(row).collect()
    }
}
