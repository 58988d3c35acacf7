use serde::{Deserialize, Serialize};

use super::{ActivationPrecision, Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// The head, whose product `x · weightᵀ`, `[tokens, vocabulary]`, is the model's result; not kept in the arena.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logits<T = String> {
    /// Left operand, `[tokens, in_features]`.
    pub input: ValueId,
    /// Tensor `[vocabulary, in_features]`; the embedding if the head is tied.
    pub weight: T,
    /// As in [`Linear`](super::Linear).
    #[serde(default, skip_serializing_if = "ActivationPrecision::is_default")]
    pub activations: ActivationPrecision,
    /// As in [`Linear`](super::Linear).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_threshold: Option<f32>,
}

impl<T> Node<T> for Logits<T> {
    type With<U> = Logits<U>;

    const NAME: &'static str = "logits";

    fn uses(&self) -> Uses<'_, T> {
        Uses::nothing().reads(self.input).tensors(&self.weight, None)
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        edit(&mut self.input);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError>
    where
        T: AsRef<str>,
    {
        node.outlier_threshold(self.outlier_threshold)?;
        node.matrix(self.weight.as_ref(), [node.graph().vocabulary, node.width(self.input)])
    }

    fn try_map<U, E>(&self, map: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<Logits<U>, E> {
        let &Self { input, activations, outlier_threshold, .. } = self;
        let weight = map(TensorUse::Weight(activations), &self.weight)?;
        Ok(Logits { input, weight, activations, outlier_threshold })
    }
}
