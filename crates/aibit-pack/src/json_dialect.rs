//! Conversion of the JSON dialect of Python's `json` module to strict JSON.
//!
//! The files of a model are written by Python: a key may be duplicate, in which case the last wins, and numbers may
//! be `NaN`, `Infinity`, or overflow a double to infinity. Readers of strict JSON reject some of this, or use the
//! first key. Packages contain strict JSON, so that all readers agree.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use serde::de::IgnoredAny;

/// Maximum nesting; `serde_json` reads 127 levels.
const MAX_DEPTH: usize = 127;
/// A number with at most this many digits is finite.
const SURELY_FINITE: usize = 300;

/// `text` as strict JSON of the same meaning, borrowed if it is already strict. Numbers that are not finite become
/// the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, which no numeric field accepts.
///
/// Memory beyond the text is bounded by `max_values`, the maximum number of values.
///
/// # Errors
/// Why it is not valid in this dialect, or that it has too many values.
pub(crate) fn to_strict(text: &[u8], max_values: usize) -> Result<Cow<'_, [u8]>, String> {
    std::str::from_utf8(text).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
    let edits = Scanner::new(text, max_values).scan()?;
    let strict = apply(text, edits);
    match serde_json::from_slice::<IgnoredAny>(&strict) {
        Ok(_) => Ok(strict),
        Err(e) => Err(format!("not JSON: {}", serde_json::from_slice::<IgnoredAny>(text).err().unwrap_or(e))),
    }
}

/// Checks that `text` has no duplicate keys, only finite numbers and at most `max_values` values, before it is parsed
/// by a parser whose memory is not bounded.
///
/// # Errors
/// The first violation.
/// What it has instead.
pub(crate) fn check_strict(text: &[u8], max_values: usize) -> Result<(), String> {
    match Scanner::new(text, max_values).scan()?.first() {
        None => Ok(()),
        Some((range, "")) => Err(format!("duplicate key at byte {}", range.start)),
        Some((range, _)) => Err(format!("a number that is not finite at byte {}", range.start)),
    }
}

/// A range of the text and its replacement.
type Edit = (Range<usize>, &'static str);

fn apply(text: &[u8], mut edits: Vec<Edit>) -> Cow<'_, [u8]> {
    if edits.is_empty() {
        return Cow::Borrowed(text);
    }
    // Of nested edits only the outer one, which starts first, applies.
    edits.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
    let (mut strict, mut at) = (Vec::with_capacity(text.len() + 2 * edits.len()), 0);
    for (range, replacement) in edits.into_iter().filter(|(range, _)| !range.is_empty()) {
        if range.start >= at {
            strict.extend_from_slice(&text[at..range.start]);
            strict.extend_from_slice(replacement.as_bytes());
            at = range.end;
        }
    }
    strict.extend_from_slice(&text[at..]);
    Cow::Owned(strict)
}

/// An object or an array that has not ended.
struct Open {
    /// For an object: the start of each member, and the member with the key of each hash.
    members: Option<(Vec<u32>, HashMap<u64, u32>)>,
    /// Whether the next string is a key.
    is_key_next: bool,
}

/// Finds violations of strict JSON in text that is otherwise assumed to be valid; other errors are left to the
/// parser.
struct Scanner<'a> {
    text: &'a [u8],
    max_values: usize,
    values: usize,
    open: Vec<Open>,
    edits: Vec<Edit>,
    hasher: RandomState,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a [u8], max_values: usize) -> Self {
        Self { text, max_values, values: 0, open: Vec::new(), edits: Vec::new(), hasher: RandomState::new() }
    }

    fn scan(mut self) -> Result<Vec<Edit>, String> {
        let mut at = 0;
        while let Some(&byte) = self.text.get(at) {
            let start = at;
            at += 1;
            match byte {
                b'{' | b'[' => {
                    self.count()?;
                    if self.open.len() == MAX_DEPTH {
                        return Err(format!("nested deeper than {MAX_DEPTH} levels at byte {start}"));
                    }
                    let members = (byte == b'{').then(Default::default);
                    self.open.push(Open { is_key_next: members.is_some(), members });
                }
                b'}' | b']' => _ = self.open.pop(),
                b',' => {
                    if let Some(open) = self.open.last_mut() {
                        open.is_key_next = open.members.is_some();
                    }
                }
                b':' => {
                    if let Some(open) = self.open.last_mut() {
                        open.is_key_next = false;
                    }
                }
                b'"' => {
                    at = string_end(self.text, start);
                    if self.open.last().is_some_and(|open| open.is_key_next) {
                        self.member(start..at);
                    } else {
                        self.count()?;
                    }
                }
                b'-' | b'0'..=b'9' | b'I' | b'N' | b't' | b'f' | b'n' => {
                    self.count()?;
                    let is_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.');
                    at = start + self.text[start..].iter().take_while(|b| is_word(b)).count();
                    if let Some(replacement) = not_finite(&self.text[start..at]) {
                        self.edits.push((start..at, replacement));
                    }
                }
                _ => {}
            }
        }
        Ok(self.edits)
    }

    fn count(&mut self) -> Result<(), String> {
        self.values += 1;
        if self.values > self.max_values {
            return Err(format!("more than {} values, which no such file of a model has", self.max_values));
        }
        Ok(())
    }

    /// Records the member whose key is `key`, and drops an earlier one with that key.
    fn member(&mut self, key: Range<usize>) {
        let hash = self.hasher.hash_one(decoded(self.text, key.clone()).as_ref());
        let Some((starts, by_hash)) = self.open.last_mut().and_then(|open| open.members.as_mut()) else {
            return;
        };
        let index = starts.len() as u32;
        starts.push(key.start as u32); // scanned files are far below 4 GB
        if let Some(earlier) = by_hash.insert(hash, index) {
            let [begin, end] = [earlier, earlier + 1].map(|index| starts[index as usize] as usize);
            let earlier_key = begin..string_end(self.text, begin);
            if decoded(self.text, earlier_key) == decoded(self.text, key) {
                self.edits.push((begin..end, ""));
            }
        }
    }
}

/// The end of the string that starts at `start`, after its closing quote.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => return at,
            b'\\' => at += 1,
            _ => {}
        }
    }
    text.len()
}

/// The string at `range` with escapes decoded.
fn decoded(text: &[u8], range: Range<usize>) -> Cow<'_, [u8]> {
    let raw = &text[range];
    if raw.contains(&b'\\')
        && let Ok(string) = serde_json::from_slice::<String>(raw)
    {
        return Cow::Owned([b"\"", string.as_bytes(), b"\""].concat());
    }
    Cow::Borrowed(raw)
}

/// The replacement of a number that strict JSON does not have.
fn not_finite(word: &[u8]) -> Option<&'static str> {
    match word {
        b"NaN" => Some("\"NaN\""),
        b"Infinity" => Some("\"Infinity\""),
        b"-Infinity" => Some("\"-Infinity\""),
        _ if word.len() < SURELY_FINITE && !word.iter().any(|b| matches!(b, b'e' | b'E')) => None,
        _ => match std::str::from_utf8(word).ok()?.parse::<f64>().ok()? {
            value if value.is_finite() || !word.last()?.is_ascii_digit() => None,
            value if value > 0.0 => Some("\"Infinity\""),
            _ => Some("\"-Infinity\""),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(text: &str) -> String {
        let strict = to_strict(text.as_bytes(), 1000).unwrap_or_else(|e| panic!("{text}: {e}"));
        String::from_utf8(strict.into_owned()).expect("UTF-8")
    }

    #[test]
    fn the_last_of_equal_keys_counts_at_every_depth() {
        // Expected values are those of Python's json: the value of the last key.
        for (text, expected) in [
            (r#"{"a": 1, "b": 2, "a": 3}"#, r#"{"b": 2, "a": 3}"#),
            (r#"{"a":1,"a":2,"a":3}"#, r#"{"a":3}"#),
            (r#"{"x": {"a": [1, {"a": 2}], "b": 0, "a": null}}"#, r#"{"x": {"b": 0, "a": null}}"#),
            (r#"[{"a": 1}, {"a": 1}]"#, r#"[{"a": 1}, {"a": 1}]"#),
            // The same key, written with an escape.
            ("{\"a\": 1, \"\\u0061\": 2}", "{\"\\u0061\": 2}"),
            // Quotes, brackets and commas inside strings are not syntax.
            (r#"{"a": "],\"a\": {", "a": "}"}"#, r#"{"a": "}"}"#),
            (r#"{"a": {"b": NaN, "b": 1}, "a": 5}"#, r#"{"a": 5}"#),
        ] {
            assert_eq!(strict(text), expected);
        }
    }

    #[test]
    fn numbers_that_are_not_finite_become_strings() {
        let text =
            r#"{"a": NaN, "b": [Infinity, -Infinity, 1e999, -1E+400], "c": "NaN, Infinity", "d": 1e30}"#;
        let expected = r#"{"a": "NaN", "b": ["Infinity", "-Infinity", "Infinity", "-Infinity"], "c": "NaN, Infinity", "d": 1e30}"#;
        assert_eq!(strict(text), expected);
        assert_eq!(strict(&format!("[{}]", "9".repeat(400))), r#"["Infinity"]"#);
    }

    #[test]
    fn strict_text_is_left_as_it_is() {
        let text = "{\"a\" : [1.50, -0, \"\\u00e9\\\\\"], \"\": {}, \"b\": [true, null]}\n";
        assert!(
            matches!(to_strict(text.as_bytes(), 100), Ok(Cow::Borrowed(same)) if same == text.as_bytes())
        );
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for (text, problem) in [
            ("", "EOF while parsing"),
            ("{\"a\": gpt2}", "line 1 column 7"),
            ("{\"a\": 1,}", "line 1 column 9"),
            ("{\"a\": nan}", "not JSON"),
            ("[1] 2", "trailing characters"),
            ("{\"a", "EOF"),
            ("{\"a\": \"\n\"}", "control character"),
            ("{1: 2, 1: 2}", "not JSON"),
            ("]]]]", "not JSON"),
            ("{\"a\" \"a\" \"a\"", "not JSON"),
        ] {
            let error = to_strict(text.as_bytes(), 100).expect_err(text);
            assert!(error.contains(problem), "{text:?}: {error}");
        }
        assert!(to_strict(b"\"\xff\"", 100).expect_err("bytes").contains("not UTF-8 at byte 1"));
        let deep = "[".repeat(100_000);
        assert!(to_strict(deep.as_bytes(), 1 << 20).expect_err("deep").contains("deeper than 127"));
        assert!(to_strict(b"[1, 2, 3]", 3).expect_err("many").contains("more than 3 values"));
    }
}
