//! Parsing and validation of a GGUF file's structure.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::tensor::{self, MAX_RANK};
use crate::{Array, GgmlType, GgufError, GgufTensor, Metadata, Value};

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Longest key that the format allows.
pub(crate) const MAX_KEY: usize = 65_535;
/// The format's limit. ggml's is 63, one less for the terminating NUL.
const MAX_NAME: usize = 64;
/// Maximum bytes before the data, far more than a vocabulary needs. What precedes the data is copied, so this also
/// prevents copying a model's data that was mistaken for an array.
const MAX_HEADER: usize = 1 << 27;
/// Maximum number of metadata entries, tensors and strings in a file, several times that of the largest models. Each
/// may be a few bytes in the file but needs a hundred or more in memory.
const MAX_ENTRIES: usize = 1 << 18;
const MAX_TENSORS: usize = 1 << 17;
const MAX_STRINGS: usize = 1 << 21;
/// A key of one letter and a value of one byte.
const SMALLEST_ENTRY: usize = 8 + 1 + 4 + 1;
/// A name of one letter and one dimension.
const SMALLEST_TENSOR: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// The structure of a GGUF file: metadata and tensor locations.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
    pub(crate) tensors: Vec<GgufTensor>,
    pub(crate) by_name: HashMap<String, usize>,
}

impl Gguf {
    /// Parses everything before the tensors' data, and checks that each tensor is inside the file, aligned, and does
    /// not overlap another. Allocates a small multiple of the bytes before the data.
    ///
    /// Bytes that belong to no tensor are allowed: padding between tensors, and anything after the last.
    ///
    /// # Errors
    /// [`GgufError::NotGguf`] and [`GgufError::Version`] for other files, [`GgufError::Truncated`] for a file that
    /// ends early, and the others for one that contradicts itself or is not supported.
    pub fn parse(file: &[u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor { file, at: 0, strings: 0 };
        let version = header(&mut cursor)?;
        let tensor_count = cursor.number(u64::from_le_bytes, "the number of tensors")?;
        let entry_count = cursor.number(u64::from_le_bytes, "the number of metadata entries")?;
        let metadata = entries(&mut cursor, entry_count)?;
        let alignment = metadata.alignment()?;
        let records = records(&mut cursor, tensor_count)?;
        let data_start = cursor.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        let mut tensors = Vec::with_capacity(records.len());
        let mut by_name = HashMap::with_capacity(records.len());
        for Record { name, dtype, shape, offset } in records {
            let bytes = tensor::data_bytes(&name, dtype, &shape)?;
            if !offset.is_multiple_of(alignment as u64) {
                let problem = format!("offset {offset}, not a multiple of the alignment, {alignment}");
                return Err(GgufError::tensor(&name, problem));
            }
            let begin = usize::try_from(offset).ok().and_then(|offset| data_start.checked_add(offset));
            let Some((begin, end)) = begin.and_then(|begin| Some((begin, begin.checked_add(bytes)?))) else {
                let problem = format!(
                    "offset {offset} from byte {data_start} on, and {bytes} bytes: no file is that long"
                );
                return Err(GgufError::tensor(&name, problem));
            };
            if by_name.insert(name.clone(), tensors.len()).is_some() {
                return Err(GgufError::tensor(&name, "is given twice"));
            }
            tensors.push(GgufTensor { name, dtype, shape, range: begin..end });
        }
        check_ranges(&tensors, file.len())?;
        Ok(Self { version, metadata, tensors, by_name })
    }

    /// The version of the format, 2 or 3, between which nothing that is parsed here differs.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Keys and values, in file order.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every tensor, in file order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }
}

/// A tensor's entry in the file.
struct Record {
    name: String,
    dtype: GgmlType,
    shape: Vec<usize>,
    /// Offset from the start of the data.
    offset: u64,
}

/// Reads magic and version.
fn header(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let start = &cursor.file[..cursor.file.len().min(4)];
    if start.is_empty() || !MAGIC.starts_with(start) {
        return Err(GgufError::NotGguf { found: describe(start) });
    }
    cursor.take(4, format_args!("the magic number"))?;
    let found = cursor.number(u32::from_le_bytes, "the version")?;
    let problem = match found {
        2 | 3 => return Ok(found),
        1 => "version 1, which has 32-bit lengths, is not supported any more; convert the model again"
            .to_owned(),
        _ if matches!(found.swap_bytes(), 1..=3) => {
            format!("the file is big-endian, version {}", found.swap_bytes())
        }
        _ => format!("version {found}"),
    };
    Err(GgufError::Version { found, problem })
}

fn describe(start: &[u8]) -> String {
    match start {
        [] => "it is empty".to_owned(),
        // The magic numbers `ggml`, `ggmf`, `ggjt` and `ggla`, little-endian.
        b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => {
            "it is of a format before GGUF; convert the model again".to_owned()
        }
        _ => format!("it starts with \"{}\", not with \"GGUF\"", start.escape_ascii()),
    }
}

fn entries(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, GgufError> {
    let count = cursor.fits(count, SMALLEST_ENTRY, format_args!("{count} metadata entries"))?;
    cursor.limit(count, MAX_ENTRIES, format_args!("{count} metadata entries"))?;
    let mut known = HashSet::new();
    let mut entries = Vec::new();
    for index in 0..count {
        let at = cursor.at;
        let key = cursor.string(format_args!("the key of metadata entry {index}"))?;
        if !(1..=MAX_KEY).contains(&key.len()) {
            return Err(GgufError::Malformed {
                what: format!("the key of metadata entry {index}"),
                at,
                problem: format!("{} bytes, allowed are 1 to {MAX_KEY}", key.len()),
            });
        }
        if !known.insert(key) {
            return Err(GgufError::metadata(key, format!("is given twice, the second time at byte {at}")));
        }
        entries.push((key.to_owned(), value(cursor, key)?));
    }
    Ok(Metadata::from_entries(entries))
}

fn value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let what = format_args!("the value of `{key:.80}`");
    let at = cursor.at;
    let kind = cursor.number(u32::from_le_bytes, format_args!("the type of `{key:.80}`"))?;
    Ok(match kind {
        0 => Value::U8(cursor.number(u8::from_le_bytes, what)?),
        1 => Value::I8(cursor.number(i8::from_le_bytes, what)?),
        2 => Value::U16(cursor.number(u16::from_le_bytes, what)?),
        3 => Value::I16(cursor.number(i16::from_le_bytes, what)?),
        4 => Value::U32(cursor.number(u32::from_le_bytes, what)?),
        5 => Value::I32(cursor.number(i32::from_le_bytes, what)?),
        6 => Value::F32(cursor.number(f32::from_le_bytes, what)?),
        7 => Value::Bool(truth(cursor.take(1, what)?[0], cursor.at - 1, what)?),
        8 => Value::String(cursor.string(what)?.to_owned()),
        9 => Value::Array(array(cursor, key)?),
        10 => Value::U64(cursor.number(u64::from_le_bytes, what)?),
        11 => Value::I64(cursor.number(i64::from_le_bytes, what)?),
        12 => Value::F64(cursor.number(f64::from_le_bytes, what)?),
        _ => return Err(unknown_type(key, at, kind)),
    })
}

fn array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, GgufError> {
    let what = format_args!("the elements of `{key:.80}`");
    let at = cursor.at;
    let kind = cursor.number(u32::from_le_bytes, format_args!("the element type of `{key:.80}`"))?;
    let count = cursor.number(u64::from_le_bytes, format_args!("the length of `{key:.80}`"))?;
    Ok(match kind {
        0 => Array::U8(cursor.numbers(count, u8::from_le_bytes, what)?),
        1 => Array::I8(cursor.numbers(count, i8::from_le_bytes, what)?),
        2 => Array::U16(cursor.numbers(count, u16::from_le_bytes, what)?),
        3 => Array::I16(cursor.numbers(count, i16::from_le_bytes, what)?),
        4 => Array::U32(cursor.numbers(count, u32::from_le_bytes, what)?),
        5 => Array::I32(cursor.numbers(count, i32::from_le_bytes, what)?),
        6 => Array::F32(cursor.numbers(count, f32::from_le_bytes, what)?),
        7 => {
            let start = cursor.at;
            let bytes: Vec<u8> = cursor.numbers(count, u8::from_le_bytes, what)?;
            let truths = bytes.iter().enumerate().map(|(index, &byte)| truth(byte, start + index, what));
            Array::Bool(truths.collect::<Result<_, _>>()?)
        }
        8 => {
            let count = cursor.fits(count, 8, what)?;
            cursor.strings += count;
            cursor.limit(cursor.strings, MAX_STRINGS, what)?;
            let mut strings = Vec::new();
            for index in 0..count {
                strings.push(cursor.string(format_args!("element {index} of `{key:.80}`"))?.to_owned());
            }
            Array::String(strings)
        }
        9 => {
            return Err(GgufError::Malformed {
                what: format!("the elements of `{key:.80}`"),
                at,
                problem: "arrays of arrays are not read".to_owned(),
            });
        }
        10 => Array::U64(cursor.numbers(count, u64::from_le_bytes, what)?),
        11 => Array::I64(cursor.numbers(count, i64::from_le_bytes, what)?),
        12 => Array::F64(cursor.numbers(count, f64::from_le_bytes, what)?),
        _ => return Err(unknown_type(key, at, kind)),
    })
}

fn truth(byte: u8, at: usize, what: fmt::Arguments<'_>) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(GgufError::Malformed {
            what: what.to_string(),
            at,
            problem: format!("a truth value of {byte}, allowed are 0 and 1"),
        }),
    }
}

fn unknown_type(key: &str, at: usize, kind: u32) -> GgufError {
    GgufError::Malformed {
        what: format!("the type of `{key:.80}`"),
        at,
        problem: format!("type {kind}, metadata has types 0 to 12"),
    }
}

fn records(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Record>, GgufError> {
    let count = cursor.fits(count, SMALLEST_TENSOR, format_args!("{count} tensors"))?;
    cursor.limit(count, MAX_TENSORS, format_args!("{count} tensors"))?;
    (0..count).map(|index| record(cursor, index)).collect()
}

fn record(cursor: &mut Cursor<'_>, index: usize) -> Result<Record, GgufError> {
    let name = cursor.string(format_args!("the name of tensor {index}"))?;
    tensor::check_name(name, MAX_NAME)?;
    let rank = cursor.number(u32::from_le_bytes, format_args!("the rank of tensor `{name}`"))?;
    if rank > MAX_RANK as u32 {
        return Err(GgufError::tensor(name, format!("{rank} dimensions, allowed are 1 to {MAX_RANK}")));
    }
    let dimensions = format_args!("the dimensions of tensor `{name}`");
    let mut shape = Vec::with_capacity(MAX_RANK);
    for dim in cursor.numbers(rank.into(), u64::from_le_bytes, dimensions)? {
        let Ok(dim) = usize::try_from(dim) else {
            return Err(GgufError::tensor(name, format!("a dimension of {dim}")));
        };
        shape.push(dim);
    }
    shape.reverse(); // the file lists the length of a row first
    let id = cursor.number(u32::from_le_bytes, format_args!("the type of tensor `{name}`"))?;
    let dtype =
        GgmlType::from_id(id).map_err(|unsupported| GgufError::tensor(name, unsupported.to_string()))?;
    let offset = cursor.number(u64::from_le_bytes, format_args!("the offset of tensor `{name}`"))?;
    Ok(Record { name: name.to_owned(), dtype, shape, offset })
}

/// Checks that tensors do not overlap and are all inside a file of `file_bytes`.
fn check_ranges(tensors: &[GgufTensor], file_bytes: usize) -> Result<(), GgufError> {
    let mut order: Vec<&GgufTensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        let [first, second] = [pair[0], pair[1]];
        if second.range.start < first.range.end {
            let problem = format!(
                "starts at byte {}, before the end of `{}` at byte {}",
                second.range.start, first.name, first.range.end
            );
            return Err(GgufError::tensor(&second.name, problem));
        }
    }
    match order.last() {
        Some(last) if last.range.end > file_bytes => Err(GgufError::Truncated {
            what: format!("the data of tensor `{}`", last.name),
            at: last.range.start.min(file_bytes),
            needed: (last.range.end - last.range.start.min(file_bytes)) as u128,
            left: file_bytes.saturating_sub(last.range.start),
        }),
        _ => Ok(()),
    }
}

/// The rest of a file.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
    /// Number of strings in arrays so far.
    strings: usize,
}

impl<'a> Cursor<'a> {
    /// Checks that `count` items of at least `size` bytes can follow.
    fn fits(&self, count: u64, size: usize, what: fmt::Arguments<'_>) -> Result<usize, GgufError> {
        let (needed, left) = (u128::from(count) * size as u128, self.file.len() - self.at);
        if needed > left as u128 {
            return Err(GgufError::Truncated { what: what.to_string(), at: self.at, needed, left });
        }
        if self.at as u128 + needed > MAX_HEADER as u128 {
            return Err(GgufError::Malformed {
                what: what.to_string(),
                at: self.at,
                problem: format!("{needed} bytes; before the data a file may have {MAX_HEADER}"),
            });
        }
        Ok(count as usize) // no more than `left`
    }

    /// Refuses more items than any model has.
    fn limit(&self, count: usize, most: usize, what: fmt::Arguments<'_>) -> Result<(), GgufError> {
        if count <= most {
            return Ok(());
        }
        let problem = format!("{count}; a file may have {most}");
        Err(GgufError::Malformed { what: what.to_string(), at: self.at, problem })
    }

    fn take(&mut self, bytes: u64, what: fmt::Arguments<'_>) -> Result<&'a [u8], GgufError> {
        let begin = self.at;
        self.at += self.fits(bytes, 1, what)?;
        Ok(&self.file[begin..self.at])
    }

    fn number<const N: usize, T>(
        &mut self,
        decode: impl Fn([u8; N]) -> T,
        what: impl fmt::Display,
    ) -> Result<T, GgufError> {
        match self.file[self.at..].first_chunk() {
            Some(bytes) => {
                self.at += N;
                Ok(decode(*bytes))
            }
            None => Err(GgufError::Truncated {
                what: what.to_string(),
                at: self.at,
                needed: N as u128,
                left: self.file.len() - self.at,
            }),
        }
    }

    fn numbers<const N: usize, T>(
        &mut self,
        count: u64,
        decode: impl Fn([u8; N]) -> T,
        what: fmt::Arguments<'_>,
    ) -> Result<Vec<T>, GgufError> {
        let count = self.fits(count, N, what)?;
        let (begin, end) = (self.at, self.at + count * N);
        self.at = end;
        Ok(self.file[begin..end].as_chunks().0.iter().map(|bytes| decode(*bytes)).collect())
    }

    fn string(&mut self, what: fmt::Arguments<'_>) -> Result<&'a str, GgufError> {
        let length = self.number(u64::from_le_bytes, format_args!("the length of {what}"))?;
        let at = self.at;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| GgufError::Malformed {
            what: what.to_string(),
            at: at + error.valid_up_to(),
            problem: "not UTF-8".to_owned(),
        })
    }
}
