//! Tensor locations, and the checks that apply to every tensor.

use std::ops::Range;

use crate::{GgmlType, GgufError};

/// ggml's limit.
pub(crate) const MAX_RANK: usize = 4;

/// The location of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: GgmlType,
    /// Dimensions, row-major as in PyTorch: the reverse of the file's order. A row is a whole number of blocks.
    pub shape: Vec<usize>,
    /// Its byte range in the file.
    pub range: Range<usize>,
}

impl GgufTensor {
    /// Its bytes. Panics if `file` is shorter than the parsed one.
    pub fn bytes<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        &file[self.range.clone()]
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Bytes of a tensor of `shape`, in row-major order.
///
/// # Errors
/// [`GgufError::Tensor`] for an invalid rank or dimension, a row that is not a whole number of blocks, or a size that
/// overflows.
pub(crate) fn data_bytes(name: &str, dtype: GgmlType, shape: &[usize]) -> Result<usize, GgufError> {
    let wrong = |problem: String| Err(GgufError::tensor(name, problem));
    if !(1..=MAX_RANK).contains(&shape.len()) {
        return wrong(format!("{} dimensions, allowed are 1 to {MAX_RANK}", shape.len()));
    }
    if shape.contains(&0) {
        return wrong(format!("shape {shape:?} has no elements"));
    }
    let row = shape[shape.len() - 1];
    if !row.is_multiple_of(dtype.block_len()) {
        return wrong(format!(
            "shape {shape:?}: rows of {row} elements, {dtype} needs a multiple of {}",
            dtype.block_len()
        ));
    }
    let elements = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    match elements.and_then(|elements| dtype.bytes(elements)) {
        Some(bytes) => Ok(bytes),
        None => wrong(format!("shape {shape:?} as {dtype} has more than {} bytes", usize::MAX)),
    }
}

/// Checks a name of at most `longest` bytes.
pub(crate) fn check_name(name: &str, longest: usize) -> Result<(), GgufError> {
    if (1..=longest).contains(&name.len()) {
        return Ok(());
    }
    Err(GgufError::tensor(name, format!("a name of {} bytes, allowed are 1 to {longest}", name.len())))
}
