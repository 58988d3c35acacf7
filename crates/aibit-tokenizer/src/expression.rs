//! Regular expressions of a `tokenizer.json`: those whose matches are found in a time that grows with the text.
//!
//! The library's engine goes back and forth for what an automaton cannot express, gives up after a number of steps, and
//! the rest of the text is then split in no way at all, without a word. So every alternative of an expression is either
//! one that an automaton matches, or one of a few that the tokenizers in use have and that match without going back.

use regex::RegexBuilder;

/// Bytes of an expression.
const MAX_BYTES: usize = 2048;

/// Bytes of the automaton of an alternative.
const MAX_AUTOMATON: usize = 2 << 20;

/// Alternatives beyond an automaton that tokenizers have, and their shortest match: white space but for the last before a
/// word, and repetitions that give nothing back.
const KNOWN: [(&str, usize); 9] = [
    (r"\s+(?!\S)", 1),
    (r"\s++(?!\S)", 1),
    (r"\s++$", 1),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}+", 1),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}++", 1),
    (r"\p{N}{1,3}+", 1),
    (r" ?[^\s\p{L}\p{N}]++", 1),
    (r" ?[^\s\p{L}\p{N}]++[\r\n]*", 1),
    (r" ?[^\s\p{L}\p{N}]++[\r\n]*+", 1),
];

/// The bytes of an expression's shortest match.
///
/// # Errors
/// What is wrong with it, to stand behind the expression.
pub(super) fn check(expression: &str) -> Result<usize, String> {
    if expression.len() > MAX_BYTES {
        return Err(format!("has {} bytes, allowed are {MAX_BYTES}", expression.len()));
    }
    let mut shortest = usize::MAX;
    for alternative in alternatives(expression) {
        let length = match KNOWN.iter().find(|(known, _)| *known == alternative.text) {
            Some((_, length)) => *length,
            None if alternative.is_possessive => {
                return Err(not_supported(alternative.text, "gives nothing back"));
            }
            None => linear(alternative.text)?,
        };
        if length == 0 {
            return Err(format!("matches the empty text in {:?}", alternative.text));
        }
        shortest = shortest.min(length);
    }
    Ok(shortest)
}

fn not_supported(alternative: &str, problem: &str) -> String {
    format!("is not supported: {alternative:?} {problem}")
}

/// The shortest match of an alternative that an automaton matches.
fn linear(alternative: &str) -> Result<usize, String> {
    let parsed = regex_syntax::parse(alternative).map_err(|e| {
        let problem = match &e {
            regex_syntax::Error::Parse(e) => e.kind().to_string(),
            regex_syntax::Error::Translate(e) => e.kind().to_string(),
            _ => e.to_string(),
        };
        not_supported(alternative, &format!("is no expression of an automaton ({problem})"))
    })?;
    let built = RegexBuilder::new(alternative).size_limit(MAX_AUTOMATON).build();
    built.map_err(|_| {
        not_supported(alternative, &format!("needs an automaton of more than {MAX_AUTOMATON} bytes"))
    })?;
    // An expression that matches nothing at all has no shortest match, and no harm in it.
    Ok(parsed.properties().minimum_len().unwrap_or(1))
}

struct Alternative<'e> {
    text: &'e str,
    /// Whether a repetition in it gives nothing back, which an automaton reads as something else.
    is_possessive: bool,
}

/// The alternatives of an expression, those inside of groups not taken apart.
fn alternatives(expression: &str) -> Vec<Alternative<'_>> {
    let bytes = expression.as_bytes();
    let mut alternatives = Vec::new();
    let (mut begin, mut at, mut depth, mut in_class) = (0, 0, 0_u32, 0_u32);
    let (mut is_possessive, mut after_repetition) = (false, false);
    while at < bytes.len() {
        let mut is_repetition = false;
        match bytes[at] {
            b'\\' => {
                let is_braced = matches!(bytes.get(at + 1), Some(b'p' | b'P' | b'x' | b'u' | b'U'))
                    && bytes.get(at + 2) == Some(&b'{');
                at += match bytes[at..].iter().position(|&byte| byte == b'}') {
                    Some(end) if is_braced => end,
                    _ => 1,
                };
            }
            b'[' => in_class += 1,
            b']' if in_class > 0 => in_class -= 1,
            _ if in_class > 0 => {}
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'+' if after_repetition => is_possessive = true,
            b'+' | b'*' | b'?' | b'}' => is_repetition = true,
            b'|' if depth == 0 => {
                alternatives.push(Alternative { text: &expression[begin..at], is_possessive });
                (begin, is_possessive) = (at + 1, false);
            }
            _ => {}
        }
        after_repetition = is_repetition;
        at += 1;
    }
    alternatives.push(Alternative { text: expression.get(begin..).unwrap_or_default(), is_possessive });
    alternatives
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expressions_of_tokenizers_in_use_pass() {
        for expression in [
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r" ?[^(\s|[.,!?…。，、।۔،])]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            "[一-龥ࠀ-一가-퟿]+",
            r"\s+$",
            "[0-9][0-9][0-9]",
            " {2,}",
            r"[\x{120}\x{21}\x{78}\x{135}\x{c3}]",
        ] {
            assert!(
                check(expression).is_ok_and(|shortest| shortest > 0),
                "{expression}: {:?}",
                check(expression)
            );
        }
    }

    #[test]
    fn what_may_go_back_and_forth_is_refused() {
        for (expression, problem) in [
            (r"(a+)+(?!\S)", "not supported"),
            (r"(x|\s+(?!\S))+", "not supported"),
            (r"(a*)*\1", "not supported"),
            (r"((a++)+)+b", "gives nothing back"),
            (r"(?<=a)b", "not supported"),
            (r"(?>a+)b", "not supported"),
            (r"\p{L}++x", "gives nothing back"),
            (r"a{2,3}+", "gives nothing back"),
            ("a*", "empty"),
            ("", "empty"),
            ("x|", "empty"),
            (r"\b", "empty"),
            (r"(?:\p{L}{99}){99}", "automaton"),
            ("(", "not supported"),
            ("[", "not supported"),
            (&"(".repeat(2000), "not supported"),
            (&"a".repeat(3000), "3000 bytes"),
        ] {
            let error = check(expression).expect_err(expression);
            assert!(error.contains(problem), "{expression}: {error}");
        }
    }
}
