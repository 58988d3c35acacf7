use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ActivationFunction, Node, TensorUse, Uses};
use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// A linear layer: `y = residual + function(x · weightᵀ + bias)`, or gated: `y = gate(first half) * second half` of
/// `x · weightᵀ + bias`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear<T = String> {
    /// Left operand, `[tokens, in_features]`.
    pub input: ValueId,
    /// Tensor `[out_features, in_features]`; with a gate, twice as many rows.
    pub weight: T,
    /// Tensor `[out_features]`; with a gate, twice as long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<T>,
    /// Precision of the activations, for an INT8 weight.
    #[serde(default, skip_serializing_if = "ActivationPrecision::is_default")]
    pub activations: ActivationPrecision,
    /// LLM.int8()'s outlier threshold, for an INT8 weight: activations of at least this magnitude stay in
    /// floating point. Absent: none do. Used only by the profile `exact`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_threshold: Option<f32>,
    /// Applied to each element after the bias, if present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<ActivationFunction>,
    /// Applied to the gates, as in [`GatedActivation`](super::GatedActivation), if present; excludes a function and a
    /// residual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<ActivationFunction>,
    /// Added last, if present; as wide as the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residual: Option<ValueId>,
    /// The result, `[tokens, out_features]`.
    pub output: ValueId,
}

impl<T> Node<T> for Linear<T> {
    type With<U> = Linear<U>;

    const NAME: &'static str = "linear";

    fn uses(&self) -> Uses<'_, T> {
        let &Self { input, residual, output, .. } = self;
        Uses::writes(output)
            .reads_both(input, residual)
            .in_place(residual.filter(|residual| *residual != input))
            .tensors(&self.weight, self.bias.as_ref())
    }

    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
        [&mut self.input, &mut self.output].into_iter().chain(&mut self.residual).for_each(edit);
    }

    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError>
    where
        T: AsRef<str>,
    {
        let &Self { input, function, gate, residual, output, .. } = self;
        node.outlier_threshold(self.outlier_threshold)?;
        if gate.is_some() && (function.is_some() || residual.is_some()) {
            let other = if function.is_some() { "function" } else { "residual" };
            return Err(node.attribute(format!("a gate and a {other}, which exclude each other")));
        }
        residual.map_or(Ok(()), |residual| node.equal_widths(residual, output))?;
        let width = node.width(output);
        let rows = if gate.is_some() { width.saturating_mul(2) } else { width };
        node.matrix(self.weight.as_ref(), [rows, node.width(input)])?;
        self.bias.iter().try_for_each(|bias| node.vector_of(bias.as_ref(), rows))
    }

    fn try_map<U, E>(&self, map: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<Linear<U>, E> {
        let &Self { input, activations, outlier_threshold, function, gate, residual, output, .. } = self;
        let weight = map(TensorUse::Weight(activations), &self.weight)?;
        let bias = self.bias.as_ref().map(|bias| map(TensorUse::Vector, bias)).transpose()?;
        Ok(Linear { input, weight, bias, activations, outlier_threshold, function, gate, residual, output })
    }
}

/// Precision of the activations of a linear layer with an INT8 weight; see `docs/format.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationPrecision {
    /// One signed byte per element, one scale per token.
    #[default]
    Int8,
    /// One byte per element, one scale and one zero point per token: for one-sided distributions.
    Int8Asym,
    /// Two signed bytes per element, one scale per token: as accurate as f32.
    Int8x2,
}

impl ActivationPrecision {
    /// Every precision.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int8Asym, Self::Int8x2];

    /// The name in graphs, manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int8Asym => "int8-asym",
            Self::Int8x2 => "int8x2",
        }
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for ActivationPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ActivationPrecision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|precision| precision.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("unknown precision of activations `{name}`, known are {known}")
        })
    }
}
