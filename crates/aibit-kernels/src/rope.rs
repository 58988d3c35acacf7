//! Rotary position embedding.

use std::collections::TryReserveError;

use crate::{Context, isa::dispatch, simd::Simd, tiles::for_each_piece};

/// Rows handed to a thread at a time: this many elements or more.
const TASK: usize = 16 * 1024;

/// Cosines and sines of the positions of a batch's rows.
#[derive(Debug, Default)]
pub struct RopeTable {
    pairs: usize,
    /// For each position `pairs` cosines and as many sines.
    rows: Vec<f32>,
}

impl RopeTable {
    /// Makes room for `m` positions of `pairs` frequencies: 8 bytes for each of them.
    ///
    /// # Errors
    /// Where the system refuses the memory.
    pub fn try_reserve(&mut self, pairs: usize, m: usize) -> Result<(), TryReserveError> {
        let elements = pairs.saturating_mul(2).saturating_mul(m);
        self.rows.try_reserve_exact(elements.saturating_sub(self.rows.len()))
    }

    /// Removes every position.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// Appends positions `past..past + m`: the angle of a pair is its frequency, in radians per position, times the
    /// position, rounded to f32; `factor` multiplies its cosine and sine.
    ///
    /// # Panics
    /// If `frequencies` is empty, or not as many as those of the positions before.
    pub fn append(&mut self, frequencies: &[f32], factor: f32, past: usize, m: usize) {
        assert!(!frequencies.is_empty(), "a rope table of no frequencies");
        assert!(
            self.rows.is_empty() || self.pairs == frequencies.len(),
            "a rope table of {} frequencies, then {}",
            self.pairs,
            frequencies.len()
        );
        self.pairs = frequencies.len();
        let filled = self.rows.len();
        self.rows.resize(filled + m * 2 * self.pairs, 0.0);
        for (row, position) in self.rows[filled..].chunks_exact_mut(2 * self.pairs).zip(past..) {
            let (cosines, sines) = row.split_at_mut(self.pairs);
            for ((cosine, sine), frequency) in cosines.iter_mut().zip(sines).zip(frequencies) {
                // One implementation for every platform: archives compute the same bits everywhere.
                (*sine, *cosine) = libm::sincosf(position as f32 * frequency);
                (*sine, *cosine) = (*sine * factor, *cosine * factor);
            }
        }
    }
}

/// Heads in a row of elements, and which of theirs are turned together.
#[derive(Debug, Clone, Copy)]
pub struct RopeShape {
    /// Elements in a row.
    pub width: usize,
    /// Heads that are turned, from the start of the row on.
    pub heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Whether elements `2 i` and `2 i + 1` of a head are a pair, or `i` and `i + pairs`.
    pub is_adjacent: bool,
}

/// Turns the heads of each row of `x[m, width]` in place by the table's row of the same index: a pair `(a, b)` becomes
/// `(a cos - b sin, b cos + a sin)`. A head's elements behind its pairs, and the row's behind its heads, stay.
///
/// # Panics
/// If `x` is not as many whole rows as the table has, or heads or pairs do not fit.
///
/// Source: Su et al. 2021 (arXiv:2104.09864), equation 34.
pub fn rope(cx: &Context, shape: RopeShape, table: &RopeTable, x: &mut [f32]) {
    let RopeShape { width, heads, head_dim, is_adjacent } = shape;
    let pairs = table.pairs;
    assert!(
        width > 0 && heads * head_dim <= width && 2 * pairs <= head_dim,
        "rope: {heads} heads of {head_dim} with {pairs} pairs in rows of {width}"
    );
    assert_eq!(x.len() * 2 * pairs, table.rows.len() * width, "rope: rows of x, positions of the table");
    let run = |rows: &[f32], x: &mut [f32]| {
        for (row, angles) in x.chunks_exact_mut(width).zip(rows.chunks_exact(2 * pairs)) {
            let turned = &mut row[..heads * head_dim];
            if is_adjacent {
                dispatch!(cx.isa => adjacent_loop(turned: &mut [f32], head_dim: usize, angles: &[f32]));
            } else {
                dispatch!(cx.isa => half_loop(turned: &mut [f32], head_dim: usize, angles: &[f32]));
            }
        }
    };
    if x.len() > 2 * TASK {
        let rows = TASK.div_ceil(width);
        for_each_piece(&cx.threads, x, rows * width, |index, x| {
            run(&table.rows[index * rows * 2 * pairs..][..x.len() / width * 2 * pairs], x);
        });
    } else {
        run(&table.rows, x);
    }
}

#[inline(always)]
fn half_loop<S: Simd>(_: S, heads: &mut [f32], head_dim: usize, angles: &[f32]) {
    let pairs = angles.len() / 2;
    let (cosines, sines) = angles.split_at(pairs);
    for head in heads.chunks_exact_mut(head_dim) {
        let (first, second) = head.split_at_mut(pairs);
        for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
            (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
        }
    }
}

#[inline(always)]
fn adjacent_loop<S: Simd>(_: S, heads: &mut [f32], head_dim: usize, angles: &[f32]) {
    let (cosines, sines) = angles.split_at(angles.len() / 2);
    for head in heads.chunks_exact_mut(head_dim) {
        let (pairs, _) = head.as_chunks_mut::<2>();
        for (([a, b], cosine), sine) in pairs.iter_mut().zip(cosines).zip(sines) {
            (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Against the definition in f64, on more rows than one thread takes.
    #[test]
    fn pairs_are_turned_and_the_rest_stays() {
        let (width, heads, head_dim, m, past, factor) = (40, 3, 10, 2000, 7, 1.25_f32);
        let frequencies = [1.0, 0.25, 0.01, 1e-4];
        let x: Vec<f32> = (0..width * m).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let mut table = RopeTable::default();
        table.append(&frequencies, factor, past, 1500);
        table.append(&frequencies, factor, past + 1500, m - 1500);
        for is_adjacent in [false, true] {
            let shape = RopeShape { width, heads, head_dim, is_adjacent };
            for isa in Isa::available() {
                let mut y = x.clone();
                rope(&isa.into(), shape, &table, &mut y);
                for (i, got) in y.iter().enumerate() {
                    let (row, column) = (i / width, i % width);
                    let at = column % head_dim;
                    let pairs = frequencies.len();
                    let pair = if is_adjacent { at / 2 } else { at % pairs };
                    let is_first = if is_adjacent { at % 2 == 0 } else { at < pairs };
                    let step = if is_adjacent { 1 } else { pairs };
                    let want = if column >= heads * head_dim || at >= 2 * pairs {
                        f64::from(x[i])
                    } else {
                        let angle = (past + row) as f64 * f64::from(frequencies[pair]);
                        let x = |i: usize| f64::from(x[i]) * f64::from(factor);
                        if is_first {
                            x(i) * angle.cos() - x(i + step) * angle.sin()
                        } else {
                            x(i) * angle.cos() + x(i - step) * angle.sin()
                        }
                    };
                    // The angle is rounded: 2000 radians in f32 are right to 6e-5.
                    assert!((f64::from(*got) - want).abs() < 2e-4, "{is_adjacent} {i}: {got}, want {want}");
                }
            }
        }
    }
}
