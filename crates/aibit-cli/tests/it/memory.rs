//! Memory of a run: the weights stay in the page cache and are never copied.

use std::fs;
use std::io::Read;

use crate::models::Tiny;
use crate::support::{Running, shelf, small_int8, spawn, temporary_folder};

/// Memory that a run may use besides the archive; most of it for the tokenizer's tables.
const ALLOWANCE: u64 = 60 << 20;

/// Starts a generation up to the end of the context.
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

/// Packs `tiny` of `model`, which must be refused with this problem, and returns the peak memory.
fn peak_of_refusal(model: &Tiny, problem: &str) -> u64 {
    let mut running = spawn(model.around(), &["pack", "tiny", "-o", "out.aibit", "-t", "1"]);
    let status = format!("/proc/{}/status", running.child.id());
    let mut peak = 0;
    // A process that has ended has no status: the last sample is a fraction of a millisecond older.
    while running.child.try_wait().expect("a child").is_none() {
        let status = fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
            peak = peak.max(kib << 10);
        }
    }
    let message = running.stderr();
    assert!(message.contains(problem), "{problem}: {message}");
    peak
}

/// Memory that refusing a source may use besides its largest file.
const REFUSAL: u64 = 100 << 20;

#[test]
fn files_of_a_source_take_no_more_memory_than_they_are_long() {
    const MIB: usize = 1 << 20;
    let array = |bytes: usize| format!("{{\"eos_token_id\": [{}0]}}", "0,".repeat(bytes / 2)).into_bytes();
    let pairs = |bytes: usize| -> Vec<u8> {
        let mut text = "{\"__metadata__\":{".to_owned();
        for index in 0..bytes / 13 {
            text.push_str(&format!("\"{index:07x}\":\"\","));
        }
        text.push_str("\"z\":\"\"}}");
        text.into_bytes()
    };
    let header = pairs(40 * MIB);
    let weights = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
    for (name, content, problem) in [
        ("config.json", array(40 * MIB), "config.json: "),
        ("generation_config.json", array(2 * MIB - 100), "262144 values"),
        ("tokenizer_config.json", pairs(28 * MIB), "may have 16777216"),
        ("special_tokens_map.json", array(40 * MIB), "may have 2097152"),
        ("model.safetensors", weights, "524288 values"),
    ] {
        let length = content.len() as u64;
        let peak = peak_of_refusal(&Tiny::new().write(name, &content), problem);
        assert!(peak <= length + REFUSAL, "{name}: {peak} bytes for a file of {length}");
    }
    let index = [b"{\"weight_map\": ".as_slice(), &pairs(30 * MIB)[16..], b"}"].concat();
    let model = Tiny::new().remove("model.safetensors").write("model.safetensors.index.json", &index);
    let peak = peak_of_refusal(&model, "524288 values");
    assert!(peak <= index.len() as u64 + REFUSAL, "index: {peak} bytes");
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
