use serde::{Deserialize, Serialize};

use super::{ActivationFunction, Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// A gated linear unit's activation: `y = function(first half of x) * second half of x`, element by element. SwiGLU
/// with SiLU, GeGLU with GELU, ReGLU with ReLU.
///
/// Source: Shazeer 2020 (arXiv:2002.05202), §2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedActivation {
    /// Gates, followed by the values to be gated.
    pub input: ValueId,
    /// Applied to the gates.
    pub function: ActivationFunction,
    /// Half as wide as the input.
    pub output: ValueId,
}

impl<T> Node<T> for GatedActivation {
    type With<U> = Self;

    const NAME: &'static str = "gated_activation";

    fn uses(&self) -> Uses<'_, T> {
        Uses::writes(self.output).reads(self.input)
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        [&mut self.input, &mut self.output].into_iter().for_each(edit);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError> {
        let &Self { input, output, .. } = self;
        let (from, to) = (node.width(input), node.width(output));
        if to.checked_mul(2) != Some(from) {
            return Err(node.attribute(format!(
                "value {input} of width {from} is not twice as wide as value {output} of width {to}"
            )));
        }
        Ok(())
    }

    fn try_map<U, E>(&self, _: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<Self, E> {
        Ok(self.clone())
    }
}
