//! Where a model comes from: a folder in the Hugging Face layout, a weight file beside its configuration, a GGUF file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aibit_format::{
    FileKind, FormatError, MappedFile, OutputTarget, PartialFile, SourceFile, entry_names, hex,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::hub::HubModel;
use crate::{PackError, small_file};

/// A model, looked through: which files are there, and which hold the weights.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// The folder.
    pub folder: PathBuf,
    /// Repository and commit on the model hub, where it came from one.
    pub repository: Option<(String, String)>,
    weight_files: Vec<PathBuf>,
    /// Small files that the weights' file holds itself, by the names that they have in a folder.
    inside: BTreeMap<&'static str, Vec<u8>>,
    /// The file that everything lies in, where one holds it all.
    single: Option<PathBuf>,
    /// Keeps weights that were unpacked for as long as they are needed.
    _unpacked: Option<Arc<PartialFile>>,
}

impl ModelSource {
    /// Looks at `path`: a model folder, a GGUF file, or a weight file (safetensors or torch) beside its `config.json` and
    /// tokenizer. Files are told apart by content.
    ///
    /// # Errors
    /// As [`ModelSource::folder`], and [`PackError::Gguf`] for a GGUF file that cannot be packed.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, PackError> {
        let path = path.into();
        if path.is_dir() || !path.exists() {
            return Self::folder(path);
        }
        match FileKind::read(&path)? {
            FileKind::Gguf => Self::gguf(path),
            FileKind::Zip if !crate::poc::is_torch(&path)? => Self::poc(path),
            FileKind::Safetensors | FileKind::Zip | FileKind::Pickle => {
                let folder = path.parent().map(Path::to_owned).unwrap_or_default();
                if !has(&folder, entry_names::CONFIG) {
                    let problem = "it holds weights only, and there is no config.json beside it".into();
                    return Err(PackError::NotAModel { path, problem });
                }
                Ok(Self::of_files(folder, vec![path], BTreeMap::new()))
            }
            other => {
                let problem = match other.stand_in() {
                    Some(found) => found.to_owned(),
                    None => {
                        "it is of no known kind; a folder, safetensors, torch and GGUF files can be packed"
                            .to_owned()
                    }
                };
                Err(PackError::NotAModel { path, problem })
            }
        }
    }

    /// The archive of the proof of concept that this project began from.
    ///
    /// # Errors
    /// [`PackError::NotAModel`] for any other file.
    pub fn proof_of_concept(path: impl Into<PathBuf>) -> Result<Self, PackError> {
        let path = path.into();
        if FileKind::read(&path)? != FileKind::Zip || crate::poc::is_torch(&path)? {
            let problem = "it is no archive of the proof of concept".into();
            return Err(PackError::NotAModel { path, problem });
        }
        Self::poc(path)
    }

    /// Reads what a GGUF file says of its model.
    fn gguf(path: PathBuf) -> Result<Self, PackError> {
        let map = MappedFile::open(&path)?;
        let inside =
            crate::gguf::files(&map).map_err(|source| PackError::Gguf { path: path.clone(), source })?;
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self { single: Some(path.clone()), ..Self::of_files(folder, vec![path], inside) })
    }

    /// Unpacks the archive of the proof of concept.
    fn poc(path: PathBuf) -> Result<Self, PackError> {
        let crate::poc::Unpacked { weights, files } = crate::poc::unpack(&path)?;
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let source = Self::of_files(folder, vec![weights.path().to_owned()], files);
        Ok(Self { single: Some(path), _unpacked: Some(Arc::new(weights)), ..source })
    }

    fn of_files(
        folder: PathBuf,
        weight_files: Vec<PathBuf>,
        inside: BTreeMap<&'static str, Vec<u8>>,
    ) -> Self {
        Self { folder, repository: None, weight_files, inside, single: None, _unpacked: None }
    }

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
        if !has(&folder, entry_names::CONFIG) {
            return Err(not_a_model("it holds no config.json".into()));
        }
        let weight_files = find_weights(&folder)?;
        Ok(Self::of_files(folder, weight_files, BTreeMap::new()))
    }

    /// A model that was fetched from the hub.
    ///
    /// # Errors
    /// As [`ModelSource::folder`].
    pub fn hub(model: HubModel) -> Result<Self, PackError> {
        let source = Self::folder(model.folder)?;
        Ok(Self { repository: Some((model.repository, model.revision)), ..source })
    }

    /// The file that holds weights, configuration and tokenizer, where there is one.
    pub(crate) fn single_file(&self) -> Option<&Path> {
        self.single.as_deref()
    }

    /// The files that hold the weights.
    pub fn weight_files(&self) -> &[PathBuf] {
        &self.weight_files
    }

    /// Checks that `target` is none of the files that are read, or may be: any file of the folder but an archive, which is
    /// what packing into the source's own folder writes.
    ///
    /// # Errors
    /// [`FormatError::Output`] with the file of the source.
    pub(crate) fn check_is_no_source(&self, target: &OutputTarget) -> Result<(), FormatError> {
        target.check_apart_from(self.single.iter().chain(&self.weight_files))?;
        if self.single.is_some() || target.is_archive() {
            return Ok(());
        }
        let files_in = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let inside = files_in(if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder });
        // Templates lie in a folder of their own.
        let nested = inside.iter().filter(|path| path.is_dir()).flat_map(|folder| files_in(folder));
        target.check_apart_from(nested.chain(inside.iter().cloned()))
    }

    /// A small file of the folder, if it is there: strict JSON, or text in UTF-8 without a byte order mark.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, PackError> {
        if !self.inside.is_empty() {
            return Ok(self.inside.get(name).cloned());
        }
        small_file::read(&self.folder, name)
    }

    /// Length and digest of a small file of the folder as it is on disk, for the provenance.
    pub(crate) fn digest(&self, name: &str) -> Result<SourceFile, PackError> {
        digest_file(&self.folder.join(name), &mut |_| {})
    }
}

fn find_weights(folder: &Path) -> Result<Vec<PathBuf>, PackError> {
    for (single, index) in [
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ] {
        if has(folder, single) {
            return Ok(vec![folder.join(single)]);
        }
        if let Some(json) = small_file::read(folder, index)? {
            return shards(folder, index, &json);
        }
    }
    // One file under another name, as `torch.save` is often given.
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| io(folder, source))? {
        let path = entry.map_err(|source| io(folder, source))?.path();
        let is_weights =
            ["pt", "pth", "bin", "safetensors"].iter().any(|e| path.extension() == Some(e.as_ref()));
        if is_weights
            && matches!(FileKind::read(&path), Ok(FileKind::Safetensors | FileKind::Zip | FileKind::Pickle))
        {
            others.push(path);
        }
    }
    let problem = match others.as_slice() {
        [_] => return Ok(others),
        [] => "it holds no weights: model.safetensors, model.safetensors.index.json with its shards, \
               pytorch_model.bin, or one file of either kind"
            .to_owned(),
        several => {
            format!("it holds {} weight files and no index; give the one that is meant", several.len())
        }
    };
    Err(PackError::NotAModel { path: folder.to_owned(), problem })
}

fn io(path: &Path, source: std::io::Error) -> PackError {
    PackError::Io { action: "read", path: path.to_owned(), source }
}

/// Whether a folder has an entry of this name, whatever it is.
fn has(folder: &Path, name: &str) -> bool {
    folder.join(name).symlink_metadata().is_ok()
}

/// The shards that an index names, each once, all beside it.
fn shards(folder: &Path, index: &str, json: &[u8]) -> Result<Vec<PathBuf>, PackError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad = |problem: String| PackError::SourceFile { path: folder.join(index), problem };
    let Index { weight_map } = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
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

fn source_file(path: &Path, bytes: u64, digest: &[u8]) -> SourceFile {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    SourceFile { name, bytes, sha256: hex(digest) }
}
