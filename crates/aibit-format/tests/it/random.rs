//! Random damage that leaves every checksum right: errors, never panics.

use aibit_format::{Archive, FormatError, WeightsIndex, check_values};
use proptest::prelude::*;

use crate::support::{Header, Parts, Random, Zip, open};

/// Uses everything that an open archive offers.
fn use_all(opened: Result<Archive, FormatError>) -> Result<(), TestCaseError> {
    let archive = match opened {
        Ok(archive) => archive,
        Err(error) => {
            let message = error.to_string();
            prop_assert!(message.len() < 8192, "a message of {} bytes", message.len());
            return Ok(());
        }
    };
    for entry in archive.entries() {
        let _ = archive.verify_entry(entry.name);
    }
    for info in archive.weights().index().tensors() {
        let tensor = archive.weights().get(&info.name).expect("listed");
        let elements: usize = info.shape.iter().product();
        prop_assert_eq!(tensor.data.len(), elements * info.dtype.size());
    }
    let _ = check_values(archive.weights(), archive.manifest());
    Ok(())
}

/// Overwrites, removes, inserts or repeats some bytes.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len().max(1));
        let end = (at + random.below(9)).min(bytes.len());
        match random.below(4) {
            0 if at < bytes.len() => bytes[at] = random.next() as u8,
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.insert(at, b"{}[]\",:0123456789-e. \\u"[random.below(23)]),
        }
    }
}

/// Puts another number, word or bracket in place of some number in a JSON text.
fn renumber(json: &mut Vec<u8>, random: &mut Random) {
    const NUMBERS: [&str; 16] = [
        "0",
        "1",
        "2",
        "-1",
        "63",
        "64",
        "4096",
        "1.5",
        "1e400",
        "4294967296",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "null",
        "[]",
        "\"1\"",
    ];
    let digit = |json: &[u8], at: usize| json.get(at).is_some_and(u8::is_ascii_digit);
    let starts: Vec<_> = (1..json.len()).filter(|&at| digit(json, at) && !digit(json, at - 1)).collect();
    if starts.is_empty() {
        return;
    }
    let start = starts[random.below(starts.len())];
    let end = (start..).find(|&at| !digit(json, at)).expect("the text ends");
    json.splice(start..end, NUMBERS[random.below(NUMBERS.len())].bytes());
}

proptest! {
    #[test]
    fn a_damaged_manifest_never_panics(seed in any::<u64>()) {
        let (parts, mut random) = (Parts::sample(), Random(seed));
        let mut json = parts.full_manifest().to_json();
        if random.below(2) == 0 { damage(&mut json, &mut random) } else { renumber(&mut json, &mut random) }
        use_all(open(&parts.zip_with_manifest(&json).bytes()))?;
    }

    #[test]
    fn a_damaged_weights_header_never_panics(seed in any::<u64>()) {
        let mut random = Random(seed);
        let whole = Parts::sample().entries[0].1.clone();
        let data_start = WeightsIndex::parse(&whole).expect("parse").data_start();
        let mut header = whole[8..data_start].to_vec();
        for _ in 0..=random.below(2) {
            if random.below(2) == 0 { damage(&mut header, &mut random) } else { renumber(&mut header, &mut random) }
        }
        let mut weights = [&(header.len() as u64).to_le_bytes(), header.as_slice(), &whole[data_start..]].concat();
        if random.below(8) == 0 {
            weights[random.below(8)] = random.next() as u8;
        }
        use_all(open(&Parts::with_weights(weights).zip().bytes()))?;
    }

    #[test]
    fn damaged_tensor_data_never_panics(seed in any::<u64>()) {
        let mut random = Random(seed);
        let mut weights = Parts::sample().entries[0].1.clone();
        let data_start = WeightsIndex::parse(&weights).expect("parse").data_start();
        for _ in 0..4 {
            let at = data_start + random.below(weights.len() - data_start);
            weights[at] = [0, 0x7f, 0x80, 0xff, random.next() as u8][random.below(5)];
        }
        use_all(open(&Parts::with_weights(weights).zip().bytes()))?;
    }

    #[test]
    fn headers_of_random_fields_are_refused(seed in any::<u64>()) {
        let mut random = Random(seed);
        let mut zip = Parts::sample().zip();
        let sound = zip.bytes();
        for _ in 0..=random.below(3) {
            let item = random.below(zip.items.len());
            let which = random.below(12);
            let value = [0, 1, 0xffff, 0xffff_ffff, 0x8000_0000, random.next()][random.below(6)];
            let item = &mut zip.items[item];
            match random.below(3) {
                0 => set(&mut item.local, which, value),
                1 => set(&mut item.central, which, value),
                _ => {
                    set(&mut item.local, which, value);
                    set(&mut item.central, which, value);
                }
            }
        }
        if random.below(4) == 0 {
            set_end(&mut zip, &mut random);
        }
        if random.below(2) == 0 {
            zip.relocate();
        }
        let bytes = zip.bytes();
        // A checksum that both headers agree on is compared with the data by verification only.
        let faults = open(&bytes).map_err(|e| e.to_string()).and_then(|archive| {
            archive.entries().try_for_each(|e| archive.verify_entry(e.name)).map_err(|e| e.to_string())
        });
        prop_assert_eq!(faults.is_ok(), bytes == sound, "{:?}", faults);
    }

    #[test]
    fn random_bytes_between_sound_ends_never_panic(
        middle in prop::collection::vec(any::<u8>(), 0..6000), entries in 0..5_u16, wide in any::<bool>(), size in 0..6000_u32,
    ) {
        let mut end = Parts::sample().zip().end;
        (end.entries, end.entries_here) = (entries, entries);
        end.directory_bytes = size.min(4 + middle.len() as u32);
        end.directory_offset = if wide { u32::MAX } else { 4 + middle.len() as u32 - end.directory_bytes };
        let bytes = [&b"PK\x03\x04"[..], &middle, &end.to_bytes()].concat();
        prop_assert!(open(&bytes).is_err());
        prop_assert!(open(&middle).is_err());
    }

    #[test]
    fn random_weights_files_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), header in "\\PC{0,60}") {
        let _ = WeightsIndex::parse(&bytes);
        let header = format!("{{\"{header}");
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes].concat();
        let _ = WeightsIndex::parse(&file);
    }
}

fn set(header: &mut Header, field: usize, value: u64) {
    match field {
        0 => header.signature = value as u32,
        1 => header.made_by = value as u16,
        2 => header.version = value as u16,
        3 => header.flags = value as u16,
        4 => header.method = value as u16,
        5 => header.time = value as u16,
        6 => header.crc32 = value as u32,
        7 => header.compressed = value as u32,
        8 => header.bytes = value as u32,
        9 => header.name = (value as u32).to_le_bytes().to_vec(),
        10 => header.extra.extend(value.to_le_bytes()),
        _ => header.external = value as u32,
    }
}

fn set_end(zip: &mut Zip, random: &mut Random) {
    let value = [0, 1, 0xffff, 0xffff_ffff, random.next()][random.below(5)];
    match random.below(6) {
        0 => zip.end.disk = value as u16,
        1 => zip.end.entries = value as u16,
        2 => zip.end.entries_here = value as u16,
        3 => zip.end.directory_bytes = value as u32,
        4 => zip.end.directory_offset = value as u32,
        _ => zip.zip64 = value.to_le_bytes().to_vec(),
    }
}
