//! The container: ZIP headers with exactly one encoding for given names, sizes, checksums and offsets.
//!
//! A reader decodes name, size, checksum and offset from the central directory, encodes both headers again, and
//! compares bytes. Any other value in a header (flags, methods, times, attributes, comments, extra fields,
//! disagreement between local and central header) is thereby refused without a separate rule.
//!
//! Source: APPNOTE.TXT 6.3.10, .ZIP File Format Specification, PKWARE.

use std::collections::HashMap;

use crate::FormatError;

/// Every entry's data starts at a multiple of this, the page size of most platforms.
pub(crate) const PAGE: u64 = 4096;

const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
const CENTRAL_SIGNATURE: u32 = 0x0201_4b50;
const END_SIGNATURE: u32 = 0x0605_4b50;
const END64_SIGNATURE: u32 = 0x0606_4b50;
const LOCATOR64_SIGNATURE: u32 = 0x0706_4b50;

const LOCAL_BYTES: usize = 30;
const CENTRAL_BYTES: usize = 46;
const END_BYTES: usize = 22;
const END64_BYTES: usize = 56;
const LOCATOR64_BYTES: usize = 20;

const FLAG_UTF8: u16 = 1 << 11;
const VERSION_STORED: u16 = 10;
const VERSION_ZIP64: u16 = 45;
const MADE_BY_UNIX: u16 = 3 << 8 | VERSION_ZIP64;
/// 1980-01-01, the earliest date that the format can represent: archives carry no times.
const DATE: u16 = 1 << 5 | 1;
/// A regular file, `rw-r--r--`.
const ATTRIBUTES: u32 = 0o100_644 << 16;
const EXTRA_ZIP64: u16 = 1;
/// The extra field with which Android's zipalign pads local headers: alignment, then zeros.
const EXTRA_ALIGNMENT: u16 = 0xd935;
const MAX_U32: u64 = u32::MAX as u64;

/// Maximum number of entries, far above any package's; bounds the directory before it is read.
const MAX_ENTRIES: u64 = 4096;
const MAX_NAME: usize = 255;

/// One stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
    /// Offset of the local header.
    pub(crate) header_offset: u64,
}

impl Record {
    /// Offset of the data: the first page boundary that leaves room for the header.
    pub(crate) fn data_offset(&self) -> u64 {
        let header = LOCAL_BYTES + self.name.len() + self.local_zip64().len() + 6;
        (self.header_offset + header as u64).next_multiple_of(PAGE)
    }

    pub(crate) fn data_end(&self) -> u64 {
        self.data_offset() + self.bytes
    }

    fn local_zip64(&self) -> Vec<u8> {
        if self.bytes < MAX_U32 {
            return Vec::new();
        }
        extra(EXTRA_ZIP64, &[self.bytes.to_le_bytes(), self.bytes.to_le_bytes()].concat())
    }

    fn central_zip64(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        if self.bytes >= MAX_U32 {
            fields.extend([self.bytes.to_le_bytes(), self.bytes.to_le_bytes()].concat());
        }
        if self.header_offset >= MAX_U32 {
            fields.extend(self.header_offset.to_le_bytes());
        }
        if fields.is_empty() { fields } else { extra(EXTRA_ZIP64, &fields) }
    }

    /// The fields that local and central headers share, in order.
    fn common(&self, zip64: bool, extra_bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(26);
        out.extend(if zip64 { VERSION_ZIP64 } else { VERSION_STORED }.to_le_bytes());
        out.extend(FLAG_UTF8.to_le_bytes());
        out.extend(0u16.to_le_bytes()); // method: stored
        out.extend(0u16.to_le_bytes()); // time
        out.extend(DATE.to_le_bytes());
        out.extend(self.crc32.to_le_bytes());
        let size = u32::try_from(self.bytes).unwrap_or(u32::MAX).to_le_bytes();
        out.extend(size); // compressed
        out.extend(size); // uncompressed
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend((extra_bytes as u16).to_le_bytes());
        out
    }

    /// The local header, padded so that the data follows on a page boundary.
    pub(crate) fn local_header(&self) -> Vec<u8> {
        let zip64 = self.local_zip64();
        let length = (self.data_offset() - self.header_offset) as usize;
        let padding = length - LOCAL_BYTES - self.name.len() - zip64.len() - 6;
        let mut alignment = (PAGE as u16).to_le_bytes().to_vec();
        alignment.resize(2 + padding, 0);
        let extras = [zip64.clone(), extra(EXTRA_ALIGNMENT, &alignment)].concat();
        let mut out = LOCAL_SIGNATURE.to_le_bytes().to_vec();
        out.extend(self.common(!zip64.is_empty(), extras.len()));
        out.extend(self.name.as_bytes());
        out.extend(extras);
        out
    }

    fn central_header(&self) -> Vec<u8> {
        let zip64 = self.central_zip64();
        let mut out = CENTRAL_SIGNATURE.to_le_bytes().to_vec();
        out.extend(MADE_BY_UNIX.to_le_bytes());
        out.extend(self.common(!zip64.is_empty(), zip64.len()));
        out.extend(0u16.to_le_bytes()); // comment
        out.extend(0u16.to_le_bytes()); // disk
        out.extend(0u16.to_le_bytes()); // internal attributes
        out.extend(ATTRIBUTES.to_le_bytes());
        out.extend(u32::try_from(self.header_offset).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.extend(zip64);
        out
    }
}

fn extra(id: u16, data: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes(), &(data.len() as u16).to_le_bytes(), data].concat()
}

/// The central directory and the end records for entries that end at `directory_offset`.
pub(crate) fn directory(records: &[Record], directory_offset: u64) -> Vec<u8> {
    let mut out: Vec<u8> = records.iter().flat_map(Record::central_header).collect();
    let directory_bytes = out.len() as u64;
    out.extend(end_records(records.len() as u64, directory_offset, directory_bytes));
    out
}

fn end_records(entries: u64, directory_offset: u64, directory_bytes: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if directory_offset >= MAX_U32 {
        out.extend(END64_SIGNATURE.to_le_bytes());
        out.extend((END64_BYTES as u64 - 12).to_le_bytes());
        out.extend(MADE_BY_UNIX.to_le_bytes());
        out.extend(VERSION_ZIP64.to_le_bytes());
        out.extend([0; 8]); // disks
        out.extend(entries.to_le_bytes());
        out.extend(entries.to_le_bytes());
        out.extend(directory_bytes.to_le_bytes());
        out.extend(directory_offset.to_le_bytes());
        out.extend(LOCATOR64_SIGNATURE.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend((directory_offset + directory_bytes).to_le_bytes());
        out.extend(1u32.to_le_bytes());
    }
    out.extend(END_SIGNATURE.to_le_bytes());
    out.extend([0; 4]); // disks
    out.extend((entries as u16).to_le_bytes());
    out.extend((entries as u16).to_le_bytes());
    out.extend((directory_bytes as u32).to_le_bytes());
    out.extend(u32::try_from(directory_offset).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(0u16.to_le_bytes()); // comment
    out
}

/// Decodes the directory of `file` and checks that every byte of the file is the one that this module would have
/// written, except the entries' data, which it does not read.
pub(crate) fn read_records(file: &[u8]) -> Result<Vec<Record>, FormatError> {
    let length = file.len() as u64;
    let broken = |section: &str, offset: u64, problem: String| FormatError::Container {
        section: section.to_owned(),
        offset,
        problem,
    };
    let end_offset = length.saturating_sub(END_BYTES as u64);
    let end = &file[end_offset as usize..];
    if end.len() < END_BYTES || u32_at(end, 0) != END_SIGNATURE {
        return Err(broken(
            "end record",
            end_offset,
            "the last 22 bytes are not a ZIP end record: the file is truncated, or something follows the archive".into(),
        ));
    }
    let (mut entries, mut directory_bytes, mut directory_offset) =
        (u64::from(u16_at(end, 10)), u64::from(u32_at(end, 12)), u64::from(u32_at(end, 16)));
    let mut directory_end = end_offset;
    if directory_offset == MAX_U32 {
        let locator_offset = end_offset.checked_sub(LOCATOR64_BYTES as u64);
        let end64_offset = locator_offset.and_then(|offset| offset.checked_sub(END64_BYTES as u64));
        let Some(end64_offset) = end64_offset else {
            return Err(broken(
                "end record",
                end_offset,
                "requires ZIP64 records, for which there is no room".into(),
            ));
        };
        let end64 = &file[end64_offset as usize..][..END64_BYTES];
        (entries, directory_bytes, directory_offset) =
            (u64_at(end64, 32), u64_at(end64, 40), u64_at(end64, 48));
        directory_end = end64_offset;
    }
    if directory_offset.checked_add(directory_bytes) != Some(directory_end) {
        return Err(broken(
            "end record",
            end_offset,
            format!(
                "the directory takes {directory_bytes} bytes from {directory_offset}, but it must end at \
                 {directory_end}"
            ),
        ));
    }
    if !(1..=MAX_ENTRIES).contains(&entries) {
        return Err(broken(
            "end record",
            end_offset,
            format!("{entries} entries, allowed are 1 to {MAX_ENTRIES}"),
        ));
    }
    if file[directory_end as usize..] != end_records(entries, directory_offset, directory_bytes) {
        return Err(broken(
            "end record",
            directory_end,
            "a field differs from what the format allows (disks, comment, ZIP64 records)".into(),
        ));
    }

    let directory = &file[directory_offset as usize..directory_end as usize];
    let (mut records, mut names) = (Vec::new(), Names::default());
    let (mut at, mut data_end) = (0_usize, 0_u64);
    for index in 0..entries {
        let offset = directory_offset + at as u64;
        let (record, header_bytes) = central_record(&directory[at..], index, offset)?;
        let section = format!("entry `{}`", record.name);
        if record.header_offset != data_end {
            return Err(broken(
                &section,
                offset,
                format!(
                    "its local header is given at {}, but the previous entry ends at {data_end}: entries follow \
                     each other without gaps or overlaps",
                    record.header_offset
                ),
            ));
        }
        names.add(&record.name).map_err(|problem| broken(&section, offset, problem))?;
        // The header is at most a page and a name long, so the sum cannot overflow; the size comes from the file.
        let end = record.data_offset().checked_add(record.bytes).filter(|&end| end <= directory_offset);
        let Some(end) = end else {
            return Err(broken(
                &section,
                offset,
                format!(
                    "{} bytes from {} pass the start of the directory at {directory_offset}",
                    record.bytes,
                    record.data_offset()
                ),
            ));
        };
        let local = &file[record.header_offset as usize..record.data_offset() as usize];
        if local != record.local_header() {
            return Err(broken(
                &section,
                record.header_offset,
                format!(
                    "its local header disagrees with the directory: {}",
                    local_difference(local, &record)
                ),
            ));
        }
        data_end = end;
        at += header_bytes;
        records.push(record);
    }
    if at != directory.len() || data_end != directory_offset {
        return Err(broken(
            "central directory",
            directory_offset,
            format!(
                "{entries} entries take {at} of its {} bytes and the last ends at {data_end}, not where it starts",
                directory.len()
            ),
        ));
    }
    Ok(records)
}

/// The names so far, which must be able to coexist in a folder of any file system.
#[derive(Default)]
struct Names {
    /// Lower-case names of entries, each with the original name.
    entries: HashMap<String, String>,
    /// Lower-case names of the entries' folders, each with one such entry.
    folders: HashMap<String, String>,
}

impl Names {
    fn add(&mut self, name: &str) -> Result<(), String> {
        let folded = name.to_ascii_lowercase();
        for (slash, _) in folded.match_indices('/') {
            if let Some(file) = self.entries.get(&folded[..slash]) {
                return Err(format!("an earlier entry is a file where it needs a folder (`{file}`)"));
            }
            self.folders.entry(folded[..slash].to_owned()).or_insert_with(|| name.to_owned());
        }
        if let Some(inside) = self.folders.get(&folded) {
            return Err(format!("an earlier entry lies in a folder of the same name (`{inside}`)"));
        }
        match self.entries.insert(folded, name.to_owned()) {
            Some(twin) => Err(format!("an earlier entry has the same name (`{twin}`)")),
            None => Ok(()),
        }
    }
}

/// Decodes one central header and checks that it is the only valid encoding of its fields.
fn central_record(directory: &[u8], index: u64, offset: u64) -> Result<(Record, usize), FormatError> {
    let broken = |problem: String| FormatError::Container {
        section: format!("central directory, entry {index}"),
        offset,
        problem,
    };
    if directory.len() < CENTRAL_BYTES || u32_at(directory, 0) != CENTRAL_SIGNATURE {
        return Err(broken("there is no directory header here".into()));
    }
    let (name_bytes, extra_bytes) = (usize::from(u16_at(directory, 28)), usize::from(u16_at(directory, 30)));
    let header_bytes = CENTRAL_BYTES + name_bytes + extra_bytes;
    let Some(header) = directory.get(..header_bytes) else {
        return Err(broken(format!("a name of {name_bytes} and extras of {extra_bytes} bytes pass its end")));
    };
    let name = check_name(&header[CENTRAL_BYTES..][..name_bytes]).map_err(broken)?;
    let mut zip64 = header[CENTRAL_BYTES + name_bytes..].get(4..).unwrap_or_default().chunks_exact(8);
    let mut wide = |narrow: u32| match narrow {
        u32::MAX => zip64.next().map(|bytes| u64_at(bytes, 0)),
        narrow => Some(u64::from(narrow)),
    };
    let (bytes, compressed, header_offset) =
        (wide(u32_at(header, 24)), wide(u32_at(header, 20)), wide(u32_at(header, 42)));
    let (Some(bytes), Some(_), Some(header_offset)) = (bytes, compressed, header_offset) else {
        return Err(broken(format!("`{name}` lacks its ZIP64 sizes")));
    };
    let record = Record { name, bytes, crc32: u32_at(header, 16), header_offset };
    if header_offset >= 1 << 62 || bytes >= 1 << 62 {
        return Err(broken(format!("`{}`: {bytes} bytes at {header_offset}", record.name)));
    }
    let expected = record.central_header();
    if header != expected {
        let field = central_field(header, &expected);
        return Err(broken(format!(
            "`{}`: {field} differs from what the format allows: entries are stored (method 0), without \
             encryption, data descriptors, comments or times",
            record.name
        )));
    }
    Ok((record, header_bytes))
}

/// Names are relative paths of plain ASCII, which file systems and tools cannot interpret differently.
pub(crate) fn check_name(bytes: &[u8]) -> Result<String, String> {
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).escape_debug().to_string();
    if !(1..=MAX_NAME).contains(&bytes.len()) {
        return Err(format!(
            "an entry name of {} bytes (`{}`), allowed are 1 to {MAX_NAME}",
            bytes.len(),
            shown()
        ));
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    let path_like =
        bytes.split(|&b| b == b'/').any(|part| part.is_empty() || part.iter().all(|&b| b == b'.'));
    if path_like || !bytes.iter().all(plain) {
        return Err(format!(
            "entry name `{}`: names are relative paths of letters, digits, `.`, `_`, `-` and `/`",
            shown()
        ));
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// The first field of a central header that differs.
fn central_field(found: &[u8], expected: &[u8]) -> &'static str {
    let at = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
    match at {
        0..6 => "the version made by",
        6..8 => "the version needed",
        8..10 => "the flags",
        10..12 => "the method",
        12..16 => "the time",
        16..20 => "the checksum",
        20..28 => "the size",
        28..32 => "the length of name or extras",
        32..34 => "the comment length",
        34..42 => "the disk or the attributes",
        42..46 => "the offset",
        _ => "the name or an extra field",
    }
}

fn local_difference(found: &[u8], record: &Record) -> String {
    let expected = record.local_header();
    let at = found.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
    let field = match at {
        0..4 => "signature",
        4..6 => "version",
        6..8 => "flags",
        8..10 => "method",
        10..14 => "time",
        14..18 => "checksum",
        18..26 => "size",
        26..30 => "length of name or extras",
        at if at < LOCAL_BYTES + record.name.len() => "name",
        _ => "padding",
    };
    format!("{field}, byte {} of the file", record.header_offset + at as u64)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
