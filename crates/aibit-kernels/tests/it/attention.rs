//! Attention: the INT8 formula in plain loops, and how far each precision of the cache is from f32.

use aibit_kernels::*;
use half::f16;
use proptest::prelude::*;

use crate::same_bits::{Random, bits, check};

const KV: [KvDtype; 3] = [KvDtype::F32, KvDtype::F16, KvDtype::Int8];

/// The pages of one sequence, full of garbage: bytes of NaN in any of the types.
struct Pages(Vec<Vec<u32>>);

impl Pages {
    fn new(shape: &AttentionShape, kv: KvDtype, positions: usize) -> Self {
        let words = shape.page_bytes(kv).expect("a small page") / 4;
        Self(vec![vec![u32::MAX; words]; positions.div_ceil(PAGE)])
    }

    /// The places of `rows` of a batch, the first at position `past`.
    fn places(&mut self, rows: std::ops::Range<usize>, past: usize) -> Vec<KvPlace<'_>> {
        let mut places = Vec::new();
        for (index, page) in self.0.iter_mut().enumerate() {
            let start = past.max(index * PAGE);
            let end = (past + rows.len()).min((index + 1) * PAGE);
            if start < end {
                let rows = rows.start + start - past..rows.start + end - past;
                places.push(KvPlace { page: bytemuck::cast_slice_mut(page), position: start % PAGE, rows });
            }
        }
        places
    }

    fn run(&self, rows: usize, past: usize) -> KvRun<'_> {
        KvRun { rows, past, pages: self.0.iter().map(|page| bytemuck::cast_slice(page)).collect() }
    }
}

/// The rows of `qkv` in calls of the lengths `splits`, on pages full of garbage.
fn run(cx: &Context, shape: &AttentionShape, kv: KvDtype, qkv: &[f32], splits: &[usize]) -> Vec<f32> {
    let (width, out) = (shape.qkv_width(), shape.n_head * shape.head_dim);
    let mut pages = Pages::new(shape, kv, qkv.len() / width);
    let mut y = vec![f32::NAN; qkv.len() / width * out];
    let mut past = 0;
    for &m in splits {
        let qkv = &qkv[past * width..][..m * width];
        store_kv(cx, shape, kv, qkv, &mut pages.places(0..m, past));
        attention(cx, shape, kv, qkv, &[pages.run(m, past)], &mut y[past * out..][..m * out]);
        past += m;
    }
    y
}

/// Queries, keys and values of one head of a row of `qkv`.
fn parts<'a>(shape: &AttentionShape, row: &'a [f32], head: usize) -> [&'a [f32]; 3] {
    let kv_head = head / (shape.n_head / shape.n_kv_head);
    let part = |at: usize| &row[at * shape.head_dim..][..shape.head_dim];
    [part(head), part(shape.n_head + kv_head), part(shape.n_head + shape.n_kv_head + kv_head)]
}

fn sum(lanes: &mut [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Section 7.7 of `docs/format.md` in plain loops.
fn int8_reference(shape: &AttentionShape, qkv: &[f32]) -> Vec<f32> {
    // `scale`, then `q`, rounded half to even.
    let quantize = |x: &[f32], units: f32, steps: f32| -> (f32, Vec<i64>) {
        let absmax = x.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
        let inverse = steps / absmax;
        if !inverse.is_finite() {
            return (0.0, vec![0; x.len()]);
        }
        (absmax / units, x.iter().map(|x| (x * inverse).round_ties_even() as i64).collect())
    };
    let rows: Vec<&[f32]> = qkv.chunks_exact(shape.qkv_width()).collect();
    let mut y = Vec::new();
    for (position, row) in rows.iter().enumerate() {
        for head in 0..shape.n_head {
            let (query_scale, query) = quantize(parts(shape, row, head)[0], 16256.0, 16256.0);
            let (mut scores, mut values) = (Vec::new(), Vec::new());
            for row in &rows[..=position] {
                let [_, key, value] = parts(shape, row, head);
                let (key_scale, key) = quantize(key, 127.0, 508.0);
                let mut products = [0; 3];
                for (q, k) in query.iter().zip(&key) {
                    let (query_high, key_high) = ((q + 64).div_euclid(128), (k + 2).div_euclid(4));
                    products[0] += query_high * key_high;
                    products[1] += query_high * (k - 4 * key_high);
                    products[2] += (q - 128 * query_high) * key_high;
                }
                let [high, middle, low] = products.map(|product| product as f32);
                let product = high.mul_add(128.0, middle.mul_add(32.0, low));
                scores.push(product * (query_scale * key_scale) * shape.scale);
                values.push(quantize(value, 127.0, 127.0));
            }
            let max = scores.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x));
            let (mut lanes, mut weights) = ([0.0; 16], Vec::new());
            for (r, (score, (scale, _))) in scores.iter().zip(&values).enumerate() {
                let weight = exp(score - max);
                lanes[r % 16] += weight;
                weights.push(weight * scale);
            }
            let (scale, weights) = quantize(&weights, 16256.0, 16256.0);
            let scale = scale * (1.0 / sum(&mut lanes));
            for c in 0..shape.head_dim {
                let mut products = [0; 2];
                for (weight, (_, value)) in weights.iter().zip(&values) {
                    let high = (weight + 64).div_euclid(128);
                    products[0] += high * value[c];
                    products[1] += (weight - 128 * high) * value[c];
                }
                let [high, low] = products.map(|product| product as f32);
                y.push(high.mul_add(128.0, low) * scale);
            }
        }
    }
    y
}

/// Attention in f64 and, for each output, how far a cache in `kv` may be from it.
///
/// Scores that are each off by at most `d` move a softmax's weights by a factor of at most `e^2d`, so an average of
/// values by `(e^2d - 1) · max |v|`; beside that each value is off by its own rounding.
fn with_bounds(shape: &AttentionShape, kv: KvDtype, qkv: &[f32]) -> Vec<(f64, f64)> {
    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let absmax = |x: &[f64]| x.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let absolute = |x: &[f64]| x.iter().map(|x| x.abs()).sum::<f64>();
    let float = f64::from(f32::EPSILON);
    let rows: Vec<&[f32]> = qkv.chunks_exact(shape.qkv_width()).collect();
    let mut y = Vec::new();
    for (position, row) in rows.iter().enumerate() {
        for head in 0..shape.n_head {
            let query = wide(parts(shape, row, head)[0]);
            let (mut scores, mut values): (Vec<f64>, Vec<_>) = Default::default();
            let (mut off, mut value_max, mut value_off) = (0.0, 0.0, 0.0);
            for row in &rows[..=position] {
                let [_, key, value] = parts(shape, row, head);
                let (key, value) = (wide(key), wide(value));
                let products: Vec<f64> = query.iter().zip(&key).map(|(q, k)| q * k).collect();
                scores.push(products.iter().sum::<f64>() * f64::from(shape.scale));
                let score_off = match kv {
                    KvDtype::F32 => 0.0,
                    // Half a unit of eleven bits, or of the smallest number.
                    KvDtype::F16 => {
                        absolute(&products) * 2.0_f64.powi(-11) + absolute(&query) * 2.0_f64.powi(-25)
                    }
                    // Half a step of each, and the product of low parts that is left out, 64 · 2 steps at most.
                    KvDtype::Int8 => {
                        let (query_step, key_step) = (absmax(&query) / 16256.0, absmax(&key) / 508.0);
                        absolute(&query) * key_step / 2.0
                            + absolute(&key) * query_step / 2.0
                            + shape.head_dim as f64 * query_step * key_step * (0.25 + 128.0)
                    }
                };
                // Sums in f32 err by a few units per term.
                let rounding = absolute(&products) * float * 16.0;
                off = f64::max(off, (score_off + rounding) * f64::from(shape.scale));
                value_off = f64::max(
                    value_off,
                    match kv {
                        KvDtype::F32 => 0.0,
                        KvDtype::F16 => absmax(&value) * 2.0_f64.powi(-11) + 2.0_f64.powi(-25),
                        KvDtype::Int8 => absmax(&value) / 254.0,
                    },
                );
                value_max = f64::max(value_max, absmax(&value));
                values.push(value);
            }
            let max = scores.iter().fold(f64::NEG_INFINITY, |max, x| max.max(*x));
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            // The exponent itself is rounded to f32 before the exponential.
            let off = off + absmax(&scores) * float * 4.0;
            let rounding = value_max * float * (position + 16) as f64;
            // Half a step of each weight, which is at most the total.
            let weights_off =
                if kv == KvDtype::Int8 { value_max * (position + 1) as f64 / (2.0 * 16256.0) } else { 0.0 };
            let bound = (2.0 * off).exp_m1() * (value_max + value_off) + value_off + weights_off + rounding;
            for c in 0..shape.head_dim {
                let exact = weights.iter().zip(&values).map(|(w, v)| w * v[c]).sum::<f64>() / total;
                y.push((exact, bound));
            }
        }
    }
    y
}

fn check_attention(shape: AttentionShape, m: usize, past: usize, seed: u64) {
    let qkv = Random(seed).floats((past + m) * shape.qkv_width());
    for kv in KV {
        let want = run(&Isa::SCALAR.into(), &shape, kv, &qkv, &[past + m]);
        check(|cx| {
            let y = run(cx, &shape, kv, &qkv, &[past + m]);
            assert_eq!(bits(&y), bits(&want), "{kv:?}, {cx:?}: one prefill");
            let y = run(cx, &shape, kv, &qkv, &[past, m]);
            assert_eq!(bits(&y), bits(&want), "{kv:?}, {cx:?}: two chunks");
            let y = run(cx, &shape, kv, &qkv, &vec![1; past + m]);
            assert_eq!(bits(&y), bits(&want), "{kv:?}, {cx:?}: decode");
        });
        assert!(want.iter().all(|y| !y.is_nan()), "{kv:?}");
        if kv == KvDtype::Int8 {
            assert_eq!(bits(&want), bits(&int8_reference(&shape, &qkv)));
        }
        // Where scores are not so large that the bound says nothing.
        let small: Vec<f32> = qkv.iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        let y = run(&Isa::best().into(), &shape, kv, &small, &[past + m]);
        for (y, (exact, bound)) in y.iter().zip(with_bounds(&shape, kv, &small)) {
            assert!((f64::from(*y) - exact).abs() <= bound, "{kv:?}: {y} for {exact}, bound {bound}");
            assert!(bound < 0.2, "{kv:?}: a bound of {bound} checks little");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_of_ragged_shapes(
        (n_kv_head, group, head_dim) in (1..3_usize, 1..3_usize, 1..100_usize),
        (m, past) in (0..20_usize, 0..90_usize),
        seed in any::<u64>(),
    ) {
        let scale = 1.0 / (head_dim as f32).sqrt();
        check_attention(AttentionShape { n_head: n_kv_head * group, n_kv_head, head_dim, scale }, m, past, seed);
    }
}

#[test]
fn attention_that_threads_and_blocks_divide() {
    for (n_head, n_kv_head, head_dim) in [(3, 3, 64), (4, 2, 40)] {
        let shape = AttentionShape { n_head, n_kv_head, head_dim, scale: 0.125 };
        check_attention(shape, 60, 37, 7);
    }
}

/// Prompts, single tokens and empty runs of several sequences in one call, some of which share pages: each row has the bits
/// that it has in a sequence alone.
#[test]
fn rows_of_a_ragged_batch_have_the_bits_of_a_sequence_alone() {
    for (n_head, n_kv_head, head_dim) in [(4, 2, 40), (2, 1, 64)] {
        let shape = AttentionShape { n_head, n_kv_head, head_dim, scale: 0.125 };
        let (width, out) = (shape.qkv_width(), n_head * head_dim);
        // (positions before, rows of this batch) of each sequence.
        let sequences = [(0, 70), (63, 1), (64, 1), (130, 1), (0, 1), (5, 0), (100, 40), (127, 2)];
        let qkv: Vec<Vec<f32>> = (0..sequences.len() as u64)
            .map(|seed| {
                Random(seed).floats((sequences[seed as usize].0 + sequences[seed as usize].1) * width)
            })
            .collect();
        for kv in KV {
            let alone: Vec<f32> = sequences
                .iter()
                .zip(&qkv)
                .flat_map(|((past, m), qkv)| {
                    run(&Isa::SCALAR.into(), &shape, kv, qkv, &[past + m]).split_off(past * out)
                })
                .collect();
            check(|cx| {
                let mut batch = Vec::new();
                let mut pages: Vec<Pages> = Vec::new();
                for ((past, m), qkv) in sequences.iter().zip(&qkv) {
                    let mut own = Pages::new(&shape, kv, past + m);
                    let (before, now) = qkv.split_at(past * width);
                    store_kv(cx, &shape, kv, before, &mut own.places(0..*past, 0));
                    batch.extend_from_slice(now);
                    pages.push(own);
                }
                let mut start = 0;
                let mut places = Vec::new();
                for ((past, m), pages) in sequences.iter().zip(&mut pages) {
                    places.extend(pages.places(start..start + m, *past));
                    start += m;
                }
                store_kv(cx, &shape, kv, &batch, &mut places);
                let runs: Vec<KvRun<'_>> =
                    sequences.iter().zip(&pages).map(|((past, m), pages)| pages.run(*m, *past)).collect();
                let mut y = vec![f32::NAN; start * out];
                attention(cx, &shape, kv, &batch, &runs, &mut y);
                assert_eq!(bits(&y), bits(&alone), "{kv:?}, {cx:?}");
            });
        }
    }
}

/// A row that is not finite spoils the rows that see it, and no others.
#[test]
fn what_is_not_finite_stays_with_those_who_see_it() {
    let shape = AttentionShape { n_head: 2, n_kv_head: 1, head_dim: 6, scale: 0.4 };
    let clean = Random(12).floats(24 * shape.qkv_width());
    for kv in KV {
        for (element, bad) in [(13, f32::NAN), (20, f32::NAN), (20, f32::NEG_INFINITY)] {
            let mut qkv = clean.clone();
            qkv[18 * shape.qkv_width() + element] = bad; // a key, or a value, of position 18
            let want = run(&Isa::SCALAR.into(), &shape, kv, &clean, &[24]);
            for isa in Isa::available() {
                let y = run(&isa.into(), &shape, kv, &qkv, &[24]);
                let (before, after) = y.split_at(18 * 12);
                assert_eq!(bits(before), bits(&want[..18 * 12]), "{kv:?}, {isa}");
                assert!(after.chunks(12).all(|y| y.iter().any(|y| !y.is_finite())), "{kv:?}, {isa}");
            }
        }
    }
}

#[test]
fn a_half_precision_cache_rounds_half_to_even() {
    let shape = AttentionShape { n_head: 1, n_kv_head: 1, head_dim: 4, scale: 1.0 };
    let mut pages = Pages::new(&shape, KvDtype::F16, 1);
    let ulp = 2.0_f32.powi(-10); // above 1
    let key = [1.0 + ulp / 2.0, 1.0 + 1.5 * ulp, 65519.0, 65520.0];
    let value = [2.0_f32.powi(-25), 1.5 * 2.0_f32.powi(-24), -1e-9, 1.0 + 0.51 * ulp];
    let qkv = [[0.0; 4], key, value].concat();
    store_kv(&Isa::SCALAR.into(), &shape, KvDtype::F16, &qkv, &mut pages.places(0..1, 0));
    let page: &[f16] = bytemuck::cast_slice(&pages.0[0]);
    let (keys, values) = ([page[0], page[1], page[2], page[3]], &page[4 * PAGE..][..4]);
    assert_eq!(keys.map(f16::to_f32), [1.0, 1.0 + 2.0 * ulp, 65504.0, f32::INFINITY]);
    assert_eq!(values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), [0, 2, 0x8000, 0x3C01]);
}

/// Rows that a damaged model makes: no panic, the same numbers everywhere, and none where a head has seen a NaN value.
#[test]
fn numbers_that_are_none_spread_to_what_sees_them_and_no_further() {
    // A scale at which no exponential is zero: what has no weight is not seen.
    let shape = AttentionShape { n_head: 4, n_kv_head: 2, head_dim: 20, scale: 0.005 };
    let (m, width, out) = (37, shape.qkv_width(), shape.n_head * shape.head_dim);
    let sound = Random(21).floats(m * width);
    // The middle of the first token's elements of a part: query head 0, key head 0, value head 0.
    for (part, at) in [("query", 7), ("key", 4 * 20 + 7), ("value", 6 * 20 + 7)] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            for first in [0, 20] {
                let mut qkv = sound.clone();
                // From one token on in every third, so that sums have several of them.
                qkv.chunks_mut(width).skip(first).step_by(3).for_each(|row| row[at] = bad);
                for kv in KV {
                    // Which NaN comes of two is nobody's promise.
                    let bits_of = |x: &f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
                    let bits = |y: &[f32]| y.iter().map(bits_of).collect::<Vec<_>>();
                    check(|cx| bits(&run(cx, &shape, kv, &qkv, &[30, 7])));
                    let y = run(&Isa::best().into(), &shape, kv, &qkv, &[30, 7]);
                    let want = run(&Isa::best().into(), &shape, kv, &sound, &[30, 7]);
                    for (token, (y, want)) in y.chunks(out).zip(want.chunks(out)).enumerate() {
                        // Two query heads share the first head of keys and values.
                        let touched = if part == "query" { 20 } else { 40 };
                        let (seen, apart) = y.split_at(if token < first { 0 } else { touched });
                        assert_eq!(bits(apart), bits(&want[seen.len()..]), "{kv:?} {part} {bad} {token}");
                        if kv == KvDtype::Int8 && part == "value" && bad.is_nan() {
                            assert!(seen.iter().all(|y| y.is_nan()), "{part} {bad} {token}: {seen:?}");
                        }
                    }
                }
            }
        }
    }
}
