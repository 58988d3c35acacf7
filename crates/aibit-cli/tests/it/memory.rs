//! What a run costs: the weights stay in the page cache and are never copied.

use std::fs;
use std::io::Read;

use crate::support::{Running, shelf, small_int8, spawn, temporary_folder};

/// What a run may need besides the archive: the tokenizer's tables take most of it.
const ALLOWANCE: u64 = 60 << 20;

/// Starts a generation to the end of the context.
fn generation(folder: &std::path::Path) -> Running {
    let archive = shelf().join(small_int8());
    let archive = archive.to_str().expect("a UTF-8 path");
    spawn(
        folder,
        &["run", archive, "-p", "The history of the city begins", "-n", "-1", "--ignore-eos", "-t", "2"],
    )
}

/// Calls `look` whenever the child has printed something, until it ends.
fn while_it_generates(running: &mut Running, mut look: impl FnMut(u32)) {
    let mut stdout = running.child.stdout.take().expect("piped");
    let mut printed = [0; 16];
    while stdout.read(&mut printed).expect("read") > 0 {
        look(running.child.id());
    }
    assert!(running.child.wait().expect("it ends").success(), "{}", running.stderr());
}

#[test]
fn peak_memory_is_the_archive_and_little_more() {
    let folder = temporary_folder();
    let mut running = generation(folder.path());
    let mut peak = 0;
    while_it_generates(&mut running, |id| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or(" 0 kB");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        peak = peak.max(kib << 10);
    });
    let archive = fs::metadata(shelf().join(small_int8())).expect("an archive").len();
    assert!(peak > 0, "nothing was measured");
    assert!(peak <= archive + ALLOWANCE, "peak of {peak} bytes with an archive of {archive}");
}

#[test]
fn mapped_weights_are_never_written_to_or_copied() {
    let folder = temporary_folder();
    let mut running = generation(folder.path());
    let (mut looks, mut resident) = (0, 0);
    while_it_generates(&mut running, |id| {
        let smaps = fs::read_to_string(format!("/proc/{id}/smaps")).unwrap_or_default();
        let mut of_archive = false;
        for line in smaps.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
            if !key.ends_with(':') {
                of_archive = line.ends_with(small_int8());
                looks += u64::from(of_archive);
                assert!(!of_archive || !value.contains('w'), "mapped for writing: {line}");
            } else if of_archive {
                match key {
                    "Private_Dirty:" | "Shared_Dirty:" | "Anonymous:" => assert_eq!(value, "0", "{line}"),
                    "Rss:" => resident = resident.max(value.parse::<u64>().expect("a number of kB")),
                    _ => {}
                }
            }
        }
    });
    assert!(looks > 0 && resident > 0, "the mapping of the archive was not seen");
}
