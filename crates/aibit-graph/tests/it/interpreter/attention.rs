use aibit_graph::ops::Attention;

use super::{Interpret, Pass};

impl Interpret for Attention {
    fn result(&self, pass: &Pass<'_>) -> Vec<f32> {
        let kv = pass.graph.kv_slots[self.slot];
        attention(pass.value(self.qkv), self.n_head, kv.n_kv_head, kv.head_dim, self.scale)
    }
}

fn attention(qkv: &[f32], n_head: usize, n_kv_head: usize, d: usize, scale: f32) -> Vec<f32> {
    let rows: Vec<&[f32]> = qkv.chunks((n_head + 2 * n_kv_head) * d).collect();
    let mut result = Vec::new();
    for (position, row) in rows.iter().enumerate() {
        for head in 0..n_head {
            let kv_head = head / (n_head / n_kv_head);
            let key = |at: usize| &rows[at][(n_head + kv_head) * d..][..d];
            let value = |at: usize| &rows[at][(n_head + n_kv_head + kv_head) * d..][..d];
            let score =
                |at| row[head * d..][..d].iter().zip(key(at)).map(|(q, k)| q * k).sum::<f32>() * scale;
            let scores: Vec<f32> = (0..=position).map(score).collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = scores.iter().map(|score| (score - max).exp()).sum();
            for i in 0..d {
                let weighted =
                    scores.iter().enumerate().map(|(at, score)| (score - max).exp() * value(at)[i]);
                result.push(weighted.sum::<f32>() / sum);
            }
        }
    }
    result
}
