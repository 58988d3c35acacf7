//! The tensors of a checkpoint, and their bytes.

use std::borrow::Cow;

use crate::archive::Archive;
use crate::pickle::{self, printable};
use crate::{TorchDtype, TorchError};

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
        Archive::open(file)?.check_sums()
    }
}

/// What shape and strides say together.
pub(crate) struct Geometry {
    /// Number of elements.
    pub(crate) count: usize,
    /// Index in the storage of the last element, counted from the first; none without elements.
    pub(crate) last: Option<usize>,
    is_contiguous: bool,
}

impl Geometry {
    /// Returns nothing if the ranks differ or a number does not fit in a `usize`.
    pub(crate) fn new(shape: &[usize], strides: &[usize]) -> Option<Self> {
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
