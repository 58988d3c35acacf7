use serde::{Deserialize, Serialize};

use super::{Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{Graph, GraphError, ValueId};

/// Causal self-attention over all positions so far; appends to the KV slot.
///
/// Multi-head attention where the slot has `n_head` heads of keys and values, grouped-query attention (GQA) where it has
/// fewer, multi-query attention where it has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// `[tokens, (n_head + 2 * n_kv_head) * head_dim]`: queries, keys and values side by side.
    pub qkv: ValueId,
    /// Index into [`Graph::kv_slots`].
    pub slot: usize,
    /// Query heads; a multiple of the slot's `n_kv_head`.
    pub n_head: usize,
    /// Factor on `q · k` before the softmax.
    pub scale: f32,
    /// `[tokens, n_head * head_dim]`.
    pub output: ValueId,
}

impl<T> Node<T> for Attention {
    type With<U> = Self;

    const NAME: &'static str = "attention";

    fn uses(&self) -> Uses<'_, T> {
        Uses::writes(self.output).reads(self.qkv)
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        [&mut self.qkv, &mut self.output].into_iter().for_each(edit);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError> {
        let &Self { qkv, slot, n_head, scale, output } = self;
        let Graph { kv_slots, .. } = node.graph();
        let Some(kv) = kv_slots.get(slot) else {
            return Err(node.attribute(format!("KV slot {slot} of {}", kv_slots.len())));
        };
        if !scale.is_finite() {
            return Err(node.attribute(format!("scale is {scale}, it must be finite")));
        }
        if n_head == 0 || !n_head.is_multiple_of(kv.n_kv_head) {
            return Err(node.attribute(format!(
                "n_head {n_head} is not a positive multiple of n_kv_head {}",
                kv.n_kv_head
            )));
        }
        let heads = n_head.checked_add(2 * kv.n_kv_head);
        let expected = (heads.and_then(|h| h.checked_mul(kv.head_dim)), n_head.checked_mul(kv.head_dim));
        if expected != (Some(node.width(qkv)), Some(node.width(output))) {
            return Err(node.attribute(format!(
                "{n_head} query heads and {} key-value heads of {} elements do not fit widths {} and {}",
                kv.n_kv_head,
                kv.head_dim,
                node.width(qkv),
                node.width(output)
            )));
        }
        Ok(())
    }

    fn try_map<U, E>(&self, _: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<Self, E> {
        Ok(self.clone())
    }
}
