use aibit_graph::KvSlot;
use aibit_graph::ops::Attention;
use aibit_kernels::{AttentionShape, attention, store_kv};

use super::Execute;
use crate::forward::Execution;
use crate::model::Bound;

impl Execute for Attention {
    /// Stores the keys and values of the rows, then computes their attention.
    fn execute(&self, pass: &mut Execution<'_>) {
        let shape = attention_shape(pass.bound, self);
        let slot = &pass.layout.slots[self.slot];
        let [qkv, y] = pass.arena.disjoint([self.qkv, self.output]);
        (pass.observe)(pass.node, qkv);
        let places = pass.runs.iter_mut().flat_map(|run| run.sequence.places(slot, run.rows.clone()));
        store_kv(pass.cx, &shape, slot.dtype, qkv, &mut places.collect::<Vec<_>>());
        let runs: Vec<_> = pass.runs.iter().map(|run| run.sequence.run(slot, run.rows.len())).collect();
        attention(pass.cx, &shape, slot.dtype, qkv, &runs, y);
    }
}

/// The heads of an attention node.
pub(crate) fn attention_shape(bound: &Bound, attention: &Attention) -> AttentionShape {
    let &Attention { slot, n_head, scale, .. } = attention;
    let KvSlot { n_kv_head, head_dim, .. } = bound.graph.kv_slots[slot];
    AttentionShape { n_head, n_kv_head, head_dim, scale }
}
