//! Where from, where to and how a repository is fetched.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

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

/// An environment variable, if it is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
