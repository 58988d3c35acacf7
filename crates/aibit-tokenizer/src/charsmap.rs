//! The table of a normalization that SentencePiece compiled into a trie (`precompiled_charsmap`).
//!
//! Base64 of: the trie's bytes (a u32), a double array of as many, and replacements that end with NUL each. Source:
//! SentencePiece's `normalizer.cc` and Darts-clone.

use std::collections::VecDeque;

/// Bytes of a replacement.
const MAX_REPLACEMENT: usize = 256;

/// How many times longer a replacement is than what it stands for, at most.
///
/// The library follows the trie without looking where it leads, so every place that a text can reach is looked at here.
///
/// # Errors
/// What is wrong with the table.
pub(super) fn check(base64: &str) -> Result<usize, String> {
    let bytes = decode(base64).ok_or("its table is not base64")?;
    let (&length, rest) = bytes.split_first_chunk::<4>().ok_or("its table has no length")?;
    let length = u32::from_le_bytes(length) as usize;
    if length == 0 || !length.is_multiple_of(4) || length > rest.len() {
        return Err(format!("its trie is to have {length} bytes, {} follow", rest.len()));
    }
    let (trie, texts) = rest.split_at(length);
    let units: Vec<u32> = trie.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let texts = std::str::from_utf8(texts).map_err(|_| "its replacements are not UTF-8")?;
    let unit = |place: usize| units.get(place).copied().ok_or("its trie leads out of itself");
    let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;

    let mut longest = 1;
    let mut seen = vec![false; units.len()];
    let mut places = VecDeque::from([(offset(unit(0)?), 0_usize)]);
    while let Some((place, depth)) = places.pop_front() {
        for byte in 1..=255_usize {
            let next = place ^ byte;
            let found = unit(next)?;
            if found & (1 << 31 | 0xff) != byte as u32 {
                continue;
            }
            // Endings are shared, so there are several ways to a place. The first is the shortest, for which what stands
            // there is longest in comparison.
            if std::mem::replace(&mut seen[next], true) {
                continue;
            }
            let next = next ^ offset(found);
            if found >> 8 & 1 == 1 {
                let begin = (unit(next)? & (u32::MAX >> 1)) as usize;
                let text = texts.get(begin..).ok_or("a replacement is not in its table")?;
                let bytes = text.find('\0').unwrap_or(text.len());
                if bytes > MAX_REPLACEMENT {
                    return Err(format!("a replacement has {bytes} bytes, allowed are {MAX_REPLACEMENT}"));
                }
                longest = longest.max(bytes.div_ceil(depth + 1));
            }
            places.push_back((next, depth + 1));
        }
    }
    Ok(longest)
}

/// The bytes behind base64 with padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (groups, []) = text.as_bytes().as_chunks::<4>() else { return None };
    let mut bytes = Vec::with_capacity(3 * groups.len());
    for (index, group) in groups.iter().enumerate() {
        let padding = group.iter().rev().take_while(|&&byte| byte == b'=').count();
        if padding > 2 || (padding > 0 && index + 1 < groups.len()) {
            return None;
        }
        let mut value = 0_u32;
        for &byte in &group[..4 - padding] {
            value = value << 6 | u32::from(digit(byte)?);
        }
        value <<= 6 * padding;
        bytes.extend_from_slice(&value.to_be_bytes()[1..4 - padding]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_its_specification_has_it() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmE=", "fooba")]
        {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for text in ["Z", "Zg=", "Z===", "Zg==Zg==", "Zm9-"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn tables_that_lead_astray_are_refused() {
        for (text, problem) in [
            ("AAAA", "no length"),
            ("AAAAAAAAAAAAAAAA", "0 bytes"),
            ("////fwAAAAA=", "2147483647 bytes"),
            ("BAAAAAAAAAA=", "out of itself"),
            ("?", "not base64"),
        ] {
            let error = check(text).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
