//! GGUF files as a source: conversion to `config.json`, `tokenizer.json` and tensor names of a checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aibit_families::Family;
use aibit_format::{MappedFile, entry_names};
use aibit_gguf::{Gguf, GgufError, Metadata, Split, ends_of_text, join_parts, special_ids, tokenizer_json};
use serde_json::json;

use crate::{PackError, gguf_sampling};

/// All files, in order, of the model that the GGUF file at `path` is or is part of.
///
/// # Errors
/// [`PackError::SourceFile`] for a part whose name does not identify the others, and for a missing part.
pub(crate) fn parts(path: &Path) -> Result<Vec<PathBuf>, PackError> {
    let refused = |source| PackError::Gguf { path: path.to_owned(), source };
    let map = MappedFile::open(path)?;
    let gguf = Gguf::parse(&map).map_err(refused)?;
    let Some(split) = Split::of(gguf.metadata()).map_err(refused)? else { return Ok(vec![path.to_owned()]) };
    let (this, count) = (split.number + 1, split.count);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut paths = Vec::new();
    for number in 0..count {
        let Some(part) = split.part_name(&name, number) else {
            let problem = format!(
                "part {this} of {count} of a split GGUF file; the others are found by their names, and that of this one \
                 does not end in -{this:05}-of-{count:05}.gguf; name the parts so, or join them (llama-gguf-split --merge)"
            );
            return Err(PackError::SourceFile { path: path.to_owned(), problem });
        };
        let part = path.with_file_name(part);
        if !part.exists() {
            let problem = format!(
                "missing; it is part {} of {count} of a split GGUF file, of which {name} is part {this}",
                number + 1
            );
            return Err(PackError::SourceFile { path: part, problem });
        }
        paths.push(part);
    }
    Ok(paths)
}

/// The small files of a model folder, derived from a model's GGUF files.
pub(crate) fn files(paths: &[PathBuf]) -> Result<BTreeMap<&'static str, Vec<u8>>, PackError> {
    let maps = paths.iter().map(|path| MappedFile::open(path)).collect::<Result<Vec<_>, _>>()?;
    let of = |path: &PathBuf, map| match Gguf::parse(map) {
        Ok(gguf) => Ok((gguf, map)),
        Err(source) => Err(PackError::Gguf { path: path.clone(), source }),
    };
    let parts = paths.iter().zip(&maps).map(|(path, map)| of(path, &**map)).collect::<Result<Vec<_>, _>>()?;
    let refused = |source| PackError::Gguf { path: paths[0].clone(), source };
    match parts.as_slice() {
        [(gguf, map)] => files_of(gguf, map).map_err(refused),
        parts => {
            let (gguf, constants) = join_parts(parts).map_err(refused)?;
            files_of(&gguf, &constants).map_err(refused)
        }
    }
}

/// Refuses files that are not a whole model.
fn check_is_model(gguf: &Gguf) -> Result<(), GgufError> {
    let metadata = gguf.metadata();
    let refuse = |key: &str, problem: &str| {
        Err(GgufError::Metadata { key: key.to_owned(), problem: problem.to_owned() })
    };
    match metadata.string("general.type")?.unwrap_or("model") {
        "adapter" => {
            return refuse(
                "general.type",
                "is \"adapter\": the file contains an adapter (LoRA) without its base model; merge it into its model \
                 (llama-export-lora) and pack the result",
            );
        }
        "mmproj" => {
            return refuse(
                "general.type",
                "is \"mmproj\": the file contains the image or audio encoder of a model",
            );
        }
        "imatrix" => {
            return refuse(
                "general.type",
                "is \"imatrix\": the file contains an importance matrix and no model",
            );
        }
        _ => {}
    }
    match metadata.string("general.architecture")? {
        Some("clip") => {
            return refuse(
                "general.architecture",
                "is \"clip\": the file contains the image encoder of a model",
            );
        }
        Some("controlvector") => {
            return refuse(
                "general.architecture",
                "is \"controlvector\": the file contains a control vector and no model",
            );
        }
        _ => {}
    }
    if gguf.tensors().is_empty() {
        let problem = "is that of a file without tensors, which contains only a vocabulary";
        return refuse("general.architecture", problem);
    }
    Ok(())
}

fn files_of(gguf: &Gguf, map: &[u8]) -> Result<BTreeMap<&'static str, Vec<u8>>, GgufError> {
    check_is_model(gguf)?;
    let metadata = gguf.metadata();
    let missing = |key: &str| GgufError::Metadata { key: key.to_owned(), problem: "is missing".into() };
    let architecture =
        metadata.string("general.architecture")?.ok_or_else(|| missing("general.architecture"))?;
    let tokens =
        metadata.strings("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    // The tokenizer may have tokens without a row in the embedding.
    let rows = gguf.tensor("token_embd.weight").and_then(|tensor| tensor.shape.first());
    let vocabulary = rows.map_or(tokens.len(), |rows| tokens.len().min(*rows));
    let config = match Family::of(architecture) {
        Some(family) => family.gguf_config(gguf, map, vocabulary)?,
        // Refused by name when the model is described.
        None => json!({ "model_type": architecture }),
    };
    let mut files = BTreeMap::from([
        (entry_names::CONFIG, to_json(&config)),
        (entry_names::TOKENIZER, tokenizer_json(metadata)?),
    ]);
    let specials = special_ids(metadata)?;
    let token = |id: Option<u32>| id.and_then(|id| tokens.get(id as usize));
    let tokenizer_config = json!({
        "bos_token": token(specials.bos),
        "eos_token": token(specials.eos),
        "unk_token": token(specials.unk),
        "pad_token": token(specials.pad),
        "add_bos_token": specials.add_bos,
        "add_eos_token": specials.add_eos,
    });
    files.insert("tokenizer_config.json", to_json(&tokenizer_config));
    // End-of-text tokens besides the one that config.json names.
    let ends = ends_of_text(metadata)?;
    let mut settings = gguf_sampling::generation_config(metadata)?;
    if ends.len() > usize::from(specials.eos.is_some()) {
        settings.insert("eos_token_id".into(), json!(ends));
    }
    if !settings.is_empty() {
        files.insert(entry_names::GENERATION_CONFIG, to_json(&settings.into()));
    }
    if let Some(template) = specials.chat_template {
        files.insert("chat_template.jinja", template.into_bytes());
    }
    Ok(files)
}

fn to_json(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("a value has only string keys")
}

/// The checkpoint tensor that a GGUF tensor corresponds to: its name, and the rows per head if its rows are
/// interleaved.
pub(crate) fn checkpoint_tensor(
    metadata: &Metadata,
    name: &str,
) -> Result<(String, Option<usize>), GgufError> {
    let architecture = metadata.string("general.architecture")?.unwrap_or_default();
    let Some(family) = Family::of(architecture) else { return Ok((name.to_owned(), None)) };
    let canonical = family.gguf_names().to_canonical(name);
    let head_rows = family.gguf_interleaved_rows(metadata, architecture, name)?;
    Ok((canonical.unwrap_or_else(|| name.to_owned()), head_rows))
}
