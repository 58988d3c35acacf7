//! Fetches model folders from the Hugging Face hub, or from anything that speaks its file API.
//!
//! The cache is the one other tools share, in the layout and under the environment rules of `hf-hub`:
//! `blobs/<etag>` holds contents, `snapshots/<commit>/<file>` points at them, `refs/<revision>` names a
//! commit. The transfer is ours, because that of `hf-hub` 0.5 checks neither length nor digest before
//! it renames, appends a whole file to its prefix when a server ignores `Range`, cannot finish a partial
//! file that is already complete, has no timeouts, and sends the token on to the storage host.
//!
//! What must stay true here: a final name appears by a rename, after the length (and the SHA-256, where
//! one is known) was checked; and nothing a server sends becomes part of a path unless it is a plain name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use crate::{Progress, small_file};

/// Files fetched when the repository has them, beside `config.json` (required) and the weights.
const OPTIONAL_FILES: [&str; 10] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.model",
];

/// Names of the weights, best first. A name that ends in `.index.json` lists shards.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const DEFAULT_REVISION: &str = "main";

/// Listings and shard indexes are parsed in memory; the largest public ones are a few MiB.
const MAX_JSON_BYTES: u64 = 64 << 20;
const MAX_REDIRECTS: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may stay silent before it is dropped and resumed on a new one.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How much further a transfer must get before failed attempts are counted anew: a server that gives a byte each time
/// would otherwise be asked for ever.
const MIN_PROGRESS: u64 = 64 << 10;
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Where from, where to and how a repository is fetched.
#[derive(Clone)]
pub struct HubOptions {
    /// Branch, tag or commit; `main` if not given.
    pub revision: Option<String>,
    /// Use only what the cache holds and open no connection.
    pub offline: bool,
    /// Address of the hub; if not given, `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// Cache folder; if not given, `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: Option<PathBuf>,
    /// Access token; if not given, `HF_TOKEN`, else the file `token` of `HF_HOME`. Sent to the endpoint alone.
    pub token: Option<String>,
    /// Attempts after a failed one, counted anew whenever a transfer got a good deal further than before.
    pub retries: u32,
    /// How long an answer of the hub about a repository may take as a whole.
    pub answer_time: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            revision: None,
            offline: false,
            endpoint: None,
            cache: None,
            token: None,
            retries: 5,
            answer_time: Duration::from_secs(60),
        }
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("revision", &self.revision)
            .field("offline", &self.offline)
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "hidden"))
            .field("retries", &self.retries)
            .field("answer_time", &self.answer_time)
            .finish()
    }
}

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

    /// The hub knows no such repository or revision.
    #[error(
        "no repository `{repository}` with revision `{revision}` at {endpoint}; check the spelling \
         (most names are `owner/name`, as in openai-community/gpt2)"
    )]
    NotFound {
        /// The repository as given.
        repository: String,
        /// The revision as given.
        revision: String,
        /// The hub asked.
        endpoint: String,
    },

    /// The hub refuses access. It answers so for a repository that does not exist, too.
    #[error("access to `{repository}` at {endpoint} is denied (status {status}); {advice}")]
    Denied {
        /// The repository as given.
        repository: String,
        /// The hub asked.
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
        /// The address asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A status that says neither yes nor a plain no.
    #[error("{url} answered with status {status}; try again later")]
    Status {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },

    /// The connection failed or broke. What arrived is kept and the next fetch goes on from there.
    #[error("the transfer from {url} failed; check the network and fetch again")]
    Transport {
        /// The address asked.
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

/// A checked repository name and revision.
struct Source {
    repository: String,
    revision: String,
}

impl Source {
    fn new(repository: &str, options: &HubOptions) -> Result<Self, HubError> {
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

    fn no_file(&self, commit: &str, file: &str, advice: &'static str) -> HubError {
        HubError::NoFile {
            repository: self.repository.clone(),
            revision: commit.to_owned(),
            file: file.to_owned(),
            advice,
        }
    }

    fn offline(&self, file: &str, folder: &Path) -> HubError {
        HubError::Offline {
            repository: self.repository.clone(),
            revision: self.revision.clone(),
            file: file.to_owned(),
            folder: folder.to_owned(),
        }
    }
}

/// The part of the shared cache that belongs to one revision of one repository.
struct Cache {
    repo: hf_hub::CacheRepo,
    folder: PathBuf,
    blobs: PathBuf,
    reference: PathBuf,
}

impl Cache {
    fn new(repository: &str, revision: &str, options: &HubOptions) -> Result<Self, HubError> {
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

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// The model from the cache alone.
    fn model(&self, source: &Source) -> Result<HubModel, HubError> {
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
    fn record(&self, commit: &str) -> Result<(), HubError> {
        let folder = self.reference.parent().unwrap_or(&self.folder);
        create_folder(folder)?;
        replace(&self.reference, |path| fs::write(path, commit))
    }
}

/// The cache under the home folder, unless there is neither `HF_HOME` nor a home folder.
fn home_cache() -> Option<hf_hub::Cache> {
    // Asked first because `hf_hub` panics without either.
    let known = std::env::var_os("HF_HOME").is_some() || std::env::home_dir().is_some();
    known.then(hf_hub::Cache::from_env)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What the hub lists for a revision.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// A file as the hub announces it.
struct Remote {
    file: String,
    url: String,
    /// Content address: names the blob.
    etag: String,
    size: Option<u64>,
    sha256: Option<String>,
}

impl Remote {
    /// Narrows what is accepted to `pin`, or finds before any transfer that it cannot match.
    fn pin(&mut self, pin: &PinnedFile<'_>) -> Result<(), HubError> {
        if let (Some(expected), Some(found)) = (pin.bytes, self.size) {
            self.check_size(expected, found)?;
        }
        if let (Some(expected), Some(found)) = (pin.sha256, self.sha256.as_deref()) {
            self.check_digest(expected, found)?;
        }
        self.size = pin.bytes.or(self.size);
        self.sha256 = pin.sha256.map(str::to_owned).or_else(|| self.sha256.take());
        Ok(())
    }

    fn check_size(&self, expected: u64, found: u64) -> Result<(), HubError> {
        if expected == found {
            return Ok(());
        }
        Err(HubError::Size { file: self.file.clone(), url: self.url.clone(), expected, found })
    }

    /// The longest that a file of this name may be. Weights have no limit of their own, but must say how long they are.
    fn limit(&self) -> u64 {
        let is_weights = [".safetensors", ".bin"].iter().any(|ending| self.file.ends_with(ending));
        if is_weights { self.size.unwrap_or(0) } else { small_file::limit(&self.file) }
    }

    /// Checks that `length` bytes of it, with more to come or not, are not too many.
    fn check_limit(&self, length: u64, found: impl FnOnce() -> String) -> Result<(), HubError> {
        let limit = self.limit();
        if length <= limit {
            return Ok(());
        }
        Err(HubError::TooLong { file: self.file.clone(), url: self.url.clone(), limit, found: found() })
    }

    fn check_digest(&self, expected: &str, found: &str) -> Result<(), HubError> {
        if expected.eq_ignore_ascii_case(found) {
            return Ok(());
        }
        Err(HubError::Digest {
            file: self.file.clone(),
            url: self.url.clone(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        })
    }
}

/// A failed attempt, and whether the next one may go better.
struct Failure {
    error: HubError,
    transient: bool,
}

/// Lets `?` turn what is wrong for good into a failure that ends the attempts.
impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self { error, transient: false }
    }
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// What the hub says of a file.
    Headers,
    /// A file from this byte on.
    Content { from: u64 },
    /// What the hub says of a repository, all of it in bounded time.
    Answer,
}

/// Speaks HTTP with one hub.
struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    retries: u32,
    answer_time: Duration,
}

impl Client {
    fn new(options: &HubOptions) -> Result<Self, HubError> {
        let endpoint = options.endpoint.clone().or_else(|| variable("HF_ENDPOINT"));
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let host = endpoint.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        let host = host.ok_or_else(|| HubError::Answer {
            url: endpoint.clone(),
            reason: "it is not an address with a host".to_owned(),
        })?;
        let token = options.token.clone().or_else(|| variable("HF_TOKEN"));
        let token = token.or_else(|| home_cache().and_then(|cache| cache.token()));

        let mut config = Agent::config_builder()
            .user_agent(concat!("aibit/", env!("CARGO_PKG_VERSION")))
            // A compressed answer would have other offsets and another length than the file.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT));
        if matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]") {
            config = config.proxy(None); // a mirror on this machine is not reached through a proxy
        }
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Ok(Self {
            agent: config.build().into(),
            endpoint,
            token,
            retries: options.retries,
            answer_time: options.answer_time,
        })
    }

    /// The commit and the file names of the revision.
    fn listing(&self, source: &Source) -> Result<Listing, HubError> {
        let revision = source.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}", self.endpoint, source.repository);
        let listing: Listing = self.retry(
            || 0,
            || {
                let response = self.send(&url, Wanted::Answer)?;
                self.check_access(source, &response)?;
                if response.status() == StatusCode::NOT_FOUND {
                    return Err(self.not_found(source).into());
                }
                check_status(&url, response.status())?;
                let body = response.into_body().into_with_config().limit(MAX_JSON_BYTES).read_to_vec();
                let body = body.map_err(|source| transport(&url, source))?;
                serde_json::from_slice(&body).map_err(|error| answer(&url, error.to_string()).into())
            },
        )?;
        if !is_plain_name(&listing.sha) {
            return Err(answer(&url, format!("`{}` is not a commit", listing.sha)));
        }
        Ok(listing)
    }

    /// What the hub says about `file` at `revision`, without its content.
    fn remote(&self, source: &Source, revision: &str, file: &str) -> Result<Remote, HubError> {
        let escaped = revision.replace('/', "%2F");
        let url = format!("{}/{}/resolve/{escaped}/{file}", self.endpoint, source.repository);
        let headers = self.retry(
            || 0,
            || {
                let response = self.send(&url, Wanted::Headers)?;
                self.check_access(source, &response)?;
                if response.status() == StatusCode::NOT_FOUND {
                    return Err(source.no_file(revision, file, "check the name and the revision").into());
                }
                // A redirect to storage is an answer, too: it carries the file's own digest and length.
                if !response.status().is_redirection() {
                    check_status(&url, response.status())?;
                }
                Ok(response.headers().clone())
            },
        )?;
        let linked = text(&headers, "x-linked-etag").map(plain_etag);
        let size = if linked.is_some() { "x-linked-size" } else { "content-length" };
        let etag = linked.or_else(|| text(&headers, "etag").map(plain_etag)).unwrap_or_default();
        if !is_plain_name(etag) {
            return Err(answer(&url, format!("`{etag}` is not an ETag that can name a file")));
        }
        // The linked ETag is the SHA-256 of the content. Any other one may be a digest of something else.
        let is_sha256 = |etag: &&str| etag.len() == 64 && etag.bytes().all(|c| c.is_ascii_hexdigit());
        Ok(Remote {
            file: file.to_owned(),
            etag: etag.to_owned(),
            size: text(&headers, size).and_then(|size| size.parse().ok()),
            sha256: linked.filter(is_sha256).map(str::to_owned),
            url,
        })
    }

    /// Brings `remote` to `path`, unless a file of its length is there.
    fn download(&self, remote: &Remote, path: &Path, progress: &dyn Progress) -> Result<(), HubError> {
        create_folder(path.parent().unwrap_or(Path::new(".")))?;
        let _lock = lock(path)?;
        // Looked at under the lock: somebody else may have brought the file while we waited for it.
        if fs::metadata(path).is_ok_and(|held| remote.size.is_none_or(|size| size == held.len())) {
            return Ok(());
        }
        match remote.size {
            Some(size) => remote.check_limit(size, || format!("{size}"))?,
            None => remote.check_limit(1, || "an unknown number of them".to_owned())?,
        }
        let part = beside(path, "part");
        if remote.sha256.is_none() {
            // Nothing would tell that a prefix from an earlier run belongs to another version.
            remove_if_there(&part)?;
        }
        let result = self.retry(
            || fs::metadata(&part).map_or(0, |part| part.len()),
            || self.transfer(remote, &part, progress),
        );
        let result = result.and_then(|()| match &remote.sha256 {
            Some(expected) => remote.check_digest(expected, &file_sha256(&part)?),
            None => Ok(()),
        });
        if let Err(error) = result {
            if !matches!(error, HubError::Transport { .. } | HubError::Status { .. } | HubError::Io { .. }) {
                remove_if_there(&part)?;
            }
            return Err(error);
        }
        fs::rename(&part, path).map_err(io_error("write", path))?;
        progress.finish();
        Ok(())
    }

    /// One attempt to complete `part`, from where it ends.
    fn transfer(&self, remote: &Remote, part: &Path, progress: &dyn Progress) -> Result<(), Failure> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let mut file = options.open(part).map_err(io_error("write", part))?;
        let held = file.metadata().map_err(io_error("read", part))?.len();
        let mut start = match remote.size {
            Some(size) if held <= size => held,
            _ => 0,
        };
        progress.start(&remote.file, remote.size.unwrap_or(0));
        if remote.size != Some(start) {
            let response = self.send(&remote.url, Wanted::Content { from: start })?;
            let status = response.status();
            if status == StatusCode::RANGE_NOT_SATISFIABLE {
                // Only a file that ends before `start` cannot go on from there.
                remote.check_size(remote.size.unwrap_or(0), total(response.headers()).unwrap_or(start))?;
            }
            check_status(&remote.url, status)?;
            if status != StatusCode::PARTIAL_CONTENT {
                start = 0; // the server sends the whole file, asked for or not
            } else if !text(response.headers(), "content-range")
                .is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
            {
                return Err(answer(&remote.url, format!("not the range from byte {start}")).into());
            }
            let whole = match status {
                StatusCode::PARTIAL_CONTENT => total(response.headers()),
                _ => text(response.headers(), "content-length").and_then(|length| length.parse().ok()),
            };
            if let (Some(expected), Some(found)) = (remote.size, whole) {
                remote.check_size(expected, found)?;
            }
            file.set_len(start).map_err(io_error("write", part))?;
            file.seek(SeekFrom::Start(start)).map_err(io_error("write", part))?;
            progress.advance(start);
            copy(remote, response.into_body(), &mut file, start, part, progress)?;
        } else {
            progress.advance(start);
        }
        // Before the rename: a name must not reach the disk ahead of its content.
        file.sync_data().map_err(io_error("write", part))?;
        Ok(())
    }

    /// Sends one request and follows its redirects: all of them for the content, and for the headers up
    /// to the first that describes the file behind it.
    fn send(&self, url: &str, wanted: Wanted) -> Result<Response<Body>, Failure> {
        let mut target = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = match wanted {
                Wanted::Headers => self.agent.head(&target),
                Wanted::Content { from: 0 } => self.agent.get(&target),
                Wanted::Content { from } => {
                    self.agent.get(&target).header(header::RANGE, format!("bytes={from}-"))
                }
                Wanted::Answer => {
                    self.agent.get(&target).config().timeout_recv_body(Some(self.answer_time)).build()
                }
            };
            if let Some(token) = &self.token
                && origin(&target) == origin(&self.endpoint)
            {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|source| transport(url, source))?;
            let described = wanted == Wanted::Headers && response.headers().contains_key("x-linked-etag");
            if !response.status().is_redirection() || described {
                return Ok(response);
            }
            target = match text(response.headers(), "location") {
                Some(to) if to.starts_with("https://") || to.starts_with("http://") => to.to_owned(),
                Some(to) if to.starts_with('/') && !to.starts_with("//") => {
                    format!("{}{to}", origin(&target))
                }
                to => return Err(answer(url, format!("a redirect to {to:?}")).into()),
            };
        }
        Err(answer(url, format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    /// Repeats `attempt` while it fails in passing. Getting [`MIN_PROGRESS`] further than before starts the count anew.
    fn retry<T>(
        &self,
        position: impl Fn() -> u64,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let (mut failures, mut furthest) = (0, position());
        loop {
            let failure = match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if position() >= furthest.saturating_add(MIN_PROGRESS) {
                (failures, furthest) = (0, position());
            }
            if !failure.transient || failures >= self.retries {
                return Err(failure.error);
            }
            thread::sleep(FIRST_RETRY_DELAY * 2u32.pow(failures.min(6)));
            failures += 1;
        }
    }

    fn check_access(&self, source: &Source, response: &Response<Body>) -> Result<(), HubError> {
        let status = response.status();
        if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(());
        }
        let gated = text(response.headers(), "x-error-code") == Some("GatedRepo");
        let advice = match (&self.token, gated) {
            (None, true) => "accept its terms on its page, then set HF_TOKEN",
            (Some(_), true) => "accept its terms on its page with the account of the token",
            (None, false) => "check the name; if it is private or gated, set HF_TOKEN",
            (Some(_), false) => "check the name, and whether the token is valid and may read it",
        };
        Err(HubError::Denied {
            repository: source.repository.clone(),
            endpoint: self.endpoint.clone(),
            status: status.as_u16(),
            advice,
        })
    }

    fn not_found(&self, source: &Source) -> HubError {
        HubError::NotFound {
            repository: source.repository.clone(),
            revision: source.revision.clone(),
            endpoint: self.endpoint.clone(),
        }
    }
}

/// Appends `body` to `file`, which holds `length` bytes, and checks where it ends.
fn copy(
    remote: &Remote,
    body: Body,
    file: &mut File,
    mut length: u64,
    part: &Path,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let mut reader = body.into_reader();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = reader.read(&mut buffer).map_err(|error| transport(&remote.url, error.into()))?;
        if read == 0 {
            break;
        }
        length += read as u64;
        if let Some(size) = remote.size.filter(|&size| length > size) {
            remote.check_size(size, length)?;
        }
        remote.check_limit(length, || "more".to_owned())?;
        file.write_all(&buffer[..read]).map_err(io_error("write", part))?;
        progress.advance(read as u64);
    }
    if remote.size.is_some_and(|size| length < size) {
        // An answer without a length ended early. Only the next attempt tells a cut from a short file.
        return Err(transport(&remote.url, io::Error::from(io::ErrorKind::UnexpectedEof).into()));
    }
    Ok(())
}

fn transport(url: &str, source: ureq::Error) -> Failure {
    let transient = match &source {
        ureq::Error::Io(error) => error.kind() != io::ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_)
        | ureq::Error::BodyStalled => true,
        _ => false,
    };
    Failure { error: HubError::Transport { url: url.to_owned(), source: Box::new(source) }, transient }
}

fn answer(url: &str, reason: String) -> HubError {
    HubError::Answer { url: url.to_owned(), reason }
}

fn check_status(url: &str, status: StatusCode) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    Err(Failure {
        error: HubError::Status { url: url.to_owned(), status: status.as_u16() },
        transient: matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
    })
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
    move |source| HubError::Io { action, path: path.to_owned(), source }
}

/// `scheme://host:port` of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |end| &url[..host + end])
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The length after the slash of `Content-Range`.
fn total(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-range")?.rsplit_once('/')?.1.parse().ok()
}

fn plain_etag(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

/// Whether `name` is one path component, the same on every system and unchanged in an address.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// The shards that the weights at `path` consist of; none if they are no index.
fn shards(path: &Path) -> Result<BTreeSet<String>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let index = path.file_name().unwrap_or_default().to_string_lossy();
    if !index.ends_with(".index.json") {
        return Ok(BTreeSet::new());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io_error("read", path))?;
    file.take(MAX_JSON_BYTES).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    let parsed: Index =
        serde_json::from_slice(&bytes).map_err(|source| HubError::Index { path: path.to_owned(), source })?;
    let shards: BTreeSet<String> = parsed.weight_map.into_values().collect();
    match shards.iter().find(|shard| !is_plain_name(shard)) {
        Some(shard) => Err(HubError::ShardName { index: index.into_owned(), shard: shard.clone() }),
        None => Ok(shards),
    }
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

fn file_sha256(path: &Path) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(io_error("read", path))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(io_error("read", path))? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(aibit_format::hex(&digest.finalize()))
}

/// Makes `pointer` stand for `blob`: a relative symbolic link, or where there are none, a hard link or a copy.
fn link(blob: &Path, pointer: &Path) -> Result<(), HubError> {
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

/// Puts what `write` makes at a name of its own under `path`, in one step.
fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), HubError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let new = beside(path, &format!("{}-{count}.new", std::process::id()));
    remove_if_there(&new)?;
    write(&new).and_then(|()| fs::rename(&new, path)).map_err(io_error("write", path))
}

/// Waits until no other process fetches `path`. Held until the file returned is dropped.
fn lock(path: &Path) -> Result<File, HubError> {
    // The same file that `hf-hub` locks. It stays: deleting it could part those who wait from those who come.
    let path = beside(path, "lock");
    let file = File::create(&path).map_err(io_error("write", &path))?;
    match file.lock() {
        // A file system without locks: the rename at the end still keeps every name sound.
        Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(io_error("lock", &path)(error)),
        _ => Ok(file),
    }
}

/// `path` with `.extension` appended.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn remove_if_there(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("delete", path)(error)),
        _ => Ok(()),
    }
}

fn create_folder(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(io_error("create", folder))
}
