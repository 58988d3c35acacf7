//! The files of a model repository: which are fetched, and how long they may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::HubError;
use crate::disk::io_error;
use crate::repository::is_plain_name;

/// Files fetched when the repository has them, beside `config.json` (required) and the weights.
pub(crate) const OPTIONAL_FILES: [&str; 10] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.model",
];

/// Names of the weights, best first. A name that ends in `.index.json` lists shards.
pub(crate) const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Listings and shard indexes are parsed in memory; the largest public ones are a few MiB.
pub(crate) const MAX_JSON_BYTES: u64 = 64 << 20;

/// Longest that a small file of this name may be, in bytes: four times and more of what the largest models of today have.
///
/// It holds for whoever reads such a file, fetched or not: configurations, tokenizers, templates and indexes are parsed
/// in memory.
pub fn max_file_bytes(name: &str) -> u64 {
    let base = name.rsplit('/').next().unwrap_or(name);
    match base {
        "tokenizer.json" => 128 << 20,
        "vocab.json" | "added_tokens.json" | "merges.txt" => 32 << 20,
        "tokenizer_config.json" => 16 << 20,
        _ if base.ends_with(".index.json") || base.ends_with(".model") => 32 << 20,
        _ => 2 << 20,
    }
}

/// The shards that the weights at `path` consist of; none if they are no index.
pub(crate) fn shards(path: &Path) -> Result<BTreeSet<String>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let index = path.file_name().unwrap_or_default().to_string_lossy();
    if !index.ends_with(".index.json") {
        return Ok(BTreeSet::new());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io_error("read", path))?;
    file.take(MAX_JSON_BYTES).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    let parsed: Index =
        serde_json::from_slice(&bytes).map_err(|source| HubError::Index { path: path.to_owned(), source })?;
    let shards: BTreeSet<String> = parsed.weight_map.into_values().collect();
    match shards.iter().find(|shard| !is_plain_name(shard)) {
        Some(shard) => Err(HubError::ShardName { index: index.into_owned(), shard: shard.clone() }),
        None => Ok(shards),
    }
}
