//! Where a model comes from: a folder in the Hugging Face layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aibit_format::{MappedFile, SourceFile, hex};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::PackError;
use crate::hub::HubModel;

/// A model folder, looked through: which files are there, and which hold the weights.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// The folder.
    pub folder: PathBuf,
    /// Repository and commit on the model hub, where it came from one.
    pub repository: Option<(String, String)>,
    weight_files: Vec<PathBuf>,
}

/// Longest text file that is read whole. The largest tokenizers of today have a fifth of it.
const MAX_TEXT_FILE: u64 = 256 << 20;

impl ModelSource {
    /// Looks through a folder with `config.json`, a tokenizer and weights: `model.safetensors`, or shards with
    /// an index, or `pytorch_model.bin`, in this order.
    ///
    /// # Errors
    /// [`PackError::NotAModel`] naming what is missing, [`PackError::SourceFile`] for a malformed index.
    pub fn folder(folder: impl Into<PathBuf>) -> Result<Self, PackError> {
        let folder = folder.into();
        let not_a_model = |problem: String| PackError::NotAModel { path: folder.clone(), problem };
        if !folder.exists() {
            return Err(not_a_model("there is no such folder".into()));
        }
        if !folder.is_dir() {
            return Err(not_a_model(
                "it is a file; give the folder that holds it together with config.json and the tokenizer"
                    .into(),
            ));
        }
        if !folder.join("config.json").is_file() {
            return Err(not_a_model("it holds no config.json".into()));
        }
        let weight_files = find_weights(&folder)?;
        Ok(Self { folder, repository: None, weight_files })
    }

    /// A model that was fetched from the hub.
    ///
    /// # Errors
    /// As [`ModelSource::folder`].
    pub fn hub(model: HubModel) -> Result<Self, PackError> {
        let source = Self::folder(model.folder)?;
        Ok(Self { repository: Some((model.repository, model.revision)), ..source })
    }

    /// The files that hold the weights.
    pub fn weight_files(&self) -> &[PathBuf] {
        &self.weight_files
    }

    /// A small file of the folder, if it is there.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, PackError> {
        let path = self.folder.join(name);
        let io = |source| PackError::Io { action: "read", path: path.clone(), source };
        match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io(e)),
            Ok(metadata) if metadata.len() > MAX_TEXT_FILE => {
                let problem = format!("{} bytes, allowed are {MAX_TEXT_FILE}", metadata.len());
                Err(PackError::SourceFile { path, problem })
            }
            Ok(_) => fs::read(&path).map(Some).map_err(io),
        }
    }
}

fn find_weights(folder: &Path) -> Result<Vec<PathBuf>, PackError> {
    for (single, index) in [
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ] {
        if folder.join(single).is_file() {
            return Ok(vec![folder.join(single)]);
        }
        if folder.join(index).is_file() {
            return shards(folder, &folder.join(index));
        }
    }
    Err(PackError::NotAModel {
        path: folder.to_owned(),
        problem: "it holds no weights: model.safetensors, model.safetensors.index.json with its shards, or \
                  pytorch_model.bin"
            .into(),
    })
}

/// The shards that an index names, each once, all beside it.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, PackError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad = |problem: String| PackError::SourceFile { path: index.to_owned(), problem };
    let json = fs::read(index).map_err(|e| bad(e.to_string()))?;
    let Index { weight_map } = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
    let mut names: Vec<_> = weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(bad("weight_map is empty".into()));
    }
    names
        .into_iter()
        .map(|name| {
            if name.is_empty() || name.contains(['/', '\\', '\0']) || name.starts_with('.') {
                return Err(bad(format!("the shard `{}` is not a plain file name", name.escape_debug())));
            }
            let path = folder.join(&name);
            if !path.is_file() {
                return Err(bad(format!("it names the shard `{name}`, which is not in the folder")));
            }
            Ok(path)
        })
        .collect()
}

/// Length and digest of a file, for the provenance; its pages are let go as they are read.
pub(crate) fn digest_file(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<SourceFile, PackError> {
    const STEP: usize = 16 << 20;
    let map = MappedFile::open(path)?;
    let mut digest = Sha256::new();
    for (index, part) in map.chunks(STEP).enumerate() {
        digest.update(part);
        map.release(index * STEP..index * STEP + part.len());
        progress(part.len() as u64);
    }
    Ok(source_file(path, map.len() as u64, &digest.finalize()))
}

pub(crate) fn digest_bytes(path: &Path, bytes: &[u8]) -> SourceFile {
    source_file(path, bytes.len() as u64, &Sha256::digest(bytes))
}

fn source_file(path: &Path, bytes: u64, digest: &[u8]) -> SourceFile {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    SourceFile { name, bytes, sha256: hex(digest) }
}
