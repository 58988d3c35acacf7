//! Linear layers and look-ups by how their matrix is stored.

use std::ops::Range;

use aibit_kernels::{
    Activation, ActivationDtype, ActivationPrecision, Context, Epilogue, QuantizedRows, embed_blocks,
    embed_float, embed_int8, gated_activation, linear_blocks, linear_float, linear_int8, linear_int8_gated,
    linear_llm_int8, quantize_rows,
};
use aibit_runtime::Profile;

use crate::model::{Bound, Matrix, MatrixView};
use crate::vocabulary;

/// How a linear layer treats its input where its weight is quantized.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Activations {
    pub(crate) precision: ActivationPrecision,
    pub(crate) outlier_threshold: Option<f32>,
}

impl Activations {
    /// As a node has them.
    pub(crate) fn of(precision: aibit_graph::ActivationPrecision, outlier_threshold: Option<f32>) -> Self {
        Self { precision: vocabulary::precision(precision), outlier_threshold }
    }
}

/// Copies row `ids[i]` of `table` to row `i` of `y`.
pub(crate) fn embed(cx: &Context, bound: &Bound, table: &Matrix, ids: &[u32], y: &mut [f32]) {
    let view = bound.matrix(table);
    match &view {
        MatrixView::Int8(w) => embed_int8(w, ids, y),
        MatrixView::Blocks(w) => embed_blocks(cx, w, ids, y),
        MatrixView::Float(_) | MatrixView::F16(_) | MatrixView::Bf16(_) => {
            let w = view.float().expect("a floating-point view");
            embed_float(w, table.rows, table.columns, ids, y);
        }
    }
}

/// A linear layer and the rows that go through it.
pub(crate) struct Layer<'a> {
    pub(crate) cx: &'a Context,
    pub(crate) bound: &'a Bound,
    pub(crate) profile: Profile,
    pub(crate) weight: &'a Matrix,
    pub(crate) activations: Activations,
    /// The rows of each sequence: LLM.int8() finds its outlier columns over all tokens of one.
    pub(crate) runs: &'a [Range<usize>],
}

impl Layer<'_> {
    /// Writes `x · weightᵀ`, with `epilogue` applied, to `y`.
    pub(crate) fn multiply(
        &self,
        x: &[f32],
        epilogue: &Epilogue<'_>,
        quantized: &mut QuantizedRows,
        y: &mut [f32],
    ) {
        let (cx, n, k) = (self.cx, self.weight.rows, self.weight.columns);
        let view = self.bound.matrix(self.weight);
        match (&view, self.profile) {
            (MatrixView::Int8(w), Profile::Fast | Profile::Precise) => {
                self.quantize(x, quantized);
                linear_int8(cx, quantized, w, epilogue, y);
            }
            (MatrixView::Int8(w), Profile::Exact) => {
                let threshold = self.activations.outlier_threshold.unwrap_or(0.0);
                for rows in self.runs.iter().filter(|rows| !rows.is_empty()) {
                    let (x, y) = (&x[rows.start * k..rows.end * k], &mut y[rows.start * n..rows.end * n]);
                    linear_llm_int8(cx, x, ActivationDtype::F32, w, epilogue, threshold, y);
                }
            }
            (MatrixView::Blocks(w), _) => linear_blocks(cx, x, w, x.len() / k, epilogue, y),
            (MatrixView::Float(_) | MatrixView::F16(_) | MatrixView::Bf16(_), _) => {
                let w = view.float().expect("a floating-point view");
                linear_float(cx, x, w, x.len() / k, n, k, epilogue, y);
            }
        }
    }

    /// [`multiply`](Self::multiply) with a gate behind it; `wide` has room for what is before the gate.
    pub(crate) fn multiply_gated(
        &self,
        x: &[f32],
        bias: Option<&[f32]>,
        function: Activation,
        quantized: &mut QuantizedRows,
        wide: &mut [f32],
        y: &mut [f32],
    ) {
        match (self.bound.matrix(self.weight), self.profile) {
            (MatrixView::Int8(w), Profile::Fast | Profile::Precise) => {
                self.quantize(x, quantized);
                linear_int8_gated(self.cx, quantized, &w, bias, function, wide, y);
            }
            _ => {
                self.multiply(x, &Epilogue::with_bias(bias), quantized, wide);
                gated_activation(self.cx, function, wide, self.weight.rows / 2, y);
            }
        }
    }

    /// Quantizes each row on its own, as the graph states unless the profile is precise.
    fn quantize(&self, x: &[f32], to: &mut QuantizedRows) {
        let precision = match self.profile {
            Profile::Precise => ActivationPrecision::Int8x2,
            Profile::Fast | Profile::Exact => self.activations.precision,
        };
        quantize_rows(self.cx, x, self.weight.columns, precision, to);
    }
}
