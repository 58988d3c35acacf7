use serde::{Deserialize, Serialize};

use super::{Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// Layer normalization: `y = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias`, per token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNorm<T = String> {
    /// The value to normalize.
    pub input: ValueId,
    /// Tensor `[width]`.
    pub weight: T,
    /// Tensor `[width]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<T>,
    /// Added to the variance; positive.
    pub epsilon: f32,
    /// The result.
    pub output: ValueId,
}

impl<T> Node<T> for LayerNorm<T> {
    type With<U> = LayerNorm<U>;

    const NAME: &'static str = "layer_norm";

    fn uses(&self) -> Uses<'_, T> {
        Uses::writes(self.output).reads(self.input).tensors(&self.weight, self.bias.as_ref())
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        [&mut self.input, &mut self.output].into_iter().for_each(edit);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError>
    where
        T: AsRef<str>,
    {
        let width = node.width(self.input);
        node.equal_widths(self.input, self.output)?;
        node.epsilon(self.epsilon)?;
        node.vector_of(self.weight.as_ref(), width)?;
        self.bias.iter().try_for_each(|bias| node.vector_of(bias.as_ref(), width))
    }

    fn try_map<U, E>(&self, map: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<LayerNorm<U>, E> {
        let &Self { input, ref weight, ref bias, epsilon, output } = self;
        let weight = map(TensorUse::Vector, weight)?;
        let bias = bias.as_ref().map(|bias| map(TensorUse::Vector, bias)).transpose()?;
        Ok(LayerNorm { input, weight, bias, epsilon, output })
    }
}
