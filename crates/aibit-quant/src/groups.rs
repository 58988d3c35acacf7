//! INT8 and INT4 in groups of 32 along a row with f16 scales: the codes of GGUF's Q8_0 and Q4_0.
//!
//! Source: ggml, `ggml-quants.c`, `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref`.

use half::f16;

use crate::round::{absmax, nearest_integer, nearest_integer_bits};
use crate::{QuantError, first_not_finite};

/// Elements that share one scale.
pub const GROUP: usize = 32;

/// Values in a byte each: `w[i] ≈ scales[i / 32] * codes[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Groups {
    /// One code per value.
    pub codes: Vec<i8>,
    /// One scale per group.
    pub scales: Vec<f16>,
}

/// Values in four bits each: `w[i] ≈ scales[i / 32] * (code[i] - 8)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Int4Groups {
    /// Sixteen bytes per group: byte `j` holds the code of element `j` in its low bits and that of element `j + 16` in
    /// its high bits.
    pub codes: Vec<u8>,
    /// One scale per group.
    pub scales: Vec<f16>,
}

/// Quantizes `values`, whole groups of 32, to a byte each: `d = fl(absmax / 127)`, `code = round(fl(x * fl(1 / d)))` with
/// halves away from zero, and `d` rounded to f16 afterwards.
///
/// # Errors
/// [`QuantError::NotFinite`] for NaN and infinity, [`QuantError::BeyondF16`] where a scale would be infinite; the
/// position counts `values` as one row.
///
/// # Panics
/// If `values` is not a whole number of groups.
pub fn quantize_int8_groups(values: &[f32]) -> Result<Int8Groups, QuantError> {
    check(values)?;
    let mut out = Int8Groups {
        codes: Vec::with_capacity(values.len()),
        scales: Vec::with_capacity(values.len() / GROUP),
    };
    for (index, group) in values.as_chunks::<GROUP>().0.iter().enumerate() {
        let scale = absmax(group) / 127.0;
        let inverse = inverse_of(scale);
        out.codes.extend(group.iter().map(|value| half_away(value * inverse)));
        out.scales.push(scale_of(scale, index, group)?);
    }
    Ok(out)
}

/// Quantizes `values`, whole groups of 32, to four bits each: `d = fl(max / -8)`, `max` the value of largest magnitude (the
/// first of equals), `code = min(15, trunc(fl(fl(x * fl(1 / d)) + 8.5)))`, and `d` rounded to f16 afterwards.
///
/// # Errors
/// As [`quantize_int8_groups`].
///
/// # Panics
/// If `values` is not a whole number of groups.
pub fn quantize_int4_groups(values: &[f32]) -> Result<Int4Groups, QuantError> {
    check(values)?;
    let mut out = Int4Groups {
        codes: Vec::with_capacity(values.len() / 2),
        scales: Vec::with_capacity(values.len() / GROUP),
    };
    for (index, group) in values.as_chunks::<GROUP>().0.iter().enumerate() {
        let largest = largest(group);
        let scale = largest / -8.0;
        let inverse = inverse_of(scale);
        let codes = group.map(|value| truncated(value * inverse + 8.5).min(15));
        let (low, high) = codes.split_at(GROUP / 2);
        out.codes.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
        out.scales.push(scale_of(scale, index, group)?);
    }
    Ok(out)
}

fn check(values: &[f32]) -> Result<(), QuantError> {
    assert!(values.len().is_multiple_of(GROUP), "{} values are not whole groups of {GROUP}", values.len());
    match first_not_finite(values) {
        Some(column) => Err(QuantError::NotFinite { row: 0, column, value: values[column] }),
        None => Ok(()),
    }
}

/// `1 / scale`, or 0 where there is none: then all values are zero in f16 too.
fn inverse_of(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The first value of largest magnitude.
fn largest(group: &[f32; GROUP]) -> f32 {
    let magnitude = absmax(group);
    *group.iter().find(|value| value.abs() == magnitude).expect("one of the group")
}

/// `x` to the nearest integer, halves away from zero, for `x` between -128 and 128.
fn half_away(x: f32) -> i8 {
    let even = nearest_integer(x);
    // A half that went towards zero has its sign left.
    let left = x - even;
    let up = i32::from(left == 0.5 && x > 0.0);
    let down = i32::from(left == -0.5 && x < 0.0);
    (nearest_integer_bits(even) as i32 + up - down) as i8
}

/// `x` without its fraction, for `x` between 0 and 128.
fn truncated(x: f32) -> u8 {
    let nearest = nearest_integer(x);
    (nearest_integer_bits(nearest) as i32 - i32::from(nearest > x)) as u8
}

fn scale_of(scale: f32, index: usize, group: &[f32; GROUP]) -> Result<f16, QuantError> {
    let rounded = f16::from_f32(scale);
    if rounded.is_infinite() {
        let value = largest(group);
        let place = group.iter().position(|v| *v == value).expect("one of the group");
        return Err(QuantError::BeyondF16 { row: 0, column: index * GROUP + place, value });
    }
    Ok(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_their_neighbours_round_as_the_standard_library_does() {
        for step in -253..=253 {
            let half = step as f32 * 0.5;
            for x in [half.next_down(), half, half.next_up()] {
                assert_eq!(half_away(x), x.round() as i8, "{x:?}");
                if x >= 0.0 {
                    assert_eq!(truncated(x), x as u8, "{x:?}");
                }
            }
        }
    }
}
