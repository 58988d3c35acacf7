//! Stop strings with escapes, since a line feed is hard to type in a shell.

/// Parses a stop string: `\n`, `\r`, `\t`, `\\`, `\xNN` and `\u{N}` are replaced, other escapes are refused.
///
/// # Errors
/// A message about the first invalid escape, or about an empty string.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let mut parsed = String::new();
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        parsed.push_str(before);
        let (c, after) = read_escape(escape)?;
        parsed.push(c);
        rest = after;
    }
    parsed.push_str(rest);
    if parsed.is_empty() { Err("a stop string must not be empty".into()) } else { Ok(parsed) }
}

/// The character of an escape and the text after it; `text` starts after the backslash.
fn read_escape(text: &str) -> Result<(char, &str), String> {
    const KNOWN: &str = r"write \n, \r, \t, \xNN, \u{N}, and \\ for a backslash";
    let mut chars = text.chars();
    let simple = match chars.next() {
        None => return Err(format!("it ends with a backslash; {KNOWN}")),
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('\\') => '\\',
        Some('x') => {
            let digits = chars.as_str().get(..2).unwrap_or_default();
            return match character(digits) {
                Some(c) if digits.len() == 2 => Ok((c, &chars.as_str()[2..])),
                _ => Err(format!(r"\x must be followed by two hexadecimal digits; {KNOWN}")),
            };
        }
        Some('u') => {
            let braced = chars.as_str().strip_prefix('{').and_then(|rest| rest.split_once('}'));
            return match braced.and_then(|(digits, after)| Some((character(digits)?, after))) {
                Some(read) => Ok(read),
                None => {
                    Err(format!(r"\u must be followed by a code point in braces, as in \u{{2028}}; {KNOWN}"))
                }
            };
        }
        Some(other) => return Err(format!(r"\{} is not an escape; {KNOWN}", other.escape_debug())),
    };
    Ok((simple, chars.as_str()))
}

/// The character whose code is given in up to six hexadecimal digits.
fn character(digits: &str) -> Option<char> {
    let is_code = (1..=6).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u32::from_str_radix(digits, 16).ok().filter(|_| is_code).and_then(char::from_u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read() {
        for (text, string) in [
            ("END", "END"),
            (r"\n\n", "\n\n"),
            (r"a\r\n\tb", "a\r\n\tb"),
            (r"\\n", "\\n"),
            (r"\x41\x0a\xe9", "A\n\u{e9}"),
            (r"\u{a}\u{20AC}\u{1f600}!", "\n\u{20ac}\u{1f600}!"),
            ("é\\n€", "é\n€"),
            ("\n", "\n"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(string), "{text}");
        }
    }

    #[test]
    fn other_backslashes_and_empty_strings_are_refused() {
        for text in [
            "",
            "\\",
            r"a\",
            r"\q",
            r"\x4",
            r"\x4g",
            r"\x+4",
            r"\xé",
            r"\u41",
            r"\u{}",
            r"\u{d800}",
            r"\u{110000}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            parse(r"\d"),
            Err(r"\d is not an escape; write \n, \r, \t, \xNN, \u{N}, and \\ for a backslash".into())
        );
    }
}
