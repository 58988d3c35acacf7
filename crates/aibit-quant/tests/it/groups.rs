//! Groups of 32: values worked out by hand. `aibit-gguf` compares the same algorithms with the `gguf` package.

use aibit_quant::{QuantError, quantize_int4_groups, quantize_int8_groups};

fn group(values: &[f32]) -> Vec<f32> {
    let mut group = values.to_vec();
    group.resize(32, 0.0);
    group
}

#[test]
fn eight_bits_round_halves_away_from_zero() {
    let q = quantize_int8_groups(&group(&[127.0, 0.5, -0.5, 1.5, 2.5, -126.6])).expect("finite");
    assert_eq!(q.codes[..7], [127, 1, -1, 2, 3, -127, 0]);
    assert_eq!(q.scales, [half::f16::ONE]);
}

#[test]
fn codes_use_the_scale_before_it_is_rounded() {
    // d = 1000.3 / 127 = 7.8764..., in f16 7.875.
    let q = quantize_int8_groups(&group(&[1000.3, -500.0])).expect("finite");
    assert_eq!((q.codes[0], q.codes[1], q.scales[0].to_f32()), (127, -63, 7.875));
}

#[test]
fn four_bits_give_the_largest_value_the_code_zero() {
    let mut values = group(&[-8.0, 7.0, 0.4, -0.6]);
    values[16] = 3.0;
    let q = quantize_int4_groups(&values).expect("finite");
    // d = 1: -8 -> 0, 7 -> 15, 0.4 -> 8, -0.6 -> 7; element 16 in the high bits of byte 0.
    assert_eq!(q.codes[..4], [11 << 4, 8 << 4 | 15, 8 << 4 | 8, 8 << 4 | 7]);
    assert_eq!(q.scales[0].to_f32(), 1.0);
    // A positive value of largest magnitude makes the scale negative; of equals the first counts.
    let q = quantize_int4_groups(&group(&[4.0, -4.0])).expect("finite");
    assert_eq!((q.codes[0] & 15, q.codes[1] & 15, q.scales[0].to_f32()), (0, 15, -0.5));
}

#[test]
fn zeros_have_scale_zero() {
    let q = quantize_int8_groups(&[0.0; 64]).expect("finite");
    assert_eq!((q.codes, q.scales), (vec![0; 64], vec![half::f16::ZERO; 2]));
    let q = quantize_int4_groups(&[0.0; 32]).expect("finite");
    assert_eq!((q.codes, q.scales[0].to_f32()), (vec![0x88; 16], 0.0));
}

#[test]
fn what_cannot_be_held_is_refused_with_its_place() {
    let mut values = vec![0.0; 64];
    values[40] = 9.0e6;
    let error = QuantError::BeyondF16 { row: 0, column: 40, value: 9.0e6 };
    assert_eq!(quantize_int8_groups(&values), Err(error.clone()));
    assert_eq!(quantize_int4_groups(&values), Err(error));
    values[33] = f32::INFINITY;
    let error = QuantError::NotFinite { row: 0, column: 33, value: f32::INFINITY };
    assert_eq!(quantize_int8_groups(&values), Err(error));
}
