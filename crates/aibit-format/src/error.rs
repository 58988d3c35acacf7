use std::path::PathBuf;

use crate::{Dtype, OutputRefusal};

/// Why an archive cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A system error.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// The attempted action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A path that must not be overwritten.
    #[error("cannot write {}: {reason}", .path.display())]
    Output {
        /// The path.
        path: PathBuf,
        /// The reason and what to do.
        reason: OutputRefusal,
    },
    /// A folder, device or pipe instead of a file.
    #[error("{} is {found}, not a regular file", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The file is not an archive.
    #[error("{} is not an .aibit archive: {found}", .path.display())]
    NotAnArchive {
        /// The path.
        path: PathBuf,
        /// What it appears to be.
        found: String,
    },
    /// The container's structure is invalid.
    #[error("container, {section} at byte {offset}: {problem}")]
    Container {
        /// Which part: the end record, the central directory, an entry's header.
        section: String,
        /// Where it starts in the file.
        offset: u64,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// An entry's bytes differ from those that were packed.
    #[error("entry `{entry}`: {what} is {found}, expected {expected}")]
    Digest {
        /// Name of the entry.
        entry: String,
        /// Which check.
        what: &'static str,
        /// Computed from the bytes.
        found: String,
        /// Recorded at pack time.
        expected: String,
    },
    /// A required entry is missing.
    #[error("the archive has no entry `{entry}`; it contains {present}")]
    MissingEntry {
        /// Name of the entry.
        entry: String,
        /// Names of the existing entries.
        present: String,
    },
    /// `manifest.json` is malformed or contradicts the container.
    #[error("manifest.json: {0}")]
    Manifest(String),
    /// Written by a later version of the format.
    #[error(
        "archive version {found} is not supported by this build (up to {supported}); \
         update aibit or pack the model again"
    )]
    Version {
        /// Version in the manifest.
        found: u64,
        /// Newest version that this build reads.
        supported: u32,
    },
    /// The archive requires a feature that this build lacks.
    #[error("the archive requires the feature `{feature}`, which this build does not support; update aibit")]
    Feature {
        /// Name of the feature.
        feature: String,
    },
    /// The header of `weights.safetensors` is malformed.
    #[error("weights.safetensors: {0}")]
    WeightsHeader(String),
    /// A tensor's entry in the header contradicts itself or its neighbours.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// Shape and type do not match the length given in the header.
    #[error("tensor `{name}`: shape {shape:?} as {dtype} needs {expected} bytes, the entry holds {found}")]
    TensorSize {
        /// Name of the tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its element type.
        dtype: Dtype,
        /// Bytes that shape and type need.
        expected: u64,
        /// Bytes between its offsets.
        found: u64,
    },
    /// A stored value that no quantizer produces.
    #[error("tensor `{name}`, element {index}: {problem}")]
    Value {
        /// Name of the tensor.
        name: String,
        /// Index of the first such element, row-major.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An entry that is read as a whole exceeds its limit.
    #[error("{entry}: {bytes} bytes, allowed are {allowed}")]
    EntryTooLong {
        /// Name of the entry.
        entry: String,
        /// Its length.
        bytes: u64,
        /// The limit for this entry.
        allowed: u64,
    },
    /// More or fewer bytes were written than announced.
    #[error("entry `{entry}`: {found} bytes were written, {expected} were announced")]
    EntryLength {
        /// Name of the entry.
        entry: String,
        /// Bytes written.
        found: u64,
        /// Bytes announced.
        expected: u64,
    },
}
