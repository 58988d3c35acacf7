//! A source checkpoint: named tensors in mapped files, read a few rows at a time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aibit_format::{FileKind, MappedFile};
use aibit_gguf::{GgmlType, Gguf, GgufTensor, Metadata, deinterleave_rows};
use aibit_torch::{TorchCheckpoint, TorchDtype, TorchTensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ndarray::Array2;
use safetensors::SafeTensors;

use crate::PackError;
use crate::json_dialect::check_strict;

/// Supported element types of floating-point weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceDtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl SourceDtype {
    /// The name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// The tensors of one or more weight files.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    files: Vec<OpenFile>,
    tensors: BTreeMap<String, CheckpointTensor>,
    /// Tensors whose name already occurred in another file.
    repeated: Vec<(String, CheckpointTensor)>,
    /// Aliases from the headers of safetensors files.
    aliases: Vec<(String, String)>,
    /// The prefix removed from every name.
    wrapper: String,
    /// The metadata of the first GGUF file.
    gguf_metadata: Option<Arc<Metadata>>,
}

/// Name prefixes that wrappers of a model add.
const WRAPPERS: [(&str, &str); 5] = [
    ("_orig_mod.", "torch.compile"),
    ("module.", "DataParallel and DeepSpeed"),
    ("_fsdp_wrapped_module.", "FSDP"),
    ("_forward_module.", "Lightning"),
    ("base_model.model.", "PEFT"),
];

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    map: MappedFile,
    torch: Option<TorchCheckpoint>,
}

/// A tensor as the checkpoint stores it.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointTensor {
    pub(crate) dtype: TensorDtype,
    pub(crate) shape: Vec<usize>,
    /// Whether every matrix is `[out, in]`, regardless of its layer.
    pub(crate) is_canonical: bool,
    /// Rows per head, if the halves of each head's rows are interleaved.
    interleaved: Option<usize>,
    file: usize,
    place: Place,
}

/// An element type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TensorDtype {
    Float(SourceDtype),
    I8,
    U8,
    /// Blocks of a GGUF file.
    Ggml(GgmlType),
    Other(String),
}

impl TensorDtype {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Float(dtype) => dtype.name(),
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Ggml(dtype) => dtype.name(),
            Self::Other(name) => name,
        }
    }
}

#[derive(Debug, Clone)]
enum Place {
    /// Row-major elements in the map.
    Bytes(Range<usize>),
    /// Index among a torch checkpoint's tensors; may be strided.
    Torch(usize),
}

impl Checkpoint {
    /// Opens weight files, identified by content. A tensor may be in two files if it is the same in both. Wrapper
    /// prefixes are removed if they are on every name.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self, PackError> {
        let mut checkpoint = Self::empty();
        for path in paths {
            checkpoint.add(path, MappedFile::open(path)?)?;
        }
        checkpoint.complete()
    }

    /// Opens the weight file at `path`, which was unpacked from the file at `container`; errors name the latter.
    pub(crate) fn unpacked(path: &Path, container: &Path) -> Result<Self, PackError> {
        let mut checkpoint = Self::empty();
        checkpoint.add(container, MappedFile::open(path)?)?;
        checkpoint.complete()
    }

    fn empty() -> Self {
        Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            repeated: Vec::new(),
            aliases: Vec::new(),
            wrapper: String::new(),
            gguf_metadata: None,
        }
    }

    fn add(&mut self, path: &Path, map: MappedFile) -> Result<(), PackError> {
        let head = &map[..map.len().min(FileKind::HEAD)];
        match FileKind::of(head, map.len() as u64) {
            FileKind::Gguf => self.add_gguf(path, map),
            FileKind::Zip | FileKind::Pickle => self.add_torch(path, map),
            other => match other.stand_in() {
                Some(found) => {
                    Err(PackError::SourceFile { path: path.to_owned(), problem: found.to_owned() })
                }
                None => self.add_safetensors(path, map),
            },
        }
    }

    fn complete(mut self) -> Result<Self, PackError> {
        self.check_repeated()?;
        for (name, target) in std::mem::take(&mut self.aliases) {
            if let Some(tensor) = self.tensors.get(&target).cloned() {
                self.tensors.entry(name).or_insert(tensor);
            }
        }
        self.unwrap()?;
        Ok(self)
    }

    /// Checks that tensors in several files are identical.
    fn check_repeated(&self) -> Result<(), PackError> {
        let file_name = |tensor: &CheckpointTensor| {
            let path = &self.files[tensor.file].path;
            path.file_name().unwrap_or_default().to_string_lossy().into_owned()
        };
        for (name, tensor) in &self.repeated {
            let first = &self.tensors[name];
            let problem = if tensor.file == first.file {
                format!("is in {} more than once", file_name(tensor))
            } else if !self.is_same(first, tensor)? {
                format!("differs between {} and {}, which both hold it", file_name(first), file_name(tensor))
            } else {
                continue;
            };
            return Err(PackError::Tensor { name: name.clone(), problem });
        }
        Ok(())
    }

    /// Whether two tensors have the same type, shape and bytes.
    pub(crate) fn is_same(&self, a: &CheckpointTensor, b: &CheckpointTensor) -> Result<bool, PackError> {
        Ok(a.dtype == b.dtype && a.shape == b.shape && self.bytes(a)? == self.bytes(b)?)
    }

    /// Removes wrapper prefixes that are on every name.
    fn unwrap(&mut self) -> Result<(), PackError> {
        while let Some((prefix, wrapper)) =
            WRAPPERS.into_iter().find(|(prefix, _)| self.tensors.keys().any(|name| name.starts_with(prefix)))
        {
            if let Some(without) = self.tensors.keys().find(|name| !name.starts_with(prefix)) {
                let count = self.tensors.keys().filter(|name| name.starts_with(prefix)).count();
                let problem = format!(
                    "has no prefix `{prefix}`, which {wrapper} left on {count} of {} names; save the state dict of the \
                     model inside",
                    self.tensors.len()
                );
                return Err(PackError::Tensor { name: without.clone(), problem });
            }
            let names = std::mem::take(&mut self.tensors).into_iter();
            self.tensors = names.map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
            self.wrapper.push_str(prefix);
        }
        Ok(())
    }

    /// A tensor by its name in the file.
    pub(crate) fn holds(&self, name: &str) -> bool {
        name.strip_prefix(&self.wrapper).is_some_and(|name| self.tensors.contains_key(name))
    }

    /// The name of a file's tensor without the wrapper prefix.
    pub(crate) fn unwrapped<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(&self.wrapper).unwrap_or(name)
    }

    fn add_safetensors(&mut self, path: &Path, map: MappedFile) -> Result<(), PackError> {
        let bad = |problem: String| PackError::SourceFile { path: path.to_owned(), problem };
        if let Some(header) = header_of(&map) {
            check_strict(header, MAX_HEADER_VALUES).map_err(|e| bad(format!("its header: {e}")))?;
        }
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| bad(format!("not a safetensors file: {e}")))?;
        let data_start = header + 8;
        let file = self.files.len();
        let names = metadata.metadata().iter().flatten();
        self.aliases.extend(names.map(|(name, target)| (name.clone(), target.clone())));
        for (name, info) in metadata.tensors() {
            let (begin, end) = info.data_offsets;
            let dtype = match info.dtype {
                safetensors::Dtype::F32 => TensorDtype::Float(SourceDtype::F32),
                safetensors::Dtype::F16 => TensorDtype::Float(SourceDtype::F16),
                safetensors::Dtype::BF16 => TensorDtype::Float(SourceDtype::Bf16),
                safetensors::Dtype::I8 => TensorDtype::I8,
                safetensors::Dtype::U8 => TensorDtype::U8,
                other => TensorDtype::Other(format!("{other:?}")),
            };
            let place = Place::Bytes(data_start + begin..data_start + end);
            let shape = info.shape.clone();
            self.insert(
                name,
                CheckpointTensor { dtype, shape, is_canonical: false, interleaved: None, file, place },
            );
        }
        self.files.push(OpenFile { path: path.to_owned(), map, torch: None });
        Ok(())
    }

    fn add_gguf(&mut self, path: &Path, map: MappedFile) -> Result<(), PackError> {
        let gguf = Gguf::parse(&map).map_err(|source| PackError::Gguf { path: path.to_owned(), source })?;
        let file = self.files.len();
        // The first part of a split model has the metadata.
        let metadata = self.gguf_metadata.get_or_insert_with(|| Arc::new(gguf.metadata().clone())).clone();
        for GgufTensor { name, dtype, shape, range } in gguf.tensors() {
            let dtype = match dtype {
                GgmlType::F32 => TensorDtype::Float(SourceDtype::F32),
                GgmlType::F16 => TensorDtype::Float(SourceDtype::F16),
                GgmlType::Bf16 => TensorDtype::Float(SourceDtype::Bf16),
                quantized => TensorDtype::Ggml(*quantized),
            };
            let (canonical, interleaved) = crate::gguf::checkpoint_tensor(&metadata, name)
                .map_err(|source| PackError::Gguf { path: path.to_owned(), source })?;
            if let Some(head_rows) = interleaved
                && !shape.first().is_some_and(|rows| *rows > 0 && rows.is_multiple_of(head_rows))
            {
                let problem = format!("has shape {shape:?}, which is not whole heads of {head_rows} rows");
                return Err(PackError::Tensor { name: name.clone(), problem });
            }
            let (shape, place) = (shape.clone(), Place::Bytes(range.clone()));
            self.insert(
                canonical,
                CheckpointTensor { dtype, shape, is_canonical: true, interleaved, file, place },
            );
        }
        self.files.push(OpenFile { path: path.to_owned(), map, torch: None });
        Ok(())
    }

    fn add_torch(&mut self, path: &Path, map: MappedFile) -> Result<(), PackError> {
        let refused = |source| PackError::Torch { path: path.to_owned(), source };
        let torch = TorchCheckpoint::parse(&map).map_err(refused)?;
        TorchCheckpoint::verify(&map).map_err(refused)?;
        let file = self.files.len();
        for (index, tensor) in torch.tensors().iter().enumerate() {
            let dtype = match tensor.dtype {
                TorchDtype::F32 => TensorDtype::Float(SourceDtype::F32),
                TorchDtype::F16 => TensorDtype::Float(SourceDtype::F16),
                TorchDtype::Bf16 => TensorDtype::Float(SourceDtype::Bf16),
                TorchDtype::I8 => TensorDtype::I8,
                TorchDtype::U8 => TensorDtype::U8,
                other => TensorDtype::Other(other.name().to_owned()),
            };
            let shape = tensor.shape.clone();
            self.insert(
                tensor.name.clone(),
                CheckpointTensor {
                    dtype,
                    shape,
                    is_canonical: false,
                    interleaved: None,
                    file,
                    place: Place::Torch(index),
                },
            );
        }
        self.files.push(OpenFile { path: path.to_owned(), map, torch: Some(torch) });
        Ok(())
    }

    fn insert(&mut self, name: String, tensor: CheckpointTensor) {
        match self.tensors.entry(name) {
            Entry::Vacant(place) => _ = place.insert(tensor),
            Entry::Occupied(place) => self.repeated.push((place.key().clone(), tensor)),
        }
    }

    /// Whether the tensors are from a GGUF file.
    pub(crate) fn is_gguf(&self) -> bool {
        self.files.iter().any(|file| file.map.starts_with(b"GGUF"))
    }

    /// Every tensor by name.
    pub(crate) fn tensors(&self) -> &BTreeMap<String, CheckpointTensor> {
        &self.tensors
    }

    /// A tensor's bytes, row-major; copied only if a torch tensor is strided or rows are permuted.
    pub(crate) fn bytes(&self, tensor: &CheckpointTensor) -> Result<Cow<'_, [u8]>, PackError> {
        let file = &self.files[tensor.file];
        match &tensor.place {
            Place::Bytes(range) => {
                let bytes = &file.map[range.clone()];
                Ok(match tensor.interleaved {
                    Some(head_rows) => deinterleave_rows(bytes, tensor.shape[0], head_rows).into(),
                    None => Cow::Borrowed(bytes),
                })
            }
            Place::Torch(index) => {
                let torch = file.torch.as_ref().expect("a torch place lies in a torch file");
                let tensor: &TorchTensor = &torch.tensors()[*index];
                torch
                    .bytes(&file.map, tensor)
                    .map_err(|source| PackError::Torch { path: file.path.clone(), source })
            }
        }
    }

    /// The values of a small floating-point tensor as f32.
    pub(crate) fn floats(&self, tensor: &CheckpointTensor) -> Result<Vec<f32>, PackError> {
        let TensorDtype::Float(dtype) = tensor.dtype else { return Ok(Vec::new()) };
        Ok(widen(&self.bytes(tensor)?, dtype))
    }

    /// Drops a tensor's pages from memory.
    pub(crate) fn release(&self, tensor: &CheckpointTensor) {
        let file = &self.files[tensor.file];
        match &tensor.place {
            Place::Bytes(range) => file.map.release(range.clone()),
            Place::Torch(_) => file.map.release(0..file.map.len()),
        }
    }
}

/// Maximum number of values in the header of a safetensors file: about nine per tensor.
const MAX_HEADER_VALUES: usize = 1 << 19;

/// The header of a safetensors file, if it is complete.
fn header_of(file: &[u8]) -> Option<&[u8]> {
    let (length, rest) = file.split_first_chunk()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// Rows of a matrix in canonical orientation, widened to f32.
///
/// `shape` is the canonical `[rows, columns]`; with `transposed` the bytes are `[columns, rows]`.
pub(crate) fn read_rows(
    bytes: &[u8],
    dtype: SourceDtype,
    [rows, columns]: [usize; 2],
    transposed: bool,
    wanted: Range<usize>,
) -> Array2<f32> {
    let size = dtype.size();
    if !transposed {
        let part = &bytes[wanted.start * columns * size..wanted.end * columns * size];
        return Array2::from_shape_vec((wanted.len(), columns), widen(part, dtype)).expect("whole rows");
    }
    // A few columns at a time, so that writes are contiguous.
    const TILE: usize = 16;
    let mut out = Array2::zeros((wanted.len(), columns));
    for first in (0..columns).step_by(TILE) {
        let column = |index: usize| {
            let start = index * rows;
            widen(&bytes[(start + wanted.start) * size..(start + wanted.end) * size], dtype)
        };
        let tile: Vec<_> = (first..columns.min(first + TILE)).map(column).collect();
        for (row, mut out) in out.rows_mut().into_iter().enumerate() {
            for (out, column) in out.iter_mut().skip(first).zip(&tile) {
                *out = column[row];
            }
        }
    }
    out
}

/// Elements as f32, which represents every source type exactly.
fn widen(bytes: &[u8], dtype: SourceDtype) -> Vec<f32> {
    let of_two = || bytes.as_chunks().0.iter();
    match dtype {
        SourceDtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        SourceDtype::F16 => of_two().map(|b| f16::from_le_bytes(*b)).collect::<Vec<_>>().to_f32_vec(),
        SourceDtype::Bf16 => of_two().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safetensors_headers_of_every_length_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights of any name");
        let header = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        // Every first byte, and lengths whose first two bytes are those of a pickle.
        for length in (header.len()..header.len() + 256).chain((2..=5).map(|protocol| 0x80 + 256 * protocol))
        {
            let mut file = (length as u64).to_le_bytes().to_vec();
            file.extend(header);
            file.resize(8 + length, b' ');
            file.extend(1.5_f32.to_le_bytes());
            std::fs::write(&path, file).expect("written");
            let checkpoint = Checkpoint::open(std::slice::from_ref(&path)).expect("a checkpoint");
            let values = checkpoint.floats(&checkpoint.tensors()["x"]).expect("values");
            assert_eq!(values, [1.5], "a header of {length} bytes");
        }
    }
}
