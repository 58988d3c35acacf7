//! What a graph needs to know of the tensors that it names.

/// A tensor of an archive, as far as it decides which attributes of a node may name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredTensor<'a> {
    /// The parameter's shape, not that of its codes; a part's own shape.
    pub shape: &'a [usize],
    /// What the tensor is.
    pub kind: TensorKind,
}

/// What a stored tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// A parameter whose elements are stored in F32.
    F32,
    /// A parameter in another scheme: floating point of 16 bits, or codes.
    Encoded,
    /// No parameter, but a part of one: scales, absmax values, a table of codes. No node may name it.
    Part,
}

impl<'a> StoredTensor<'a> {
    /// A parameter of `shape` in F32.
    pub fn f32(shape: &'a [usize]) -> Self {
        Self { shape, kind: TensorKind::F32 }
    }
}
