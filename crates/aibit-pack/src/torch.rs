//! Reads `torch.save` checkpoints (`pytorch_model.bin`, `.pt`) without running the pickle inside.
//!
//! Such a file is a zip archive of uncompressed members: `<root>/data.pkl` describes the tensors and
//! `<root>/data/<key>` holds one storage each. A pickle may import and call anything, so reading one
//! with Python runs whatever its author put there. Here it is data: see the `pickle` submodule.
//!
//! The archive, too, is hostile until proven otherwise. Two zip readers must not be able to see two
//! different checkpoints (local and central headers agree, names are unique, no member hides between
//! others), and every tensor is proved to lie inside its storage before an offset is handed out.
//! Only `data.pkl` is read and checksummed while parsing; [`TorchCheckpoint::verify`] does the rest.

mod error;
mod pickle;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Cursor};

use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

pub use error::TorchError;
use pickle::{RawTensor, printable};

/// Bytes of `data.pkl`. A tensor takes about 150.
const MAX_PICKLE: u64 = 64 << 20;
/// Members of the archive.
const MAX_MEMBERS: usize = 1 << 17;
/// Bytes of one member name.
const MAX_MEMBER_NAME: usize = 1024;
/// How a torch file older than the zip format begins: a pickle of the number 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// The tensors of a torch checkpoint: names, shapes and where their bytes are in the file.
///
/// It borrows nothing; pass the same bytes to [`TorchCheckpoint::bytes`] that were parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct TorchCheckpoint {
    tensors: Vec<TorchTensor>,
}

/// A tensor of a checkpoint: a strided view of a storage, which other tensors may share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorchTensor {
    /// Name in the state dict.
    pub name: String,
    /// Type of the elements, stored little-endian.
    pub dtype: TorchDtype,
    /// Size of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// Distance between neighbours along each dimension, in elements.
    pub strides: Vec<usize>,
    /// Position in the file of the element whose index is all zeros.
    pub byte_offset: u64,
    /// Key of the storage: tensors with equal keys may share bytes, as a tied output head does.
    pub storage: String,
    /// Size of the whole storage in bytes.
    pub storage_bytes: u64,
}

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TorchDtype {
    /// 32-bit float.
    F32,
    /// 16-bit float, IEEE 754 half precision.
    F16,
    /// 16-bit float, the upper half of an `F32`.
    Bf16,
    /// 64-bit float.
    F64,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// One byte, 0 or 1.
    Bool,
}

impl TorchDtype {
    /// Returns the size of one element in bytes.
    pub fn byte_size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// Returns torch's name of the type, for example `bfloat16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F64 => "float64",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::Bool => "bool",
        }
    }
}

impl fmt::Display for TorchDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TorchTensor {
    /// Returns whether the elements lie one after another in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.geometry().is_some_and(|geometry| geometry.is_contiguous)
    }

    fn geometry(&self) -> Option<Geometry> {
        Geometry::new(&self.shape, &self.strides)
    }
}

impl TorchCheckpoint {
    /// Returns the tensors that `file`, a whole checkpoint, describes.
    ///
    /// The file must hold one dict of names to tensors, either at the top or under the key
    /// `state_dict` or `model`; plain numbers, strings and `None` beside the tensors are ignored.
    ///
    /// # Errors
    /// [`TorchError`] names the member, the pickle opcode with its position in `data.pkl`, or the
    /// tensor that is wrong. No input makes this function panic or call code, and the memory it
    /// takes is bounded by the archive's member table and constants.
    pub fn parse(file: &[u8]) -> Result<Self, TorchError> {
        let mut archive = Archive::open(file)?;
        archive.check_byte_order()?;
        let pickle = archive.pickle()?;
        let tensors = pickle::state_dict(pickle)?
            .iter()
            .map(|tensor| archive.locate(tensor))
            .collect::<Result<_, _>>()?;
        Ok(Self { tensors })
    }

    /// Returns the tensors in the order of the state dict.
    pub fn tensors(&self) -> &[TorchTensor] {
        &self.tensors
    }

    /// Returns the tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TorchTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Returns the elements of `tensor` in row-major order, little-endian.
    ///
    /// Borrowed from `file` if the tensor is contiguous, otherwise gathered into a new buffer.
    ///
    /// # Errors
    /// [`TorchError::OutsideFile`] if the tensor reaches beyond `file`, which then is not the file
    /// that was parsed.
    pub fn bytes<'a>(&self, file: &'a [u8], tensor: &TorchTensor) -> Result<Cow<'a, [u8]>, TorchError> {
        let element = tensor.dtype.byte_size();
        let span = tensor.geometry().and_then(|geometry| {
            let elements = geometry.last.map_or(Some(0), |last| last.checked_add(1))?;
            let start = usize::try_from(tensor.byte_offset).ok()?;
            let end = start.checked_add(elements.checked_mul(element)?)?;
            // Strides may overlap, so the copy can be longer than the span; never than the file.
            (geometry.count <= file.len() / element).then_some(())?;
            Some((geometry, file.get(start..end)?))
        });
        let Some((geometry, span)) = span else {
            return Err(TorchError::OutsideFile {
                tensor: printable(tensor.name.as_bytes()),
                offset: tensor.byte_offset,
                file: file.len(),
            });
        };
        if geometry.is_contiguous {
            return Ok(Cow::Borrowed(span));
        }
        Ok(Cow::Owned(gather(span, tensor, element, geometry.count)))
    }

    /// Checks the checksum of every member of `file`, reading all of it once.
    ///
    /// # Errors
    /// [`TorchError::Checksum`] names the first member whose bytes are not those that were saved.
    pub fn verify(file: &[u8]) -> Result<(), TorchError> {
        let mut archive = Archive::open(file)?;
        for index in 0..archive.zip.len() {
            archive.check_sum(index)?;
        }
        Ok(())
    }
}

/// What shape and strides say together.
struct Geometry {
    /// Number of elements.
    count: usize,
    /// Index in the storage of the last element, counted from the first; none without elements.
    last: Option<usize>,
    is_contiguous: bool,
}

impl Geometry {
    /// Returns nothing if the ranks differ or a number does not fit in a `usize`.
    fn new(shape: &[usize], strides: &[usize]) -> Option<Self> {
        if shape.len() != strides.len() {
            return None;
        }
        let mut last = 0_usize;
        let mut is_contiguous = true;
        // A dimension of size 0 counts as 1 here, so that the others are checked all the same.
        let mut count = 1_usize;
        for (&size, &stride) in shape.iter().zip(strides).rev() {
            if size > 1 {
                is_contiguous &= stride == count;
                last = last.checked_add((size - 1).checked_mul(stride)?)?;
            }
            count = count.checked_mul(size.max(1))?;
        }
        let is_empty = shape.contains(&0);
        Some(Self {
            count: if is_empty { 0 } else { count },
            last: (!is_empty).then_some(last),
            is_contiguous: is_contiguous || is_empty,
        })
    }
}

/// Copies the elements of `tensor` out of `span`, which begins at its first and ends with its last.
fn gather(span: &[u8], tensor: &TorchTensor, element: usize, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * element);
    // A stride along a dimension of size 1 is never taken, so it may be any number.
    let dimensions = tensor.shape.iter().zip(&tensor.strides);
    let dimensions: Vec<_> = dimensions.filter(|&(&size, _)| size > 1).collect();
    let mut index = vec![0_usize; dimensions.len()];
    let mut at = 0_usize; // element in `span`; the caller proved that the largest fits
    for _ in 0..count {
        bytes.extend_from_slice(&span[at * element..(at + 1) * element]);
        for (index, &(&size, &stride)) in index.iter_mut().zip(&dimensions).rev() {
            if *index + 1 < size {
                *index += 1;
                at += stride;
                break;
            }
            at -= *index * stride;
            *index = 0;
        }
    }
    bytes
}

/// An opened archive whose member table has been checked.
struct Archive<'a> {
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
    fn open(file: &'a [u8]) -> Result<Self, TorchError> {
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
    fn check_byte_order(&self) -> Result<(), TorchError> {
        match self.member("byteorder").map(|member| self.content(member)) {
            None | Some(b"little") => Ok(()),
            Some(other) => Err(TorchError::ByteOrder { found: printable(other) }),
        }
    }

    fn pickle(&mut self) -> Result<&'a [u8], TorchError> {
        let Some(member) = self.member("data.pkl") else {
            return Err(TorchError::NoPickle { members: self.members.len() });
        };
        if member.length > MAX_PICKLE {
            return Err(TorchError::PickleSize { found: member.length, limit: MAX_PICKLE });
        }
        self.check_sum(member.index)?;
        Ok(self.content(member))
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
    fn locate(&self, raw: &RawTensor<'_>) -> Result<TorchTensor, TorchError> {
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
