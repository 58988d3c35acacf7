//! Zeroed memory that is taken page by page.

use aibit_runtime::RuntimeError;
use memmap2::MmapMut;

/// Zeros that take memory as they are written, aligned to a page of the system. A size that the system refuses is an error
/// here, where a vector would end the program.
#[derive(Debug)]
pub(crate) struct Zeroed(MmapMut);

impl Zeroed {
    /// Room for `elements`; `what` names it in the error.
    pub(crate) fn new<T>(elements: usize, what: &'static str) -> Result<Self, RuntimeError> {
        let bytes = elements.checked_mul(size_of::<T>());
        // An empty map is refused.
        let map = bytes.and_then(|bytes| MmapMut::map_anon(bytes.max(1)).ok());
        map.map(Self).ok_or(RuntimeError::Memory { what, bytes })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub(crate) fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0[..self.0.len() / 4 * 4])
    }

    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        let length = self.0.len() / 4 * 4;
        bytemuck::cast_slice_mut(&mut self.0[..length])
    }
}
