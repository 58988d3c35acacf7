//! The cache that is shared with other tools, in the layout and under the environment rules of `hf-hub`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::{create_folder, replace};
use crate::files::{WEIGHTS, shards};
use crate::options::variable;
use crate::repository::{Source, is_plain_name};
use crate::{HubError, HubModel, HubOptions};

/// The part of the shared cache that belongs to one revision of one repository.
pub(crate) struct Cache {
    repo: hf_hub::CacheRepo,
    folder: PathBuf,
    pub(crate) blobs: PathBuf,
    reference: PathBuf,
}

impl Cache {
    pub(crate) fn new(repository: &str, revision: &str, options: &HubOptions) -> Result<Self, HubError> {
        let cache = match options.cache.clone().or_else(|| variable("HF_HUB_CACHE").map(PathBuf::from)) {
            Some(folder) => hf_hub::Cache::new(folder),
            None => home_cache().ok_or(HubError::NoCache)?,
        };
        let repo = hf_hub::Repo::model(repository.to_owned());
        let folder = cache.path().join(repo.folder_name());
        Ok(Self {
            blobs: folder.join("blobs"),
            reference: folder.join("refs").join(revision),
            repo: cache.repo(repo),
            folder,
        })
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// The model from the cache alone.
    pub(crate) fn model(&self, source: &Source) -> Result<HubModel, HubError> {
        // A commit hash needs no reference: it is the snapshot's name.
        let commit = fs::read_to_string(&self.reference)
            .map_or_else(|_| source.revision.clone(), |text| text.trim().to_owned());
        if !is_plain_name(&commit) || !self.snapshot(&commit).is_dir() {
            return Err(source.offline("config.json", &self.folder));
        }
        let snapshot = self.snapshot(&commit);
        let held = |file: &str| snapshot.join(file).is_file();
        let need = |file: &str| if held(file) { Ok(()) } else { Err(source.offline(file, &snapshot)) };
        need("config.json")?;
        let weights = WEIGHTS.into_iter().find(|file| held(file)).unwrap_or(WEIGHTS[0]);
        need(weights)?;
        for shard in shards(&snapshot.join(weights))? {
            need(&shard)?;
        }
        Ok(HubModel { folder: snapshot, repository: source.repository.clone(), revision: commit })
    }

    /// Notes that the revision stands for `commit`.
    pub(crate) fn record(&self, commit: &str) -> Result<(), HubError> {
        let folder = self.reference.parent().unwrap_or(&self.folder);
        create_folder(folder)?;
        replace(&self.reference, |path| fs::write(path, commit))
    }
}

/// The cache under the home folder, unless there is neither `HF_HOME` nor a home folder.
pub(crate) fn home_cache() -> Option<hf_hub::Cache> {
    // Asked first because `hf_hub` panics without either.
    let known = std::env::var_os("HF_HOME").is_some() || std::env::home_dir().is_some();
    known.then(hf_hub::Cache::from_env)
}

/// Makes `pointer` stand for `blob`: a relative symbolic link, or where there are none, a hard link or a copy.
pub(crate) fn link(blob: &Path, pointer: &Path) -> Result<(), HubError> {
    create_folder(pointer.parent().unwrap_or(Path::new(".")))?;
    #[cfg(unix)]
    {
        let target = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
        if fs::read_link(pointer).is_ok_and(|held| held == target) {
            return Ok(());
        }
        replace(pointer, |path| std::os::unix::fs::symlink(&target, path))
    }
    #[cfg(not(unix))]
    replace(pointer, |path| fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(drop)))
}
