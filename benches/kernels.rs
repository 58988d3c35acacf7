//! The kernels on the shapes of GPT-2 (124M), on every instruction set of this CPU, with rayon's threads.

use aibit_kernels::{
    Activation, ActivationPrecision, AttentionShape, Epilogue, FloatMatrix, Int8Rowwise, Isa, QuantizedRows,
    activate, attention, gemm_i32, layer_norm, linear_float, linear_int8, quantize_rows,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// `(name, m, n, k)`.
const SHAPES: [(&str, usize, usize, usize); 4] = [
    ("decode_ffn_up", 1, 3072, 768),
    ("decode_lm_head", 1, 50_257, 768),
    ("prefill128_ffn_up", 128, 3072, 768),
    ("prefill128_ffn_down", 128, 768, 3072),
];

fn integer_products(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm_i32");
    for (name, m, n, k) in SHAPES {
        let (a, b) = (codes(m * k), codes(n * k));
        let mut out = vec![0; m * n];
        group.throughput(Throughput::Elements((2 * m * n * k) as u64));
        for isa in Isa::available() {
            group.bench_function(BenchmarkId::new(isa.name(), name), |bench| {
                bench.iter(|| gemm_i32(isa, &a, &b, m, n, k, &mut out));
            });
        }
    }
    group.finish();
}

fn layers(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear_int8");
    for (name, m, n, k) in SHAPES {
        let (x, codes, absmax) = (floats(m * k), codes(n * k), vec![1.0; n]);
        let w = Int8Rowwise::new(&codes, &absmax, n, k);
        let (mut rows, mut y) = (QuantizedRows::default(), vec![0.0; m * n]);
        group.throughput(Throughput::Elements((2 * m * n * k) as u64));
        for isa in Isa::available() {
            group.bench_function(BenchmarkId::new(isa.name(), name), |bench| {
                bench.iter(|| {
                    quantize_rows(isa, &x, k, ActivationPrecision::Int8, Some(6.0), &mut rows);
                    linear_int8(isa, &rows, &w, &Epilogue::default(), &mut y);
                });
            });
        }
    }
    group.finish();

    let mut group = c.benchmark_group("linear_float_f32");
    for (name, m, n, k) in SHAPES {
        let (x, w) = (floats(m * k), floats(n * k));
        let mut y = vec![0.0; m * n];
        group.throughput(Throughput::Elements((2 * m * n * k) as u64));
        for isa in Isa::available() {
            group.bench_function(BenchmarkId::new(isa.name(), name), |bench| {
                bench.iter(|| {
                    linear_float(isa, &x, FloatMatrix::F32(&w), m, n, k, &Epilogue::default(), &mut y)
                });
            });
        }
    }
    group.finish();
}

fn between_layers(c: &mut Criterion) {
    let shape = AttentionShape { n_head: 12, n_kv_head: 12, head_dim: 64, scale: 0.125, capacity: 1024 };
    let (keys, values) = (floats(shape.cache_len()), floats(shape.cache_len()));
    let mut group = c.benchmark_group("attention");
    for (name, m, past) in [("decode_at_1000", 1, 1000), ("prefill128", 128, 0), ("prefill1024", 1024, 0)] {
        let (qkv, mut y) = (floats(m * shape.qkv_width()), vec![0.0; m * 768]);
        let pairs = (0..m).map(|i| past + i + 1).sum::<usize>();
        group.throughput(Throughput::Elements((4 * 768 * pairs) as u64));
        for isa in Isa::available() {
            group.bench_function(BenchmarkId::new(isa.name(), name), |bench| {
                bench.iter(|| attention(isa, &shape, &qkv, m, past, &keys, &values, &mut y));
            });
        }
    }
    group.finish();

    let mut group = c.benchmark_group("elementwise");
    let (x, weight) = (floats(128 * 3072), floats(3072));
    group.throughput(Throughput::Elements(x.len() as u64));
    for isa in Isa::available() {
        let mut y = x.clone();
        group.bench_function(BenchmarkId::new(isa.name(), "prefill128_gelu_tanh"), |bench| {
            bench.iter(|| activate(isa, Activation::GeluTanh, &mut y));
        });
        group.bench_function(BenchmarkId::new(isa.name(), "prefill128_layer_norm_3072"), |bench| {
            bench.iter(|| layer_norm(isa, &x, 3072, &weight, Some(&weight), 1e-5, &mut y));
        });
    }
    group.finish();
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

criterion_group!(benches, integer_products, layers, between_layers);
criterion_main!(benches);
