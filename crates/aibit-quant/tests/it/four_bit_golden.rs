//! `nf4.safetensors` and `fp4.safetensors`: codes and absmax computed by bitsandbytes on CPU.

use aibit_quant::{FourBit, NestedAbsmax, dequantize_four_bit, dynamic_map, quantize_four_bit};
use half::{bf16, f16};
use safetensors::{SafeTensors, tensor::TensorView};

use crate::int8_golden::widen_flat;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../fixtures/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR")))
        .expect("golden file")
}

const KINDS: [(&str, FourBit); 2] = [("nf4", FourBit::Nf4), ("fp4", FourBit::Fp4)];

/// What a dequantized value is in the type of the golden tensor; `-0.0` equals `0.0`.
fn rounded(value: f32, like: &TensorView<'_>) -> f32 {
    let value = match like.dtype() {
        safetensors::Dtype::F16 => f16::from_f32(value).to_f32(),
        safetensors::Dtype::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    };
    value + 0.0
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(|v| (v + 0.0).to_bits()).collect()
}

#[test]
fn every_case_equals_bitsandbytes_bit_for_bit() {
    for (name, kind) in KINDS {
        let file = file(name);
        let golden = SafeTensors::deserialize(&file).expect("golden file");
        assert_eq!(
            bits(kind.table().iter().copied()),
            bits(widen_flat(&golden.tensor("quant_map").expect("map")))
        );
        let mut cases: Vec<_> = golden.names().into_iter().filter_map(|n| n.strip_suffix(".input")).collect();
        cases.sort_unstable();
        assert!(cases.len() >= 20, "{name}: {} cases", cases.len());
        for case in cases {
            let get = |suffix: &str| golden.tensor(&format!("{case}.{suffix}")).expect("golden tensor");
            let input = widen_flat(&get("input"));
            let blocks = quantize_four_bit(&input, kind).expect("finite input");
            assert_eq!(blocks.codes, get("packed").data(), "{name} {case}: codes");
            let is_nested = golden.tensor(&format!("{case}.absmax_u8")).is_ok();
            let absmax = if is_nested { "absmax_before_nesting" } else { "absmax" };
            assert_eq!(bits(blocks.absmax.clone()), bits(widen_flat(&get(absmax))), "{name} {case}: absmax");

            let absmax = if is_nested { widen_flat(&get("absmax_restored")) } else { blocks.absmax };
            let want = get("dequant");
            let nibble = |i: usize| blocks.codes[i / 2] >> (4 * (1 - i % 2));
            let values = (0..input.len())
                .map(|i| rounded(dequantize_four_bit(kind, nibble(i), absmax[i / 64]), &want));
            assert_eq!(bits(values), bits(widen_flat(&want)), "{name} {case}: values");
        }
    }
}

#[test]
fn double_quantization_is_read_exactly_and_made_within_one_code() {
    for (name, _) in KINDS {
        let file = file(name);
        let golden = SafeTensors::deserialize(&file).expect("golden file");
        let map = widen_flat(&golden.tensor("dynamic_map").expect("map"));
        assert!(dynamic_map().iter().zip(&map).all(|(a, b)| (a - b).abs() <= 2.0 * f32::EPSILON * b.abs()));
        for case in ["nested_64x64_float32", "nested_128x192_float32"] {
            let get = |suffix: &str| golden.tensor(&format!("{case}.{suffix}")).expect("golden tensor");
            let stored = NestedAbsmax {
                codes: get("absmax_u8").data().to_vec(),
                absmax: widen_flat(&get("nested_absmax")),
                map: widen_flat(&get("nested_quant_map")).try_into().expect("256 values"),
                offset: widen_flat(&get("nested_offset"))[0],
            };
            let values = (0..stored.codes.len()).map(|i| stored.value(i));
            assert_eq!(bits(values), bits(widen_flat(&get("absmax_restored"))), "{name} {case}");

            let made = NestedAbsmax::quantize(&widen_flat(&get("absmax_before_nesting")));
            let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * b.abs();
            assert!(close(made.offset, stored.offset), "{name} {case}: {} {}", made.offset, stored.offset);
            assert!(made.absmax.iter().zip(&stored.absmax).all(|(a, b)| close(*a, *b)), "{name} {case}");
            let apart = made.codes.iter().zip(&stored.codes).filter(|(a, b)| a != b).count();
            assert!(made.codes.iter().zip(&stored.codes).all(|(a, b)| a.abs_diff(*b) <= 1), "{name} {case}");
            assert!(
                apart * 50 <= made.codes.len(),
                "{name} {case}: {apart} of {} codes differ",
                made.codes.len()
            );
        }
    }
}

#[test]
fn values_that_are_not_finite_are_refused_with_their_place() {
    let mut values = [0.5; 70];
    values[66] = f32::NAN;
    let error = quantize_four_bit(&values, FourBit::Nf4).expect_err("NaN");
    assert!(error.to_string().contains("row 0, column 66 holds NaN"), "{error}");
}
