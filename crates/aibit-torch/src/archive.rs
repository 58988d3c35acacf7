//! The zip archive around a checkpoint, with its member table checked.

use std::collections::{HashMap, HashSet};
use std::io::{self, Cursor};

use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::checkpoint::Geometry;
use crate::pickle::{RawTensor, printable};
use crate::{TorchError, TorchTensor};

/// Bytes of `data.pkl`. A tensor takes about 150.
const MAX_PICKLE: u64 = 64 << 20;
/// Members of the archive.
const MAX_MEMBERS: usize = 1 << 17;
/// Bytes of one member name.
const MAX_MEMBER_NAME: usize = 1024;
/// How a torch file older than the zip format begins: a pickle of the number 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// An opened archive whose member table has been checked.
pub(crate) struct Archive<'a> {
    file: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that holds every member, with its slash.
    root: String,
    members: HashMap<String, Member>,
}

#[derive(Clone, Copy)]
struct Member {
    index: usize,
    /// Position and length of the content in the file.
    start: u64,
    length: u64,
}

impl<'a> Archive<'a> {
    pub(crate) fn open(file: &'a [u8]) -> Result<Self, TorchError> {
        if file.starts_with(LEGACY_MAGIC) {
            return Err(TorchError::Legacy);
        }
        if !file.starts_with(ZIP_MAGIC) {
            return Err(TorchError::NotZip { found: printable(&file[..file.len().min(16)]) });
        }
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let mut zip = ZipArchive::with_config(config, Cursor::new(file)).map_err(damaged)?;
        if zip.has_duplicate_names() {
            return Err(TorchError::DuplicateMember {
                member: duplicate_name(file, zip.central_directory_start()),
            });
        }
        if zip.len() > MAX_MEMBERS {
            return Err(TorchError::TooManyMembers { found: zip.len(), limit: MAX_MEMBERS });
        }

        let mut names = Vec::with_capacity(zip.len());
        for index in 0..zip.len() {
            let entry = zip.by_index_data(index).map_err(damaged)?;
            let name = checked_name(entry.name_raw())?;
            if entry.is_symlink() {
                return Err(member_name(entry.name_raw(), "is a symbolic link"));
            }
            if entry.encrypted() {
                return Err(TorchError::Encrypted { member: printable(name.as_bytes()) });
            }
            if entry.compression() != CompressionMethod::Stored {
                return Err(TorchError::Compressed {
                    member: printable(name.as_bytes()),
                    method: match entry.compression() {
                        CompressionMethod::DEFLATE => "deflate".to_owned(),
                        other => other.to_string(),
                    },
                });
            }
            if entry.compressed_size() != entry.size() {
                return Err(TorchError::StoredSize {
                    member: printable(name.as_bytes()),
                    stored: entry.compressed_size(),
                    declared: entry.size(),
                });
            }
            names.push(name.to_owned());
        }

        let pickle = names.iter().find_map(|name| {
            let (root, rest) = name.split_once('/')?;
            (rest == "data.pkl").then(|| format!("{root}/"))
        });
        let Some(root) = pickle else {
            return Err(TorchError::NoPickle { members: names.len() });
        };
        for name in &names {
            let Some(rest) = name.strip_prefix(&root) else {
                return Err(member_name(name.as_bytes(), "is outside the root folder"));
            };
            if rest == "constants.pkl" || rest.starts_with("code/") {
                return Err(TorchError::TorchScript { member: printable(name.as_bytes()) });
            }
        }

        // After the checks above, which say more about the likely cases.
        zip.validate_header_consistency().map_err(damaged)?;
        let directory = zip.central_directory_start();
        let mut members = HashMap::with_capacity(names.len());
        for (index, name) in names.into_iter().enumerate() {
            let entry = zip.by_index_raw(index).map_err(damaged)?;
            let length = entry.size();
            let start = entry.data_start();
            let end = start.and_then(|start| start.checked_add(length));
            let (Some(start), Some(_)) = (start, end.filter(|&end| end <= directory)) else {
                return Err(TorchError::MemberOutside {
                    member: printable(name.as_bytes()),
                    length,
                    directory,
                });
            };
            members.insert(name, Member { index, start, length });
        }
        Ok(Self { file, zip, root, members })
    }

    fn member(&self, path: &str) -> Option<Member> {
        self.members.get(&format!("{}{path}", self.root)).copied()
    }

    /// In bounds: `open` proved that every member ends before the directory.
    fn content(&self, member: Member) -> &'a [u8] {
        &self.file[member.start as usize..][..member.length as usize]
    }

    /// Files from before torch 2.1 have no `byteorder`; those machines were little-endian.
    pub(crate) fn check_byte_order(&self) -> Result<(), TorchError> {
        match self.member("byteorder").map(|member| self.content(member)) {
            None | Some(b"little") => Ok(()),
            Some(other) => Err(TorchError::ByteOrder { found: printable(other) }),
        }
    }

    pub(crate) fn pickle(&mut self) -> Result<&'a [u8], TorchError> {
        let Some(member) = self.member("data.pkl") else {
            return Err(TorchError::NoPickle { members: self.members.len() });
        };
        if member.length > MAX_PICKLE {
            return Err(TorchError::PickleSize { found: member.length, limit: MAX_PICKLE });
        }
        self.check_sum(member.index)?;
        Ok(self.content(member))
    }

    /// Compares the checksum of every member.
    pub(crate) fn check_sums(&mut self) -> Result<(), TorchError> {
        (0..self.zip.len()).try_for_each(|index| self.check_sum(index))
    }

    /// Reads a member to its end, where the zip reader compares the checksum.
    fn check_sum(&mut self, index: usize) -> Result<(), TorchError> {
        let mut entry = self.zip.by_index(index).map_err(damaged)?;
        match io::copy(&mut entry, &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(reason) => {
                Err(TorchError::Checksum { member: printable(entry.name_raw()), reason: reason.to_string() })
            }
        }
    }

    /// Returns the member that holds a storage, and how many elements it has.
    fn storage(&self, raw: &RawTensor<'_>) -> Result<(Member, usize), TorchError> {
        let tensor = || printable(raw.name.as_bytes());
        let storage = raw.storage;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if storage.key.is_empty() || !storage.key.bytes().all(plain) {
            return Err(TorchError::StorageKey { tensor: tensor(), key: printable(storage.key.as_bytes()) });
        }
        let Some(member) = self.member(&format!("data/{}", storage.key)) else {
            return Err(TorchError::StorageMissing {
                tensor: tensor(),
                key: printable(storage.key.as_bytes()),
            });
        };
        let elements = usize::try_from(storage.numel).ok();
        let size = elements.and_then(|elements| elements.checked_mul(storage.dtype.byte_size()));
        match (elements, size) {
            (Some(elements), Some(size)) if size as u64 == member.length => Ok((member, elements)),
            _ => Err(TorchError::StorageSize {
                tensor: tensor(),
                storage: storage.key.to_owned(),
                numel: storage.numel,
                dtype: storage.dtype,
                found: member.length,
            }),
        }
    }

    /// Proves that a tensor lies in its storage and returns where.
    pub(crate) fn locate(&self, raw: &RawTensor<'_>) -> Result<TorchTensor, TorchError> {
        let tensor = || printable(raw.name.as_bytes());
        let natural = |what: &'static str, value: i64| {
            usize::try_from(value).map_err(|_| TorchError::Negative { tensor: tensor(), what, value })
        };
        let naturals = |what: &'static str, values: &[i64]| {
            let values = values.iter().map(|&value| natural(what, value));
            values.collect::<Result<Vec<_>, _>>()
        };
        if raw.name.is_empty() {
            return Err(TorchError::EmptyName);
        }
        let (member, elements) = self.storage(raw)?;
        let offset = natural("storage offset", raw.offset)?;
        let shape = naturals("size", &raw.size)?;
        let strides = naturals("stride", &raw.stride)?;
        let geometry = Geometry::new(&shape, &strides);
        let end = geometry.as_ref().and_then(|geometry| match geometry.last {
            Some(last) => offset.checked_add(last)?.checked_add(1),
            None => Some(offset),
        });
        let (Some(geometry), Some(end)) = (geometry, end) else {
            return Err(TorchError::Geometry { tensor: tensor(), shape, strides, offset });
        };
        let storage = raw.storage.key.to_owned();
        if end > elements {
            return Err(TorchError::Extent { tensor: tensor(), storage, end, elements });
        }
        if geometry.count > elements {
            return Err(TorchError::Expanded { tensor: tensor(), storage, count: geometry.count, elements });
        }
        let dtype = raw.storage.dtype;
        Ok(TorchTensor {
            name: raw.name.to_owned(),
            dtype,
            shape,
            strides,
            // No overflow: `offset <= elements`, and that many elements are the member's length.
            byte_offset: member.start + (offset * dtype.byte_size()) as u64,
            storage,
            storage_bytes: member.length,
        })
    }
}

/// Returns a member's name if it is a plain relative path.
fn checked_name(raw: &[u8]) -> Result<&str, TorchError> {
    let Ok(name) = std::str::from_utf8(raw) else {
        return Err(member_name(raw, "is not UTF-8"));
    };
    if name.len() > MAX_MEMBER_NAME {
        return Err(member_name(raw, "is longer than 1024 bytes"));
    }
    if name.chars().any(|c| c.is_control() || matches!(c, '\\' | ':')) {
        return Err(member_name(raw, "has a control character, a colon or a backslash"));
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(member_name(raw, "is not a plain relative path to a file"));
    }
    Ok(name)
}

fn member_name(raw: &[u8], problem: &'static str) -> TorchError {
    TorchError::MemberName { member: printable(raw), problem }
}

fn damaged(error: ZipError) -> TorchError {
    TorchError::Zip { reason: error.to_string() }
}

/// Returns the first name that the central directory, which begins at `at`, lists twice. The zip
/// reader keeps one of the two and forgets which name it was.
fn duplicate_name(file: &[u8], at: u64) -> String {
    let mut seen = HashSet::new();
    let mut rest = usize::try_from(at).ok().and_then(|at| file.get(at..)).unwrap_or_default();
    while let Some((header, tail)) = rest.split_at_checked(46)
        && header.starts_with(b"PK\x01\x02")
    {
        let length = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (name, extra, comment) = (length(28), length(30), length(32));
        let (Some(name), Some(next)) = (tail.get(..name), tail.get(name + extra + comment..)) else {
            break;
        };
        if !seen.insert(name) {
            return printable(name);
        }
        rest = next;
    }
    "(unknown)".to_owned()
}
