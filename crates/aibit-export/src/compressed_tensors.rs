//! A folder for vLLM, and for transformers with `compressed-tensors`.
//!
//! Source: compressed-tensors 0.20, `quantization/quant_config.py`, `compressors/pack_quantized/base.py` and
//! `compressors/naive_quantized/base.py`.

use std::path::Path;

use aibit_format::{Archive, MappedFile, OutputFolder, Scheme};
use aibit_graph::Role;
use aibit_quant::GROUP;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::diff::{Count, Diff, TensorDiff};
use crate::export::{Tensor, encode, write_model};
use crate::parameter::{Model, Stored, f32_bytes, floats};
use crate::portable;
use crate::{ActivationDtype, ExportError, ExportOptions, ExportReport, Target};

/// How the layers of a model are quantized there, all alike.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Layers {
    bits: usize,
    /// Columns that share a scale; a whole row where absent.
    group: Option<usize>,
}

impl Layers {
    /// The form that holds a scheme's codes.
    fn of(scheme: Scheme) -> Option<Self> {
        match scheme {
            Scheme::Int8 => Some(Self { bits: 8, group: None }),
            Scheme::Int8G32 => Some(Self { bits: 8, group: Some(GROUP) }),
            Scheme::Int4G32 => Some(Self { bits: 4, group: Some(GROUP) }),
            _ => None,
        }
    }
}

pub(crate) fn write(
    model: &Model<'_>,
    folder: &OutputFolder,
    options: &ExportOptions,
    report: &mut ExportReport,
) -> Result<(), ExportError> {
    let target = Target::CompressedTensors;
    let refused = |problem: String| ExportError::Model { target, problem };
    if model.family.has_conv1d_layers() {
        // compressed-tensors `compressors/base.py`; vLLM `models/gpt2.py` transposes what it takes for Conv1D weights.
        return Err(refused(
            "it knows layers of the kind Linear, and this model's are of the kind Conv1D: transformers does not load \
             such a model, and vLLM would turn the codes around; use `--to hf`, which both load"
                .into(),
        ));
    }
    let parameters = model.parameters()?;
    let linears: Vec<_> = parameters.iter().filter(|(p, _)| p.role == Role::Linear).map(|(_, s)| s).collect();
    let quantized = |stored: &&Stored<'_>| stored.scheme().is_quantized();
    let layers = match linears.iter().copied().find(quantized).map(|stored| stored.scheme()) {
        None => return Err(refused("it has no quantized layer; use `--to hf`".into())),
        Some(_) if options.requantize => Layers { bits: 8, group: None },
        Some(scheme) => Layers::of(scheme).ok_or_else(|| {
            refused(format!("{scheme} has a table of values, which it does not know; give --requantize to make all layers int8"))
        })?,
    };
    let int8_activations = options.activations == ActivationDtype::Int8;
    if int8_activations && layers != (Layers { bits: 8, group: None }) {
        let problem =
            "int8 activations need layers in int8 by rows; pack with `-q int8`, or give --requantize";
        return Err(refused(problem.into()));
    }
    let (dtype, dtype_name) = options.dtype.unwrap_or_default().tensors();
    let mut tensors = Vec::new();
    // The head and what the archive keeps as floats.
    let mut ignore = vec!["lm_head".to_owned()];
    for (parameter, stored) in &parameters {
        let module = stored.name.strip_suffix(".weight").unwrap_or(stored.name);
        if parameter.role != Role::Linear || !stored.scheme().is_quantized() {
            if parameter.role == Role::Linear {
                ignore.push(module.to_owned());
            }
            report.dequantized += usize::from(stored.scheme().is_quantized());
            tensors.push(float(stored, dtype)?);
            continue;
        }
        let requantized;
        let (codes, scales) = match Layers::of(stored.scheme()) {
            Some(own) if own == layers => {
                report.kept += 1;
                (stored.data, stored.parts[0])
            }
            _ if options.requantize => {
                report.requantized += 1;
                requantized = stored.requantized()?;
                (requantized.0.as_slice(), requantized.1.as_slice())
            }
            _ => {
                let problem = "other layers have another scheme, and all must have one; give --requantize to make them \
                               int8";
                let (name, scheme) = (stored.name.to_owned(), stored.scheme());
                return Err(ExportError::Parameter { target, name, scheme, problem: problem.into() });
            }
        };
        tensors.extend(layer(module, stored.matrix_shape(), layers, codes, scales, int8_activations));
    }
    let mut config = portable::config(model, Some(dtype_name))?;
    config.insert("quantization_config".into(), quantization_config(layers, int8_activations, &ignore));
    write_model(folder, &tensors, &config, report)
}

fn float(stored: &Stored<'_>, dtype: Dtype) -> Result<Tensor, ExportError> {
    let data = encode(&stored.values(), dtype).ok_or_else(|| ExportError::Parameter {
        target: Target::CompressedTensors,
        name: stored.name.to_owned(),
        scheme: stored.scheme(),
        problem: format!("it has values that {dtype} cannot hold; use `--dtype f32`"),
    })?;
    Ok(Tensor { name: stored.name.to_owned(), dtype, shape: stored.shape.clone(), data })
}

/// The tensors of one layer.
fn layer(
    module: &str,
    [rows, columns]: [usize; 2],
    layers: Layers,
    codes: &[u8],
    scales: &[u8],
    is_plain: bool,
) -> Vec<Tensor> {
    let tensor = |suffix: &str, dtype, shape: &[usize], data| Tensor {
        name: format!("{module}.{suffix}"),
        dtype,
        shape: shape.to_vec(),
        data,
    };
    let scale = match layers.group {
        Some(group) => tensor("weight_scale", Dtype::F16, &[rows, columns / group], scales.to_vec()),
        None => {
            let scales: Vec<f32> = floats(scales).iter().map(|absmax| absmax / 127.0).collect();
            tensor("weight_scale", Dtype::F32, &[rows, 1], f32_bytes(&scales))
        }
    };
    if is_plain {
        return vec![tensor("weight", Dtype::I8, &[rows, columns], codes.to_vec()), scale];
    }
    // Words of 32 bits, the first code in the lowest bits, each row from a word of its own on.
    let words = (columns * layers.bits).div_ceil(32);
    let mut packed = Vec::with_capacity(4 * rows * words);
    for row in codes.chunks_exact(codes.len() / rows) {
        if layers.bits == 8 {
            packed.extend(row.iter().map(|code| code ^ 0x80));
        } else {
            packed.extend(row.chunks_exact(GROUP / 2).flat_map(nibbles_in_order));
        }
        packed.resize(packed.len().next_multiple_of(4), 0);
    }
    let shape = [rows, columns].map(|n| n as i64).iter().flat_map(|n| n.to_le_bytes()).collect();
    vec![
        tensor("weight_packed", Dtype::I32, &[rows, words], packed),
        scale,
        tensor("weight_shape", Dtype::I64, &[2], shape),
    ]
}

/// A group's codes two by two, of which the archive has the first half in the low and the second in the high bits.
fn nibbles_in_order(group: &[u8]) -> Vec<u8> {
    let code = |i: usize| if i < GROUP / 2 { group[i] & 15 } else { group[i - GROUP / 2] >> 4 };
    (0..GROUP / 2).map(|i| code(2 * i) | code(2 * i + 1) << 4).collect()
}

fn quantization_config(layers: Layers, int8_activations: bool, ignore: &[String]) -> Value {
    let quantized = |bits: usize, strategy: &str, group: Option<usize>, dynamic: bool| {
        json!({
            "num_bits": bits,
            "type": "int",
            "symmetric": true,
            "strategy": strategy,
            "group_size": group,
            "dynamic": dynamic,
            "actorder": null,
            "block_structure": null,
            "observer": null,
            "observer_kwargs": {},
        })
    };
    let strategy = if layers.group.is_some() { "group" } else { "channel" };
    json!({
        "quant_method": "compressed-tensors",
        "format": if int8_activations { "int-quantized" } else { "pack-quantized" },
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": ignore,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": quantized(layers.bits, strategy, layers.group, false),
                "input_activations": int8_activations.then(|| quantized(8, "token", None, true)),
                "output_activations": null,
            },
        },
    })
}

/// Reads the quantized layers of such a folder and compares their codes and scales with the archive's.
///
/// # Errors
/// [`ExportError`] for a folder or an archive that cannot be read.
pub fn check_compressed_tensors(archive: &Archive, folder: &Path) -> Result<Diff, ExportError> {
    let path = folder.join("model.safetensors");
    let unreadable = |source| ExportError::Io { action: "read", path: path.clone(), source };
    let map = MappedFile::open(&path)?;
    let file = SafeTensors::deserialize(&map).map_err(|e| unreadable(std::io::Error::other(e)))?;
    let model = Model::open(archive)?;
    let mut found = Diff::default();
    for (parameter, stored) in model.parameters()? {
        let Some(layers) = Layers::of(stored.scheme()).filter(|_| parameter.role == Role::Linear) else {
            continue;
        };
        let module = stored.name.strip_suffix(".weight").unwrap_or(stored.name);
        let part = |suffix: &str| file.tensor(&format!("{module}.{suffix}")).ok();
        let (packed, plain) = (part("weight_packed"), part("weight"));
        let (Some(codes), Some(scales)) = (packed.as_ref().or(plain.as_ref()), part("weight_scale")) else {
            found.removed.push(stored.name.to_owned());
            continue;
        };
        let is_plain = packed.is_none();
        let expected = layer(module, stored.matrix_shape(), layers, stored.data, stored.parts[0], is_plain);
        let count = |found: &[u8], expected: &[u8], size: usize| {
            let changed = found.chunks(size).zip(expected.chunks(size)).filter(|(a, b)| a != b).count();
            Count {
                changed: changed + found.len().abs_diff(expected.len()) / size,
                of: expected.len() / size,
            }
        };
        let codes = count(codes.data(), &expected[0].data, 1);
        let scales = count(scales.data(), &expected[1].data, expected[1].dtype.bitsize() / 8);
        if codes.changed == 0 && scales.changed == 0 {
            found.equal += 1;
            continue;
        }
        found.changed.push(TensorDiff {
            name: stored.name.to_owned(),
            schemes: [stored.scheme(); 2],
            shapes: [stored.shape.clone(), stored.shape.clone()],
            codes: Some(codes),
            scales: Some(scales),
            max_error: None,
            relative_error: None,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pack_to_int32` of compressed-tensors: code `i` of a row, plus `2^(bits - 1)`, starts at bit `bits * i`.
    #[test]
    fn codes_are_packed_as_its_words() {
        // A group whose codes are 0, 1, ... 15, 0, 1, ... 15: both halves of the archive's bytes are equal.
        let group: Vec<u8> = (0..16).map(|code| code | code << 4).collect();
        let layers = Layers { bits: 4, group: Some(GROUP) };
        let tensors = layer("m", [1, 32], layers, &group, &[0, 60], false);
        let words: Vec<u32> =
            tensors[0].data.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words, [0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98]);
        assert_eq!((tensors[0].name.as_str(), tensors[0].shape.as_slice()), ("m.weight_packed", &[1, 4][..]));
        assert_eq!((tensors[1].shape.as_slice(), tensors[1].data.as_slice()), (&[1, 1][..], &[0, 60][..]));
        assert_eq!(tensors[2].data, [1, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0]);

        // Rows of five codes of eight bits begin with a word each; absmax 127 is a scale of 1.
        let codes = [-128_i8, -1, 0, 1, 127, 2, 3, 4, 5, 6].map(|code| code as u8);
        let absmax = f32_bytes(&[127.0, 254.0]);
        let tensors = layer("m", [2, 5], Layers { bits: 8, group: None }, &codes, &absmax, false);
        let words: Vec<u32> =
            tensors[0].data.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words, [0x8180_7f00, 0xff, 0x8584_8382, 0x86]);
        assert_eq!(tensors[1].data, f32_bytes(&[1.0, 2.0]));
    }
}
