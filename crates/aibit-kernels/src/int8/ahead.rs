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
}

impl<'a> Ahead<'a> {
    /// What the product of the rows `rows` of `m` brings.
    pub(super) fn new(parts: [&'a [i8]; 2], rows: Range<usize>, m: usize) -> Self {
        let length = parts[0].len() + parts[1].len();
        let place = |row: usize| (length * row / m).next_multiple_of(64);
        Self { parts, share: place(rows.start)..place(rows.end) }
    }

    /// Asks for cache line `index` of the share, if there is one.
    #[inline(always)]
    pub(super) fn prefetch(&self, index: usize) {
        let at = self.share.start + 64 * index;
        if at < self.share.end {
            let [first, second] = self.parts;
            let byte = first.get(at).or_else(|| second.get(at - first.len()));
            if let Some(byte) = byte {
                // SAFETY: every x86-64 has this instruction; it changes nothing that a program sees.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(byte) };
            }
        }
    }
}
