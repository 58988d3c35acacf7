//! A model hub on this machine: the file API as the public one speaks it, and faults on request.
//!
//! Large files are redirected to a storage host (the same server under another name), as there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

/// The commit that every known revision stands for.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Something to go wrong with one answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection closes after so many bytes of the body.
    Cut(usize),
    /// Nothing but this status.
    Status(u16),
    /// 403, with the reason that the hub gives for gated repositories.
    Gated,
    /// Another body, with its true length.
    Body(Vec<u8>),
    /// Another body, whose length only the end of the connection tells.
    BodyUntilClose(Vec<u8>),
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// Another ETag.
    Etag(&'static str),
    /// No `Content-Length`.
    NoLength,
    /// The true body, a byte at a time, and no `Content-Length`.
    Drip,
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).cloned()
    }
}

#[derive(Default)]
struct State {
    repository: String,
    old_name: Option<String>,
    commit: String,
    /// Content, and whether it is redirected to storage.
    files: BTreeMap<String, (Vec<u8>, bool)>,
    faults: Vec<(&'static str, String, Fault)>,
    requests: Vec<Request>,
}

/// A hub with one repository. Its thread ends with the test process.
pub(crate) struct Hub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub(crate) fn new(repository: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { repository: repository.into(), commit: COMMIT.into(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A client that hangs up early is part of the tests.
                thread::spawn(move || serve(stream, address, &shared));
            }
        });
        Self { address, state }
    }

    pub(crate) fn file(self, name: &str, content: Vec<u8>) -> Self {
        self.state.lock().unwrap().files.insert(name.to_owned(), (content, false));
        self
    }

    pub(crate) fn large_file(self, name: &str, content: Vec<u8>) -> Self {
        self.state.lock().unwrap().files.insert(name.to_owned(), (content, true));
        self
    }

    pub(crate) fn commit(self, commit: &str) -> Self {
        self.state.lock().unwrap().commit = commit.to_owned();
        self
    }

    pub(crate) fn renamed_from(self, old_name: &str) -> Self {
        self.state.lock().unwrap().old_name = Some(old_name.to_owned());
        self
    }

    /// Lets one answer to `method` for what ends in `file` go wrong; several go wrong in turn.
    pub(crate) fn break_once(&self, method: &'static str, file: &str, fault: Fault) {
        self.state.lock().unwrap().faults.push((method, file.to_owned(), fault));
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn listing_path(&self, revision: &str) -> String {
        format!("/api/models/{}/revision/{revision}", self.state.lock().unwrap().repository)
    }

    pub(crate) fn content(&self, file: &str) -> Vec<u8> {
        self.state.lock().unwrap().files[file].0.clone()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The `Range` of each request for the content of a large file.
    pub(crate) fn ranges(&self, file: &str) -> Vec<Option<String>> {
        let path = format!("/storage/{file}");
        let requests = self.requests().into_iter();
        requests.filter(|request| request.path == path).map(|request| request.header("range")).collect()
    }
}

/// The digest in hex.
pub(crate) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One request, one answer, and the connection closes.
fn serve(mut stream: TcpStream, address: SocketAddr, state: &Mutex<State>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request { method, path, headers };
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let is_slow = state.faults.iter().any(|(method, file, fault)| {
        matches!(fault, Fault::Drip) && *method == request.method && request.path.ends_with(file.as_str())
    });
    let (head, body) = answer(&request, address, &mut state);
    drop(state);
    stream.write_all(head.as_bytes()).ok()?;
    if is_slow {
        for byte in body.chunks(1) {
            stream.write_all(byte).ok()?;
            thread::sleep(std::time::Duration::from_millis(20));
        }
        return Some(());
    }
    if request.method != "HEAD" {
        stream.write_all(&body).ok()?;
    }
    Some(())
}

/// Head and body of the answer to `request`.
fn answer(request: &Request, address: SocketAddr, state: &mut State) -> (String, Vec<u8>) {
    let State { repository, old_name, commit, files, faults, .. } = state;
    let path = request.path.as_str();
    let head =
        |status: u16, fields: &str| format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n{fields}\r\n");
    let empty =
        |status: u16, fields: &str| (head(status, &format!("Content-Length: 0\r\n{fields}")), Vec::new());

    if let Some(old) = old_name
        && let Some(at) = path.find(&format!("/{old}/"))
        && !path.contains(&*repository)
    {
        let (before, after) = (&path[..at], &path[at + 1 + old.len()..]);
        return empty(307, &format!("Location: {before}/{repository}{after}\r\n"));
    }

    let resolve = format!("/{repository}/resolve/{commit}/");
    let file = path.strip_prefix(&resolve).or_else(|| path.strip_prefix("/storage/"));
    let redirected =
        !path.starts_with("/storage/") && file.and_then(|file| files.get(file)).is_some_and(|file| file.1);
    // A fault of a large file's content belongs to the storage.
    let broken = faults.iter().position(|(method, file, _)| {
        *method == request.method && path.ends_with(file.as_str()) && !(redirected && *method == "GET")
    });
    let fault = broken.map(|at| faults.remove(at).2);
    match fault {
        Some(Fault::Status(status)) => return empty(status, ""),
        Some(Fault::Gated) => return empty(403, "X-Error-Code: GatedRepo\r\n"),
        _ => {}
    }

    let listing = format!("/api/models/{repository}/revision/");
    let (mut content, mut fields) = (Vec::new(), String::new());
    if let Some(revision) = path.strip_prefix(&listing) {
        if !["main", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
            return empty(404, "X-Error-Code: RevisionNotFound\r\n");
        }
        let siblings: Vec<String> = files.keys().map(|file| format!(r#"{{"rfilename":"{file}"}}"#)).collect();
        let text = format!(r#"{{"id":"{repository}","sha":"{commit}","siblings":[{}]}}"#, siblings.join(","));
        content = text.into_bytes();
    } else if let Some((name, (held, _))) = file.and_then(|file| files.get_key_value(file)) {
        content.clone_from(held);
        // The hub names small files by another digest than their SHA-256.
        let etag = if redirected { sha256(held) } else { sha256(held)[..40].to_owned() };
        let etag = if let Some(Fault::Etag(etag)) = fault { etag.to_owned() } else { etag };
        fields = format!("X-Repo-Commit: {commit}\r\nETag: \"{etag}\"\r\nAccept-Ranges: bytes\r\n");
        if redirected {
            let storage = format!("http://localhost:{}/storage/{name}", address.port());
            return empty(
                302,
                &format!(
                    "{fields}X-Linked-ETag: \"{etag}\"\r\nX-Linked-Size: {}\r\nLocation: {storage}\r\n",
                    held.len()
                ),
            );
        }
    } else {
        return empty(404, "X-Error-Code: EntryNotFound\r\n");
    }

    let (mut cut, mut whole) = (usize::MAX, false);
    match fault {
        Some(Fault::Body(body)) => content = body,
        Some(Fault::BodyUntilClose(body)) => return (head(200, &fields), body),
        Some(Fault::NoLength | Fault::Drip) => return (head(200, &fields), content),
        Some(Fault::Cut(length)) => cut = length,
        Some(Fault::IgnoreRange) => whole = true,
        _ => {}
    }
    let mut status = 200;
    if let Some(range) = request.header("range").filter(|_| !whole) {
        let (total, start) = (content.len(), range.trim_start_matches("bytes=").trim_end_matches('-'));
        let start: usize = start.parse().unwrap();
        if start >= total {
            return empty(416, &format!("Content-Range: bytes */{total}\r\n"));
        }
        status = 206;
        fields.push_str(&format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1));
        content.drain(..start);
    }
    fields.push_str(&format!("Content-Length: {}\r\n", content.len()));
    content.truncate(cut);
    (head(status, &fields), content)
}
