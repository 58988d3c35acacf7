//! HTTP with one hub: requests, redirects, attempts, and what the answers say.

use std::time::Duration;
use std::{io, thread};

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use crate::cache::home_cache;
use crate::files::MAX_JSON_BYTES;
use crate::options::variable;
use crate::remote::Remote;
use crate::repository::{Source, is_plain_name};
use crate::{HubError, HubOptions};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const MAX_REDIRECTS: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may stay silent before it is dropped and resumed on a new one.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How much further a transfer must get before failed attempts are counted anew: a server that gives a byte each time
/// would otherwise be asked for ever.
const MIN_PROGRESS: u64 = 64 << 10;
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(200);

/// What the hub lists for a revision.
#[derive(Deserialize)]
pub(crate) struct Listing {
    pub(crate) sha: String,
    pub(crate) siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
pub(crate) struct Sibling {
    pub(crate) rfilename: String,
}

/// A failed attempt, and whether the next one may go better.
pub(crate) struct Failure {
    pub(crate) error: HubError,
    pub(crate) transient: bool,
}

/// Lets `?` turn what is wrong for good into a failure that ends the attempts.
impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self { error, transient: false }
    }
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// What the hub says of a file.
    Headers,
    /// A file from this byte on.
    Content { from: u64 },
    /// What the hub says of a repository, all of it in bounded time.
    Answer,
}

/// Speaks HTTP with one hub.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    retries: u32,
    answer_time: Duration,
}

impl Client {
    pub(crate) fn new(options: &HubOptions) -> Result<Self, HubError> {
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
    pub(crate) fn listing(&self, source: &Source) -> Result<Listing, HubError> {
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
    pub(crate) fn remote(&self, source: &Source, revision: &str, file: &str) -> Result<Remote, HubError> {
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

    /// Sends one request and follows its redirects: all of them for the content, and for the headers up
    /// to the first that describes the file behind it.
    pub(crate) fn send(&self, url: &str, wanted: Wanted) -> Result<Response<Body>, Failure> {
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
    pub(crate) fn retry<T>(
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

pub(crate) fn transport(url: &str, source: ureq::Error) -> Failure {
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

pub(crate) fn answer(url: &str, reason: String) -> HubError {
    HubError::Answer { url: url.to_owned(), reason }
}

pub(crate) fn check_status(url: &str, status: StatusCode) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    Err(Failure {
        error: HubError::Status { url: url.to_owned(), status: status.as_u16() },
        transient: matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
    })
}

/// `scheme://host:port` of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |end| &url[..host + end])
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn plain_etag(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}
