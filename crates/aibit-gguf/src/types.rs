//! Element types of tensors.

use std::fmt;

/// A supported element type. Every type stores blocks of a fixed number of elements in a fixed number of bytes; plain
/// numbers are blocks of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named like ggml's own; `blocks` describes each layout")]
pub enum GgmlType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// A type number that is not a [`GgmlType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedType {
    /// A type of ggml that this build does not support.
    #[error("type {id} ({name}) is not supported; supported are {}", supported())]
    NotRead {
        /// The number.
        id: u32,
        /// ggml's name for it.
        name: &'static str,
    },
    /// A type that was removed from ggml.
    #[error("type {id} ({name}) was removed from ggml; convert the model again")]
    Removed {
        /// The number.
        id: u32,
        /// Its former name.
        name: &'static str,
    },
    /// Not a type of ggml, as far as this build knows.
    #[error("type {id} is not one of ggml's")]
    Unknown {
        /// The number.
        id: u32,
    },
}

fn supported() -> String {
    GgmlType::ALL.map(GgmlType::name).join(", ")
}

impl GgmlType {
    /// Every type, by increasing id.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Bf16,
    ];

    /// Its number in a file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// The type with number `id`.
    ///
    /// # Errors
    /// [`UnsupportedType`], with ggml's name if it has one.
    ///
    /// Source: `enum ggml_type` in ggml's `include/ggml.h`.
    pub fn from_id(id: u32) -> Result<Self, UnsupportedType> {
        if let Some(known) = Self::ALL.into_iter().find(|dtype| dtype.id() == id) {
            return Ok(known);
        }
        let removed = |name| UnsupportedType::Removed { id, name };
        let not_read = |name| UnsupportedType::NotRead { id, name };
        Err(match id {
            4 => removed("Q4_2"),
            5 => removed("Q4_3"),
            31 => removed("Q4_0_4_4"),
            32 => removed("Q4_0_4_8"),
            33 => removed("Q4_0_8_8"),
            36 => removed("IQ4_NL_4_4"),
            37 => removed("IQ4_NL_4_8"),
            38 => removed("IQ4_NL_8_8"),
            9 => not_read("Q8_1"),
            10 => not_read("Q2_K"),
            11 => not_read("Q3_K"),
            15 => not_read("Q8_K"),
            16 => not_read("IQ2_XXS"),
            17 => not_read("IQ2_XS"),
            18 => not_read("IQ3_XXS"),
            19 => not_read("IQ1_S"),
            20 => not_read("IQ4_NL"),
            21 => not_read("IQ3_S"),
            22 => not_read("IQ2_S"),
            23 => not_read("IQ4_XS"),
            24 => not_read("I8"),
            25 => not_read("I16"),
            26 => not_read("I32"),
            27 => not_read("I64"),
            28 => not_read("F64"),
            29 => not_read("IQ1_M"),
            34 => not_read("TQ1_0"),
            35 => not_read("TQ2_0"),
            39 => not_read("MXFP4"),
            40 => not_read("NVFP4"),
            41 => not_read("Q1_0"),
            _ => UnsupportedType::Unknown { id },
        })
    }

    /// ggml's name, in capitals as in the names of model files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Elements in a block. The rows of a tensor are whole numbers of blocks.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes in a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of `elements`; `None` if they are not whole blocks, or on overflow.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
