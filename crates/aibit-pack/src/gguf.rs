//! GGUF files as a source: what takes the place of `config.json` and `tokenizer.json`, and names of tensors.

use std::collections::BTreeMap;

use aibit_families::Family;
use aibit_format::entry_names;
use aibit_gguf::{Gguf, GgufError, Metadata, special_ids, tokenizer_json};
use serde_json::json;

/// The small files of a model folder, made of a GGUF file's metadata.
pub(crate) fn files(map: &[u8]) -> Result<BTreeMap<&'static str, Vec<u8>>, GgufError> {
    let gguf = Gguf::parse(map)?;
    let metadata = gguf.metadata();
    let missing = |key: &str| GgufError::Metadata { key: key.to_owned(), problem: "is missing".into() };
    let architecture =
        metadata.string("general.architecture")?.ok_or_else(|| missing("general.architecture"))?;
    let tokens =
        metadata.strings("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    // There may be tokens that the model has no row for.
    let rows = gguf.tensor("token_embd.weight").and_then(|tensor| tensor.shape.first());
    let vocabulary = rows.map_or(tokens.len(), |rows| tokens.len().min(*rows));
    let config = match Family::of(architecture) {
        Some(family) => family.gguf_config(&gguf, map, vocabulary)?,
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
    // Where an answer ends, beside the end of a text that config.json names.
    let mut ends: Vec<u32> = Vec::new();
    for id in [specials.eos, specials.eot, specials.eom].into_iter().flatten() {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    if ends.len() > usize::from(specials.eos.is_some()) {
        files.insert(entry_names::GENERATION_CONFIG, to_json(&json!({ "eos_token_id": ends })));
    }
    if let Some(template) = specials.chat_template {
        files.insert("chat_template.jinja", template.into_bytes());
    }
    Ok(files)
}

fn to_json(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("a value has only string keys")
}

/// What a tensor of a GGUF file is in a checkpoint of its family: its name, and the rows of a head where its rows are
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
