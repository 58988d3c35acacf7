//! Sixteen `f32` lanes on each instruction set, and the tokens that prove the CPU has it.
//!
//! One lane does one IEEE operation, so the three implementations give the same bits.

use half::{bf16, f16};

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

    /// Bit `l`: whether the magnitude of lane `l` is at least `threshold`. That of a NaN is not.
    fn at_least(self, x: Self::F32x16, threshold: f32) -> u16;

    /// Zero in the lanes of [`Simd::at_least`].
    fn below(self, x: Self::F32x16, threshold: f32) -> Self::F32x16;

    /// The nearest integer of each, ties to even; magnitudes are below `2²²`.
    fn round(self, x: Self::F32x16) -> Self::I32x16;

    fn add_i32(self, a: Self::I32x16, b: Self::I32x16) -> Self::I32x16;

    /// All lanes together; the sum may wrap.
    fn sum_i32(self, x: Self::I32x16) -> i32;

    /// `high` and `low` of `x = 128 · high + low`, `low` in `-64..64`.
    fn high_low(self, x: Self::I32x16) -> [Self::I32x16; 2];

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

    /// Each lane rounded to the nearest `f32`, ties to even.
    fn to_f32(self, value: Self::I32x16) -> Self::F32x16;
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
    fn at_least(self, x: [f32; LANES], threshold: f32) -> u16 {
        (0..LANES).fold(0, |mask, l| mask | u16::from(x[l].abs() >= threshold) << l)
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
    fn to_f32(self, value: [i32; LANES]) -> [f32; LANES] {
        value.map(|value| value as f32)
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512Vnni};

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions; each token proves that the CPU has them")]
mod x86 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{LANES, Simd};

    /// Proof that this CPU has AVX2, FMA and F16C. Only [`Avx2::detect`] makes one.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Avx2(());

    /// Proof that this CPU has AVX-512 with VNNI. Only [`Avx512Vnni::detect`] makes one.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Avx512Vnni(());

    impl Avx2 {
        pub(crate) fn detect() -> Option<Self> {
            (is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c"))
            .then_some(Self(()))
        }
    }

    impl Avx512Vnni {
        pub(crate) fn detect() -> Option<Self> {
            Avx2::detect()?;
            (is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni"))
            .then_some(Self(()))
        }
    }

    impl Simd for Avx2 {
        type F32x16 = [__m256; 2];
        type I32x16 = [__m256i; 2];
        /// Of the lower and the upper eight lanes: the bytes 0 and 2 of each quadruple, then 1 and 3, as `i16`.
        type Quads = [[__m256i; 2]; 2];
        const TILE: usize = 2;

        #[inline(always)]
        fn splat(self, value: f32) -> [__m256; 2] {
            // SAFETY: `self` proves AVX.
            [unsafe { _mm256_set1_ps(value) }; 2]
        }

        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> [__m256; 2] {
            let x = x.as_ptr();
            // SAFETY: `self` proves AVX; both halves of sixteen floats; `loadu` needs no alignment.
            unsafe { [_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))] }
        }

        #[inline(always)]
        fn load_f16(self, x: &[f16; LANES]) -> [__m256; 2] {
            let x = x.as_ptr().cast::<__m128i>();
            // SAFETY: `self` proves F16C; both halves of sixteen 16-bit values; `loadu` needs no alignment.
            unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(x)), _mm256_cvtph_ps(_mm_loadu_si128(x.add(1)))] }
        }

        #[inline(always)]
        fn load_bf16(self, x: &[bf16; LANES]) -> [__m256; 2] {
            let x = x.as_ptr().cast::<__m128i>();
            // SAFETY: `self` proves AVX2; both halves of sixteen 16-bit values; `loadu` needs no alignment.
            unsafe {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.add(1)));
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
                ]
            }
        }

        #[inline(always)]
        fn load_i32(self, x: &[i32; LANES]) -> [__m256; 2] {
            let x = x.as_ptr().cast::<__m256i>();
            // SAFETY: `self` proves AVX; both halves of sixteen integers; `loadu` needs no alignment.
            unsafe {
                [_mm256_cvtepi32_ps(_mm256_loadu_si256(x)), _mm256_cvtepi32_ps(_mm256_loadu_si256(x.add(1)))]
            }
        }

        #[inline(always)]
        fn load_i8(self, x: &[i8; LANES]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2; sixteen readable bytes; `loadu` needs no alignment.
            unsafe {
                let x = _mm_loadu_si128(x.as_ptr().cast());
                let high = _mm_unpackhi_epi64(x, x);
                [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
            }
        }

        #[inline(always)]
        fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX.
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }

        #[inline(always)]
        fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX.
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }

        #[inline(always)]
        fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX.
            unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
        }

        #[inline(always)]
        fn store(self, value: [__m256; 2], to: &mut [f32; LANES]) {
            let to = to.as_mut_ptr();
            // SAFETY: `self` proves AVX; both halves of sixteen floats; `storeu` needs no alignment.
            unsafe {
                _mm256_storeu_ps(to, value[0]);
                _mm256_storeu_ps(to.add(8), value[1]);
            }
        }

        #[inline(always)]
        fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves FMA.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }

        #[inline(always)]
        fn min(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX.
            unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
        }

        #[inline(always)]
        fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX.
            unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        }

        #[inline(always)]
        fn at_least(self, x: [__m256; 2], threshold: f32) -> u16 {
            // SAFETY: `self` proves AVX.
            unsafe {
                let (sign, threshold) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(threshold));
                let mask = |x| {
                    let magnitude = _mm256_andnot_ps(sign, x);
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(magnitude, threshold)) as u16
                };
                mask(x[0]) | mask(x[1]) << 8
            }
        }

        #[inline(always)]
        fn below(self, x: [__m256; 2], threshold: f32) -> [__m256; 2] {
            // SAFETY: `self` proves AVX.
            unsafe {
                let (sign, threshold) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(threshold));
                let half = |x| {
                    let magnitude = _mm256_andnot_ps(sign, x);
                    _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(magnitude, threshold), x)
                };
                [half(x[0]), half(x[1])]
            }
        }

        #[inline(always)]
        fn round(self, x: [__m256; 2]) -> [__m256i; 2] {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            // SAFETY: `self` proves AVX.
            x.map(|x| unsafe { _mm256_cvttps_epi32(_mm256_round_ps::<NEAREST>(x)) })
        }

        #[inline(always)]
        fn add_i32(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
        }

        #[inline(always)]
        fn sum_i32(self, x: [__m256i; 2]) -> i32 {
            let mut lanes = [0; 8];
            // SAFETY: `self` proves AVX2; eight writable lanes; `storeu` needs no alignment.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), _mm256_add_epi32(x[0], x[1])) };
            lanes.into_iter().fold(0, i32::wrapping_add)
        }

        #[inline(always)]
        fn high_low(self, x: [__m256i; 2]) -> [[__m256i; 2]; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let half = |x| {
                    let high = _mm256_srai_epi32::<7>(_mm256_add_epi32(x, _mm256_set1_epi32(64)));
                    (high, _mm256_sub_epi32(x, _mm256_slli_epi32::<7>(high)))
                };
                let ((high, low), (next_high, next_low)) = (half(x[0]), half(x[1]));
                [[high, next_high], [low, next_low]]
            }
        }

        #[inline(always)]
        fn clamp_to_i8(self, x: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: `self` proves AVX2.
            x.map(|x| unsafe {
                _mm256_max_epi32(_mm256_min_epi32(x, _mm256_set1_epi32(127)), _mm256_set1_epi32(-128))
            })
        }

        #[inline(always)]
        fn store_i8(self, x: [__m256i; 2], to: &mut [i8; LANES]) {
            // SAFETY: `self` proves AVX2; sixteen writable bytes; `storeu` needs no alignment.
            unsafe {
                // Packing goes by 128-bit lanes: the elements 0..4, 8..12, 4..8, 12..16.
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(x[0], x[1]));
                let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storeu_si128(to.as_mut_ptr().cast(), _mm_packs_epi16(low, high));
            }
        }

        #[inline(always)]
        fn max_magnitude(self, max: [__m256; 2], x: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let magnitude = _mm256_set1_epi32(i32::MAX);
                let half = |max, x| {
                    let x = _mm256_and_si256(_mm256_castps_si256(x), magnitude);
                    _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(max), x))
                };
                [half(max[0], x[0]), half(max[1], x[1])]
            }
        }

        #[inline(always)]
        fn sum(self, value: [__m256; 2]) -> f32 {
            // SAFETY: `self` proves AVX.
            unsafe {
                let by_8 = _mm256_add_ps(value[0], value[1]);
                let by_4 = _mm_add_ps(_mm256_castps256_ps128(by_8), _mm256_extractf128_ps::<1>(by_8));
                let by_2 = _mm_add_ps(by_4, _mm_movehl_ps(by_4, by_4));
                _mm_cvtss_f32(_mm_add_ss(by_2, _mm_movehdup_ps(by_2)))
            }
        }

        #[inline(always)]
        fn sum4(self, values: [[__m256; 2]; 4]) -> [f32; 4] {
            values.map(|value| self.sum(value))
        }

        #[inline(always)]
        fn lookup(self, table: [__m256; 2], indices: &[u8; LANES]) -> [__m256; 2] {
            let (halves, _) = indices.as_chunks::<8>();
            // SAFETY: `self` proves AVX2; eight bytes are read from eight.
            let half = |indices: &[u8; 8]| unsafe {
                let indices = _mm256_cvtepu8_epi32(_mm_loadl_epi64(indices.as_ptr().cast()));
                let low = _mm256_permutevar8x32_ps(table[0], indices);
                let high = _mm256_permutevar8x32_ps(table[1], indices);
                // Bit 3 of the index, moved to the sign, chooses the half of the table.
                _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(indices)))
            };
            [half(&halves[0]), half(&halves[1])]
        }

        #[inline(always)]
        fn splat_i32(self, value: i32) -> [__m256i; 2] {
            // SAFETY: `self` proves AVX.
            [unsafe { _mm256_set1_epi32(value) }; 2]
        }

        #[inline(always)]
        fn load_quads(self, x: &[u8; 4 * LANES]) -> [[__m256i; 2]; 2] {
            let x = x.as_ptr().cast::<__m256i>();
            // SAFETY: `self` proves AVX2; both halves of 64 bytes; `loadu` needs no alignment.
            unsafe {
                let even = _mm256_set1_epi16(0xFF);
                let (low, high) = (_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1)));
                [
                    [_mm256_and_si256(low, even), _mm256_srli_epi16::<8>(low)],
                    [_mm256_and_si256(high, even), _mm256_srli_epi16::<8>(high)],
                ]
            }
        }

        #[inline(always)]
        fn two_bits(self, x: [[__m256i; 2]; 2], j: usize) -> [[__m256i; 2]; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let (count, mask) = (_mm_cvtsi32_si128(2 * j as i32), _mm256_set1_epi16(3));
                let [[a, b], [c, d]] = x;
                [
                    [
                        _mm256_and_si256(_mm256_srl_epi16(a, count), mask),
                        _mm256_and_si256(_mm256_srl_epi16(b, count), mask),
                    ],
                    [
                        _mm256_and_si256(_mm256_srl_epi16(c, count), mask),
                        _mm256_and_si256(_mm256_srl_epi16(d, count), mask),
                    ],
                ]
            }
        }

        /// `vpmaddubsw` would take bytes directly but saturates its sums of two at i16.
        #[inline(always)]
        fn dot_quads(self, sums: [__m256i; 2], x: [[__m256i; 2]; 2], y: [i8; 4]) -> [__m256i; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let y = _mm256_set1_epi32(i32::from_le_bytes(y.map(|byte| byte as u8)));
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(y));
                let odd = _mm256_srai_epi16::<8>(y);
                let low = _mm256_add_epi32(sums[0], _mm256_madd_epi16(x[0][0], even));
                let high = _mm256_add_epi32(sums[1], _mm256_madd_epi16(x[1][0], even));
                [
                    _mm256_add_epi32(low, _mm256_madd_epi16(x[0][1], odd)),
                    _mm256_add_epi32(high, _mm256_madd_epi16(x[1][1], odd)),
                ]
            }
        }

        #[inline(always)]
        fn to_f32(self, value: [__m256i; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX.
            unsafe { [_mm256_cvtepi32_ps(value[0]), _mm256_cvtepi32_ps(value[1])] }
        }
    }

    impl Simd for Avx512Vnni {
        type F32x16 = __m512;
        type I32x16 = __m512i;
        type Quads = __m512i;
        const TILE: usize = 4;

        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> __m512 {
            // SAFETY: `self` proves AVX-512F; sixteen readable floats; `loadu` needs no alignment.
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }

        #[inline(always)]
        fn load_f16(self, x: &[f16; LANES]) -> __m512 {
            // SAFETY: `self` proves AVX-512F; sixteen 16-bit values; `loadu` needs no alignment.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
        }

        #[inline(always)]
        fn load_bf16(self, x: &[bf16; LANES]) -> __m512 {
            // SAFETY: `self` proves AVX-512F; sixteen 16-bit values; `loadu` needs no alignment.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }

        #[inline(always)]
        fn load_i32(self, x: &[i32; LANES]) -> __m512 {
            // SAFETY: `self` proves AVX-512F; sixteen readable integers; `loadu` needs no alignment.
            unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(x.as_ptr().cast())) }
        }

        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        fn div(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_div_ps(a, b) }
        }

        #[inline(always)]
        fn load_i8(self, x: &[i8; LANES]) -> __m512 {
            // SAFETY: `self` proves AVX-512F; sixteen readable bytes; `loadu` needs no alignment.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
        }

        #[inline(always)]
        fn store(self, value: __m512, to: &mut [f32; LANES]) {
            // SAFETY: `self` proves AVX-512F; sixteen writable floats; `storeu` needs no alignment.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
        }

        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn min(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_min_ps(a, b) }
        }

        #[inline(always)]
        fn max(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_max_ps(a, b) }
        }

        #[inline(always)]
        fn at_least(self, x: __m512, threshold: f32) -> u16 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(_mm512_abs_ps(x), _mm512_set1_ps(threshold)) }
        }

        #[inline(always)]
        fn below(self, x: __m512, threshold: f32) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_maskz_mov_ps(!self.at_least(x, threshold), x) }
        }

        #[inline(always)]
        fn round(self, x: __m512) -> __m512i {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
        }

        #[inline(always)]
        fn add_i32(self, a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_add_epi32(a, b) }
        }

        #[inline(always)]
        fn sum_i32(self, x: __m512i) -> i32 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_reduce_add_epi32(x) }
        }

        #[inline(always)]
        fn high_low(self, x: __m512i) -> [__m512i; 2] {
            // SAFETY: `self` proves AVX-512F.
            unsafe {
                let high = _mm512_srai_epi32::<7>(_mm512_add_epi32(x, _mm512_set1_epi32(64)));
                [high, _mm512_sub_epi32(x, _mm512_slli_epi32::<7>(high))]
            }
        }

        #[inline(always)]
        fn clamp_to_i8(self, x: __m512i) -> __m512i {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_max_epi32(_mm512_min_epi32(x, _mm512_set1_epi32(127)), _mm512_set1_epi32(-128)) }
        }

        #[inline(always)]
        fn store_i8(self, x: __m512i, to: &mut [i8; LANES]) {
            // SAFETY: `self` proves AVX-512F; sixteen writable bytes; `storeu` needs no alignment.
            unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x)) };
        }

        #[inline(always)]
        fn max_magnitude(self, max: __m512, x: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe {
                let x = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX));
                _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(max), x))
            }
        }

        #[inline(always)]
        fn sum(self, value: __m512) -> f32 {
            // SAFETY: `self` proves AVX-512DQ.
            unsafe {
                let by_8 = _mm256_add_ps(_mm512_castps512_ps256(value), _mm512_extractf32x8_ps::<1>(value));
                let by_4 = _mm_add_ps(_mm256_castps256_ps128(by_8), _mm256_extractf128_ps::<1>(by_8));
                let by_2 = _mm_add_ps(by_4, _mm_movehl_ps(by_4, by_4));
                _mm_cvtss_f32(_mm_add_ss(by_2, _mm_movehdup_ps(by_2)))
            }
        }

        #[inline(always)]
        fn sum4(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
            // The four trees side by side, one per 128-bit lane.
            // SAFETY: `self` proves AVX-512F and AVX-512VL.
            unsafe {
                let ab =
                    _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b));
                let cd =
                    _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xEE>(c, d));
                let by_4 =
                    _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xDD>(ab, cd));
                let by_2 = _mm512_add_ps(by_4, _mm512_permute_ps::<0b00_00_11_10>(by_4));
                let by_1 = _mm512_add_ps(by_2, _mm512_permute_ps::<0b00_00_00_01>(by_2));
                let gathered = _mm512_permutexvar_ps(
                    _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0),
                    by_1,
                );
                let mut sums = [0.0; 4];
                _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(gathered));
                sums
            }
        }

        #[inline(always)]
        fn lookup(self, table: __m512, indices: &[u8; LANES]) -> __m512 {
            // SAFETY: `self` proves AVX-512F; sixteen bytes are read from sixteen.
            unsafe {
                let indices = _mm512_cvtepu8_epi32(_mm_loadu_si128(indices.as_ptr().cast()));
                _mm512_permutexvar_ps(indices, table)
            }
        }

        #[inline(always)]
        fn splat_i32(self, value: i32) -> __m512i {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_set1_epi32(value) }
        }

        #[inline(always)]
        fn load_quads(self, x: &[u8; 4 * LANES]) -> __m512i {
            // SAFETY: `self` proves AVX-512F; 64 readable bytes; `loadu` needs no alignment.
            unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
        }

        #[inline(always)]
        fn two_bits(self, x: __m512i, j: usize) -> __m512i {
            // SAFETY: `self` proves AVX-512BW.
            unsafe {
                let shifted = _mm512_srl_epi16(x, _mm_cvtsi32_si128(2 * j as i32));
                _mm512_and_si512(shifted, _mm512_set1_epi8(3))
            }
        }

        #[inline(always)]
        fn dot_quads(self, sums: __m512i, x: __m512i, y: [i8; 4]) -> __m512i {
            // SAFETY: `self` proves AVX-512 VNNI.
            unsafe {
                _mm512_dpbusd_epi32(sums, x, _mm512_set1_epi32(i32::from_le_bytes(y.map(|byte| byte as u8))))
            }
        }

        #[inline(always)]
        fn to_f32(self, value: __m512i) -> __m512 {
            // SAFETY: `self` proves AVX-512F.
            unsafe { _mm512_cvtepi32_ps(value) }
        }
    }
}
