//! Fetches a model into the cache, or pinned files into a folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, link};
use crate::client::Client;
use crate::disk::{create_folder, file_sha256, remove_if_there};
use crate::files::{OPTIONAL_FILES, WEIGHTS, shards};
use crate::repository::{Source, is_plain_name};
use crate::{HubError, HubOptions, Progress};

/// A fetched model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// Folder that holds the files of the snapshot side by side.
    pub folder: PathBuf,
    /// The repository as it was asked for.
    pub repository: String,
    /// The commit that the revision stood for.
    pub revision: String,
}

/// A file whose content is known before it is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedFile<'a> {
    /// Name in the repository and in the folder.
    pub name: &'a str,
    /// Length, where known.
    pub bytes: Option<u64>,
    /// SHA-256 in lower-case hex, where known.
    pub sha256: Option<&'a str>,
}

/// Fetches the configuration, tokenizer and weights of `repository` into the cache.
///
/// All files are of one commit, even if the branch moves meanwhile. Files that the cache already holds
/// are not fetched again, and a transfer that broke goes on where it stopped. The weights come last and
/// the revision is recorded after them, so [`HubOptions::offline`] finds complete snapshots only.
///
/// # Errors
/// [`HubError`]. No wrong or partial file is ever left under its final name.
pub fn fetch(repository: &str, options: &HubOptions, progress: &dyn Progress) -> Result<HubModel, HubError> {
    let source = Source::new(repository, options)?;
    let cache = Cache::new(repository, &source.revision, options)?;
    if options.offline {
        return cache.model(&source);
    }
    let client = Client::new(options)?;
    let listing = client.listing(&source)?;
    let listed: BTreeSet<&str> = listing.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let commit = listing.sha.as_str();
    let snapshot = cache.snapshot(commit);
    let get = |file: &str, advice: &'static str| {
        if !listed.contains(file) {
            return Err(source.no_file(commit, file, advice));
        }
        let remote = client.remote(&source, commit, file)?;
        let blob = cache.blobs.join(&remote.etag);
        client.download(&remote, &blob, progress)?;
        link(&blob, &snapshot.join(file))
    };

    get("config.json", "is it a model of the transformers library?")?;
    for file in OPTIONAL_FILES.into_iter().filter(|file| listed.contains(file)) {
        get(file, "")?;
    }
    let weights = WEIGHTS.into_iter().find(|file| listed.contains(file));
    let weights = weights.ok_or_else(|| HubError::NoWeights {
        repository: repository.to_owned(),
        revision: commit.to_owned(),
    })?;
    get(weights, "")?;
    for shard in shards(&snapshot.join(weights))? {
        get(&shard, "its index lists the file, so the upload is incomplete")?;
    }
    if source.revision != commit {
        cache.record(commit)?;
    }
    Ok(HubModel { folder: snapshot, repository: repository.to_owned(), revision: commit.to_owned() })
}

/// Brings the `files` of `repository` into `folder`, each checked against its length and digest.
///
/// The cache is not used. Files already there and right are left alone; wrong ones are deleted and fetched
/// anew. A transfer that broke goes on where it stopped if the file's digest is known.
///
/// # Errors
/// [`HubError::Size`] and [`HubError::Digest`] if the hub serves something else than was pinned, and
/// whatever else keeps a file from arriving. No wrong or partial file is left under its final name.
///
/// # Panics
/// If a name in `files` is not a plain file name.
pub fn fetch_pinned(
    repository: &str,
    files: &[PinnedFile<'_>],
    folder: &Path,
    options: &HubOptions,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    let source = Source::new(repository, options)?;
    let client = Client::new(options)?;
    create_folder(folder)?;
    for pin in files {
        assert!(is_plain_name(pin.name), "pinned file `{}` is not a plain file name", pin.name);
        let path = folder.join(pin.name);
        if is_intact(&path, pin)? {
            continue;
        }
        remove_if_there(&path)?;
        if options.offline {
            return Err(source.offline(pin.name, folder));
        }
        let mut remote = client.remote(&source, &source.revision, pin.name)?;
        remote.pin(pin)?;
        client.download(&remote, &path, progress)?;
    }
    Ok(())
}

/// Whether the file at `path` is there and as `pin` says: its length and digest, where they are known.
///
/// # Errors
/// [`HubError::Io`] if a file that is there cannot be read.
pub fn is_intact(path: &Path, pin: &PinnedFile<'_>) -> Result<bool, HubError> {
    let Ok(held) = fs::metadata(path) else { return Ok(false) };
    if pin.bytes.is_some_and(|bytes| bytes != held.len()) {
        return Ok(false);
    }
    match pin.sha256 {
        Some(sha256) => Ok(file_sha256(path)?.eq_ignore_ascii_case(sha256)),
        None => Ok(true),
    }
}
