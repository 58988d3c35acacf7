//! Prefetching the next panel of weights while one is multiplied.
#![expect(unsafe_code, reason = "an instruction that every x86-64 has")]

use std::{
    arch::x86_64::{_MM_HINT_T1, _mm_prefetch},
    ops::Range,
};

/// A share of the panel that this thread rearranges next. It reads sixteen rows of either part side by side then, which
/// the core's own prefetchers do not follow.
pub(super) struct Ahead<'a> {
    parts: [&'a [i8]; 2],
    /// Of all bytes, those of one part behind those of the other.
    share: Range<usize>,
    /// Cache lines for each call of [`prefetch`](Self::prefetch).
    lines: usize,
}

impl<'a> Ahead<'a> {
    /// What the product of the rows `rows` of `m` brings, in `calls` calls of [`prefetch`](Self::prefetch). Where rows are
    /// few, each brings several cache lines: a panel takes longer to read than to multiply then.
    pub(super) fn new(parts: [&'a [i8]; 2], rows: Range<usize>, m: usize, calls: usize) -> Self {
        let length = parts[0].len() + parts[1].len();
        let place = |row: usize| (length * row / m).next_multiple_of(64);
        let share = place(rows.start)..place(rows.end);
        let lines = (share.len() / 64).div_ceil(calls.max(1));
        Self { parts, share, lines }
    }

    /// Prefetches what call `index` brings.
    #[inline(always)]
    pub(super) fn prefetch(&self, index: usize) {
        for line in 0..self.lines {
            let at = self.share.start + 64 * (index * self.lines + line);
            if at >= self.share.end {
                return;
            }
            let [first, second] = self.parts;
            let byte = first.get(at).or_else(|| second.get(at - first.len()));
            if let Some(byte) = byte {
                // SAFETY: every x86-64 has this instruction; it changes nothing that a program sees.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(byte) };
            }
        }
    }
}
