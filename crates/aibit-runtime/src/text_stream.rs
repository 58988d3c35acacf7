//! From the bytes of tokens to text that may be printed at once.
//!
//! A token may end inside a character, and the text may end inside a stop string. Both are held back
//! until the next token decides. The outcome, both the text and the stop string found, depends on the
//! bytes alone and never on where they were cut into tokens.

use std::mem;
use std::str;

/// Stop strings at most.
const MAX_STOP_STRINGS: usize = 64;
/// Bytes of one stop string at most, which is also the most text that is ever held back.
const MAX_STOP_BYTES: usize = 4096;

/// Turns the bytes of tokens into printable text, up to the first stop string.
///
/// All texts of [`push`](Self::push) and [`finish`](Self::finish) together equal
/// [`String::from_utf8_lossy`] of all bytes, cut before the first stop string. Of two stop strings in
/// the text the one that begins first counts, and of two that begin together the longer.
#[derive(Debug, Clone)]
pub struct TextStream {
    stop_strings: Vec<String>,
    /// The beginning of a character, or nothing.
    bytes: Vec<u8>,
    /// Text that may belong to a stop string.
    text: String,
    stopped: Option<usize>,
}

/// What one token brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Text that may be printed now; often empty.
    pub text: String,
    /// Index of the stop string that ended the text. It is not part of any `text`, and neither is
    /// what follows it.
    pub stopped: Option<usize>,
}

/// Why stop strings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// An empty stop string would end every text before it begins.
    #[error("stop string {index} is empty; leave it out, or give the text to stop at")]
    Empty {
        /// Its position, from 0.
        index: usize,
    },
    /// There are too many.
    #[error("{found} stop strings given, at most {limit} are allowed")]
    TooMany {
        /// How many were given.
        found: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// One is too long.
    #[error("stop string {index} has {found} bytes, at most {limit} are allowed")]
    TooLong {
        /// Its position, from 0.
        index: usize,
        /// Its length.
        found: usize,
        /// The longest that is allowed.
        limit: usize,
    },
}

impl TextStream {
    /// Returns a stream that ends at the first of `stop_strings`; without any it never does.
    ///
    /// # Errors
    /// [`StopError`] if one is empty or longer than 4096 bytes, or there are more than 64.
    pub fn new(stop_strings: Vec<String>) -> Result<Self, StopError> {
        if stop_strings.len() > MAX_STOP_STRINGS {
            return Err(StopError::TooMany { found: stop_strings.len(), limit: MAX_STOP_STRINGS });
        }
        for (index, stop) in stop_strings.iter().enumerate() {
            if stop.is_empty() {
                return Err(StopError::Empty { index });
            }
            if stop.len() > MAX_STOP_BYTES {
                return Err(StopError::TooLong { index, found: stop.len(), limit: MAX_STOP_BYTES });
            }
        }
        Ok(Self { stop_strings, bytes: Vec::new(), text: String::new(), stopped: None })
    }

    /// Takes the bytes of one token and returns the text that may be printed now: never half a
    /// character, never the beginning of a possible stop string.
    ///
    /// A stop string is reported once no longer one can begin at the same place, so with both `a` and
    /// `ab` the token after `a` decides. Once stopped, more bytes change nothing.
    pub fn push(&mut self, bytes: &[u8]) -> Step {
        if self.stopped.is_some() {
            return Step { text: String::new(), stopped: self.stopped };
        }
        self.bytes.extend_from_slice(bytes);
        self.decode();
        self.release(false)
    }

    /// Returns what was held back, at the end of the stream; [`stopped`](Self::stopped) then says
    /// whether a stop string ended it. Bytes that begin a character become U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        if !mem::take(&mut self.bytes).is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.release(true).text
    }

    /// Returns the index of the stop string that ended the text, if one did.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// Moves whole characters from `bytes` to `text`, and U+FFFD for what can no longer become one.
    fn decode(&mut self) {
        let mut left = self.bytes.len();
        let mut held = 0;
        for chunk in self.bytes.utf8_chunks() {
            self.text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            left -= chunk.valid().len() + invalid.len();
            match str::from_utf8(invalid) {
                Ok(_) => {} // empty: the bytes end with a whole character
                Err(error) if left == 0 && error.error_len().is_none() => held = invalid.len(),
                Err(_) => self.text.push(char::REPLACEMENT_CHARACTER),
            }
        }
        self.bytes.drain(..self.bytes.len() - held);
    }

    /// Takes from `text` what no stop string can begin in. At the end, nothing can follow any more.
    fn release(&mut self, at_end: bool) -> Step {
        let mut free = self.text.len();
        for (at, _) in self.text.char_indices() {
            let rest = &self.text[at..];
            let undecided = |stop: &String| stop.len() > rest.len() && stop.starts_with(rest);
            if !at_end && self.stop_strings.iter().any(undecided) {
                free = at;
                break;
            }
            let found = self.stop_strings.iter().enumerate().filter(|(_, stop)| rest.starts_with(*stop));
            // Of equal ones the first, as `max_by_key` would take the last.
            if let Some((index, _)) = found.rev().max_by_key(|(_, stop)| stop.len()) {
                self.stopped = Some(index);
                free = at;
                break;
            }
        }
        let held = self.text.split_off(free);
        let text = mem::replace(&mut self.text, held);
        if self.stopped.is_some() {
            self.text.clear();
            self.bytes.clear();
        }
        Step { text, stopped: self.stopped }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(stop_strings: &[&str]) -> TextStream {
        TextStream::new(stop_strings.iter().map(|&stop| stop.to_owned()).collect()).unwrap()
    }

    /// Feeds `tokens`, checks the text after each, and returns what `finish` gives.
    #[track_caller]
    fn check(stop_strings: &[&str], tokens: &[(&[u8], &str)], rest: &str, stopped: Option<usize>) {
        let mut stream = stream(stop_strings);
        for (bytes, text) in tokens {
            assert_eq!(stream.push(bytes).text, *text, "after {bytes:?}");
        }
        assert_eq!(stream.finish(), rest);
        assert_eq!(stream.stopped(), stopped);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn text_without_stop_strings_passes_at_once() {
        check(&[], &[(b"Hello", "Hello"), (b"", ""), (b", world", ", world")], "", None);
    }

    #[test]
    fn characters_wait_for_their_last_byte() {
        check(&[], &[(b"a\xf0", "a"), (b"\x9f\x98", ""), (b"\x80b", "\u{1f600}b")], "", None);
        check(&[], &[(b"\xe2\x82", ""), (b"\xac", "\u{20ac}")], "", None);
    }

    #[test]
    fn invalid_bytes_become_replacement_characters() {
        check(&[], &[(b"a\xffb", "a\u{fffd}b")], "", None);
        check(&[], &[(b"\xe2\x82", ""), (b"b", "\u{fffd}b")], "", None);
        check(&[], &[(b"\xe2\x82", "")], "\u{fffd}", None);
        // A surrogate is three errors, an overlong form two, as for the whole string.
        check(&[], &[(b"\xed", ""), (b"\xa0", "\u{fffd}\u{fffd}"), (b"\x80", "\u{fffd}")], "", None);
        check(&[], &[(b"\xc0\xaf", "\u{fffd}\u{fffd}")], "", None);
    }

    #[test]
    fn possible_stop_strings_are_held_back() {
        check(&["END"], &[(b"the E", "the "), (b"N", ""), (b"d", "ENd"), (b"E", "")], "E", None);
        check(&["END"], &[(b"a E", "a "), (b"ND b", ""), (b"c", "")], "", Some(0));
        check(&["\u{20ac}!"], &[(b"\xe2\x82", ""), (b"\xac", ""), (b"?", "\u{20ac}?")], "", None);
        // A beginning inside a beginning that failed.
        check(&["aab"], &[(b"a", ""), (b"a", ""), (b"a", "a"), (b"b", "")], "", Some(0));
    }

    #[test]
    fn the_earliest_then_the_longest_stop_string_counts() {
        check(&["b", "abc"], &[(b"xab", "x"), (b"c", "")], "", Some(1));
        check(&["b", "abc"], &[(b"xab", "x"), (b"d", "a")], "", Some(0));
        check(&["b", "abc"], &[(b"xab", "x")], "a", Some(0));
        check(&["ab", "abc"], &[(b"ab", ""), (b"c", "")], "", Some(1));
        check(&["ab", "abc"], &[(b"ab", ""), (b"d", "")], "", Some(0));
        check(&["ab", "abc"], &[(b"ab", "")], "", Some(0));
        check(&["ab", "ab"], &[(b"ab", "")], "", Some(0));
    }

    #[test]
    fn a_stopped_stream_stays_stopped() {
        let mut stream = stream(&["."]);
        assert_eq!(stream.push(b"a.b"), Step { text: "a".to_owned(), stopped: Some(0) });
        assert_eq!(stream.push(b"c"), Step { text: String::new(), stopped: Some(0) });
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn unusable_stop_strings_are_refused() {
        #[track_caller]
        fn refuses(stop_strings: Vec<String>, message: &str) {
            assert_eq!(TextStream::new(stop_strings).unwrap_err().to_string(), message);
        }
        refuses(
            vec!["a".to_owned(), String::new()],
            "stop string 1 is empty; leave it out, or give the text to stop at",
        );
        refuses(vec!["a".to_owned(); 10_000], "10000 stop strings given, at most 64 are allowed");
        refuses(vec!["a".repeat(5000)], "stop string 0 has 5000 bytes, at most 4096 are allowed");
        TextStream::new(vec!["a".repeat(4096); 64]).unwrap();
    }

    /// The definition, on the whole text.
    fn expected(stop_strings: &[String], bytes: &[u8]) -> (String, Option<usize>) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let found = stop_strings.iter().enumerate().filter_map(|(index, stop)| {
            text.find(stop.as_str()).map(|at| (at, usize::MAX - stop.len(), index))
        });
        match found.min() {
            Some((at, _, index)) => (text[..at].to_owned(), Some(index)),
            None => (text, None),
        }
    }

    fn check_chunks(stop_strings: &[String], chunks: &[Vec<u8>]) -> Result<(), TestCaseError> {
        let (want, stopped) = expected(stop_strings, &chunks.concat());
        let mut stream = TextStream::new(stop_strings.to_vec()).unwrap();
        let mut text = String::new();
        for chunk in chunks {
            let step = stream.push(chunk);
            text.push_str(&step.text);
            prop_assert!(want.starts_with(&text), "{text:?} of {want:?}");
            prop_assert_eq!(step.stopped, stream.stopped());
        }
        text.push_str(&stream.finish());
        prop_assert_eq!(text, want);
        prop_assert_eq!(stream.stopped(), stopped);
        Ok(())
    }

    /// Bytes that often form characters, and often almost do.
    fn any_chunk() -> impl Strategy<Value = Vec<u8>> {
        let bytes = prop_oneof![
            4 => "[ab]{0,3}".prop_map(String::into_bytes),
            2 => prop::collection::vec(any::<u8>(), 0..4),
            2 => "\u{e9}|\u{20ac}|\u{1f600}|\u{fffd}".prop_map(String::into_bytes),
            2 => prop::sample::select(vec![0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0xed, 0xa0])
                .prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(bytes, 0..4).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_chunks_give_the_text_of_the_whole(
            stop_strings in prop::collection::vec("[ab\u{e9}\u{fffd}]{1,5}", 0..4),
            chunks in prop::collection::vec(any_chunk(), 0..12),
        ) {
            check_chunks(&stop_strings, &chunks)?;
        }

        #[test]
        fn single_bytes_give_the_text_of_the_whole(
            stop_strings in prop::collection::vec("[ab]{1,4}", 0..3),
            bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..60), any_chunk()],
        ) {
            let chunks: Vec<_> = bytes.iter().map(|&byte| vec![byte]).collect();
            check_chunks(&stop_strings, &chunks)?;
        }

        #[test]
        fn nothing_is_held_without_a_reason(chunks in prop::collection::vec("[a-z]{0,5}", 0..10)) {
            let mut stream = stream(&["STOP", "\n"]);
            for chunk in chunks {
                prop_assert_eq!(stream.push(chunk.as_bytes()).text, chunk);
            }
        }
    }
}
