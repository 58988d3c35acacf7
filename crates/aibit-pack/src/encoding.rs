//! How a checkpoint stores a parameter: plain elements, or codes that an earlier quantization left.

use std::borrow::Cow;
use std::ops::Range;

use aibit_format::Scheme;
use aibit_gguf::GgmlType;
use aibit_quant::{
    FOUR_BIT_BLOCK, FourBit, NESTED_BLOCK, NestedAbsmax, dequantize_four_bit, dequantize_int8,
};
use half::f16;
use ndarray::Array2;

use crate::PackError;
use crate::checkpoint::{Checkpoint, CheckpointTensor, SourceDtype, TensorDtype, read_rows};

/// How a parameter's elements are stored.
#[derive(Debug, Clone)]
pub(crate) enum Encoding<'a> {
    /// As they are.
    Float(SourceDtype),
    /// bitsandbytes' LLM.int8(): codes, and the absmax of each row.
    Int8 { absmax: &'a CheckpointTensor },
    /// bitsandbytes' NF4 and FP4: codes, and the absmax of each block of 64.
    FourBit {
        kind: FourBit,
        absmax: &'a CheckpointTensor,
        nested: Option<Nested<'a>>,
        /// What the values are dequantized to there.
        dtype: SourceDtype,
    },
    /// A block format of ggml.
    Ggml(GgmlType),
}

/// What turns the bytes of a doubly quantized absmax into numbers.
#[derive(Debug, Clone)]
pub(crate) struct Nested<'a> {
    pub(crate) absmax: &'a CheckpointTensor,
    pub(crate) map: &'a CheckpointTensor,
    pub(crate) offset: f32,
}

impl Encoding<'_> {
    /// The scheme that holds the codes as they are, for a matrix with rows of `columns`.
    pub(crate) fn scheme(&self, columns: usize) -> Option<Scheme> {
        let scheme = match self {
            Self::Float(SourceDtype::F32) => Scheme::F32,
            Self::Float(SourceDtype::F16) => Scheme::F16,
            Self::Float(SourceDtype::Bf16) => Scheme::Bf16,
            Self::Int8 { .. } => Scheme::Int8,
            Self::FourBit { kind: FourBit::Nf4, nested: None, .. } => Scheme::Nf4,
            Self::FourBit { kind: FourBit::Nf4, nested: Some(_), .. } => Scheme::Nf4Dq,
            Self::FourBit { kind: FourBit::Fp4, nested: None, .. } => Scheme::Fp4,
            Self::FourBit { kind: FourBit::Fp4, nested: Some(_), .. } => Scheme::Fp4Dq,
            Self::Ggml(GgmlType::Q8_0) => Scheme::Int8G32,
            Self::Ggml(GgmlType::Q4_0) => Scheme::Int4G32,
            Self::Ggml(_) => return None,
        };
        columns.is_multiple_of(scheme.block()).then_some(scheme)
    }

    pub(crate) fn is_quantized(&self) -> bool {
        !matches!(self, Self::Float(_))
    }

    /// The name in messages and manifests.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Float(dtype) => dtype.name(),
            Self::Int8 { .. } => "I8",
            // What the values are, since how they are stored is the scheme's business.
            Self::FourBit { dtype, .. } => dtype.name(),
            Self::Ggml(dtype) => dtype.name(),
        }
    }
}

/// A parameter's elements, read some rows at a time.
pub(crate) struct Elements<'a> {
    bytes: Cow<'a, [u8]>,
    shape: [usize; 2],
    decoder: Decoder,
}

enum Decoder {
    Float { dtype: SourceDtype, transposed: bool },
    Int8 { absmax: Vec<f32> },
    FourBit { kind: FourBit, absmax: Vec<f32> },
    FourBitNested { kind: FourBit, absmax: Box<NestedAbsmax> },
    Ggml(GgmlType),
}

/// Some rows of a parameter as a scheme stores them.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// Of the tensor that carries the parameter's name.
    pub(crate) data: Vec<u8>,
    /// Of the tensors beside it, in the order of [`Scheme::parts`].
    pub(crate) parts: Vec<Vec<u8>>,
}

impl<'a> Elements<'a> {
    /// `shape` is the parameter's as a matrix; with `transposed` plain elements are stored the other way round.
    pub(crate) fn open(
        checkpoint: &'a Checkpoint,
        tensor: &'a CheckpointTensor,
        encoding: &Encoding<'_>,
        shape: [usize; 2],
        transposed: bool,
    ) -> Result<Self, PackError> {
        let bytes = checkpoint.bytes(tensor)?;
        let decoder = match *encoding {
            Encoding::Float(dtype) => Decoder::Float { dtype, transposed },
            Encoding::Int8 { absmax } => Decoder::Int8 { absmax: checkpoint.floats(absmax)? },
            Encoding::FourBit { kind, absmax, nested: None, .. } => {
                Decoder::FourBit { kind, absmax: checkpoint.floats(absmax)? }
            }
            Encoding::FourBit {
                kind, absmax: codes, nested: Some(Nested { absmax, map, offset }), ..
            } => {
                let map = checkpoint.floats(map)?;
                let absmax = Box::new(NestedAbsmax {
                    codes: checkpoint.bytes(codes)?.into_owned(),
                    absmax: checkpoint.floats(absmax)?,
                    map: map.try_into().expect("256 values, as was checked with the other shapes"),
                    offset,
                });
                Decoder::FourBitNested { kind, absmax }
            }
            Encoding::Ggml(dtype) => Decoder::Ggml(dtype),
        };
        Ok(Self { bytes, shape, decoder })
    }

    /// Elements that no checkpoint holds, as a vector.
    pub(crate) fn constant(values: &[f32]) -> Self {
        let decoder = Decoder::Float { dtype: SourceDtype::F32, transposed: false };
        Self { bytes: le_bytes(values).into(), shape: [1, values.len()], decoder }
    }

    /// The values of some rows, each exactly what the format defines.
    pub(crate) fn values(&self, rows: Range<usize>) -> Array2<f32> {
        let columns = self.shape[1];
        let elements = rows.start * columns..rows.end * columns;
        let four_bits = |kind, absmax: &dyn Fn(usize) -> f32| {
            let code = |i: usize| self.bytes[i / 2] >> (4 * (1 - i % 2));
            elements.clone().map(|i| dequantize_four_bit(kind, code(i), absmax(i / FOUR_BIT_BLOCK))).collect()
        };
        let values = match &self.decoder {
            Decoder::Float { dtype, transposed } => {
                return read_rows(&self.bytes, *dtype, self.shape, *transposed, rows);
            }
            Decoder::Int8 { absmax } => {
                let code = |i: usize| dequantize_int8(self.bytes[i] as i8, absmax[i / columns]);
                elements.map(code).collect()
            }
            Decoder::FourBit { kind, absmax } => four_bits(*kind, &|block| absmax[block]),
            Decoder::FourBitNested { kind, absmax } => four_bits(*kind, &|block| absmax.value(block)),
            Decoder::Ggml(dtype) => {
                let mut values = vec![0.0; elements.len()];
                aibit_gguf::dequantize(*dtype, self.ggml_blocks(*dtype, elements), &mut values);
                values
            }
        };
        Array2::from_shape_vec((rows.len(), columns), values).expect("whole rows")
    }

    /// Some rows as [`Encoding::scheme`] stores them: the same codes and scales, regrouped at most.
    pub(crate) fn codes(&self, rows: Range<usize>) -> Block {
        let columns = self.shape[1];
        let elements = rows.start * columns..rows.end * columns;
        let blocks = elements.start / FOUR_BIT_BLOCK..elements.end / FOUR_BIT_BLOCK;
        let half = elements.start / 2..elements.end / 2;
        match &self.decoder {
            Decoder::Float { .. } => unreachable!("plain elements have no codes"),
            Decoder::Int8 { absmax } => {
                Block { data: self.bytes[elements].to_vec(), parts: vec![le_bytes(&absmax[rows])] }
            }
            Decoder::FourBit { absmax, .. } => {
                Block { data: self.bytes[half].to_vec(), parts: vec![le_bytes(&absmax[blocks])] }
            }
            Decoder::FourBitNested { absmax, .. } => {
                let mut parts = vec![absmax.codes[blocks].to_vec()];
                if rows.end == self.shape[0] {
                    parts.extend(nested_tables(absmax));
                }
                Block { data: self.bytes[half].to_vec(), parts }
            }
            Decoder::Ggml(dtype) => {
                let blocks = self.ggml_blocks(*dtype, elements.clone());
                let mut scales = vec![f16::ZERO; elements.len() / dtype.block_len()];
                let data = if *dtype == GgmlType::Q8_0 {
                    let mut codes = vec![0; elements.len()];
                    aibit_gguf::split_q8_0(blocks, &mut codes, &mut scales);
                    codes.into_iter().map(|code| code as u8).collect()
                } else {
                    let mut codes = vec![0; elements.len() / 2];
                    aibit_gguf::split_q4_0(blocks, &mut codes, &mut scales);
                    codes
                };
                Block { data, parts: vec![le_bytes_of_halves(&scales)] }
            }
        }
    }

    fn ggml_blocks(&self, dtype: GgmlType, elements: Range<usize>) -> &[u8] {
        let at = |element: usize| element / dtype.block_len() * dtype.block_bytes();
        &self.bytes[at(elements.start)..at(elements.end)]
    }
}

/// What the scheme stores of a doubly quantized absmax beside its codes.
pub(crate) fn nested_tables(nested: &NestedAbsmax) -> [Vec<u8>; 3] {
    [le_bytes(&nested.absmax), le_bytes(&nested.map), le_bytes(&[nested.offset])]
}

pub(crate) fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>().into_flattened()
}

pub(crate) fn le_bytes_of_halves(values: &[f16]) -> Vec<u8> {
    values.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>().into_flattened()
}

/// Finds out how the tensor `name` of a checkpoint is stored, by what lies beside it.
///
/// `shape` is the parameter's, `[out, in]` for a matrix.
pub(crate) fn encoding_of<'a>(
    checkpoint: &'a Checkpoint,
    name: &str,
    tensor: &'a CheckpointTensor,
    shape: &[usize],
) -> Result<Encoding<'a>, PackError> {
    if let Some(state) = crate::bnb::quant_state(checkpoint, name)? {
        return state.encoding(checkpoint, name, tensor, shape);
    }
    match &tensor.dtype {
        TensorDtype::Float(dtype) => Ok(Encoding::Float(*dtype)),
        TensorDtype::Ggml(dtype) => Ok(Encoding::Ggml(*dtype)),
        TensorDtype::I8 => crate::bnb::int8(checkpoint, name, tensor, shape),
        dtype => Err(PackError::Tensor {
            name: name.to_owned(),
            problem: format!("has element type {}; F32, F16 and BF16 can be packed", dtype.name()),
        }),
    }
}

/// The number of absmax values, and of theirs, that a doubly quantized matrix has.
pub(crate) fn nested_lengths(elements: usize) -> (usize, usize) {
    let blocks = elements.div_ceil(FOUR_BIT_BLOCK);
    (blocks, blocks.div_ceil(NESTED_BLOCK))
}
