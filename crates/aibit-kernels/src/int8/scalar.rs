//! The specification of the integer product: plain loops.

use super::{CodeRows, Rearranged};

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

fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}
