//! Sources of models: a folder in the Hugging Face layout, a weight file with its configuration, a GGUF file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aibit_format::{
    FileKind, FormatError, MappedFile, OutputTarget, PartialFile, SourceFile, entry_names, hex,
};
use aibit_hub::HubModel;
use sha2::{Digest, Sha256};

use crate::checkpoint::Checkpoint;
use crate::shard_index::ShardIndex;
use crate::{PackError, foreign, small_file};

/// Folder of non-default chat templates.
pub(crate) const FURTHER_TEMPLATES: &str = "additional_chat_templates";

/// A source with its files identified.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// The folder.
    pub folder: PathBuf,
    /// Repository and commit on the model hub, if downloaded.
    pub repository: Option<(String, String)>,
    weight_files: Vec<PathBuf>,
    /// The index, for a sharded checkpoint.
    index: Option<ShardIndex>,
    /// Small files contained in the weight file, by their names in a folder.
    inside: BTreeMap<&'static str, Vec<u8>>,
    /// The files, if weights, configuration and tokenizer are all in them: one, or the parts of a split model.
    whole: Vec<PathBuf>,
    /// Keeps unpacked weights alive.
    unpacked: Option<Arc<PartialFile>>,
}

impl ModelSource {
    /// Identifies the source at `path` by content: a model folder, a GGUF file, or a weight file (safetensors or
    /// torch) next to its `config.json` and tokenizer.
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
                    let problem = foreign::of_folder(&folder).unwrap_or_else(|| {
                        "it contains only weights, and there is no config.json next to it".to_owned()
                    });
                    return Err(PackError::NotAModel { path, problem });
                }
                Ok(Self::of_files(folder, vec![path], BTreeMap::new()))
            }
            other => {
                let problem = match other.stand_in() {
                    Some(found) => found.to_owned(),
                    None => "its format is unknown; folders, safetensors, torch and GGUF files can be packed"
                        .to_owned(),
                };
                Err(PackError::NotAModel { path, problem })
            }
        }
    }

    /// An archive of the proof of concept that preceded this project.
    ///
    /// # Errors
    /// [`PackError::NotAModel`] for any other file.
    pub fn proof_of_concept(path: impl Into<PathBuf>) -> Result<Self, PackError> {
        let path = path.into();
        if FileKind::read(&path)? != FileKind::Zip || crate::poc::is_torch(&path)? {
            let problem = "it is not an archive of the proof of concept".into();
            return Err(PackError::NotAModel { path, problem });
        }
        Self::poc(path)
    }

    /// Reads the model's small files from a GGUF file and the other parts of a split one.
    fn gguf(path: PathBuf) -> Result<Self, PackError> {
        let parts = crate::gguf::parts(&path)?;
        let inside = crate::gguf::files(&parts)?;
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self { whole: parts.clone(), ..Self::of_files(folder, parts, inside) })
    }

    /// The tensors of the source.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint, PackError> {
        match (&self.unpacked, self.whole.first()) {
            (Some(weights), Some(container)) => Checkpoint::unpacked(weights.path(), container),
            _ => Checkpoint::open(&self.weight_files),
        }
    }

    /// Unpacks the archive of the proof of concept.
    fn poc(path: PathBuf) -> Result<Self, PackError> {
        let crate::poc::Unpacked { weights, files } = crate::poc::unpack(&path)?;
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let source = Self::of_files(folder, vec![weights.path().to_owned()], files);
        Ok(Self { whole: vec![path], unpacked: Some(Arc::new(weights)), ..source })
    }

    fn of_files(
        folder: PathBuf,
        weight_files: Vec<PathBuf>,
        inside: BTreeMap<&'static str, Vec<u8>>,
    ) -> Self {
        Self {
            folder,
            repository: None,
            weight_files,
            index: None,
            inside,
            whole: Vec::new(),
            unpacked: None,
        }
    }

    /// Identifies a folder with `config.json`, a tokenizer and weights: `model.safetensors`, or shards with an index,
    /// or `pytorch_model.bin`, in this order.
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
            return match gguf_files(&folder)?.as_slice() {
                [] => {
                    let problem = foreign::of_folder(&folder);
                    Err(not_a_model(problem.unwrap_or_else(|| "it holds no config.json".to_owned())))
                }
                files => Self::gguf_of_folder(&folder, files),
            };
        }
        for (single, index) in WEIGHTS {
            if has(&folder, single) {
                let file = folder.join(single);
                return Ok(Self::of_files(folder, vec![file], BTreeMap::new()));
            }
            if let Some(index) = ShardIndex::read(&folder, index)? {
                let files = index.files(&folder);
                return Ok(Self { index: Some(index), ..Self::of_files(folder, files, BTreeMap::new()) });
            }
        }
        if let Some(file) = other_weights(&folder)? {
            return Ok(Self::of_files(folder, vec![file], BTreeMap::new()));
        }
        match gguf_files(&folder)?.as_slice() {
            [] => Err(not_a_model(foreign::of_folder(&folder).unwrap_or_else(|| {
                "it holds no weights: model.safetensors, model.safetensors.index.json with its shards, \
                 pytorch_model.bin, or one file of either kind"
                    .to_owned()
            }))),
            files => Self::gguf_of_folder(&folder, files),
        }
    }

    /// The GGUF model of a folder with these GGUF files: a single file, or all parts of one model.
    fn gguf_of_folder(folder: &Path, files: &[PathBuf]) -> Result<Self, PackError> {
        if crate::gguf::parts(&files[0])? == files {
            return Self::gguf(files[0].clone());
        }
        let (count, names) = (files.len(), names_of(files));
        let problem = format!("it holds {count} GGUF files ({names}); choose one of them");
        Err(PackError::NotAModel { path: folder.to_owned(), problem })
    }

    /// A model downloaded from the hub.
    ///
    /// # Errors
    /// As [`ModelSource::folder`].
    pub fn hub(model: HubModel) -> Result<Self, PackError> {
        let source = Self::folder(model.folder)?;
        Ok(Self { repository: Some((model.repository, model.revision)), ..source })
    }

    /// The files that contain weights, configuration and tokenizer together; none for a folder.
    pub(crate) fn whole_files(&self) -> &[PathBuf] {
        &self.whole
    }

    /// The weight files.
    pub fn weight_files(&self) -> &[PathBuf] {
        &self.weight_files
    }

    /// Checks that `target` is not a source file: any file of the folder counts as one, except an archive, since
    /// packing into the source's own folder is allowed.
    ///
    /// # Errors
    /// [`FormatError::Output`] with the file of the source.
    pub(crate) fn check_is_no_source(&self, target: &OutputTarget) -> Result<(), FormatError> {
        target.check_apart_from(self.whole.iter().chain(&self.weight_files))?;
        if !self.whole.is_empty() || target.is_archive() {
            return Ok(());
        }
        let files_in = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let inside = files_in(if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder });
        // Templates are in a subfolder.
        let nested = inside.iter().filter(|path| path.is_dir()).flat_map(|folder| files_in(folder));
        target.check_apart_from(nested.chain(inside.iter().cloned()))
    }

    /// The index that assigns tensors to files, if any.
    pub(crate) fn index(&self) -> Option<&ShardIndex> {
        self.index.as_ref()
    }

    /// Notes on what is next to the weights and is not packed, a sentence each.
    pub(crate) fn left_out(&self) -> Vec<String> {
        if !self.whole.is_empty() {
            return Vec::new();
        }
        let mut notes = foreign::beside(&self.folder);
        if let Some(index) = &self.index {
            let named = index.names();
            let is_left_out = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.contains("-of-") && !named.contains(&&*name)
            };
            let mut files = files_with(&self.folder, &["safetensors", "bin"]).unwrap_or_default();
            files.retain(is_left_out);
            if !files.is_empty() {
                let index = index.path.file_name().unwrap_or_default().to_string_lossy();
                notes.push(format!("{}: not named in {index}, and not packed", names_of(&files)));
            }
        }
        notes
    }

    /// A small file of the folder, if it exists: strict JSON, or text in UTF-8 without a byte order mark.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, PackError> {
        if !self.inside.is_empty() {
            return Ok(self.inside.get(name).cloned());
        }
        small_file::read(&self.folder, name)
    }

    /// Names of the non-default chat templates, sorted.
    pub(crate) fn further_chat_templates(&self) -> Result<Vec<String>, PackError> {
        let folder = self.folder.join(FURTHER_TEMPLATES);
        if !self.inside.is_empty() || !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|source| io(&folder, source))? {
            let path = entry.map_err(|source| io(&folder, source))?.path();
            if path.extension() == Some("jinja".as_ref()) {
                names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Length and digest of a small file as it is on disk, for the provenance.
    pub(crate) fn digest(&self, name: &str) -> Result<SourceFile, PackError> {
        digest_file(&self.folder.join(name), &mut |_| {})
    }
}

/// Weights and their indexes, in order of preference.
const WEIGHTS: [(&str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// Files of a folder with one of the suffixes `extensions`, sorted.
fn files_with(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, PackError> {
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut files = Vec::new();
    for entry in fs::read_dir(listed).map_err(|source| io(folder, source))? {
        let path = folder.join(entry.map_err(|source| io(folder, source))?.file_name());
        if extensions.iter().any(|e| path.extension() == Some(e.as_ref())) {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// A single weight file of another name, as often passed to `torch.save`.
fn other_weights(folder: &Path) -> Result<Option<PathBuf>, PackError> {
    let mut files = files_with(folder, &["pt", "pth", "bin", "safetensors"])?;
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_weights =
            matches!(FileKind::read(path), Ok(FileKind::Safetensors | FileKind::Zip | FileKind::Pickle));
        is_weights && !foreign::is_no_model(&name)
    });
    if files.len() > 1 {
        let problem = foreign::of_folder(folder).unwrap_or_else(|| {
            let (count, names) = (files.len(), names_of(&files));
            format!("it holds {count} weight files and no index ({names}); choose one of them")
        });
        return Err(PackError::NotAModel { path: folder.to_owned(), problem });
    }
    Ok(files.pop())
}

/// The GGUF files of a folder.
fn gguf_files(folder: &Path) -> Result<Vec<PathBuf>, PackError> {
    files_with(folder, &["gguf"])
}

/// The first few names of files, for messages.
fn names_of(files: &[PathBuf]) -> String {
    let names = files.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy());
    let mut shown: Vec<_> = names.take(4).map(|name| format!("{name:.80}")).collect();
    if files.len() > shown.len() {
        shown.push("and others".into());
    }
    shown.join(", ")
}

fn io(path: &Path, source: std::io::Error) -> PackError {
    PackError::Io { action: "read", path: path.to_owned(), source }
}

/// Whether a folder has an entry of this name, of any kind.
fn has(folder: &Path, name: &str) -> bool {
    folder.join(name).symlink_metadata().is_ok()
}

/// Length and digest of a file, for the provenance; its pages are dropped as they are read.
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
