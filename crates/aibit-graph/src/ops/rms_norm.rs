use serde::{Deserialize, Serialize};

use super::{Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// RMSNorm: `y = x / sqrt(mean(x²) + epsilon) * weight`, separately for each run of `weight`'s length.
///
/// A run is the whole row, or a head: QK-norm normalizes each head of the queries and keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RmsNorm<T = String> {
    /// The value to normalize.
    pub input: ValueId,
    /// Tensor `[run]`; the normalized range consists of whole runs.
    pub weight: T,
    /// Added to the mean of the squares; positive.
    pub epsilon: f32,
    /// Start and end of the normalized range; other elements are copied. Absent: the whole row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<[usize; 2]>,
    /// The result.
    pub output: ValueId,
}

impl<T> Node<T> for RmsNorm<T> {
    type With<U> = RmsNorm<U>;

    const NAME: &'static str = "rms_norm";

    fn uses(&self) -> Uses<'_, T> {
        Uses::writes(self.output)
            .reads(self.input)
            .in_place(self.range.map(|_| self.input))
            .tensors(&self.weight, None)
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        [&mut self.input, &mut self.output].into_iter().for_each(edit);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError>
    where
        T: AsRef<str>,
    {
        let (width, weight) = (node.width(self.input), self.weight.as_ref());
        node.equal_widths(self.input, self.output)?;
        node.epsilon(self.epsilon)?;
        let [start, end] = self.range.unwrap_or([0, width]);
        if start >= end || end > width {
            return Err(node.attribute(format!("range {start}..{end} of {width} elements")));
        }
        let run = node.vector(weight)?;
        if !(end - start).is_multiple_of(run) {
            return Err(node.attribute(format!(
                "{} elements are not whole runs of {run}, the length of `{weight:.80}`",
                end - start
            )));
        }
        Ok(())
    }

    fn try_map<U, E>(&self, map: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<RmsNorm<U>, E> {
        let &Self { input, ref weight, epsilon, range, output } = self;
        Ok(RmsNorm { input, weight: map(TensorUse::Vector, weight)?, epsilon, range, output })
    }
}
