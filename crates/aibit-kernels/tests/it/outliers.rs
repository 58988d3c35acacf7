//! Outliers of activations: as their definition says, never many, and never a loss.

use aibit_kernels::*;

use crate::same_bits::Random;

const PRECISIONS: [ActivationPrecision; 3] =
    [ActivationPrecision::Int8, ActivationPrecision::Int8Asym, ActivationPrecision::Int8x2];

/// Rows of `k` elements as models have them and as nobody would want them, with a name each.
fn rows(k: usize) -> Vec<(String, Vec<f32>)> {
    let mut random = Random(k as u64);
    let normal = |random: &mut Random| (0..12).map(|_| random.unit()).sum::<f32>() / 2.0;
    let mut rows = Vec::new();
    for scale in [1e-30, 0.03, 1.0, 3e4] {
        rows.push((format!("normal, {scale}"), (0..k).map(|_| scale * normal(&mut random)).collect()));
    }
    rows.push((
        "Laplace".into(),
        (0..k).map(|_| -random.unit().signum() * random.unit().abs().max(1e-6).ln()).collect(),
    ));
    rows.push((
        "Student t (3)".into(),
        (0..k)
            .map(|_| {
                let squares: f32 = (0..3).map(|_| normal(&mut random).powi(2)).sum();
                normal(&mut random) / (squares / 3.0).sqrt()
            })
            .collect(),
    ));
    for (channels, factor) in
        [(1, 10.0), (1, 1000.0), (3, 1e5), (8, 10.0), (8, 1000.0), (9, 100.0), (40, 30.0)]
    {
        let mut row: Vec<f32> = (0..k).map(|_| normal(&mut random)).collect();
        row.iter_mut().step_by((k / channels).max(1)).take(channels).for_each(|x| *x *= factor);
        rows.push((format!("{channels} channels at {factor} times"), row));
    }
    rows.push(("all at one value".into(), vec![0.7; k]));
    rows.push(("alternating".into(), (0..k).map(|i| [3.0, -3.0][i % 2]).collect()));
    rows.push(("one-sided".into(), (0..k).map(|_| normal(&mut random).max(-0.17)).collect()));
    rows.push(("one element".into(), (0..k).map(|i| if i == k / 2 { -8.0 } else { 0.0 }).collect()));
    rows
}

/// What the documentation of [`quantize_rows`] says of a row, done the slow way: scale and integers.
fn by_definition(x: &[f32], precision: ActivationPrecision) -> (f32, Vec<i64>) {
    let absmax = x.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let allowed = x.len().div_ceil(128).max(8).min(x.len().div_ceil(16));
    let bound = |j: i32| {
        let octave = 0.5_f32.powi(j / 4);
        absmax * octave * (0.5_f64.powf(f64::from(j % 4) / 4.0) as f32)
    };
    let is_few = |j: &i32| x.iter().filter(|x| x.abs() > bound(*j)).count() <= allowed;
    let j = (0..=56).rfind(is_few).expect("nothing exceeds the first bound");
    let bound = if precision == ActivationPrecision::Int8x2 && j < 24 { absmax } else { bound(j) };
    let within = || x.iter().copied().filter(|x| x.abs() <= bound);
    let largest = within().fold(0.0_f32, |max, x| max.max(x.abs()));
    let round = |x: f32| i64::from(x.round_ties_even() as i32);
    match precision {
        ActivationPrecision::Int8 | ActivationPrecision::Int8x2 => {
            let (steps, octaves) =
                if precision == ActivationPrecision::Int8 { (127.0, 14) } else { (16256.0, 7) };
            let bulk = largest.max(absmax * 0.5_f32.powi(octaves));
            (bulk / steps, x.iter().map(|x| round(x * (steps / bulk))).collect())
        }
        ActivationPrecision::Int8Asym => {
            let (min, max) = within().fold((0.0_f32, 0.0_f32), |(min, max), x| (min.min(x), max.max(x)));
            let range = (max - min).max(absmax * 0.5_f32.powi(13));
            let first = round(min * (254.0 / range));
            // The last step that rounding may add is left out, where the element is no outlier.
            let fit = |q: i64| if q - first == 255 { q - 1 } else { q };
            (range / 254.0, x.iter().map(|x| fit(round(x * (254.0 / range)))).collect())
        }
    }
}

#[test]
fn rows_are_quantized_as_the_definition_says() {
    for k in [1, 15, 16, 17, 64, 129, 576, 2048, 4100] {
        for (name, x) in rows(k) {
            for precision in PRECISIONS {
                let (scale, integers) = by_definition(&x, precision);
                let want: Vec<f64> = integers.iter().map(|q| *q as f64 * f64::from(scale)).collect();
                let mut found = QuantizedRows::default();
                quantize_rows(&Isa::best().into(), &x, k, precision, &mut found);
                assert_eq!(found.scales(), [scale], "{precision:?}, {k}, {name}");
                assert_eq!(found.values(0), want, "{precision:?}, {k}, {name}");
                assert!(
                    found.outlier_entries().count() <= QuantizedRows::max_outliers(k),
                    "{precision:?}, {k}, {name}"
                );
                assert!(found.codes().iter().all(|code| *code != i8::MIN), "{precision:?}, {k}, {name}");
            }
        }
    }
}

#[test]
fn two_bytes_are_never_worse_than_one() {
    for k in [16, 100, 576, 2048] {
        for (name, x) in rows(k) {
            let error = |precision| {
                let mut rows = QuantizedRows::default();
                quantize_rows(&Isa::best().into(), &x, k, precision, &mut rows);
                let squares = x.iter().zip(rows.values(0)).map(|(x, value)| (f64::from(*x) - value).powi(2));
                squares.sum::<f64>().sqrt()
            };
            let [one, above_zero, two] = PRECISIONS.map(error);
            let size = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            // Where one byte errs by no more than f32 itself does, there is nothing to gain.
            let nothing = f64::from(f32::EPSILON) * size;
            assert!(
                two <= one.max(nothing) && two <= above_zero.max(nothing),
                "{k}, {name}: {two}, {one}, {above_zero}"
            );
        }
    }
}

/// Eight elements a thousand times the others cost them no more than one in a thousand of their size does.
#[test]
fn outliers_leave_the_others_their_scale() {
    let (k, mut random) = (2048, Random(3));
    let plain: Vec<f32> = (0..k).map(|_| random.unit()).collect();
    let mut x = plain.clone();
    x.iter_mut().step_by(k / 8).for_each(|x| *x *= 1000.0);
    let mut rows = QuantizedRows::default();
    quantize_rows(&Isa::best().into(), &x, k, ActivationPrecision::Int8, &mut rows);
    let largest = plain.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    assert!(rows.scales()[0] <= largest / 127.0);
    for (x, value) in x.iter().zip(rows.values(0)) {
        assert!((f64::from(*x) - value).abs() <= f64::from(0.501 * largest / 127.0), "{value} for {x}");
    }
}
