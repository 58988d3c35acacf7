//! What is no archive at all: other formats by name, and things that are no regular files.

use std::io::{Cursor, Write};

use aibit_format::{Archive, Scheme};
use zip::write::SimpleFileOptions;

use crate::support::{Parts, check_refused, weights_file};

#[test]
fn an_empty_file_is_said_to_be_empty() {
    check_refused(b"", &["is not an .aibit archive: the file is empty"]);
}

#[test]
fn a_file_shorter_than_any_archive_is_said_to_be_so() {
    check_refused(b"P", &["it has 1 bytes, the smallest archive has more"]);
    let whole = Parts::sample().zip().bytes();
    for length in 1..22 {
        check_refused(&whole[..length], &[&format!("it has {length} bytes, the smallest archive has more")]);
    }
}

#[test]
fn files_of_other_formats_are_called_by_name() {
    let mut tar = vec![0; 1024];
    tar[..9].copy_from_slice(b"model.bin");
    tar[257..262].copy_from_slice(b"ustar");
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\n\
               size 548105171\n";
    let html = "\n  <!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n";
    let cases: [(&[u8], &str); 14] = [
        (html.as_bytes(), "an HTML page"),
        (b"<HTML><body>Access denied</body></HTML>", "an HTML page"),
        (lfs.as_bytes(), "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03+I-.\x01\0\x0c~\x7f\xd8\x04\0\0\0", "gzip-compressed"),
        (b"\x28\xb5\x2f\xfd\x04\0aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "zstd-compressed"),
        (&tar, "a tar archive"),
        (b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0", "a GGUF file"),
        (&weights_file(&crate::support::stored(&[])), "a safetensors file"),
        (b"\x80\x02}q\0(X\x03\0\0\0abcq\x01K\x01u.aaaaaaaaaaa", "a Python pickle"),
        (b"\x80\x05\x95\x0f\0\0\0\0\0\0\0}\x94\x8c\x03abc\x94K\x01s.", "a Python pickle"),
        (b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "a ZIP archive without entries"),
        (
            b"PK\x07\x08PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "starts with 50 4b 07 08, an archive with 50 4b 03 04",
        ),
        (b"\x04\x03KP\0\x0a\x08\0\0\0\0\0\0\x21aaaaaaaaaaaaaaaa", "starts with 04 03 4b 50"), // big-endian
        (&[0xff; 4096], "starts with ff ff ff ff"),
    ];
    for (bytes, name) in cases {
        check_refused(bytes, &["is not an .aibit archive: it", name]);
    }
}

#[test]
fn ziplike_files_of_other_programs_are_refused() {
    let parts = Parts::sample();
    let manifest = parts.full_manifest().to_json();
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for options in [stored, stored.with_alignment(4096), stored.large_file(true)] {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, data) in
            parts.entries.iter().map(|(n, d)| (n.as_str(), d)).chain([("manifest.json", &manifest)])
        {
            writer.start_file(name, options).expect("start");
            writer.write_all(data).expect("write");
        }
        let bytes = writer.finish().expect("finish").into_inner();
        check_refused(&bytes, &["container, ", "`weights.safetensors`"]);
    }
}

#[cfg(unix)]
mod special {
    use super::*;
    use std::path::Path;

    #[track_caller]
    fn check(path: &Path, found: &str) {
        let error = Archive::open(path).expect_err("not a regular file").to_string();
        assert_eq!(error, format!("{} is {found}, not a regular file", path.display()));
    }

    #[test]
    fn folders_and_devices_are_refused() {
        check(&std::env::temp_dir(), "a folder");
        check(Path::new("/dev/zero"), "a device or pipe");
        check(Path::new("/dev/null"), "a device or pipe");
    }

    #[test]
    fn a_socket_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("socket.aibit");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        check(&path, "a device or pipe");
    }

    /// Opening a pipe without a writer would wait for ever.
    #[test]
    fn a_pipe_is_refused_without_waiting() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("pipe.aibit");
        let made =
            std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo, which POSIX requires");
        assert!(made.success());
        check(&path, "a device or pipe");
    }

    #[test]
    fn a_link_to_an_archive_is_followed_and_one_to_nothing_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let (target, link) = (folder.path().join("model.aibit"), folder.path().join("link.aibit"));
        std::os::unix::fs::symlink(&target, &link).expect("link");
        let error = Archive::open(&link).expect_err("dangling").to_string();
        assert!(error.starts_with("cannot open "), "{error}");
        Parts::sample().write(&target);
        Archive::open(&link).expect("open");
    }

    #[test]
    fn a_file_of_a_terabyte_of_nothing_is_refused_at_once() {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(1 << 40).expect("a sparse file");
        let error = Archive::open(file.path()).expect_err("zeros").to_string();
        assert!(error.contains("it starts with 00 00 00 00"), "{error}");
        (&mut file.as_file()).write_all(b"PK\x03\x04").expect("write");
        let error = Archive::open(file.path()).expect_err("zeros").to_string();
        assert!(error.starts_with("container, end record at byte 1099511627754: "), "{error}");
    }
}

#[test]
fn a_missing_file_is_named_with_the_systems_reason() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("no such.aibit");
    let error = Archive::open(&path).expect_err("missing").to_string();
    assert!(error.starts_with(&format!("cannot open {}: ", path.display())), "{error}");
}

#[test]
fn reading_ahead_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("large.aibit");
    // Several blocks of two megabytes, the last one not whole.
    Parts::of(&[("a", Scheme::F32, &[3000, 500]), ("b", Scheme::Int8, &[3000, 1000])]).write(&path);
    let archive = Archive::open(&path).expect("an archive");
    let weights = archive.weights().clone();
    let before: Vec<_> = ["a", "b"].map(|name| weights.get(name).expect("a tensor").data.to_vec()).into();
    for names in [&["b", "a"][..], &["a", "unknown", "a"], &[]] {
        weights.read_ahead(names.iter().copied());
    }
    assert_eq!(before, ["a", "b"].map(|name| weights.get(name).expect("a tensor").data));
    weights.read_ahead(["a", "b"].into_iter());
    drop((archive, weights)); // under the eyes of a thread that may still read
}
