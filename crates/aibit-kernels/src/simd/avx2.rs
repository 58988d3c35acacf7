//! Sixteen lanes as two vectors of AVX2, which AVX-VNNI shares but for its products of bytes.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Factors, LANES, Simd};

/// Proof that this CPU has AVX2, FMA and F16C. Only [`Avx2::detect`] makes one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }
}

/// Implements [`Simd`] for a token that proves AVX2, FMA and F16C; `$dot` are the products of bytes.
macro_rules! ymm {
    ($token:ident, $($dot:tt)*) => {
        impl Simd for $token {
            type F32x16 = [__m256; 2];
            type I32x16 = [__m256i; 2];
            type Quads = [__m256i; 2];
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
            fn count_above(self, counts: [__m256i; 2], x: [__m256; 2], bound: f32) -> [__m256i; 2] {
                // SAFETY: `self` proves AVX2.
                unsafe {
                    let (sign, bound) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(bound));
                    let above = |x| {
                        _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(_mm256_andnot_ps(sign, x), bound))
                    };
                    // A true lane is -1.
                    [_mm256_sub_epi32(counts[0], above(x[0])), _mm256_sub_epi32(counts[1], above(x[1]))]
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
            fn beyond(self, x: [__m256i; 2], limit: i32) -> u16 {
                // SAFETY: `self` proves AVX2.
                unsafe {
                    let limit = _mm256_set1_epi32(limit);
                    let mask = |x| {
                        let beyond = _mm256_cmpgt_epi32(_mm256_abs_epi32(x), limit);
                        _mm256_movemask_ps(_mm256_castsi256_ps(beyond)) as u16
                    };
                    mask(x[0]) | mask(x[1]) << 8
                }
            }

            #[inline(always)]
            fn times_128(self, x: [__m256i; 2]) -> [__m256i; 2] {
                // SAFETY: `self` proves AVX2.
                unsafe { [_mm256_slli_epi32::<7>(x[0]), _mm256_slli_epi32::<7>(x[1])] }
            }

            #[inline(always)]
            fn lanes_i32(self, x: &[i32; LANES]) -> [__m256i; 2] {
                let x = x.as_ptr().cast::<__m256i>();
                // SAFETY: `self` proves AVX; both halves of sixteen integers; `loadu` needs no alignment.
                unsafe { [_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1))] }
            }

            #[inline(always)]
            fn store_i32(self, x: [__m256i; 2], to: &mut [i32; LANES]) {
                let to = to.as_mut_ptr().cast::<__m256i>();
                // SAFETY: `self` proves AVX; both halves of sixteen integers; `storeu` needs no alignment.
                unsafe {
                    _mm256_storeu_si256(to, x[0]);
                    _mm256_storeu_si256(to.add(1), x[1]);
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
            fn load_quads(self, x: &[u8; 4 * LANES]) -> [__m256i; 2] {
                let x = x.as_ptr().cast::<__m256i>();
                // SAFETY: `self` proves AVX2; both halves of 64 bytes; `loadu` needs no alignment.
                unsafe { [_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1))] }
            }

            #[inline(always)]
            fn two_bits(self, x: [__m256i; 2], j: usize) -> [__m256i; 2] {
                // SAFETY: `self` proves AVX2.
                unsafe {
                    let (count, mask) = (_mm_cvtsi32_si128(2 * j as i32), _mm256_set1_epi8(3));
                    [
                        _mm256_and_si256(_mm256_srl_epi16(x[0], count), mask),
                        _mm256_and_si256(_mm256_srl_epi16(x[1], count), mask),
                    ]
                }
            }

            #[inline(always)]
            fn to_f32(self, value: [__m256i; 2]) -> [__m256; 2] {
                // SAFETY: `self` proves AVX.
                unsafe { [_mm256_cvtepi32_ps(value[0]), _mm256_cvtepi32_ps(value[1])] }
            }

            $($dot)*
        }
    };
}
pub(super) use ymm;

ymm! {
    Avx2,

    /// In halves of 16 bits, since [`Simd::dot_narrow`] saturates.
    #[inline(always)]
    fn dot_quads(self, sums: [__m256i; 2], x: [__m256i; 2], y: [i8; 4]) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let y = _mm256_set1_epi32(i32::from_le_bytes(y.map(|byte| byte as u8)));
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(y));
            let odd = _mm256_srai_epi16::<8>(y);
            let half = |sum, x| {
                let even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xFF)), even);
                let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(x), odd);
                _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
            };
            [half(sums[0], x[0]), half(sums[1], x[1])]
        }
    }

    #[inline(always)]
    fn dot_narrow(self, sums: [__m256i; 2], x: [__m256i; 2], y: [i8; 4]) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let y = _mm256_set1_epi32(i32::from_le_bytes(y.map(|byte| byte as u8)));
            let half = |sum, x| {
                let pairs = _mm256_maddubs_epi16(x, y);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            };
            [half(sums[0], x[0]), half(sums[1], x[1])]
        }
    }

    /// As in the INT8 layers: magnitudes of `y` times codes with flipped bits where `y` is negative.
    #[inline(always)]
    fn dot_codes(self, sums: [__m256i; 2], x: [__m256i; 2], y: &Factors) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let magnitudes = _mm256_set1_epi32(i32::from_le_bytes(y.magnitudes));
            let flips = _mm256_set1_epi32(i32::from_le_bytes(y.flips));
            let half = |sum, x| {
                let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(x, flips));
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            };
            [half(sums[0], x[0]), half(sums[1], x[1])]
        }
    }

    #[inline(always)]
    fn excess(self, _: i32, negative: i32) -> i32 {
        -negative
    }
}
