//! Every byte of an archive is covered: by the one encoding of headers, a checksum or a digest.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use aibit_format::Archive;

use crate::support::{Parts, Random};

struct Subject {
    folder: tempfile::TempDir,
    file: File,
    sound: Vec<u8>,
    /// Name and range of each entry's data.
    entries: Vec<(String, std::ops::Range<usize>)>,
}

impl Subject {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.aibit");
        Parts::sample().write(&path);
        let archive = Archive::open(&path).expect("open");
        let entries = archive
            .entries()
            .map(|e| (e.name.to_owned(), e.offset as usize..e.offset as usize + e.data.len()))
            .collect();
        let file = OpenOptions::new().write(true).open(&path).expect("file");
        Self { sound: std::fs::read(&path).expect("file"), folder, file, entries }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("model.aibit")
    }

    fn set(&mut self, position: usize, byte: u8) {
        self.file.seek(SeekFrom::Start(position as u64)).expect("seek");
        self.file.write_all(&[byte]).expect("write");
    }

    /// Checks that one byte changed is noticed, and blamed on the entry that it lies in.
    fn check(&mut self, position: usize, mask: u8) {
        self.set(position, self.sound[position] ^ mask);
        let owner = self.entries.iter().find(|(_, range)| range.contains(&position)).map(|(n, _)| n.as_str());
        let at = format!("byte {position} ^ {mask:#04x}, in {owner:?}");
        match faults(&self.path()) {
            Ok(faulty) => {
                let owner =
                    owner.unwrap_or_else(|| panic!("{at}: a header is broken, but the archive opens"));
                assert_eq!(faulty, [owner], "{at}");
            }
            Err(message) => match owner {
                Some("weights.safetensors") => assert!(
                    message.contains("weights.safetensors") || message.starts_with("tensor `"),
                    "{at}: {message}"
                ),
                Some(owner) => assert!(message.contains(owner), "{at}: {message}"),
                None => assert!(
                    message.starts_with("container, ") || message.contains("is not an .aibit archive"),
                    "{at}: {message}"
                ),
            },
        }
        self.set(position, self.sound[position]);
    }
}

/// Names of the entries that do not verify, or why the archive does not open.
fn faults(path: &Path) -> Result<Vec<String>, String> {
    let archive = Archive::open(path).map_err(|e| e.to_string())?;
    let faulty = archive.entries().filter_map(|entry| {
        let error = archive.verify_entry(entry.name).err()?.to_string();
        assert!(error.contains(&format!("entry `{}`", entry.name)), "{error}");
        Some(entry.name.to_owned())
    });
    Ok(faulty.collect())
}

#[test]
fn a_changed_byte_in_any_header_is_noticed() {
    let mut subject = Subject::new();
    let mut random = Random(1);
    for position in 0..subject.sound.len() {
        if subject.entries.iter().all(|(_, range)| !range.contains(&position)) {
            subject.check(position, 1 << random.below(8));
        }
    }
    assert_eq!(faults(&subject.path()), Ok(Vec::new()), "every byte was put back");
}

#[test]
fn a_changed_byte_anywhere_is_noticed_and_blamed_on_its_entry() {
    let mut subject = Subject::new();
    let mut random = Random(2);
    for _ in 0..1000 {
        let position = random.below(subject.sound.len());
        subject.check(position, 1 + random.below(255) as u8);
    }
    // Most of so small an archive is padding: as many again in the data.
    let data: Vec<usize> = subject.entries.iter().flat_map(|(_, range)| range.clone()).collect();
    for _ in 0..3000 {
        let position = data[random.below(data.len())];
        subject.check(position, 1 << random.below(8));
    }
    assert_eq!(faults(&subject.path()), Ok(Vec::new()), "every byte was put back");
}

#[test]
fn exchanged_entries_of_one_length_are_noticed() {
    let mut parts = Parts::sample();
    parts.entries[1].1 = b"{\"nodes\":   1}".to_vec();
    parts.entries[4].1 = b"{\"nodes\":   2}".to_vec();
    let manifest = parts.full_manifest().to_json();
    let (first, last) = parts.entries.split_at_mut(4);
    std::mem::swap(&mut first[1].1, &mut last[0].1);
    // Both checksums are right; the digests are not.
    let archive = crate::support::open(&parts.zip_with_manifest(&manifest).bytes()).expect("open");
    let error = archive.verify_entry("graph.json").expect_err("digest").to_string();
    assert!(error.starts_with("entry `graph.json`: SHA-256 is "), "{error}");
    let error = archive.verify_entry("config.json").expect_err("digest").to_string();
    assert!(error.starts_with("entry `config.json`: SHA-256 is "), "{error}");
}

#[test]
fn a_missing_entry_is_named_with_those_present() {
    let archive = crate::support::open(&Parts::sample().zip().bytes()).expect("open");
    let expected = "the archive has no entry `golden.json`; it contains weights.safetensors, graph.json, \
                    tokenizer.json, extra/NOTICE-1.txt, config.json, manifest.json";
    assert_eq!(archive.entry("golden.json").expect_err("missing").to_string(), expected);
    assert_eq!(archive.verify_entry("golden.json").expect_err("missing").to_string(), expected);
}
