//! `linear_llm_int8` against bitsandbytes' own outputs, with the tolerances of the golden data's README.

use aibit_kernels::{ActivationDtype, Epilogue, Int8Rowwise, Isa, gemm_i32, linear_llm_int8};
use aibit_quant::{quantize_int8_activations, round_through_f16};
use half::{bf16, f16};
use ndarray::ArrayView2;
use safetensors::{Dtype, SafeTensors};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/llm_int8_matmul.safetensors");

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap();
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        dtype => panic!("{name} is {dtype:?}"),
    }
}

fn bytes(tensors: &SafeTensors<'_>, name: &str) -> Vec<i8> {
    tensors.tensor(name).unwrap().data().iter().map(|byte| *byte as i8).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The distance in units in the last place of a 16-bit type whose values `order` numbers.
fn steps(a: f32, b: f32, order: impl Fn(f32) -> u16) -> i32 {
    let number = |x: f32| {
        let bits = order(x);
        let magnitude = i32::from(bits & 0x7FFF);
        if bits & 0x8000 == 0 { magnitude } else { -magnitude }
    };
    (number(a) - number(b)).abs()
}

fn check(tensors: &SafeTensors<'_>, case: &str, tag: &str) {
    let shape = case.split('_').next().unwrap();
    let sizes: Vec<usize> = shape.split('x').map(|size| size.parse().unwrap()).collect();
    let [m, k, n] = sizes[..] else { panic!("{shape} is not a shape") };
    let (dtype, threshold) = (
        match case.rsplit('_').next().unwrap() {
            "float32" => ActivationDtype::F32,
            "float16" => ActivationDtype::F16,
            "bfloat16" => ActivationDtype::Bf16,
            other => panic!("dtype {other}"),
        },
        if tag == "t6" { 6.0 } else { 0.0 },
    );
    let (codes, absmax) = (bytes(tensors, &format!("{shape}.cb")), floats(tensors, &format!("{shape}.scb")));
    let bias =
        tensors.tensor(&format!("{shape}.bias")).is_ok().then(|| floats(tensors, &format!("{shape}.bias")));
    let x = floats(tensors, &format!("{case}.x"));

    let halves: Vec<f32> = x.iter().map(|x| round_through_f16(*x)).collect();
    let quantized = quantize_int8_activations(ArrayView2::from_shape((m, k), &halves).unwrap(), threshold);
    assert_eq!(quantized.codes, bytes(tensors, &format!("{case}.{tag}.xq")), "{case}.{tag}.xq");
    let scale = floats(tensors, &format!("{case}.{tag}.x_scale"));
    assert_eq!(bits(&quantized.absmax), bits(&scale), "{case}.{tag}.x_scale");
    let outliers = tensors.tensor(&format!("{case}.{tag}.outlier_cols")).unwrap();
    let outliers: Vec<i64> = outliers.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    assert!(quantized.outlier_columns.iter().map(|c| *c as i64).eq(outliers.iter().copied()), "{case}.{tag}");
    let acc = tensors.tensor(&format!("{case}.{tag}.acc_i32")).unwrap();
    let acc: Vec<i32> = acc.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect();

    let want = floats(tensors, &format!("{case}.{tag}.y"));
    for isa in Isa::available() {
        let mut sums = vec![0; m * n];
        gemm_i32(&isa.into(), &quantized.codes, &codes, m, n, k, &mut sums);
        assert_eq!(sums, acc, "{case}.{tag}.acc_i32 on {isa}");

        let mut y = vec![0.0; m * n];
        let w = Int8Rowwise::new(&codes, &absmax, n, k);
        linear_llm_int8(&isa.into(), &x, dtype, &w, &Epilogue::with_bias(bias.as_deref()), threshold, &mut y);
        if outliers.is_empty() {
            assert_eq!(bits(&y), bits(&want), "{case}.{tag}.y on {isa}");
            continue;
        }
        // Only the order in which the outlier columns are added is free.
        for (at, (y, want)) in y.into_iter().zip(&want).enumerate() {
            let close = match dtype {
                ActivationDtype::F32 => (y - want).abs() <= 2e-6 * want.abs() + 1e-6,
                ActivationDtype::F16 => steps(y, *want, |x| f16::from_f32(x).to_bits()) <= 2,
                ActivationDtype::Bf16 => steps(y, *want, |x| bf16::from_f32(x).to_bits()) <= 2,
            };
            assert!(close, "{case}.{tag}.y[{at}] on {isa}: {y}, want {want}");
        }
    }
}

#[test]
fn every_golden_case_is_reproduced() {
    let file = std::fs::read(PATH).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let cases: Vec<&str> = tensors.names().into_iter().filter_map(|name| name.strip_suffix(".x")).collect();
    assert_eq!(cases.len(), 12);
    for case in cases {
        check(&tensors, case, "t0");
        check(&tensors, case, "t6");
    }
}
