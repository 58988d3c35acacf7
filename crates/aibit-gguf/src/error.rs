//! What can be wrong with a GGUF file.

/// An error in a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is something else.
    #[error("not a GGUF file: {found}")]
    NotGguf {
        /// What it seems to be.
        found: String,
    },
    /// A version that this build does not read.
    #[error("GGUF: {problem}; this build reads versions 2 and 3, little-endian")]
    Version {
        /// The number in the file.
        found: u32,
        /// Which version that is.
        problem: String,
    },
    /// The file ends before something that it announces.
    #[error(
        "GGUF: {what} at byte {at}: {needed} bytes or more, {left} are left: the file is cut short by {} bytes, \
         or a length in it is wrong",
        needed - *left as u128
    )]
    Truncated {
        /// What is not there in full.
        what: String,
        /// Where it starts in the file.
        at: usize,
        /// How many bytes it takes at least; a product of two 64-bit numbers of the file.
        needed: u128,
        /// How many bytes the file has from there on.
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
    /// A metadata key is missing, or has another type than it must have.
    #[error("GGUF: metadata `{key:.200}` {problem:.1000}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor that is not possible.
    #[error("GGUF: tensor `{name:.200}`: {problem:.1000}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it, with the numbers.
        problem: String,
    },
    /// A `tokenizer.json` is malformed, or llama.cpp has no keys that would say the same.
    #[error("tokenizer.json: {problem:.1000}")]
    TokenizerJson {
        /// What is wrong with it.
        problem: String,
    },
}

impl GgufError {
    /// A tensor's error; of a hostile name the message shows the beginning.
    pub(crate) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: name.chars().take(80).collect(), problem: problem.into() }
    }

    /// A key's error; of a hostile key the message shows the beginning.
    pub(crate) fn metadata(key: &str, problem: impl Into<String>) -> Self {
        Self::Metadata { key: key.chars().take(80).collect(), problem: problem.into() }
    }
}
