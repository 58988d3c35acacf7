//! What an archive can be exported to.

use std::fmt;
use std::str::FromStr;

/// A format of other engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A folder in the Hugging Face layout with floating-point weights, which every engine loads.
    Hf,
    /// A folder that transformers loads as a model which bitsandbytes has quantized, in 8 or 4 bits.
    Bnb,
    /// A GGUF file for llama.cpp.
    Gguf,
    /// A folder for vLLM, and for transformers with compressed-tensors.
    CompressedTensors,
    /// The archive's own tensors, one safetensors file.
    Safetensors,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 5] = [Self::Hf, Self::Bnb, Self::Gguf, Self::CompressedTensors, Self::Safetensors];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hf => "hf",
            Self::Bnb => "bnb",
            Self::Gguf => "gguf",
            Self::CompressedTensors => "compressed-tensors",
            Self::Safetensors => "safetensors",
        }
    }

    /// Whether the target is a folder and not a file.
    pub fn is_folder(self) -> bool {
        matches!(self, Self::Hf | Self::Bnb | Self::CompressedTensors)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|target| target.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("unknown target `{name}`, known are {known}")
        })
    }
}
