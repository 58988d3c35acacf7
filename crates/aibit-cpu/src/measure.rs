//! What low precision costs a model: errors of its own linear layers and attention on a text.

use aibit_graph::ops::{Attention, Linear};
use aibit_graph::{KvPrecision, Op};
use aibit_kernels::{ActivationPrecision, AttentionShape, Epilogue, QuantizedRows};
use aibit_runtime::{Batch, Profile, Run, RuntimeError, Sequences};

use serde::{Deserialize, Serialize};
use tracing::info_span;

use crate::Model;
use crate::linear::{Activations, Layer};
use crate::model::{MAX_INT8_ASYM_COLUMNS, Matrix, MatrixView};
use crate::ops::attention_shape;
use crate::pages::attend_once;
use crate::sequences::CpuSequences;

/// Rows of a layer's input that are looked at: errors of rows of one layer differ little.
const ROWS: usize = 32;

/// What low precision costs a model on one text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Measurement {
    /// Tokens of the text.
    pub tokens: usize,
    /// Of each linear layer with INT8 weights, in order; the head is none of them.
    pub layers: Vec<LayerError>,
    /// Of each slot of cached keys and values, in order.
    pub slots: Vec<SlotError>,
}

/// Relative errors of a layer's product: the norm of the difference from the product with two bytes per activation, over
/// that product's norm; the root mean square over tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerError {
    /// The layer's weight.
    pub weight: String,
    /// With one byte per activation.
    pub int8: f32,
    /// With one byte and a zero point; as without one where rows are too long for it.
    pub int8_asym: f32,
}

/// Relative errors of what an attention adds to the model, by the linear layer behind it: the norm of the difference from
/// F32 keys and values, over the norm with these; the root mean square over tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotError {
    /// Largest magnitude among keys and values.
    pub absmax: f32,
    /// With F16 keys and values.
    pub f16: f32,
    /// With INT8 keys and values.
    pub int8: f32,
}

impl Measurement {
    /// Runs `ids` through `model` in the profile precise and measures what lower precision would cost. Of a model whose
    /// values take much memory for its weights' size, only the ids that one pass takes are run. `progress`
    /// receives the share of the work that is done, from 0 to 1.
    ///
    /// The same model and ids give the same numbers on every machine and for any number of threads.
    ///
    /// # Errors
    /// As [`Sequences::forward`].
    pub fn of(model: &Model, ids: &[u32], progress: &mut dyn FnMut(f64)) -> Result<Self, RuntimeError> {
        let _span = info_span!("measure").entered();
        let pages = ids.len().div_ceil(aibit_runtime::PAGE);
        let mut sequences = CpuSequences::new(model, Profile::Precise, pages)?;
        let ids = &ids[..sequences.rows_per_pass().min(ids.len())];
        let run = Run { sequence: sequences.start(ids.len()), len: ids.len() };
        let bound = model.bound();
        let mut measured = Self { tokens: ids.len(), ..Self::default() };
        let mut slots = vec![None; model.graph().kv_slots.len()];
        let mut failure = None;
        let mut products = Products::default();
        sequences.forward_observed(
            &Batch { tokens: ids, runs: &[run] },
            &mut |index, x| match &bound.nodes[index] {
                Op::Linear(Linear { weight, .. }) => {
                    progress((index + 1) as f64 / bound.nodes.len() as f64);
                    measured.layers.extend(products.layer_error(model, weight.matrix(), x));
                }
                Op::Attention(attention) => {
                    let shape = attention_shape(bound, attention);
                    let Attention { slot, output, .. } = *attention;
                    let projection = bound.nodes.iter().find_map(|op| match op {
                        Op::Linear(Linear { input, weight, .. }) if *input == output => Some(weight.matrix()),
                        _ => None,
                    });
                    match products.slot_error(model, &shape, projection, x) {
                        Ok(error) => slots[slot] = Some(error),
                        Err(error) => failure = Some(error),
                    }
                }
                _ => {}
            },
        )?;
        progress(1.0);
        measured.slots = slots.into_iter().flatten().collect();
        failure.map_or(Ok(measured), Err)
    }
}

/// Room for products in several precisions.
#[derive(Default)]
struct Products {
    rows: Vec<f32>,
    quantized: QuantizedRows,
}

impl Products {
    /// Writes the products of some rows of `x` with `weight` to `y`.
    fn multiply(
        &mut self,
        model: &Model,
        weight: &Matrix,
        precision: ActivationPrecision,
        x: &[f32],
        y: &mut Vec<f32>,
    ) {
        let m = x.len() / weight.columns;
        let count = m.min(ROWS);
        self.rows.clear();
        for row in 0..count {
            self.rows.extend(&x[row * m / count * weight.columns..][..weight.columns]);
        }
        y.resize(count * weight.rows, 0.0);
        let activations = Activations { precision, outlier_threshold: None };
        let Self { rows, quantized, .. } = self;
        let (cx, bound) = (model.context(), model.bound());
        let layer = Layer { cx, bound, profile: Profile::Fast, weight, activations, runs: &[] };
        layer.multiply(rows, &Epilogue::default(), quantized, y);
    }

    fn layer_error(&mut self, model: &Model, weight: &Matrix, x: &[f32]) -> Option<LayerError> {
        let MatrixView::Int8(_) = model.bound().matrix(weight) else { return None };
        let [mut exact, mut found] = [const { Vec::new() }; 2];
        self.multiply(model, weight, ActivationPrecision::Int8x2, x, &mut exact);
        let mut error = |precision| {
            self.multiply(model, weight, precision, x, &mut found);
            relative_error(&exact, &found, weight.rows)
        };
        let int8 = error(ActivationPrecision::Int8);
        let has_asym = weight.columns <= MAX_INT8_ASYM_COLUMNS;
        let int8_asym = if has_asym { error(ActivationPrecision::Int8Asym) } else { int8 };
        Some(LayerError { weight: weight.name.clone(), int8, int8_asym })
    }

    fn slot_error(
        &mut self,
        model: &Model,
        shape: &AttentionShape,
        projection: Option<&Matrix>,
        qkv: &[f32],
    ) -> Result<SlotError, RuntimeError> {
        let width = shape.n_head * shape.head_dim;
        let mut attend = |precision| -> Result<Vec<f32>, RuntimeError> {
            let y = attend_once(model.context(), shape, precision, qkv)?;
            let Some(projection) = projection else { return Ok(y) };
            let mut projected = Vec::new();
            self.multiply(model, projection, ActivationPrecision::Int8x2, &y, &mut projected);
            Ok(projected)
        };
        let exact = attend(KvPrecision::F32)?;
        let width_after = projection.map_or(width, |projection| projection.rows);
        let mut error = |precision| -> Result<f32, RuntimeError> {
            Ok(relative_error(&exact, &attend(precision)?, width_after))
        };
        let f16 = error(KvPrecision::F16)?;
        let is_int8 = shape.head_dim <= KvPrecision::MAX_INT8_HEAD_DIM;
        let int8 = if is_int8 { error(KvPrecision::Int8)? } else { f32::MAX };
        let keys_and_values = qkv.chunks_exact(shape.qkv_width()).flat_map(|row| &row[width..]);
        let absmax = keys_and_values.fold(0.0, |max: f32, value| max.max(value.abs()));
        Ok(SlotError { absmax, f16, int8 })
    }
}

/// The relative error of a row, root mean square over rows. Of rows of zeros, and of what is not finite itself, there is
/// nothing to be said.
fn relative_error(exact: &[f32], found: &[f32], width: usize) -> f32 {
    let (mut sum, mut count) = (0.0, 0.0);
    for (exact, found) in exact.chunks_exact(width).zip(found.chunks_exact(width)) {
        let (mut difference, mut norm) = (0.0, 0.0);
        for (exact, found) in exact.iter().zip(found) {
            difference += (f64::from(*found) - f64::from(*exact)).powi(2);
            norm += f64::from(*exact).powi(2);
        }
        if norm.is_finite() && norm > 0.0 {
            sum += difference / norm;
            count += 1.0;
        }
    }
    // A number that JSON can hold, whatever the difference is.
    ((sum / f64::max(count, 1.0)).sqrt() as f32).min(f32::MAX)
}
