use serde::{Deserialize, Serialize};

use super::{Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// Concatenation of the parts' rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concat {
    /// At least two values.
    pub parts: Vec<ValueId>,
    /// As wide as the parts together.
    pub output: ValueId,
}

impl<T> Node<T> for Concat {
    type With<U> = Self;

    const NAME: &'static str = "concat";

    fn uses(&self) -> Uses<'_, T> {
        Uses::writes(self.output).reads_all(&self.parts)
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        self.parts.iter_mut().chain([&mut self.output]).for_each(edit);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError> {
        let Self { parts, output } = self;
        if parts.len() < 2 {
            return Err(node.attribute(format!("{} parts, two or more are required", parts.len())));
        }
        let sum = parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(node.width(*part)));
        let width = node.width(*output);
        if sum != Some(width) {
            return Err(node.attribute(format!(
                "the widths of its parts do not add up to the width {width} of value {output}"
            )));
        }
        Ok(())
    }

    fn try_map<U, E>(&self, _: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<Self, E> {
        Ok(self.clone())
    }
}
