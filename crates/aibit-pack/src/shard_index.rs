//! The index of a checkpoint in several files: which tensor lies in which of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{PackError, small_file};

/// What an index says.
#[derive(Debug, Clone)]
pub(crate) struct ShardIndex {
    /// The index itself.
    pub(crate) path: PathBuf,
    /// File names by the names of tensors.
    pub(crate) weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// The index called `name` in a folder, if it is there.
    ///
    /// # Errors
    /// [`PackError::SourceFile`] for one that is malformed, or names files that are not in the folder.
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

    /// The files, each once, in the order of their names.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Where the files lie.
    pub(crate) fn files(&self, folder: &Path) -> Vec<PathBuf> {
        self.names().into_iter().map(|name| folder.join(name)).collect()
    }
}
