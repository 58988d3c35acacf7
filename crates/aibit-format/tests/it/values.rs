//! Stored values that no quantizer writes.

use aibit_format::check_values;
use half::{bf16, f16};

use crate::support::{Parts, open};

/// Checks the sample with `bytes` in place of element `index` of `name`. The archive itself is sound.
fn values(edits: &[(&str, usize, &[u8])]) -> Result<(), String> {
    let mut parts = Parts::sample();
    let index = aibit_format::WeightsIndex::parse(&parts.entries[0].1).expect("parse");
    for &(name, element, bytes) in edits {
        let at = index.data_start() + index.get(name).expect("tensor").begin + element * bytes.len();
        parts.entries[0].1[at..][..bytes.len()].copy_from_slice(bytes);
    }
    let archive = open(&parts.zip().bytes()).expect("open");
    for entry in archive.entries() {
        archive.verify_entry(entry.name).expect("verify");
    }
    check_values(archive.weights(), archive.manifest()).map_err(|e| e.to_string())
}

#[track_caller]
fn check(name: &str, element: usize, bytes: &[u8], problem: &str) {
    let error = values(&[(name, element, bytes)]).expect_err("a bad value");
    assert_eq!(error, format!("tensor `{name}`, element {element}: {problem}"));
}

#[test]
fn a_sound_archive_passes() {
    assert_eq!(values(&[]), Ok(()));
}

#[test]
fn extreme_but_finite_values_pass() {
    let edits: [(&str, usize, &[u8]); 9] = [
        ("ln.weight", 0, &f32::MAX.to_le_bytes()),
        ("ln.weight", 1, &f32::MIN.to_le_bytes()),
        ("ln.weight", 2, &f32::from_bits(1).to_le_bytes()),
        ("ln.weight", 3, &(-0.0_f32).to_le_bytes()),
        ("wte.weight", 34, &f16::MAX.to_le_bytes()),
        ("ln.bias", 2, &bf16::MIN.to_le_bytes()),
        ("h.0.SCB", 0, &f32::MAX.to_le_bytes()),
        ("h.0.SCB", 1, &f32::from_bits(1).to_le_bytes()),
        ("h.0.weight", 0, &[127]),
    ];
    assert_eq!(values(&edits), Ok(()));
}

#[test]
fn floats_are_finite() {
    for bits in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)] {
        check("ln.weight", 6, &bits.to_le_bytes(), "a F32 value that is NaN or infinite");
        check("h.1.SCB", 2, &bits.to_le_bytes(), "a F32 value that is NaN or infinite");
    }
    for value in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY, f16::from_bits(0x7c01)] {
        check("wte.weight", 0, &value.to_le_bytes(), "a F16 value that is NaN or infinite");
        check("wpe.weight", 31, &value.to_le_bytes(), "a F16 value that is NaN or infinite");
    }
    for value in [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY, bf16::from_bits(0x7f81)] {
        check("ln.bias", 1, &value.to_le_bytes(), "a BF16 value that is NaN or infinite");
    }
}

#[test]
fn the_first_offending_element_is_named() {
    let nan = f32::NAN.to_le_bytes();
    let error =
        values(&[("ln.weight", 5, &nan), ("ln.weight", 2, &nan), ("ln.weight", 4, &nan)]).expect_err("NaN");
    assert!(error.starts_with("tensor `ln.weight`, element 2: "), "{error}");
}

#[test]
fn codes_are_symmetric() {
    let problem = "the code -128, which symmetric quantization never writes";
    check("h.0.weight", 0, &[0x80], problem);
    check("h.0.weight", 1023, &[0x80], problem);
    check("h.1.weight", 14, &[0x80], problem);
    assert_eq!(values(&[("h.1.weight", 14, &[0x81])]), Ok(()));
}

#[test]
fn scales_are_positive_or_belong_to_rows_of_zeros() {
    let problem = |scale: &str| {
        format!("the scale {scale}: a scale must not be negative, and may be zero only for a row of zeros")
    };
    for (scale, shown) in
        [(-1.0_f32, "-1"), (-f32::MIN_POSITIVE, "-0.000000000000000000000000000000000000011754944")]
    {
        check("h.1.SCB", 1, &scale.to_le_bytes(), &problem(shown));
    }
    check("h.1.SCB", 1, &0.0_f32.to_le_bytes(), &problem("0"));
    check("h.1.SCB", 1, &(-0.0_f32).to_le_bytes(), &problem("-0"));
    check("h.0.SCB", 15, &0.0_f32.to_le_bytes(), &problem("0"));
    // Row 1 of five codes: all zero, and all but the last.
    let zeros: Vec<(&str, usize, &[u8])> = (5..10).map(|i| ("h.1.weight", i, &[0_u8][..])).collect();
    let zero_scale = 0.0_f32.to_le_bytes();
    let with = |edits: &[(&'static str, usize, &'static [u8])]| edits.to_vec();
    let mut all: Vec<(&str, usize, &[u8])> = zeros.clone();
    all.push(("h.1.SCB", 1, &zero_scale));
    assert_eq!(values(&all), Ok(()));
    all.extend(with(&[("h.1.weight", 9, &[1])]));
    assert!(values(&all).expect_err("a code").starts_with("tensor `h.1.SCB`, element 1: "));
}
