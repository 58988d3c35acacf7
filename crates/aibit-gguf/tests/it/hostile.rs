//! Files that are wrong in one place: each is refused, and the message says what and where.

use aibit_gguf::GgmlType;

use crate::support::{Raw, RawTensor, array, check_refused, entry, refusal, string};

const F32: u32 = 0;
const Q8_0: u32 = 8;
const Q4_K: u32 = 12;

#[test]
fn other_files() {
    check_refused(b"", &["not a GGUF file: it is empty"]);
    check_refused(
        b"PK\x03\x04 and more",
        &["not a GGUF file: it starts with \"PK\\x03\\x04\", not with \"GGUF\""],
    );
    check_refused(b"<htm", &["it starts with \"<htm\""]);
    check_refused(b"lmgg\x01\0\0\0", &["of a format before GGUF; convert the model again"]);
    check_refused(b"tjgg\x03\0\0\0", &["of a format before GGUF"]);
    check_refused(
        b"GG",
        &["the magic number at byte 0: 4 bytes or more, 2 are left", "truncated by 2 bytes"],
    );
    check_refused(b"GGXF", &["it starts with \"GGXF\""]);
}

#[test]
fn versions() {
    let check = |version, fragment| {
        Raw { version, ..Raw::empty() }
            .check_refused(&[fragment, "this build supports versions 2 and 3, little-endian"]);
    };
    check(0, "version 0;");
    check(1, "version 1, which has 32-bit lengths, is not supported any more");
    check(4, "version 4;");
    check(u32::MAX, "version 4294967295;");
    check(3_u32.swap_bytes(), "the file is big-endian, version 3");
    check(1_u32.swap_bytes(), "the file is big-endian, version 1");
    assert_eq!(Raw { version: 2, ..Raw::with_tensor(F32, &[4]) }.check_accepted().version(), 2);
}

#[test]
fn counts() {
    for count in [1, 1 << 32, u64::MAX] {
        let announced = |what: &str| format!("GGUF: {count} {what} at byte 24:");
        let raw = Raw { entry_count: Some(count), ..Raw::empty() };
        raw.check_refused(&[&announced("metadata entries"), "truncated by"]);
        let raw = Raw { tensor_count: Some(count), ..Raw::empty() };
        raw.check_refused(&[&announced("tensors"), "truncated by"]);
    }
    // One more than there are: what follows is taken for an entry.
    let raw = Raw { entry_count: Some(2), ..Raw::with_value(0, &[1]) };
    raw.check_refused(&["the key of metadata entry 1 at byte 44"]);
}

#[test]
fn keys() {
    let with = |bytes: Vec<u8>| Raw {
        entries: vec![bytes],
        entry_count: Some(1),
        data: vec![0; 64],
        ..Raw::empty()
    };
    with(entry("", 0, &[1]))
        .check_refused(&["the key of metadata entry 0 at byte 24: 0 bytes, allowed are 1 to 65535"]);
    with(entry(&"k".repeat(65_536), 0, &[1])).check_refused(&["65536 bytes, allowed are 1 to 65535"]);
    with(entry(&"k".repeat(65_535), 0, &[1])).check_accepted();
    with(u64::MAX.to_le_bytes().to_vec())
        .check_refused(&["the key of metadata entry 0 at byte 32", "truncated by"]);
    with([&string(b"ab\xffcd"), &[0; 5][..]].concat())
        .check_refused(&["the key of metadata entry 0 at byte 34: not UTF-8"]);
    let raw = Raw {
        entries: vec![entry("a.b", 0, &[1]), entry("c", 0, &[1]), entry("a.b", 0, &[1])],
        ..Raw::empty()
    };
    raw.check_refused(&["metadata `a.b` is given twice, the second time at byte 54"]);
}

#[test]
fn values() {
    for kind in [13, 255, u32::MAX] {
        let message = format!("the type of `the.key` at byte 39: type {kind}, metadata has types 0 to 12");
        Raw::with_value(kind, &[0; 32]).check_refused(&[&message]);
    }
    Raw::with_value(7, &[2]).check_refused(&["the value of `the.key` at byte 43: a truth value of 2"]);
    Raw::with_value(7, &[0xff]).check_refused(&["a truth value of 255, allowed are 0 and 1"]);
    Raw::with_value(8, &string(b"caf\xe9")).check_refused(&["the value of `the.key` at byte 54: not UTF-8"]);
    Raw::with_value(8, &string(b"\xed\xa0\x80")).check_refused(&["not UTF-8"]); // a lone surrogate
    for length in [100_u64, 1 << 40, u64::MAX] {
        Raw::with_value(8, &length.to_le_bytes()).check_refused(&[
            "the value of `the.key` at byte 51",
            &format!("{length} bytes or more"),
            "truncated by",
        ]);
    }
}

#[test]
fn arrays() {
    let with = |kind, count, elements: &[u8]| Raw::with_value(9, &array(kind, count, elements));
    let types = "the type of `the.key` at byte 43: type 13, metadata has types 0 to 12";
    with(13, 1, &[0; 8]).check_refused(&[types]);
    with(9, 1, &array(0, 1, &[1]))
        .check_refused(&["the elements of `the.key` at byte 43: arrays of arrays are not read"]);
    with(9, 0, &[]).check_refused(&["arrays of arrays are not read"]);
    let deep = array(9, 1, &[]).repeat(10_000);
    Raw::with_value(9, &deep).check_refused(&["arrays of arrays are not read"]);
    // 2^61 elements of 8 bytes are 2^64 bytes.
    for count in [100, 1 << 32, 1 << 61, u64::MAX] {
        for kind in (0..13).filter(|kind| *kind != 9) {
            let raw = with(kind, count, &[0; 4]);
            raw.check_refused(&["`the.key` at byte 55", "truncated by"]);
        }
    }
    with(7, 3, &[1, 0, 9]).check_refused(&["the elements of `the.key` at byte 57: a truth value of 9"]);
    let strings = [string(b"good"), string(b"b\xc3")].concat();
    with(8, 2, &strings).check_refused(&["element 1 of `the.key` at byte 76: not UTF-8"]);
    let strings = [string(b"good"), u64::MAX.to_le_bytes().to_vec()].concat();
    with(8, 2, &strings)
        .check_refused(&["element 1 of `the.key` at byte 75: 18446744073709551615 bytes or more"]);
}

#[test]
fn the_part_before_the_data_is_limited() {
    let start = Raw::with_value(9, &array(0, 1 << 27, &[])).bytes();
    let mut file = vec![0; start.len() + (1 << 27)]; // of which the system gives what is written
    file[..start.len()].copy_from_slice(&start);
    check_refused(
        &file,
        &["the elements of `the.key` at byte 55: 134217728 bytes; before the data a file may have 134217728"],
    );
}

#[test]
fn alignments() {
    let with = |kind, payload: &[u8]| {
        let mut raw = Raw::with_tensor(F32, &[4]);
        raw.entries.push(entry("general.alignment", kind, payload));
        raw
    };
    for alignment in [0_u32, 1, 3, 4, 12, 1 << 21, 1 << 31, u32::MAX] {
        with(4, &alignment.to_le_bytes()).check_refused(&[&format!(
            "metadata `general.alignment` is {alignment}, must be a power of two from 8 to 1048576"
        )]);
    }
    with(10, &32_u64.to_le_bytes()).check_refused(&["metadata `general.alignment` must be of type u32"]);
    with(5, &32_i32.to_le_bytes()).check_refused(&["metadata `general.alignment` must be of type u32"]);
    with(8, &string(b"32")).check_refused(&["metadata `general.alignment` must be of type u32"]);
    for alignment in [8_u32, 16, 32] {
        with(4, &alignment.to_le_bytes()).check_accepted();
    }
    // The start of the data is itself past the end.
    with(4, &(1_u32 << 20).to_le_bytes()).check_refused(&["the data of tensor `the.tensor`", "truncated by"]);
}

#[test]
fn tensor_names() {
    let with = |name: &[u8]| {
        let mut raw = Raw::with_tensor(F32, &[4]);
        raw.tensors[0].name = name.to_vec();
        raw
    };
    with(b"").check_refused(&["tensor ``: a name of 0 bytes, allowed are 1 to 64"]);
    with(&[b'n'; 65]).check_refused(&["a name of 65 bytes, allowed are 1 to 64"]);
    with(&[b'n'; 65 << 10]).check_refused(&["a name of 66560 bytes"]);
    with(&[b'n'; 64]).check_accepted();
    with(b"a\xff").check_refused(&["the name of tensor 0 at byte 33: not UTF-8"]);
    let raw = Raw { entries: Vec::new(), tensor_count: Some(1), ..Raw::empty() };
    let file = [&raw.bytes()[..24], &u64::MAX.to_le_bytes(), &[0; 64]].concat();
    check_refused(
        &file,
        &["the name of tensor 0 at byte 32: 18446744073709551615 bytes or more, 64 are left"],
    );
    let mut raw = Raw::with_tensor(F32, &[4]);
    raw.tensors.push(RawTensor::new("the.tensor", F32, &[4], 32));
    raw.check_refused(&["tensor `the.tensor`: is given twice"]);
}

#[test]
fn ranks_and_shapes() {
    let check = |kind, dims: &[u64], fragment: &str| {
        Raw::with_tensor(kind, dims).check_refused(&["tensor `the.tensor`: ", fragment]);
    };
    check(F32, &[], "0 dimensions, allowed are 1 to 4");
    check(F32, &[1; 5], "5 dimensions, allowed are 1 to 4");
    for rank in [9, u32::MAX] {
        let mut raw = Raw::with_tensor(F32, &[1]);
        raw.tensors[0].rank = Some(rank);
        raw.check_refused(&[&format!("{rank} dimensions, allowed are 1 to 4")]);
    }
    check(F32, &[0], "shape [0] has no elements");
    check(F32, &[4, 0, 2], "shape [2, 0, 4] has no elements");
    check(F32, &[1 << 63], "shape [9223372036854775808] as F32 has more than 18446744073709551615 bytes");
    check(F32, &[u64::MAX], "has more than 18446744073709551615 bytes");
    check(F32, &[1 << 32, 1 << 32], "has more than");
    check(F32, &[1 << 62], "has more than"); // 2^64 bytes
    check(F32, &[2, 1 << 61, 8, 1], "has more than");
    check(Q8_0, &[u64::MAX - 31], "has more than"); // 34 bytes for 32 elements
    check(Q8_0, &[33], "shape [33]: rows of 33 elements, Q8_0 needs a multiple of 32");
    check(Q8_0, &[16, 2], "shape [2, 16]: rows of 16 elements"); // the elements would be whole blocks
    check(Q4_K, &[128, 2], "rows of 128 elements, Q4_K needs a multiple of 256");
    // The file's order is the reverse of PyTorch's.
    assert_eq!(Raw::with_tensor(Q8_0, &[32, 3]).check_accepted().tensors()[0].shape, [3, 32]);
}

#[test]
fn types() {
    let check = |kind, fragment: &str| {
        Raw::with_tensor(kind, &[256]).check_refused(&["tensor `the.tensor`: ", fragment]);
    };
    check(10, "type 10 (Q2_K) is not supported; supported are F32, F16,");
    check(20, "type 20 (IQ4_NL) is not supported");
    check(34, "type 34 (TQ1_0) is not supported");
    check(39, "type 39 (MXFP4) is not supported");
    check(4, "type 4 (Q4_2) was removed from ggml; convert the model again");
    check(31, "type 31 (Q4_0_4_4) was removed from ggml");
    check(38, "type 38 (IQ4_NL_8_8) was removed from ggml");
    check(255, "type 255 is not one of ggml's");
    check(u32::MAX, "type 4294967295 is not one of ggml's"); // -1
    for dtype in GgmlType::ALL {
        assert_eq!(Raw::with_tensor(dtype.id(), &[256]).check_accepted().tensors()[0].dtype, dtype);
    }
}

#[test]
fn offsets() {
    let at = |offset| {
        let mut raw = Raw::with_tensor(F32, &[8, 2]); // 64 bytes of 1024
        raw.tensors[0].offset = offset;
        raw
    };
    at(1).check_refused(&["tensor `the.tensor`: offset 1, not a multiple of the alignment, 32"]);
    at(16).check_refused(&["offset 16, not a multiple"]);
    at(960).check_accepted();
    at(992).check_refused(&[
        "the data of tensor `the.tensor` at byte",
        "64 bytes or more, 32 are left",
        "by 32 bytes",
    ]);
    at(1024).check_refused(&["64 bytes or more, 0 are left"]);
    at(1 << 40).check_refused(&["0 are left", "truncated by 1099511626816 bytes"]);
    at(u64::MAX - 31)
        .check_refused(&["offset 18446744073709551584 from byte 96 on, and 64 bytes: no file is that long"]);
    at(u64::MAX - 127).check_refused(&["no file is that long"]);
    at(u64::MAX).check_refused(&["not a multiple of the alignment"]);
    let mut raw = at(960);
    raw.data.pop();
    raw.check_refused(&["truncated by 1 bytes"]);
}

#[test]
fn tensors_over_each_other() {
    let with = |places: &[(&str, u64, u64)]| {
        let mut raw = Raw { data: vec![0; 1024], ..Raw::empty() };
        let tensors =
            places.iter().map(|&(name, elements, offset)| RawTensor::new(name, F32, &[elements], offset));
        raw.tensors.extend(tensors);
        raw
    };
    with(&[("a", 8, 0), ("b", 8, 32), ("c", 8, 96)]).check_accepted(); // with a hole
    with(&[("a", 8, 64), ("b", 16, 0)]).check_accepted(); // in another order
    with(&[("a", 8, 0), ("b", 8, 0)]).check_refused(&["tensor `b`: starts at byte", "before the end of `a`"]);
    with(&[("a", 9, 0), ("b", 8, 32)])
        .check_refused(&["tensor `b`: starts at byte", "before the end of `a`"]);
    with(&[("a", 8, 32), ("b", 100, 0)])
        .check_refused(&["tensor `a`: starts at byte", "before the end of `b`"]);
    // Sizes whose sum is past 2^64.
    let half = 1 << 61; // of 4 bytes
    with(&[("a", half, 0), ("b", half, 1 << 63)]).check_refused(&["tensor `b`: offset 9223372036854775808"]);
    with(&[("a", half, 0), ("b", half, 0)]).check_refused(&["tensor `b`", "before the end of `a`"]);
}

#[test]
fn hostile_names_do_not_fill_the_message() {
    let key = "k".repeat(60_000);
    let raw = Raw { entries: vec![entry(&key, 99, &[])], ..Raw::empty() };
    assert!(refusal(&raw.bytes()).len() < 300);
    let raw = Raw { entries: vec![entry(&key, 0, &[1]), entry(&key, 0, &[1])], ..Raw::empty() };
    assert!(refusal(&raw.bytes()).len() < 300);
    let raw = Raw { entries: vec![entry(&key, 9, &array(8, 1, &[0xff; 8]))], ..Raw::empty() };
    assert!(refusal(&raw.bytes()).len() < 300);
}

#[test]
fn many_small_entries_are_read_in_good_time() {
    let mut entries: Vec<_> = (0..200_000).map(|i| entry(&format!("{i:x}"), 0, &[1])).collect();
    entries.push(entry("7", 0, &[1]));
    Raw { entries, ..Raw::empty() }.check_refused(&["metadata `7` is given twice"]);
    let tensors = (0..100_000).map(|i| RawTensor::new(&format!("{i:x}"), F32, &[8], i * 32)).collect();
    Raw { tensors, ..Raw::empty() }.check_refused(&["truncated by 3200000 bytes"]);
}
