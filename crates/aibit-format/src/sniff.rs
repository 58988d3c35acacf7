//! Names what a file is that is not an archive, so that the error says what to do.

/// What the first bytes look like.
pub(crate) fn describe(bytes: &[u8]) -> String {
    let text = bytes[..bytes.len().min(512)].trim_ascii_start();
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if bytes.is_empty() {
        "the file is empty".into()
    } else if starts(b"PK\x05\x06") {
        "it is a ZIP archive without entries".into()
    } else if starts(b"GGUF") {
        "it is a GGUF file; make one of it with `aibit pack`".into()
    } else if text.starts_with(b"version https://git-lfs") {
        "it is a Git LFS pointer; fetch the file itself with `git lfs pull`".into()
    } else if text.len() >= 5 && (text[..5].eq_ignore_ascii_case(b"<html") || text.starts_with(b"<!")) {
        "it is an HTML page; the download probably returned an error page".into()
    } else if starts(&[0x1f, 0x8b]) {
        "it is gzip-compressed; decompress it first".into()
    } else if starts(&[0x28, 0xb5, 0x2f, 0xfd]) {
        "it is zstd-compressed; decompress it first".into()
    } else if bytes.get(257..262) == Some(b"ustar") {
        "it is a tar archive; extract it first".into()
    } else if bytes.len() > 9
        && bytes[8] == b'{'
        && u64::from_le_bytes(bytes[..8].try_into().expect("8")) < (1 << 32)
    {
        "it is a safetensors file; pack its model folder with `aibit pack`".into()
    } else if bytes[0] == 0x80 && bytes.get(1).is_some_and(|protocol| (2..=5).contains(protocol)) {
        "it is a Python pickle; pack its model folder with `aibit pack`".into()
    } else if bytes.len() < 22 {
        format!("it has {} bytes, the smallest archive has more", bytes.len())
    } else {
        let head: Vec<String> = bytes[..4].iter().map(|b| format!("{b:02x}")).collect();
        format!("it starts with {}, an archive with 50 4b 03 04", head.join(" "))
    }
}
