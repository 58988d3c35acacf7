//! Property tests: scalar on one thread is the specification; everything else has its bits.

use std::sync::{Arc, LazyLock};

use aibit_kernels::*;
use half::{bf16, f16};
use proptest::prelude::*;

/// SplitMix64: test data from a seed, so that a failing case is a few numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly spread over `-1..1`.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Codes over the full range, −128 and both extremes more often than chance.
    fn codes(&mut self, count: usize) -> Vec<i8> {
        (0..count)
            .map(|_| match self.next() % 8 {
                0 => i8::MIN,
                1 => i8::MAX,
                _ => self.next() as i8,
            })
            .collect()
    }

    /// Values of many magnitudes, about one in thirty beyond 6.
    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let unit = self.unit();
                match self.next() % 32 {
                    0 => unit * 60.0,
                    1 => unit * 1e-30,
                    2 => 0.0,
                    _ => unit * 3.0,
                }
            })
            .collect()
    }
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Runs `kernel` on every instruction set, with one to three threads and a pool: all must equal scalar on one.
pub(crate) fn check<T: PartialEq + std::fmt::Debug>(kernel: impl Fn(&Context) -> T) {
    static THREADS: LazyLock<[Threads; 4]> = LazyLock::new(|| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
        [Threads::caller(), Threads::team(2), Threads::team(3), Threads::pool(Arc::new(pool))]
    });
    let want = kernel(&Isa::SCALAR.into());
    for isa in Isa::available() {
        for threads in &*THREADS {
            let got = kernel(&Context { isa, threads: threads.clone() });
            assert!(got == want, "{isa}, {threads:?}: {got:?}\nscalar: {want:?}");
        }
    }
}

fn sizes() -> impl Strategy<Value = (usize, usize, usize)> {
    (0..6_usize, 0..40_usize, 0..300_usize)
}

const PRECISIONS: [ActivationPrecision; 3] =
    [ActivationPrecision::Int8, ActivationPrecision::Int8Asym, ActivationPrecision::Int8x2];

fn linear(
    cx: &Context,
    x: &[f32],
    w: &Int8Rowwise<'_>,
    bias: Option<&[f32]>,
    precision: ActivationPrecision,
) -> Vec<f32> {
    let mut rows = QuantizedRows::default();
    quantize_rows(cx, x, w.k(), precision, &mut rows);
    let mut y = vec![f32::NAN; rows.m() * w.n()];
    linear_int8(cx, &rows, w, &Epilogue::with_bias(bias), &mut y);
    y
}

fn check_gemm(m: usize, n: usize, k: usize, seed: u64) {
    let mut random = Random(seed);
    let (a, b) = (random.codes(m * k), random.codes(n * k));
    check(|cx| {
        let mut out = vec![-1; m * n];
        gemm_i32(cx, &a, &b, m, n, k, &mut out);
        out
    });
}

fn check_linear_int8(m: usize, n: usize, k: usize, seed: u64) {
    let mut random = Random(seed);
    let (x, codes, absmax) = (random.floats(m * k), random.codes(n * k), random.floats(n));
    let (w, bias) = (Int8Rowwise::new(&codes, &absmax, n, k), random.floats(n));
    for precision in PRECISIONS {
        for bias in [None, Some(&bias[..])] {
            check(|cx| bits(&linear(cx, &x, &w, bias, precision)));
            let batch = linear(&Isa::best().into(), &x, &w, bias, precision);
            for (i, x) in x.chunks_exact(k).enumerate() {
                let alone = linear(&Isa::best().into(), x, &w, bias, precision);
                assert_eq!(bits(&alone), bits(&batch[i * n..][..n]), "{precision:?}: row {i} alone");
            }
        }
    }
    for dtype in [ActivationDtype::F32, ActivationDtype::F16, ActivationDtype::Bf16] {
        for threshold in [0.0, 6.0] {
            check(|cx| {
                let mut y = vec![f32::NAN; m * n];
                linear_llm_int8(cx, &x, dtype, &w, &Epilogue::with_bias(Some(&bias)), threshold, &mut y);
                bits(&y)
            });
        }
    }
}

/// However weights are read, a few rows of `x` have the bits of scalar code.
fn check_read_patterns(m: usize, n: usize, k: usize, seed: u64) {
    let mut random = Random(seed);
    let (x, codes, absmax) = (random.floats(m * k), random.codes(n * k), random.floats(n));
    let w = Int8Rowwise::new(&codes, &absmax, n, k);
    for precision in PRECISIONS {
        let want = bits(&linear(&Isa::SCALAR.into(), &x, &w, None, precision));
        for (runs, prefetch) in [(1, 0), (1, 4096), (2, 0), (2, 100), (4, 0), (4, 1 << 20)] {
            for pieces in [1, 4] {
                let pattern = ReadPattern { runs, prefetch, pieces };
                check(|cx| {
                    let got = bits(&linear(
                        &Context { isa: cx.isa.reading(pattern), ..cx.clone() },
                        &x,
                        &w,
                        None,
                        precision,
                    ));
                    assert_eq!(got, want, "{cx:?}, {pattern}");
                });
            }
        }
    }
}

/// An epilogue gives the bits of the layer, the activation and the addition one after the other.
fn check_epilogue(m: usize, n: usize, k: usize, seed: u64) {
    let mut random = Random(seed);
    let (x, codes, absmax) = (random.floats(m * k), random.codes(n * k), random.floats(n));
    let (w, bias, residual) =
        (Int8Rowwise::new(&codes, &absmax, n, k), random.floats(n), random.floats(m * n));
    let rows = random.floats(n * k);
    type Layer<'a> = &'a (dyn Fn(&Context, &Epilogue<'_>, &mut [f32]) + Sync);
    let int8 = |cx: &Context, epilogue: &Epilogue<'_>, y: &mut [f32]| {
        let mut rows = QuantizedRows::default();
        quantize_rows(cx, &x, k, ActivationPrecision::Int8, &mut rows);
        linear_int8(cx, &rows, &w, epilogue, y);
    };
    let exact = |cx: &Context, epilogue: &Epilogue<'_>, y: &mut [f32]| {
        linear_llm_int8(cx, &x, ActivationDtype::F32, &w, epilogue, 6.0, y);
    };
    let float = |cx: &Context, epilogue: &Epilogue<'_>, y: &mut [f32]| {
        linear_float(cx, &x, FloatMatrix::F32(&rows), m, n, k, epilogue, y);
    };
    for layer in [&int8 as Layer<'_>, &exact, &float] {
        for activation in [None, Some(Activation::GeluTanh), Some(Activation::Relu)] {
            for accumulate in [false, true] {
                let epilogue = Epilogue { bias: Some(&bias), activation, accumulate };
                check(|cx| {
                    let mut y = residual.clone();
                    layer(cx, &epilogue, &mut y);
                    let mut apart = vec![f32::NAN; m * n];
                    layer(cx, &Epilogue::with_bias(Some(&bias)), &mut apart);
                    if let Some(activation) = activation {
                        activate(cx, activation, &mut apart);
                    }
                    if accumulate {
                        let mut sum = residual.clone();
                        add_assign(cx, &mut sum, &apart);
                        apart = sum;
                    }
                    assert_eq!(bits(&y), bits(&apart), "{activation:?}, accumulate {accumulate}, {cx:?}");
                    bits(&y)
                });
            }
        }
    }
}

/// A gated layer gives the bits of the layer and of the gate one after the other; `width` is that of the gates.
fn check_linear_int8_gated(m: usize, width: usize, k: usize, seed: u64) {
    let mut random = Random(seed);
    let n = 2 * width;
    let (x, codes, absmax) = (random.floats(m * k), random.codes(n * k), random.floats(n));
    let (w, bias) = (Int8Rowwise::new(&codes, &absmax, n, k), random.floats(n));
    for precision in PRECISIONS {
        for (function, bias) in [(Activation::Silu, None), (Activation::GeluTanh, Some(&bias[..]))] {
            check(|cx| {
                let mut rows = QuantizedRows::default();
                quantize_rows(cx, &x, k, precision, &mut rows);
                let (mut y, mut apart) = (vec![f32::NAN; m * width], vec![f32::NAN; m * width]);
                linear_int8_gated(cx, &rows, &w, bias, function, &mut vec![f32::NAN; m * n], &mut y);
                let wide = linear(cx, &x, &w, bias, precision);
                gated_activation(cx, function, &wide, width, &mut apart);
                assert_eq!(bits(&y), bits(&apart), "{precision:?}, {function:?}, {cx:?}");
                bits(&y)
            });
        }
    }
}

fn check_linear_float(m: usize, n: usize, k: usize, seed: u64) {
    let mut random = Random(seed);
    let (x, rows, bias) = (random.floats(m * k), random.floats(n * k), random.floats(n));
    let halves: Vec<f16> = rows.iter().map(|w| f16::from_f32(*w)).collect();
    let brains: Vec<bf16> = rows.iter().map(|w| bf16::from_f32(*w)).collect();
    for w in [FloatMatrix::F32(&rows), FloatMatrix::F16(&halves), FloatMatrix::Bf16(&brains)] {
        for bias in [None, Some(&bias[..])] {
            let run = |cx: &Context, x: &[f32], m: usize| {
                let mut y = vec![f32::NAN; m * n];
                linear_float(cx, x, w, m, n, k, &Epilogue::with_bias(bias), &mut y);
                bits(&y)
            };
            check(|cx| run(cx, &x, m));
            let batch = run(&Isa::best().into(), &x, m);
            for i in 0..m {
                assert_eq!(
                    run(&Isa::best().into(), &x[i * k..][..k], 1),
                    batch[i * n..][..n],
                    "row {i} alone"
                );
            }
        }
    }
    for i in 0..m.min(n) {
        check(|cx| dot_f32(cx.isa, &x[i * k..][..k], &rows[i * k..][..k]).to_bits());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn integer_products((m, n, k) in sizes(), seed in any::<u64>()) {
        check_gemm(m, n, k, seed);
    }

    #[test]
    fn int8_layers((m, n, k) in sizes(), seed in any::<u64>()) {
        check_linear_int8(m, n, k.max(1), seed);
    }

    #[test]
    fn gated_layers((m, width, k) in sizes(), seed in any::<u64>()) {
        check_linear_int8_gated(m, width.max(1), k.max(1), seed);
    }

    #[test]
    fn float_layers((m, n, k) in sizes(), seed in any::<u64>()) {
        check_linear_float(m, n, k, seed);
        check_epilogue(m, n, k.max(1), seed);
    }

    #[test]
    fn quantized_rows((m, _, k) in sizes(), seed in any::<u64>()) {
        let (k, mut random) = (k.max(1), Random(seed));
        let x = random.floats(m * k);
        for precision in PRECISIONS {
            check(|cx| {
                let mut rows = QuantizedRows::default();
                quantize_rows(cx, &x, k, precision, &mut rows);
                rows
            });
        }
    }

    #[test]
    fn layer_norms((m, _, width) in sizes(), seed in any::<u64>()) {
        let (width, mut random) = (width.max(1), Random(seed));
        let (x, weight, bias) = (random.floats(m * width), random.floats(width), random.floats(width));
        for bias in [None, Some(&bias[..])] {
            let run = |cx: &Context, x: &[f32]| {
                let mut y = vec![f32::NAN; x.len()];
                layer_norm(cx, x, width, &weight, bias, 1e-5, &mut y);
                bits(&y)
            };
            check(|cx| run(cx, &x));
            let batch = run(&Isa::best().into(), &x);
            for (x, y) in x.chunks(width).zip(batch.chunks(width)) {
                prop_assert_eq!(run(&Isa::best().into(), x), y);
            }
        }
    }

    #[test]
    fn activations_and_sums(count in 0..300_usize, seed in any::<u64>()) {
        let mut random = Random(seed);
        let (a, b) = (random.floats(count), random.floats(count));
        for activation in ACTIVATIONS {
            check(|cx| {
                let mut x = a.clone();
                activate(cx, activation, &mut x);
                bits(&x)
            });
        }
        check(|cx| {
            let mut y = vec![f32::NAN; count];
            add(cx, &a, &b, &mut y);
            let sum = y.clone();
            add_assign(cx, &mut y, &a);
            (bits(&sum), bits(&y))
        });
    }
}

/// A run alone, in a row and in rows gives the same bits, and those are near the definition in f64.
fn check_rms_norm(m: usize, run: usize, runs: usize, margin: usize, seed: u64) {
    let mut random = Random(seed);
    let (weight, epsilon) = (random.floats(run), 1e-5_f32);
    let x = random.floats(m * run);
    let alone = |cx: &Context, x: &[f32]| {
        let mut y = vec![f32::NAN; x.len()];
        rms_norm(cx, x, &weight, epsilon, &mut y);
        y
    };
    check(|cx| bits(&alone(cx, &x)));
    let batch = alone(&Isa::best().into(), &x);
    for (x, y) in x.chunks(run).zip(batch.chunks(run)) {
        assert_eq!(bits(&alone(&Isa::best().into(), x)), bits(y), "a row alone");
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / run as f64;
        let factor = (mean + f64::from(epsilon)).sqrt().recip();
        for ((x, w), y) in x.iter().zip(&weight).zip(y) {
            let want = f64::from(*x) * factor * f64::from(*w);
            // Sums of positive terms in sixteen lanes: a rounding for every term of a lane and a few more.
            let tolerance = (run as f64 / 16.0 + 10.0) * f64::from(f32::EPSILON) * want.abs() + 1e-40;
            assert!((f64::from(*y) - want).abs() <= tolerance, "{x}: {y}, want {want}");
        }
    }
    let width = run * runs + 2 * margin;
    let rows = random.floats(m * width);
    let range = margin..width - margin;
    let in_place = |cx: &Context, rows: &[f32]| {
        let mut y = rows.to_vec();
        rms_norm_runs(cx, &mut y, width, range.clone(), &weight, epsilon);
        y
    };
    check(|cx| bits(&in_place(cx, &rows)));
    let batch = in_place(&Isa::best().into(), &rows);
    for (x, y) in rows.chunks(width).zip(batch.chunks(width)) {
        assert_eq!(bits(&in_place(&Isa::best().into(), x)), bits(y), "a row alone");
        assert_eq!(bits(&y[..margin]), bits(&x[..margin]), "before the range");
        assert_eq!(bits(&y[range.end..]), bits(&x[range.end..]), "behind the range");
        for (x, y) in x[range.clone()].chunks(run).zip(y[range.clone()].chunks(run)) {
            assert_eq!(bits(&alone(&Isa::best().into(), x)), bits(y), "a run alone");
        }
    }
}

fn turned(cx: &Context, shape: RopeShape, frequencies: &[f32], past: usize, x: &[f32]) -> Vec<f32> {
    let mut table = RopeTable::default();
    table.append(frequencies, 1.0, past, x.len() / shape.width);
    let mut y = x.to_vec();
    rope(cx, shape, &table, &mut y);
    y
}

/// The formulas of `docs/format.md`, §7.5, in f64 but for the angle, which is rounded there too.
fn rope_in_f64(shape: RopeShape, frequencies: &[f32], past: usize, x: &[f32]) -> Vec<f64> {
    let mut y: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    for (t, row) in y.chunks_mut(shape.width).enumerate() {
        for head in 0..shape.heads {
            for (i, frequency) in frequencies.iter().enumerate() {
                let [a, b] = if shape.is_adjacent { [2 * i, 2 * i + 1] } else { [i, i + frequencies.len()] };
                let [a, b] = [a, b].map(|at| head * shape.head_dim + at);
                let angle = f64::from((past + t) as f32 * frequency);
                (row[a], row[b]) = (
                    row[a] * angle.cos() - row[b] * angle.sin(),
                    row[b] * angle.cos() + row[a] * angle.sin(),
                );
            }
        }
    }
    y
}

/// `rest` elements of each head are behind its pairs, `margin` elements of each row behind its heads.
fn check_rope(m: usize, heads: usize, pairs: usize, rest: usize, margin: usize, past: usize, seed: u64) {
    let mut random = Random(seed);
    let head_dim = 2 * pairs + rest;
    let width = heads * head_dim + margin;
    let (x, frequencies) = (random.floats(m * width), random.floats(pairs));
    for is_adjacent in [false, true] {
        let shape = RopeShape { width, heads, head_dim, is_adjacent };
        check(|cx| bits(&turned(cx, shape, &frequencies, past, &x)));
        let batch = turned(&Isa::best().into(), shape, &frequencies, past, &x);
        for (t, (x, y)) in x.chunks(width).zip(batch.chunks(width)).enumerate() {
            assert_eq!(
                bits(&turned(&Isa::best().into(), shape, &frequencies, past + t, x)),
                bits(y),
                "row {t} alone"
            );
        }
        for (i, (y, want)) in batch.iter().zip(rope_in_f64(shape, &frequencies, past, &x)).enumerate() {
            // Sine and cosine to a unit in the last place, two products and a sum, of numbers up to 60.
            assert!(
                (f64::from(*y) - want).abs() <= 120.0 * 3.0 * f64::from(f32::EPSILON),
                "{i}: {y}, want {want}"
            );
            let at = i % width;
            let stays = at >= heads * head_dim || at % head_dim >= 2 * pairs;
            assert!(!stays || y.to_bits() == x[i].to_bits(), "{i}: {y}, was {}", x[i]);
        }
    }
}

fn check_gate(m: usize, width: usize, seed: u64) {
    let x = Random(seed).floats(2 * m * width);
    for activation in ACTIVATIONS {
        let gated = |cx: &Context, x: &[f32]| {
            let mut y = vec![f32::NAN; x.len() / 2];
            gated_activation(cx, activation, x, width, &mut y);
            y
        };
        check(|cx| bits(&gated(cx, &x)));
        let batch = gated(&Isa::best().into(), &x);
        for (x, y) in x.chunks(2 * width).zip(batch.chunks(width)) {
            assert_eq!(bits(&gated(&Isa::best().into(), x)), bits(y), "{activation:?}: a row alone");
            // The gate is the function of its half, which has a test against f64, then there is one product.
            let mut gates = x[..width].to_vec();
            activate(&Isa::SCALAR.into(), activation, &mut gates);
            let want: Vec<f32> = gates.iter().zip(&x[width..]).map(|(gate, x)| gate * x).collect();
            assert_eq!(bits(y), bits(&want), "{activation:?}");
        }
    }
    let mut y = vec![0.0; m * width];
    gated_activation(&Isa::best().into(), Activation::Silu, &x, width, &mut y);
    for (i, y) in y.iter().enumerate() {
        let at = i / width * 2 * width + i % width;
        let (gate, value) = (f64::from(x[at]), f64::from(x[at + width]));
        let want = gate / (1.0 + (-gate).exp()) * value;
        // An exponential of a few units in the last place, relative; where it is beyond f32 the result is zero.
        let tolerance = 16.0 * f64::from(f32::EPSILON) * want.abs() + 1e-36;
        assert!((f64::from(*y) - want).abs() <= tolerance, "{i}: {y}, want {want}");
    }
}

const ACTIVATIONS: [Activation; 7] = [
    Activation::GeluTanh,
    Activation::GeluErf,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
    Activation::QuickGelu,
    Activation::Sigmoid,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rms_norms(m in 0..5_usize, run in 1..150_usize, runs in 0..4_usize, margin in 0..20_usize, seed in any::<u64>()) {
        if runs + margin > 0 {
            check_rms_norm(m, run, runs, margin, seed);
        }
    }

    #[test]
    fn rotations(
        (m, heads, pairs) in (0..5_usize, 1..5_usize, 1..40_usize),
        (rest, margin, past) in (0..20_usize, 0..40_usize, 0..5000_usize),
        seed in any::<u64>(),
    ) {
        check_rope(m, heads, pairs, rest, margin, past, seed);
    }

    #[test]
    fn gates(m in 0..5_usize, width in 1..150_usize, seed in any::<u64>()) {
        check_gate(m, width, seed);
    }
}

/// More rows than one thread takes, so that positions and rows must go together across threads.
#[test]
fn rows_of_several_threads() {
    check_rms_norm(700, 67, 1, 5, 12);
    check_rms_norm(70, 64, 9, 32, 13);
    check_rope(130, 5, 32, 3, 77, 11, 14);
    check_rope(4000, 1, 4, 1, 3, 0, 15);
    check_gate(300, 129, 16);
    check_gate(2, 20_000, 17);
}

/// What a hostile archive may hold as frequencies; any result will do, on every instruction set the same.
#[test]
fn frequencies_that_are_no_numbers_do_no_harm() {
    let frequencies = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        -f32::MAX,
        1e30,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
        -0.0,
    ];
    let x = Random(18).floats(3 * 40);
    for past in [0, 1, 1 << 24, usize::MAX - 10] {
        for is_adjacent in [false, true] {
            let shape = RopeShape { width: 40, heads: 2, head_dim: 19, is_adjacent };
            // Which NaN comes of two is nobody's promise.
            let bits_of = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
            check(|cx| {
                turned(cx, shape, &frequencies, past, &x).into_iter().map(bits_of).collect::<Vec<_>>()
            });
        }
    }
}

#[test]
fn sizes_that_threads_and_blocks_divide() {
    check_gemm(133, 70, 64, 1);
    check_gemm(3, 5000, 67, 2);
    check_linear_int8(1, 3000, 132, 3);
    check_linear_int8(140, 65, 100, 4);
    check_epilogue(30, 100, 129, 4);
    check_linear_int8_gated(270, 70, 129, 9);
    check_linear_int8_gated(2, 2500, 64, 10);
    check_linear_float(70, 130, 48, 5);
    check_linear_float(1, 1000, 100, 6);
    let x = Random(8).floats(100_000);
    check(|cx| {
        let mut y = x.clone();
        activate(cx, Activation::GeluTanh, &mut y);
        let mut z = vec![0.0; y.len()];
        layer_norm(cx, &y, 1000, &x[..1000], Some(&x[1000..2000]), 1e-5, &mut z);
        let mut rows = QuantizedRows::default();
        quantize_rows(cx, &x, 1000, ActivationPrecision::Int8x2, &mut rows);
        (bits(&z), rows)
    });
}

#[test]
fn read_patterns() {
    check_read_patterns(1, 700, 129, 19);
    check_read_patterns(3, 2000, 96, 20);
    check_read_patterns(4, 21, 64, 21);
}

#[test]
fn weights_may_be_unaligned() {
    let bytes = Random(9).codes(100 * 65 + 1);
    let x = Random(10).codes(6 * 65);
    let want = {
        let mut out = vec![0; 600];
        gemm_i32(&Isa::SCALAR.into(), &x, &bytes[1..], 6, 100, 65, &mut out);
        out
    };
    for isa in Isa::available() {
        let mut out = vec![0; 600];
        gemm_i32(&isa.into(), &x, &bytes[1..], 6, 100, 65, &mut out);
        assert_eq!(out, want, "{isa}");
    }
}

#[test]
fn each_precision_errs_by_no_more_than_its_step() {
    let (m, n, k) = (7, 50, 400);
    let mut random = Random(11);
    // One-sided, as activations after GELU are.
    let x: Vec<f32> = random.floats(m * k).into_iter().map(|x| x.clamp(-0.2, 3.0)).collect();
    let (codes, absmax) = (random.codes(n * k), vec![127.0; n]); // a weight is its code
    let w = Int8Rowwise::new(&codes, &absmax, n, k);
    for (precision, steps) in PRECISIONS.into_iter().zip([127.0 / 3.0, 254.0 / 3.2, 16256.0 / 3.0]) {
        let y = linear(&Isa::best().into(), &x, &w, None, precision);
        for (row, y) in x.chunks_exact(k).zip(y.chunks_exact(n)) {
            for (w, y) in codes.chunks_exact(k).zip(y) {
                let products = row.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let (exact, weight): (f64, f64) =
                    (products.sum(), w.iter().map(|w| f64::from(*w).abs()).sum());
                // Half a step per element, and f32 rounding of the whole.
                let allowed = 0.5 * weight / steps + 1e-5 * weight;
                assert!((f64::from(*y) - exact).abs() <= allowed, "{precision:?}: {y} for {exact}");
            }
        }
    }
}
