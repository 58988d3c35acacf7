//! Strings as Python has them: sequences of code points. Each character remembers whether it comes from the content
//! of a message, through every slice, split and replacement.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;

/// A code point and its origin. Comparisons see the code point alone.
#[derive(Clone, Copy)]
pub(super) struct Char(u32);

const TYPED: u32 = 1 << 31;

impl Char {
    pub(super) fn new(c: char, typed: bool) -> Self {
        Self(u32::from(c) | if typed { TYPED } else { 0 })
    }

    /// A character of the template itself.
    pub(super) fn own(c: char) -> Self {
        Self::new(c, false)
    }

    pub(super) fn get(self) -> char {
        char::from_u32(self.0 & !TYPED).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    /// Whether it comes from the content of a message.
    pub(super) fn is_typed(self) -> bool {
        self.0 & TYPED != 0
    }

    /// Another character of the same origin.
    pub(super) fn with(self, c: char) -> Self {
        Self::new(c, self.is_typed())
    }
}

impl PartialEq for Char {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Char {}

impl PartialOrd for Char {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Char {
    fn cmp(&self, other: &Self) -> Ordering {
        self.get().cmp(&other.get())
    }
}

impl Hash for Char {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.get().hash(state);
    }
}

/// An immutable string.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Text(Rc<[Char]>);

impl Text {
    pub(super) fn new(string: &str, typed: bool) -> Self {
        string.chars().map(|c| Char::new(c, typed)).collect()
    }

    pub(super) fn is(&self, string: &str) -> bool {
        self.0.iter().map(|c| c.get()).eq(string.chars())
    }
}

impl From<&str> for Text {
    /// A string of the template itself.
    fn from(string: &str) -> Self {
        Self::new(string, false)
    }
}

impl From<Vec<Char>> for Text {
    fn from(chars: Vec<Char>) -> Self {
        Self(chars.into())
    }
}

impl From<&[Char]> for Text {
    fn from(chars: &[Char]) -> Self {
        Self(chars.into())
    }
}

impl FromIterator<Char> for Text {
    fn from_iter<I: IntoIterator<Item = Char>>(chars: I) -> Self {
        Self(chars.into_iter().collect())
    }
}

impl Deref for Text {
    type Target = [Char];

    fn deref(&self) -> &[Char] {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_string(self))
    }
}

pub(super) fn to_string(chars: &[Char]) -> String {
    chars.iter().map(|c| c.get()).collect()
}

/// Appends a string of the template itself.
pub(super) fn push(chars: &mut Vec<Char>, string: &str) {
    chars.extend(string.chars().map(Char::own));
}

/// Where `needle` occurs in `text`, from the left, without overlaps; linear in both (Knuth, Morris, Pratt). An empty
/// needle occurs before each character and at the end.
pub(super) fn occurrences(text: &[Char], needle: &[Char], at_most: usize) -> Vec<usize> {
    if needle.is_empty() {
        return (0..=text.len()).take(at_most).collect();
    }
    let mut found = Vec::new();
    if needle.len() > text.len() || at_most == 0 {
        return found;
    }
    // Length of the longest proper border of each prefix of the needle.
    let mut border = vec![0; needle.len()];
    let mut matched = 0;
    for at in 1..needle.len() {
        while matched > 0 && needle[at] != needle[matched] {
            matched = border[matched - 1];
        }
        matched += usize::from(needle[at] == needle[matched]);
        border[at] = matched;
    }
    matched = 0;
    for (at, c) in text.iter().enumerate() {
        while matched > 0 && *c != needle[matched] {
            matched = border[matched - 1];
        }
        matched += usize::from(*c == needle[matched]);
        if matched == needle.len() {
            found.push(at + 1 - matched);
            matched = 0;
            if found.len() == at_most {
                break;
            }
        }
    }
    found
}

/// As [`occurrences`], from the right; the rightmost first.
pub(super) fn occurrences_from_right(text: &[Char], needle: &[Char], at_most: usize) -> Vec<usize> {
    let reversed = |chars: &[Char]| chars.iter().rev().copied().collect::<Vec<_>>();
    let mut found = occurrences(&reversed(text), &reversed(needle), at_most);
    found.iter_mut().for_each(|at| *at = text.len() - *at - needle.len());
    found
}

/// Python's white space: Unicode's, and the four separators of ASCII.
pub(super) fn is_space(c: Char) -> bool {
    c.get().is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c.get())
}

/// `text` without the characters of `set` at its ends; without white space where there is none.
pub(super) fn strip<'a>(text: &'a [Char], set: Option<&[Char]>, left: bool, right: bool) -> &'a [Char] {
    // A small table where there are many characters to look for.
    let sorted = set.map(|set| {
        let mut sorted: Vec<char> = set.iter().map(|c| c.get()).collect();
        sorted.sort_unstable();
        sorted
    });
    let goes = |c: &Char| match &sorted {
        Some(sorted) => sorted.binary_search(&c.get()).is_ok(),
        None => is_space(*c),
    };
    let start = if left { text.iter().take_while(|c| goes(c)).count() } else { 0 };
    let text = &text[start..];
    let end = if right { text.iter().rev().take_while(|c| goes(c)).count() } else { 0 };
    &text[..text.len() - end]
}

/// Python's `splitlines`: every kind of line end.
pub(super) fn lines(text: &[Char], keep_ends: bool) -> Vec<&[Char]> {
    let is_end =
        |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let c = text[at].get();
        at += 1;
        if is_end(c) {
            let end = at - 1;
            at += usize::from(c == '\r' && text.get(at).is_some_and(|c| c.get() == '\n'));
            lines.push(&text[start..if keep_ends { at } else { end }]);
            start = at;
        }
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}
