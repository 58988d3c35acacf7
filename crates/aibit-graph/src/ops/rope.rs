use serde::{Deserialize, Serialize};

use super::{Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// Rotary position embedding: pairs of elements are rotated by `position * frequency`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope<T = String> {
    /// Heads side by side.
    pub input: ValueId,
    /// Tensor `[pairs]`, in radians per position; the first `2 * pairs` elements of a head are rotated.
    pub frequencies: T,
    /// Frequencies for long contexts (LongRoPE), if they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long: Option<LongFrequencies<T>>,
    /// Factor on cosines and sines (YaRN, LongRoPE). Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f32>,
    /// Number of heads to rotate, from the first; elements after them are copied.
    pub heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Which elements form a pair.
    #[serde(rename = "pairing")]
    pub style: RopeStyle,
    /// The result.
    pub output: ValueId,
}

/// Rotary frequencies for long contexts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongFrequencies<T = String> {
    /// Tensor of the same shape as the node's `frequencies`, which it replaces.
    pub frequencies: T,
    /// Used if more positions than this are reserved; positive.
    pub above: usize,
}

/// Which elements of a head form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RopeStyle {
    /// GPT-NeoX style: elements `i` and `i + pairs`. `"half"` in JSON.
    #[serde(rename = "half")]
    NeoX,
    /// GPT-J style, interleaved: elements `2 i` and `2 i + 1`. `"adjacent"` in JSON.
    #[serde(rename = "adjacent")]
    GptJ,
}

impl<T> Node<T> for Rope<T> {
    type With<U> = Rope<U>;

    const NAME: &'static str = "rope";

    fn version(&self) -> u32 {
        if self.long.is_some() || self.attention_factor.is_some() { 2 } else { 1 }
    }

    fn uses(&self) -> Uses<'_, T> {
        let long = self.long.as_ref().map(|long| &long.frequencies);
        Uses::writes(self.output)
            .reads(self.input)
            .in_place(Some(self.input))
            .tensors(&self.frequencies, long)
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        [&mut self.input, &mut self.output].into_iter().for_each(edit);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError>
    where
        T: AsRef<str>,
    {
        let &Self { input, heads, head_dim, output, .. } = self;
        let (width, frequencies) = (node.width(input), self.frequencies.as_ref());
        node.equal_widths(input, output)?;
        let rotated = heads.checked_mul(head_dim).filter(|rotated| (1..=width).contains(rotated));
        if rotated.is_none() {
            return Err(
                node.attribute(format!("{heads} heads of {head_dim} elements do not fit the width {width}"))
            );
        }
        let pairs = node.vector(frequencies)?;
        if pairs.checked_mul(2).is_none_or(|elements| elements > head_dim) {
            return Err(node.attribute(format!(
                "{pairs} pairs, the length of `{frequencies:.80}`, do not fit heads of {head_dim} elements"
            )));
        }
        if let Some(long) = &self.long {
            if long.above == 0 {
                return Err(node.attribute("`above` is 0, it must be positive".into()));
            }
            node.vector_of(long.frequencies.as_ref(), pairs)?;
        }
        if let Some(factor) = self.attention_factor
            && !factor.is_finite()
        {
            return Err(node.attribute(format!("attention_factor is {factor}, it must be finite")));
        }
        Ok(())
    }

    fn try_map<U, E>(&self, map: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<Rope<U>, E> {
        let &Self { input, attention_factor, heads, head_dim, style, output, .. } = self;
        let frequencies = map(TensorUse::Vector, &self.frequencies)?;
        let long = match &self.long {
            Some(LongFrequencies { frequencies, above }) => {
                let frequencies = map(TensorUse::Vector, frequencies)?;
                Some(LongFrequencies { frequencies, above: *above })
            }
            None => None,
        };
        Ok(Rope { input, frequencies, long, attention_factor, heads, head_dim, style, output })
    }
}
