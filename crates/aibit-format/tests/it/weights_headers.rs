//! Headers of `weights.safetensors` that are malformed or lie about where tensors are.

use aibit_format::WeightsIndex;

use crate::support::{Parts, check_refused};

/// A safetensors file of the given header and data length.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

/// Checks that an archive with this `weights.safetensors` is refused.
#[track_caller]
fn check_file(weights: Vec<u8>, fragments: &[&str]) {
    check_refused(&Parts::with_weights(weights).zip().bytes(), fragments);
}

#[track_caller]
fn check(header: &str, data: usize, fragments: &[&str]) {
    check_file(file(header, data), fragments);
}

/// Checks one tensor `x` with the given dtype, shape and offsets before `data` bytes of data.
#[track_caller]
fn check_tensor(dtype: &str, shape: &str, offsets: &str, data: usize, fragments: &[&str]) {
    let header = format!(r#"{{"x":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#);
    check(&header, data, fragments);
}

fn tensor(name: &str, begin: usize, end: usize) -> String {
    format!(
        r#""{name}":{{"dtype":"I8","shape":[{}],"data_offsets":[{begin},{end}]}}"#,
        end.saturating_sub(begin)
    )
}

#[test]
fn header_lengths_are_checked_before_anything_is_read() {
    let whole = &Parts::sample().entries[0].1;
    for length in 0..8 {
        check_file(
            whole[..length].to_vec(),
            &[&format!("weights.safetensors: {length} bytes, the header's length")],
        );
    }
    let follow = whole.len() - 8;
    for length in [0, 1, follow as u64 + 1, 100_000_001, 1 << 32, 1 << 63, u64::MAX - 7, u64::MAX] {
        let mut weights = whole.clone();
        weights[..8].copy_from_slice(&length.to_le_bytes());
        check_file(
            weights,
            &[
                &format!("weights.safetensors: the header length is {length} bytes"),
                &format!("and {follow} follow"),
            ],
        );
    }
    check_file(2_u64.to_le_bytes().to_vec(), &["the header length is 2 bytes", "and 0 follow"]);
}

#[test]
fn headers_that_are_no_json_objects_are_refused() {
    check("[]", 0, &["weights.safetensors: the header starts with byte 0x5b, not with `{`"]);
    check(" {}", 0, &["weights.safetensors: the header starts with byte 0x20"]);
    check("\u{feff}{}", 0, &["weights.safetensors: the header starts with byte 0xef"]);
    check("{]", 0, &["weights.safetensors: ", "line 1 column 2"]);
    check("{} {}", 0, &["weights.safetensors: trailing characters"]);
    check("{}\0", 0, &["weights.safetensors: trailing characters"]);
    check("{\"x\":", 0, &["weights.safetensors: `x`: EOF"]);
    check(&format!("{{\"x\":{}", "[".repeat(100_000)), 0, &["weights.safetensors: "]);
    check(&format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000)), 0, &["weights.safetensors: "]);
    let mut not_utf8 = file(&format!("{{{}}}", tensor("x?", 0, 1)), 1);
    let at = not_utf8.iter().position(|&b| b == b'?').expect("the name");
    not_utf8[at] = 0xff;
    check_file(not_utf8, &["weights.safetensors: invalid unicode code point"]);
    // A header cut or extended into the data.
    check_file(
        {
            let mut weights = Parts::sample().entries[0].1.clone();
            weights[0] -= 64;
            weights
        },
        &["weights.safetensors: "],
    );
}

#[test]
fn ranks_and_dimensions_have_limits() {
    check_tensor("\"F32\"", "[]", "[0,4]", 4, &["tensor `x`: 0 dimensions, allowed are 1 to 8"]);
    check_tensor(
        "\"I8\"",
        "[1,1,1,1,1,1,1,1,1]",
        "[0,1]",
        1,
        &["tensor `x`: 9 dimensions, allowed are 1 to 8"],
    );
    let ones = format!("[1{}]", ",1".repeat(100_000));
    check_tensor("\"I8\"", &ones, "[0,1]", 1, &["tensor `x`: 100001 dimensions"]);
    check_tensor("\"F32\"", "[0]", "[0,0]", 0, &["tensor `x`: shape [0] has no elements"]);
    check_tensor("\"F32\"", "[4,0,3]", "[0,0]", 0, &["tensor `x`: shape [4, 0, 3] has no elements"]);
    check_tensor(
        "\"I8\"",
        "[9223372036854775808]",
        "[0,4]",
        4,
        &["needs 9223372036854775808 bytes, the entry holds 4"],
    );
    check_tensor("\"F32\"", "[9223372036854775808]", "[0,4]", 4, &["has more than 2^64 bytes"]);
    check_tensor("\"I8\"", "[4294967296,4294967296]", "[0,4]", 4, &["has more than 2^64 bytes"]);
    check_tensor("\"F32\"", "[4611686018427387905]", "[0,4]", 4, &["has more than 2^64 bytes"]); // wraps to 4
    check_tensor("\"F16\"", "[3,6148914691236517206]", "[0,4]", 4, &["has more than 2^64 bytes"]); // wraps to 4
    check_tensor("\"I8\"", "[0,9223372036854775808,4]", "[0,0]", 0, &["has no elements"]);
}

#[test]
fn shapes_give_exactly_the_bytes_between_the_offsets() {
    let needs = |shape: &str, data: usize, fragment: &str| {
        check_tensor("\"F32\"", shape, &format!("[0,{data}]"), data, &["tensor `x`: shape [", fragment]);
    };
    needs("[3]", 11, "needs 12 bytes, the entry holds 11");
    needs("[3]", 13, "needs 12 bytes, the entry holds 13");
    needs("[3,2]", 12, "shape [3, 2] as F32 needs 24 bytes, the entry holds 12");
    needs("[3]", 0, "needs 12 bytes, the entry holds 0");
}

#[test]
fn numbers_that_are_no_counts_are_refused_with_the_tensors_name() {
    for number in ["-1", "1.0", "1e400", "18446744073709551616", "\"4\"", "null", "[4]"] {
        check_tensor(
            "\"I8\"",
            &format!("[{number}]"),
            "[0,4]",
            4,
            &["weights.safetensors: ", "`x`", "line 1 column"],
        );
        check_tensor(
            "\"I8\"",
            "[4]",
            &format!("[0,{number}]"),
            4,
            &["weights.safetensors: ", "`x`", "line 1 column"],
        );
        check_tensor(
            "\"I8\"",
            "[4]",
            &format!("[{number},4]"),
            4,
            &["weights.safetensors: ", "`x`", "line 1 column"],
        );
    }
    for offsets in ["[]", "[0]", "[0,4,4]", "4", "{}"] {
        check_tensor("\"I8\"", "[4]", offsets, 4, &["weights.safetensors: ", "`x`", "line 1 column"]);
    }
    for shape in ["4", "{}", "\"4\"", "null"] {
        check_tensor("\"I8\"", shape, "[0,4]", 4, &["weights.safetensors: ", "`x`", "line 1 column"]);
    }
}

#[test]
fn offsets_stay_inside_the_data() {
    let outside = |offsets: &str, fragment: &str| {
        check_tensor("\"I8\"", "[4]", offsets, 4, &["tensor `x`: takes bytes ", fragment, " of 4"]);
    };
    outside("[0,5]", "0 to 5");
    outside("[1,5]", "1 to 5");
    outside("[4,8]", "4 to 8");
    outside("[4,0]", "4 to 0");
    outside("[3,2]", "3 to 2");
    outside("[18446744073709551565,49]", "18446744073709551565 to 49");
    outside("[18446744073709551565,18446744073709551615]", "18446744073709551565 to 18446744073709551615");
    outside("[18446744073709551612,0]", "18446744073709551612 to 0");
    // Sizes whose sum wraps.
    let half = 1_u64 << 63;
    let header = format!(
        r#"{{"a":{{"dtype":"I8","shape":[{half}],"data_offsets":[0,{half}]}},"b":{{"dtype":"I8","shape":[{half}],"data_offsets":[{half},0]}}}}"#
    );
    check(&header, 0, &["tensor `a`: takes bytes 0 to 9223372036854775808 of 0"]);
}

#[test]
fn tensors_cover_the_data_without_holes_or_overlaps() {
    let two = |a: (usize, usize), b: (usize, usize)| {
        format!("{{{},{}}}", tensor("a", a.0, a.1), tensor("b", b.0, b.1))
    };
    WeightsIndex::parse(&file(&two((0, 4), (4, 8)), 8)).expect("one after the other");
    WeightsIndex::parse(&file(&two((4, 8), (0, 4)), 8)).expect("in any order of names");
    check(&two((0, 4), (3, 8)), 8, &["tensor `b`: starts at 3, the previous tensor ends at 4: they overlap"]);
    check(&two((0, 8), (2, 4)), 8, &["tensor `b`: starts at 2, the previous tensor ends at 8: they overlap"]);
    check(&two((0, 8), (0, 8)), 8, &["starts at 0, the previous tensor ends at 8: they overlap"]);
    check(
        &two((0, 4), (5, 8)),
        8,
        &["tensor `b`: starts at 5, the previous tensor ends at 4: they leave a hole"],
    );
    check(
        &two((1, 4), (4, 8)),
        8,
        &["tensor `a`: starts at 1, the previous tensor ends at 0: they leave a hole"],
    );
    check(&two((0, 4), (4, 8)), 9, &["weights.safetensors: the tensors end at byte 8 of 9 bytes of data"]);
    check("{}", 1, &["weights.safetensors: the tensors end at byte 0 of 1 bytes of data"]);
}

#[test]
fn names_are_unique_and_of_a_sensible_length() {
    let twice = format!("{{{},{}}}", tensor("a", 0, 4), tensor("a", 4, 8));
    check(&twice, 8, &["tensor `a`: is given twice"]);
    let escaped = format!("{{{},{}}}", tensor("a", 0, 4), tensor("\\u0061", 4, 8));
    check(&escaped, 8, &["tensor `a`: is given twice"]);
    check(&format!("{{{}}}", tensor("", 0, 1)), 1, &["tensor ``: a name of 0 bytes, allowed are 1 to 1024"]);
    let long = "n".repeat(66_560);
    check(&format!("{{{}}}", tensor(&long, 0, 1)), 1, &["a name of 66560 bytes, allowed are 1 to 1024"]);
}

#[test]
fn a_tensor_has_each_key_once_and_no_key_missing() {
    let field = |json: &str, fragment: &str| {
        check(&format!("{{\"x\":{json}}}"), 1, &["weights.safetensors: ", "`x`", fragment]);
    };
    field(r#"{"dtype":"I8","dtype":"I8","shape":[1],"data_offsets":[0,1]}"#, "duplicate field `dtype`");
    field(r#"{"dtype":"I8","shape":[1],"shape":[1],"data_offsets":[0,1]}"#, "duplicate field `shape`");
    field(
        r#"{"dtype":"I8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1]}"#,
        "duplicate field `data_offsets`",
    );
    field(r#"{"shape":[1],"data_offsets":[0,1]}"#, "missing field `dtype`");
    field(r#"{"dtype":"I8","data_offsets":[0,1]}"#, "missing field `shape`");
    field(r#"{"dtype":"I8","shape":[1]}"#, "missing field `data_offsets`");
    field(r#"{"a":"b"}"#, "missing field `dtype`");
    field("1", "invalid type");
    field("null", "invalid type");
}

#[test]
fn unknown_element_types_are_refused_by_name() {
    for dtype in ["F64", "f32", "I4", "BOOL", "", "U16"] {
        let fragment = format!("tensor `x`: dtype `{dtype}` is not one of F32, F16, BF16, I8, U8");
        check_tensor(&format!("\"{dtype}\""), "[4]", "[0,4]", 4, &[&fragment]);
    }
    let long = "x".repeat(1 << 20);
    check_tensor(&format!("\"{long}\""), "[4]", "[0,4]", 4, &["tensor `x`: dtype `xxx"]);
    for dtype in ["-1", "255", "null", "[]", "{\"F32\":1}"] {
        check_tensor(dtype, "[4]", "[0,4]", 4, &["weights.safetensors: ", "`x`", "line 1 column"]);
    }
}

#[test]
fn metadata_is_one_map_of_strings() {
    let with = |metadata: &str| format!("{{\"__metadata__\":{metadata}}}");
    WeightsIndex::parse(&file(&with("{\"format\":\"pt\",\"x\":\"\"}"), 0)).expect("strings");
    WeightsIndex::parse(&file(&with("{}"), 0)).expect("none");
    for wrong in ["{\"a\":1}", "{\"a\":{}}", "{\"a\":null}", "[]", "[\"a\"]", "\"pt\"", "1", "null"] {
        check(&with(wrong), 0, &["weights.safetensors: ", "`__metadata__`"]);
    }
    check(
        &with(r#"{"dtype":"I8","shape":[1],"data_offsets":[0,1]}"#),
        1,
        &["weights.safetensors: ", "`__metadata__`"],
    );
    check(
        r#"{"__metadata__":{},"__metadata__":{}}"#,
        0,
        &["weights.safetensors: ", "`__metadata__` is given twice"],
    );
    check(&with(r#"{"a":"1","a":"2"}"#), 0, &["weights.safetensors: ", "`a` is given twice"]);
}

/// The safetensors format orders header and data so that a short read shows nothing of the data.
#[test]
fn a_weights_file_cut_anywhere_is_refused() {
    let whole = Parts::sample().entries[0].1.clone();
    for length in 0..whole.len() {
        let error = WeightsIndex::parse(&whole[..length]).expect_err("cut").to_string();
        assert!(error.starts_with("weights.safetensors: ") || error.starts_with("tensor `"), "{error}");
    }
}

#[test]
fn what_a_header_lists_has_limits() {
    let keys = |count: usize| (0..count).map(|i| format!(r#""{i}":"""#)).collect::<Vec<_>>().join(",");
    let header = |count| format!(r#"{{"__metadata__":{{{}}}}}"#, keys(count));
    check(&header(1025), 0, &["`__metadata__` must be a map of strings: more than 1024 keys"]);
    let tensors = |count: usize| {
        let tensors: Vec<_> = (0..count).map(|i| tensor(&i.to_string(), i, i + 1)).collect();
        file(&format!("{{{}}}", tensors.join(",")), count)
    };
    assert_eq!(WeightsIndex::parse(&tensors(131_072)).expect("at the limit").tensors().len(), 131_072);
    check_file(tensors(131_073), &["weights.safetensors: more than 131072 tensors"]);
    let dimensions = vec!["1"; 1_000_000].join(",");
    check_tensor(
        "\"I8\"",
        &format!("[{dimensions}]"),
        "[0,1]",
        1,
        &["1000000 dimensions, allowed are 1 to 8"],
    );
}
