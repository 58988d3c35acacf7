//! Sixteen `f32` lanes on each instruction set, and the tokens that prove the CPU has it.
//!
//! One lane does one IEEE operation, so all implementations give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
pub(crate) use self::{avx2::Avx2, avx512vnni::Avx512Vnni, avxvnni::AvxVnni};
use crate::math::ROUND;

/// The number of lanes that a sum over `k` is spread over, on every instruction set.
pub(crate) const LANES: usize = 16;

/// Asks for what a later step will read, while something else keeps the core busy.
#[inline]
pub(crate) fn prefetch<T>(x: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of_val(x)).step_by(64) {
        #[expect(unsafe_code, reason = "an instruction that every x86-64 has")]
        // SAFETY: the address lies in `x`, and a prefetch changes nothing that a program sees.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().cast::<i8>().wrapping_add(at));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// Operations on sixteen lanes. A value of the implementing type is the proof that they may run.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Sixteen lanes.
    type F32x16: Copy;

    /// Sixteen lanes of `i32`.
    type I32x16: Copy;

    /// Sixteen quadruples of unsigned bytes, ready to be multiplied more than once.
    type Quads: Copy;

    /// Rows of `x` and rows of `w` that fit the registers as a tile of accumulators.
    const TILE: usize;

    fn splat(self, value: f32) -> Self::F32x16;
    fn load(self, x: &[f32; LANES]) -> Self::F32x16;
    fn load_f16(self, x: &[f16; LANES]) -> Self::F32x16;
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F32x16;
    /// The nearest `f32` of each.
    fn load_i32(self, x: &[i32; LANES]) -> Self::F32x16;
    fn load_i8(self, x: &[i8; LANES]) -> Self::F32x16;
    fn store(self, value: Self::F32x16, to: &mut [f32; LANES]);
    fn add(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;
    fn mul(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;
    fn div(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;

    /// `a * b + c` per lane, rounded once.
    fn mul_add(self, a: Self::F32x16, b: Self::F32x16, c: Self::F32x16) -> Self::F32x16;

    /// `a` where it is less than `b`, else `b`.
    fn min(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;

    /// `a` where it is greater than `b`, else `b`.
    fn max(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;

    /// The larger magnitude per lane; a NaN is larger than any number.
    fn max_magnitude(self, max: Self::F32x16, x: Self::F32x16) -> Self::F32x16;

    /// Adds 1 to each lane of `counts` whose magnitude in `x` exceeds `bound`.
    fn count_above(self, counts: Self::I32x16, x: Self::F32x16, bound: f32) -> Self::I32x16;

    /// Zero in the lanes whose magnitude is at least `threshold`. That of a NaN is not.
    fn below(self, x: Self::F32x16, threshold: f32) -> Self::F32x16;

    /// The nearest integer of each, ties to even; magnitudes are below `2²²`.
    fn round(self, x: Self::F32x16) -> Self::I32x16;

    fn add_i32(self, a: Self::I32x16, b: Self::I32x16) -> Self::I32x16;

    /// All lanes together; the sum may wrap.
    fn sum_i32(self, x: Self::I32x16) -> i32;

    /// `high` and `low` of `x = 128 · high + low`, `low` in `-64..64`.
    fn high_low(self, x: Self::I32x16) -> [Self::I32x16; 2];

    /// Bit `l`: whether the magnitude of lane `l` exceeds `limit`.
    fn beyond(self, x: Self::I32x16, limit: i32) -> u16;

    /// Each lane times 128; it may wrap.
    fn times_128(self, x: Self::I32x16) -> Self::I32x16;

    fn lanes_i32(self, x: &[i32; LANES]) -> Self::I32x16;
    fn store_i32(self, x: Self::I32x16, to: &mut [i32; LANES]);

    /// The nearest of `-128..=127`.
    fn clamp_to_i8(self, x: Self::I32x16) -> Self::I32x16;

    /// Stores each lane, which is in `-128..=127`, as a byte.
    fn store_i8(self, x: Self::I32x16, to: &mut [i8; LANES]);

    /// Adds up the lanes: `i` and `i + 8`, then `i` and `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, value: Self::F32x16) -> f32;

    /// [`Simd::sum`] of four values.
    fn sum4(self, values: [Self::F32x16; 4]) -> [f32; 4];

    /// `table[index]` for sixteen indices below 16.
    fn lookup(self, table: Self::F32x16, indices: &[u8; LANES]) -> Self::F32x16;

    fn splat_i32(self, value: i32) -> Self::I32x16;

    /// Bytes `4l..4l + 4` are lane `l`'s quadruple.
    fn load_quads(self, x: &[u8; 4 * LANES]) -> Self::Quads;

    /// The bits `2j` and `2j + 1` of each byte, `j < 4`, as a number.
    fn two_bits(self, x: Self::Quads, j: usize) -> Self::Quads;

    /// Adds to each lane the product of its quadruple and `y`; exact, but the sum may wrap.
    fn dot_quads(self, sums: Self::I32x16, x: Self::Quads, y: [i8; 4]) -> Self::I32x16;

    /// [`Simd::dot_quads`] where `x[0] · y[0] + x[1] · y[1]` and `x[2] · y[2] + x[3] · y[3]` fit an `i16`.
    fn dot_narrow(self, sums: Self::I32x16, x: Self::Quads, y: [i8; 4]) -> Self::I32x16;

    /// Adds to each lane the product of its quadruple of codes, whose sign bits are flipped, and `y`, and the
    /// [`Simd::excess`] of `y`; exact, but the sum may wrap.
    fn dot_codes(self, sums: Self::I32x16, x: Self::Quads, y: &Factors) -> Self::I32x16;

    /// What calls of [`Simd::dot_codes`] add beyond products, given the sum of all `y` and that of the magnitudes of
    /// negative ones.
    fn excess(self, sum: i32, negative: i32) -> i32;

    /// Each lane rounded to the nearest `f32`, ties to even.
    fn to_f32(self, value: Self::I32x16) -> Self::F32x16;
}

/// Four codes that others are multiplied with, and the same as AVX2 takes them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Factors {
    pub(crate) codes: [i8; 4],
    magnitudes: [u8; 4],
    /// `0x80`, all bits flipped where the code is negative.
    flips: [u8; 4],
}

impl Factors {
    #[inline(always)]
    pub(crate) fn new(codes: [i8; 4]) -> Self {
        let flips = codes.map(|code| 0x80 ^ (code >> 7) as u8);
        Self { codes, magnitudes: codes.map(i8::unsigned_abs), flips }
    }

    /// [`Factors::new`] for codes of which none is negative.
    #[inline(always)]
    pub(crate) fn not_negative(codes: [i8; 4]) -> Self {
        debug_assert!(codes.iter().all(|code| *code >= 0), "{codes:?} are not negative");
        Self { codes, magnitudes: codes.map(|code| code as u8), flips: [0x80; 4] }
    }

    /// The sum of the magnitudes of negative codes.
    #[inline(always)]
    pub(crate) fn negative(self) -> i32 {
        self.codes.map(|code| -i32::from(code.min(0))).iter().sum()
    }
}

/// The specification: plain arrays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scalar;

/// The tree that ends every sum over `k`.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// The sum of `f(x)`: sixteen lanes, then the tree.
#[inline(always)]
pub(crate) fn lane_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += f(chunk[l]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane += f(*x);
    }
    sum_lanes(lanes)
}

impl Simd for Scalar {
    type F32x16 = [f32; LANES];
    type I32x16 = [i32; LANES];
    type Quads = [[u8; 4]; LANES];
    const TILE: usize = 1;

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [f32; LANES] {
        *x
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> [f32; LANES] {
        x.map(f16::to_f32)
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> [f32; LANES] {
        x.map(bf16::to_f32)
    }

    #[inline(always)]
    fn load_i32(self, x: &[i32; LANES]) -> [f32; LANES] {
        x.map(|x| x as f32)
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> [f32; LANES] {
        x.map(f32::from)
    }

    #[inline(always)]
    fn store(self, value: [f32; LANES], to: &mut [f32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| a[l] + b[l])
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| a[l] * b[l])
    }

    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| a[l] / b[l])
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
    }

    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| if a[l] < b[l] { a[l] } else { b[l] })
    }

    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }

    #[inline(always)]
    fn max_magnitude(self, max: [f32; LANES], x: [f32; LANES]) -> [f32; LANES] {
        // Without their signs floats are ordered as their bits are, infinity and then NaN at the end.
        std::array::from_fn(|l| f32::from_bits(max[l].to_bits().max(x[l].abs().to_bits())))
    }

    #[inline(always)]
    fn count_above(self, counts: [i32; LANES], x: [f32; LANES], bound: f32) -> [i32; LANES] {
        std::array::from_fn(|l| counts[l] + i32::from(x[l].abs() > bound))
    }

    #[inline(always)]
    fn below(self, x: [f32; LANES], threshold: f32) -> [f32; LANES] {
        x.map(|x| if x.abs() >= threshold { 0.0 } else { x })
    }

    #[inline(always)]
    fn round(self, x: [f32; LANES]) -> [i32; LANES] {
        x.map(|x| ((x + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
    }

    #[inline(always)]
    fn add_i32(self, a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|l| a[l].wrapping_add(b[l]))
    }

    #[inline(always)]
    fn sum_i32(self, x: [i32; LANES]) -> i32 {
        x.into_iter().fold(0, i32::wrapping_add)
    }

    #[inline(always)]
    fn high_low(self, x: [i32; LANES]) -> [[i32; LANES]; 2] {
        let high = x.map(|x| (x + 64) >> 7);
        [high, std::array::from_fn(|l| x[l] - (high[l] << 7))]
    }

    #[inline(always)]
    fn beyond(self, x: [i32; LANES], limit: i32) -> u16 {
        (0..LANES).fold(0, |mask, l| mask | u16::from(x[l].abs() > limit) << l)
    }

    #[inline(always)]
    fn times_128(self, x: [i32; LANES]) -> [i32; LANES] {
        x.map(|x| x << 7)
    }

    #[inline(always)]
    fn lanes_i32(self, x: &[i32; LANES]) -> [i32; LANES] {
        *x
    }

    #[inline(always)]
    fn store_i32(self, x: [i32; LANES], to: &mut [i32; LANES]) {
        *to = x;
    }

    #[inline(always)]
    fn clamp_to_i8(self, x: [i32; LANES]) -> [i32; LANES] {
        x.map(|x| x.clamp(-128, 127))
    }

    #[inline(always)]
    fn store_i8(self, x: [i32; LANES], to: &mut [i8; LANES]) {
        *to = x.map(|x| x as i8);
    }

    #[inline(always)]
    fn sum(self, value: [f32; LANES]) -> f32 {
        sum_lanes(value)
    }

    #[inline(always)]
    fn sum4(self, values: [[f32; LANES]; 4]) -> [f32; 4] {
        values.map(sum_lanes)
    }

    #[inline(always)]
    fn lookup(self, table: [f32; LANES], indices: &[u8; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| table[usize::from(indices[l] % 16)])
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> [i32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load_quads(self, x: &[u8; 4 * LANES]) -> [[u8; 4]; LANES] {
        std::array::from_fn(|l| [x[4 * l], x[4 * l + 1], x[4 * l + 2], x[4 * l + 3]])
    }

    #[inline(always)]
    fn two_bits(self, x: [[u8; 4]; LANES], j: usize) -> [[u8; 4]; LANES] {
        x.map(|quad| quad.map(|byte| byte >> (2 * j) & 3))
    }

    #[inline(always)]
    fn dot_quads(self, sums: [i32; LANES], x: [[u8; 4]; LANES], y: [i8; 4]) -> [i32; LANES] {
        std::array::from_fn(|l| {
            let product: i32 = (0..4).map(|i| i32::from(x[l][i]) * i32::from(y[i])).sum();
            sums[l].wrapping_add(product)
        })
    }

    #[inline(always)]
    fn dot_narrow(self, sums: [i32; LANES], x: [[u8; 4]; LANES], y: [i8; 4]) -> [i32; LANES] {
        self.dot_quads(sums, x, y)
    }

    #[inline(always)]
    fn dot_codes(self, sums: [i32; LANES], x: [[u8; 4]; LANES], y: &Factors) -> [i32; LANES] {
        std::array::from_fn(|l| {
            let product: i32 =
                (0..4).map(|i| i32::from((x[l][i] ^ 0x80) as i8) * i32::from(y.codes[i])).sum();
            sums[l].wrapping_add(product)
        })
    }

    #[inline(always)]
    fn excess(self, _: i32, _: i32) -> i32 {
        0
    }

    #[inline(always)]
    fn to_f32(self, value: [i32; LANES]) -> [f32; LANES] {
        value.map(|value| value as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, dispatch};

    /// The sums over all lanes of each product of bytes; the second operand of the second one is narrow.
    #[inline(always)]
    fn products<S: Simd>(simd: S, x: &[u8; 64], y: [i8; 4], narrow: [i8; 4]) -> [i32; 3] {
        let (zero, x) = (simd.splat_i32(0), simd.load_quads(x));
        let factors = Factors::new(y);
        let excess = simd.excess(y.iter().map(|y| i32::from(*y)).sum(), factors.negative());
        [
            simd.dot_quads(zero, x, y),
            simd.dot_narrow(zero, x, narrow),
            simd.dot_codes(simd.splat_i32(-excess), x, &factors),
        ]
        .map(|lanes| simd.sum_i32(lanes))
    }

    #[test]
    fn products_of_bytes_are_exact_to_the_ends_of_their_ranges() {
        let inputs = [[255; 64], [0; 64], std::array::from_fn(|i| (i * 37) as u8)];
        for x in &inputs {
            for y in [[127; 4], [-128; 4], [-127, 127, 1, 0], [-128, -128, 127, 127], [0, -1, 64, 3]] {
                let narrow = y.map(|y| y / 2);
                let sum = |code: &dyn Fn(u8) -> i32, y: [i8; 4]| -> i32 {
                    (0..64).map(|i| code(x[i]) * i32::from(y[i % 4])).sum()
                };
                let (unsigned, code) = (|x| i32::from(x), |x: u8| i32::from(x) - 128);
                let want = [sum(&unsigned, y), sum(&unsigned, narrow), sum(&code, y)];
                for isa in Isa::available() {
                    let got =
                        dispatch!(isa => products(x: &[u8; 64], y: [i8; 4], narrow: [i8; 4]) -> [i32; 3]);
                    assert_eq!(got, want, "{isa}: {x:?}, {y:?}");
                }
            }
        }
    }
}
