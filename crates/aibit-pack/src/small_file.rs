//! The small files of a source (configuration, tokenizer, templates, indexes), read in one way with limits.

use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use aibit_format::{FileKind, FormatError, regular_file};
use aibit_hub::max_file_bytes;

use crate::PackError;
use crate::json_dialect::to_strict;

/// How a file is interpreted.
enum Form {
    /// JSON with at most this many values, which bounds a reader's memory.
    Json(usize),
    Text,
    Binary,
}

/// How a file of this name is read. Four times and more of what the largest models of today have.
fn form(name: &str) -> Form {
    let base = name.rsplit('/').next().unwrap_or(name);
    match base {
        "tokenizer.json" => Form::Json(4 << 20),
        "vocab.json" | "added_tokens.json" => Form::Json(1 << 20),
        "tokenizer_config.json" => Form::Json(1 << 19),
        _ if base.ends_with(".index.json") => Form::Json(1 << 19),
        _ if base.ends_with(".json") => Form::Json(256 << 10),
        _ if base.ends_with(".model") => Form::Binary,
        _ => Form::Text,
    }
}

/// The file `name` of `folder`, if it is there: JSON made strict, text in UTF-8 without a byte order mark, anything else
/// byte for byte.
///
/// A symbolic link may point inside the folder, or to a blob of a hub cache, as in the cache's snapshots; any other
/// is refused, since its target would be published with the package.
///
/// # Errors
/// [`PackError::SourceFile`] for anything else, [`PackError::Io`].
pub(crate) fn read(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, PackError> {
    let path = folder.join(name);
    let bad = |problem: String| PackError::SourceFile { path: path.clone(), problem };
    match path.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PackError::Io { action: "read", path, source }),
        Ok(metadata) if metadata.is_symlink() && !path.exists() => {
            return Err(bad("a link to a file that does not exist".into()));
        }
        Ok(_) => {}
    }
    let length = match regular_file(&path) {
        Ok(metadata) => metadata.len(),
        Err(FormatError::NotAFile { found, .. }) => return Err(bad(format!("{found}, not a regular file"))),
        Err(e) => return Err(e.into()),
    };
    check_link(folder, &path)?;
    let limit = max_file_bytes(name);
    if length > limit {
        return Err(bad(format!("{length} bytes; a file of this name may have {limit}")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    fs::File::open(&path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|source| PackError::Io { action: "read", path: path.clone(), source })?;
    normalized(name, bytes).map(Some).map_err(bad)
}

/// The content of a small file called `name` with the given bytes, as [`read`] returns it.
///
/// # Errors
/// What the file is instead.
pub(crate) fn normalized(name: &str, mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let (form, limit) = (form(name), max_file_bytes(name));
    if bytes.len() as u64 > limit {
        return Err(format!("{} bytes; a file of this name may have {limit}", bytes.len()));
    }
    let kind = FileKind::of(&bytes[..bytes.len().min(FileKind::HEAD)], bytes.len() as u64);
    if let Some(found) = kind.stand_in() {
        return Err(found.to_owned());
    }
    if matches!(form, Form::Binary) {
        return Ok(bytes);
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    if bytes.trim_ascii().is_empty() {
        return Err("the file is empty; copy or download it again".into());
    }
    match form {
        Form::Json(max_values) => match to_strict(&bytes, max_values)? {
            Cow::Borrowed(_) => {}
            Cow::Owned(strict) => bytes = strict,
        },
        Form::Text | Form::Binary => {
            if let Err(e) = std::str::from_utf8(&bytes) {
                return Err(format!("not UTF-8 at byte {}", e.valid_up_to()));
            }
        }
    }
    Ok(bytes)
}

/// Refuses a link out of the folder unless it points to a blob of a hub cache.
fn check_link(folder: &Path, path: &Path) -> Result<(), PackError> {
    let resolved = |path: &Path| {
        fs::canonicalize(path).map_err(|source| PackError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })
    };
    let root = resolved(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?;
    let target = resolved(path)?;
    if target.starts_with(&root) || is_hub_blob(&target) {
        return Ok(());
    }
    let problem = format!(
        "a link out of the folder, to {}; replace it by a copy if that file is intended",
        target.display()
    );
    Err(PackError::SourceFile { path: PathBuf::from(path), problem })
}

/// Whether a path is a blob of a hub cache: `models--OWNER--NAME/blobs/ETAG`.
fn is_hub_blob(path: &Path) -> bool {
    let blobs = path.parent();
    let repository = blobs.and_then(Path::parent).and_then(Path::file_name);
    blobs.and_then(Path::file_name).is_some_and(|name| name == "blobs")
        && repository.is_some_and(|name| name.to_string_lossy().starts_with("models--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_something_else_are_named() {
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec();
        let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for name in ["config.json", "chat_template.jinja", "merges.txt", "tokenizer.model", "vocab.json"] {
            for (bytes, problem) in [
                (lfs.clone(), "Git LFS"),
                (b"\n<!doctype HTML><title>Sign in</title>".to_vec(), "HTML"),
                (b"<HTML><body>404".to_vec(), "HTML"),
                (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_vec(), "HTML"),
                (Vec::new(), "empty"),
                (vec![0x1f, 0x8b, 8, 0], "gzip"),
                (utf16.clone(), "UTF-16"),
            ] {
                let error = normalized(name, bytes).expect_err(problem);
                assert!(error.contains(problem), "{name}: {error}");
            }
        }
        for (name, bytes, problem) in [
            ("config.json", b" \n".as_slice(), "empty"),
            ("chat_template.jinja", b"\xef\xbb\xbf", "empty"),
            ("merges.txt", b"a b\n\xff", "not UTF-8 at byte 4"),
            ("generation_config.json", b"{\"a\": }", "not JSON"),
        ] {
            let error = normalized(name, bytes.to_vec()).expect_err(problem);
            assert!(error.contains(problem), "{name}: {error}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        for (name, text) in [("config.json", "{\"a\": 1}"), ("chat_template.jinja", "<|im_start|>é")] {
            let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
            assert_eq!(normalized(name, marked).as_deref(), Ok(text.as_bytes()));
        }
    }

    #[test]
    fn sizes_are_bounded_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let big = |name: &str, length: u64| {
            let file = fs::File::create(folder.path().join(name)).expect("a file");
            file.set_len(length).expect("a sparse file");
            read(folder.path(), name).expect_err(name).to_string()
        };
        assert!(big("config.json", 40 << 20).contains("may have 2097152"));
        assert!(big("tokenizer_config.json", (16 << 20) + 1).contains("may have 16777216"));
        assert!(big("tokenizer.json", 1 << 40).contains("1099511627776 bytes"));
        // Short, but with more values than a configuration has.
        let many = format!("[{}0]", "0,".repeat(300_000));
        assert!(normalized("config.json", many.into_bytes()).expect_err("many").contains("262144 values"));
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_in_the_folder_or_lead_to_a_hub_cache() {
        use std::os::unix::fs::symlink;

        let around = tempfile::tempdir().expect("a folder");
        let at = |path: &str| around.path().join(path);
        for folder in ["model/sub", "hub/models--a--b/blobs", "hub/models--a--b/snapshots/c", "other/blobs"] {
            fs::create_dir_all(at(folder)).expect("a folder");
        }
        for file in ["secret", "model/sub/inside.jinja", "hub/models--a--b/blobs/0af", "other/blobs/0af"] {
            fs::write(at(file), "text").expect("a file");
        }
        let link = |target: &str, name: &str| symlink(target, at(name)).expect("a link");
        link("sub/inside.jinja", "model/inside.jinja");
        link("../../blobs/0af", "hub/models--a--b/snapshots/c/chat_template.jinja");
        link("../hub/models--a--b/blobs/0af", "model/cached.jinja");
        link("../secret", "model/chat_template.jinja");
        link("/etc/passwd", "model/absolute.jinja");
        link("../other/blobs/0af", "model/blob.jinja");
        link("nowhere", "model/dangling.jinja");
        link("/dev/zero", "model/endless.jinja");
        link("model", "linked");
        let text = |folder: &str, name: &str| read(&at(folder), name).map_err(|e| e.to_string());
        let found = Ok(Some(b"text".to_vec()));
        assert_eq!(text("model", "inside.jinja"), found);
        assert_eq!(text("linked", "inside.jinja"), found);
        assert_eq!(text("hub/models--a--b/snapshots/c", "chat_template.jinja"), found);
        assert_eq!(text("model", "cached.jinja"), found);
        assert_eq!(text("model", "absent.jinja"), Ok(None));
        for (name, problem) in [
            ("chat_template.jinja", "link out of the folder"),
            ("absolute.jinja", "link out of the folder"),
            ("blob.jinja", "link out of the folder"),
            ("dangling.jinja", "does not exist"),
            ("endless.jinja", "a device or pipe, not a regular file"),
            ("sub", "a folder, not a regular file"),
        ] {
            let error = text("model", name).expect_err(name);
            assert!(error.contains(problem) && error.contains(name), "{error}");
        }
    }
}
