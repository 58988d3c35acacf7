//! Text input of commands: from a file or standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;

use crate::errors::Advised;

/// Maximum bytes of a prompt or message: several times the longest context.
pub(crate) const LONGEST_PROMPT: u64 = 16 << 20;
/// Maximum bytes of a text to be scored.
pub(crate) const LONGEST_TEXT: u64 = 1 << 30;
/// Maximum bytes read from a pipe or device, which has no known length.
const LONGEST_STREAM: u64 = 64 << 20;

/// Reads the whole text file at `path`; `-` is standard input. Trailing newlines are kept.
///
/// # Errors
/// If it cannot be read, has more than `limit` bytes, or is not UTF-8.
pub(crate) fn read(path: &Path, limit: u64) -> anyhow::Result<String> {
    let (name, bytes) = if path.as_os_str() == "-" {
        ("standard input".to_owned(), read_bytes(io::stdin().lock(), None, "standard input", limit)?)
    } else {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
        let metadata = file.metadata().with_context(|| format!("cannot read {name}"))?;
        let length = metadata.is_file().then_some(metadata.len());
        let bytes = read_bytes(file, length, &name, limit)?;
        (name, bytes)
    };
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message =
            format!("cannot read {name}: byte {at} is {:#04x}, which is not UTF-8", error.as_bytes()[at]);
        Advised::new("not_utf8", message)
            .hint("convert it, for instance with `iconv -f latin1 -t utf-8`")
            .into()
    })
}

fn read_bytes(reader: impl Read, length: Option<u64>, name: &str, limit: u64) -> anyhow::Result<Vec<u8>> {
    let limit = if length.is_some() { limit } else { limit.min(LONGEST_STREAM) };
    if length.is_some_and(|length| length > limit) {
        return Err(too_long(name, limit).into());
    }
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > limit {
        return Err(too_long(name, limit).into());
    }
    Ok(bytes)
}

/// The error for a text of more than `limit` bytes.
pub(crate) fn too_long(name: &str, limit: u64) -> Advised {
    Advised::new("text_too_long", format!("{name} has more than {limit} bytes, the maximum"))
}

/// `text` without trailing newlines.
pub(crate) fn without_line_ends(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}
