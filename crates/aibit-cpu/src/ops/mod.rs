//! What each op computes: one file per op.

mod activation;
mod add;
mod attention;
mod concat;
mod embed;
mod gated_activation;
mod layer_norm;
mod linear;
mod position_embed;
mod rms_norm;
mod rope;

use aibit_graph::Op;

pub(crate) use attention::attention_shape;

use crate::forward::Execution;
use crate::model::Tensor;

/// An op that can be executed.
trait Execute {
    /// Writes the op's output value.
    fn execute(&self, pass: &mut Execution<'_>);
}

/// Executes one node of a pass.
pub(crate) fn execute(op: &Op<Tensor>, pass: &mut Execution<'_>) {
    match op {
        Op::Embed(op) => op.execute(pass),
        Op::PositionEmbed(op) => op.execute(pass),
        Op::Add(op) => op.execute(pass),
        Op::LayerNorm(op) => op.execute(pass),
        Op::RmsNorm(op) => op.execute(pass),
        Op::Rope(op) => op.execute(pass),
        Op::Concat(op) => op.execute(pass),
        Op::Linear(op) => op.execute(pass),
        Op::Activation(op) => op.execute(pass),
        Op::GatedActivation(op) => op.execute(pass),
        Op::Attention(op) => op.execute(pass),
        // Computed after the pass, for the rows that are wanted: `forward::logits`.
        Op::Logits(_) => {}
    }
}
