//! Where linear layers stand.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Graph, Op};

/// Where a linear layer stands, told by the node that writes its input: how activations are distributed depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Behind a norm.
    Norm,
    /// Behind attention.
    Attention,
    /// Behind the activation function of an MLP, gated or not.
    Gate,
    /// The head, which gives the logits.
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
    /// The place of each node of [`nodes`](Self::nodes), `None` for those that multiply by no weight.
    ///
    /// Fusing and joining nodes changes no layer's place.
    pub fn places(&self) -> Vec<Option<Place>> {
        // What an input means to the layer that reads it.
        let mut behind = vec![Place::Other; self.values.len()];
        let mut places = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            places.push(match node {
                Op::Linear { input, .. } => behind.get(*input).copied(),
                Op::Logits { .. } => Some(Place::Head),
                _ => None,
            });
            let place = match node {
                Op::LayerNorm { .. } | Op::RmsNorm { .. } => Place::Norm,
                Op::Attention { .. } => Place::Attention,
                Op::Activation { .. }
                | Op::GatedActivation { .. }
                | Op::Linear { function: Some(_), .. }
                | Op::Linear { gate: Some(_), .. } => Place::Gate,
                _ => Place::Other,
            };
            if let Some(written) = node.output().and_then(|output| behind.get_mut(output)) {
                *written = place;
            }
        }
        places
    }
}
