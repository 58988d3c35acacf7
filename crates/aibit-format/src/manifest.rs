//! `manifest.json`: what an archive holds, how it was made, and the digests to check it by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::{self, FirstString};
use crate::{FormatError, Scheme};

/// Newest format version, the one that is written.
pub const FORMAT_VERSION: u32 = 1;

/// Names of the entries that this version knows. An archive may hold others; they are digested like these.
pub mod entry_names {
    /// The manifest itself, last in the archive.
    pub const MANIFEST: &str = "manifest.json";
    /// Every tensor.
    pub const WEIGHTS: &str = "weights.safetensors";
    /// The inference graph with its buffer plan.
    pub const GRAPH: &str = "graph.json";
    /// The source model's configuration, unchanged.
    pub const CONFIG: &str = "config.json";
    /// The source model's generation defaults, unchanged, where it has any.
    pub const GENERATION_CONFIG: &str = "generation_config.json";
    /// The tokenizer.
    pub const TOKENIZER: &str = "tokenizer.json";
    /// The tokenizer again, compiled for use where it lies, where it can be.
    pub const TOKENIZER_COMPILED: &str = "tokenizer.bin";
    /// What low precision costs the model, measured at pack time by the package itself.
    pub const MEASURED: &str = "measured.json";
    /// Golden ids and logits, made at pack time by the package itself.
    pub const GOLDEN: &str = "golden.json";

    /// Most bytes that an entry of this name may have: those that are read as a whole, generous for real ones. `None`
    /// for those that are used where they lie, and for unknown ones.
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

/// Most keys of `tensors`, and of `tied`: as many as a graph may have nodes.
const MAX_KEYS: usize = 1 << 16;

/// The content of `manifest.json`. Unknown keys are accepted; what a reader must understand is listed in
/// `required_features`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `"aibit"`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// Features beyond the version that a reader must know; an unknown one is refused by name.
    #[serde(default)]
    pub required_features: Vec<String>,
    /// Architecture family, for people: the graph says what is computed.
    pub architecture: String,
    /// Every entry but the manifest itself, in file order.
    pub entries: Vec<EntryRecord>,
    /// Every parameter and how it is stored.
    #[serde(deserialize_with = "json::unique_keys::<_, _, MAX_KEYS>")]
    pub tensors: BTreeMap<String, TensorRecord>,
    /// Names that stand for a parameter stored under another name.
    #[serde(default, deserialize_with = "json::unique_keys::<_, _, MAX_KEYS>")]
    pub tied: BTreeMap<String, String>,
    /// What was asked for at pack time.
    pub recipe: Recipe,
    /// What the archive was made from, and by what.
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
    /// What kind of bytes, for example `application/json`.
    pub media_type: String,
}

/// How one parameter is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorRecord {
    /// The scheme.
    pub scheme: Scheme,
    /// Element type in the source checkpoint.
    pub source_dtype: String,
    /// The source stores the matrix as `[in, out]`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transposed: bool,
    /// The source's tensors that it was made of, the rows of one after those of another. Empty: it is one of them itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<JoinedRows>,
}

/// Rows of a parameter that are a tensor of their own in the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedRows {
    /// The tensor's name there.
    pub name: String,
    /// Length of its first dimension.
    pub rows: usize,
}

/// Which schemes were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recipe {
    /// Name of the preset.
    pub preset: String,
    /// Exceptions, in the order given; the last that matches a name counts.
    #[serde(default)]
    pub overrides: Vec<Override>,
    /// Precisions of activations that were asked for, by the place of a linear layer.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "json::unique_keys::<_, _, MAX_KEYS>"
    )]
    pub activations: BTreeMap<String, String>,
    /// Precision of cached keys and values that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<String>,
}

/// An exception to a preset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Regular expression that is searched for in the parameter's name.
    pub pattern: String,
    /// The scheme for parameters that match.
    pub scheme: Scheme,
}

/// Where an archive comes from. Holds no paths, times or host names: the same source and recipe give the
/// same bytes everywhere.
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
    /// Repository on the model hub, where it came from one.
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
    /// Reads and checks a manifest on its own; [`crate::Archive::open`] compares it with the container.
    ///
    /// # Errors
    /// [`FormatError::Version`] and [`FormatError::Feature`] for archives of another time,
    /// [`FormatError::Manifest`] for anything malformed.
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
        // Before anything else is read: a feature may be what makes the rest readable.
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

    /// The manifest as JSON, the same bytes for equal manifests.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest has only string keys")
    }
}
