//! What a linear layer does with its sums on the way to memory.

use std::ops::Range;

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

    /// What it does to up to sixteen outputs, `columns` of every row.
    #[inline(always)]
    pub(crate) fn of<S: Simd>(&self, simd: S, columns: Range<usize>) -> ColumnEpilogue<S> {
        let bias = self.bias.map(|bias| load(simd, &bias[columns]));
        ColumnEpilogue { simd, bias, activation: self.activation, accumulate: self.accumulate }
    }
}

/// An [`Epilogue`] with its operands for a few columns loaded, for one row after another.
#[derive(Clone, Copy)]
pub(crate) struct ColumnEpilogue<S: Simd> {
    simd: S,
    bias: Option<S::F32x16>,
    activation: Option<Activation>,
    accumulate: bool,
}

impl<S: Simd> ColumnEpilogue<S> {
    /// The function of `sums` and bias.
    #[inline(always)]
    pub(crate) fn apply(&self, mut sums: S::F32x16) -> S::F32x16 {
        let simd = self.simd;
        if let Some(bias) = self.bias {
            sums = simd.add(sums, bias);
        }
        if let Some(activation) = self.activation {
            let mut lanes = [0.0; LANES];
            simd.store(sums, &mut lanes);
            activation.apply(&mut lanes);
            sums = simd.load(&lanes);
        }
        sums
    }

    /// Finishes `sums` and writes them to `y`, the columns' part of a row.
    #[inline(always)]
    pub(crate) fn write(&self, y: &mut [f32], sums: S::F32x16) {
        let (simd, mut sums) = (self.simd, self.apply(sums));
        if self.accumulate {
            sums = simd.add(sums, load(simd, y));
        }
        store(simd, sums, y);
    }
}

/// Up to sixteen values, then zeros.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, x: &[f32]) -> S::F32x16 {
    match x.first_chunk() {
        Some(x) => simd.load(x),
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..x.len()].copy_from_slice(x);
            simd.load(&lanes)
        }
    }
}

/// Writes the first of the lanes, as many as `to` holds.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, value: S::F32x16, to: &mut [f32]) {
    match to.first_chunk_mut() {
        Some(to) => simd.store(value, to),
        None => {
            let mut lanes = [0.0; LANES];
            simd.store(value, &mut lanes);
            to.copy_from_slice(&lanes[..to.len()]);
        }
    }
}
