//! A folder that transformers loads as a model which bitsandbytes has quantized.
//!
//! Source: bitsandbytes `nn/modules.py` and `functional.py` (`QuantState.as_dict`), transformers
//! `quantizers/quantizer_bnb_8bit.py`; section 5.3 of `docs/format.md` has the layout.

use aibit_format::{OutputFolder, Scheme, entry_names};
use aibit_graph::ops::Linear;
use aibit_graph::{Graph, Op, Role};
use aibit_quant::{FOUR_BIT_BLOCK, FourBit, NESTED_BLOCK};
use safetensors::Dtype;
use serde_json::json;

use crate::export::{Tensor, encode, write_model};
use crate::parameter::{Model, Stored, f32_bytes};
use crate::portable;
use crate::{ExportError, ExportOptions, ExportReport, Target};

pub(crate) fn write(
    model: &Model<'_>,
    folder: &OutputFolder,
    options: &ExportOptions,
    report: &mut ExportReport,
) -> Result<(), ExportError> {
    let parameters = model.parameters()?;
    let linears = parameters.iter().filter(|(parameter, _)| parameter.role == Role::Linear);
    let layers: Vec<_> = linears.map(|(_, stored)| stored).collect();
    // All layers of a model are quantized alike there.
    let bits = match layers.iter().find(|stored| stored.four_bit().is_some()).map(|stored| stored.scheme()) {
        Some(first) if layers.iter().all(|stored| stored.scheme() == first) => Bits::Four(first),
        Some(_) if !options.requantize => {
            let problem =
                "its layers have different schemes, of which bitsandbytes knows one for a model; pack it \
                           with one scheme, or give --requantize to make all of them int8"
                    .into();
            return Err(ExportError::Model { target: Target::Bnb, problem });
        }
        _ => Bits::Eight,
    };
    let mut tensors = Vec::new();
    for (parameter, stored) in &parameters {
        match (parameter.role, bits) {
            (Role::Linear, Bits::Four(_)) => {
                report.kept += 1;
                tensors.extend(four_bits(stored));
            }
            (Role::Linear, Bits::Eight) => tensors.extend(eight_bits(stored, options, report)?),
            _ => {
                report.dequantized += usize::from(stored.scheme().is_quantized());
                tensors.push(float(stored)?);
            }
        }
    }
    let mut config = portable::config(model, None)?;
    config.insert("quantization_config".into(), quantization_config(bits, outlier_threshold(model)?));
    write_model(folder, &tensors, &config, report)
}

#[derive(Clone, Copy)]
enum Bits {
    Eight,
    Four(Scheme),
}

/// What bitsandbytes leaves alone, in the type that it came in; what the archive has quantized as F32, which holds it.
fn float(stored: &Stored<'_>) -> Result<Tensor, ExportError> {
    let dtype = match stored.record.source_dtype.as_str() {
        _ if stored.scheme().is_quantized() => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::BF16,
        _ => Dtype::F32,
    };
    let values = stored.values();
    // A value that has been rounded on the way in, or never was of that type.
    let (dtype, data) = match encode(&values, dtype) {
        Some(data) => (dtype, data),
        None => (Dtype::F32, f32_bytes(&values)),
    };
    Ok(Tensor { name: stored.name.to_owned(), dtype, shape: stored.shape.clone(), data })
}

fn eight_bits(
    stored: &Stored<'_>,
    options: &ExportOptions,
    report: &mut ExportReport,
) -> Result<[Tensor; 3], ExportError> {
    let shape = stored.shape.clone();
    let (codes, absmax) = if stored.scheme() == Scheme::Int8 {
        report.kept += 1;
        (stored.data.to_vec(), stored.parts[0].to_vec())
    } else if options.requantize {
        report.requantized += 1;
        stored.requantized()?
    } else {
        return Err(ExportError::Parameter {
            target: Target::Bnb,
            name: stored.name.to_owned(),
            scheme: stored.scheme(),
            problem: "its layers are int8, or all nf4 or fp4; pack with `-q bnb-int8`, or give --requantize"
                .into(),
        });
    };
    let module = stored.name.strip_suffix(".weight").unwrap_or(stored.name);
    let rows = shape[0];
    let tensor = |name: String, dtype, shape, data| Tensor { name, dtype, shape, data };
    Ok([
        tensor(stored.name.to_owned(), Dtype::I8, shape, codes),
        tensor(format!("{module}.SCB"), Dtype::F32, vec![rows], absmax),
        // Codes lie row by row.
        tensor(format!("{module}.weight_format"), Dtype::U8, Vec::new(), vec![0]),
    ])
}

fn four_bits(stored: &Stored<'_>) -> Vec<Tensor> {
    let kind = stored.four_bit().expect("a scheme of four bits");
    let name = stored.name;
    let tensor =
        |suffix: &str, dtype, shape, data| Tensor { name: format!("{name}{suffix}"), dtype, shape, data };
    let blocks = 2 * stored.data.len() / FOUR_BIT_BLOCK;
    let quant_type = match kind {
        FourBit::Nf4 => "nf4",
        FourBit::Fp4 => "fp4",
    };
    let dtype = match stored.record.source_dtype.as_str() {
        "F16" => "float16",
        "BF16" => "bfloat16",
        _ => "float32",
    };
    let [rows, columns] = stored.matrix_shape();
    // As Python writes it.
    let mut state = format!(
        "{{\"quant_type\": \"{quant_type}\", \"blocksize\": {FOUR_BIT_BLOCK}, \"dtype\": \"{dtype}\", \"shape\": [{rows}, {columns}]"
    );
    let mut tensors = vec![
        tensor("", Dtype::U8, vec![stored.data.len(), 1], stored.data.to_vec()),
        tensor(".quant_map", Dtype::F32, vec![16], f32_bytes(kind.table())),
    ];
    match stored.nested() {
        None => tensors.push(tensor(".absmax", Dtype::F32, vec![blocks], stored.parts[0].to_vec())),
        Some(nested) => {
            let offset = python_float(f64::from(nested.offset));
            state += &format!(
                ", \"nested_blocksize\": {NESTED_BLOCK}, \"nested_dtype\": \"float32\", \"nested_offset\": {offset}"
            );
            let length = vec![nested.absmax.len()];
            tensors.push(tensor(".nested_absmax", Dtype::F32, length, f32_bytes(&nested.absmax)));
            tensors.push(tensor(".nested_quant_map", Dtype::F32, vec![256], f32_bytes(&nested.map)));
            tensors.push(tensor(".absmax", Dtype::U8, vec![blocks], nested.codes));
        }
    }
    state.push('}');
    let suffix = format!(".quant_state.bitsandbytes__{quant_type}");
    tensors.push(tensor(&suffix, Dtype::U8, vec![state.len()], state.into_bytes()));
    tensors
}

/// The shortest digits that give the number back, as Python's `repr` writes them.
fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("a number in scientific notation");
    let exponent: i32 = exponent.parse().expect("an exponent");
    if value != 0.0 && !(-4..16).contains(&exponent) {
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

/// LLM.int8()'s outlier threshold: the one that the graph has for all layers with INT8 weights, 0 if these have none, and
/// otherwise the default of bitsandbytes. Archives made before the threshold was LLM.int8()'s alone have several.
fn outlier_threshold(model: &Model<'_>) -> Result<f32, ExportError> {
    const DEFAULT: f32 = 6.0;
    let graph = Graph::from_json(model.archive.entry(entry_names::GRAPH)?.data)?;
    let tensors = &model.archive.manifest().tensors;
    let is_int8 = |weight: &String| tensors.get(weight).is_some_and(|record| record.scheme == Scheme::Int8);
    let mut thresholds = graph.nodes.iter().filter_map(|op| match op {
        Op::Linear(Linear { weight, outlier_threshold, .. }) if is_int8(weight) => {
            Some(outlier_threshold.unwrap_or(0.0))
        }
        _ => None,
    });
    let first = thresholds.next().unwrap_or(DEFAULT);
    Ok(if thresholds.all(|threshold| threshold == first) { first } else { DEFAULT })
}

/// What transformers writes.
fn quantization_config(bits: Bits, outlier_threshold: f32) -> serde_json::Value {
    let (quant_type, is_nested) = match bits {
        Bits::Four(Scheme::Nf4) => ("nf4", false),
        Bits::Four(Scheme::Nf4Dq) => ("nf4", true),
        Bits::Four(Scheme::Fp4Dq) => ("fp4", true),
        _ => ("fp4", false),
    };
    let is_four = matches!(bits, Bits::Four(_));
    json!({
        "_load_in_4bit": is_four,
        "_load_in_8bit": !is_four,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": is_nested,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": outlier_threshold,
        "load_in_4bit": is_four,
        "load_in_8bit": !is_four,
        "quant_method": "bitsandbytes",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_does() {
        for (value, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (f64::from(0.052_8_f32), "0.052799999713897705"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e16, "1e+16"),
            (123456.75, "123456.75"),
        ] {
            assert_eq!(python_float(value), text);
        }
    }
}
