//! The op set: one file per op, with its attributes, what it reads and writes, and its shape rule.
//!
//! The formula of each op is in `docs/format.md`; in the docs here, `x` is the input value and `y` the output.
//! To add an op, write its file, with an implementation of `Node`, and add it to the list of `ops!` below.

mod activation;
mod add;
mod attention;
mod concat;
mod embed;
mod gated_activation;
mod layer_norm;
mod linear;
mod logits;
mod position_embed;
mod rms_norm;
mod rope;

use serde::{Deserialize, Serialize};

pub use activation::{Activation, ActivationFunction};
pub use add::Add;
pub use attention::Attention;
pub use concat::Concat;
pub use embed::Embed;
pub use gated_activation::GatedActivation;
pub use layer_norm::LayerNorm;
pub use linear::{ActivationPrecision, Linear};
pub use logits::Logits;
pub use position_embed::PositionEmbed;
pub use rms_norm::RmsNorm;
pub use rope::{LongFrequencies, Rope, RopeStyle};

use crate::validate::NodeCheck;
use crate::{GraphError, ValueId};

/// What an op reads and writes.
pub(crate) struct Uses<'a, T> {
    inputs: [Option<ValueId>; 2],
    further_inputs: &'a [ValueId],
    output: Option<ValueId>,
    in_place_input: Option<ValueId>,
    tensors: [Option<&'a T>; 2],
}

impl<'a, T> Uses<'a, T> {
    /// The uses of an op that writes `output`.
    fn writes(output: ValueId) -> Self {
        Self { output: Some(output), ..Self::nothing() }
    }

    /// The uses of an op that neither reads nor writes.
    fn nothing() -> Self {
        Self {
            inputs: [None; 2],
            further_inputs: &[],
            output: None,
            in_place_input: None,
            tensors: [None; 2],
        }
    }

    /// Adds a value that the op reads.
    fn reads(self, input: ValueId) -> Self {
        Self { inputs: [Some(input), None], ..self }
    }

    /// Adds two values that the op reads.
    fn reads_both(self, first: ValueId, second: Option<ValueId>) -> Self {
        Self { inputs: [Some(first), second], ..self }
    }

    /// Adds any number of values that the op reads.
    fn reads_all(self, further_inputs: &'a [ValueId]) -> Self {
        Self { further_inputs, ..self }
    }

    /// Allows the output to take over the buffer of `input`, one of the values that the op reads.
    fn in_place(self, input: Option<ValueId>) -> Self {
        Self { in_place_input: input, ..self }
    }

    /// Adds a tensor, and a second one that may be absent.
    fn tensors(self, first: &'a T, second: Option<&'a T>) -> Self {
        Self { tensors: [Some(first), second], ..self }
    }
}

/// What an op does with a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorUse {
    /// A matrix, from which rows are looked up.
    Table,
    /// A matrix `[n, k]`, the right operand of `x · wᵀ`. If it is stored as integers, `x` is quantized to this precision.
    Weight(ActivationPrecision),
    /// A vector in F32.
    Vector,
}

/// What each op implements. `T` is the tensor handle.
pub(crate) trait Node<T> {
    /// The same op with other tensor handles.
    type With<U>;

    /// The name in `graph.json`.
    const NAME: &'static str;

    /// The first version that has the op with these attributes.
    fn version(&self) -> u32 {
        1
    }

    /// What the op reads and writes.
    fn uses(&self) -> Uses<'_, T>;

    /// Calls `edit` for each value that the op reads or writes.
    fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId));

    /// Checks attributes, and shapes of values and tensors. All values exist.
    fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError>
    where
        T: AsRef<str>;

    /// Replaces each tensor handle by what `map` makes of it.
    fn try_map<U, E>(&self, map: &mut impl FnMut(TensorUse, &T) -> Result<U, E>) -> Result<Self::With<U>, E>;
}

/// Defines [`Op`] and forwards to the ops.
macro_rules! ops {
    ($($(#[$doc:meta])* $Op:ident($($Struct:tt)+)),+ $(,)?) => {
        /// One operation, with tensor handles of type `T`: names in a graph, whatever an executor finds useful once
        /// they are bound.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "op", rename_all = "snake_case")]
        pub enum Op<T = String> {
            $($(#[$doc])* $Op($($Struct)+),)+
        }

        $(impl<T> From<$($Struct)+> for Op<T> {
            fn from(op: $($Struct)+) -> Self {
                Self::$Op(op)
            }
        })+

        impl<T> Op<T> {
            /// The op's name in `graph.json`.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$Op(_) => <$($Struct)+ as Node<T>>::NAME,)+
                }
            }

            /// The first version that has the op with its attributes.
            pub(crate) fn version(&self) -> u32 {
                match self {
                    $(Self::$Op(op) => Node::<T>::version(op),)+
                }
            }

            fn uses(&self) -> Uses<'_, T> {
                match self {
                    $(Self::$Op(op) => Node::<T>::uses(op),)+
                }
            }

            /// Calls `edit` for each value that the op reads or writes.
            pub(crate) fn for_each_value(&mut self, edit: &mut dyn FnMut(&mut ValueId)) {
                match self {
                    $(Self::$Op(op) => Node::<T>::for_each_value(op, edit),)+
                }
            }

            /// Checks attributes, and shapes of values and tensors. All values exist.
            pub(crate) fn check(&self, node: &NodeCheck<'_, '_>) -> Result<(), GraphError>
            where
                T: AsRef<str>,
            {
                match self {
                    $(Self::$Op(op) => Node::<T>::check(op, node),)+
                }
            }

            /// The op with other tensor handles: `map` makes the new one of each.
            ///
            /// # Errors
            /// The first error of `map`.
            pub fn try_map<U, E>(
                &self,
                mut map: impl FnMut(TensorUse, &T) -> Result<U, E>,
            ) -> Result<Op<U>, E> {
                Ok(match self {
                    $(Self::$Op(op) => Op::$Op(Node::<T>::try_map(op, &mut map)?),)+
                })
            }
        }
    };
}

ops! {
    /// Token embedding.
    Embed(Embed<T>),
    /// Learned position embedding.
    PositionEmbed(PositionEmbed<T>),
    /// Sum of two values.
    Add(Add),
    /// Layer normalization.
    LayerNorm(LayerNorm<T>),
    /// RMSNorm, of whole rows or of each head.
    RmsNorm(RmsNorm<T>),
    /// Rotary position embedding.
    Rope(Rope<T>),
    /// Values side by side.
    Concat(Concat),
    /// A linear layer.
    Linear(Linear<T>),
    /// An activation function.
    Activation(Activation),
    /// A gated linear unit's activation: SwiGLU, GeGLU and the like.
    GatedActivation(GatedActivation),
    /// Causal self-attention: multi-head, grouped-query or multi-query.
    Attention(Attention),
    /// The head.
    Logits(Logits<T>),
}

impl<T> Op<T> {
    /// Values that the op reads.
    pub fn inputs(&self) -> impl Iterator<Item = ValueId> {
        let Uses { inputs, further_inputs, .. } = self.uses();
        inputs.into_iter().flatten().chain(further_inputs.iter().copied())
    }

    /// The value that the op writes; none for [`Op::Logits`].
    pub fn output(&self) -> Option<ValueId> {
        self.uses().output
    }

    /// The tensors of the op.
    pub fn tensors(&self) -> impl Iterator<Item = &T> {
        self.uses().tensors.into_iter().flatten()
    }

    /// The input whose buffer the output may reuse, for element-wise ops.
    pub(crate) fn in_place_input(&self) -> Option<ValueId> {
        self.uses().in_place_input
    }
}
