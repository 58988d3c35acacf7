use aibit_graph::ops::Embed;

use super::{Interpret, Pass};

impl Interpret for Embed {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        rows(&pass.tensor(&self.table), pass.width(self.output), pass.ids.iter().copied())
    }
}

/// Rows of a table.
pub(super) fn rows(table: &[f32], width: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
    rows.flat_map(|row| table[row * width..][..width].to_vec()).collect()
}
