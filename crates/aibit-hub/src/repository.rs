//! Names of repositories, revisions and files.

use std::path::Path;

use crate::{HubError, HubOptions};

const DEFAULT_REVISION: &str = "main";

/// Whether `src` reads as a repository of the hub: `owner/name` or `name`, and no path or file name.
///
/// A name that could be both (`gpt2`, `models/gpt2`) is `true`, so look on the disk first.
pub fn looks_like_repository(src: &str) -> bool {
    const FILE_ENDINGS: [&str; 11] = [
        ".aibit",
        ".bin",
        ".ckpt",
        ".gguf",
        ".json",
        ".onnx",
        ".pt",
        ".pth",
        ".safetensors",
        ".tar.gz",
        ".zip",
    ];
    let is_part = |part: &str| {
        let edge = |c: char| c.is_ascii_alphanumeric() || c == '_';
        part.starts_with(edge) && part.ends_with(edge) && is_plain_name(part)
    };
    let lower = src.to_ascii_lowercase();
    // The hub itself forbids `--` and `..`, and names longer than 96 characters.
    src.len() <= 96
        && !src.contains("--")
        && !src.contains("..")
        && !FILE_ENDINGS.iter().any(|ending| lower.ends_with(ending))
        && match src.split_once('/') {
            Some((owner, name)) => is_part(owner) && is_part(name),
            None => is_part(src),
        }
}

/// A checked repository name and revision.
pub(crate) struct Source {
    pub(crate) repository: String,
    pub(crate) revision: String,
}

impl Source {
    pub(crate) fn new(repository: &str, options: &HubOptions) -> Result<Self, HubError> {
        if !looks_like_repository(repository) {
            return Err(HubError::RepositoryName { repository: repository.to_owned() });
        }
        let revision = options.revision.as_deref().unwrap_or(DEFAULT_REVISION);
        // Branches may have `/` in them (`refs/pr/1`); it becomes folders below `refs` in the cache.
        if !revision.split('/').all(is_plain_name) {
            return Err(HubError::RevisionName { revision: revision.to_owned() });
        }
        Ok(Self { repository: repository.to_owned(), revision: revision.to_owned() })
    }

    pub(crate) fn no_file(&self, commit: &str, file: &str, advice: &'static str) -> HubError {
        HubError::NoFile {
            repository: self.repository.clone(),
            revision: commit.to_owned(),
            file: file.to_owned(),
            advice,
        }
    }

    pub(crate) fn offline(&self, file: &str, folder: &Path) -> HubError {
        HubError::Offline {
            repository: self.repository.clone(),
            revision: self.revision.clone(),
            file: file.to_owned(),
            folder: folder.to_owned(),
        }
    }
}

/// Whether `name` is one path component, the same on every system and unchanged in an address.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}
