//! What can be wrong between the hub and the folder.

use std::io;
use std::path::PathBuf;

use crate::files::WEIGHTS;

/// What can go wrong between the hub and the folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The repository name cannot be one.
    #[error("`{repository}` is not a repository name; write `name` or `owner/name`")]
    RepositoryName {
        /// The name as given.
        repository: String,
    },

    /// The revision cannot be one.
    #[error("`{revision}` is not a revision; give a branch, a tag or a full commit hash")]
    RevisionName {
        /// The revision as given.
        revision: String,
    },

    /// The hub has no such repository or revision.
    #[error(
        "no repository `{repository}` with revision `{revision}` at {endpoint}; check the spelling \
         (most names are `owner/name`, as in openai-community/gpt2)"
    )]
    NotFound {
        /// The repository as given.
        repository: String,
        /// The revision as given.
        revision: String,
        /// The hub's address.
        endpoint: String,
    },

    /// The hub refuses access. It answers so for a repository that does not exist, too.
    #[error("access to `{repository}` at {endpoint} is denied (status {status}); {advice}")]
    Denied {
        /// The repository as given.
        repository: String,
        /// The hub's address.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// What to do about it.
        advice: &'static str,
    },

    /// A file is needed that the repository does not have.
    #[error("`{repository}` at revision {revision} has no file `{file}`; {advice}")]
    NoFile {
        /// The repository as given.
        repository: String,
        /// The commit.
        revision: String,
        /// The missing file.
        file: String,
        /// What to do about it.
        advice: &'static str,
    },

    /// None of the known weight files is in the repository.
    #[error(
        "`{repository}` at revision {revision} has no weights that can be read; \
         looked for {}", WEIGHTS.join(", ")
    )]
    NoWeights {
        /// The repository as given.
        repository: String,
        /// The commit.
        revision: String,
    },

    /// A shard index names a file outside its folder, or in a way no file of a repository is named.
    #[error(
        "`{index}` names the shard `{shard}`, which is not a plain file name; the repository is not sound"
    )]
    ShardName {
        /// The index file.
        index: String,
        /// The name it holds.
        shard: String,
    },

    /// A shard index is not what it should be.
    #[error("the shard index {} cannot be read; it should be JSON with a `weight_map`", path.display())]
    Index {
        /// The index file on disk.
        path: PathBuf,
        /// What the parser met.
        source: serde_json::Error,
    },

    /// An answer that is not what the hub's file API gives.
    #[error("the answer to {url} is not that of a model hub: {reason}; check the endpoint")]
    Answer {
        /// The address of the request.
        url: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A status that says neither yes nor a plain no.
    #[error("{url} answered with status {status}; try again later")]
    Status {
        /// The address of the request.
        url: String,
        /// The HTTP status.
        status: u16,
    },

    /// The connection failed or broke. What arrived is kept and the next fetch goes on from there.
    #[error("the transfer from {url} failed; check the network and fetch again")]
    Transport {
        /// The address of the request.
        url: String,
        /// What the network said.
        source: Box<ureq::Error>,
    },

    /// A file is longer or shorter than it must be.
    #[error("`{file}` must hold {expected} bytes, {url} serves {found}; nothing was kept")]
    Size {
        /// The file.
        file: String,
        /// Where it came from.
        url: String,
        /// The length announced or pinned.
        expected: u64,
        /// The length served, or as far as it was read.
        found: u64,
    },

    /// A file is longer than one of its name may be, or does not say how long it is.
    #[error("`{file}` may hold {limit} bytes, {url} serves {found}; nothing was kept")]
    TooLong {
        /// The file.
        file: String,
        /// Where it came from.
        url: String,
        /// The longest length for this name.
        limit: u64,
        /// The length announced, or that it is longer.
        found: String,
    },

    /// A file is not the one that was asked for.
    #[error("`{file}` must have SHA-256 {expected}, {url} serves {found}; nothing was kept, fetch again")]
    Digest {
        /// The file.
        file: String,
        /// Where it came from.
        url: String,
        /// The digest announced or pinned, in hex.
        expected: String,
        /// The digest served, in hex.
        found: String,
    },

    /// Without a connection, a file is needed that is not on disk.
    #[error(
        "offline, and `{file}` of `{repository}` (revision `{revision}`) is not in {}; \
         fetch it once with a connection", folder.display()
    )]
    Offline {
        /// The repository as given.
        repository: String,
        /// The revision as given.
        revision: String,
        /// The missing file.
        file: String,
        /// The folder searched.
        folder: PathBuf,
    },

    /// There is no place for a cache.
    #[error("no home folder to keep a cache in; set HF_HOME or name a cache folder")]
    NoCache,

    /// A file or folder on disk cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
