//! The specification of the integer product: plain loops.

use super::{CodeRows, PANEL};
use crate::read::RUNS;

/// Writes the products with the two parts of a panel to `sums`, `[row of x, PANEL]`.
pub(super) fn product(x: CodeRows<'_>, w: [&[i8]; 2], sums: &mut [i32]) {
    for (part, w) in w.into_iter().enumerate() {
        dots(x, w, PANEL, &mut sums[part * PANEL / 2..]);
    }
}

/// Writes the products with each of `runs` to `sums`, `[run, row of x, stride]`.
pub(super) fn stream(x: CodeRows<'_>, runs: [&[i8]; RUNS], stride: usize, sums: &mut [i32]) {
    for (w, sums) in runs.iter().zip(sums.chunks_exact_mut(x.m() * stride)) {
        dots(x, w, stride, sums);
    }
}

/// Writes `x[m, k] · w[n, k]ᵀ` to the first `n` of each `stride` sums.
fn dots(x: CodeRows<'_>, w: &[i8], stride: usize, sums: &mut [i32]) {
    for (i, sums) in sums.chunks_mut(stride).enumerate() {
        if x.k == 0 {
            sums.fill(0);
            continue;
        }
        for (sum, w) in sums.iter_mut().zip(w.chunks_exact(x.k)) {
            *sum = dot(x.row(i), w);
        }
    }
}

fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}
