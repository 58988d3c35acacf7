//! The alphabet of byte-level vocabularies: one character per byte.
//!
//! Printable Latin-1 characters represent themselves, the other 68 bytes are U+0100 onwards in order. Source:
//! `bytes_to_unicode` in GPT-2's `encoder.py`.

/// The characters of the alphabet, by byte.
pub(super) fn characters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte as u8),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default() // at most U+0143
        }
    })
}

/// Whether every character of a token is in the alphabet.
pub(super) fn is_written_in_it(token: &str) -> bool {
    token.chars().all(|c| matches!(u32::from(c), 0x21..=0x7e | 0xa1..=0xac | 0xae..=0x143))
}

/// The characters of bytes that can occur in texts but are not tokens.
///
/// llama.cpp drops such bytes from a text, and does not merge across them.
pub(super) fn without_token(is_token: impl Fn(&str) -> bool) -> Vec<char> {
    let in_utf8 = |byte: usize| !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
    let is_missing = |c: &char| !is_token(c.encode_utf8(&mut [0; 4]));
    let characters = characters().into_iter().enumerate();
    characters.filter(|&(byte, _)| in_utf8(byte)).map(|(_, c)| c).filter(is_missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_that_of_gpt2() {
        let characters = characters();
        for (byte, expected) in
            [(0, 'Ā'), (b' ', 'Ġ'), (b'!', '!'), (b'~', '~'), (0x7f, 'ġ'), (0xad, 'Ń'), (0xff, 'ÿ')]
        {
            assert_eq!(characters[usize::from(byte)], expected, "byte {byte:#04x}");
        }
        for code in 0..0x200 {
            let c = char::from_u32(code).expect("a character");
            assert_eq!(is_written_in_it(&c.to_string()), characters.contains(&c), "{c:?}");
        }
    }

    #[test]
    fn bytes_that_utf8_never_has_need_no_token() {
        let none: Vec<char> = without_token(|_| false);
        assert_eq!(none.len(), 256 - 13);
        assert!(!none.contains(&'À') && none.contains(&'Â') && none.contains(&'ô') && !none.contains(&'õ'));
        assert_eq!(without_token(|token| token != "Ą"), ['Ą']);
    }
}
