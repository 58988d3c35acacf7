//! Quantizes a matrix to INT8 by rows, multiplies by it, and compares the product with that of the f32 matrix.
//!
//! `cargo run --release --package aibit --example quantize_and_multiply`

#![expect(clippy::print_stdout, reason = "what an example shows")]

use std::error::Error;

use aibit::kernels::{ActivationPrecision, Context, Int8Rowwise, Isa, array};
use aibit::ndarray::Array2;
use aibit::quant::quantize_int8_rowwise;

fn main() -> Result<(), Box<dyn Error>> {
    let (m, n, k) = (4, 256, 512);
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32 / u32::MAX as f32 - 0.5
    };
    let x = Array2::from_shape_simple_fn((m, k), &mut random);
    let w = Array2::from_shape_simple_fn((n, k), &mut random);

    // `w[n, k] ≈ absmax[n] / 127 · codes[n, k]`
    let quantized = quantize_int8_rowwise(w.view())?;
    let codes = quantized.codes.as_slice().expect("row-major");
    let absmax = quantized.absmax.as_slice().expect("contiguous");
    let weights = Int8Rowwise::new(codes, absmax, n, k);

    let context = Context::from(Isa::selected()?);
    let y = array::linear(&context, x.view(), &weights, None, ActivationPrecision::Int8);

    let exact = x.dot(&w.t());
    let norm = |a: &Array2<f32>| a.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let error = norm(&(&y - &exact)) / norm(&exact);
    println!("{m} x {k} times {k} x {n} on {}: relative error {error:.4}", context.isa.name());
    assert!(error < 0.01, "INT8 weights and activations are good to one percent");
    Ok(())
}
