use serde::{Deserialize, Serialize};

use super::{Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// `y = a + b`, element by element.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// First operand.
    pub a: ValueId,
    /// Second operand, of the same width.
    pub b: ValueId,
    /// The sum.
    pub output: ValueId,
}

impl<T> Node<T> for Add {
    type With<U> = Self;

    const NAME: &'static str = "add";

    fn uses(&self) -> Uses<'_, T> {
        Uses::writes(self.output).reads_both(self.a, Some(self.b)).in_place(Some(self.a))
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        [&mut self.a, &mut self.b, &mut self.output].into_iter().for_each(edit);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError> {
        node.equal_widths(self.a, self.output)?;
        node.equal_widths(self.b, self.output)?;
        if self.a == self.b {
            return Err(node.value_error(self.a, "is added to itself"));
        }
        Ok(())
    }

    fn try_map<U, E>(&self, _: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<Self, E> {
        Ok(self.clone())
    }
}
