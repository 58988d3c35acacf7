//! Containers that are broken or lie. Each is refused by section and numbers.

use crate::support::{Header, PAGE, Parts, Zip, broken, check_refused, extra_field, refusal};

#[test]
fn the_sample_itself_opens() {
    crate::support::open(&broken(|_| {})).expect("open");
}

// Truncation and additions

#[test]
fn a_file_cut_anywhere_is_refused() {
    let zip = Parts::sample().zip();
    let whole = zip.bytes();
    let directory = zip.end.directory_offset as usize;
    let pages = (0..whole.len()).step_by(PAGE);
    let edges = zip.edges().into_iter().flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1]);
    for length in pages.chain(edges).chain(directory..whole.len()).filter(|&length| length < whole.len()) {
        let message = refusal(&whole[..length]);
        let end = format!("container, end record at byte {}: ", length.saturating_sub(22));
        let expected = if length < 22 { "is not an .aibit archive" } else { end.as_str() };
        assert!(message.contains(expected), "cut to {length} bytes: {message}");
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let whole = broken(|_| {});
    for tail in [&b"\0"[..], b"\n", &[0; PAGE], b"PK\x05\x06"] {
        check_refused(&[&whole, tail].concat(), &["end record", "something follows the archive"]);
    }
    // The last 22 bytes of these are an end record, but it counts from another start.
    let length = whole.len();
    let directory_end = (2 * length - 22).to_string();
    check_refused(&[&whole[..], &whole].concat(), &["end record", "but it must end at", &directory_end]);
}

#[test]
fn bytes_before_the_start_are_refused() {
    let whole = broken(|_| {});
    check_refused(&[b"#!/bin/sh\nexec aibit \"$0\"\n", &whole[..]].concat(), &["it starts with 23 21 2f 62"]);
    check_refused(
        &[&b"PK\x03\x04"[..], &[0; PAGE - 4], &whole].concat(),
        &["end record", "but it must end at"],
    );
    // The same with every offset moved, as tools that make self-extracting archives do.
    let moved = broken(|zip| {
        zip.items[0].gap = [&b"PK\x03\x04"[..], &[0; PAGE - 4]].concat();
        zip.relocate();
    });
    check_refused(&moved, &["entry `weights.safetensors`", "at 4096, but the previous entry ends at 0"]);
}

#[test]
fn the_rest_of_a_file_may_not_be_a_second_archive() {
    // Two whole archives, the second one's offsets right for where it lies: a reader that starts at the end
    // sees the second, one that starts at the front sees the first.
    let first = broken(|_| {});
    let second = broken(|zip| {
        zip.items[0].gap = first.clone();
        zip.relocate();
    });
    check_refused(&second, &["entry `weights.safetensors`", "without gaps or overlaps"]);
}

// The end record

#[track_caller]
fn check_end(edit: impl FnOnce(&mut Zip), fragments: &[&str]) {
    check_refused(&broken(edit), &[&["container, end record"], fragments].concat());
}

#[test]
fn an_end_record_that_points_elsewhere_is_refused() {
    check_end(|zip| zip.end.signature = 0x0605_4b51, &["the last 22 bytes are not a ZIP end record"]);
    check_end(|zip| zip.end.directory_offset += 1, &["but it must end at"]);
    check_end(|zip| zip.end.directory_offset = 0x7fff_ffff, &["from 2147483647, but it must end at"]);
    check_end(|zip| zip.end.directory_offset = 0xffff_fffe, &["from 4294967294, but it must end at"]);
    check_end(|zip| zip.end.directory_bytes -= 1, &["but it must end at"]);
    check_end(|zip| zip.end.directory_bytes = u32::MAX, &["takes 4294967295 bytes", "but it must end at"]);
    // At itself, and at the front.
    let at_itself = broken(|zip| {
        zip.end.directory_offset += zip.end.directory_bytes;
        zip.end.directory_bytes = 0;
    });
    check_refused(&at_itself, &["central directory, entry 0", "there is no directory header here"]);
    let at_the_front = broken(|zip| {
        zip.end.directory_bytes += zip.end.directory_offset;
        zip.end.directory_offset = 0;
    });
    check_refused(
        &at_the_front,
        &["central directory, entry 0 at byte 0", "there is no directory header here"],
    );
}

#[test]
fn entry_counts_that_lie_are_refused() {
    let all = |count: u16| move |zip: &mut Zip| (zip.end.entries, zip.end.entries_here) = (count, count);
    check_end(all(0), &["0 entries, allowed are 1 to 4096"]);
    check_end(all(4097), &["4097 entries, allowed are 1 to 4096"]);
    check_end(all(u16::MAX), &["65535 entries, allowed are 1 to 4096"]);
    check_refused(&broken(all(5)), &["central directory", "5 entries take"]);
    check_refused(&broken(all(7)), &["central directory, entry 6", "there is no directory header here"]);
    check_refused(&broken(all(4096)), &["central directory, entry 6", "there is no directory header here"]);
    check_end(|zip| zip.end.entries_here = 5, &["a field differs"]);
}

#[test]
fn disks_and_comments_are_refused() {
    check_end(|zip| zip.end.disk = 1, &["a field differs from what the format allows (disks, comment"]);
    check_end(|zip| zip.end.directory_disk = 1, &["a field differs"]);
    check_end(|zip| zip.end.comment = b"hello".to_vec(), &["something follows the archive"]);
    // A comment as long as they get, which ends with an end record of its own. The first counts nothing;
    // the second takes the true end record and the comment for a part of the directory.
    let fake = |directory_bytes: u32| {
        broken(|zip| {
            let mut inner = zip.end.clone();
            inner.directory_bytes += directory_bytes;
            zip.end.comment = [vec![b' '; 0xffff - 22], inner.to_bytes()].concat();
        })
    };
    check_refused(&fake(0), &["end record", "but it must end at"]);
    check_refused(&fake(0xffff), &["central directory", "6 entries take"]);
}

// Entries and their headers

/// An edit of one header field, and what the message calls the field in the central and the local header.
type FieldEdit = (fn(&mut Header), &'static str, &'static str);

const FIELDS: [FieldEdit; 10] = [
    (|h| h.version = 45, "the version needed", "version"),
    (|h| h.flags = 0, "the flags", "flags"),
    (|h| h.flags |= 1, "the flags", "flags"),      // encrypted
    (|h| h.flags |= 1 << 3, "the flags", "flags"), // sizes in a data descriptor
    (|h| h.method = 8, "the method", "method"),
    (|h| h.method = 99, "the method", "method"),
    (|h| h.time = 1, "the time", "time"),
    (|h| h.date = 0, "the time", "time"),
    (|h| h.compressed += 1, "the size", "size"),
    (|h| h.bytes -= 1, "the size", "size"),
];

#[test]
fn no_header_field_may_say_anything_else() {
    for item in [0, 2, 5] {
        for (edit, central, local) in FIELDS {
            let name = ["weights.safetensors", "", "tokenizer.json", "", "", "manifest.json"][item];
            let bytes = broken(|zip| edit(&mut zip.items[item].central));
            let section = format!("container, central directory, entry {item} at byte ");
            check_refused(&bytes, &[&section, name, central, "stored (method 0)"]);
            let bytes = broken(|zip| edit(&mut zip.items[item].local));
            let section = format!("container, entry `{name}` at byte ");
            check_refused(&bytes, &[&section, &format!("disagrees with the directory: {local}, byte ")]);
            // In agreement it is no better.
            let bytes = broken(|zip| {
                edit(&mut zip.items[item].local);
                edit(&mut zip.items[item].central);
            });
            check_refused(&bytes, &[name, central]);
        }
    }
}

#[test]
fn local_and_central_headers_agree_in_name_checksum_and_size() {
    let check = |edit: fn(&mut Header), field: &str| {
        for (local, central) in [(true, false), (false, true)] {
            let bytes = broken(|zip| {
                let item = &mut zip.items[4];
                if local {
                    edit(&mut item.local);
                }
                if central {
                    edit(&mut item.central);
                }
            });
            check_refused(
                &bytes,
                &["container, entry `", &format!("disagrees with the directory: {field}, byte ")],
            );
        }
    };
    check(|h| h.crc32 ^= 1, "checksum");
    check(|h| h.name[0] = b'k', "name");
    // A size that both headers of an entry agree on, but not with where the next begins.
    for wrong in [22, 24] {
        let bytes = broken(|zip| {
            for header in zip.items[4].headers() {
                assert_eq!(header.bytes, 23);
                (header.bytes, header.compressed) = (wrong, wrong);
            }
        });
        check_refused(&bytes, &["entry `manifest.json`", "without gaps or overlaps"]);
    }
}

#[test]
fn a_wrong_signature_is_no_header() {
    check_refused(
        &broken(|zip| zip.items[1].central.signature ^= 1),
        &["central directory, entry 1", "there is no directory header here"],
    );
    check_refused(
        &broken(|zip| zip.items[1].local.signature ^= 1),
        &["entry `graph.json`", ": signature, byte "],
    );
}

#[test]
fn fields_of_the_directory_alone_have_one_value() {
    let check = |edit: fn(&mut Header), field: &str| {
        let bytes = broken(|zip| {
            edit(&mut zip.items[1].central);
            let offsets: Vec<_> = zip.items.iter().map(|item| item.central.offset).collect();
            zip.relocate();
            assert_eq!(offsets, zip.items.iter().map(|item| item.central.offset).collect::<Vec<_>>());
        });
        check_refused(&bytes, &["central directory, entry 1", "`graph.json`", field]);
    };
    check(|h| h.made_by = 45, "the version made by");
    check(|h| h.comment = b"hello".to_vec(), "the comment length");
    check(|h| h.disk = 1, "the disk or the attributes");
    check(|h| h.internal = 1, "the disk or the attributes");
    check(|h| h.external = 0o120_777 << 16, "the disk or the attributes"); // symbolic link
    check(|h| h.external = 0o040_755 << 16 | 0x10, "the disk or the attributes"); // folder
    check(|h| h.external = 0o060_644 << 16, "the disk or the attributes"); // block device
    check(|h| h.external = 0o104_755 << 16, "the disk or the attributes"); // runs as its owner
    check(|h| h.extra = extra_field(0x7075, b"\x01\0\0\0\0a.txt"), "the length of name or extras"); // a second name
    check(|h| h.extra = vec![0], "the length of name or extras");
}

#[test]
fn a_directory_header_cannot_reach_past_the_directory() {
    let mut bytes = broken(|_| {});
    let last = bytes.len() - 22 - 46 - "manifest.json".len();
    bytes[last + 30] = 60;
    let problem = "a name of 13 and extras of 60 bytes pass its end";
    check_refused(&bytes, &[&format!("central directory, entry 5 at byte {last}"), problem]);
    bytes[last + 30] = 0;
    bytes[last + 29] = 1;
    check_refused(
        &bytes,
        &["central directory, entry 5", "a name of 269 and extras of 0 bytes pass its end"],
    );
}

#[test]
fn names_that_stand_twice_are_refused() {
    let check = |name: &str| {
        let mut parts = Parts::sample();
        parts.entries.push((name.to_owned(), b"{}".to_vec()));
        check_refused(
            &parts.zip().bytes(),
            &[&format!("entry `{name}`"), "an earlier entry has the same name"],
        );
    };
    check("config.json");
    check("Config.JSON");
    check("weights.safetensors");
    let mut parts = Parts::sample();
    parts.entries.insert(0, ("manifest.json".to_owned(), b"{}".to_vec()));
    check_refused(&parts.zip().bytes(), &["entry `manifest.json`", "an earlier entry has the same name"]);
}

#[test]
fn a_name_that_is_also_a_folder_is_refused() {
    let mut parts = Parts::sample();
    parts.entries.push(("Extra/notice-1.txt/more".to_owned(), b"{}".to_vec()));
    check_refused(&parts.zip().bytes(), &["entry `Extra/notice-1.txt/more`", "`extra/NOTICE-1.txt`"]);
    let mut parts = Parts::sample();
    parts.entries.push(("extra".to_owned(), b"{}".to_vec()));
    check_refused(&parts.zip().bytes(), &["entry `extra`", "`extra/NOTICE-1.txt`"]);
    let mut parts = Parts::sample();
    parts.entries.push(("extra/NOTICE-2.txt".to_owned(), b"{}".to_vec()));
    parts.entries.push(("extra2".to_owned(), b"{}".to_vec()));
    crate::support::open(&parts.zip().bytes()).expect("two entries of one folder, and another name");
}

#[test]
fn names_that_could_leave_the_folder_or_mean_something_else_are_refused() {
    let long = "x".repeat(256);
    let longest = "x".repeat(0xffff);
    let names: [&[u8]; 24] = [
        b"../x",
        b"/x",
        b"//host/x",
        b"C:\\x",
        b"C:x",
        b"\\\\host\\x",
        b"a\\b",
        b"a/../../x",
        b"..././x",
        b"a/./b",
        b"a//b",
        b"a/",
        b".",
        b"..",
        b"~",
        b"nul\0byte",
        b"new\nline",
        b"\x1b[2Jescape",
        b"two words",
        "se\u{301}quence".as_bytes(),
        b"\xff\xfenot utf-8",
        b"",
        long.as_bytes(),
        longest.as_bytes(),
    ];
    for name in names {
        let manifest = Parts::sample().full_manifest().to_json();
        let zip = Zip::of(&[(name, b"data"), (b"manifest.json", &manifest)]);
        let message = refusal(&zip.bytes());
        assert!(message.contains("container, central directory, entry 0 at byte "), "{message}");
        assert!(message.contains("entry name"), "{message}");
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }
    check_refused(&Zip::of(&[(longest.as_bytes(), b"")]).bytes(), &["65535 bytes", "allowed are 1 to 255"]);
    check_refused(&Zip::of(&[(b"", b"")]).bytes(), &["0 bytes", "allowed are 1 to 255"]);
}

// Places

#[test]
fn overlaps_and_holes_are_refused() {
    let twice = broken(|zip| zip.items[2].central.offset = zip.items[1].central.offset);
    check_refused(&twice, &["entry `tokenizer.json`", "without gaps or overlaps"]);
    let hole = broken(|zip| {
        zip.items[2].gap = vec![0; PAGE];
        zip.relocate();
    });
    check_refused(&hole, &["entry `tokenizer.json`", "without gaps or overlaps"]);
    let before_the_directory = broken(|zip| {
        zip.gap = vec![0; 8];
        zip.relocate();
    });
    check_refused(&before_the_directory, &["central directory", "the last ends at", "not where it starts"]);
    let after_the_directory = broken(|zip| zip.zip64 = vec![0; 8]);
    check_refused(&after_the_directory, &["end record", "but it must end at"]);
    let inside_the_directory = broken(|zip| {
        zip.zip64 = vec![0; 8];
        zip.end.directory_bytes += 8;
    });
    check_refused(&inside_the_directory, &["central directory", "6 entries take"]);
    let exchanged = broken(|zip| zip.items.swap(1, 2));
    check_refused(&exchanged, &["without gaps or overlaps"]);
}

#[test]
fn an_entry_cannot_cover_the_directory_or_pass_the_file() {
    for bytes in [1 << 16, 1 << 31, u32::MAX - 1] {
        let long = broken(|zip| {
            for header in zip.items[5].headers() {
                (header.bytes, header.compressed) = (bytes, bytes);
            }
        });
        check_refused(
            &long,
            &["entry `manifest.json`", &format!("{bytes} bytes from "), "pass the start of the directory"],
        );
    }
    for offset in [u32::MAX - 1, 1 << 31] {
        let far = broken(|zip| zip.items[5].central.offset = offset);
        check_refused(&far, &["entry `manifest.json`", &format!("given at {offset}")]);
    }
}

#[test]
fn data_off_a_page_is_refused() {
    let extras: [Vec<u8>; 6] = [
        Vec::new(),
        extra_field(0xd935, &[0, 16]),
        vec![0; 40],
        extra_field(0xd935, &[[0, 16].as_slice(), &[0; 9]].concat()),
        extra_field(0xd935, &[[0, 16].as_slice(), &[0; 2 * PAGE]].concat()),
        extra_field(0x7075, &[0; 100]),
    ];
    for extra in extras {
        let bytes = broken(|zip| {
            zip.items[5].local.extra = extra.clone();
            zip.relocate();
        });
        let message = refusal(&bytes);
        assert!(message.starts_with("container, ") && message.contains("manifest.json"), "{message}");
    }
}

#[test]
fn padding_hides_nothing() {
    let check = |at: usize, byte: u8| {
        let bytes = broken(|zip| zip.items[1].local.extra[at] = byte);
        check_refused(&bytes, &["entry `graph.json`", "disagrees with the directory: padding, byte "]);
    };
    check(0, 0x36); // another extra field
    check(2, 0); // its length
    check(4, 3); // alignments of 4099, 0 and 32,768
    check(5, 0);
    check(5, 0x80);
    check(6, 1); // the zeros
    let last = Parts::sample().zip().items[1].local.extra.len() - 1;
    check(last, b'x');
}

// ZIP64

fn zip64_records(entries: u64, bytes: u64, offset: u64, end64_offset: u64) -> Vec<u8> {
    let mut out = 0x0606_4b50_u32.to_le_bytes().to_vec();
    out.extend(44_u64.to_le_bytes());
    out.extend((3_u16 << 8 | 45).to_le_bytes());
    out.extend(45_u16.to_le_bytes());
    out.extend([0; 8]);
    for field in [entries, entries, bytes, offset] {
        out.extend(field.to_le_bytes());
    }
    out.extend(0x0706_4b50_u32.to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    out.extend(end64_offset.to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    out
}

/// The sample with ZIP64 end records, which so small an archive must not have.
fn zip64(edit: impl FnOnce(&mut [u64; 4])) -> Vec<u8> {
    broken(|zip| {
        let (offset, bytes) = (u64::from(zip.end.directory_offset), u64::from(zip.end.directory_bytes));
        let mut fields = [zip.items.len() as u64, bytes, offset, offset + bytes];
        edit(&mut fields);
        zip.zip64 = zip64_records(fields[0], fields[1], fields[2], fields[3]);
        zip.end.directory_offset = u32::MAX;
    })
}

#[test]
fn zip64_end_records_that_are_not_needed_or_lie_are_refused() {
    check_refused(&zip64(|_| {}), &["end record", "a field differs from what the format allows"]);
    for count in [u64::from(u32::MAX), u64::MAX, 1 << 63] {
        check_refused(
            &zip64(|f| f[0] = count),
            &["end record", &format!("{count} entries, allowed are 1 to 4096")],
        );
    }
    check_refused(&zip64(|f| f[1] = u64::MAX), &["18446744073709551615 bytes", "but it must end at"]);
    check_refused(&zip64(|f| f[2] = u64::MAX), &["from 18446744073709551615, but it must end at"]);
    check_refused(&zip64(|f| (f[1], f[2]) = (f[1].wrapping_sub(100), f[2] + 99)), &["but it must end at"]);
    check_refused(&zip64(|f| f[3] = 0), &["a field differs"]);
    check_refused(&zip64(|f| f[3] = u64::MAX), &["a field differs"]);
    // Announced, but not there.
    check_refused(&broken(|zip| zip.end.directory_offset = u32::MAX), &["end record", "but it must end at"]);
    let mut end = Parts::sample().zip().end;
    end.directory_offset = u32::MAX;
    for between in 0..76 {
        let tiny = [&b"PK\x03\x04"[..], &vec![0; between], &end.to_bytes()].concat();
        let expected = match between {
            0..72 => "for which there is no room",
            72 => "0 entries, allowed are 1 to 4096", // all of whose fields agree
            _ => "but it must end at",
        };
        check_refused(&tiny, &["end record", expected]);
    }
}

#[test]
fn zip64_sizes_that_are_not_needed_missing_doubled_or_lie_are_refused() {
    let check = |edit: &dyn Fn(&mut Header), fragment: &str| {
        let bytes = broken(|zip| {
            edit(&mut zip.items[1].central);
            let (offset, narrow) = (zip.items[1].central.offset, zip.end.directory_offset);
            zip.relocate();
            (zip.items[1].central.offset, zip.end.directory_offset) = (offset, narrow);
        });
        check_refused(&bytes, &["central directory, entry 1", "`graph.json`", fragment]);
    };
    let wide =
        |values: &[u64]| extra_field(1, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    let size = 13;
    check(&|h| h.extra = wide(&[size, size]), "differs from what the format allows");
    check(&|h| (h.bytes, h.compressed) = (u32::MAX, u32::MAX), "lacks its ZIP64 sizes");
    check(&|h| h.offset = u32::MAX, "lacks its ZIP64 sizes");
    let all = |extra: Vec<u8>| {
        move |h: &mut Header| {
            (h.bytes, h.compressed, h.extra) = (u32::MAX, u32::MAX, extra.clone());
        }
    };
    check(&all(wide(&[size])), "lacks its ZIP64 sizes");
    check(&all(wide(&[size, size])), "differs from what the format allows");
    check(&all(wide(&[u64::MAX, u64::MAX])), "18446744073709551615 bytes at ");
    check(&all(wide(&[1 << 62, 1 << 62])), "4611686018427387904 bytes at ");
    check(
        &all([wide(&[1 << 33, 1 << 33]), wide(&[size, size])].concat()),
        "differs from what the format allows",
    );
    check(&all(wide(&[1 << 33, 1 << 34])), "differs from what the format allows");
    let with_offset = |offset: u64| {
        let extra = wide(&[offset]);
        move |h: &mut Header| (h.offset, h.extra) = (u32::MAX, extra.clone())
    };
    check(&with_offset(4096), "differs from what the format allows");
    check(&with_offset(u64::MAX), "13 bytes at 18446744073709551615");
    check(&with_offset((1 << 62) - 1), "differs from what the format allows");
    // Well encoded, but there is no such place.
    let far = |extra: Vec<u8>, edit: &dyn Fn(&mut Header)| {
        broken(|zip| {
            let header = &mut zip.items[1].central;
            (header.version, header.extra) = (45, extra);
            edit(header);
            zip.end.directory_bytes += header.extra.len() as u32;
        })
    };
    let bytes = far(wide(&[(1 << 62) - 1]), &|h| h.offset = u32::MAX);
    check_refused(&bytes, &["graph.json"]);
    let bytes =
        far(wide(&[(1 << 62) - 1, (1 << 62) - 1]), &|h| (h.bytes, h.compressed) = (u32::MAX, u32::MAX));
    check_refused(
        &bytes,
        &["entry `graph.json`", "4611686018427387903 bytes from ", "pass the start of the directory"],
    );
}

#[test]
fn zip64_signatures_inside_data_mean_nothing() {
    let mut parts = Parts::sample();
    parts.entries[4].1 = zip64_records(1 << 40, 1 << 40, 1 << 40, 1 << 40);
    crate::support::open(&parts.zip().bytes()).expect("data is data");
}

// Compression

#[test]
fn deflated_entries_are_refused() {
    // "Stored" blocks are valid deflate streams, and zeros a bomb of 1000 to 1.
    let bytes = broken(|zip| {
        let item = &mut zip.items[4];
        let length = item.data.len() as u16;
        let stream = [&[1][..], &length.to_le_bytes(), &(!length).to_le_bytes(), &item.data].concat();
        for header in item.headers() {
            (header.method, header.version, header.compressed) = (8, 20, stream.len() as u32);
        }
        item.data = stream;
        zip.relocate();
    });
    check_refused(&bytes, &["central directory, entry 4", "`config.json`", "the version needed"]);
    let bomb = broken(|zip| {
        for header in zip.items[4].headers() {
            (header.method, header.bytes) = (8, u32::MAX - 1);
        }
    });
    check_refused(&bomb, &["central directory, entry 4", "`config.json`", "the method"]);
    let empty = broken(|zip| {
        for header in zip.items[4].headers() {
            header.bytes = 0; // and compressed size 23
        }
    });
    check_refused(&empty, &["central directory, entry 4", "`config.json`", "the size"]);
}

#[test]
fn a_zip_inside_an_archive_is_data() {
    let mut parts = Parts::sample();
    parts.entries[2].1 = parts.zip().bytes();
    crate::support::open(&parts.zip().bytes()).expect("data is data");
}

// Numbers of entries

#[test]
fn as_many_entries_as_are_allowed_take_no_time() {
    let names: Vec<_> = (0..4096).map(|i| format!("{}{i:04}", "x".repeat(200))).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_bytes(), &b""[..])).collect();
    check_refused(&Zip::of(&entries).bytes(), &["no entry `manifest.json`", "xxx0000"]);
    let one_more: Vec<_> = entries.iter().copied().chain([(&b"manifest.json"[..], &b""[..])]).collect();
    check_refused(&Zip::of(&one_more).bytes(), &["4097 entries, allowed are 1 to 4096"]);
}
