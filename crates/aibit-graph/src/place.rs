//! Places of linear layers in the graph.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ops::Linear;
use crate::{Graph, Op};

/// The place of a linear layer, determined by the node that writes its input, on which the distribution of
/// activations depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// After a norm.
    Norm,
    /// After attention.
    Attention,
    /// After the activation function of an MLP, gated or not.
    Gate,
    /// The head, which computes the logits.
    Head,
    /// Anywhere else.
    Other,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 5] = [Self::Norm, Self::Attention, Self::Gate, Self::Head, Self::Other];

    /// The name on the command line and in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Norm => "norm",
            Self::Attention => "attention",
            Self::Gate => "gate",
            Self::Head => "head",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|place| place.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("unknown place `{name}`, known are {known}")
        })
    }
}

impl Graph {
    /// The place of each node of [`nodes`](Self::nodes); `None` for nodes without a matrix.
    ///
    /// Fusing and joining nodes does not change a layer's place.
    pub fn places(&self) -> Vec<Option<Place>> {
        // The place that a value gives to the layer that reads it.
        let mut behind = vec![Place::Other; self.values.len()];
        let mut places = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            places.push(match node {
                Op::Linear(linear) => behind.get(linear.input).copied(),
                Op::Logits(_) => Some(Place::Head),
                _ => None,
            });
            let place = match node {
                Op::LayerNorm(_) | Op::RmsNorm(_) => Place::Norm,
                Op::Attention(_) => Place::Attention,
                Op::Activation(_)
                | Op::GatedActivation(_)
                | Op::Linear(Linear { function: Some(_), .. })
                | Op::Linear(Linear { gate: Some(_), .. }) => Place::Gate,
                _ => Place::Other,
            };
            if let Some(written) = node.output().and_then(|output| behind.get_mut(output)) {
                *written = place;
            }
        }
        places
    }
}
