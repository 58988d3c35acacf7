//! The header of `weights.safetensors`: strict parsing, and a layout with code matrices on cache lines.
//!
//! Source: safetensors format, <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::{Dtype, FormatError, JoinedRows, Manifest, json};

/// The safetensors limit on headers.
const MAX_HEADER: u64 = 100_000_000;
/// Data starts at a multiple of this many bytes, one cache line, as does every matrix of codes whose size is a
/// multiple of it.
const ALIGNMENT: usize = 64;
const MAX_RANK: usize = 8;
const MAX_NAME: usize = 1024;
/// Maximum number of tensors, twice the number of nodes in a graph.
const MAX_TENSORS: usize = 1 << 17;
/// Maximum number of keys in `__metadata__`.
const MAX_METADATA: usize = 1 << 10;

/// The location of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, row-major.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the data part.
    pub begin: usize,
    /// One past the last byte.
    pub end: usize,
}

impl TensorInfo {
    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.end - self.begin
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.bytes() / self.dtype.size()
    }
}

/// All tensors of a safetensors file, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightsIndex {
    tensors: Vec<TensorInfo>,
    /// Indices of `tensors` in the order of their names.
    by_name: Vec<u32>,
    data_start: usize,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: RawShape,
    data_offsets: [usize; 2],
}

/// The first dimensions of a shape, and how many there are.
struct RawShape {
    dims: Vec<usize>,
    rank: usize,
}

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = RawShape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of integers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<RawShape, A::Error> {
        let mut shape = RawShape { dims: Vec::new(), rank: 0 };
        while let Some(dim) = access.next_element()? {
            shape.rank += 1;
            if shape.rank <= MAX_RANK {
                shape.dims.push(dim);
            }
        }
        Ok(shape)
    }
}

/// The header's tensors in file order; the metadata is checked only for its form.
struct Header(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Metadata(
    #[serde(deserialize_with = "json::unique_keys::<_, _, MAX_METADATA>")]
    #[expect(dead_code, reason = "only its type is checked")]
    BTreeMap<String, String>,
);

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Header, A::Error> {
        let (mut tensors, mut has_metadata) = (Vec::new(), false);
        while let Some(name) = access.next_key::<String>()? {
            if name != "__metadata__" {
                let raw = access.next_value().map_err(|e| A::Error::custom(format!("`{name:.80}`: {e}")))?;
                if tensors.len() == MAX_TENSORS {
                    return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                }
                tensors.push((name, raw));
            } else if std::mem::replace(&mut has_metadata, true) {
                return Err(A::Error::custom("`__metadata__` is given twice"));
            } else {
                access
                    .next_value::<Metadata>()
                    .map_err(|e| A::Error::custom(format!("`__metadata__` must be a map of strings: {e}")))?;
            }
        }
        Ok(Header(tensors))
    }
}

impl WeightsIndex {
    /// Parses the header of a safetensors file and checks that its tensors cover the data exactly: no gaps, no
    /// overlaps, and each range as long as shape and element size require.
    ///
    /// # Errors
    /// [`FormatError::WeightsHeader`] for a malformed header, [`FormatError::Tensor`] and
    /// [`FormatError::TensorSize`] for a tensor that contradicts it.
    pub fn parse(file: &[u8]) -> Result<Self, FormatError> {
        let header_error = |problem: String| FormatError::WeightsHeader(problem);
        let Some((length, rest)) = file.split_first_chunk::<8>() else {
            return Err(header_error(format!("{} bytes, the header's length alone takes 8", file.len())));
        };
        let length = u64::from_le_bytes(*length);
        if !(2..=MAX_HEADER).contains(&length) || length > rest.len() as u64 {
            return Err(header_error(format!(
                "the header length is {length} bytes; allowed are 2 to {MAX_HEADER}, and {} follow",
                rest.len()
            )));
        }
        let (header, data) = rest.split_at(length as usize);
        if header[0] != b'{' {
            return Err(header_error(format!(
                "the header starts with byte {:#04x}, not with `{{`",
                header[0]
            )));
        }
        let Header(raw) =
            serde_json::from_slice(header).map_err(|error| header_error(json::message(&error)))?;
        let mut tensors = Vec::with_capacity(raw.len());
        for (name, raw) in raw {
            tensors.push(check_tensor(name, raw, data.len())?);
        }
        tensors.sort_by_key(|t| t.begin);
        let mut end = 0;
        for tensor in &tensors {
            if tensor.begin != end {
                let what = if tensor.begin < end { "overlap" } else { "leave a hole" };
                return Err(FormatError::Tensor {
                    name: tensor.name.clone(),
                    problem: format!(
                        "starts at {}, the previous tensor ends at {end}: they {what}",
                        tensor.begin
                    ),
                });
            }
            end = tensor.end;
        }
        if end != data.len() {
            return Err(header_error(format!(
                "the tensors end at byte {end} of {} bytes of data",
                data.len()
            )));
        }
        Self::new(tensors, 8 + length as usize)
    }

    fn new(tensors: Vec<TensorInfo>, data_start: usize) -> Result<Self, FormatError> {
        let name = |index: u32| tensors[index as usize].name.as_str();
        let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
        by_name.sort_unstable_by_key(|&index| name(index));
        if let Some(pair) = by_name.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
            let (name, problem) = (name(pair[0]).to_owned(), "is given twice".to_owned());
            return Err(FormatError::Tensor { name, problem });
        }
        Ok(Self { tensors, by_name, data_start })
    }

    /// Every tensor, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        let tensor = |index: &u32| &self.tensors[*index as usize];
        let found = self.by_name.binary_search_by(|index| tensor(index).name.as_str().cmp(name));
        found.ok().map(|place| tensor(&self.by_name[place]))
    }

    /// Offset of the data in the safetensors file.
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// Checks that the tensors are exactly those that the manifest's schemes require.
    ///
    /// # Errors
    /// [`FormatError::Tensor`] naming a tensor that is missing, superfluous, or of the wrong type or shape.
    pub fn check_schemes(&self, manifest: &Manifest) -> Result<(), FormatError> {
        let wrong = |name: &str, problem: String| FormatError::Tensor {
            name: name.chars().take(80).collect(),
            problem,
        };
        let mut part_names = HashSet::new();
        let mut joined_names = HashSet::new();
        for (name, record) in &manifest.tensors {
            let Some(tensor) = self.get(name) else {
                return Err(wrong(name, "the manifest lists it, but weights.safetensors lacks it".into()));
            };
            let scheme = record.scheme;
            if tensor.dtype != scheme.dtype() {
                let problem = format!("scheme {scheme} stores {}, found {}", scheme.dtype(), tensor.dtype);
                return Err(wrong(name, problem));
            }
            if !record.joined.is_empty() {
                if scheme.has_nested_scales() {
                    let problem =
                        format!("scheme {scheme} has scales for all rows together and cannot be joined");
                    return Err(wrong(name, problem));
                }
                let rows = record.joined.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.rows));
                if rows != tensor.shape.first().copied() || record.joined.iter().any(|part| part.rows == 0) {
                    let problem =
                        format!("the rows of its parts do not add up to its shape {:?}", tensor.shape);
                    return Err(wrong(name, problem));
                }
                for JoinedRows { name: part, .. } in &record.joined {
                    if manifest.tensors.contains_key(part) || !joined_names.insert(part.as_str()) {
                        return Err(wrong(
                            part,
                            "it is a part of a joined tensor and also has another role".into(),
                        ));
                    }
                }
            }
            if !scheme.is_quantized() {
                continue;
            }
            let shape = scheme.shape(&tensor.shape);
            let &[_, columns] = shape.as_slice() else {
                let problem = format!("scheme {scheme} needs a matrix, found shape {:?}", tensor.shape);
                return Err(wrong(name, problem));
            };
            if !columns.is_multiple_of(scheme.block()) {
                let problem = format!(
                    "scheme {scheme} needs rows of whole blocks of {}, found {columns}",
                    scheme.block()
                );
                return Err(wrong(name, problem));
            }
            for part in scheme.parts(name, &shape) {
                let Some(found) = self.get(&part.name) else {
                    return Err(wrong(
                        &part.name,
                        format!("`{name:.80}` is {scheme} but its scales are missing"),
                    ));
                };
                if found.dtype != part.dtype || found.shape != part.shape {
                    let problem = format!(
                        "must be {} of shape {:?}, found {} of shape {:?}",
                        part.dtype, part.shape, found.dtype, found.shape
                    );
                    return Err(wrong(&part.name, problem));
                }
                if manifest.tensors.contains_key(&part.name) || !part_names.insert(part.name.clone()) {
                    let problem = format!("the scales of `{name:.80}` serve as something else too");
                    return Err(wrong(&part.name, problem));
                }
            }
        }
        for tensor in &self.tensors {
            if !manifest.tensors.contains_key(&tensor.name) && !part_names.contains(&tensor.name) {
                return Err(wrong(
                    &tensor.name,
                    "weights.safetensors has it, but the manifest does not list it".into(),
                ));
            }
        }
        if let Some(alias) = manifest.tied.keys().find(|alias| part_names.contains(*alias)) {
            return Err(wrong(alias, "the manifest calls it an alias, but it holds scales".into()));
        }
        if let Some(alias) = manifest.tied.keys().find(|alias| joined_names.contains(alias.as_str())) {
            return Err(wrong(alias, "the manifest calls it an alias, but it is a part of a tensor".into()));
        }
        Ok(())
    }
}

fn check_tensor(name: String, raw: RawTensor, data_bytes: usize) -> Result<TensorInfo, FormatError> {
    let RawTensor { dtype, shape: RawShape { dims: shape, rank }, data_offsets: [begin, end] } = raw;
    let wrong = |problem: String| FormatError::Tensor { name: name.chars().take(80).collect(), problem };
    if !(1..=MAX_NAME).contains(&name.len()) {
        return Err(wrong(format!("a name of {} bytes, allowed are 1 to {MAX_NAME}", name.len())));
    }
    let Some(dtype) = Dtype::from_name(&dtype) else {
        let known = Dtype::ALL.map(Dtype::name).join(", ");
        return Err(wrong(format!("dtype `{dtype:.80}` is not one of {known}")));
    };
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(wrong(format!("{rank} dimensions, allowed are 1 to {MAX_RANK}")));
    }
    if begin > end || end > data_bytes {
        return Err(wrong(format!("takes bytes {begin} to {end} of {data_bytes}")));
    }
    let expected =
        shape.iter().try_fold(dtype.size() as u64, |product, &dim| product.checked_mul(dim as u64));
    let Some(expected) = expected else {
        return Err(wrong(format!("shape {shape:?} as {dtype} has more than 2^64 bytes")));
    };
    if expected == 0 {
        return Err(wrong(format!("shape {shape:?} has no elements")));
    }
    let found = (end - begin) as u64;
    if expected != found {
        return Err(FormatError::TensorSize { name, shape, dtype, expected, found });
    }
    Ok(TensorInfo { name, dtype, shape, begin, end })
}

/// Order and offsets of tensors to be written: code matrices first.
#[derive(Debug, Clone)]
pub struct WeightsLayout {
    index: WeightsIndex,
    header: Vec<u8>,
}

#[derive(Serialize)]
struct HeaderEntry<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

impl WeightsLayout {
    /// Plans a file of tensors with the given names, types and shapes. Tensors whose size is a multiple of a cache
    /// line come first, matrices of codes before others, each in the order given; the rest follows by decreasing
    /// element size. So every large matrix starts on a cache line and every tensor on a multiple of its element size.
    ///
    /// # Errors
    /// [`FormatError::Tensor`] for a duplicate name.
    pub fn new(tensors: &[(String, Dtype, Vec<usize>)]) -> Result<Self, FormatError> {
        let bytes =
            |(_, dtype, shape): &&(String, Dtype, Vec<usize>)| dtype.size() * shape.iter().product::<usize>();
        let mut order: Vec<_> = tensors.iter().collect();
        order.sort_by_key(|tensor| {
            let (_, dtype, shape) = tensor;
            let whole_lines = shape.len() > 1 && bytes(tensor).is_multiple_of(ALIGNMENT);
            let group = match (whole_lines, dtype) {
                (true, Dtype::I8 | Dtype::U8) => 0,
                (true, _) => 1,
                (false, _) => 2,
            };
            (group, std::cmp::Reverse(if group == 2 { dtype.size() } else { 0 }))
        });
        let mut begin = 0;
        let infos = order
            .iter()
            .map(|tensor| {
                let (name, dtype, shape) = tensor;
                let end = begin + bytes(tensor);
                let info = TensorInfo { name: name.clone(), dtype: *dtype, shape: shape.clone(), begin, end };
                begin = end;
                info
            })
            .collect();
        let mut index = WeightsIndex::new(infos, 0)?;

        // Written by hand, because a map would lose the order of the entries.
        let mut header = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
        for TensorInfo { name, dtype, shape, begin, end } in &index.tensors {
            let entry = HeaderEntry { dtype: dtype.name(), shape, data_offsets: [*begin, *end] };
            let name = serde_json::to_string(name).expect("a string");
            let entry = serde_json::to_string(&entry).expect("strings and integers");
            header.extend([",", &name, ":", &entry]);
        }
        header.push('}');
        let padded = (8 + header.len()).next_multiple_of(ALIGNMENT) - 8;
        header.extend(std::iter::repeat_n(' ', padded - header.len()));
        index.data_start = 8 + padded;
        let header = [&(padded as u64).to_le_bytes(), header.as_bytes()].concat();
        Ok(Self { index, header })
    }

    /// The start of the file: length field and JSON, padded to a cache line.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The tensors in the order in which their bytes follow the header.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.index.tensors
    }

    /// Length of the whole safetensors file.
    pub fn file_bytes(&self) -> u64 {
        (self.header.len() + self.index.tensors.last().map_or(0, |t| t.end)) as u64
    }
}
