use aibit_quant::{Int8Rowwise, QuantError, quantize_int8_activations, quantize_int8_rowwise};
use ndarray::{Array2, array};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_round_trip_errs_by_at_most_half_a_scale(
        rows in 1..6usize, columns in 1..70usize, values in prop::collection::vec(-1.0e4f32..1.0e4, 420)
    ) {
        let w = Array2::from_shape_fn((rows, columns), |(r, c)| values[r * columns + c]);
        let q = quantize_int8_rowwise(w.view()).expect("finite");
        let back = q.dequantize();
        for ((at, &want), &got) in w.indexed_iter().zip(&back) {
            let scale = q.absmax[at.0] / 127.0;
            // Half a code, plus four f32 roundings of values no larger than absmax.
            prop_assert!((want - got).abs() <= 0.5 * scale + 4.0 * f32::EPSILON * q.absmax[at.0]);
        }
    }

    #[test]
    fn codes_never_reach_minus_128(values in prop::collection::vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), 1..64)) {
        let w = Array2::from_shape_vec((1, values.len()), values).expect("shape");
        let q = quantize_int8_rowwise(w.view()).expect("finite");
        prop_assert!(q.codes.iter().all(|&c| c >= -127));
    }

    #[test]
    fn without_a_threshold_there_are_no_outliers(values in prop::collection::vec(-1.0e3f32..1.0e3, 1..64)) {
        let x = Array2::from_shape_vec((1, values.len()), values).expect("shape");
        let a = quantize_int8_activations(x.view(), 0.0);
        let w = quantize_int8_rowwise(x.view()).expect("finite");
        prop_assert!(a.outlier_columns.is_empty());
        prop_assert_eq!(a.codes, w.codes.iter().copied().collect::<Vec<_>>());
    }
}

#[test]
fn a_value_that_is_not_finite_is_refused_with_its_place() {
    let w = array![[0.0, 1.0], [2.0, f32::INFINITY]];
    let error = quantize_int8_rowwise(w.view()).expect_err("infinity");
    assert_eq!(error, QuantError::NotFinite { row: 1, column: 1, value: f32::INFINITY });
    let beyond = array![[1.0e5_f32, 1.0]];
    let error = Int8Rowwise::from_checkpoint_rows(beyond.view()).expect_err("beyond fp16");
    assert_eq!(error, QuantError::BeyondF16 { row: 0, column: 0, value: 1.0e5 });
}

#[test]
fn hand_worked_rows() {
    // 127 / 2 = 63.5 per unit: 1.0 -> 63.5 rounds to even 64, -0.5 -> -31.75 -> -32.
    let q =
        quantize_int8_rowwise(array![[2.0, 1.0, -0.5, 0.0], [0.0, 0.0, 0.0, 0.0]].view()).expect("finite");
    assert_eq!(q.codes, array![[127, 64, -32, 0], [0, 0, 0, 0]]);
    assert_eq!(q.absmax, array![2.0, 0.0]);
}
