//! GPT-2's pre-tokenization: text to the pieces that merges never cross.
//!
//! The rule is the regular expression of GPT-2's `encoder.py`,
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, applied by hand: every
//! alternative is decided by one or two characters, so one pass finds the pieces without backtracking.

use super::char_classes::RUNS;

/// What the rule sees of a character: `\p{L}`, `\p{N}`, `\s`, or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Letter,
    Number,
    Space,
    Other,
}

/// The pieces of `text`, in order; together they are `text`.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(piece_len(rest));
        rest = after;
        Some(piece)
    })
}

/// Length of the piece that a text, which is not empty, begins with.
fn piece_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    if bytes[0] == b'\'' {
        match bytes[1..] {
            [b's' | b't' | b'm' | b'd', ..] => return 2,
            [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => return 3,
            _ => {}
        }
    }
    let start = usize::from(bytes[0] == b' ');
    match class_at(text, start) {
        None | Some((Class::Space, _)) => space_len(text),
        Some((class, first)) => {
            let mut end = start + first;
            while let Some((next, length)) = class_at(text, end) {
                if next != class {
                    break;
                }
                end += length;
            }
            end
        }
    }
}

/// `\s+(?!\S)|\s+`: white space up to the end of the text; before anything else all but its last character, which
/// may belong to what follows, unless there is no other.
fn space_len(text: &str) -> usize {
    let (mut last, mut end) = (0, 0);
    while let Some((class, length)) = class_at(text, end) {
        if class != Class::Space {
            return if last == 0 { end } else { last };
        }
        last = end;
        end += length;
    }
    end
}

/// Class and length of the character at `at`.
fn class_at(text: &str, at: usize) -> Option<(Class, usize)> {
    let byte = *text.as_bytes().get(at)?;
    if byte.is_ascii() {
        return Some((class_of_ascii(byte), 1));
    }
    let c = text[at..].chars().next()?;
    Some((class_of(c), c.len_utf8()))
}

fn class_of_ascii(byte: u8) -> Class {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
        b'0'..=b'9' => Class::Number,
        b' ' | 0x09..=0x0d => Class::Space,
        _ => Class::Other,
    }
}

fn class_of(c: char) -> Class {
    let after = RUNS.partition_point(|&(first, _)| first <= u32::from(c));
    RUNS[after - 1].1 // the first run begins at 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    /// The table's source, from the regular expression engine's own classes.
    fn generate() -> String {
        use std::fmt::Write;

        let class = |pattern: &str| regex::Regex::new(pattern).expect("a pattern");
        let classes = [(class(r"^\p{L}$"), "L"), (class(r"^\p{N}$"), "N"), (class(r"^\s$"), "S")];
        let mut runs: Vec<(u32, &str)> = Vec::new();
        for c in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            let text = &*c.encode_utf8(&mut buffer);
            let name = classes.iter().find(|(class, _)| class.is_match(text)).map_or("O", |(_, name)| name);
            if runs.last().is_none_or(|&(_, last)| last != name) {
                runs.push((u32::from(c), name));
            }
        }
        let mut source = String::from(
            "//! Made and checked by the tests of `pretokenize.rs`: the classes of all characters, as the regular\n\
             //! expression engine has them.\n\n\
             use super::pretokenize::Class::{self, Letter as L, Number as N, Other as O, Space as S};\n\n\
             /// The first character of every run of characters of one class.\n\
             #[rustfmt::skip]\n",
        );
        let _ = write!(source, "pub(super) static RUNS: [(u32, Class); {}] = [", runs.len());
        for (index, (first, name)) in runs.iter().enumerate() {
            let separator = if index % 8 == 0 { "\n    " } else { " " };
            let _ = write!(source, "{separator}({first:#x}, {name}),");
        }
        source.push_str("\n];\n");
        source
    }

    #[test]
    fn every_character_has_the_class_that_the_regular_expression_engine_gives_it() {
        let expected = generate();
        let found = include_str!("char_classes.rs");
        if expected != found {
            let path = std::env::temp_dir().join("char_classes.rs");
            std::fs::write(&path, expected).expect("written");
            panic!(
                "the engine's Unicode tables differ from char_classes.rs; copy {} over it",
                path.display()
            );
        }
        for byte in 0..128 {
            assert_eq!(class_of_ascii(byte), class_of(char::from(byte)), "{byte:#04x}");
        }
    }

    #[track_caller]
    fn check(text: &str) {
        let mut oracle = PreTokenizedString::from(text);
        ByteLevel::new(false, true, true).pre_tokenize(&mut oracle).expect("split");
        let splits = oracle.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let expected: Vec<&str> = splits.iter().map(|(_, (start, end), _)| &text[*start..*end]).collect();
        assert_eq!(pieces(text).collect::<Vec<_>>(), expected, "{text:?}");
    }

    #[test]
    fn pieces_of_chosen_texts_are_those_of_the_regular_expression() {
        for text in [
            "",
            " ",
            "  ",
            "a",
            " a",
            "  a",
            "\n",
            "\n\n",
            "\na",
            " \na",
            "\n a",
            "a ",
            "a  ",
            "a\n",
            "'",
            "''",
            "'s",
            " 's",
            "''s",
            "it's",
            "'S",
            "'re",
            "'r",
            "'ll",
            "'l",
            "'lla",
            "'d've",
            "a'b",
            "1's",
            "a1",
            "1a",
            " 1",
            " 12a",
            "!",
            " !",
            " !?a",
            "\u{a0}a",
            " \u{a0}a",
            "\u{a0} a",
            "\u{3000}",
            "e\u{301}",
            "\u{301}",
            "x²",
            "Ⅷ½",
            "_a_",
            "\0",
            " \0 ",
            "\u{85}x",
            "\u{2028}\u{2029}",
            "漢字 かな",
            "👩\u{200d}🚀",
            "\u{1c}\u{1d}",
            "\u{180e}",
            "\u{feff}a",
            " '",
            " ' s",
        ] {
            check(text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn pieces_of_any_text_are_those_of_the_regular_expression(
            text in prop_oneof![
                "[ \t\n\u{a0}\u{3000}a1'stremvld!\u{301}é漢½²]{0,24}",
                "(['a ]|'s|'re|'ll| |\n|\\PC){0,16}",
                prop::collection::vec(any::<char>(), 0..24).prop_map(String::from_iter),
            ]
        ) {
            check(&text);
        }
    }
}
