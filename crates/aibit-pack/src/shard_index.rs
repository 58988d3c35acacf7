//! The index of a sharded checkpoint, which assigns tensors to files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{PackError, small_file};

/// A parsed index.
#[derive(Debug, Clone)]
pub(crate) struct ShardIndex {
    /// The path of the index.
    pub(crate) path: PathBuf,
    /// File names by tensor name.
    pub(crate) weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// The index called `name` in a folder, if it exists.
    ///
    /// # Errors
    /// [`PackError::SourceFile`] for a malformed index, or one that names files outside the folder.
    pub(crate) fn read(folder: &Path, name: &str) -> Result<Option<Self>, PackError> {
        #[derive(Deserialize)]
        struct File {
            weight_map: BTreeMap<String, String>,
        }
        let Some(json) = small_file::read(folder, name)? else { return Ok(None) };
        let path = folder.join(name);
        let bad = |problem: String| PackError::SourceFile { path: path.clone(), problem };
        let File { weight_map } = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
        if weight_map.is_empty() {
            return Err(bad("weight_map is empty".into()));
        }
        let index = Self { path: path.clone(), weight_map };
        for shard in index.names() {
            if shard.is_empty() || shard.contains(['/', '\\', '\0']) || shard.starts_with('.') {
                let shown: String = shard.escape_debug().take(200).collect();
                return Err(bad(format!("the shard `{shown}` is not a plain file name")));
            }
            if folder.join(shard).symlink_metadata().is_err() {
                return Err(bad(format!("it names the shard `{shard:.200}`, which is not in the folder")));
            }
        }
        Ok(Some(index))
    }

    /// The files without duplicates, sorted by name.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The paths of the files.
    pub(crate) fn files(&self, folder: &Path) -> Vec<PathBuf> {
        self.names().into_iter().map(|name| folder.join(name)).collect()
    }
}
