//! AVX-VNNI: the products of AVX-512 VNNI on 256 bits, on panels as AVX2 packs them.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use super::{CodeRows, Line, Rearranged};
use crate::{
    read::{RUNS, ReadPattern},
    simd::AvxVnni,
};

impl AvxVnni {
    /// Writes the products with the two parts of a panel to `sums`, `[row of x, PANEL]`, and prefetches
    /// `next`, the panel that is read next. Returns the panel in quads.
    pub(super) fn product<'a>(
        self,
        x: CodeRows<'_>,
        w: [&[i8]; 2],
        next: [&[i8]; 2],
        Rearranged { packed, padded, .. }: &'a mut Rearranged,
        sums: &mut [i32],
    ) -> &'a [Line] {
        if x.k == 0 {
            sums.fill(0);
            return &[];
        }
        // SAFETY: a value of `Self` exists only if `detect` saw AVX2 and AVX-VNNI on this CPU.
        unsafe { vex::product(x, w, next, packed, padded, sums) };
        packed
    }

    /// Writes the products with each of `runs` to `sums`, `[run, row of x, stride]`.
    pub(super) fn stream(
        self,
        x: CodeRows<'_>,
        runs: [&[i8]; RUNS],
        pattern: ReadPattern,
        stride: usize,
        sums: &mut [i32],
    ) {
        if x.k == 0 {
            sums.fill(0);
            return;
        }
        // SAFETY: a value of `Self` exists only if `detect` saw AVX2 and AVX-VNNI on this CPU.
        unsafe { vex::stream(x, runs, pattern, stride, sums) }
    }
}

/// The kernels with `$dpbusd`, which the features `$features` have.
macro_rules! kernels {
    ($name:ident, $features:literal, $dpbusd:ident) => {
        mod $name {
            use std::arch::x86_64::*;

            use crate::{
                int8::{
                    Ahead, CodeRows, Line, PANEL,
                    avx2::{LINES, high, load, load_bytes, low, pack, padded, sum4},
                    groups,
                },
                read::{RUNS, ReadPattern},
            };

            /// Rows of `x` whose accumulators, four vectors each, fit the 16 registers beside the weights.
            const TILE_ROWS: usize = 3;

            #[target_feature(enable = $features)]
            pub(super) fn product(
                x: CodeRows<'_>,
                w: [&[i8]; 2],
                next: [&[i8]; 2],
                packed: &mut Vec<Line>,
                padded: &mut Vec<i8>,
                sums: &mut [i32],
            ) {
                let k = x.k;
                let x = x.in_whole_quads(padded);
                let lines = k.div_ceil(32) * LINES;
                packed.resize(packed.len().max(lines), Line([0; 64]));
                pack(w, k, &mut packed[..lines]);
                let packed = &packed[..x.k / 4 * 2];
                let mut row = 0;
                while row < x.m() {
                    let left = x.m() - row;
                    let ahead = &Ahead::new(next, row..row + left.min(TILE_ROWS), x.m(), x.k.div_ceil(16));
                    let sums = &mut sums[row * PANEL..];
                    row += match left {
                        TILE_ROWS.. => multiply::<TILE_ROWS>(x, row, packed, sums, ahead),
                        _ => multiply::<1>(x, row, packed, sums, ahead),
                    };
                }
            }

            /// `MR` rows of `x` from row `first` on times the 32 packed rows of weights. Returns `MR`.
            #[target_feature(enable = $features)]
            fn multiply<const MR: usize>(
                x: CodeRows<'_>,
                first: usize,
                packed: &[Line],
                sums: &mut [i32],
                ahead: &Ahead<'_>,
            ) -> usize {
                let (lines, _) = packed.as_chunks::<2>();
                let mut x_quads: [&[[i8; 4]]; MR] = [&[]; MR];
                for r in 0..MR {
                    x_quads[r] = &x.row(first + r).as_chunks().0[..lines.len()];
                }
                let mut acc = [[_mm256_setzero_si256(); 4]; MR];
                for (q, line) in lines.iter().enumerate() {
                    if q % 4 == 0 {
                        ahead.prefetch(q / 4);
                    }
                    let mut quads = [_mm256_setzero_si256(); MR];
                    for r in 0..MR {
                        let quad = x_quads[r][q].map(|byte| byte as u8);
                        quads[r] = _mm256_set1_epi32(i32::from_ne_bytes(quad));
                    }
                    let w: [&[u8; 32]; 4] = [low(&line[0]), high(&line[0]), low(&line[1]), high(&line[1])];
                    for c in 0..4 {
                        let w = load_bytes(w[c]);
                        for r in 0..MR {
                            acc[r][c] = $dpbusd(acc[r][c], w, quads[r]);
                        }
                    }
                }
                for r in 0..MR {
                    let correction = _mm256_set1_epi32(x.sum(first + r).wrapping_mul(128));
                    let (to, _) = sums[r * PANEL..][..PANEL].as_chunks_mut::<8>();
                    for (to, acc) in to.iter_mut().zip(acc[r]) {
                        // SAFETY: eight writable `i32`; `storeu` needs no alignment.
                        unsafe {
                            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_sub_epi32(acc, correction));
                        }
                    }
                }
                MR
            }

            #[target_feature(enable = $features)]
            pub(super) fn stream(
                x: CodeRows<'_>,
                runs: [&[i8]; RUNS],
                pattern: ReadPattern,
                stride: usize,
                sums: &mut [i32],
            ) {
                let (k, m) = (x.k, x.m());
                for group in groups(runs.map(|run| run.len() / k), pattern.runs) {
                    // A loop, not `map`: a closure is not inlined through code without these instructions.
                    let (mut w, mut places): ([&[i8]; 4], _) = ([&[]; 4], [0; 4]);
                    for i in 0..4 {
                        let (run, row) = group.rows[i];
                        w[i] = &runs[run][row * k..][..k];
                        places[i] = run * m * stride + row;
                    }
                    let places = &places[..group.count];
                    let mut row = 0;
                    while row < m {
                        // The weights are in the first cache when the next rows of `x` meet them.
                        let pattern = if row == 0 { pattern } else { ReadPattern::FOUR_RUNS };
                        row += match m - row {
                            // One row and its outliers' digits, most often.
                            3 => dots::<3>(x, row, w, pattern, places, stride, sums),
                            2.. => dots::<2>(x, row, w, pattern, places, stride, sums),
                            _ => dots::<1>(x, row, w, pattern, places, stride, sums),
                        };
                    }
                }
            }

            /// `MR` rows of `x` from row `first` on times four rows of weights, whose sums for the first row of `x` go
            /// to `places`. Returns `MR`.
            #[inline]
            #[target_feature(enable = $features)]
            fn dots<const MR: usize>(
                x: CodeRows<'_>,
                first: usize,
                w: [&[i8]; 4],
                pattern: ReadPattern,
                places: &[usize],
                stride: usize,
                sums: &mut [i32],
            ) -> usize {
                let mut rows: [&[i8]; MR] = [&[]; MR];
                for r in 0..MR {
                    rows[r] = x.row(first + r);
                }
                let products = dot4(rows, w, pattern.runs, pattern.prefetch);
                for r in 0..MR {
                    let correction = x.sum(first + r).wrapping_mul(128);
                    for (place, product) in places.iter().zip(products[r]) {
                        sums[place + (first + r) * stride] = product.wrapping_sub(correction);
                    }
                }
                MR
            }

            /// The products with four rows of weights, of which `runs` are read side by side.
            #[inline]
            #[target_feature(enable = $features)]
            fn dot4<const MR: usize>(
                x: [&[i8]; MR],
                w: [&[i8]; 4],
                runs: usize,
                prefetch: usize,
            ) -> [[i32; 4]; MR] {
                let mut sums = [[_mm256_setzero_si256(); 4]; MR];
                match runs {
                    4 => add_products::<MR, 4, 0>(x, w, prefetch, &mut sums),
                    2 => {
                        add_products::<MR, 2, 0>(x, w, prefetch, &mut sums);
                        add_products::<MR, 2, 2>(x, w, prefetch, &mut sums);
                    }
                    _ => {
                        add_products::<MR, 1, 0>(x, w, prefetch, &mut sums);
                        add_products::<MR, 1, 1>(x, w, prefetch, &mut sums);
                        add_products::<MR, 1, 2>(x, w, prefetch, &mut sums);
                        add_products::<MR, 1, 3>(x, w, prefetch, &mut sums);
                    }
                }
                let mut out = [[0; 4]; MR];
                for r in 0..MR {
                    out[r] = sum4(sums[r]);
                }
                out
            }

            /// Adds the products with `RUNS` rows of weights from row `FIRST` on.
            #[inline]
            #[target_feature(enable = $features)]
            fn add_products<const MR: usize, const RUNS: usize, const FIRST: usize>(
                x: [&[i8]; MR],
                w: [&[i8]; 4],
                prefetch: usize,
                sums: &mut [[__m256i; 4]; MR],
            ) {
                let flip = _mm256_set1_epi8(i8::MIN);
                // Loops, not `map`: a closure is not inlined through code without these instructions.
                let chunks = x[0].len() / 32;
                let mut x_chunks: [&[[i8; 32]]; MR] = [&[]; MR];
                let mut w_chunks: [&[[i8; 32]]; RUNS] = [&[]; RUNS];
                for r in 0..MR {
                    x_chunks[r] = &x[r].as_chunks().0[..chunks];
                }
                for c in 0..RUNS {
                    w_chunks[c] = &w[FIRST + c].as_chunks().0[..chunks];
                }
                for i in 0..chunks {
                    for c in 0..RUNS {
                        if prefetch > 0 && i % 2 == 0 {
                            _mm_prefetch::<_MM_HINT_T0>(w_chunks[c][i].as_ptr().wrapping_add(prefetch));
                        }
                        let w = _mm256_xor_si256(load(&w_chunks[c][i]), flip);
                        for r in 0..MR {
                            sums[r][FIRST + c] = $dpbusd(sums[r][FIRST + c], w, load(&x_chunks[r][i]));
                        }
                    }
                }
                if !x[0].len().is_multiple_of(32) {
                    for c in 0..RUNS {
                        let w = _mm256_xor_si256(load(&padded(&w[FIRST + c][chunks * 32..])), flip);
                        for r in 0..MR {
                            let x = load(&padded(&x[r][chunks * 32..]));
                            sums[r][FIRST + c] = $dpbusd(sums[r][FIRST + c], w, x);
                        }
                    }
                }
            }
        }
    };
}

kernels!(vex, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, gemm_i32, int8::code_sums, simd::Avx512Vnni};

    // The same operation in the encoding of AVX-512, which more machines have.
    kernels!(evex, "avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32);

    #[test]
    fn products_equal_those_of_scalar_code() {
        if Avx512Vnni::detect().is_none() {
            return;
        }
        for (m, n, k) in [(1, 1, 1), (5, 20, 31), (4, 32, 64), (7, 32, 96), (3, 17, 133)] {
            let codes = |length: usize, step: usize| -> Vec<i8> {
                (0..length).map(|i| [i8::MIN, i8::MAX, (i * step) as i8][i % 3]).collect()
            };
            let (a, b) = (codes(m * k, 37), codes(n * k, 91));
            let sums = code_sums(&a, m, k);
            let x = CodeRows::new(&a, &sums, k);
            let mut want = vec![0; m * n];
            gemm_i32(&Isa::SCALAR.into(), &a, &b, m, n, k, &mut want);
            let Rearranged { mut packed, mut padded, .. } = Rearranged::default();
            let mut got = vec![0; m * 32];
            // SAFETY: the CPU has AVX-512 VNNI and VL.
            unsafe {
                let parts = b.split_at(b.len().min(16 * k)).into();
                evex::product(x, parts, [&[]; 2], &mut packed, &mut padded, &mut got);
            }
            for i in 0..m {
                assert_eq!(got[32 * i..][..n], want[n * i..][..n], "product, m {m}, n {n}, k {k}");
            }
            for pattern in ReadPattern::CANDIDATES {
                let mut got = vec![0; RUNS * m * 32];
                // SAFETY: as above.
                unsafe { evex::stream(x, [&b, &[], &[], &[]], pattern, 32, &mut got) };
                for i in 0..m {
                    assert_eq!(got[32 * i..][..n], want[n * i..][..n], "stream, m {m}, n {n}, k {k}");
                }
            }
        }
    }
}
