//! Properties of tensors that validation of a graph needs.

/// A tensor of an archive, with the properties that decide which attributes may name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredTensor<'a> {
    /// The parameter's shape, not that of its codes; for a part, its own shape.
    pub shape: &'a [usize],
    /// The kind of tensor.
    pub kind: TensorKind,
}

/// The kind of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// A parameter whose elements are stored in F32.
    F32,
    /// A parameter in another scheme: 16-bit floating point, or codes.
    Encoded,
    /// Part of a parameter: scales, absmax values, a code table. Nodes cannot name it.
    Part,
}

impl<'a> StoredTensor<'a> {
    /// A parameter of `shape` in F32.
    pub fn f32(shape: &'a [usize]) -> Self {
        Self { shape, kind: TensorKind::F32 }
    }
}
