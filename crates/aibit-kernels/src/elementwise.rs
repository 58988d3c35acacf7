//! Sums of two vectors, element by element.

use crate::{Context, isa::dispatch, simd::Simd};

/// Writes `a + b` to `y`, element by element.
///
/// # Panics
/// If the three lengths differ.
pub fn add(cx: &Context, a: &[f32], b: &[f32], y: &mut [f32]) {
    assert!(
        a.len() == b.len() && a.len() == y.len(),
        "add: a has {} elements, b {}, y {}",
        a.len(),
        b.len(),
        y.len()
    );
    dispatch!(cx.isa => add_loop(a: &[f32], b: &[f32], y: &mut [f32]));
}

/// Adds `b` to `a` in place, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn add_assign(cx: &Context, a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "add_assign: lengths of a and b");
    dispatch!(cx.isa => add_assign_loop(a: &mut [f32], b: &[f32]));
}

#[inline(always)]
fn add_loop<S: Simd>(_: S, a: &[f32], b: &[f32], y: &mut [f32]) {
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = a + b;
    }
}

#[inline(always)]
fn add_assign_loop<S: Simd>(_: S, a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}
