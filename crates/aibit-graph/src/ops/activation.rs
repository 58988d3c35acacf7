use serde::{Deserialize, Serialize};

use super::{Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// An activation function: `y = function(x)`, element by element.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Argument.
    pub input: ValueId,
    /// The function.
    pub function: ActivationFunction,
    /// The result.
    pub output: ValueId,
}

/// Element-wise functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationFunction {
    /// `0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt(2)))`.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `tanh(x)`.
    Tanh,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl<T> Node<T> for Activation {
    type With<U> = Self;

    const NAME: &'static str = "activation";

    fn uses(&self) -> Uses<'_, T> {
        Uses::writes(self.output).reads(self.input).in_place(Some(self.input))
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        [&mut self.input, &mut self.output].into_iter().for_each(edit);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError> {
        node.equal_widths(self.input, self.output)
    }

    fn try_map<U, E>(&self, _: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<Self, E> {
        Ok(self.clone())
    }
}
