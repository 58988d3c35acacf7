//! Errors in GGUF files.

/// An error in a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is not a GGUF file.
    #[error("not a GGUF file: {found}")]
    NotGguf {
        /// What it appears to be.
        found: String,
    },
    /// An unsupported version.
    #[error("GGUF: {problem}; this build supports versions 2 and 3, little-endian")]
    Version {
        /// The number in the file.
        found: u32,
        /// Description of that version.
        problem: String,
    },
    /// The file ends early.
    #[error(
        "GGUF: {what} at byte {at}: {needed} bytes or more, {left} are left: the file is truncated by {} bytes, \
         or a length in it is wrong",
        needed - *left as u128
    )]
    Truncated {
        /// What is incomplete.
        what: String,
        /// Where it starts in the file.
        at: usize,
        /// The bytes that it needs at least; possibly a product of two 64-bit numbers from the file.
        needed: u128,
        /// The bytes from there to the end of the file.
        left: usize,
    },
    /// The file contradicts itself or the format.
    #[error("GGUF: {what} at byte {at}: {problem:.1000}")]
    Malformed {
        /// What was being read.
        what: String,
        /// Where in the file.
        at: usize,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// A metadata key is missing or has the wrong type.
    #[error("GGUF: metadata `{key:.200}` {problem:.1000}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An invalid tensor.
    #[error("GGUF: tensor `{name:.200}`: {problem:.1000}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it, with the numbers.
        problem: String,
    },
    /// A `tokenizer.json` is malformed or cannot be expressed in llama.cpp's keys.
    #[error("tokenizer.json: {problem:.1000}")]
    TokenizerJson {
        /// What is wrong with it.
        problem: String,
    },
}

impl GgufError {
    /// An error of a tensor; the message shows only the beginning of a hostile name.
    pub(crate) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: name.chars().take(80).collect(), problem: problem.into() }
    }

    /// An error of a key; the message shows only the beginning of a hostile key.
    pub(crate) fn metadata(key: &str, problem: impl Into<String>) -> Self {
        Self::Metadata { key: key.chars().take(80).collect(), problem: problem.into() }
    }
}
