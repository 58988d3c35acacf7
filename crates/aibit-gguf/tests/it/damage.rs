//! A sound file, cut and changed everywhere: errors, never panics.

use aibit_gguf::Gguf;
use proptest::prelude::*;

use crate::support::{golden, refusal};

/// Uses everything that a file offers, if it is read.
fn use_all(file: &[u8]) {
    match Gguf::parse(file) {
        Ok(gguf) => {
            for tensor in gguf.tensors() {
                assert_eq!(Some(tensor.bytes(file).len()), tensor.dtype.bytes(tensor.elements()));
                assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
            }
            assert!(
                gguf.metadata()
                    .iter()
                    .all(|(key, value)| gguf.metadata().get(key) == Some(value) || is_nan(value))
            );
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 2048, "a message of {} bytes", message.len());
        }
    }
}

/// Whether a value does not equal itself.
fn is_nan(value: &aibit_gguf::Value) -> bool {
    value != &value.clone()
}

fn header_bytes(file: &[u8]) -> usize {
    Gguf::parse(file).expect("a sound file").tensors()[0].range.start
}

#[test]
fn a_file_cut_anywhere_says_by_how_many_bytes() {
    let file = golden("kinds.gguf");
    let gguf = Gguf::parse(&file).expect("a sound file");
    let end = gguf.tensors().last().expect("a tensor").range.end;
    let data = header_bytes(&file);
    let mut header_end = 0;
    for length in 1..end {
        let message = refusal(&file[..length]);
        let missing = message.split("truncated by ").nth(1).and_then(|rest| rest.split(' ').next());
        let missing: usize =
            missing.unwrap_or_else(|| panic!("{length}: {message}")).parse().expect("a number");
        if message.contains("the data of tensor") {
            header_end = if header_end == 0 { length } else { header_end };
            assert_eq!(missing, end - length, "{length}: {message}");
        } else {
            assert!(missing > 0 && missing <= end - length && length < data, "{length}: {message}");
        }
    }
    assert!(data - header_end < 64, "the tensor list ends at {header_end}, the data starts at {data}");
    for length in end..=file.len() {
        assert_eq!(Gguf::parse(&file[..length]).expect("only padding is missing"), gguf);
    }
}

#[test]
fn every_byte_of_the_header_changed_in_every_bit_is_no_panic() {
    let mut file = golden("kinds.gguf");
    for at in 0..header_bytes(&file) {
        let sound = file[at];
        for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            file[at] = sound ^ mask;
            use_all(&file);
        }
        file[at] = sound;
    }
    // Every number of the header was made huge in turn; the process has stayed small.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kib: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        // Tests of tokenizers run beside this one, with about 100 MiB; a length that is believed would be gigabytes.
        assert!(kib < 512 << 10, "{kib} KiB at the peak");
    }
}

proptest! {
    #[test]
    fn random_damage_is_no_panic(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_usize), 1..6)) {
        let mut file = golden("kinds.gguf");
        let header = header_bytes(&file);
        for (index, byte, action) in damage {
            let at = index.index(header.min(file.len()));
            match action {
                0 => file[at] = byte,
                1 => drop(file.drain(at..(at + 8).min(file.len()))),
                2 => file.insert(at, byte),
                _ => file[at..(at + 8).min(header)].fill(byte),
            }
        }
        use_all(&file);
    }

    #[test]
    fn random_bytes_after_the_version_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), small in any::<bool>()) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        if small {
            file.extend([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        }
        file.extend(bytes);
        use_all(&file);
    }
}
