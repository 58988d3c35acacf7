//! `exp` and `tanh` as one polynomial each: the same bits on every instruction set.

/// `1.5 · 2²³`: adding it rounds to an integer (half to even) that then sits in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// `eˣ` with an error below 1.5 units in the last place where the result is a normal number.
///
/// Below `-104` the result is `0.0`, above `88.73` it is infinite; subnormal results carry at most one
/// more rounding (an absolute error below `2⁻¹⁴⁹`). NaN stays NaN.
///
/// Source: argument reduction and coefficients as in Cephes `expf` (S. L. Moshier), with fused
/// multiply-adds.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Comparisons that are false for NaN, so that NaN passes through.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    // 2ⁿ as two factors: one alone overflows at n = 128 and cannot express n < -126.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// The hyperbolic tangent with an error below 2 units in the last place. NaN stays NaN.
///
/// Source: the two ranges and the coefficients of Cephes `tanhf` (S. L. Moshier).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let p = -5.704_988_7e-3_f32;
    let p = p.mul_add(z, 2.063_909e-2);
    let p = p.mul_add(z, -5.373_971_6e-2);
    let p = p.mul_add(z, 1.333_144_2e-1);
    let p = p.mul_add(z, -3.333_328e-1);
    let near = (p * z).mul_add(x, x).copysign(x); // the sum of two zeros would lose the sign of -0.0
    let far = (1.0 - 2.0 / (exp(2.0 * a) + 1.0)).copysign(x);
    if a < 0.625 { near } else { far }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of `got` in units in the last place of the f32 nearest to `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let near = want.abs() as f32;
        let ulp = f64::from(near.next_up()) - f64::from(near);
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn exp_is_within_one_and_a_half_ulps() {
        let mut worst = (0.0, 0.0);
        let mut x = -87.3_f32;
        while x < 88.7 {
            let error = ulps(exp(x), f64::from(x).exp());
            if error > worst.0 {
                worst = (error, x);
            }
            x += 9.7e-5;
        }
        assert!(worst.0 < 1.5, "{worst:?}");
    }

    #[test]
    fn exp_of_special_values() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-104.0), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::MAX), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        for x in [-88.0_f32, -95.0, -100.0, -103.0] {
            assert!((f64::from(exp(x)) - f64::from(x).exp()).abs() <= f64::from(f32::from_bits(1)), "{x}");
        }
        assert!(exp(88.72).is_finite());
    }

    #[test]
    fn tanh_is_within_two_ulps() {
        let mut worst = (0.0, 0.0);
        let mut x = -10.0_f32;
        while x < 10.0 {
            let error = ulps(tanh(x), f64::from(x).tanh());
            if error > worst.0 {
                worst = (error, x);
            }
            x += 1.3e-5;
        }
        assert!(worst.0 < 2.0, "{worst:?}");
    }

    #[test]
    fn tanh_of_special_values() {
        assert_eq!(tanh(0.0).to_bits(), 0.0_f32.to_bits());
        assert_eq!(tanh(-0.0).to_bits(), (-0.0_f32).to_bits());
        assert_eq!(tanh(1e30), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(tanh(1e-20), 1e-20);
        assert!(tanh(f32::NAN).is_nan());
    }
}
