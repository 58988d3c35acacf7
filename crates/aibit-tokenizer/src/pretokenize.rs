//! Pre-tokenization: text to the pieces that merges never cross.
//!
//! The rules are regular expressions, applied by hand: every alternative is decided by the first characters and by
//! how far a run of one class goes, so one pass finds the pieces without backtracking. `docs/format.md` says whose
//! they are.

use super::char_classes::RUNS;

/// The rules, by what they do; the numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Splitting {
    /// [`WORDS`].
    Words = 0,
    /// Every numeric character alone, then [`WORDS`] on what lies between.
    WordsBetweenDigits = 1,
    /// [`LINES_AND_TRIPLES`].
    LinesAndTriples = 2,
    /// [`LINES_AND_DIGITS`].
    LinesAndDigits = 3,
}

/// Contractions; words, numbers and signs, each with the space before it; white space, but for that last space.
pub(super) const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Contractions in both cases; words with any sign or space before them; up to three digits; signs, and the line
/// ends after them; white space up to its last line end.
pub(super) const LINES_AND_TRIPLES: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same, but every digit alone.
pub(super) const LINES_AND_DIGITS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Splitting {
    const ALL: [Self; 4] =
        [Self::Words, Self::WordsBetweenDigits, Self::LinesAndTriples, Self::LinesAndDigits];

    /// The rule that is stored as this number.
    pub(super) fn of_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&splitting| splitting as u32 == number)
    }

    /// The rule that matches this expression again and again.
    pub(super) fn of_expression(expression: &str) -> Option<Self> {
        match expression {
            WORDS => Some(Self::Words),
            LINES_AND_TRIPLES => Some(Self::LinesAndTriples),
            LINES_AND_DIGITS => Some(Self::LinesAndDigits),
            _ => None,
        }
    }

    /// The pieces of `text`, in order; together they are `text`.
    pub(super) fn pieces(self, text: &str) -> impl Iterator<Item = &str> {
        let (mut rest, mut segment) = (text, "");
        std::iter::from_fn(move || {
            if segment.is_empty() {
                if rest.is_empty() {
                    return None;
                }
                (segment, rest) = rest.split_at(self.segment_len(rest));
            }
            let (piece, after) = segment.split_at(self.piece_len(segment));
            segment = after;
            Some(piece)
        })
    }

    /// Length of the part of a text, which is not empty, that is split without a look at what follows.
    fn segment_len(self, text: &str) -> usize {
        match self {
            Self::Words | Self::LinesAndTriples | Self::LinesAndDigits => text.len(),
            Self::WordsBetweenDigits => match text.find(char::is_numeric) {
                Some(0) => text.chars().next().map_or(0, char::len_utf8),
                Some(at) => at,
                None => text.len(),
            },
        }
    }

    /// Length of the piece that a segment, which is not empty, begins with.
    fn piece_len(self, segment: &str) -> usize {
        match self {
            Self::Words | Self::WordsBetweenDigits => words_piece_len(segment),
            Self::LinesAndTriples => lines_piece_len(segment, 3),
            Self::LinesAndDigits => lines_piece_len(segment, 1),
        }
    }
}

/// What the rules see of a character: `\p{L}`, `\p{N}`, `\s`, or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `\p{L}`.
    Letter,
    /// `\p{N}`.
    Number,
    /// `\s`.
    Space,
    /// None of them.
    Other,
}

/// Length of the first match of [`WORDS`].
fn words_piece_len(text: &str) -> usize {
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
        Some((class, _)) => run_end(text, start, class),
    }
}

/// Length of the first match of [`LINES_AND_TRIPLES`], with `digits` in place of three.
fn lines_piece_len(text: &str, digits: usize) -> usize {
    let bytes = text.as_bytes();
    if bytes[0] == b'\''
        && let Some(length) = contraction_len(&bytes[1..])
    {
        return 1 + length;
    }
    let Some((class, first)) = class_at(text, 0) else { return text.len() };
    match class {
        Class::Letter => return run_end(text, first, Class::Letter),
        Class::Number => {
            let mut end = first;
            for _ in 1..digits {
                match class_at(text, end) {
                    Some((Class::Number, length)) => end += length,
                    _ => break,
                }
            }
            return end;
        }
        Class::Space | Class::Other => {}
    }
    if !is_line_end(bytes[0]) && matches!(class_at(text, first), Some((Class::Letter, _))) {
        return run_end(text, first, Class::Letter);
    }
    let start = usize::from(bytes[0] == b' ');
    if matches!(class_at(text, start), Some((Class::Other, _))) {
        let end = run_end(text, start, Class::Other);
        return end + bytes[end..].iter().take_while(|&&byte| is_line_end(byte)).count();
    }
    let spaces = &bytes[..run_end(text, 0, Class::Space)];
    match spaces.iter().rposition(|&byte| is_line_end(byte)) {
        Some(last) => last + 1,
        None => space_len(text),
    }
}

/// Length of what `(?i:s|t|re|ve|m|ll|d)` matches at the beginning.
fn contraction_len(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b's' | b'S' | b't' | b'T' | b'm' | b'M' | b'd' | b'D', ..] => Some(1),
        [b'r' | b'R' | b'v' | b'V', b'e' | b'E', ..] | [b'l' | b'L', b'l' | b'L', ..] => Some(2),
        [0xc5, 0xbf, ..] => Some(2), // U+017F, the long s, is an s in another case
        _ => None,
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Where characters from `at` on stop to be of this class.
fn run_end(text: &str, at: usize, class: Class) -> usize {
    let mut end = at;
    while let Some((next, length)) = class_at(text, end)
        && next == class
    {
        end += length;
    }
    end
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

/// The class of a character, as the rules of pre-tokenization see it.
pub fn class_of(c: char) -> Class {
    let after = RUNS.partition_point(|&(first, _)| first <= u32::from(c));
    RUNS[after - 1].1 // the first run begins at 0
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::pre_tokenizers::digits::Digits;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
        SplitDelimiterBehavior,
    };

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

    /// The library's steps for each rule.
    static ORACLES: LazyLock<[(Splitting, Vec<PreTokenizerWrapper>); 4]> = LazyLock::new(|| {
        let bytes = |use_regex| ByteLevel::new(false, true, use_regex).into();
        let split = |regex: &str| {
            let pattern = SplitPattern::Regex(regex.to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("a pattern").into()
        };
        [
            (Splitting::Words, vec![bytes(true)]),
            (Splitting::WordsBetweenDigits, vec![Digits::new(true).into(), bytes(true)]),
            (Splitting::LinesAndTriples, vec![split(LINES_AND_TRIPLES), bytes(false)]),
            (Splitting::LinesAndDigits, vec![split(LINES_AND_DIGITS), bytes(false)]),
        ]
    });

    #[track_caller]
    fn check(text: &str) {
        for (splitting, steps) in &*ORACLES {
            let mut oracle = PreTokenizedString::from(text);
            steps.iter().for_each(|step| step.pre_tokenize(&mut oracle).expect("split"));
            let splits = oracle.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let expected: Vec<&str> = splits.iter().map(|(_, (start, end), _)| &text[*start..*end]).collect();
            assert_eq!(splitting.pieces(text).collect::<Vec<_>>(), expected, "{splitting:?}: {text:?}");
        }
    }

    #[test]
    fn every_rule_is_found_by_its_number_and_by_its_expression() {
        for (index, (splitting, _)) in ORACLES.iter().enumerate() {
            assert_eq!(Splitting::of_number(index as u32), Some(*splitting));
        }
        assert_eq!(Splitting::of_number(4), None);
        assert_eq!(Splitting::of_expression(WORDS), Some(Splitting::Words));
        assert_eq!(Splitting::of_expression(r"\s+"), None);
    }

    #[test]
    fn characters_of_every_run_of_a_class_are_split_off_as_the_regular_expression_does_it() {
        let edges = RUNS.iter().flat_map(|&(first, _)| [first.saturating_sub(1), first]);
        let characters: Vec<char> = (0..0x3100).chain(edges).filter_map(char::from_u32).collect();
        for (before, between) in [("", ""), ("a ", "1"), ("'", " "), ("\n", "l")] {
            for part in characters.chunks(64) {
                check(&part.iter().map(|c| format!("{before}{c}{between}")).collect::<String>());
            }
        }
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
            "'S'T'RE'VE'M'LL'D",
            "'rE'Ve'lL'r'v'l",
            "it'\u{17f}a",
            "'\u{212a}",
            "'\u{1e9e}",
            " 'sa",
            "!abc",
            " !abc",
            "!!abc",
            "\tabc",
            "\rabc",
            "\u{85}abc",
            "\u{a0}\u{a0}abc",
            "\u{301}abc",
            "1",
            "12",
            "123",
            "1234",
            "1234567 12 345",
            "a1234b",
            "१२३४ ٣٤٥٦",
            "²³¹½Ⅷ㊿",
            "〇一二三",
            "߀߁𝟘𝟙",
            "  1  2",
            "a  1",
            "!\n",
            " !\r\n\n a",
            "!\r\n!\n",
            "a\r\nb",
            " \r\n \r\n b",
            "\n\n  \n  b",
            "\n \t",
            " \t\nb",
            "\u{85}\n\u{2028}b",
            "\r",
            "\r\r",
            " \r",
            "漢字。\nかな!1",
            "👩\u{200d}🚀👍🏽a",
            "\u{fffd}",
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
                "['stremvldSTREMVLD\u{17f} \r\n.]{0,24}",
                "[ \r\n\t\u{85}\u{2028}a!1]{0,24}",
                "(['a ]|'s|'re|'ll| |\n|\\PC){0,16}",
                "([0-9]{1,8}|[ ½٣१𝟘\r\n]|\\pN|\\pM|a|'[sS]|'[lL]{2}){0,16}",
                prop::collection::vec(any::<char>(), 0..24).prop_map(String::from_iter),
            ]
        ) {
            check(&text);
        }
    }
}
