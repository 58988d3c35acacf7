//! A source checkpoint: named tensors in mapped files, read a few rows at a time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aibit_format::{FileKind, MappedFile};
use aibit_gguf::{GgmlType, Gguf, GgufTensor, deinterleave_rows};
use half::{bf16, f16};
use ndarray::Array2;
use safetensors::SafeTensors;

use crate::PackError;
use crate::torch::{TorchCheckpoint, TorchDtype, TorchTensor};

/// Element types that a checkpoint's weights may have.
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
}

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
    /// Whether every matrix is `[out, in]`, whatever its layer makes of it.
    pub(crate) is_canonical: bool,
    /// Rows of a head, where the halves of each head's rows are interleaved.
    interleaved: Option<usize>,
    file: usize,
    place: Place,
}

/// An element type as far as this crate knows it.
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
    /// Opens weight files of either kind, told apart by content. No tensor may stand in two of them.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self, PackError> {
        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            let map = MappedFile::open(path)?;
            let head = &map[..map.len().min(FileKind::HEAD)];
            match FileKind::of(head, map.len() as u64) {
                FileKind::Gguf => checkpoint.add_gguf(path, map)?,
                FileKind::Zip | FileKind::Pickle => checkpoint.add_torch(path, map)?,
                other => match other.stand_in() {
                    Some(found) => {
                        let (path, problem) = (path.clone(), found.to_owned());
                        return Err(PackError::SourceFile { path, problem });
                    }
                    None => checkpoint.add_safetensors(path, map)?,
                },
            }
        }
        Ok(checkpoint)
    }

    fn add_safetensors(&mut self, path: &Path, map: MappedFile) -> Result<(), PackError> {
        let bad = |problem: String| PackError::SourceFile { path: path.to_owned(), problem };
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| bad(format!("not a safetensors file: {e}")))?;
        let data_start = header + 8;
        let file = self.files.len();
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
            self.insert(
                name,
                CheckpointTensor {
                    dtype,
                    shape: info.shape.clone(),
                    is_canonical: false,
                    interleaved: None,
                    file,
                    place,
                },
            )?;
        }
        self.files.push(OpenFile { path: path.to_owned(), map, torch: None });
        Ok(())
    }

    fn add_gguf(&mut self, path: &Path, map: MappedFile) -> Result<(), PackError> {
        let gguf = Gguf::parse(&map).map_err(|source| PackError::Gguf { path: path.to_owned(), source })?;
        let file = self.files.len();
        for GgufTensor { name, dtype, shape, range } in gguf.tensors() {
            let dtype = match dtype {
                GgmlType::F32 => TensorDtype::Float(SourceDtype::F32),
                GgmlType::F16 => TensorDtype::Float(SourceDtype::F16),
                GgmlType::Bf16 => TensorDtype::Float(SourceDtype::Bf16),
                quantized => TensorDtype::Ggml(*quantized),
            };
            let (canonical, interleaved) = crate::gguf::checkpoint_tensor(gguf.metadata(), name)
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
            )?;
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
            )?;
        }
        self.files.push(OpenFile { path: path.to_owned(), map, torch: Some(torch) });
        Ok(())
    }

    fn insert(&mut self, name: String, tensor: CheckpointTensor) -> Result<(), PackError> {
        if self.tensors.contains_key(&name) {
            return Err(PackError::Tensor { name, problem: "stands in more than one weight file".into() });
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// Every tensor by name.
    pub(crate) fn tensors(&self) -> &BTreeMap<String, CheckpointTensor> {
        &self.tensors
    }

    /// A tensor's bytes, row-major; copied only where a torch tensor is strided, or rows stand in another order.
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

    /// A small tensor of floats, widened.
    pub(crate) fn floats(&self, tensor: &CheckpointTensor) -> Result<Vec<f32>, PackError> {
        let TensorDtype::Float(dtype) = tensor.dtype else { return Ok(Vec::new()) };
        Ok(widen(&self.bytes(tensor)?, dtype).collect())
    }

    /// Lets go of the pages of a tensor that has been packed.
    pub(crate) fn release(&self, tensor: &CheckpointTensor) {
        let file = &self.files[tensor.file];
        match &tensor.place {
            Place::Bytes(range) => file.map.release(range.clone()),
            Place::Torch(_) => file.map.release(0..file.map.len()),
        }
    }
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
    let mut out = Array2::zeros((wanted.len(), columns));
    if transposed {
        for (column, source_row) in bytes.chunks_exact(rows * size).enumerate() {
            let part = &source_row[wanted.start * size..wanted.end * size];
            for (row, value) in widen(part, dtype).enumerate() {
                out[[row, column]] = value;
            }
        }
    } else {
        let part = &bytes[wanted.start * columns * size..wanted.end * columns * size];
        for (out, value) in out.iter_mut().zip(widen(part, dtype)) {
            *out = value;
        }
    }
    out
}

/// Elements as f32, which holds every source type exactly.
fn widen(bytes: &[u8], dtype: SourceDtype) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(dtype.size()).map(move |b| match dtype {
        SourceDtype::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        SourceDtype::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
        SourceDtype::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
    })
}
