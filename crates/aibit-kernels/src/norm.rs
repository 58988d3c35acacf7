//! Normalization: by mean and variance, or by the mean of the squares.

use std::ops::Range;

use crate::{
    Context,
    isa::dispatch,
    simd::{Simd, lane_sum},
    tiles::for_each_piece,
};

/// Rows handed to a thread at a time: this many elements or more.
const TASK: usize = 16 * 1024;

/// Writes the layer normalization of each row of `x[m, width]` to `y`:
/// `(x - mean) · 1/√(variance + epsilon) · weight + bias`.
///
/// `weight` and `bias` have `width` elements. The variance is that of the population, summed in a
/// second pass over `x - mean`; both sums go over sixteen lanes and a tree, as in
/// [`dot_f32`](crate::dot_f32). The last product and the bias are one fused multiply-add.
///
/// # Panics
/// If `width` is zero, `x` and `y` differ in length or are not whole rows, or `weight` or `bias` is
/// not `width` long.
///
/// Source: Ba et al. 2016 (arXiv:1607.06450), §3; the biased variance is PyTorch's.
pub fn layer_norm(
    cx: &Context,
    x: &[f32],
    width: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    y: &mut [f32],
) {
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "layer_norm: x has {} elements in rows of {width}",
        x.len()
    );
    assert_eq!(x.len(), y.len(), "layer_norm: lengths of x and y");
    assert_eq!(weight.len(), width, "layer_norm: length of weight, width");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), width, "layer_norm: length of bias, width");
    }
    let rows = TASK.div_ceil(width);
    let run = |x: &[f32], y: &mut [f32]| {
        dispatch!(cx.isa => rows_loop(x: &[f32], width: usize, weight: &[f32], bias: Option<&[f32]>, epsilon: f32, y: &mut [f32]));
    };
    if x.len() > 2 * TASK {
        for_each_piece(&cx.threads, y, rows * width, |index, y| {
            run(&x[index * rows * width..][..y.len()], y)
        });
    } else {
        run(x, y);
    }
}

#[inline(always)]
fn rows_loop<S: Simd>(
    _: S,
    x: &[f32],
    width: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    y: &mut [f32],
) {
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let mean = lane_sum(x, |x| x) / width as f32;
        let variance = lane_sum(x, |x| (x - mean) * (x - mean)) / width as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        match bias {
            Some(bias) => {
                for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = ((x - mean) * factor).mul_add(*w, *b);
                }
            }
            None => {
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    *y = (x - mean) * factor * w;
                }
            }
        }
    }
}

/// Writes each row of `x[m, width]`, divided by the root of the mean of its squares, to `y`:
/// `x · 1/√(mean(x²) + epsilon) · weight`.
///
/// `width` is the length of `weight`. The sum goes over sixteen lanes and a tree, as in
/// [`dot_f32`](crate::dot_f32).
///
/// # Panics
/// If `weight` is empty, `x` and `y` differ in length or are not whole rows.
///
/// Source: Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4.
pub fn rms_norm(cx: &Context, x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "rms_norm: x has {} elements in rows of {width}",
        x.len()
    );
    assert_eq!(x.len(), y.len(), "rms_norm: lengths of x and y");
    let rows = TASK.div_ceil(width);
    let run = |x: &[f32], y: &mut [f32]| {
        dispatch!(cx.isa => rms_loop(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]));
    };
    if x.len() > 2 * TASK {
        for_each_piece(&cx.threads, y, rows * width, |index, y| {
            run(&x[index * rows * width..][..y.len()], y)
        });
    } else {
        run(x, y);
    }
}

/// [`rms_norm`] in place of each run of `weight`'s length in the columns `range` of `x[m, width]`: of each head of the
/// queries or keys, for instance. The other columns stay as they are.
///
/// # Panics
/// If `weight` is empty, `x` is not whole rows, or `range` is not whole runs within a row.
pub fn rms_norm_runs(
    cx: &Context,
    x: &mut [f32],
    width: usize,
    range: Range<usize>,
    weight: &[f32],
    epsilon: f32,
) {
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "rms_norm_runs: x has {} elements in rows of {width}",
        x.len()
    );
    assert!(
        range.end <= width && !weight.is_empty() && range.len().is_multiple_of(weight.len()),
        "rms_norm_runs: columns {range:?} of {width} in runs of {}",
        weight.len()
    );
    let range = &range;
    let run = |x: &mut [f32]| {
        dispatch!(cx.isa => rms_runs_loop(x: &mut [f32], width: usize, range: &Range<usize>, weight: &[f32], epsilon: f32));
    };
    if x.len() > 2 * TASK {
        let rows = TASK.div_ceil(width);
        for_each_piece(&cx.threads, x, rows * width, |_, x| run(x));
    } else {
        run(x);
    }
}

#[inline(always)]
fn rms_loop<S: Simd>(_: S, x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
        let factor = rms_factor(x, epsilon);
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * factor * w;
        }
    }
}

#[inline(always)]
fn rms_runs_loop<S: Simd>(
    _: S,
    x: &mut [f32],
    width: usize,
    range: &Range<usize>,
    weight: &[f32],
    epsilon: f32,
) {
    for row in x.chunks_exact_mut(width) {
        for run in row[range.clone()].chunks_exact_mut(weight.len()) {
            let factor = rms_factor(run, epsilon);
            for (x, w) in run.iter_mut().zip(weight) {
                *x = *x * factor * w;
            }
        }
    }
}

#[inline(always)]
fn rms_factor(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (lane_sum(x, |x| x * x) / x.len() as f32 + epsilon).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn a_root_mean_square_worked_out_by_hand() {
        // The squares' mean is 12.5; with epsilon 3.5 the factor is 1/4.
        let mut y = [0.0; 4];
        rms_norm(&Isa::SCALAR.into(), &[3.0, 4.0, -3.0, 4.0], &[1.0, 2.0], 3.5, &mut y);
        assert_eq!(y, [0.75, 2.0, -0.75, 2.0]);
        let mut x = [9.0, 3.0, 4.0, -3.0, 4.0, 9.0];
        rms_norm_runs(&Isa::SCALAR.into(), &mut x, 6, 1..5, &[1.0, 2.0], 3.5);
        assert_eq!(x, [9.0, 0.75, 2.0, -0.75, 2.0, 9.0]);
    }

    #[test]
    fn a_row_worked_out_by_hand() {
        // mean 2.5, variance 1.25; with epsilon 1.0 the factor is 1/1.5.
        let mut y = [0.0; 4];
        layer_norm(
            &Isa::SCALAR.into(),
            &[1.0, 2.0, 3.0, 4.0],
            4,
            &[1.5, 1.5, 3.0, 3.0],
            Some(&[0.0, 1.0, 0.0, 1.0]),
            1.0,
            &mut y,
        );
        assert_eq!(y, [-1.5, 0.5, 1.0, 4.0]);
        layer_norm(&Isa::SCALAR.into(), &[1.0, 2.0, 3.0, 4.0], 4, &[1.5, 1.5, 3.0, 3.0], None, 1.0, &mut y);
        assert_eq!(y, [-1.5, -0.5, 1.0, 3.0]);
    }
}
