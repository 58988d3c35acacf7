use serde::{Deserialize, Serialize};

use super::{Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// Learned position embedding: `y[t] = table[position[t]]`, positions counted from the start of the sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionEmbed<T = String> {
    /// Tensor `[context, width]`.
    pub table: T,
    /// One row of the table for each token.
    pub output: ValueId,
}

impl<T> Node<T> for PositionEmbed<T> {
    type With<U> = PositionEmbed<U>;

    const NAME: &'static str = "position_embed";

    fn uses(&self) -> Uses<'_, T> {
        Uses::writes(self.output).tensors(&self.table, None)
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        edit(&mut self.output);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError>
    where
        T: AsRef<str>,
    {
        node.matrix(self.table.as_ref(), [node.graph().context, node.width(self.output)])
    }

    fn try_map<U, E>(
        &self,
        map: &mut impl FnMut(TensorUse, &T) -> Result<U, E>,
    ) -> Result<PositionEmbed<U>, E> {
        Ok(PositionEmbed { table: map(TensorUse::Table, &self.table)?, output: self.output })
    }
}
