//! Weights in blocks: the bits of the floating-point product of what the quantizers' own functions make of the codes.

use aibit_kernels::*;
use aibit_quant::{
    NestedAbsmax, dequantize_four_bit, quantize_four_bit, quantize_int4_groups, quantize_int8_groups,
};
use proptest::prelude::*;

use crate::same_bits::{Random, bits, check};

/// Compares products and embedded rows of `w` with those of `values`, its elements.
fn check_matrix(w: &BlockMatrix<'_>, values: &[f32], m: usize, random: &mut Random) {
    let (n, k) = (w.n(), w.k());
    let (x, bias) = (random.floats(m * k), random.floats(n));
    let epilogue = Epilogue::with_bias(Some(&bias));
    let mut want = vec![0.0; m * n];
    linear_float(&Isa::SCALAR.into(), &x, FloatMatrix::F32(values), m, n, k, &epilogue, &mut want);
    let ids: Vec<u32> = (0..n as u32).rev().collect();
    let rows: Vec<f32> = ids.iter().flat_map(|id| &values[*id as usize * k..][..k]).copied().collect();
    check(|cx| {
        let (mut y, mut embedded) = (vec![f32::NAN; m * n], vec![f32::NAN; n * k]);
        linear_blocks(cx, &x, w, m, &epilogue, &mut y);
        embed_blocks(cx, w, &ids, &mut embedded);
        assert_eq!(bits(&y), bits(&want), "{cx:?}");
        assert_eq!(bits(&embedded), bits(&rows), "{cx:?}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn four_bits((m, n, blocks) in (1..9_usize, 1..40_usize, 1..5_usize), seed in any::<u64>(), is_fp4 in any::<bool>()) {
        let (k, mut random) = (64 * blocks, Random(seed));
        let kind = if is_fp4 { FourBit::Fp4 } else { FourBit::Nf4 };
        let quantized = quantize_four_bit(&random.floats(n * k), kind).unwrap();
        let code = |i: usize| quantized.codes[i / 2] >> (4 * (1 - i % 2));
        let values = |absmax: &dyn Fn(usize) -> f32| -> Vec<f32> {
            (0..n * k).map(|i| dequantize_four_bit(kind, code(i), absmax(i / 64))).collect()
        };
        let scales = BlockScales::F32(&quantized.absmax);
        let w = BlockMatrix::four_bit(kind, &quantized.codes, scales, n, k);
        check_matrix(&w, &values(&|block| quantized.absmax[block]), m, &mut random);

        let nested = NestedAbsmax::quantize(&quantized.absmax);
        let NestedAbsmax { codes, absmax, map, offset } = &nested;
        let scales = BlockScales::Nested { codes, map, absmax, offset: *offset };
        let w = BlockMatrix::four_bit(kind, &quantized.codes, scales, n, k);
        check_matrix(&w, &values(&|block| nested.value(block)), m, &mut random);
    }

    #[test]
    fn groups((m, n, groups) in (1..9_usize, 1..40_usize, 1..7_usize), seed in any::<u64>()) {
        let (k, mut random) = (32 * groups, Random(seed));
        let weights = random.floats(n * k);
        let eight = quantize_int8_groups(&weights).unwrap();
        let values: Vec<f32> =
            (0..n * k).map(|i| f32::from(eight.codes[i]) * eight.scales[i / 32].to_f32()).collect();
        check_matrix(&BlockMatrix::int8_groups(&eight.codes, &eight.scales, n, k), &values, m, &mut random);

        let four = quantize_int4_groups(&weights).unwrap();
        // The documented order of nibbles: element j of a group and element j + 16 share byte j.
        let code = |i: usize| four.codes[i / 32 * 16 + i % 16] >> (4 * (i % 32 / 16)) & 15;
        let values: Vec<f32> =
            (0..n * k).map(|i| (f32::from(code(i)) - 8.0) * four.scales[i / 32].to_f32()).collect();
        check_matrix(&BlockMatrix::int4_groups(&four.codes, &four.scales, n, k), &values, m, &mut random);
    }
}

#[test]
#[should_panic(expected = "k = 96 is not a multiple of 64")]
fn a_ragged_row_panics() {
    BlockMatrix::four_bit(FourBit::Nf4, &[0; 48], BlockScales::F32(&[1.0; 2]), 1, 96);
}
