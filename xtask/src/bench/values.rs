//! `cargo xtask bench --values`: how speed and error depend on the distribution of activations.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aibit_kernels::{
    ActivationPrecision, Context, Epilogue, FloatMatrix, Int8Rowwise, Isa, QuantizedRows, Threads,
    linear_float, linear_int8, quantize_rows,
};
use anyhow::Context as _;

use super::rescaled;
use super::results::median;
use super::shape::{archive, run};
use crate::e2e;
use crate::shape::{Normal, Options, Shape, stream};

/// Outputs and inputs of the layers: a Llama's attention output, and its gate.
const LAYERS: [(usize, usize); 2] = [(2048, 2048), (8192, 2048)];

/// Rows of activations: a token, a prompt.
const TOKENS: [usize; 2] = [1, 512];

const PRECISIONS: [(&str, ActivationPrecision); 2] =
    [("fast", ActivationPrecision::Int8), ("precise", ActivationPrecision::Int8x2)];

/// Total number of weight codes, used in rotation so that a token's are in no cache.
const WEIGHTS: usize = 64 << 20;

/// Distributions of activations; all except those with loud channels have a mean square of 1.
const DISTRIBUTIONS: [(&str, Distribution); 11] = [
    ("normal", Distribution::Normal),
    ("Laplace", Distribution::Laplace),
    ("Student t (3)", Distribution::Student),
    ("1 channel at 10 ×", Distribution::Loud(1, 10.0)),
    ("1 channel at 100 ×", Distribution::Loud(1, 100.0)),
    ("1 channel at 1000 ×", Distribution::Loud(1, 1000.0)),
    ("8 channels at 10 ×", Distribution::Loud(8, 10.0)),
    ("8 channels at 100 ×", Distribution::Loud(8, 100.0)),
    ("8 channels at 1000 ×", Distribution::Loud(8, 1000.0)),
    ("all at one value", Distribution::Constant),
    ("alternating ±", Distribution::Alternating),
];

#[derive(Clone, Copy)]
enum Distribution {
    Normal,
    Laplace,
    /// Student's t with three degrees of freedom.
    Student,
    /// Normal, with this many channels multiplied by this factor.
    Loud(usize, f32),
    Constant,
    Alternating,
}

/// Measures both, and returns the page.
pub(super) fn measure(rounds: usize, given: Option<&Path>) -> anyhow::Result<String> {
    let aibit = match given {
        Some(path) => path.to_owned(),
        None => e2e::build()?.0,
    };
    let cx = Context {
        isa: Isa::selected()?,
        threads: Threads::team(std::thread::available_parallelism().map_or(1, usize::from)),
    };
    let mut page = format!(
        "# Speed and error by distribution of activations\n\n\
         Written by `cargo xtask bench --values`: {rounds} rounds, each over all distributions; medians. \
         Instruction set {}, {} threads.\n\n",
        cx.isa,
        cx.threads.count()
    );
    let layers = layers(&cx, rounds)?;
    eprintln!("{layers}");
    page.push_str(&layers);
    page.push_str(&models(&aibit, rounds)?);
    Ok(page)
}

/// The times of layers, by distribution, and their errors.
fn layers(cx: &Context, rounds: usize) -> anyhow::Result<String> {
    let normal = Normal::new();
    let codes: Vec<i8> =
        normal.take(stream(1, "weights"), WEIGHTS).iter().map(|z| (z * 29.0).round() as i8).collect();
    let mut header = String::from("| activations |");
    let mut fastest_row = String::from("| fastest, µs |");
    let mut cells = vec![String::new(); DISTRIBUTIONS.len()];
    let mut slowest = [(0.0_f64, String::new()), (0.0, String::new())];
    for (n, k) in LAYERS {
        let absmax = vec![1.0; n];
        for (size, m) in TOKENS.into_iter().enumerate() {
            let inputs = DISTRIBUTIONS.map(|(name, of)| of.rows(&normal, name, m, k));
            for (profile, precision) in PRECISIONS {
                let mut samples = vec![Vec::new(); DISTRIBUTIONS.len()];
                let (mut rows, mut y) = (QuantizedRows::default(), vec![0.0; m * n]);
                let mut weights = codes.chunks_exact(n * k).cycle();
                // The first round is a warm-up.
                for round in 0..=rounds {
                    for (x, samples) in inputs.iter().zip(&mut samples) {
                        let calls = if m == 1 { 16 } else { 1 };
                        let start = Instant::now();
                        for _ in 0..calls {
                            let codes = weights.next().context("weights")?;
                            quantize_rows(cx, x, k, precision, &mut rows);
                            let w = Int8Rowwise::new(codes, &absmax, n, k);
                            linear_int8(cx, &rows, &w, &Epilogue::default(), &mut y);
                        }
                        if round > 0 {
                            samples.push(1e6 * start.elapsed().as_secs_f64() / f64::from(calls));
                        }
                    }
                }
                let medians: Vec<f64> = samples.iter().filter_map(|samples| median(samples)).collect();
                let fastest = medians.iter().copied().fold(f64::INFINITY, f64::min);
                write!(header, " {n} × {k}, {m} {}, {profile} |", if m == 1 { "token" } else { "tokens" })?;
                write!(fastest_row, " {fastest:.0} |")?;
                for ((time, cell), (name, _)) in medians.iter().zip(&mut cells).zip(DISTRIBUTIONS) {
                    let ratio = time / fastest;
                    write!(cell, " {ratio:.2} |")?;
                    if ratio > slowest[size].0 {
                        slowest[size] = (ratio, format!("{n} × {k}, {profile}, {name}"));
                    }
                }
            }
        }
    }
    let columns = LAYERS.len() * TOKENS.len() * PRECISIONS.len();
    let mut text = format!(
        "## One layer\n\nTime to quantize the activations and multiply them by weights that are in no cache ({} MB used in \
         rotation), relative to the fastest of the column. The limits are 1.35 for a token and 1.6 for a prompt; the \
         maxima are {:.2} ({}) and {:.2} ({}).\n\n{header}\n| --- |{}\n{fastest_row}\n",
        WEIGHTS >> 20,
        slowest[0].0,
        slowest[0].1,
        slowest[1].0,
        slowest[1].1,
        " ---: |".repeat(columns),
    );
    for ((name, _), cell) in DISTRIBUTIONS.iter().zip(&cells) {
        writeln!(text, "| {name} |{cell}")?;
    }
    text.push_str(
        "\n## Error of one layer\n\n\
         Relative error of the outputs against the product of the same weights with the activations in f32 \
         (√(Σ error² / Σ y²) over 512 tokens and 2048 outputs).\n\n| activations | fast | precise |\n| --- | ---: | ---: |\n",
    );
    let (m, (n, k)) = (TOKENS[1], LAYERS[0]);
    let codes = &codes[..n * k];
    let weights: Vec<f32> = codes.iter().map(|&code| f32::from(code) / 127.0).collect();
    for (name, of) in DISTRIBUTIONS {
        let x = of.rows(&normal, name, m, k);
        let (mut exact, mut y) = (vec![0.0; m * n], vec![0.0; m * n]);
        linear_float(cx, &x, FloatMatrix::F32(&weights), m, n, k, &Epilogue::default(), &mut exact);
        let squares =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        write!(text, "| {name} |")?;
        for (_, precision) in PRECISIONS {
            let mut rows = QuantizedRows::default();
            quantize_rows(cx, &x, k, precision, &mut rows);
            let absmax = vec![1.0; n];
            linear_int8(cx, &rows, &Int8Rowwise::new(codes, &absmax, n, k), &Epilogue::default(), &mut y);
            let error = squares(&mut y.iter().zip(&exact).map(|(a, b)| a - b));
            write!(text, " {:.3} % |", 100.0 * (error / squares(&mut exact.iter().copied())).sqrt())?;
        }
        text.push('\n');
    }
    text.push('\n');
    Ok(text)
}

impl Distribution {
    fn rows(self, normal: &Normal, name: &str, m: usize, k: usize) -> Vec<f32> {
        let normals = |part: &str| normal.take(stream(2, &format!("{name} {part}")), m * k);
        match self {
            Self::Normal => normals("values"),
            Self::Laplace => {
                // The product of a random sign and an exponential, which is half the sum of two squared normals.
                let (a, b, sign) = (normals("a"), normals("b"), normals("sign"));
                let value = |((a, b), sign): ((f32, f32), f32)| {
                    (0.5_f32 * (a * a + b * b)).copysign(sign) / std::f32::consts::SQRT_2
                };
                a.into_iter().zip(b).zip(sign).map(value).collect()
            }
            Self::Student => {
                // Divided by the root of three squares instead of their mean: the variance is 1, not 3.
                let parts = ["value", "a", "b", "c"].map(normals);
                let value = |index: usize| {
                    let [value, a, b, c] = [0, 1, 2, 3].map(|part: usize| parts[part][index]);
                    value / (a * a + b * b + c * c).sqrt()
                };
                (0..m * k).map(value).collect()
            }
            Self::Loud(channels, factor) => {
                let mut values = normals("values");
                for row in values.chunks_mut(k) {
                    for channel in 0..channels {
                        row[(channel * k / channels + 17) % k] *= factor;
                    }
                }
                values
            }
            Self::Constant => vec![1.0; m * k],
            Self::Alternating => (0..m * k).map(|index| if index % 2 == 0 { 1.0 } else { -1.0 }).collect(),
        }
    }
}

/// Whole models that compute the same function with activations of different magnitudes.
fn models(aibit: &Path, rounds: usize) -> anyhow::Result<String> {
    let mut smollm2 = Vec::new();
    for scale in [1.0, 4.0, 16.0, 64.0] {
        smollm2.push((format!("SmolLM2, norms × {scale}"), rescaled::smollm2(aibit, scale)?));
    }
    let mut llama = Vec::new();
    for norms in [0.05, 1.0, 8.0] {
        let options = Options { norms, ..Options::default() };
        llama.push((format!("llama-1b, gain {norms}"), archive(aibit, Shape::Llama1b, &options)?));
    }
    let mut text = String::from(
        "## Whole models\n\nSmolLM2-135M-Instruct with its norms multiplied and the following layers divided by the same power of \
         two (with an untied head): exactly the same function. `cargo xtask shape llama-1b` with three norm gains, \
         likewise. Profile fast; tokens per second, and the speed of the group's fastest relative to the row's.\n\n\
         | | pp512 | tg64 | pp512, fastest | tg64, fastest |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for group in [&smollm2, &llama] {
        text.push_str(&group_rows(aibit, rounds, group)?);
    }
    Ok(text)
}

fn group_rows(aibit: &Path, rounds: usize, group: &[(String, PathBuf)]) -> anyhow::Result<String> {
    const TESTS: [&str; 2] = ["pp512", "tg64"];
    let mut samples = vec![[Vec::new(), Vec::new()]; group.len()];
    for round in 0..rounds {
        for ((name, archive), samples) in group.iter().zip(&mut samples) {
            let file = archive.to_str().context("a path in UTF-8")?;
            let report = run(aibit, &["bench", file, "-p", "512", "-n", "64", "-r", "3", "-o", "json"])?;
            for row in report["rows"].as_array().context("rows")? {
                let test = TESTS.iter().position(|test| row["test"] == *test);
                if let (Some(test), Some(values)) = (test, row["samples"].as_array()) {
                    samples[test].extend(values.iter().filter_map(serde_json::Value::as_f64));
                }
            }
            eprintln!("round {} of {rounds}: {name}", round + 1);
        }
    }
    let speeds: Vec<[f64; 2]> =
        samples.iter().map(|tests| tests.each_ref().map(|samples| median(samples).unwrap_or(0.0))).collect();
    let fastest = [0, 1].map(|test: usize| speeds.iter().map(|speeds| speeds[test]).fold(0.0, f64::max));
    let mut text = String::new();
    for ((name, _), [prefill, decode]) in group.iter().zip(&speeds) {
        writeln!(
            text,
            "| {name} | {prefill:.0} | {decode:.1} | {:.2} | {:.2} |",
            fastest[0] / prefill,
            fastest[1] / decode
        )?;
    }
    Ok(text)
}
