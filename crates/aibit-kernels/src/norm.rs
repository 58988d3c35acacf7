//! Layer normalization.

use crate::{
    isa::{Isa, dispatch},
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
    isa: Isa,
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
        dispatch!(isa => rows_loop(x: &[f32], width: usize, weight: &[f32], bias: Option<&[f32]>, epsilon: f32, y: &mut [f32]));
    };
    if x.len() > 2 * TASK {
        for_each_piece(y, rows * width, |index, y| run(&x[index * rows * width..][..y.len()], y));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_worked_out_by_hand() {
        // mean 2.5, variance 1.25; with epsilon 1.0 the factor is 1/1.5.
        let mut y = [0.0; 4];
        layer_norm(
            Isa::SCALAR,
            &[1.0, 2.0, 3.0, 4.0],
            4,
            &[1.5, 1.5, 3.0, 3.0],
            Some(&[0.0, 1.0, 0.0, 1.0]),
            1.0,
            &mut y,
        );
        assert_eq!(y, [-1.5, 0.5, 1.0, 4.0]);
        layer_norm(Isa::SCALAR, &[1.0, 2.0, 3.0, 4.0], 4, &[1.5, 1.5, 3.0, 3.0], None, 1.0, &mut y);
        assert_eq!(y, [-1.5, -0.5, 1.0, 3.0]);
    }
}
