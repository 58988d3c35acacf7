//! The kernels on the shapes of GPT-2 (124M), on every instruction set of this CPU, on as many threads as there are cores.
//!
//! After each measurement stands its best time as a share of what bounds it: of the bandwidth of memory where every
//! weight is read once, of the multiply-adds that the instruction set can do where weights are used many times.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aibit_kernels::{
    Activation, ActivationPrecision, AttentionShape, Context, Epilogue, FloatMatrix, Int8Rowwise, Isa,
    KvDtype, KvRun, PAGE, QuantizedRows, Threads, activate, add_assign, attention, embed_int8, layer_norm,
    limits, linear_float, linear_int8, quantize_rows,
};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const N_EMBD: usize = 768;
const N_LAYER: usize = 12;

/// The linear layers, as `(name, n, k)`.
const LAYERS: [(&str, usize, usize); 5] = [
    ("qkv", 3 * N_EMBD, N_EMBD),
    ("attn_proj", N_EMBD, N_EMBD),
    ("fc", 4 * N_EMBD, N_EMBD),
    ("mlp_proj", N_EMBD, 4 * N_EMBD),
    ("head", 50_257, N_EMBD),
];

/// Tokens of a prompt that are computed at a time.
const PREFILL: usize = 128;

/// What one token reads is far more than any cache holds, so decode is measured on this many bytes of weights in turn.
const COLD_BYTES: usize = 256 << 20;

/// Every instruction set, on as many threads as there are cores.
fn contexts() -> impl Iterator<Item = Context> {
    let threads = Threads::team(std::thread::available_parallelism().map_or(1, usize::from));
    Isa::available().into_iter().map(move |isa| Context { isa, threads: threads.clone() })
}

fn linear_layers(c: &mut Criterion) {
    let mut group = group(c, "linear_int8");
    for (name, n, k) in LAYERS {
        decode_int8(&mut group, name, n, k, ActivationPrecision::Int8);
        if name != "head" {
            prefill_int8(&mut group, name, n, k, ActivationPrecision::Int8);
        }
    }
    let (name, n, k) = LAYERS[2];
    for precision in [ActivationPrecision::Int8Asym, ActivationPrecision::Int8x2] {
        decode_int8(&mut group, name, n, k, precision);
        prefill_int8(&mut group, name, n, k, precision);
    }
    group.finish();

    let mut group = self::group(c, "linear_float");
    for (name, n, k) in [LAYERS[2], LAYERS[4]] {
        let w = copies(n * k * 4, || floats(n * k));
        let x = floats(k);
        for cx in contexts() {
            let (mut turn, mut y) = (w.iter().cycle(), vec![0.0; n]);
            measure(&mut group, &cx, &format!("decode_{name}_f32"), Bound::Memory(n * k * 4), || {
                let w = FloatMatrix::F32(turn.next().expect("endless"));
                linear_float(&cx, &x, w, 1, n, k, &Epilogue::default(), &mut y);
            });
        }
    }
    let (name, n, k) = LAYERS[2];
    let (x, w) = (floats(PREFILL * k), floats(n * k));
    for cx in contexts() {
        let mut y = vec![0.0; PREFILL * n];
        let operations = 2 * PREFILL * n * k;
        measure(&mut group, &cx, &format!("prefill_{name}_f32"), Bound::Float(operations), || {
            linear_float(&cx, &x, FloatMatrix::F32(&w), PREFILL, n, k, &Epilogue::default(), &mut y);
        });
    }
    group.finish();
}

fn decode_int8(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    n: usize,
    k: usize,
    precision: ActivationPrecision,
) {
    let (w, absmax) = (copies(n * k, || codes(n * k)), vec![1.0; n]);
    let (mut x, mut y) = (QuantizedRows::default(), vec![0.0; n]);
    for cx in contexts() {
        quantize_rows(&cx, &floats(k), k, precision, &mut x);
        let mut turn = w.iter().cycle();
        measure(group, &cx, &format!("decode_{name}_{precision:?}"), Bound::Memory(n * k + 4 * n), || {
            let w = Int8Rowwise::new(turn.next().expect("endless"), &absmax, n, k);
            linear_int8(&cx, &x, &w, &Epilogue::default(), &mut y);
        });
    }
}

fn prefill_int8(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    n: usize,
    k: usize,
    precision: ActivationPrecision,
) {
    let (codes, absmax) = (codes(n * k), vec![1.0; n]);
    let w = Int8Rowwise::new(&codes, &absmax, n, k);
    let (mut x, mut y) = (QuantizedRows::default(), vec![0.0; PREFILL * n]);
    // Two bytes for each activation are two products.
    let planes = if precision == ActivationPrecision::Int8x2 { 2 } else { 1 };
    for cx in contexts() {
        quantize_rows(&cx, &floats(PREFILL * k), k, precision, &mut x);
        let operations = 2 * planes * PREFILL * n * k;
        measure(group, &cx, &format!("prefill_{name}_{precision:?}"), Bound::Integer(operations), || {
            linear_int8(&cx, &x, &w, &Epilogue::default(), &mut y);
        });
    }
}

fn attention_layers(c: &mut Criterion) {
    let mut group = group(c, "attention");
    let shape = AttentionShape { n_head: 12, n_kv_head: 12, head_dim: 64, scale: 0.125 };
    // The caches of all layers, as a token meets them.
    let page = shape.page_bytes(KvDtype::F32).expect("a small page") / size_of::<f32>();
    let caches: Vec<Vec<f32>> = (0..N_LAYER).map(|_| floats(1024 / PAGE * page)).collect();
    for (name, m, past) in [("decode_at_512", 1, 512), ("decode_at_1000", 1, 1000), ("prefill512", 512, 0)] {
        let (qkv, mut y) = (floats(m * shape.qkv_width()), vec![0.0; m * N_EMBD]);
        let pairs: usize = (0..m).map(|i| past + i + 1).sum();
        let bound = match m {
            1 => Bound::Memory(2 * N_EMBD * (past + 1) * size_of::<f32>()),
            _ => Bound::Float(4 * N_EMBD * pairs),
        };
        for cx in contexts() {
            let mut turn = caches.iter().cycle();
            measure(&mut group, &cx, name, bound, || {
                let pages =
                    turn.next().expect("endless").chunks_exact(page).map(bytemuck::cast_slice).collect();
                let run = KvRun { rows: m, past, pages };
                attention(&cx, &shape, KvDtype::F32, &qkv, &[run], &mut y);
            });
        }
    }
    group.finish();
}

fn between_layers(c: &mut Criterion) {
    let mut group = group(c, "between_layers");
    let (table, absmax) = (codes(1024 * N_EMBD), vec![1.0; 1024]);
    let table = Int8Rowwise::new(&table, &absmax, 1024, N_EMBD);
    for (name, m) in [("decode", 1), ("prefill", PREFILL)] {
        let (x, weight) = (floats(m * N_EMBD), floats(N_EMBD));
        let (mut y, mut rows) = (x.clone(), QuantizedRows::default());
        let mut wide = floats(m * 4 * N_EMBD);
        let ids: Vec<u32> = (0..m as u32).map(|i| i * 37 % 1024).collect();
        for cx in contexts() {
            for precision in
                [ActivationPrecision::Int8, ActivationPrecision::Int8Asym, ActivationPrecision::Int8x2]
            {
                measure(&mut group, &cx, &format!("{name}_quantize_{precision:?}"), Bound::Cache, || {
                    quantize_rows(&cx, &x, N_EMBD, precision, &mut rows);
                });
            }
            measure(&mut group, &cx, &format!("{name}_layer_norm"), Bound::Cache, || {
                layer_norm(&cx, &x, N_EMBD, &weight, Some(&weight), 1e-5, &mut y);
            });
            measure(&mut group, &cx, &format!("{name}_gelu"), Bound::Cache, || {
                activate(&cx, Activation::GeluTanh, &mut wide);
            });
            measure(&mut group, &cx, &format!("{name}_add"), Bound::Cache, || add_assign(&cx, &mut y, &x));
        }
        measure(&mut group, &Isa::SCALAR.into(), &format!("{name}_embed_int8"), Bound::Cache, || {
            embed_int8(&table, &ids, &mut y);
        });
    }
    group.finish();
}

/// What a kernel cannot be faster than.
#[derive(Clone, Copy)]
enum Bound {
    /// So many bytes come from memory.
    Memory(usize),
    /// So many integer operations on codes.
    Integer(usize),
    /// So many floating-point operations.
    Float(usize),
    /// Its data are in the caches, whose speed is not measured.
    Cache,
}

impl Bound {
    /// What `seconds` are as a share of what this CPU can do, in words.
    fn share(self, cx: &Context, seconds: f64) -> Option<String> {
        let (isa, threads) = (cx.isa, cx.threads.count());
        let (amount, unit, what, limit): (_, _, _, fn(Isa, usize) -> f64) = match self {
            Self::Memory(bytes) => (bytes, "GB/s", "bandwidth", |isa, n| {
                limits::read_bandwidth(isa, n, COLD_BYTES, limits::PASSES)
            }),
            Self::Integer(operations) => (operations, "GOPS", "int8 peak", limits::int8_peak),
            Self::Float(operations) => (operations, "GFLOPS", "f32 peak", limits::f32_peak),
            Self::Cache => return None,
        };
        static KNOWN: Mutex<Option<HashMap<(&str, &str), f64>>> = Mutex::new(None);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let limit =
            *known.get_or_insert_default().entry((isa.name(), what)).or_insert_with(|| limit(isa, threads));
        let speed = amount as f64 / seconds / 1e9;
        let percent = 100.0 * speed / limit;
        Some(format!(
            "{speed:.1} {unit}, {percent:.0} % of the {what} of {threads} threads, {limit:.1} {unit}"
        ))
    }
}

/// Measures `work` and prints the best time's share of its bound.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    cx: &Context,
    name: &str,
    bound: Bound,
    mut work: impl FnMut(),
) {
    if let Bound::Memory(amount) | Bound::Integer(amount) | Bound::Float(amount) = bound {
        group.throughput(Throughput::Elements(amount as u64));
    }
    let mut best = f64::INFINITY;
    group.bench_function(BenchmarkId::new(cx.isa.name(), name), |bench| {
        bench.iter_custom(|iterations| {
            let start = Instant::now();
            (0..iterations).for_each(|_| work());
            let elapsed = start.elapsed();
            best = best.min(elapsed.as_secs_f64() / iterations as f64);
            elapsed
        });
    });
    // A filter on the command line may have left it out.
    if let Some(share) = Some(best).filter(|best| best.is_finite()).and_then(|best| bound.share(cx, best)) {
        eprintln!("{:24}best {:.1} us: {share}\n", "", 1e6 * best);
    }
}

fn group<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    // There are many kernels, and the best of several short runs is what counts.
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}

/// As many copies of what `make` gives, `bytes` long each, as do not fit a cache.
fn copies<T>(bytes: usize, make: impl Fn() -> Vec<T>) -> Vec<Vec<T>> {
    (0..COLD_BYTES.div_ceil(bytes)).map(|_| make()).collect()
}

/// A fixed sequence of 32-bit values (SplitMix64).
fn random() -> impl Iterator<Item = u32> {
    let mut state = 0_u64;
    std::iter::from_fn(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Some((z >> 32) as u32)
    })
}

fn codes(count: usize) -> Vec<i8> {
    random().take(count).map(|bits| bits as i8).collect()
}

fn floats(count: usize) -> Vec<f32> {
    random().take(count).map(|bits| bits as f32 / (1_u64 << 31) as f32 - 1.0).collect()
}

criterion_group!(benches, linear_layers, attention_layers, between_layers);
criterion_main!(benches);
