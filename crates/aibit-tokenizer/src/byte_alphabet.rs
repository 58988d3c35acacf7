//! The alphabet in which byte-level vocabularies are written: one character for every byte.
//!
//! Printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards in order. Source:
//! `bytes_to_unicode` in GPT-2's `encoder.py`.

/// The byte that a character stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x143 => {
            let nth = (code - 0x100) as u8;
            Some(match nth {
                0..=0x20 => nth,
                0x21..=0x42 => nth - 0x21 + 0x7f,
                _ => 0xad,
            })
        }
        _ => None,
    }
}

/// The characters of the alphabet, by the byte that they stand for.
pub(super) fn characters() -> [char; 256] {
    let mut characters = ['\0'; 256];
    for (byte, c) in ('\0'..='\u{143}').filter_map(|c| Some((byte_of(c)?, c))) {
        characters[usize::from(byte)] = c;
    }
    characters
}

/// The bytes that a token stands for; `None` if a character is not of the alphabet.
pub(super) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_that_of_gpt2() {
        // bytes_to_unicode() of encoder.py, stated as a loop over bytes.
        let mut next = 0x100;
        for byte in 0..=255_u8 {
            let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable { u32::from(byte) } else { next };
            next += u32::from(!printable);
            assert_eq!(byte_of(char::from_u32(code).expect("a character")), Some(byte), "byte {byte:#04x}");
        }
        assert_eq!(next, 0x144);
        assert_eq!(byte_of('\u{144}'), None);
        assert_eq!(byte_of(' '), None);
    }
}
