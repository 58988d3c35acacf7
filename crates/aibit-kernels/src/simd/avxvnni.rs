//! AVX-VNNI: AVX2 with `vpdpbusd`, on 256 bits.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Avx2, Factors, LANES, Simd, avx2::ymm};

/// Proof that this CPU has AVX-VNNI beside what [`Avx2`] proves. Only [`AvxVnni::detect`] makes one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct AvxVnni(());

impl AvxVnni {
    pub(crate) fn detect() -> Option<Self> {
        Avx2::detect()?;
        is_x86_feature_detected!("avxvnni").then_some(Self(()))
    }
}

ymm! {
    AvxVnni,

    #[inline(always)]
    fn dot_quads(self, sums: [__m256i; 2], x: [__m256i; 2], y: [i8; 4]) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX-VNNI.
        unsafe {
            let y = _mm256_set1_epi32(i32::from_le_bytes(y.map(|byte| byte as u8)));
            [_mm256_dpbusd_avx_epi32(sums[0], x[0], y), _mm256_dpbusd_avx_epi32(sums[1], x[1], y)]
        }
    }

    #[inline(always)]
    fn dot_narrow(self, sums: [__m256i; 2], x: [__m256i; 2], y: [i8; 4]) -> [__m256i; 2] {
        self.dot_quads(sums, x, y)
    }

    #[inline(always)]
    fn dot_codes(self, sums: [__m256i; 2], x: [__m256i; 2], y: &Factors) -> [__m256i; 2] {
        self.dot_quads(sums, x, y.codes)
    }

    #[inline(always)]
    fn excess(self, sum: i32, _: i32) -> i32 {
        128 * sum
    }
}
