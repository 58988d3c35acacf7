//! `blocks.safetensors`: values and blocks computed by llama.cpp's `gguf` package.

use aibit_gguf::{GgmlType, dequantize, join_q4_0, join_q8_0, split_q4_0, split_q8_0};
use half::f16;
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::support::golden;

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_type_s_values_equal_the_reference_bit_for_bit() {
    let file = golden("blocks.safetensors");
    let golden = SafeTensors::deserialize(&file).expect("golden file");
    for dtype in GgmlType::ALL {
        let blocks = golden.tensor(&format!("{dtype}.blocks")).expect("blocks");
        let want = f32s(golden.tensor(&format!("{dtype}.values")).expect("values").data());
        let mut values = vec![f32::NAN; want.len()];
        dequantize(dtype, blocks.data(), &mut values);
        for (index, (value, want)) in values.iter().zip(&want).enumerate() {
            assert_eq!(value.to_bits(), want.to_bits(), "{dtype}, element {index}: {value:e}, not {want:e}");
        }
    }
}

/// Checks a quantizer of groups against the reference, block by block. It refuses a group whose scale is beyond fp16, for
/// which the reference writes an infinite one.
fn check_quantizer(dtype: GgmlType, quantize: impl Fn(&[f32]) -> Option<Vec<u8>>) {
    let file = golden("blocks.safetensors");
    let golden = SafeTensors::deserialize(&file).expect("golden file");
    let input = f32s(golden.tensor(&format!("{dtype}.input")).expect("input").data());
    let want = golden.tensor(&format!("{dtype}.quantized")).expect("blocks");
    let blocks = want.data().chunks_exact(dtype.block_bytes());
    assert_eq!(blocks.len() * 32, input.len(), "{dtype}");
    for (index, (input, want)) in input.chunks_exact(32).zip(blocks).enumerate() {
        match quantize(input) {
            Some(block) => assert_eq!(block, want, "{dtype}, block {index}: {input:?}"),
            None => assert!(f16::from_le_bytes([want[0], want[1]]).is_infinite(), "{dtype}, block {index}"),
        }
    }
}

#[test]
fn groups_of_int8_are_quantized_as_q8_0_is_by_the_reference() {
    check_quantizer(GgmlType::Q8_0, |x| {
        let groups = aibit_quant::quantize_int8_groups(x).ok()?;
        Some(join_q8_0(&groups.codes, &groups.scales))
    });
}

#[test]
fn groups_of_int4_are_quantized_as_q4_0_is_by_the_reference() {
    check_quantizer(GgmlType::Q4_0, |x| {
        let groups = aibit_quant::quantize_int4_groups(x).ok()?;
        Some(join_q4_0(&groups.codes, &groups.scales))
    });
}

#[test]
#[should_panic(expected = "33 bytes for 32 elements of Q8_0, which has 34 bytes for 32 elements")]
fn bytes_that_are_not_whole_blocks_are_a_panic_with_the_numbers() {
    dequantize(GgmlType::Q8_0, &[0; 33], &mut [0.0; 32]);
}

#[test]
#[should_panic(expected = "Q8_0: blocks of 68 bytes, 64 codes and 1 scales")]
fn parts_that_do_not_belong_together_are_a_panic_with_the_numbers() {
    split_q8_0(&[0; 68], &mut [0; 64], &mut [f16::ZERO; 1]);
}

fn halves(values: &[u16]) -> Vec<f16> {
    values.iter().map(|&bits| f16::from_bits(bits)).collect()
}

fn half_bits(values: &[f16]) -> Vec<u16> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    /// NaN scales included: nothing is computed.
    #[test]
    fn q8_0_taken_apart_and_put_together_is_the_same(
        (codes, scales) in (0..6_usize).prop_flat_map(|blocks| {
            (prop::collection::vec(any::<i8>(), blocks * 32), prop::collection::vec(any::<u16>(), blocks))
        }),
    ) {
        let bytes = join_q8_0(&codes, &halves(&scales));
        prop_assert_eq!(bytes.len(), scales.len() * 34);
        let (mut split_codes, mut split_scales) = (vec![0; codes.len()], vec![f16::ZERO; scales.len()]);
        split_q8_0(&bytes, &mut split_codes, &mut split_scales);
        prop_assert_eq!(&split_codes, &codes);
        prop_assert_eq!(half_bits(&split_scales), scales);

        let mut values = vec![0.0; codes.len()];
        dequantize(GgmlType::Q8_0, &bytes, &mut values);
        let of_parts = codes.iter().enumerate().map(|(i, &code)| split_scales[i / 32].to_f32() * f32::from(code));
        for (value, of_parts) in values.iter().zip(of_parts) {
            prop_assert!(value.to_bits() == of_parts.to_bits() || value.is_nan() && of_parts.is_nan());
        }
    }

    #[test]
    fn q4_0_taken_apart_and_put_together_is_the_same(
        (codes, scales) in (0..6_usize).prop_flat_map(|blocks| {
            (prop::collection::vec(any::<u8>(), blocks * 16), prop::collection::vec(any::<u16>(), blocks))
        }),
    ) {
        let bytes = join_q4_0(&codes, &halves(&scales));
        prop_assert_eq!(bytes.len(), scales.len() * 18);
        let (mut split_codes, mut split_scales) = (vec![0; codes.len()], vec![f16::ZERO; scales.len()]);
        split_q4_0(&bytes, &mut split_codes, &mut split_scales);
        prop_assert_eq!(split_codes, codes);
        prop_assert_eq!(half_bits(&split_scales), scales);
    }

    /// The scale's rounding to fp16 moves the largest magnitude by 127 times half a unit in its last place, 2^-12 of
    /// the scale: less than 0.07 of a step beside the half step of the code.
    #[test]
    fn q8_0_values_are_within_0_57_of_a_step(x in prop::collection::vec(-4.0_f32..4.0, 32)) {
        let absmax = x.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        prop_assume!(absmax > 0.01);
        let groups = aibit_quant::quantize_int8_groups(&x).expect("finite");
        let bytes = join_q8_0(&groups.codes, &groups.scales);
        let mut values = [0.0; 32];
        dequantize(GgmlType::Q8_0, &bytes, &mut values);
        for (value, x) in values.iter().zip(&x) {
            prop_assert!((value - x).abs() <= 0.57 * absmax / 127.0, "{} became {}", x, value);
        }
    }

    #[test]
    fn any_bytes_have_values(dtype in prop::sample::select(&GgmlType::ALL), seed in prop::collection::vec(any::<u8>(), 210)) {
        let bytes = &seed[..dtype.block_bytes()];
        let mut values = vec![0.0; dtype.block_len()];
        dequantize(dtype, bytes, &mut values);
        let mut again = vec![0.0; dtype.block_len()];
        dequantize(dtype, bytes, &mut again);
        prop_assert_eq!(bits(&values), bits(&again));
    }
}
