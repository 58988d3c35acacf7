//! `manifest.json`: what an archive contains, how it was made, and its digests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::{self, FirstString};
use crate::{FormatError, Scheme};

/// Newest format version, which is the version written.
pub const FORMAT_VERSION: u32 = 1;

/// Names of the entries that this version knows. An archive may contain others, which are digested likewise.
pub mod entry_names {
    /// The manifest itself, last in the archive.
    pub const MANIFEST: &str = "manifest.json";
    /// Every tensor.
    pub const WEIGHTS: &str = "weights.safetensors";
    /// The inference graph with its buffer plan.
    pub const GRAPH: &str = "graph.json";
    /// The source model's configuration, unchanged.
    pub const CONFIG: &str = "config.json";
    /// The source model's generation defaults, unchanged, if any.
    pub const GENERATION_CONFIG: &str = "generation_config.json";
    /// The tokenizer.
    pub const TOKENIZER: &str = "tokenizer.json";
    /// The tokenizer, compiled for use in place, if it can be.
    pub const TOKENIZER_COMPILED: &str = "tokenizer.bin";
    /// Errors of low precisions, measured on the package at pack time.
    pub const MEASURED: &str = "measured.json";
    /// Golden ids and logits, computed by the package itself at pack time.
    pub const GOLDEN: &str = "golden.json";

    /// Maximum length of an entry of this name, if it is read as a whole; far above real ones. `None` for entries
    /// that are used in place and for unknown ones.
    pub fn max_bytes(name: &str) -> Option<u64> {
        match name {
            MANIFEST => Some(16 << 20),
            GRAPH => Some(4 << 20),
            GOLDEN | MEASURED => Some(1 << 20),
            TOKENIZER => Some(128 << 20),
            "tokenizer_config.json" => Some(16 << 20),
            CONFIG
            | GENERATION_CONFIG
            | "special_tokens_map.json"
            | "chat_template.json"
            | "chat_template.jinja" => Some(2 << 20),
            _ => None,
        }
    }
}

/// Maximum number of keys in `tensors` and in `tied`, which is the limit of nodes in a graph.
const MAX_KEYS: usize = 1 << 16;

/// The content of `manifest.json`. Unknown keys are ignored; what a reader must support is listed in
/// `required_features`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `"aibit"`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// Features that a reader must support beyond the version; an unknown one is refused by name.
    #[serde(default)]
    pub required_features: Vec<String>,
    /// Architecture family, informative: the graph defines the computation.
    pub architecture: String,
    /// Every entry except the manifest, in file order.
    pub entries: Vec<EntryRecord>,
    /// Every parameter and how it is stored.
    #[serde(deserialize_with = "json::unique_keys::<_, _, MAX_KEYS>")]
    pub tensors: BTreeMap<String, TensorRecord>,
    /// Other names of parameters.
    #[serde(default, deserialize_with = "json::unique_keys::<_, _, MAX_KEYS>")]
    pub tied: BTreeMap<String, String>,
    /// The options given at pack time.
    pub recipe: Recipe,
    /// The tool and source of the archive.
    pub provenance: Provenance,
}

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// Name in the container.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Media type of the bytes, for example `application/json`.
    pub media_type: String,
}

/// How one parameter is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorRecord {
    /// The scheme.
    pub scheme: Scheme,
    /// Element type in the source checkpoint.
    pub source_dtype: String,
    /// Whether the source stores the matrix as `[in, out]`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transposed: bool,
    /// The source's tensors that it was joined from, in row order. Empty if it is itself a tensor of the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<JoinedRows>,
}

/// Rows of a parameter that are a separate tensor in the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedRows {
    /// The tensor's name in the source.
    pub name: String,
    /// Length of its first dimension.
    pub rows: usize,
}

/// The schemes requested at pack time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recipe {
    /// Name of the preset.
    pub preset: String,
    /// Exceptions, in the order given; the last match applies.
    #[serde(default)]
    pub overrides: Vec<Override>,
    /// Requested precisions of activations, by place of the linear layer.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "json::unique_keys::<_, _, MAX_KEYS>"
    )]
    pub activations: BTreeMap<String, String>,
    /// Requested precision of cached keys and values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<String>,
}

/// An exception to a preset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Regular expression, matched anywhere in the parameter's name.
    pub pattern: String,
    /// The scheme of matching parameters.
    pub scheme: Scheme,
}

/// The origin of an archive. It contains no paths, times or host names: the same source and recipe give the same
/// bytes everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Program and version that wrote the archive.
    pub tool: String,
    /// The source.
    pub source: Source,
}

/// The source of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Repository on the model hub, if it was downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Commit of that repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The files that were read, sorted by name.
    pub files: Vec<SourceFile>,
}

/// A file that was read at pack time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// File name without folders.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Parses and checks a manifest on its own; [`crate::Archive::open`] compares it with the container.
    ///
    /// # Errors
    /// [`FormatError::Version`] and [`FormatError::Feature`] for archives of other versions,
    /// [`FormatError::Manifest`] for an invalid manifest.
    pub fn from_json(json: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u64,
            #[serde(default)]
            required_features: FirstString,
        }
        let malformed = |e: serde_json::Error| FormatError::Manifest(json::message(&e));
        let head: Head = serde_json::from_slice(json).map_err(malformed)?;
        if head.format != "aibit" {
            return Err(FormatError::Manifest(format!(
                "format is \"{:.80}\", it must be \"aibit\"",
                head.format
            )));
        }
        if head.version != u64::from(FORMAT_VERSION) {
            return Err(FormatError::Version { found: head.version, supported: FORMAT_VERSION });
        }
        // Checked first, because a feature may change how the rest is read.
        if let Some(feature) = head.required_features.0 {
            return Err(FormatError::Feature { feature: feature.chars().take(80).collect() });
        }
        let manifest: Self = serde_json::from_slice(json).map_err(malformed)?;
        for (alias, target) in &manifest.tied {
            if manifest.tensors.contains_key(alias) || !manifest.tensors.contains_key(target) {
                return Err(FormatError::Manifest(format!(
                    "tied: `{alias:.80}` stands for `{target:.80}`; the first must not be a stored parameter and the \
                     second must be one"
                )));
            }
        }
        for EntryRecord { name, sha256, .. } in &manifest.entries {
            if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(FormatError::Manifest(format!(
                    "entry `{name:.80}`: sha256 is \"{sha256:.80}\", it must be 64 lower-case hexadecimal digits"
                )));
            }
        }
        Ok(manifest)
    }

    /// The manifest as JSON, with equal bytes for equal manifests.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest has only string keys")
    }
}
