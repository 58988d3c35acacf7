//! Manifests that are malformed or contradict the archive.

use serde_json::{Value, json};

use aibit_format::{ArchiveWriter, Scheme};

use crate::support::{Parts, check_refused, open, stored, weights_file};

/// Checks that the sample with an edited manifest is refused.
#[track_caller]
fn check(edit: impl FnOnce(&mut Value), fragments: &[&str]) {
    check_refused(&edited(edit), fragments);
}

fn edited(edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let parts = Parts::sample();
    let mut manifest = serde_json::to_value(parts.full_manifest()).expect("a manifest is JSON");
    edit(&mut manifest);
    parts.zip_with_manifest(manifest.to_string().as_bytes()).bytes()
}

fn text() -> String {
    String::from_utf8(Parts::sample().full_manifest().to_json()).expect("UTF-8")
}

/// Checks that the sample is refused with `to` in place of `from` in the manifest's text.
#[track_caller]
fn check_text(from: &str, to: &str, fragments: &[&str]) {
    let text = text();
    assert!(text.contains(from), "`{from}` is not in {text}");
    check_bytes(text.replacen(from, to, 1).as_bytes(), fragments);
}

#[track_caller]
fn check_bytes(manifest: &[u8], fragments: &[&str]) {
    check_refused(&Parts::sample().zip_with_manifest(manifest).bytes(), fragments);
}

#[test]
fn a_manifest_in_another_layout_is_the_same_manifest() {
    open(&edited(|_| {})).expect("open");
    open(&Parts::sample().zip_with_manifest(format!("\n\t {} \r\n", text()).as_bytes()).bytes())
        .expect("open");
}

#[test]
fn text_that_is_not_json_is_refused() {
    check_bytes(b"", &["manifest.json: EOF"]);
    check_bytes(b"\xff\xfe{}", &["manifest.json: ", "line 1 column 1"]);
    check_bytes(&[b"\xef\xbb\xbf", text().as_bytes()].concat(), &["manifest.json: ", "line 1 column 1"]);
    check_bytes(text().trim_end_matches('}').as_bytes(), &["manifest.json: EOF"]);
    check_bytes(format!("{}{{}}", text()).as_bytes(), &["manifest.json: trailing characters"]);
    check_bytes(text().replacen("gpt2", "gp\u{0}t2", 1).as_bytes(), &["manifest.json: control character"]);
    let latin1 = [&b"{\"format\": \"aibit\", \"version\": 1, \"architecture\": \"\xe9\""[..], b"}"].concat();
    check_bytes(&latin1, &["manifest.json: invalid unicode code point"]);
    check_text("\"gpt2\"", "\"\\ud800\"", &["manifest.json: ", "line "]);
    check_bytes(b"[\"aibit\", 1]", &["manifest.json: "]);
    check_bytes(b"null", &["manifest.json: "]);
}

#[test]
fn nesting_has_a_limit() {
    check_bytes("[".repeat(100_000).as_bytes(), &["manifest.json: "]);
    check_bytes("{\"format\":".repeat(100_000).as_bytes(), &["manifest.json: "]);
    check_text("\"overrides\": []", &format!("\"overrides\": {}", "[".repeat(100_000)), &["manifest.json: "]);
    check_text(
        "\"version\": 1,",
        &format!("\"version\": 1, \"unknown\": {},", "[".repeat(100_000)),
        &["manifest.json: "],
    );
}

#[test]
fn a_manifest_has_a_limit_on_its_length() {
    let padded = format!("{}{}", text(), " ".repeat((16 << 20) + 1 - text().len()));
    check_bytes(padded.as_bytes(), &["manifest.json: 16777217 bytes, allowed are 16777216"]);
    open(&Parts::sample().zip_with_manifest(&padded.as_bytes()[..16 << 20]).bytes()).expect("at the limit");
}

#[test]
fn keys_that_stand_twice_are_refused() {
    check_text(
        "\"version\": 1",
        "\"version\": 1, \"version\": 1",
        &["manifest.json: duplicate field `version`"],
    );
    check_text(
        "\"architecture\": ",
        "\"architecture\": \"x\", \"architecture\": ",
        &["duplicate field `architecture`"],
    );
    let tensor = r#""ln.bias": {"scheme": "bf16", "source_dtype": "F32"}"#;
    check_text(
        "\"tensors\": {",
        &format!("\"tensors\": {{{tensor},"),
        &["manifest.json: key `ln.bias` is given twice"],
    );
    let escaped = r#""ln\u002ebias": {"scheme": "bf16", "source_dtype": "F32"}"#;
    check_text(
        "\"tensors\": {",
        &format!("\"tensors\": {{{escaped},"),
        &["manifest.json: key `ln.bias` is given twice"],
    );
    let tied = r#""lm_head.weight": "wpe.weight""#;
    check_text(
        "\"tied\": {",
        &format!("\"tied\": {{{tied},"),
        &["manifest.json: key `lm_head.weight` is given twice"],
    );
    check_text(
        "\"scheme\": \"int8\"",
        "\"scheme\": \"int8\", \"scheme\": \"int8\"",
        &["duplicate field `scheme`"],
    );
}

#[test]
fn numbers_that_are_no_counts_are_refused() {
    for number in
        ["-1", "1.5", "1e400", "18446744073709551616", "NaN", "Infinity", "1e2", "\"5000\"", "null", "0x10"]
    {
        check_text("\"bytes\": 5000", &format!("\"bytes\": {number}"), &["manifest.json: ", "at line "]);
        check_text("\"version\": 1", &format!("\"version\": {number}"), &["manifest.json: ", "at line "]);
    }
    // Counts, but not the container's.
    for number in ["4999", "9007199254740993", "18446744073709551615", "0"] {
        check_text(
            "\"bytes\": 5000",
            &format!("\"bytes\": {number}"),
            &[
                "manifest.json: entry `tokenizer.json`",
                &format!("of {number} bytes"),
                "`tokenizer.json` of 5000",
            ],
        );
    }
}

#[test]
fn required_keys_must_be_there_with_the_right_type() {
    for key in ["format", "version", "architecture", "entries", "tensors", "recipe", "provenance"] {
        check(|m| _ = m.as_object_mut().expect("object").remove(key), &[&format!("missing field `{key}`")]);
        for wrong in [json!(true), json!({"a": 1}), json!([[1]])] {
            check(|m| m[key] = wrong, &["manifest.json: "]);
        }
    }
    for key in ["name", "bytes", "sha256", "media_type"] {
        check(
            |m| _ = m["entries"][0].as_object_mut().expect("object").remove(key),
            &["manifest.json: ", &format!("missing field `{key}`")],
        );
        check(|m| m["entries"][0][key] = json!([]), &["manifest.json: "]);
    }
    for key in ["scheme", "source_dtype"] {
        check(
            |m| _ = m["tensors"]["ln.bias"].as_object_mut().expect("object").remove(key),
            &["manifest.json: ", &format!("missing field `{key}`")],
        );
    }
    check(|m| m["tied"] = json!(["a", "b"]), &["manifest.json: ", "an object"]);
    check(|m| m["tensors"] = json!([]), &["manifest.json: ", "an object"]);
    check(|m| m["required_features"] = json!("none"), &["manifest.json: "]);
}

#[test]
fn versions_of_another_time_are_refused_with_what_to_do() {
    for version in [0, 2, u64::from(u32::MAX), u64::MAX] {
        check(
            |m| m["version"] = json!(version),
            &[&format!("archive version {version} is not supported by this build (up to 1)"), "update aibit"],
        );
    }
    // Before anything else is looked at, which a later version may have changed.
    check_bytes(
        br#"{"format": "aibit", "version": 2, "tensors": 7}"#,
        &["archive version 2 is not supported"],
    );
    check(|m| m["format"] = json!("gguf"), &["manifest.json: format is \"gguf\", it must be \"aibit\""]);
    check(|m| m["format"] = json!("AIBIT"), &["manifest.json: format is \"AIBIT\""]);
}

#[test]
fn unknown_required_features_are_refused_by_name_and_unknown_keys_are_not() {
    check(
        |m| m["required_features"] = json!(["sparse-rows"]),
        &["requires the feature `sparse-rows`", "update aibit"],
    );
    let bytes = edited(|m| {
        m["optional"] = json!({"a": [1, 2, 3], "b": null});
        m["entries"][0]["colour"] = json!("green");
        m["tensors"]["ln.bias"]["note"] = json!(1);
        m["provenance"]["licence"] = json!("MIT");
    });
    let archive = open(&bytes).expect("unknown keys are for later readers");
    for entry in archive.entries() {
        archive.verify_entry(entry.name).expect("verify");
    }
}

#[test]
fn the_entries_are_those_of_the_container_in_its_order() {
    let entries =
        |m: &mut Value, edit: fn(&mut Vec<Value>)| edit(m["entries"].as_array_mut().expect("array"));
    check(
        |m| entries(m, |list| list.swap(0, 1)),
        &[
            "manifest.json: entry `graph.json` of 13 bytes is listed where the container has `weights.safetensors`",
        ],
    );
    check(
        |m| entries(m, |list| _ = list.remove(1)),
        &[
            "manifest.json: entry `tokenizer.json` of 5000 bytes is listed where the container has `graph.json` of 13",
        ],
    );
    check(
        |m| entries(m, |list| _ = list.pop()),
        &["manifest.json: 4 entries are listed, the container holds 5"],
    );
    check(
        |m| entries(m, |list| list.push(list[0].clone())),
        &["manifest.json: 6 entries are listed, the container holds 5"],
    );
    check(|m| entries(m, Vec::clear), &["manifest.json: 0 entries are listed, the container holds 5"]);
    check(
        |m| m["entries"][2]["name"] = json!("Tokenizer.json"),
        &[
            "manifest.json: entry `Tokenizer.json` of 5000 bytes is listed where the container has `tokenizer.json`",
        ],
    );
}

#[test]
fn the_manifest_is_the_last_entry() {
    for place in 0..5 {
        let parts = Parts::sample();
        let manifest = parts.full_manifest().to_json();
        let mut entries: Vec<_> = parts.entries.iter().map(|(n, d)| (n.as_bytes(), d.as_slice())).collect();
        entries.insert(place, (b"manifest.json", &manifest));
        let bytes = crate::support::Zip::of(&entries).bytes();
        check_refused(&bytes, &["manifest.json", "the last entry"]);
    }
}

#[test]
fn an_archive_without_manifest_or_weights_is_refused_by_name() {
    let mut zip = Parts::sample().zip();
    zip.items.pop();
    zip.relocate();
    check_refused(
        &zip.bytes(),
        &["the archive has no entry `manifest.json`; it contains weights.safetensors, graph.json"],
    );
    let mut parts = Parts::sample();
    parts.entries.remove(0);
    check_refused(
        &parts.zip().bytes(),
        &["the archive has no entry `weights.safetensors`; it contains graph.json"],
    );
}

#[test]
fn digests_have_one_form() {
    for digest in
        ["", "00", &"0".repeat(63), &"0".repeat(65), &"A".repeat(64), &"g".repeat(64), &"é".repeat(32)]
    {
        check(
            |m| m["entries"][1]["sha256"] = json!(digest),
            &["manifest.json: entry `graph.json`: sha256 is ", "it must be 64 lower-case hexadecimal digits"],
        );
    }
    check(
        |m| m["entries"][1]["sha256"] = json!(format!("sha1:{}", "0".repeat(59))),
        &["entry `graph.json`: sha256"],
    );
    let archive =
        open(&edited(|m| m["entries"][1]["sha256"] = json!("0".repeat(64)))).expect("not looked at yet");
    let error = archive.verify_entry("graph.json").expect_err("digest").to_string();
    assert!(
        error.starts_with("entry `graph.json`: SHA-256 is ") && error.contains(&"0".repeat(64)),
        "{error}"
    );
}

#[test]
fn an_alias_stands_for_a_stored_parameter_and_is_none() {
    let tied = |alias: &'static str, target: &'static str| {
        check(
            |m| m["tied"] = json!({ alias: target }),
            &["manifest.json: tied: ", &format!("`{alias}` stands for `{target}`")],
        );
    };
    tied("lm_head.weight", "lm_head.weight"); // itself
    tied("wte.weight", "wte.weight");
    tied("lm_head.weight", "no.such");
    tied("ln.bias", "wte.weight"); // stored itself
    tied("lm_head.weight", "h.0.SCB"); // no parameter
    check(|m| m["tied"] = json!({"a": "b", "b": "a"}), &["manifest.json: tied: "]);
    check(|m| m["tied"] = json!({"a": "wte.weight", "b": "a"}), &["manifest.json: tied: `b` stands for `a`"]);
    // A tensor that weights.safetensors holds, though it is no parameter.
    check(|m| m["tied"] = json!({"h.0.SCB": "wte.weight"}), &["`h.0.SCB`", "alias"]);
}

#[test]
fn unknown_schemes_are_refused_by_name() {
    for scheme in ["int4", "INT8", "nf3", ""] {
        check(
            |m| m["tensors"]["ln.bias"]["scheme"] = json!(scheme),
            &["manifest.json: ", &format!("unknown variant `{scheme}`"), "`int8`"],
        );
    }
    for scheme in [json!(255), json!(-1), json!(null)] {
        check(|m| m["tensors"]["ln.bias"]["scheme"] = scheme, &["manifest.json: "]);
    }
}

#[test]
fn tensors_are_exactly_those_that_the_manifest_lists() {
    let float = json!({"scheme": "f32", "source_dtype": "F32"});
    check(
        |m| m["tensors"]["h.9.bias"] = float.clone(),
        &["tensor `h.9.bias`: the manifest lists it, but weights.safetensors lacks it"],
    );
    for absent in ["ln.bias", "ln.weight"] {
        check(
            |m| _ = m["tensors"].as_object_mut().expect("object").remove(absent),
            &[&format!("tensor `{absent}`: weights.safetensors has it, but the manifest does not list it")],
        );
    }
    check(
        |m| _ = m["tensors"].as_object_mut().expect("object").remove("h.1.weight"),
        &["tensor `h.1.", "weights.safetensors has it, but the manifest does not list it"],
    );
    check(
        |m| m["tensors"]["ln.weight"]["scheme"] = json!("f16"),
        &["tensor `ln.weight`: scheme f16 stores F16, found F32"],
    );
    check(
        |m| m["tensors"]["ln.weight"]["scheme"] = json!("int8"),
        &["tensor `ln.weight`: scheme int8 stores I8, found F32"],
    );
    check(
        |m| m["tensors"]["h.0.weight"]["scheme"] = json!("f32"),
        &["tensor `h.0.weight`: scheme f32 stores F32, found I8"],
    );
}

/// Checks that an archive of the sample's manifest is refused when one tensor is stored otherwise.
#[track_caller]
fn check_stored(edit: impl FnOnce(&mut Vec<crate::support::Stored>), fragments: &[&str]) {
    let mut tensors = stored(&[
        ("ln.weight", Scheme::F32, &[7]),
        ("h.0.weight", Scheme::Int8, &[16, 64]),
        ("wte.weight", Scheme::F16, &[5, 7]),
        ("h.1.weight", Scheme::Int8, &[3, 5]),
        ("wpe.weight", Scheme::F16, &[4, 8]),
        ("ln.bias", Scheme::Bf16, &[3]),
    ]);
    edit(&mut tensors);
    check_refused(&Parts::with_weights(weights_file(&tensors)).zip().bytes(), fragments);
}

#[test]
fn scales_must_be_there_and_fit_their_codes() {
    use aibit_format::Dtype;
    let scb = |tensors: &mut Vec<crate::support::Stored>, edit: fn(&mut crate::support::Stored)| {
        edit(tensors.iter_mut().find(|t| t.name == "h.1.SCB").expect("scales"));
    };
    check_stored(
        |t| t.retain(|t| t.name != "h.1.SCB"),
        &["tensor `h.1.SCB`: `h.1.weight` is int8 but its scales are missing"],
    );
    check_stored(
        |t| scb(t, |t| (t.shape, t.data) = (vec![4], vec![0; 16])),
        &["tensor `h.1.SCB`: must be F32 of shape [3], found F32 of shape [4]"],
    );
    check_stored(
        |t| scb(t, |t| (t.shape, t.data) = (vec![2], vec![0; 8])),
        &["tensor `h.1.SCB`: must be F32 of shape [3], found F32 of shape [2]"],
    );
    check_stored(
        |t| scb(t, |t| (t.dtype, t.data) = (Dtype::F16, vec![0; 6])),
        &["tensor `h.1.SCB`: must be F32 of shape [3], found F16 of shape [3]"],
    );
    check_stored(
        |t| scb(t, |t| t.shape = vec![3, 1]),
        &["tensor `h.1.SCB`: must be F32 of shape [3], found F32 of shape [3, 1]"],
    );
    check_stored(
        |t| t.iter_mut().filter(|t| t.name == "h.1.weight").for_each(|t| t.shape = vec![15]),
        &["tensor `h.1.weight`: scheme int8 needs a matrix, found shape [15]"],
    );
    check_stored(
        |t| t.iter_mut().filter(|t| t.name == "h.1.weight").for_each(|t| t.shape = vec![3, 5, 1]),
        &["tensor `h.1.weight`: scheme int8 needs a matrix, found shape [3, 5, 1]"],
    );
}

/// The manifest may not count one tensor twice, so that another goes unlisted.
#[test]
fn scales_belong_to_one_parameter() {
    let hidden = |parameters: &[(&str, Scheme, &[usize])], listed: &[(&str, Scheme)]| {
        let mut tensors = stored(parameters);
        tensors.extend(stored(&[("hidden", Scheme::F32, &[2])]));
        let mut seen = std::collections::HashSet::new();
        tensors.retain(|t| seen.insert(t.name.clone()));
        let mut parts = Parts::of(&[]);
        parts.entries[0].1 = weights_file(&tensors);
        for (name, scheme) in listed {
            parts.manifest.tensors.insert((*name).to_owned(), crate::support::record(*scheme));
        }
        parts.zip().bytes()
    };
    // Listed as a parameter of its own.
    let bytes =
        hidden(&[("a.weight", Scheme::Int8, &[2, 3])], &[("a.weight", Scheme::Int8), ("a.SCB", Scheme::F32)]);
    check_refused(&bytes, &["tensor `a.SCB`"]);
    // Shared by two parameters: `a` and `a.weight` have scales of one name.
    let both: [(&str, Scheme, &[usize]); 2] =
        [("a.weight", Scheme::Int8, &[2, 3]), ("a", Scheme::Int8, &[2, 5])];
    let bytes = hidden(&both, &[("a.weight", Scheme::Int8), ("a", Scheme::Int8)]);
    check_refused(&bytes, &["tensor `a.SCB`"]);
}

#[test]
fn many_tensors_and_one_too_many_take_no_time() {
    let names: Vec<_> = (0..20_000).map(|i| format!("p.{i}.weight")).collect();
    let mut parameters: Vec<(&str, Scheme, &[usize])> =
        names.iter().map(|name| (name.as_str(), Scheme::Int8, &[1, 1][..])).collect();
    parameters.push(("zz", Scheme::F32, &[1]));
    let mut parts = Parts::of(&parameters);
    parts.manifest.tensors.remove("zz");
    check_refused(&parts.zip().bytes(), &["tensor `zz`: weights.safetensors has it"]);
}

#[test]
fn long_texts_are_not_repeated_in_full() {
    let long = "x".repeat(1 << 20);
    check(|m| m["format"] = json!(long), &["format is \"xxx"]);
    check(|m| m["required_features"] = json!([long]), &["requires the feature `xxx"]);
    check(|m| m["entries"][1]["sha256"] = json!(long), &["sha256 is \"xxx"]);
    check(|m| m["entries"][1]["name"] = json!(long), &["entry `xxx"]);
    check(|m| m["tensors"]["ln.bias"]["scheme"] = json!(long), &["unknown variant `xxx"]);
    check(|m| m["tied"] = json!({ long.as_str(): long.as_str() }), &["tied: `xxx"]);
    check(|m| m["tensors"][long.as_str()] = json!({"scheme": "f32", "source_dtype": ""}), &["tensor `xxx"]);
}

/// An archive with tensors of every way to be joined, its manifest edited.
fn joined(edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let parts = Parts::of(&[
        ("h.0.weight", Scheme::Int8, &[16, 64]),
        ("h.1.weight", Scheme::Int4G32, &[5, 64]),
        ("h.2.weight", Scheme::Nf4, &[6, 64]),
        ("h.3.weight", Scheme::Nf4Dq, &[4, 64]),
        ("h.0.bias", Scheme::F32, &[16]),
        ("wte.weight", Scheme::F16, &[5, 7]),
    ]);
    let mut manifest = serde_json::to_value(parts.full_manifest()).expect("a manifest is JSON");
    let rows = |parts: &[(&str, usize)]| -> Value {
        parts.iter().map(|(name, rows)| json!({"name": name, "rows": rows})).collect()
    };
    let tensors = &mut manifest["tensors"];
    tensors["h.0.weight"]["joined"] = rows(&[("q.weight", 8), ("k.weight", 4), ("v.weight", 4)]);
    tensors["h.0.bias"]["joined"] = rows(&[("q.bias", 8), ("k.bias", 4), ("v.bias", 4)]);
    tensors["h.1.weight"]["joined"] = rows(&[("gate.weight", 2), ("up.weight", 3)]);
    tensors["h.2.weight"]["joined"] = rows(&[("a.weight", 5), ("b.weight", 1)]);
    edit(&mut manifest);
    parts.zip_with_manifest(manifest.to_string().as_bytes()).bytes()
}

/// Checks that the archive with joined tensors is refused after an edit of one tensor's record.
#[track_caller]
fn check_joined(tensor: &str, parts: Value, fragments: &[&str]) {
    check_refused(&joined(|m| m["tensors"][tensor]["joined"] = parts), fragments);
}

fn rows(name: &str, rows: impl Into<Value>) -> Value {
    let rows: Value = rows.into();
    json!({"name": name, "rows": rows})
}

#[test]
fn joined_tensors_name_their_rows() {
    let archive = open(&joined(|_| {})).expect("open");
    let of = |name: &str| -> Vec<(String, usize)> {
        archive.manifest().tensors[name].joined.iter().map(|part| (part.name.clone(), part.rows)).collect()
    };
    let want =
        [("q.weight", 8), ("k.weight", 4), ("v.weight", 4)].map(|(name, rows)| (name.to_owned(), rows));
    assert_eq!(of("h.0.weight"), want);
    assert_eq!(of("h.1.weight")[1], ("up.weight".to_owned(), 3));
    assert_eq!(of("wte.weight"), []);
    // Parts that are told apart by case only, a part in many bytes, and one part alone.
    open(&joined(|m| {
        m["tensors"]["h.2.weight"]["joined"] = json!([rows("Ω.weight", 5), rows("ω.weight", 1)])
    }))
    .expect("open");
    open(&joined(|m| m["tensors"]["h.2.weight"]["joined"] = json!([rows("alone", 6)]))).expect("open");
    open(&joined(|m| m["tensors"]["h.2.weight"]["joined"] = json!([]))).expect("open");
    // Keys of later versions.
    open(&joined(|m| m["tensors"]["h.2.weight"]["joined"][0]["columns"] = json!(64))).expect("open");
}

#[test]
fn rows_of_joined_tensors_add_up_and_none_is_empty() {
    let not = ["tensor `h.0.weight`: the rows of its parts do not add up to its shape [16, 64]"];
    for parts in [
        json!([rows("q", 8), rows("k", 4), rows("v", 3)]),
        json!([rows("q", 8), rows("k", 4), rows("v", 5)]),
        json!([rows("q", 16), rows("k", 0)]),
        json!([rows("q", 0)]),
        json!([rows("q", 15)]),
        json!([rows("q", 64)]), // the columns
        json!([rows("q", 1024)]),
        json!([rows("q", usize::MAX)]),
        json!([rows("q", usize::MAX), rows("k", 17)]), // wraps to the right number
        json!([rows("q", 1_u64 << 63), rows("k", 1_u64 << 63), rows("v", 16)]),
    ] {
        check_joined("h.0.weight", parts, &not);
    }
    check_joined(
        "h.0.bias",
        json!([rows("q.b", 8), rows("k.b", 4)]),
        &["tensor `h.0.bias`: the rows of its parts do not add up to its shape [16]"],
    );
}

#[test]
fn a_tensor_with_scales_for_all_its_rows_is_not_joined() {
    check_joined(
        "h.3.weight",
        json!([rows("c.weight", 2), rows("d.weight", 2)]),
        &["tensor `h.3.weight`: scheme nf4-dq has scales for all rows together and cannot be joined"],
    );
}

#[test]
fn a_part_of_a_joined_tensor_is_nothing_else() {
    let problem = "it is a part of a joined tensor and also has another role";
    // A tensor of the manifest: another, a joined one, the tensor itself.
    for name in ["wte.weight", "h.0.weight", "h.2.weight"] {
        let expected = format!("tensor `{name}`: {problem}");
        check_joined("h.2.weight", json!([rows(name, 5), rows("b.weight", 1)]), &[&expected]);
    }
    // A part that is given twice, in one tensor and in two.
    let expected = format!("tensor `a.weight`: {problem}");
    check_joined("h.2.weight", json!([rows("a.weight", 5), rows("a.weight", 1)]), &[&expected]);
    check_refused(
        &joined(|m| m["tensors"]["h.2.weight"]["joined"][0]["name"] = json!("q.weight")),
        &[&format!("tensor `q.weight`: {problem}")],
    );
    // An alias.
    check_refused(
        &joined(|m| m["tied"] = json!({"up.weight": "wte.weight"})),
        &["tensor `up.weight`: the manifest calls it an alias, but it is a part of a tensor"],
    );
    // What an alias stands for is a tensor of the archive, which a part is not.
    check_refused(
        &joined(|m| m["tied"] = json!({"lm_head.weight": "up.weight"})),
        &["manifest.json: tied: `lm_head.weight` stands for `up.weight`"],
    );
}

#[test]
fn joined_is_a_list_of_names_and_rows() {
    for parts in [
        json!(null),
        json!("q.weight"),
        json!({"q.weight": 6}),
        json!([6]),
        json!(["q.weight"]),
        json!([{"name": "q.weight"}]),
        json!([{"rows": 6}]),
        json!([rows("a.weight", -6)]),
        json!([rows("a.weight", 6.0)]),
        json!([rows("a.weight", "6")]),
        json!([{"name": 6, "rows": 6}]),
        json!([[rows("a.weight", 6)]]),
    ] {
        check_joined("h.2.weight", parts, &["manifest.json: "]);
    }
}

#[test]
fn very_many_parts_and_long_names_take_no_time() {
    let many = 50_000;
    let parts: Vec<Value> = (0..many).map(|i| rows(&format!("part.{i}"), 1)).collect();
    check_joined("h.0.weight", json!(parts), &["do not add up to its shape [16, 64]"]);
    let long = "x".repeat(1 << 20);
    check_joined("h.2.weight", json!([rows(&long, 5), rows(&long, 1)]), &["tensor `xxx"]);
    let parts = Parts::of(&[("h.weight", Scheme::F32, &[many, 1])]);
    let mut manifest = serde_json::to_value(parts.full_manifest()).expect("a manifest is JSON");
    let part = |i: usize| rows(&format!("part.{i}"), 1);
    manifest["tensors"]["h.weight"]["joined"] = (0..many).map(part).collect();
    open(&parts.zip_with_manifest(manifest.to_string().as_bytes()).bytes()).expect("open");
    manifest["tensors"]["h.weight"]["joined"][many - 1] = part(0);
    check_refused(
        &parts.zip_with_manifest(manifest.to_string().as_bytes()).bytes(),
        &["tensor `part.0`: it is a part of a joined tensor and also has another role"],
    );
}

#[test]
fn the_number_of_keys_has_a_limit() {
    let aliases = |count: usize| -> Value {
        (0..count).map(|i| (format!("alias.{i}"), json!("ln.bias"))).collect::<serde_json::Map<_, _>>().into()
    };
    check(|m| m["tied"] = aliases(65_537), &["manifest.json: more than 65536 keys in one object"]);
    open(&edited(|m| m["tied"] = aliases(65_536))).expect("at the limit");
    let record = json!({"scheme": "f32", "source_dtype": "F32"});
    check(
        |m| {
            let tensors = (0..65_537).map(|i| (format!("t.{i}"), record.clone()));
            m["tensors"] = tensors.collect::<serde_json::Map<_, _>>().into();
        },
        &["manifest.json: more than 65536 keys in one object"],
    );
}

#[test]
fn every_required_feature_is_a_string() {
    check(|m| m["required_features"] = json!(["a", 1]), &["manifest.json: invalid type: integer `1`"]);
    check(|m| m["required_features"] = json!([["a"]]), &["manifest.json: invalid type"]);
    let many: Vec<String> = (0..100_000).map(|i| format!("f{i}")).collect();
    check(|m| m["required_features"] = json!(many), &["requires the feature `f0`"]);
}

#[test]
fn entries_that_are_read_as_a_whole_have_limits() {
    for (name, limit) in [
        ("graph.json", 4 << 20),
        ("golden.json", 1 << 20),
        ("config.json", 2 << 20),
        ("generation_config.json", 2 << 20),
        ("special_tokens_map.json", 2 << 20),
        ("chat_template.jinja", 2 << 20),
        ("tokenizer_config.json", 16 << 20),
    ] {
        let of = |bytes: usize| {
            let mut parts = Parts::sample();
            parts.entries.retain(|(entry, _)| entry != name);
            parts.entries.push((name.to_owned(), vec![b' '; bytes]));
            parts
        };
        open(&of(limit).zip().bytes()).expect("at the limit");
        let expected = format!("{name}: {} bytes, allowed are {limit}", limit + 1);
        check_refused(&of(limit + 1).zip().bytes(), &[&expected]);
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut writer = ArchiveWriter::create(folder.path().join("a.aibit")).expect("create");
        let error = writer.add(name, "text/plain", &vec![b' '; limit + 1]).expect_err("too long");
        assert_eq!(error.to_string(), expected);
    }
}
