//! Checkpoints quantized by bitsandbytes: the tensors that belong to a weight, and its quantization state.
//!
//! Source: bitsandbytes `nn/modules.py` (`Linear8bitLt`, `Linear4bit`) and `functional.py` (`QuantState.from_dict`);
//! section 5.3 of `docs/format.md` has the layout.

use aibit_quant::{FOUR_BIT_BLOCK, FourBit, NESTED_BLOCK};
use serde::Deserialize;

use crate::PackError;
use crate::checkpoint::{Checkpoint, CheckpointTensor, SourceDtype, TensorDtype};
use crate::encoding::{Encoding, Nested, nested_lengths};

/// The weight to which a tensor of such a checkpoint belongs.
pub(crate) fn weight_of(name: &str) -> Option<String> {
    for suffix in [".SCB", ".weight_format"] {
        if let Some(module) = name.strip_suffix(suffix) {
            return Some(format!("{module}.weight"));
        }
    }
    let (module, companion) = name.rsplit_once(".weight.")?;
    let known = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"].contains(&companion)
        || companion.starts_with("quant_state.");
    known.then(|| format!("{module}.weight"))
}

fn wrong(name: &str, problem: impl Into<String>) -> PackError {
    PackError::Tensor { name: name.to_owned(), problem: problem.into() }
}

/// The encoding of an I8 weight.
pub(crate) fn int8<'a>(
    checkpoint: &'a Checkpoint,
    name: &str,
    tensor: &CheckpointTensor,
    shape: &[usize],
) -> Result<Encoding<'a>, PackError> {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let find = |suffix: &str| {
        let name = format!("{module}.{suffix}");
        checkpoint.tensors().get(&name).map(|tensor| (name, tensor))
    };
    let &[rows, _] = shape else {
        return Err(wrong(name, "has element type I8, which only a matrix can have"));
    };
    if tensor.shape != shape {
        return Err(wrong(name, format!("has shape {:?}, config.json requires {shape:?}", tensor.shape)));
    }
    let Some((scales_name, absmax)) = find("SCB") else {
        return Err(wrong(name, format!("has element type I8, but its scales `{module}.SCB` are missing")));
    };
    if absmax.dtype != TensorDtype::Float(SourceDtype::F32) || absmax.shape != [rows] {
        let problem = format!(
            "must be F32 of shape [{rows}], found {} of shape {:?}",
            absmax.dtype.name(),
            absmax.shape
        );
        return Err(wrong(&scales_name, problem));
    }
    if let Some((name, format)) = find("weight_format") {
        // Written by every version that supports other layouts, which are all GPU-specific.
        let found = checkpoint.bytes(format)?;
        if *found != [0] {
            let problem = format!(
                "is {}, an order of codes for certain GPUs; only 0, by rows, can be read: save the model with a newer \
                 bitsandbytes",
                found.first().map_or("empty".to_owned(), |format| format!("weight_format {format}"))
            );
            return Err(wrong(&name, problem));
        }
    }
    let floats = checkpoint.floats(absmax)?;
    if let Some(row) = floats.iter().position(|scale| !(scale.is_finite() && *scale >= 0.0)) {
        return Err(wrong(
            &scales_name,
            format!("holds {} for row {row}; a scale is finite and not negative", floats[row]),
        ));
    }
    Ok(Encoding::Int8 { absmax })
}

/// The JSON that bitsandbytes stores for a four-bit weight.
#[derive(Debug, Deserialize)]
pub(crate) struct QuantState {
    quant_type: String,
    blocksize: u64,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<u64>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

const STATES: [&str; 2] = ["bitsandbytes__nf4", "bitsandbytes__fp4"];

/// The state of weight `name`, if it has four bits.
pub(crate) fn quant_state(checkpoint: &Checkpoint, name: &str) -> Result<Option<QuantState>, PackError> {
    for state in STATES {
        let key = format!("{name}.quant_state.{state}");
        let Some(tensor) = checkpoint.tensors().get(&key) else { continue };
        let bytes = checkpoint.bytes(tensor)?;
        let state: QuantState = serde_json::from_slice(&bytes)
            .map_err(|e| wrong(&key, format!("is not the JSON of a quantization state: {e}")))?;
        return Ok(Some(state));
    }
    Ok(None)
}

impl QuantState {
    /// The encoding of the weight with this state.
    pub(crate) fn encoding<'a>(
        &self,
        checkpoint: &'a Checkpoint,
        name: &str,
        tensor: &CheckpointTensor,
        shape: &[usize],
    ) -> Result<Encoding<'a>, PackError> {
        let wrong = |problem: String| wrong(name, problem);
        let kind = match self.quant_type.as_str() {
            "nf4" => FourBit::Nf4,
            "fp4" => FourBit::Fp4,
            other => return Err(wrong(format!("has the quant_type `{other:.40}`; nf4 and fp4 can be read"))),
        };
        if self.blocksize != FOUR_BIT_BLOCK as u64 {
            let problem = format!("has blocks of {}; blocks of {FOUR_BIT_BLOCK} can be read", self.blocksize);
            return Err(wrong(problem));
        }
        let dtype = match self.dtype.as_str() {
            "float32" => SourceDtype::F32,
            "float16" => SourceDtype::F16,
            "bfloat16" => SourceDtype::Bf16,
            other => {
                return Err(wrong(format!("stands for values of type `{other:.40}`; floats can be read")));
            }
        };
        if self.shape != shape {
            return Err(wrong(format!("is of shape {:?}, config.json requires {shape:?}", self.shape)));
        }
        let elements: usize = shape.iter().product();
        // The same bytes in every storage type.
        let bytes = checkpoint.bytes(tensor)?.len();
        if bytes != elements.div_ceil(2) {
            let problem =
                format!("has {bytes} bytes of codes, {elements} elements take {}", elements.div_ceil(2));
            return Err(wrong(problem));
        }
        let part = |suffix: &str, length: usize, is_code: bool| {
            let name = format!("{name}.{suffix}");
            let Some(tensor) = checkpoint.tensors().get(&name) else {
                return Err(wrong(format!("is of four bits, but `{name}` is missing")));
            };
            let type_fits = match tensor.dtype {
                TensorDtype::U8 => is_code,
                TensorDtype::Float(_) => !is_code,
                _ => false,
            };
            if !type_fits || tensor.shape != [length] {
                let expected = if is_code { "U8" } else { "F32, F16 or BF16" };
                let (dtype, shape) = (tensor.dtype.name(), &tensor.shape);
                let problem =
                    format!("must be {expected} of shape [{length}], found {dtype} of shape {shape:?}");
                return Err(PackError::Tensor { name, problem });
            }
            if !is_code {
                let values = checkpoint.floats(tensor)?;
                if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                    let problem = format!("holds {} at {index}", values[index]);
                    return Err(PackError::Tensor { name, problem });
                }
            }
            Ok(tensor)
        };
        let map = checkpoint.floats(part("quant_map", 16, false)?)?;
        // Compared as numbers, so that the sign of a zero does not matter.
        if map != kind.table() {
            let problem = format!("has a quant_map of its own; only that of {} can be read", self.quant_type);
            return Err(wrong(problem));
        }
        let (blocks, nested_blocks) = nested_lengths(elements);
        let nested = match self.nested_offset {
            None => None,
            Some(offset) => {
                if self.nested_blocksize != Some(NESTED_BLOCK as u64)
                    || self.nested_dtype.as_deref() != Some("float32")
                {
                    let problem = format!(
                        "has its absmax in blocks of {:?} as {:?}; blocks of {NESTED_BLOCK} as float32 can be read",
                        self.nested_blocksize, self.nested_dtype
                    );
                    return Err(wrong(problem));
                }
                let offset = offset as f32;
                if !offset.is_finite() {
                    return Err(wrong(format!("has the nested_offset {offset}")));
                }
                let absmax = part("nested_absmax", nested_blocks, false)?;
                Some(Nested { absmax, map: part("nested_quant_map", 256, false)?, offset })
            }
        };
        let absmax = part("absmax", blocks, nested.is_some())?;
        Ok(Encoding::FourBit { kind, absmax, nested, dtype })
    }
}

/// The relevant part of `quantization_config`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct QuantizationConfig {
    quant_method: Option<String>,
    /// Outlier threshold of activations; 0 for none.
    llm_int8_threshold: Option<f32>,
}

impl QuantizationConfig {
    /// Whether bitsandbytes made the checkpoint.
    pub(crate) fn is_bitsandbytes(&self) -> bool {
        // Early versions did not write the method.
        self.quant_method.as_deref().is_none_or(|method| method == "bitsandbytes")
    }

    /// The outlier threshold; 0 for none.
    pub(crate) fn threshold(&self) -> f32 {
        self.llm_int8_threshold.filter(|threshold| *threshold >= 0.0).unwrap_or(6.0)
    }
}
