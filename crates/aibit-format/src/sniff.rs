//! Recognition of file kinds by their first bytes, used by every reader.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::FormatError;
use crate::mmap::regular_file;

/// Longest header that the safetensors format allows, in bytes.
const MAX_SAFETENSORS_HEADER: u64 = 100_000_000;

/// Kinds of files found where a model is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// No bytes at all.
    Empty,
    /// safetensors.
    Safetensors,
    /// GGUF, of any version.
    Gguf,
    /// The ggml formats before GGUF.
    OldGgml,
    /// ZIP: an archive of this project, a torch checkpoint, or any other.
    Zip,
    /// ZIP without entries.
    EmptyZip,
    /// A bare pickle.
    Pickle,
    /// A Git LFS pointer instead of the file.
    LfsPointer,
    /// An HTML or XML page, as a server's error response.
    Page,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by Zstandard.
    Zstd,
    /// A tar archive.
    Tar,
    /// HDF5, the weight format of Keras and TensorFlow.
    Hdf5,
    /// UTF-16 text.
    Utf16,
    /// None of these.
    Unknown,
}

impl FileKind {
    /// Number of first bytes that determine the kind; more are allowed.
    pub const HEAD: usize = 512;

    /// The kind of a file of `file_bytes` that begins with `head`, its first [`FileKind::HEAD`] bytes or all there are.
    ///
    /// safetensors has no magic number: the first eight bytes are a length of any value, so they may look like a
    /// pickle or a ZIP file. A length that fits the file, followed by `{`, is decisive, because no other format
    /// allows it: a ZIP file would have compression method 123 there, a pickle a frame longer than memory, and as a
    /// length the letters of GGUF exceed the limit of the format.
    pub fn of(head: &[u8], file_bytes: u64) -> Self {
        let starts = |magic: &[u8]| head.starts_with(magic);
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
        let starts_text = |tag: &[u8]| text.get(..tag.len()).is_some_and(|t| t.eq_ignore_ascii_case(tag));
        let header = head.first_chunk().filter(|_| head.get(8) == Some(&b'{'));
        let header = header.map(|n| u64::from_le_bytes(*n)).filter(|n| *n <= MAX_SAFETENSORS_HEADER);
        if file_bytes == 0 || head.is_empty() {
            Self::Empty
        } else if header.is_some_and(|n| n >= 2 && n <= file_bytes.saturating_sub(8)) {
            Self::Safetensors
        } else if starts(b"GGUF") {
            Self::Gguf
        } else if starts(b"PK\x03\x04") {
            Self::Zip
        } else if starts(b"PK\x05\x06") {
            Self::EmptyZip
        } else if matches!(head, [0x80, 0..=5, ..]) {
            Self::Pickle
        } else if [b"lmgg", b"fmgg", b"tjgg", b"algg"].iter().any(|magic| starts(*magic)) {
            Self::OldGgml
        } else if starts_text(b"version https://git-lfs") {
            Self::LfsPointer
        } else if starts_text(b"<html") || starts_text(b"<!") || starts_text(b"<?xml") {
            Self::Page
        } else if starts(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if starts(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else if head.get(257..262) == Some(b"ustar") {
            Self::Tar
        } else if starts(b"\x89HDF\r\n\x1a\n") {
            Self::Hdf5
        } else if starts(&[0xff, 0xfe]) || starts(&[0xfe, 0xff]) {
            Self::Utf16
        } else if header.is_some() {
            Self::Safetensors // truncated; its reader reports that
        } else {
            Self::Unknown
        }
    }

    /// The kind of the file at `path`.
    ///
    /// # Errors
    /// [`FormatError::NotAFile`] for folders, devices and pipes, which are not opened, and [`FormatError::Io`].
    pub fn read(path: &Path) -> Result<Self, FormatError> {
        let length = regular_file(path)?.len();
        let mut head = Vec::new();
        File::open(path)
            .and_then(|file| file.take(Self::HEAD as u64).read_to_end(&mut head))
            .map_err(|source| FormatError::Io { action: "read", path: path.to_owned(), source })?;
        Ok(Self::of(&head, length))
    }

    /// For a file that is missing and replaced or wrapped by something else: what it is, and what to do. `None` for a
    /// format of its own or an unknown one.
    pub fn stand_in(self) -> Option<&'static str> {
        Some(match self {
            Self::Empty => "the file is empty; copy or download it again",
            Self::LfsPointer => "a Git LFS pointer and not the file itself; fetch it with `git lfs pull`",
            Self::Page => {
                "an HTML page and not the file itself; the download probably returned an error page, so repeat it"
            }
            Self::Gzip => "compressed by gzip; decompress it first",
            Self::Zstd => "compressed by Zstandard; decompress it first",
            Self::Tar => "a tar archive; extract it first",
            Self::Utf16 => "text in UTF-16; save it as UTF-8",
            _ => return None,
        })
    }
}

/// What a file is that is not an archive, with advice for the error.
pub(crate) fn describe(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(FileKind::HEAD)];
    match FileKind::of(head, bytes.len() as u64) {
        FileKind::Empty => "the file is empty".into(),
        FileKind::EmptyZip => "it is a ZIP archive without entries".into(),
        FileKind::Gguf => "it is a GGUF file; make one of it with `aibit pack`".into(),
        FileKind::LfsPointer => "it is a Git LFS pointer; fetch the file itself with `git lfs pull`".into(),
        FileKind::Page => "it is an HTML page; the download probably returned an error page".into(),
        FileKind::Gzip => "it is gzip-compressed; decompress it first".into(),
        FileKind::Zstd => "it is zstd-compressed; decompress it first".into(),
        FileKind::Tar => "it is a tar archive; extract it first".into(),
        FileKind::Safetensors => "it is a safetensors file; pack its model folder with `aibit pack`".into(),
        FileKind::Pickle => "it is a Python pickle; pack its model folder with `aibit pack`".into(),
        _ if bytes.len() < 22 => format!("it has {} bytes, the smallest archive has more", bytes.len()),
        _ => {
            let head: Vec<String> = bytes[..4].iter().map(|b| format!("{b:02x}")).collect();
            format!("it starts with {}, an archive with 50 4b 03 04", head.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(head: &[u8], file_bytes: u64) -> FileKind {
        FileKind::of(head, file_bytes)
    }

    #[test]
    fn safetensors_headers_may_have_any_length() {
        // Every first byte, and lengths whose bytes look like a pickle, a ZIP file (67,324,752) or text.
        let zip = u64::from(u32::from_le_bytes(*b"PK\x03\x04"));
        let pickles = (0..=5).map(|protocol| 0x0100_0080 + protocol * 0x100);
        for length in (2..600).chain(pickles).chain([zip, MAX_SAFETENSORS_HEADER]) {
            let head = [&length.to_le_bytes()[..], b"{\"__metadata__\""].concat();
            assert_eq!(kind(&head, length + 8), FileKind::Safetensors, "{length}");
            assert_eq!(kind(&head, length + 4096), FileKind::Safetensors, "{length}");
        }
    }

    #[test]
    fn other_formats_are_not_taken_for_safetensors() {
        let long = 1 << 40;
        assert_eq!(kind(b"PK\x03\x04\x14\0\0\0\0\0{}", long), FileKind::Zip);
        assert_eq!(kind(b"GGUF\x03\0\0\0{\0\0\0\0\0\0\0", long), FileKind::Gguf);
        assert_eq!(kind(b"GGUF\0\0\0\0{\0\0\0\0\0\0\0", long), FileKind::Gguf);
        assert_eq!(kind(b"\x80\x02}q\0(X\x01{", long), FileKind::Pickle);
        assert_eq!(kind(b"\x80\x04\x95\x05\0\0\0\0\0\0\0}", long), FileKind::Pickle);
        assert_eq!(kind(b"{\"a\": 1, \"b\": {}}", long), FileKind::Unknown);
        assert_eq!(kind(b"12345678{", long), FileKind::Unknown);
    }

    #[test]
    fn a_header_that_is_longer_than_the_file_is_still_one_of_safetensors() {
        assert_eq!(kind(b"\x00\x10\0\0\0\0\0\0{\"a\":", 900), FileKind::Safetensors);
    }
}
