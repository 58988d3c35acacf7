//! The specification of the integer product: plain loops.

use super::{CodeRows, Rearranged};
use crate::tiles::STREAMS;

/// Writes `x[m, k] · w[n, k]ᵀ` to `sums`, whose rows are `stride` apart.
pub(super) fn product(x: CodeRows<'_>, w: &[i8], stride: usize, _: &mut Rearranged, sums: &mut [i32]) {
    for (i, sums) in sums.chunks_exact_mut(stride).enumerate() {
        if x.k == 0 {
            sums.fill(0);
            continue;
        }
        for (sum, w) in sums.iter_mut().zip(w.chunks_exact(x.k)) {
            *sum = dot(x.row(i), w);
        }
    }
}

/// Writes the products with each of `streams` to `sums`, `[stream, row of x, stride]`.
pub(super) fn stream(
    x: CodeRows<'_>,
    streams: [&[i8]; STREAMS],
    stride: usize,
    rearranged: &mut Rearranged,
    sums: &mut [i32],
) {
    for (w, sums) in streams.iter().zip(sums.chunks_exact_mut(x.m() * stride)) {
        product(x, w, stride, rearranged, sums);
    }
}

fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}
