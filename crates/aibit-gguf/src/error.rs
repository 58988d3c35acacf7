//! What can be wrong with a GGUF file.

/// An error in a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file contradicts itself or the format.
    #[error("GGUF: {what} at byte {at}: {problem}")]
    Malformed {
        /// What was being read.
        what: String,
        /// Where in the file.
        at: usize,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// A metadata key is missing, or has another type than it must have.
    #[error("GGUF: metadata `{key}` {problem}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}
