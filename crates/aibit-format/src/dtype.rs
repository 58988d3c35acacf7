//! Element types and quantization schemes: closed sets, stored by name.

use serde::{Deserialize, Serialize};

/// Element type of a stored tensor, named as in safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Signed 8-bit integer.
    I8,
    /// Bytes: codes of eight bits, or two of four.
    U8,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::I8, Self::U8];

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I8 => "I8",
            Self::U8 => "U8",
        }
    }

    /// The type that a safetensors header calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a parameter is stored: one tensor under its own name, and for some schemes others beside it ([`Scheme::parts`]).
/// Each scheme's formula stands in `docs/format.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Elements as F32.
    F32,
    /// Elements as F16.
    F16,
    /// Elements as BF16.
    Bf16,
    /// INT8 row-wise absmax: I8 `[out, in]`.
    Int8,
    /// INT8 in groups of 32, the codes of GGUF's Q8_0: I8 `[out, in]`.
    #[serde(rename = "int8-g32")]
    Int8G32,
    /// INT4 in groups of 32, the codes of GGUF's Q4_0: U8 `[out, in / 2]`.
    #[serde(rename = "int4-g32")]
    Int4G32,
    /// NF4 in blocks of 64: U8 `[out, in / 2]`.
    Nf4,
    /// FP4 in blocks of 64: U8 `[out, in / 2]`.
    Fp4,
    /// [`Scheme::Nf4`] with absmax values in a byte each, "double quantization".
    Nf4Dq,
    /// [`Scheme::Fp4`] with absmax values in a byte each.
    Fp4Dq,
}

/// A tensor that a scheme stores beside a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Scheme {
    /// Every scheme of this format version.
    pub const ALL: [Self; 10] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Int8,
        Self::Int8G32,
        Self::Int4G32,
        Self::Nf4,
        Self::Fp4,
        Self::Nf4Dq,
        Self::Fp4Dq,
    ];

    /// Blocks of absmax values that share one of their own.
    const NESTED_BLOCK: usize = 256;

    /// The name in manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int8G32 => "int8-g32",
            Self::Int4G32 => "int4-g32",
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Nf4Dq => "nf4-dq",
            Self::Fp4Dq => "fp4-dq",
        }
    }

    /// Element type of the tensor that carries the parameter's name.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
            Self::Int8 | Self::Int8G32 => Dtype::I8,
            Self::Int4G32 | Self::Nf4 | Self::Fp4 | Self::Nf4Dq | Self::Fp4Dq => Dtype::U8,
        }
    }

    /// Whether elements are codes, which only a matrix can be.
    pub fn is_quantized(self) -> bool {
        matches!(self.dtype(), Dtype::I8 | Dtype::U8)
    }

    /// Codes in an element of that tensor.
    fn codes_per_element(self) -> usize {
        if self.dtype() == Dtype::U8 { 2 } else { 1 }
    }

    /// Columns that share a scale and of which a row must be a multiple; one where a scale serves a whole row.
    pub fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::Int8 => 1,
            Self::Int8G32 | Self::Int4G32 => 32,
            Self::Nf4 | Self::Fp4 | Self::Nf4Dq | Self::Fp4Dq => 64,
        }
    }

    /// Whether scales belong to the parameter as a whole, so that rows cannot be taken out of it.
    pub fn has_nested_scales(self) -> bool {
        matches!(self, Self::Nf4Dq | Self::Fp4Dq)
    }

    /// The shape of the tensor that carries the name of a parameter of `shape`.
    pub fn stored_shape(self, shape: &[usize]) -> Vec<usize> {
        let mut stored = shape.to_vec();
        if let Some(columns) = stored.last_mut() {
            *columns /= self.codes_per_element();
        }
        stored
    }

    /// The shape of the parameter whose name is carried by a tensor of shape `stored`.
    pub fn shape(self, stored: &[usize]) -> Vec<usize> {
        let mut shape = stored.to_vec();
        if let Some(columns) = shape.last_mut() {
            *columns = columns.saturating_mul(self.codes_per_element());
        }
        shape
    }

    /// The tensors beside parameter `name` of `shape`: scales, named as bitsandbytes names them where it has them. Empty
    /// for a shape that the scheme does not take.
    pub fn parts(self, name: &str, shape: &[usize]) -> Vec<Part> {
        let &[rows, columns] = shape else { return Vec::new() };
        let part = |suffix: &str, dtype, shape| Part { name: format!("{name}.{suffix}"), dtype, shape };
        let blocks = vec![rows, columns / self.block()];
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => Vec::new(),
            Self::Int8 => {
                let name = format!("{}.SCB", name.strip_suffix(".weight").unwrap_or(name));
                vec![Part { name, dtype: Dtype::F32, shape: vec![rows] }]
            }
            Self::Int8G32 | Self::Int4G32 => vec![part("scales", Dtype::F16, blocks)],
            Self::Nf4 | Self::Fp4 => vec![part("absmax", Dtype::F32, blocks)],
            Self::Nf4Dq | Self::Fp4Dq => {
                let nested = rows.saturating_mul(blocks[1]).div_ceil(Self::NESTED_BLOCK);
                vec![
                    part("absmax", Dtype::U8, blocks),
                    part("nested_absmax", Dtype::F32, vec![nested]),
                    part("nested_quant_map", Dtype::F32, vec![256]),
                    part("nested_offset", Dtype::F32, vec![1]),
                ]
            }
        }
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Scheme {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("unknown scheme `{name}`, known are {known}")
        })
    }
}
