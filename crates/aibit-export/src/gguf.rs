//! A GGUF file for llama.cpp.
//!
//! Source: llama.cpp, `gguf-py` and `conversion/gpt2.py`; <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::io::Write;

use aibit_chat::ChatTemplate;
use aibit_format::{Scheme, entry_names};
use aibit_gguf::{
    GgmlType, GgufLayout, Metadata, SpecialIds, Value, interleave_rows, is_end_of_text, join_q4_0, join_q8_0,
    tokenizer_metadata,
};
use aibit_graph::Role;
use aibit_quant::{GROUP, quantize_int8_groups};
use aibit_runtime::PackageDefaults;
use aibit_tokenizer::Tokenizer;
use half::f16;

use crate::parameter::{Model, Stored, f32_bytes, floats};
use crate::portable;
use crate::{ExportError, ExportOptions, ExportReport, Target};

pub(crate) fn write(
    model: &Model<'_>,
    file: &mut impl Write,
    options: &ExportOptions,
    report: &mut ExportReport,
) -> Result<(), ExportError> {
    let refused = |problem: String| ExportError::Model { target: Target::Gguf, problem };
    let parameters = model.parameters()?;
    let header = model.family.gguf_header(model.config).map_err(refused)?;
    let mut metadata = Metadata::default();
    for (key, value) in header.metadata {
        metadata.set(key, value);
    }
    let architecture = metadata.string("general.architecture")?.unwrap_or_default().to_owned();
    let mut tensors = Vec::new();
    let mut head_rows = Vec::new();
    for (parameter, stored) in &parameters {
        let name = model.family.gguf_names().to_gguf(stored.name);
        let name = name.ok_or_else(|| refused(format!("it has no name for `{}`", stored.name)))?;
        head_rows.push(model.family.gguf_interleaved_rows(&metadata, &architecture, &name)?);
        tensors.push((name, dtype(parameter.role, stored, options)?, stored.shape.clone()));
    }
    for (name, values) in &header.constants {
        tensors.push(((*name).to_owned(), GgmlType::F32, vec![values.len()]));
    }
    metadata.set("general.type", Value::String("model".into()));
    metadata.set("general.quantization_version", Value::U32(2));
    metadata.set("general.file_type", Value::U32(file_type(&tensors)));
    let tokenizer = model.archive.entry(entry_names::TOKENIZER)?.data;
    let vocabulary = model.description.graph.vocabulary;
    for (key, value) in tokenizer_metadata(tokenizer, vocabulary, &specials(model, tokenizer)?)? {
        metadata.set(key, value);
    }
    let layout = GgufLayout::new(&metadata, &tensors)?;
    let io = |source| ExportError::Io { action: "write", path: report.output.clone(), source };
    file.write_all(layout.header()).map_err(io)?;
    let mut at = layout.header().len();
    let mut write = |start: usize, bytes: &[u8]| {
        file.write_all(&vec![0; start - at]).map_err(io)?;
        at = start + bytes.len();
        file.write_all(bytes).map_err(io)
    };
    let (mut kept, mut requantized) = (0, 0);
    let (of_parameters, of_constants) = layout.tensors().split_at(parameters.len());
    for (((_, stored), head_rows), info) in parameters.iter().zip(head_rows).zip(of_parameters) {
        let mut bytes = blocks(stored, info.dtype)?;
        if let Some(head_rows) = head_rows {
            bytes = interleave_rows(&bytes, stored.shape[0], head_rows);
        }
        match stored.scheme() {
            Scheme::Int8 | Scheme::Int8G32 | Scheme::Int4G32 => kept += 1,
            scheme => requantized += usize::from(scheme.is_quantized()),
        }
        write(info.range.start, &bytes)?;
    }
    for ((_, values), info) in header.constants.iter().zip(of_constants) {
        write(info.range.start, &f32_bytes(values))?;
    }
    write(layout.file_bytes(), &[])?;
    (report.kept, report.requantized) = (kept, requantized);
    Ok(())
}

/// The type that holds a parameter.
fn dtype(role: Role, stored: &Stored<'_>, options: &ExportOptions) -> Result<GgmlType, ExportError> {
    let refused = |problem: String| ExportError::Parameter {
        target: Target::Gguf,
        name: stored.name.to_owned(),
        scheme: stored.scheme(),
        problem,
    };
    let columns = stored.matrix_shape()[1];
    if stored.scheme().is_quantized() && !columns.is_multiple_of(GROUP) {
        return Err(refused(format!("rows of {columns} are not whole blocks of {GROUP}; use `--to hf`")));
    }
    Ok(match stored.scheme() {
        // Vectors are added and multiplied as F32 there.
        Scheme::F32 => GgmlType::F32,
        Scheme::F16 if role != Role::Vector => GgmlType::F16,
        Scheme::Bf16 if role != Role::Vector => GgmlType::Bf16,
        Scheme::F16 | Scheme::Bf16 => GgmlType::F32,
        Scheme::Int8 | Scheme::Int8G32 => GgmlType::Q8_0,
        Scheme::Int4G32 => GgmlType::Q4_0,
        Scheme::Nf4 | Scheme::Fp4 | Scheme::Nf4Dq | Scheme::Fp4Dq if options.requantize => GgmlType::Q8_0,
        Scheme::Nf4 | Scheme::Fp4 | Scheme::Nf4Dq | Scheme::Fp4Dq => {
            let problem =
                "it has no such table of values; give --requantize to make it Q8_0, or use `--to bnb`";
            return Err(refused(problem.into()));
        }
    })
}

/// A parameter's bytes as `dtype`.
fn blocks(stored: &Stored<'_>, dtype: GgmlType) -> Result<Vec<u8>, ExportError> {
    let codes = || stored.data.iter().map(|code| *code as i8).collect::<Vec<_>>();
    let halves =
        |bytes: &[u8]| -> Vec<f16> { bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect() };
    let quant = |source| ExportError::Quant { name: stored.name.to_owned(), source };
    Ok(match stored.scheme() {
        Scheme::Int8 => {
            let blocks_per_row = stored.matrix_shape()[1] / GROUP;
            // The row's scale again in each of its blocks.
            let scale = |absmax: &f32| std::iter::repeat_n(f16::from_f32(absmax / 127.0), blocks_per_row);
            let scales: Vec<f16> = floats(stored.parts[0]).iter().flat_map(scale).collect();
            if let Some(index) = scales.iter().position(|scale| !scale.is_finite()) {
                let problem = format!(
                    "the scale of row {} is beyond F16; use `--to hf --dtype f32`",
                    index / blocks_per_row.max(1)
                );
                let (name, scheme) = (stored.name.to_owned(), stored.scheme());
                return Err(ExportError::Parameter { target: Target::Gguf, name, scheme, problem });
            }
            join_q8_0(&codes(), &scales)
        }
        Scheme::Int8G32 => join_q8_0(&codes(), &halves(stored.parts[0])),
        Scheme::Int4G32 => join_q4_0(stored.data, &halves(stored.parts[0])),
        Scheme::F32 | Scheme::F16 | Scheme::Bf16 if dtype == GgmlType::F32 => f32_bytes(&stored.values()),
        Scheme::F32 | Scheme::F16 | Scheme::Bf16 => stored.data.to_vec(),
        Scheme::Nf4 | Scheme::Fp4 | Scheme::Nf4Dq | Scheme::Fp4Dq => {
            let groups = quantize_int8_groups(&stored.values()).map_err(quant)?;
            join_q8_0(&groups.codes, &groups.scales)
        }
    })
}

/// llama.cpp's number for the type that most of a file has.
fn file_type(tensors: &[(String, GgmlType, Vec<usize>)]) -> u32 {
    let elements = |dtype: GgmlType| -> usize {
        tensors.iter().filter(|t| t.1 == dtype).map(|(_, _, shape)| shape.iter().product::<usize>()).sum()
    };
    let numbers = [
        (GgmlType::F32, 0),
        (GgmlType::F16, 1),
        (GgmlType::Q4_0, 2),
        (GgmlType::Q8_0, 7),
        (GgmlType::Bf16, 32),
    ];
    numbers.into_iter().max_by_key(|(dtype, _)| elements(*dtype)).map_or(0, |(_, number)| number)
}

/// The special tokens by the model's settings and its tokenizer.
fn specials(model: &Model<'_>, tokenizer_json: &[u8]) -> Result<SpecialIds, ExportError> {
    let vocabulary = model.description.graph.vocabulary;
    let tokenizer = Tokenizer::load(model.archive)?;
    let known = |id: u64| u32::try_from(id).ok().filter(|id| (*id as usize) < vocabulary);
    let token = |name: &str| {
        let in_config = model.config_json.get(&format!("{name}_id")).and_then(|id| id.as_u64());
        let by_name = || tokenizer.token_id(&named_token(model, name)?).map(u64::from);
        in_config.or_else(by_name).and_then(known)
    };
    let ends = PackageDefaults::load(model.archive, &tokenizer, vocabulary)?.stop_ids;
    let eos = ends.first().copied();
    // llama.cpp knows some ends by their texts, whatever the keys say.
    let text = |id: u32| String::from_utf8_lossy(&tokenizer.bytes(id)).into_owned();
    let is_known = |id: &&u32| is_end_of_text(&text(**id));
    let others = ends.get(1..).unwrap_or_default();
    let keys = if others.iter().all(|id| is_known(&id)) { &[][..] } else { others };
    if let Some(id) = keys.iter().skip(2).find(|id| !is_known(id)) {
        let text = text(*id);
        let problem = format!(
            "{} tokens end a text, a GGUF file names three of them and not {text:?} ({id}); name fewer in \
             generation_config.json",
            ends.len()
        );
        return Err(ExportError::Model { target: Target::Gguf, problem });
    }
    let before_prompts = before_prompts(tokenizer_json).and_then(known);
    Ok(SpecialIds {
        bos: before_prompts.or_else(|| token("bos_token")).or(eos),
        eos,
        pad: token("pad_token"),
        eot: keys.first().copied(),
        eom: keys.get(1).copied(),
        add_bos: before_prompts.is_some(),
        chat_template: ChatTemplate::load(model.archive)?.map(ChatTemplate::into_source),
        ..SpecialIds::default()
    })
}

/// The text of the special token that the tokenizer's settings call `name`.
fn named_token(model: &Model<'_>, name: &str) -> Option<String> {
    let settings = model.archive.entry(portable::TOKENIZER_CONFIG).ok()?;
    let settings: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(settings.data).ok()?;
    let token = settings.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// The token that `tokenizer.json` puts before the text of a prompt.
fn before_prompts(tokenizer: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct File {
        post_processor: Option<serde_json::Value>,
    }
    let File { post_processor } = serde_json::from_slice(tokenizer).ok()?;
    let post_processor = post_processor?;
    let steps = match post_processor["processors"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(&post_processor),
    };
    let template = steps.iter().find(|step| step["type"] == "TemplateProcessing")?;
    let token = template["single"][0]["SpecialToken"]["id"].as_str()?;
    template["special_tokens"][token]["ids"][0].as_u64()
}
