//! Finding added tokens where a text has them written out: the leftmost first, of those that begin together the
//! longest.

use std::ops::Range;

use super::compiled::View;

/// A part of a text.
pub(super) enum Part<'t> {
    /// An added token, as its id.
    Token(u32),
    /// What lies between, never empty.
    Text(&'t str),
}

/// A group of added tokens that are searched for together.
#[derive(Clone, Copy)]
pub(super) struct AddedTokens<'a> {
    pub(super) view: View<'a>,
    /// Index of the group's first token.
    pub(super) begin: usize,
    /// One more than the index of its last.
    pub(super) end: usize,
    /// Which bytes a token of the group begins with.
    pub(super) first_bytes: &'a [bool; 256],
}

impl<'a> AddedTokens<'a> {
    /// The parts of `text`, in order. A token for which `is_text` holds, told its id and its place, is no part of its
    /// own.
    pub(super) fn parts<'t, F: Fn(u32, Range<usize>) -> bool>(
        self,
        text: &'t str,
        is_text: F,
    ) -> impl Iterator<Item = Part<'t>> + use<'a, 't, F> {
        let (mut begin, mut found) = (0, None);
        std::iter::from_fn(move || {
            if let Some(id) = found.take() {
                return Some(Part::Token(id));
            }
            if begin == text.len() {
                return None;
            }
            let mut from = begin;
            let token = loop {
                let Some((at, id, length)) = self.find(&text[from..]) else { break None };
                let place = from + at..from + at + length;
                if !is_text(id, place.clone()) {
                    break Some((id, place));
                }
                from = place.end;
            };
            let Some((id, place)) = token else {
                return Some(Part::Text(&text[std::mem::replace(&mut begin, text.len())..]));
            };
            let before = &text[begin..place.start];
            begin = place.end;
            if before.is_empty() {
                return Some(Part::Token(id));
            }
            found = Some(id);
            Some(Part::Text(before))
        })
    }

    /// The first token of the group in `text`: its place, its id and its length.
    fn find(&self, text: &str) -> Option<(usize, u32, usize)> {
        if self.begin == self.end {
            return None;
        }
        let bytes = text.as_bytes();
        (0..bytes.len()).filter(|&at| self.first_bytes[usize::from(bytes[at])]).find_map(|at| {
            let (id, length) = self.longest_at(&bytes[at..])?;
            Some((at, id, length))
        })
    }

    /// The longest token of the group that `text` begins with: its id and its length.
    fn longest_at(&self, text: &[u8]) -> Option<(u32, usize)> {
        // Tokens that `text` begins with sort before it, and are what the last of those that do begins with.
        let (mut begin, mut end) = (self.begin, self.end);
        while begin < end {
            let middle = begin + (end - begin) / 2;
            if self.view.added_bytes(middle) <= text { begin = middle + 1 } else { end = middle }
        }
        let mut index = begin.checked_sub(1).filter(|&index| index >= self.begin)?;
        loop {
            let (id, parent) = self.view.added(index);
            let token = self.view.bytes(id);
            if text.starts_with(token) {
                return Some((id, token.len()));
            }
            index = parent?;
        }
    }
}
