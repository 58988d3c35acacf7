//! Sixteen lanes as one vector of AVX-512.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Avx2, Factors, LANES, Simd};

/// Proof that this CPU has AVX-512 with VNNI. Only [`Avx512Vnni::detect`] makes one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512Vnni(());

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
    fn count_above(self, counts: __m512i, x: __m512, bound: f32) -> __m512i {
        // SAFETY: `self` proves AVX-512F.
        unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(_mm512_abs_ps(x), _mm512_set1_ps(bound));
            _mm512_mask_add_epi32(counts, mask, counts, _mm512_set1_epi32(1))
        }
    }

    #[inline(always)]
    fn below(self, x: __m512, threshold: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_NGE_UQ>(_mm512_abs_ps(x), _mm512_set1_ps(threshold));
            _mm512_maskz_mov_ps(mask, x)
        }
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
    fn beyond(self, x: __m512i, limit: i32) -> u16 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_cmpgt_epi32_mask(_mm512_abs_epi32(x), _mm512_set1_epi32(limit)) }
    }

    #[inline(always)]
    fn times_128(self, x: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_slli_epi32::<7>(x) }
    }

    #[inline(always)]
    fn lanes_i32(self, x: &[i32; LANES]) -> __m512i {
        // SAFETY: `self` proves AVX-512F; sixteen readable integers; `loadu` needs no alignment.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_i32(self, x: __m512i, to: &mut [i32; LANES]) {
        // SAFETY: `self` proves AVX-512F; sixteen writable integers; `storeu` needs no alignment.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
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
            let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b));
            let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xEE>(c, d));
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
    fn dot_narrow(self, sums: __m512i, x: __m512i, y: [i8; 4]) -> __m512i {
        self.dot_quads(sums, x, y)
    }

    #[inline(always)]
    fn dot_codes(self, sums: __m512i, x: __m512i, y: &Factors) -> __m512i {
        self.dot_quads(sums, x, y.codes)
    }

    #[inline(always)]
    fn excess(self, sum: i32, _: i32) -> i32 {
        128 * sum
    }

    #[inline(always)]
    fn to_f32(self, value: __m512i) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_cvtepi32_ps(value) }
    }
}
