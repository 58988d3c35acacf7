//! Escaping of control and invisible characters in text for a terminal.
//!
//! Names, settings and generated text are untrusted. Control characters in them could set a terminal's title or clear
//! its screen; others could reorder or hide what is printed.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether `c` controls a terminal, changes the direction of text, or has no visible width. `before` is the character
/// that precedes it.
fn is_unseen(c: char, before: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Joiners belong to words of several scripts and to emoji; after ASCII they only serve to disguise names.
        '\u{200c}' | '\u{200d}' => before.is_ascii(),
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
        '\u{ad}' | '\u{61c}' | '\u{180e}'
        // Zero-width space, direction marks, separators of lines and paragraphs, embeddings and overrides.
        | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        // Word joiner, invisible operators, isolates, deprecated format characters, byte order mark.
        | '\u{2060}'..='\u{206f}' | '\u{feff}'
        // Interlinear annotations, tags.
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        _ => c.is_control(),
    }
}

/// `text` with each unseen character written as an escape such as `\u{1b}`. Line breaks and tabs are kept. `before`
/// is the character printed last, or a line break if there is none.
pub(crate) fn escaped(text: &str, before: char) -> Cow<'_, str> {
    replaced(text, before, |escaped, c| {
        escaped.extend(c.escape_default());
    })
}

/// `text` on one line: a line break in a name must not imitate a line of the program's own output.
pub(crate) fn on_one_line(text: &str) -> Cow<'_, str> {
    if text.contains(['\n', '\t']) {
        return Cow::Owned(text.replace('\n', "\\n").replace('\t', "\\t"));
    }
    Cow::Borrowed(text)
}

/// A JSON text of the same meaning in which unseen characters are escaped in JSON syntax.
pub(crate) fn escaped_json(json: &str) -> Cow<'_, str> {
    // JSON has such characters only inside strings, and those below U+0020 are already escaped there.
    replaced(json, '\n', |escaped, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(escaped, "\\u{unit:04x}").expect("a string takes any text");
        }
    })
}

fn replaced(text: &str, before: char, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let mut replaced = String::new();
    let (mut before, mut copied) = (before, 0);
    for (at, c) in text.char_indices() {
        if is_unseen(c, before) {
            replaced.push_str(&text[copied..at]);
            escape(&mut replaced, c);
            copied = at + c.len_utf8();
        }
        before = c;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    replaced.push_str(&text[copied..]);
    Cow::Owned(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(escaped(text, '\n'), expected);
    }

    #[test]
    fn what_is_seen_stays() {
        for text in
            ["", "a\tb\nc", "Größe 大 \u{5d0}\u{300}", "\u{1f469}\u{200d}\u{1f467}", "می\u{200c}خواهم"]
        {
            check(text, text);
        }
    }

    #[test]
    fn what_steers_or_hides_is_escaped() {
        check("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}");
        check("a\rb\u{8}\u{0}", "a\\rb\\u{8}\\u{0}");
        check("\u{7f}\u{9b}2J", "\\u{7f}\\u{9b}2J");
        check("\u{202e}exe\u{2066}x\u{200f}", "\\u{202e}exe\\u{2066}x\\u{200f}");
        check("a\u{2028}b\u{2029}c\u{85}", "a\\u{2028}b\\u{2029}c\\u{85}");
        check("zero\u{200b}\u{feff}\u{2060}", "zero\\u{200b}\\u{feff}\\u{2060}");
        check("h\u{200d}ead\u{e0041}", "h\\u{200d}ead\\u{e0041}");
    }

    #[test]
    fn a_joiner_may_begin_a_piece() {
        assert_eq!(escaped("\u{200d}\u{1f467}", '\u{1f469}'), "\u{200d}\u{1f467}");
        assert_eq!(escaped("\u{200d}\u{1f467}", 'a'), "\\u{200d}\u{1f467}");
    }

    #[test]
    fn one_line_stays_one() {
        assert_eq!(on_one_line("x\nsound: 30 checks\t"), "x\\nsound: 30 checks\\t");
        assert_eq!(on_one_line("x\u{1b}"), "x\u{1b}", "a terminal's business");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({"a\u{202e}": "\u{1b}\u{7f}\u{85}\u{2028}\u{e0041}ü\n"});
        let json = value.to_string();
        let escaped = escaped_json(&json);
        assert!(!escaped.chars().any(|c| is_unseen(c, 'a')), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).expect("JSON"), value);
        assert_eq!(escaped, r#"{"a\u202e":"\u001b\u007f\u0085\u2028\udb40\udc41ü\n"}"#);
    }
}
