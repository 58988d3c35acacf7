//! What a linear layer does with its sums on the way to memory.

use crate::{
    Activation,
    simd::{LANES, Simd},
};

/// `y = activation(sum + bias)`, or `y + activation(sum + bias)`, element by element.
///
/// The same operations in the same order as separate passes over `y`, so the same bits, without the passes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Epilogue<'a> {
    /// Added to each row, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// Whether the result is added to what `y` holds, a residual, instead of replacing it.
    pub accumulate: bool,
}

impl<'a> Epilogue<'a> {
    /// One that adds a bias, if there is one.
    pub fn with_bias(bias: Option<&'a [f32]>) -> Self {
        Self { bias, ..Self::default() }
    }

    /// # Panics
    /// If the bias is not `n` long.
    pub(crate) fn check(&self, name: &str, n: usize) {
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), n, "{name}: length of bias, n");
        }
    }

    /// Finishes `sums` and writes them to `y`, up to sixteen outputs of a row from `column` on.
    #[inline(always)]
    pub(crate) fn write<S: Simd>(&self, simd: S, column: usize, y: &mut [f32], mut sums: S::F32x16) {
        if let Some(bias) = self.bias {
            sums = simd.add(sums, load(simd, &bias[column..][..y.len()]));
        }
        if let Some(activation) = self.activation {
            let mut lanes = [0.0; LANES];
            simd.store(sums, &mut lanes);
            activation.apply(&mut lanes);
            sums = simd.load(&lanes);
        }
        if self.accumulate {
            sums = simd.add(sums, load(simd, y));
        }
        match y.first_chunk_mut() {
            Some(y) => simd.store(sums, y),
            None => {
                let mut lanes = [0.0; LANES];
                simd.store(sums, &mut lanes);
                y.copy_from_slice(&lanes[..y.len()]);
            }
        }
    }
}

/// Up to sixteen values, then zeros.
#[inline(always)]
fn load<S: Simd>(simd: S, x: &[f32]) -> S::F32x16 {
    match x.first_chunk() {
        Some(x) => simd.load(x),
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..x.len()].copy_from_slice(x);
            simd.load(&lanes)
        }
    }
}
