//! `int8_rowwise.safetensors`: codes, absmax and outlier columns computed by bitsandbytes on CPU.

use aibit_quant::{quantize_int8_activations, quantize_int8_rowwise};
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/int8_rowwise.safetensors");

/// The elements as f32, which holds them exactly.
pub(crate) fn widen_flat(t: &TensorView<'_>) -> Vec<f32> {
    let bytes = t.data();
    match t.dtype() {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => panic!("input dtype {other:?}"),
    }
}

fn widen(t: &TensorView<'_>) -> Array2<f32> {
    Array2::from_shape_vec((t.shape()[0], t.shape()[1]), widen_flat(t)).expect("shape")
}

fn i8s(t: &TensorView<'_>) -> Vec<i8> {
    t.data().iter().map(|&b| b as i8).collect()
}

fn f32_bits(t: &TensorView<'_>) -> Vec<u32> {
    t.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

fn columns(t: &TensorView<'_>) -> Vec<usize> {
    t.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as usize).collect()
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// With threshold 0 bitsandbytes' weight and activation quantizers are one function.
fn check_case(name: &str, x: ArrayView2<'_, f32>, golden: &SafeTensors<'_>) {
    let get = |suffix: &str| golden.tensor(&format!("{name}.{suffix}")).expect("golden tensor");

    let weights = quantize_int8_rowwise(x).expect("finite input");
    assert_eq!(weights.codes.iter().copied().collect::<Vec<_>>(), i8s(&get("q")), "{name}: codes");
    assert_eq!(bits(weights.absmax), f32_bits(&get("scb")), "{name}: absmax");

    let activations = quantize_int8_activations(x, 6.0);
    assert_eq!(activations.outlier_columns, columns(&get("t6.outlier_cols")), "{name}: outlier columns");
    assert_eq!(activations.codes, i8s(&get("t6.q")), "{name}: codes at threshold 6");
    assert_eq!(bits(activations.absmax), f32_bits(&get("t6.scb")), "{name}: absmax at threshold 6");
}

#[test]
fn every_case_equals_bitsandbytes_bit_for_bit() {
    let file = std::fs::read(GOLDEN).expect("golden file");
    let golden = SafeTensors::deserialize(&file).expect("golden file");
    let mut cases: Vec<_> = golden.names().into_iter().filter_map(|n| n.strip_suffix(".input")).collect();
    cases.sort_unstable();
    assert_eq!(cases.len(), 23, "cases in the golden file");
    for name in cases {
        let input = golden.tensor(&format!("{name}.input")).expect("input");
        check_case(name, widen(&input).view(), &golden);
    }
}

#[test]
fn a_checkpoint_row_is_rounded_through_fp16_first() {
    let file = std::fs::read(GOLDEN.replace("int8_rowwise", "llm_int8_matmul")).expect("golden file");
    let golden = SafeTensors::deserialize(&file).expect("golden file");
    for shape in ["16x64x192", "1x64x32", "4x768x96", "5x130x17"] {
        let get = |suffix: &str| golden.tensor(&format!("{shape}.{suffix}")).expect("golden tensor");
        let got = aibit_quant::Int8Rowwise::from_checkpoint_rows(widen(&get("w")).view()).expect("finite");
        assert_eq!(got.codes.iter().copied().collect::<Vec<_>>(), i8s(&get("cb")), "{shape}: codes");
        assert_eq!(bits(got.absmax), f32_bits(&get("scb")), "{shape}: absmax");
    }
}
