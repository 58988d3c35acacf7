//! Activation functions, in place or as a gate.

use crate::{
    Context,
    isa::dispatch,
    math::{exp, sigmoid, tanh},
    simd::Simd,
    tiles::for_each_piece,
};

/// Fewer elements than this are not worth handing to another thread.
const CHUNK: usize = 16 * 1024;

/// A function applied to each element between two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, GPT-2's `gelu_new`. Computed as
    /// `x / (1 + e⁻²ᵘ)`, which is the same function and keeps its relative precision where `x < 0`.
    GeluTanh,
    /// `x/2 · (1 + erf(x / √2))`.
    GeluErf,
    /// `max(x, 0)`; NaN stays NaN.
    Relu,
    /// `x · sigmoid(x)`.
    Silu,
    /// See [`tanh`](crate::tanh).
    Tanh,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
}

/// Applies `activation` to every element of `x`.
pub fn activate(cx: &Context, activation: Activation, x: &mut [f32]) {
    if x.len() >= 2 * CHUNK {
        for_each_piece(
            &cx.threads,
            x,
            CHUNK,
            |_, x| dispatch!(cx.isa => apply_to(activation: Activation, x: &mut [f32])),
        );
    } else {
        dispatch!(cx.isa => apply_to(activation: Activation, x: &mut [f32]));
    }
}

/// Writes `activation(gate) · value` of each row of `x[m, 2 width]`, which holds `width` gates and as many values, to
/// `y[m, width]`.
///
/// # Panics
/// If `width` is zero, `y` is not whole rows, or `x` is not twice as long.
///
/// Source: Shazeer 2020 (arXiv:2002.05202), §2.
pub fn gated_activation(cx: &Context, activation: Activation, x: &[f32], width: usize, y: &mut [f32]) {
    assert!(
        width > 0 && y.len().is_multiple_of(width) && x.len() == 2 * y.len(),
        "gated_activation: x has {} elements, y {} in rows of {width}",
        x.len(),
        y.len()
    );
    let run = |x: &[f32], y: &mut [f32]| {
        dispatch!(cx.isa => gate_loop(activation: Activation, x: &[f32], width: usize, y: &mut [f32]));
    };
    if y.len() >= 2 * CHUNK {
        let rows = CHUNK.div_ceil(width);
        for_each_piece(&cx.threads, y, rows * width, |index, y| {
            run(&x[2 * index * rows * width..][..2 * y.len()], y)
        });
    } else {
        run(x, y);
    }
}

#[inline(always)]
fn gate_loop<S: Simd>(_: S, activation: Activation, x: &[f32], width: usize, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
        let (gates, values) = x.split_at(width);
        y.copy_from_slice(gates);
        activation.apply(y);
        for (y, value) in y.iter_mut().zip(values) {
            *y *= value;
        }
    }
}

#[inline(always)]
fn apply_to<S: Simd>(_: S, activation: Activation, x: &mut [f32]) {
    activation.apply(x);
}

impl Activation {
    /// Replaces each element, in code compiled for the caller's instruction set.
    #[inline(always)]
    pub(crate) fn apply(self, x: &mut [f32]) {
        match self {
            Self::GeluTanh => map(x, gelu_tanh),
            Self::GeluErf => map(x, gelu_erf),
            Self::Relu => map(x, |x| if x < 0.0 { 0.0 } else { x }),
            Self::Silu => map(x, |x| x / (1.0 + exp(-x))),
            Self::Tanh => map(x, tanh),
            Self::QuickGelu => map(x, |x| x / (1.0 + exp(-1.702 * x))),
            Self::Sigmoid => map(x, sigmoid),
        }
    }
}

#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // -2 · √(2/π)
    const FACTOR: f32 = -1.595_769;
    let u = (0.044_715 * x * x).mul_add(x, x);
    x / (1.0 + exp(FACTOR * u))
}

#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn check(activation: Activation, want: impl Fn(f64) -> f64) {
        let x: Vec<f32> = (-2000..2000).map(|i| i as f32 * 0.005).collect();
        let mut y = x.clone();
        activate(&Isa::SCALAR.into(), activation, &mut y);
        for (x, y) in x.iter().zip(y) {
            let want = want(f64::from(*x));
            // A few roundings of values around |x|.
            let tolerance = 4.0 * f64::from(f32::EPSILON) * f64::from(x.abs().max(1.0));
            assert!((f64::from(y) - want).abs() <= tolerance, "{activation:?}({x}) = {y}, want {want}");
        }
    }

    #[test]
    fn every_function_agrees_with_f64() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let root = (2.0 / std::f64::consts::PI).sqrt();
        check(Activation::GeluTanh, |x| 0.5 * x * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh()));
        check(Activation::GeluErf, |x| 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)));
        check(Activation::Relu, |x| x.max(0.0));
        check(Activation::Silu, |x| x * sigmoid(x));
        check(Activation::Tanh, f64::tanh);
        check(Activation::QuickGelu, |x| x * sigmoid(f64::from(1.702_f32) * x));
        check(Activation::Sigmoid, sigmoid);
    }

    #[test]
    fn a_gate_multiplies_its_value() {
        // Rows enough for more than one thread.
        let (width, m) = (3, 20_000);
        let x: Vec<f32> = (0..2 * width * m).map(|i| (i % 13) as f32 - 6.0).collect();
        let mut y = vec![0.0; width * m];
        gated_activation(&Isa::SCALAR.into(), Activation::Relu, &x, width, &mut y);
        for (i, y) in y.iter().enumerate() {
            let gate = 2 * width * (i / width) + i % width;
            assert_eq!(*y, x[gate].max(0.0) * x[gate + width], "{i}");
        }
    }

    #[test]
    fn large_inputs_do_not_turn_into_nan() {
        for activation in [Activation::GeluTanh, Activation::GeluErf, Activation::Silu, Activation::QuickGelu]
        {
            let mut x = [1e30, -1e30, f32::MAX, f32::MIN];
            activate(&Isa::SCALAR.into(), activation, &mut x);
            assert_eq!(x, [1e30, 0.0, f32::MAX, 0.0], "{activation:?}");
        }
    }
}
