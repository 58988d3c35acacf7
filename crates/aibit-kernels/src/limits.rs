//! What this machine can do at most: how fast it reads memory, and how fast it multiplies and adds. Measured, so that
//! the speed of a kernel can be given as a share of it.
//!
//! A decode step reads every weight once and is bounded by [`read_bandwidth`]; a long prompt uses each weight many
//! times and is bounded by [`int8_peak`] or [`f32_peak`]. Each measurement takes a fraction of a second and is
//! the best of many, because another program can only make it slower.
#![expect(unsafe_code, reason = "vector instructions; the token proves that the CPU has them")]

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::isa::{Isa, Level, dispatch};
use crate::read::ReadPattern;
use crate::simd::{LANES, Simd};

/// Measurements of which the best counts: enough for a quiet moment on a machine that does other things as well.
pub const PASSES: usize = 40;

/// Words of 64 bits in a cache line.
const LINE: usize = 8;

/// Shortest measurement of arithmetic: long beside the start of the threads.
const SHORTEST: Duration = Duration::from_millis(2);

/// Streams and bytes of prefetch that memory is read with.
const READS: [(usize, usize); 6] = [(1, 0), (4, 0), (8, 0), (1, 4 << 10), (1, 16 << 10), (4, 2 << 10)];

/// How fast `threads` threads read memory together, in GB/s (10⁹ bytes).
///
/// They read `bytes` bytes, which should be several times the last cache, each its own part. One, four and eight
/// streams of pages in each part are tried, and one and four with prefetching; the fastest of `passes`
/// each counts: [`PASSES`] for the machine's best, a few for what it does at the moment.
///
/// # Panics
/// If `threads` or `passes` is zero.
pub fn read_bandwidth(isa: Isa, threads: usize, bytes: usize, passes: usize) -> f64 {
    // Written to, for memory that was only reserved would be one page of zeros.
    let data: Vec<u64> = (0..bytes as u64 / 8).collect();
    let part = data.len() / threads;
    let seconds = |(streams, prefetch)| {
        best_seconds(threads, passes, |thread| {
            let part = &data[thread * part..][..part];
            black_box(read(isa, part, streams, prefetch));
        })
    };
    let best = READS.map(seconds).into_iter().fold(f64::INFINITY, f64::min);
    (part * threads * 8) as f64 / best / 1e9
}

/// The pattern of `patterns` with which one thread reads fastest: the best of a few passes over 4 MB that are in no cache.
pub(crate) fn fastest(isa: Isa, patterns: &[ReadPattern]) -> ReadPattern {
    const BYTES: u64 = 4 << 20;
    const PASSES: usize = 2;
    let data: Vec<u64> = (0..BYTES / 8).collect();
    let mut best = (f64::INFINITY, ReadPattern::FOUR_RUNS);
    for _ in 0..PASSES {
        for pattern in patterns {
            evict(&data);
            let start = Instant::now();
            black_box(read(isa, &data, pattern.runs, pattern.prefetch));
            let seconds = start.elapsed().as_secs_f64();
            if seconds < best.0 {
                best = (seconds, *pattern);
            }
        }
    }
    best.1
}

/// Throws `data` out of the caches.
fn evict(data: &[u64]) {
    #[cfg(target_arch = "x86_64")]
    for line in data.chunks(LINE) {
        // SAFETY: every x86-64 has this instruction, and the address lies in `data`.
        unsafe { std::arch::x86_64::_mm_clflush(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = data;
}

/// How many integer operations `threads` threads do together on codes in registers, in 10⁹ per second; a
/// multiplication with its addition is two.
///
/// The instructions are those of the INT8 kernels: `vpdpbusd` for AVX-512 VNNI and AVX-VNNI; for AVX2 `vpmaddubsw`,
/// `vpmaddwd`, an addition and what exchanges signs; for scalar code what the compiler makes of plain Rust.
///
/// # Panics
/// If `threads` is zero.
pub fn int8_peak(isa: Isa, threads: usize) -> f64 {
    peak(threads, |rounds| match isa.level() {
        Level::Scalar(_) => int8_scalar(rounds),
        // SAFETY: a value of `Avx2` exists only if `detect` saw AVX2 on this CPU.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => unsafe { x86::int8_avx2(rounds) },
        // SAFETY: a value of `AvxVnni` exists only if `detect` saw these features on this CPU.
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni(_) => unsafe { x86::int8_avxvnni(rounds) },
        // SAFETY: a value of `Avx512Vnni` exists only if `detect` saw these features on this CPU.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni(_) => unsafe { x86::int8_avx512vnni(rounds) },
    })
}

/// How many `f32` operations `threads` threads do together in registers, in 10⁹ per second; a fused multiply-add is
/// two.
///
/// # Panics
/// If `threads` is zero.
pub fn f32_peak(isa: Isa, threads: usize) -> f64 {
    peak(threads, |rounds| dispatch!(isa => multiply_add(rounds: usize) -> u64))
}

/// Operations per nanosecond of `work`, which does so many rounds and returns how many multiply-adds they were.
fn peak(threads: usize, work: impl Fn(usize) -> u64 + Sync) -> f64 {
    let mut rounds = 1024;
    loop {
        let start = Instant::now();
        work(rounds);
        if start.elapsed() >= SHORTEST {
            break;
        }
        rounds *= 2;
    }
    let multiply_adds = work(rounds) * threads as u64;
    let seconds = best_seconds(threads, PASSES, |_| _ = black_box(work(rounds)));
    2.0 * multiply_adds as f64 / seconds / 1e9
}

/// The shortest of several times from the common start of `threads` calls of `work` to the end of the last.
fn best_seconds(threads: usize, passes: usize, work: impl Fn(usize) + Sync) -> f64 {
    assert!(threads > 0 && passes > 0, "a measurement needs a thread and a pass");
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        for thread in 1..threads {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                for _ in 0..passes {
                    barrier.wait();
                    work(thread);
                    barrier.wait();
                }
            });
        }
        let pass = |_| {
            barrier.wait();
            let start = Instant::now();
            work(0);
            barrier.wait();
            start.elapsed().as_secs_f64()
        };
        (0..passes).map(pass).fold(f64::INFINITY, f64::min)
    })
}

/// Reads all of `data`, as 1, 2, 4 or 8 runs side by side, prefetching `prefetch` bytes ahead in each, unless that is 0,
/// and combines what is read.
fn read(isa: Isa, data: &[u64], runs: usize, prefetch: usize) -> u64 {
    match runs {
        8 => read_runs::<8>(isa, data, prefetch),
        4 => read_runs::<4>(isa, data, prefetch),
        2 => read_runs::<2>(isa, data, prefetch),
        _ => read_runs::<1>(isa, data, prefetch),
    }
}

fn read_runs<const RUNS: usize>(isa: Isa, data: &[u64], prefetch: usize) -> u64 {
    let (lines, rest) = data.as_chunks::<LINE>();
    let length = lines.len() / RUNS;
    let runs: [&[[u64; LINE]]; RUNS] = std::array::from_fn(|s| &lines[s * length..][..length]);
    let sum = match isa.level() {
        Level::Scalar(_) => read_scalar(runs),
        // SAFETY: a value of `Avx2` exists only if `detect` saw AVX2 on this CPU.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => unsafe { x86::read_avx2(runs, prefetch) },
        // SAFETY: a value of `AvxVnni` exists only if `detect` saw AVX2 on this CPU.
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni(_) => unsafe { x86::read_avx2(runs, prefetch) },
        // SAFETY: a value of `Avx512Vnni` exists only if `detect` saw AVX-512F on this CPU.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni(_) => unsafe { x86::read_avx512(runs, prefetch) },
    };
    let rest = lines[RUNS * length..].as_flattened().iter().chain(rest);
    rest.fold(sum, |a, b| a ^ b)
}

fn read_scalar<const RUNS: usize>(runs: [&[[u64; LINE]]; RUNS]) -> u64 {
    let mut sum = 0;
    for i in 0..runs[0].len() {
        for s in 0..RUNS {
            sum ^= runs[s][i].iter().fold(0, |a, b| a ^ b);
        }
    }
    sum
}

#[inline(always)]
fn multiply_add<S: Simd>(simd: S, rounds: usize) -> u64 {
    // Chains enough to hide the latency, and few enough for the registers.
    if S::TILE >= 4 {
        multiply_add_chains::<S, 12>(simd, rounds)
    } else {
        multiply_add_chains::<S, 5>(simd, rounds)
    }
}

#[inline(always)]
fn multiply_add_chains<S: Simd, const CHAINS: usize>(simd: S, rounds: usize) -> u64 {
    let (factor, summand) = (simd.splat(black_box(0.75)), simd.splat(black_box(0.25)));
    let mut sums: [S::F32x16; CHAINS] = std::array::from_fn(|c| simd.splat(c as f32));
    for _ in 0..rounds {
        for c in 0..CHAINS {
            sums[c] = simd.mul_add(sums[c], factor, summand);
        }
    }
    for sum in sums {
        black_box(simd.sum(sum));
    }
    (rounds * CHAINS * LANES) as u64
}

fn int8_scalar(rounds: usize) -> u64 {
    let codes: [i8; 64] = black_box(std::array::from_fn(|i| i as i8));
    let mut sums = [1_i32; 64];
    for _ in 0..rounds {
        for l in 0..64 {
            // One factor is part of the sum, or the product would be computed once.
            sums[l] = sums[l].wrapping_add(i32::from(codes[l]) * i32::from(sums[l] as i8));
        }
    }
    black_box(sums);
    (rounds * 64) as u64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::LINE;

    #[target_feature(enable = "avx2")]
    pub(super) fn read_avx2<const RUNS: usize>(runs: [&[[u64; LINE]]; RUNS], prefetch: usize) -> u64 {
        let mut sums = [[_mm256_setzero_si256(); 2]; RUNS];
        for i in 0..runs[0].len() {
            for s in 0..RUNS {
                let line = runs[s][i].as_ptr().cast::<__m256i>();
                if prefetch > 0 {
                    _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().wrapping_add(prefetch));
                }
                // SAFETY: both halves of 64 readable bytes; `loadu` needs no alignment.
                let (low, high) = unsafe { (_mm256_loadu_si256(line), _mm256_loadu_si256(line.add(1))) };
                sums[s] = [_mm256_xor_si256(sums[s][0], low), _mm256_xor_si256(sums[s][1], high)];
            }
        }
        let sum = sums.as_flattened().iter().fold(_mm256_setzero_si256(), |a, b| _mm256_xor_si256(a, *b));
        let mut words = [0_u64; 4];
        // SAFETY: 32 writable bytes; `storeu` needs no alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), sum) };
        words.iter().fold(0, |a, b| a ^ b)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn read_avx512<const RUNS: usize>(runs: [&[[u64; LINE]]; RUNS], prefetch: usize) -> u64 {
        let mut sums = [_mm512_setzero_si512(); RUNS];
        for i in 0..runs[0].len() {
            for s in 0..RUNS {
                let line = runs[s][i].as_ptr().cast::<i8>();
                if prefetch > 0 {
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(prefetch));
                }
                // SAFETY: 64 readable bytes; `loadu` needs no alignment.
                let line = unsafe { _mm512_loadu_si512(line.cast()) };
                sums[s] = _mm512_xor_si512(sums[s], line);
            }
        }
        let sum = sums.iter().fold(_mm512_setzero_si512(), |a, b| _mm512_xor_si512(a, *b));
        let mut words = [0_u64; LINE];
        // SAFETY: 64 writable bytes; `storeu` needs no alignment.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), sum) };
        words.iter().fold(0, |a, b| a ^ b)
    }

    /// Sums that are added to in turn: enough to hide the latency, few enough for the registers.
    const CHAINS: usize = 12;

    /// The same for AVX2, whose products need registers too.
    const AVX2_CHAINS: usize = 10;

    #[target_feature(enable = "avx2")]
    pub(super) fn int8_avx2(rounds: usize) -> u64 {
        let (magnitudes, ones) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi16(black_box(1)));
        let step = _mm256_set1_epi8(black_box(1));
        let mut other = step;
        let mut sums = [_mm256_setzero_si256(); AVX2_CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                // The sum is a factor, or the product would be computed once.
                let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(*sum, other));
                *sum = _mm256_add_epi32(other, _mm256_madd_epi16(pairs, ones));
            }
            other = _mm256_add_epi8(other, step);
        }
        black_box(sums);
        (rounds * AVX2_CHAINS * 32) as u64
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn int8_avxvnni(rounds: usize) -> u64 {
        let (codes, other) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(5)));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, codes, other);
            }
        }
        black_box(sums);
        (rounds * CHAINS * 32) as u64
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8_avx512vnni(rounds: usize) -> u64 {
        let (codes, other) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, codes, other);
            }
        }
        black_box(sums);
        (rounds * CHAINS * 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_a_number_on_every_instruction_set() {
        for isa in Isa::available() {
            for threads in [1, 2] {
                let limits = [
                    read_bandwidth(isa, threads, 1 << 20, 2),
                    int8_peak(isa, threads),
                    f32_peak(isa, threads),
                ];
                assert!(limits.iter().all(|limit| limit.is_finite() && *limit > 0.0), "{isa}: {limits:?}");
            }
        }
    }

    #[test]
    fn all_words_are_read_however_they_are_read() {
        let data: Vec<u64> = (0..8 * 61 + 5).map(|i| i * i).collect();
        let expected = data.iter().fold(0, |a, b| a ^ b);
        for isa in Isa::available() {
            for runs in [1, 2, 4, 8] {
                for prefetch in [0, 256] {
                    assert_eq!(read(isa, &data, runs, prefetch), expected, "{isa} {runs} {prefetch}");
                }
            }
        }
    }
}
