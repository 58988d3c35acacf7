//! Rounding through 16-bit formats, nearest even, in operations that compilers make vector code of: the codes of a whole
//! checkpoint go through here.

use half::bf16;

/// Bits of infinity: finite magnitudes are below, NaN is above.
const INFINITY: u32 = f32::INFINITY.to_bits();

/// Rounds `x` to the nearest fp16 value, ties to even, and returns it as f32.
///
/// Magnitudes of 65520 and more become infinity; fp16 subnormals are kept.
pub fn round_through_f16(x: f32) -> f32 {
    const SMALLEST_NORMAL: u32 = 0x3880_0000; // 2^-14
    const BEYOND: u32 = 0x4780_0000; // 2^16
    let magnitude = magnitude_bits(x);
    // Thirteen bits of the fraction go; a carry out of it makes the next exponent, as it should.
    let normal = (magnitude + 0xfff + (magnitude >> 13 & 1)) & !0x1fff;
    // Subnormals are multiples of 2^-24, which is the last place of numbers from 0.5 to 1.
    let subnormal = ((f32::from_bits(magnitude) + 0.5) - 0.5).to_bits();
    let rounded = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
    let rounded = if rounded >= BEYOND { INFINITY } else { rounded };
    let not_a_number = magnitude & !0x1fff | 0x0040_0000;
    let rounded = if magnitude > INFINITY { not_a_number } else { rounded };
    f32::from_bits(rounded | x.to_bits() & 0x8000_0000)
}

/// Rounds `x` to the nearest bfloat16 value, ties to even, and returns it as f32.
pub fn round_through_bf16(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// Index of the first NaN or infinity.
pub fn first_not_finite(values: &[f32]) -> Option<usize> {
    if absmax(values).is_finite() { None } else { values.iter().position(|value| !value.is_finite()) }
}

/// The largest magnitude, NaN if any value is NaN, 0 if there are none.
pub(crate) fn absmax(values: &[f32]) -> f32 {
    // Compared as integers, which is the same order, with NaN above all, and needs no fixed order of comparisons.
    let largest = values.iter().fold(0, |largest: i32, value| largest.max(magnitude_bits(*value) as i32));
    f32::from_bits(largest as u32)
}

/// `x` to the nearest integer, ties to even, in the low bits of the result.
///
/// `x` must be between -2^22 and 2^22. The sum has a last place of 1, so it rounds as wanted; a call of the standard
/// library's rounding for each element would keep a loop from being vectorized where the target has no instruction for it.
pub(crate) fn nearest_integer_bits(x: f32) -> u32 {
    (x + NEAREST).to_bits()
}

/// `x` to the nearest integer, ties to even, for `x` between -2^22 and 2^22.
pub(crate) fn nearest_integer(x: f32) -> f32 {
    (x + NEAREST) - NEAREST
}

/// 1.5 · 2^23: its fraction has room for a sum of either sign, and its last place is 1.
const NEAREST: f32 = 12_582_912.0;

fn magnitude_bits(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn check(x: f32) {
        let expected = f16::from_f32(x).to_f32();
        for (x, expected) in [(x, expected), (-x, -expected)] {
            let rounded = round_through_f16(x);
            assert_eq!(rounded.to_bits(), expected.to_bits(), "{x:e} became {rounded:e}, not {expected:e}");
        }
    }

    #[test]
    fn every_f16_and_what_lies_around_it_and_around_the_middles_between_two_rounds_as_the_half_crate_does() {
        for bits in 0..=0x7fff {
            let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            for x in [low, 0.5 * (low + high)] {
                for bits in x.to_bits().saturating_sub(2)..=x.to_bits() + 2 {
                    check(f32::from_bits(bits));
                }
            }
        }
    }

    #[test]
    fn every_exponent_rounds_as_the_half_crate_does() {
        for exponent in 0..=0xff_u32 {
            for fraction in
                [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x40_0000, 0x7f_f000, 0x7f_ffff]
            {
                check(f32::from_bits(exponent << 23 | fraction));
            }
        }
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found() {
        let mut values = vec![f32::MAX; 100];
        assert_eq!(first_not_finite(&values), None);
        values[71] = f32::NAN;
        values[80] = f32::INFINITY;
        assert_eq!(first_not_finite(&values), Some(71));
        values[5] = f32::NEG_INFINITY;
        assert_eq!(first_not_finite(&values), Some(5));
        assert_eq!(first_not_finite(&[]), None);
    }

    #[test]
    fn integers_are_the_nearest_ones() {
        for step in -1024..=1024 {
            let x = step as f32 / 8.0;
            assert_eq!(nearest_integer(x), x.round_ties_even(), "{x}");
            assert_eq!(nearest_integer_bits(x) as i8, x.round_ties_even() as i32 as i8, "{x}");
        }
    }
}
