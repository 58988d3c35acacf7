//! Fetching from a hub, against a small server on this machine that breaks on request.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use aibit_hub::{
    HubError, HubModel, HubOptions, PinnedFile, Progress, fetch, fetch_pinned, looks_like_repository,
};
use tempfile::TempDir;

use crate::server::{COMMIT, Fault, Hub, Request, sha256};

const REPOSITORY: &str = "owner/tiny-gpt2";

/// Bytes without a period that a resumed transfer could hide behind; more than the sockets buffer at once.
fn content(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let step = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    (0..length).map(step).collect()
}

/// A repository with one weights file, tokenizer files, and files nobody asked for.
fn tiny() -> Hub {
    Hub::new(REPOSITORY)
        .file("config.json", br#"{"model_type":"gpt2"}"#.to_vec())
        .file("vocab.json", br#"{"a":0}"#.to_vec())
        .file("merges.txt", b"#version: 0.2\n".to_vec())
        .file("README.md", b"# tiny".to_vec())
        .file("tf_model.h5", content(10))
        .file("pytorch_model.bin", content(10))
        .large_file("model.safetensors", content(3_000_000))
}

fn options(hub: &Hub, cache: &TempDir) -> HubOptions {
    HubOptions {
        endpoint: Some(hub.endpoint()),
        cache: Some(cache.path().to_owned()),
        token: Some("secret".to_owned()),
        retries: 2,
        ..HubOptions::default()
    }
}

fn offline(hub: &Hub, cache: &TempDir) -> HubOptions {
    HubOptions { offline: true, ..options(hub, cache) }
}

/// Fetches, checks that the folder holds exactly `files` of `hub` byte for byte, and returns the model.
#[track_caller]
fn check(hub: &Hub, cache: &TempDir, files: &[&str]) -> HubModel {
    let model = fetch(REPOSITORY, &options(hub, cache), &()).unwrap();
    assert_eq!(model.repository, REPOSITORY);
    assert_eq!(model.revision, COMMIT);
    let mut names: Vec<String> = fs::read_dir(&model.folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut files = files.to_vec();
    files.sort_unstable();
    assert_eq!(names, files);
    for file in files {
        assert!(fs::read(model.folder.join(file)).unwrap() == hub.content(file), "{file} differs");
    }
    model
}

const TINY_FILES: [&str; 4] = ["config.json", "merges.txt", "model.safetensors", "vocab.json"];

/// Fetches, and returns the error with its text.
#[track_caller]
fn check_fails(hub: &Hub, cache: &TempDir) -> (HubError, String) {
    let error = fetch(REPOSITORY, &options(hub, cache), &()).unwrap_err();
    let text = error.to_string();
    (error, text)
}

/// Every file below `folder`, links not followed.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries.map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

/// That nothing of `content` lies under `folder`, whole or in part, but for a partial file if `part`.
#[track_caller]
fn check_nothing_of(content: &[u8], folder: &Path, part: bool) {
    let mut parts = 0;
    for path in files_below(folder) {
        let held = fs::read(&path).unwrap_or_default();
        let is_part = path.extension().is_some_and(|extension| extension == "part");
        parts += usize::from(is_part);
        let foreign = held.is_empty() || held.len() < 100 || held[..100] != content[..100];
        assert!(is_part || foreign, "{} is left behind", path.display());
    }
    assert_eq!(parts > 0, part, "partial files under {}", folder.display());
}

/// Adds up what it hears.
#[derive(Default)]
struct Heard(Mutex<BTreeMap<String, (u64, u64, usize)>>, Mutex<String>);

impl Progress for Heard {
    fn start(&self, file: &str, bytes: u64) {
        *self.1.lock().unwrap() = file.to_owned();
        let mut files = self.0.lock().unwrap();
        let entry = files.entry(file.to_owned()).or_default();
        (entry.0, entry.1) = (bytes, 0);
    }
    fn advance(&self, bytes: u64) {
        self.0.lock().unwrap().get_mut(&*self.1.lock().unwrap()).unwrap().1 += bytes;
    }
    fn finish(&self) {
        self.0.lock().unwrap().get_mut(&*self.1.lock().unwrap()).unwrap().2 += 1;
    }
}

#[test]
fn fetch_brings_what_a_model_needs_and_nothing_else() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let model = check(&hub, &cache, &TINY_FILES);
    assert!(model.folder.starts_with(cache.path().join("models--owner--tiny-gpt2/snapshots")));
    for request in hub.requests() {
        assert!(!request.path.contains("README") && !request.path.contains("tf_model"), "{request:?}");
        // Files of one commit, even if `main` moves meanwhile.
        assert!(!request.path.contains("/resolve/main"), "{request:?}");
    }
}

#[test]
fn the_cache_layout_is_the_shared_one() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let model = check(&hub, &cache, &TINY_FILES);
    let folder = cache.path().join("models--owner--tiny-gpt2");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let blob = folder.join("blobs").join(sha256(&hub.content("model.safetensors")));
    assert_eq!(fs::read(blob).unwrap(), hub.content("model.safetensors"));
    #[cfg(unix)]
    assert!(fs::read_link(model.folder.join("config.json")).unwrap().starts_with("../../blobs"));
    let found = hf_hub::Cache::new(cache.path().to_owned()).model(REPOSITORY.to_owned()).get("config.json");
    assert_eq!(found, Some(model.folder.join("config.json")));
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_the_storage_behind_it() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    check(&hub, &cache, &TINY_FILES);
    let requests = hub.requests();
    assert!(requests.iter().any(|request| request.path.starts_with("/storage/")));
    for request in requests {
        let wanted = (!request.path.starts_with("/storage/")).then(|| "Bearer secret".to_owned());
        assert_eq!(request.header("authorization"), wanted, "{request:?}");
    }
}

#[test]
fn a_second_fetch_transfers_nothing() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    check(&hub, &cache, &TINY_FILES);
    let before = hub.requests().len();
    check(&hub, &cache, &TINY_FILES);
    let gets = hub.requests().split_off(before).into_iter().filter(|request| request.method == "GET");
    assert_eq!(gets.map(|request| request.path).collect::<Vec<_>>(), [hub.listing_path("main")]);
}

#[test]
fn fetches_at_the_same_time_share_one_transfer() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| fetch(REPOSITORY, &options(&hub, &cache), &()).unwrap());
        }
    });
    assert_eq!(hub.ranges("model.safetensors"), [None]);
    check(&hub, &cache, &TINY_FILES);
}

#[test]
fn a_moved_branch_brings_the_new_files() {
    let cache = TempDir::new().unwrap();
    check(&tiny(), &cache, &TINY_FILES);
    // The same commit hash with other content: the pointers of the snapshot follow the hub.
    let hub = tiny().file("vocab.json", b"{}".to_vec());
    check(&hub, &cache, &TINY_FILES);
}

#[test]
fn a_branch_with_a_slash_is_a_revision() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let options = HubOptions { revision: Some("refs/pr/1".to_owned()), ..options(&hub, &cache) };
    fetch(REPOSITORY, &options, &()).unwrap();
    assert_eq!(hub.requests()[0].path, hub.listing_path("refs%2Fpr%2F1"));
    let options = HubOptions { offline: true, ..options };
    assert_eq!(fetch(REPOSITORY, &options, &()).unwrap().revision, COMMIT);
}

#[test]
fn a_renamed_repository_is_followed() {
    let (hub, cache) = (tiny().renamed_from("tiny-gpt2"), TempDir::new().unwrap());
    let model = fetch("tiny-gpt2", &options(&hub, &cache), &()).unwrap();
    assert_eq!(fs::read(model.folder.join("model.safetensors")).unwrap(), hub.content("model.safetensors"));
}

#[test]
fn progress_adds_up_to_the_file() {
    let (hub, cache, heard) = (tiny(), TempDir::new().unwrap(), Heard::default());
    hub.break_once("GET", "model.safetensors", Fault::Cut(1_000_000));
    fetch(REPOSITORY, &options(&hub, &cache), &heard).unwrap();
    let heard = heard.0.into_inner().unwrap();
    assert_eq!(heard.keys().collect::<Vec<_>>(), TINY_FILES);
    for (file, (bytes, advanced, finished)) in heard {
        let length = hub.content(&file).len() as u64;
        assert_eq!((bytes, advanced, finished), (length, length, 1), "{file}");
    }
}

#[test]
fn a_cut_connection_is_resumed_within_one_fetch() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    hub.break_once("GET", "model.safetensors", Fault::Cut(1_000_000));
    check(&hub, &cache, &TINY_FILES);
    assert_eq!(hub.ranges("model.safetensors"), [None, Some("bytes=1000000-".to_owned())]);
}

#[test]
fn getting_further_starts_the_count_of_attempts_anew() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    for _ in 0..4 {
        hub.break_once("GET", "model.safetensors", Fault::Cut(500_000));
    }
    check(&hub, &cache, &TINY_FILES); // four failures, though `retries` is 2
    assert_eq!(hub.ranges("model.safetensors").len(), 5);
}

#[test]
fn a_server_that_gives_a_byte_each_time_is_given_up() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    for _ in 0..40 {
        hub.break_once("GET", "model.safetensors", Fault::Cut(1));
    }
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::Transport { .. }), "{text}");
    assert_eq!(hub.ranges("model.safetensors").len(), 3, "{text}"); // `retries` is 2
}

#[test]
fn small_files_have_a_longest_length() {
    // Announced: nothing is asked for.
    let cache = TempDir::new().unwrap();
    let hub = tiny().file("config.json", content(3 << 20));
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::TooLong { limit: 0x20_0000, .. }), "{text}");
    assert!(
        text.contains("`config.json` may hold 2097152 bytes") && text.contains("serves 3145728"),
        "{text}"
    );
    assert!(!hub.requests().iter().any(|r| r.method == "GET" && r.path.ends_with("config.json")));
    // Not announced: no more than that is written, and it does not stay.
    let hub = tiny();
    hub.break_once("HEAD", "config.json", Fault::NoLength);
    hub.break_once("GET", "config.json", Fault::BodyUntilClose(content(9 << 20)));
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::TooLong { .. }) && text.contains("serves more"), "{text}");
    check_nothing_of(&content(100), cache.path(), false);
}

#[test]
fn weights_must_say_how_long_they_are() {
    let (hub, cache) = (tiny().file("model.safetensors", content(1000)), TempDir::new().unwrap());
    hub.break_once("HEAD", "model.safetensors", Fault::NoLength);
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::TooLong { .. }) && text.contains("unknown number"), "{text}");
}

#[test]
fn an_answer_that_never_ends_is_given_up() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    hub.break_once("GET", "main", Fault::Drip);
    let options = HubOptions { answer_time: Duration::from_millis(300), retries: 0, ..options(&hub, &cache) };
    let error = fetch(REPOSITORY, &options, &()).unwrap_err(); // a client that waits gets all of a right answer
    assert!(matches!(error, HubError::Transport { .. }), "{error:?}");
}

#[test]
fn a_cut_connection_is_resumed_by_the_next_fetch() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    hub.break_once("GET", "model.safetensors", Fault::Cut(1_000_000));
    let once = HubOptions { retries: 0, ..options(&hub, &cache) };
    let error = fetch(REPOSITORY, &once, &()).unwrap_err();
    assert!(matches!(error, HubError::Transport { .. }), "{error:?}");
    check_nothing_of(&hub.content("model.safetensors"), cache.path(), true);
    let error = fetch(REPOSITORY, &offline(&hub, &cache), &()).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error:?}");

    check(&hub, &cache, &TINY_FILES);
    assert_eq!(hub.ranges("model.safetensors"), [None, Some("bytes=1000000-".to_owned())]);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    hub.break_once("GET", "model.safetensors", Fault::Cut(1_000_000));
    hub.break_once("GET", "model.safetensors", Fault::IgnoreRange);
    check(&hub, &cache, &TINY_FILES);
    assert_eq!(hub.ranges("model.safetensors").len(), 2);
}

#[test]
fn a_partial_file_that_is_complete_needs_no_transfer() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let weights = hub.content("model.safetensors");
    let blobs = cache.path().join("models--owner--tiny-gpt2/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.part", sha256(&weights))), &weights).unwrap();
    check(&hub, &cache, &TINY_FILES);
    assert!(hub.ranges("model.safetensors").is_empty());
}

#[test]
fn a_partial_file_with_wrong_bytes_is_found_out_and_dropped() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let weights = hub.content("model.safetensors");
    let blobs = cache.path().join("models--owner--tiny-gpt2/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.part", sha256(&weights))), [0; 1000]).unwrap();
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::Digest { .. }), "{text}");
    check(&hub, &cache, &TINY_FILES);
}

#[test]
fn a_cached_file_cut_short_by_another_tool_is_fetched_anew() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let model = check(&hub, &cache, &TINY_FILES);
    let blob = fs::canonicalize(model.folder.join("model.safetensors")).unwrap();
    fs::write(&blob, &hub.content("model.safetensors")[..1000]).unwrap();
    check(&hub, &cache, &TINY_FILES);
}

#[test]
fn wrong_bytes_are_an_error_and_leave_no_file() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let mut wrong = hub.content("model.safetensors");
    wrong[2_000_000] ^= 1;
    hub.break_once("GET", "model.safetensors", Fault::Body(wrong.clone()));
    let (error, text) = check_fails(&hub, &cache);
    let HubError::Digest { file, expected, found, .. } = error else { panic!("{text}") };
    assert_eq!(file, "model.safetensors");
    assert_eq!(expected, sha256(&hub.content("model.safetensors")));
    assert_eq!(found, sha256(&wrong));
    assert!(text.contains(&expected) && text.contains(&found), "{text}");
    check_nothing_of(&wrong, cache.path(), false);
}

#[test]
fn a_wrong_length_is_an_error_and_leaves_no_file() {
    for length in [2_999_999, 3_000_001] {
        let (hub, cache) = (tiny(), TempDir::new().unwrap());
        hub.break_once("GET", "model.safetensors", Fault::Body(content(length)));
        let (error, text) = check_fails(&hub, &cache);
        let HubError::Size { expected, found, .. } = error else { panic!("{text}") };
        assert_eq!((expected, found), (3_000_000, length as u64));
        check_nothing_of(&content(100), cache.path(), false);
    }
}

#[test]
fn a_wrong_length_that_no_header_tells_is_an_error_too() {
    for length in [2_999_999, 3_000_001] {
        let (hub, cache) = (tiny(), TempDir::new().unwrap());
        for _ in 0..3 {
            hub.break_once("GET", "model.safetensors", Fault::BodyUntilClose(content(length)));
        }
        let (error, text) = check_fails(&hub, &cache);
        match error {
            HubError::Size { expected, found, .. } => {
                assert_eq!((expected, found), (3_000_000, length as u64))
            }
            // Too short without a length looks like a cut, and stays one.
            HubError::Transport { .. } => assert!(length < 3_000_000, "{text}"),
            _ => panic!("{text}"),
        }
        check_nothing_of(&content(100), cache.path(), length < 3_000_000);
    }
}

#[test]
fn a_passing_server_error_is_tried_again() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    hub.break_once("GET", "main", Fault::Status(500));
    hub.break_once("HEAD", "config.json", Fault::Status(503));
    hub.break_once("GET", "model.safetensors", Fault::Status(500));
    check(&hub, &cache, &TINY_FILES);
}

#[test]
fn a_lasting_server_error_is_reported_with_its_status() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    for _ in 0..3 {
        hub.break_once("GET", "vocab.json", Fault::Status(502));
    }
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::Status { status: 502, .. }), "{text}");
    assert!(text.contains("vocab.json") && text.contains("502"), "{text}");
}

#[test]
fn an_unknown_repository_or_revision_is_named() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let error = fetch("owner/tiny-gtp2", &options(&hub, &cache), &()).unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("`owner/tiny-gtp2`") && text.contains("check the spelling"), "{text}");

    let revision = HubOptions { revision: Some("v9".to_owned()), ..options(&hub, &cache) };
    let text = fetch(REPOSITORY, &revision, &()).unwrap_err().to_string();
    assert!(text.contains("revision `v9`"), "{text}");
    assert_eq!(hub.requests().len(), 2, "a plain no is not asked again");
}

#[test]
fn denied_access_says_how_to_get_it() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    hub.break_once("GET", "main", Fault::Status(401));
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::Denied { status: 401, .. }), "{text}");
    assert!(text.contains("whether the token is valid") && !text.contains("secret"), "{text}");

    hub.break_once("HEAD", "config.json", Fault::Gated);
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::Denied { status: 403, .. }), "{text}");
    assert!(text.contains("accept its terms"), "{text}");

    // An empty token is none at all, whatever the environment of this test holds.
    hub.break_once("GET", "main", Fault::Status(401));
    let anonymous = HubOptions { token: Some(String::new()), ..options(&hub, &cache) };
    let text = fetch(REPOSITORY, &anonymous, &()).unwrap_err().to_string();
    assert!(text.contains("set HF_TOKEN"), "{text}");
}

#[test]
fn offline_after_a_fetch_needs_no_server() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let model = check(&hub, &cache, &TINY_FILES);
    let before = hub.requests().len();
    assert_eq!(fetch(REPOSITORY, &offline(&hub, &cache), &()).unwrap(), model);
    let commit = HubOptions { revision: Some(COMMIT.to_owned()), ..offline(&hub, &cache) };
    assert_eq!(fetch(REPOSITORY, &commit, &()).unwrap(), model);
    assert_eq!(hub.requests().len(), before);
}

#[test]
fn offline_names_the_missing_file_and_the_folder() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let text = fetch(REPOSITORY, &offline(&hub, &cache), &()).unwrap_err().to_string();
    assert!(text.contains("`config.json`"), "{text}");
    assert!(text.contains(cache.path().to_str().unwrap()), "{text}");

    let model = check(&hub, &cache, &TINY_FILES);
    fs::remove_file(model.folder.join("model.safetensors")).unwrap();
    let error = fetch(REPOSITORY, &offline(&hub, &cache), &()).unwrap_err();
    let HubError::Offline { file, folder, .. } = &error else { panic!("{error:?}") };
    assert_eq!((file.as_str(), folder), ("model.safetensors", &model.folder));
}

fn sharded(weights: &str, shards: &[&str]) -> Hub {
    let map: Vec<String> =
        shards.iter().enumerate().map(|(i, shard)| format!(r#""h.{i}.w":"{shard}""#)).collect();
    let index = format!(r#"{{"metadata":{{"total_size":9}},"weight_map":{{{}}}}}"#, map.join(","));
    Hub::new(REPOSITORY)
        .file("config.json", b"{}".to_vec())
        .file(&format!("{weights}.index.json"), index.into_bytes())
}

#[test]
fn shards_are_fetched_by_their_index() {
    for (weights, first, second) in [
        ("model.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
    ] {
        let (cache, index) = (TempDir::new().unwrap(), format!("{weights}.index.json"));
        let hub = sharded(weights, &[first, second, first])
            .large_file(first, content(1000))
            .large_file(second, content(2000))
            .file("model-00003-of-00002.safetensors", content(10));
        let model = check(&hub, &cache, &["config.json", &index, first, second]);
        assert_eq!(fetch(REPOSITORY, &offline(&hub, &cache), &()).unwrap(), model);

        fs::remove_file(model.folder.join(second)).unwrap();
        let text = fetch(REPOSITORY, &offline(&hub, &cache), &()).unwrap_err().to_string();
        assert!(text.contains(&format!("`{second}`")), "{text}");
    }
}

#[test]
fn shard_names_with_path_parts_are_rejected() {
    for shard in ["../x", "/etc/x", "a/b", "..", "", "C:x", "a%2fb", ".hidden", "x\\u0000"] {
        let (cache, hub) = (TempDir::new().unwrap(), sharded("model.safetensors", &[shard]));
        let (error, text) = check_fails(&hub, &cache);
        assert!(matches!(error, HubError::ShardName { .. }), "{shard:?}: {text}");
        let asked = |request: &Request| {
            ["main", "config.json", "index.json"].iter().any(|end| request.path.ends_with(end))
        };
        assert!(hub.requests().iter().all(asked), "{shard:?}");
    }
}

#[test]
fn an_index_must_be_one_and_its_shards_must_exist() {
    let cache = TempDir::new().unwrap();
    let hub = sharded("model.safetensors", &["absent.safetensors"]);
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::NoFile { .. }) && text.contains("`absent.safetensors`"), "{text}");

    let hub = sharded("model.safetensors", &[]).file("model.safetensors.index.json", b"[]".to_vec());
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::Index { .. }), "{text}");
}

#[test]
fn pytorch_weights_are_the_last_resort() {
    let cache = TempDir::new().unwrap();
    let hub = Hub::new(REPOSITORY)
        .file("config.json", b"{}".to_vec())
        .large_file("pytorch_model.bin", content(1000));
    check(&hub, &cache, &["config.json", "pytorch_model.bin"]);
}

#[test]
fn a_repository_without_a_model_is_an_error() {
    let cache = TempDir::new().unwrap();
    let (error, text) = check_fails(&Hub::new(REPOSITORY).file("data.csv", b"1".to_vec()), &cache);
    assert!(matches!(error, HubError::NoFile { .. }) && text.contains("`config.json`"), "{text}");
    let (error, text) = check_fails(&Hub::new(REPOSITORY).file("config.json", b"{}".to_vec()), &cache);
    assert!(matches!(error, HubError::NoWeights { .. }) && text.contains("model.safetensors"), "{text}");
}

#[test]
fn a_server_cannot_choose_where_files_go() {
    let cache = TempDir::new().unwrap();
    let (error, text) = check_fails(&tiny().commit("../../escaped"), &cache);
    assert!(matches!(error, HubError::Answer { .. }), "{text}");
    let hub = tiny();
    hub.break_once("HEAD", "config.json", Fault::Etag("../../../escaped"));
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::Answer { .. }), "{text}");
    assert_eq!(files_below(cache.path()), Vec::<PathBuf>::new());
}

#[test]
fn an_answer_that_is_no_hubs_is_reported_with_its_address() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    hub.break_once("GET", "main", Fault::Body(b"<html>Sign in to the network</html>".to_vec()));
    let (error, text) = check_fails(&hub, &cache);
    assert!(matches!(error, HubError::Answer { .. }) && text.contains(&hub.endpoint()), "{text}");
}

#[test]
fn names_that_cannot_be_are_rejected_before_any_request() {
    let (hub, cache) = (tiny(), TempDir::new().unwrap());
    let error = fetch("../tiny", &options(&hub, &cache), &()).unwrap_err();
    assert!(matches!(error, HubError::RepositoryName { .. }), "{error:?}");
    for revision in ["", "../main", "a//b", "a?b", "/main", "a b"] {
        let options = HubOptions { revision: Some(revision.to_owned()), ..options(&hub, &cache) };
        let error = fetch(REPOSITORY, &options, &()).unwrap_err();
        assert!(matches!(error, HubError::RevisionName { .. }), "{revision:?}: {error:?}");
    }
    assert!(hub.requests().is_empty());
}

#[test]
fn repositories_and_paths_are_told_apart() {
    for name in ["gpt2", "openai-community/gpt2", "Qwen/Qwen2.5-0.5B", "a/b_c", "_a/b", "distilgpt2"] {
        assert!(looks_like_repository(name), "{name}");
    }
    for path in [
        "",
        "/",
        ".",
        "..",
        "./gpt2",
        "../gpt2",
        "/gpt2",
        "gpt2/",
        "~/gpt2",
        "a/b/c",
        "a//b",
        "C:\\gpt2",
        "a\\b",
        "a b",
        "model.safetensors",
        "models/gpt2.aibit",
        "x/pytorch_model.BIN",
        "a--b/c",
        "a..b",
        "https://x",
        ".cache/x",
        "-q",
    ] {
        assert!(!looks_like_repository(path), "{path}");
    }
}

/// A hub and the digest of its large file.
fn pinned() -> (Hub, String) {
    let hub = tiny();
    let digest = sha256(&hub.content("model.safetensors"));
    (hub, digest)
}

/// As [`options`], at a commit: pins belong to one.
fn pinned_options(hub: &Hub, cache: &TempDir) -> HubOptions {
    HubOptions { revision: Some(COMMIT.to_owned()), ..options(hub, cache) }
}

fn pins(digest: &str) -> [PinnedFile<'_>; 2] {
    [
        PinnedFile { name: "config.json", bytes: None, sha256: None },
        PinnedFile { name: "model.safetensors", bytes: Some(3_000_000), sha256: Some(digest) },
    ]
}

#[test]
fn pinned_files_arrive_checked_and_once() {
    let ((hub, digest), folder) = (pinned(), TempDir::new().unwrap());
    let target = folder.path().join("gpt2");
    let options = pinned_options(&hub, &folder);
    hub.break_once("GET", "model.safetensors", Fault::Cut(1_000_000));
    fetch_pinned(REPOSITORY, &pins(&digest), &target, &options, &()).unwrap();
    for file in ["config.json", "model.safetensors"] {
        assert!(fs::read(target.join(file)).unwrap() == hub.content(file), "{file} differs");
    }
    assert_eq!(hub.ranges("model.safetensors"), [None, Some("bytes=1000000-".to_owned())]);

    let before = hub.requests().len();
    fetch_pinned(REPOSITORY, &pins(&digest), &target, &options, &()).unwrap();
    let offline = HubOptions { offline: true, ..options };
    fetch_pinned(REPOSITORY, &pins(&digest), &target, &offline, &()).unwrap();
    assert_eq!(hub.requests().len(), before);
}

#[test]
fn a_pinned_transfer_goes_on_in_the_next_run() {
    let ((hub, digest), folder) = (pinned(), TempDir::new().unwrap());
    let once = HubOptions { retries: 0, ..pinned_options(&hub, &folder) };
    hub.break_once("GET", "model.safetensors", Fault::Cut(1_000_000));
    let run = || fetch_pinned(REPOSITORY, &pins(&digest), folder.path(), &once, &());
    assert!(matches!(run(), Err(HubError::Transport { .. })));
    assert!(!folder.path().join("model.safetensors").exists());
    run().unwrap();
    assert_eq!(hub.ranges("model.safetensors"), [None, Some("bytes=1000000-".to_owned())]);
}

#[test]
fn a_pinned_file_that_went_bad_on_disk_is_replaced() {
    let ((hub, digest), folder) = (pinned(), TempDir::new().unwrap());
    let path = folder.path().join("model.safetensors");
    let mut bad = hub.content("model.safetensors");
    bad[0] ^= 1;
    fs::write(&path, bad).unwrap();
    let offline = HubOptions { offline: true, ..pinned_options(&hub, &folder) };
    let error = fetch_pinned(REPOSITORY, &pins(&digest)[1..], folder.path(), &offline, &()).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }) && !path.exists(), "{error:?}");
    fetch_pinned(REPOSITORY, &pins(&digest), folder.path(), &pinned_options(&hub, &folder), &()).unwrap();
    assert!(fs::read(path).unwrap() == hub.content("model.safetensors"));
}

#[test]
fn a_hub_that_serves_something_else_than_was_pinned_leaves_no_file() {
    let folder = TempDir::new().unwrap();
    let check = |hub: &Hub, pin: PinnedFile<'_>| {
        let error =
            fetch_pinned(REPOSITORY, &[pin], folder.path(), &pinned_options(hub, &folder), &()).unwrap_err();
        assert!(!folder.path().join(pin.name).exists());
        check_nothing_of(&content(100), folder.path(), false);
        error
    };
    let zero = "0".repeat(64);
    // A large file's digest and length are announced, so nothing is transferred.
    let hub = tiny();
    let pin = PinnedFile { name: "model.safetensors", bytes: None, sha256: Some(&zero) };
    assert!(matches!(check(&hub, pin), HubError::Digest { .. }));
    let pin = PinnedFile { bytes: Some(1), sha256: None, ..pin };
    assert!(matches!(check(&hub, pin), HubError::Size { expected: 1, found: 3_000_000, .. }));
    assert!(hub.ranges("model.safetensors").is_empty());
    // A small one's are known once it is here.
    let pin = PinnedFile { name: "vocab.json", bytes: None, sha256: Some(&zero) };
    assert!(matches!(check(&hub, pin), HubError::Digest { .. }));
    // A length that only the pin knows.
    hub.break_once("HEAD", "vocab.json", Fault::NoLength);
    let pin = PinnedFile { bytes: Some(8), sha256: None, ..pin };
    assert!(matches!(check(&hub, pin), HubError::Size { expected: 8, found: 7, .. }));
}
