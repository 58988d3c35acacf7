//! Writing: all or nothing under the target's name, and announced lengths are kept.

use std::path::Path;

use aibit_format::{Archive, ArchiveWriter, FormatError};

use crate::support::{Parts, manifest, media_type};

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A writer that has taken the sample's entries.
fn half_written(target: &Path) -> ArchiveWriter {
    let mut writer = ArchiveWriter::create(target).expect("create");
    for (name, data) in &Parts::sample().entries {
        writer.add(name, media_type(name), data).expect("add");
    }
    writer
}

#[test]
fn nothing_has_the_targets_name_before_finish() {
    let folder = tempfile::tempdir().expect("folder");
    let target = folder.path().join("model.aibit");
    let writer = half_written(&target);
    let partial = names(folder.path());
    assert_eq!(partial.len(), 1);
    assert!(partial[0].starts_with(".aibit-") && partial[0].ends_with(".partial"), "{partial:?}");
    writer.finish(Parts::sample().manifest).expect("finish");
    assert_eq!(names(folder.path()), ["model.aibit"]);
}

#[test]
fn a_dropped_writer_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("folder");
    drop(half_written(&folder.path().join("model.aibit")));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn an_existing_target_stays_until_finish_replaces_it() {
    let folder = tempfile::tempdir().expect("folder");
    let target = folder.path().join("model.aibit");
    std::fs::write(&target, "precious").expect("write");
    drop(half_written(&target));
    assert_eq!(std::fs::read(&target).expect("read"), b"precious");
    let writer = half_written(&target);
    assert_eq!(std::fs::read(&target).expect("read"), b"precious");
    writer.finish(Parts::sample().manifest).expect("finish");
    Archive::open(&target).expect("open");
    assert_eq!(names(folder.path()), ["model.aibit"]);
}

#[test]
fn an_open_archive_keeps_its_bytes_when_its_file_is_replaced() {
    let folder = tempfile::tempdir().expect("folder");
    let target = folder.path().join("model.aibit");
    Parts::sample().write(&target);
    let archive = Archive::open(&target).expect("open");
    Parts::of(&[]).write(&target);
    for entry in archive.entries() {
        archive.verify_entry(entry.name).expect("verify");
    }
}

#[test]
fn tensors_can_be_read_before_the_archive_is_complete() {
    let folder = tempfile::tempdir().expect("folder");
    let target = folder.path().join("model.aibit");
    let mut writer = ArchiveWriter::create(&target).expect("create");
    assert!(matches!(writer.weights(), Err(FormatError::MissingEntry { .. })));
    drop(writer);
    let mut writer = half_written(&target);
    let weights = writer.weights().expect("weights");
    assert_eq!(weights.get("h.1.weight").expect("tensor").data[..3], [0x81, 0x82, 0x83]);
    writer.finish(Parts::sample().manifest).expect("finish");
    // The map outlives the writer and the temporary name.
    assert_eq!(weights.get("h.1.weight").expect("tensor").data[..3], [0x81, 0x82, 0x83]);
}

#[test]
fn an_entry_of_another_length_than_announced_is_an_error() {
    let folder = tempfile::tempdir().expect("folder");
    let mut writer = ArchiveWriter::create(folder.path().join("model.aibit")).expect("create");

    let mut entry = writer.start_entry("long.bin", "application/octet-stream", 5).expect("start");
    entry.write_all(b"1234").expect("four of five");
    let error = entry.write_all(b"56").expect_err("six of five").to_string();
    assert_eq!(error, "entry `long.bin`: 6 bytes were written, 5 were announced");
    let error = entry.finish().expect_err("six of five").to_string();
    assert_eq!(error, "entry `long.bin`: 6 bytes were written, 5 were announced");

    let mut writer = ArchiveWriter::create(folder.path().join("model.aibit")).expect("create");
    let mut entry = writer.start_entry("short.bin", "application/octet-stream", 5).expect("start");
    entry.write_all(b"1234").expect("four of five");
    let error = entry.finish().expect_err("four of five").to_string();
    assert_eq!(error, "entry `short.bin`: 4 bytes were written, 5 were announced");
}

#[test]
fn an_unfinished_entry_never_becomes_an_archive() {
    let folder = tempfile::tempdir().expect("folder");
    let target = folder.path().join("model.aibit");
    std::fs::write(&target, "precious").expect("write");
    let unfinished = || {
        let mut writer = half_written(&target);
        let mut entry = writer.start_entry("short.bin", "application/octet-stream", 5).expect("start");
        entry.write_all(b"1234").expect("four of five");
        drop(entry);
        writer
    };
    let expected = "entry `short.bin`: 4 bytes were written, 5 were announced";
    let error = unfinished().finish(Parts::sample().manifest).expect_err("short").to_string();
    assert_eq!(error, expected);
    let error =
        unfinished().add("next.bin", "application/octet-stream", b"x").expect_err("short").to_string();
    assert_eq!(error, expected);
    assert_eq!(std::fs::read(&target).expect("read"), b"precious");
}

#[test]
fn a_folder_or_a_missing_folder_is_no_target() {
    let folder = tempfile::tempdir().expect("folder");
    let error = ArchiveWriter::create(folder.path()).expect_err("a folder").to_string();
    assert!(error.ends_with(": it is a folder; give the name of a file"), "{error}");
    let error = ArchiveWriter::create(folder.path().join("no/such.aibit")).expect_err("missing").to_string();
    assert!(error.starts_with("cannot create a file in ") && error.contains("/no: "), "{error}");
}

#[test]
#[should_panic(expected = "entry `a.bin` is written twice")]
fn a_name_given_twice_is_the_callers_mistake() {
    let folder = tempfile::tempdir().expect("folder");
    let mut writer = ArchiveWriter::create(folder.path().join("model.aibit")).expect("create");
    writer.add("a.bin", "application/octet-stream", b"1").expect("add");
    let _ = writer.add("a.bin", "application/octet-stream", b"2");
}

#[test]
#[should_panic(expected = "is written twice")]
fn a_name_that_differs_in_case_only_is_the_callers_mistake() {
    let folder = tempfile::tempdir().expect("folder");
    let mut writer = ArchiveWriter::create(folder.path().join("model.aibit")).expect("create");
    writer.add("a.bin", "application/octet-stream", b"1").expect("add");
    let _ = writer.add("A.bin", "application/octet-stream", b"2");
}

#[test]
#[should_panic(expected = "an entry name that the format allows")]
fn a_name_that_the_format_forbids_is_the_callers_mistake() {
    let folder = tempfile::tempdir().expect("folder");
    let mut writer = ArchiveWriter::create(folder.path().join("model.aibit")).expect("create");
    let _ = writer.add("../a.bin", "application/octet-stream", b"1");
}

#[test]
fn the_manifest_of_a_caller_cannot_contradict_the_entries() {
    let folder = tempfile::tempdir().expect("folder");
    let target = folder.path().join("model.aibit");
    let mut lying = manifest();
    lying.entries = Parts::sample().full_manifest().entries;
    lying.entries.truncate(1);
    let mut writer = ArchiveWriter::create(&target).expect("create");
    writer.add("weights.safetensors", "application/octet-stream", &Parts::of(&[]).entries[0].1).expect("add");
    writer.finish(lying).expect("finish");
    Archive::open(&target)
        .expect("the writer lists what it wrote")
        .verify_entry("weights.safetensors")
        .expect("verify");
}

#[cfg(unix)]
#[test]
fn an_archive_has_the_mode_of_an_ordinary_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("folder");
    let (ordinary, target) = (folder.path().join("ordinary"), folder.path().join("model.aibit"));
    std::fs::write(&ordinary, "").expect("write");
    Parts::sample().write(&target);
    let mode = |path: &Path| std::fs::metadata(path).expect("metadata").permissions().mode();
    assert_eq!(format!("{:o}", mode(&target)), format!("{:o}", mode(&ordinary)));
}
