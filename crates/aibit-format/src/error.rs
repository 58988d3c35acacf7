use std::path::PathBuf;

use crate::{Dtype, OutputRefusal};

/// Why an archive cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path that nothing is written to.
    #[error("cannot write {}: {reason}", .path.display())]
    Output {
        /// The path.
        path: PathBuf,
        /// Why not, and what to do.
        reason: OutputRefusal,
    },
    /// A folder, device or pipe.
    #[error("{} is {found}, not a regular file", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The file is something else.
    #[error("{} is not an .aibit archive: {found}", .path.display())]
    NotAnArchive {
        /// The path.
        path: PathBuf,
        /// What it seems to be.
        found: String,
    },
    /// The container's structure is broken.
    #[error("container, {section} at byte {offset}: {problem}")]
    Container {
        /// Which part: the end record, the central directory, an entry's header.
        section: String,
        /// Where it starts in the file.
        offset: u64,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// An entry's bytes are not the ones that were written.
    #[error("entry `{entry}`: {what} is {found}, the archive promises {expected}")]
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
    /// An entry that the archive must have is not there.
    #[error("the archive has no entry `{entry}`; it holds {present}")]
    MissingEntry {
        /// Name of the entry.
        entry: String,
        /// Names of those present.
        present: String,
    },
    /// `manifest.json` is malformed or contradicts the container.
    #[error("manifest.json: {0}")]
    Manifest(String),
    /// Written by a later version of the format.
    #[error(
        "archive version {found} is not one this build reads (up to {supported}); \
         update aibit or pack the model again"
    )]
    Version {
        /// Version in the manifest.
        found: u64,
        /// Newest version that this build reads.
        supported: u32,
    },
    /// The archive needs something that this build does not have.
    #[error("the archive requires the feature `{feature}`, which this build does not know; update aibit")]
    Feature {
        /// Name of the feature.
        feature: String,
    },
    /// The header of `weights.safetensors` is malformed.
    #[error("weights.safetensors: {0}")]
    WeightsHeader(String),
    /// A tensor's header line contradicts itself or its neighbours.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// Shape and type do not give the number of bytes that the header reserves.
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
    /// A stored value that no quantizer writes.
    #[error("tensor `{name}`, element {index}: {problem}")]
    Value {
        /// Name of the tensor.
        name: String,
        /// Index of the first such element, row-major.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An entry that is read as a whole is longer than any real one.
    #[error("{entry}: {bytes} bytes, allowed are {allowed}")]
    EntryTooLong {
        /// Name of the entry.
        entry: String,
        /// Its length.
        bytes: u64,
        /// The limit of its kind.
        allowed: u64,
    },
    /// The writer was given more or fewer bytes than announced.
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
