//! `aibit verify` detects every change to an archive.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use aibit_format::{Archive, ArchiveWriter, FormatError, entry_names};
use serde_json::{Value, json};

use crate::models::Tiny;
use crate::support::{
    Numbers, Outcome, refuses, run, shelf, small_int8, succeeds, temporary_folder, tiny_int8,
};

/// Copies an archive with its entries changed by `edit` and correct digests.
pub(crate) fn rebuild(from: &Path, to: &Path, mut edit: impl FnMut(&str, &mut Vec<u8>)) {
    let old = Archive::open(from).expect("an archive");
    let mut writer = ArchiveWriter::create(to).expect("a new archive");
    for entry in old.entries().filter(|entry| entry.name != entry_names::MANIFEST) {
        let mut data = entry.data.to_vec();
        edit(entry.name, &mut data);
        let record = old.manifest().entries.iter().find(|record| record.name == entry.name);
        writer.add(entry.name, &record.expect("listed").media_type, &data).expect("add");
    }
    writer.finish(old.manifest().clone()).expect("finish");
}

/// An archive in a file, of which single bytes are changed and restored.
struct Victim {
    file: fs::File,
    bytes: Vec<u8>,
}

impl Victim {
    fn new(path: &Path) -> Self {
        let bytes = fs::read(shelf().join(tiny_int8())).expect("an archive");
        fs::write(path, &bytes).expect("write");
        Self { file: fs::File::options().write(true).open(path).expect("open"), bytes }
    }

    /// Runs `look` while the byte at `position` is changed.
    fn with_flip<R>(&mut self, position: usize, mask: u8, look: impl FnOnce() -> R) -> R {
        self.set(position, self.bytes[position] ^ mask);
        let result = look();
        self.set(position, self.bytes[position]);
        result
    }

    fn set(&mut self, position: usize, byte: u8) {
        self.file.seek(SeekFrom::Start(position as u64)).expect("seek");
        self.file.write_all(&[byte]).expect("write");
    }
}

/// Names of the entries that fail, or why the archive cannot be opened.
fn failing_entries(path: &Path) -> Result<Vec<String>, FormatError> {
    let archive = Archive::open(path)?;
    let names = archive.entries().map(|entry| entry.name.to_owned());
    Ok(names.filter(|name| archive.verify_entry(name).is_err()).collect())
}

#[test]
fn any_flipped_byte_is_found_in_its_entry() {
    let folder = temporary_folder();
    let path = folder.path().join("victim.aibit");
    let mut victim = Victim::new(&path);
    let archive = Archive::open(&path).expect("an archive");
    let entries: Vec<_> = archive
        .entries()
        .map(|entry| (entry.name.to_owned(), entry.offset as usize..entry.offset as usize + entry.data.len()))
        .collect();
    let weights_header = entries[0].1.start..entries[0].1.start + archive.weights().index().data_start();
    assert_eq!(entries[0].0, entry_names::WEIGHTS);
    drop(archive);
    assert_eq!(failing_entries(&path).expect("a sound archive"), Vec::<String>::new());

    let length = victim.bytes.len();
    let mut numbers = Numbers(20_240_601);
    let mut positions: Vec<_> = (0..64).chain(length - 64..length).collect();
    positions.extend((0..1_000).map(|_| numbers.below(length)));
    // Positions that random ones seldom hit: every entry's first and last byte, and its neighbours.
    for (_, range) in &entries {
        positions.extend([range.start, range.end - 1, range.start - 1, range.end]);
    }
    let (mut inside, mut outside) = (0, 0);
    for position in positions {
        let mask = 1 + numbers.below(255) as u8;
        let found = victim.with_flip(position, mask, || failing_entries(&path));
        let context = format!("byte {position} of {length} changed by {mask:#04x}: {found:?}");
        let Some((name, _)) = entries.iter().find(|(_, range)| range.contains(&position)) else {
            outside += 1;
            assert!(found.is_err(), "headers and padding have one form: {context}");
            continue;
        };
        inside += 1;
        match found {
            Ok(failing) => assert_eq!(failing, [name.as_str()], "{context}"),
            Err(FormatError::Digest { entry, .. }) => {
                assert_eq!((entry.as_str(), name.as_str()), ("manifest.json", "manifest.json"), "{context}");
            }
            // The index of tensors is parsed before any digest is computed.
            Err(_) => assert!(weights_header.contains(&position), "{context}"),
        }
    }
    assert!(inside > 500 && outside > 100, "{inside} inside, {outside} outside");
    assert!(fs::read(&path).expect("read") == victim.bytes, "the victim was restored");
}

#[test]
fn the_command_names_the_entry_that_was_changed() {
    let folder = temporary_folder();
    let path = folder.path().join("victim.aibit");
    let mut victim = Victim::new(&path);
    let archive = Archive::open(&path).expect("an archive");
    let entries: Vec<_> =
        archive.entries().map(|e| (e.name.to_owned(), e.offset as usize, e.data.len())).collect();
    drop(archive);
    let middles = entries.iter().map(|(name, offset, length)| (name, offset + length / 2));
    let ends = entries.iter().map(|(name, offset, length)| (name, offset + length - 1));
    let positions: Vec<_> = middles.chain(ends).collect();
    assert!(positions.len() >= 12, "{entries:?}");
    for (name, position) in positions {
        let Outcome { code, stdout, stderr } =
            victim.with_flip(position, 0x10, || run(folder.path(), &["verify", "victim.aibit"]));
        assert_eq!((code, stderr.as_str()), (Some(1), ""), "byte {position} in {name}: {stdout}");
        let failed: Vec<_> = stdout.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert!(
            failed.iter().any(|line| line.contains(name.as_str())),
            "byte {position} in {name}: {stdout}"
        );
        assert!(stdout.contains("not sound"), "{stdout}");
    }
}

// ---------------------------------------------------------------------------------------------
// Changes that digests do not show, because they were computed afterwards.

#[test]
fn a_run_with_check_refuses_what_verify_refuses_and_says_the_same() {
    let folder = temporary_folder();
    let path = folder.path().join("victim.aibit");
    let mut victim = Victim::new(&path);
    let archive = Archive::open(&path).expect("an archive");
    let last = archive.weights().index().tensors().last().expect("a tensor");
    let in_weights = archive.weights().file_offset(last) as usize + 1;
    let golden = archive.entry(entry_names::GOLDEN).expect("golden outputs");
    let in_golden = golden.offset as usize + golden.data.len() / 2; // an entry that no run reads
    drop(archive);
    let run_args = ["run", "victim.aibit", "-p", "x", "-n", "4", "--check"];
    let sound = run(folder.path(), &run_args);
    assert_eq!((sound.code, sound.stderr.as_str()), (Some(0), ""));
    assert_eq!(sound.stdout, run(folder.path(), &run_args[..6]).stdout);
    for position in [in_weights, in_golden, 5] {
        victim.with_flip(position, 0x10, || {
            let verified = run(folder.path(), &["verify", "victim.aibit"]);
            let refused = run(folder.path(), &run_args);
            assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "byte {position}");
            assert_eq!(refused.stderr, verified.stdout, "byte {position}");
            assert!(verified.stdout.contains("FAIL"), "byte {position}: {}", verified.stdout);

            let verified = run(folder.path(), &["verify", "victim.aibit", "--json"]);
            let refused = run(folder.path(), &[&run_args[..], &["--json"]].concat());
            assert_eq!((refused.code, refused.stderr.as_str()), (Some(1), ""), "byte {position}");
            assert_eq!(refused.stdout, verified.stdout, "byte {position}");
        });
    }
    let unchecked = victim.with_flip(in_golden, 0x10, || run(folder.path(), &run_args[..6]));
    assert_eq!((unchecked.code, unchecked.stdout), (Some(0), sound.stdout), "it was asked for nothing");
    let missing = run(folder.path(), &["run", "missing.aibit", "-p", "x", "--check"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(2), ""));
}

/// Names of the failed checks of a verification with replay, after one entry was changed.
#[track_caller]
fn replay_after(archive: &str, entry: &str, edit: impl Fn(&mut Vec<u8>)) -> Vec<String> {
    let folder = temporary_folder();
    rebuild(&shelf().join(archive), &folder.path().join("changed.aibit"), |name, data| {
        if name == entry {
            let before = data.clone();
            edit(data);
            assert!(*data != before, "nothing was changed");
        }
    });
    let unnoticed = run(folder.path(), &["verify", "changed.aibit"]);
    assert_eq!(unnoticed.code, Some(0), "digests and values are as they must be: {}", unnoticed.stdout);
    let Outcome { code, stdout, stderr } =
        run(folder.path(), &["verify", "--run", "changed.aibit", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(1), ""), "{stdout}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    let checks = report["checks"].as_array().expect("an array").iter();
    checks.filter(|c| c["ok"] == false).map(|c| c["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn an_unchanged_archive_survives_being_rebuilt() {
    let folder = temporary_folder();
    let (old, new) = (shelf().join(tiny_int8()), folder.path().join("same.aibit"));
    rebuild(&old, &new, |_, _| {});
    assert!(fs::read(old).expect("read") == fs::read(new).expect("read"));
}

#[test]
fn one_row_scale_one_percent_larger() {
    for (archive, tensor, row) in [
        (tiny_int8(), "transformer.h.1.mlp.c_fc.weight", 17),
        (small_int8(), "transformer.h.3.attn.c_proj.weight", 200),
    ] {
        let opened = Archive::open(shelf().join(archive)).expect("an archive");
        let scales = opened.weights().index().get(&format!("{}.SCB", tensor.trim_end_matches(".weight")));
        let scale = opened.weights().index().data_start() + scales.expect("scales").begin + 4 * row;
        let failing = replay_after(archive, entry_names::WEIGHTS, |data| {
            let bytes: &mut [u8; 4] = (&mut data[scale..scale + 4]).try_into().expect("4 bytes");
            *bytes = (f32::from_le_bytes(*bytes) * 1.01).to_le_bytes();
        });
        assert!(failing.iter().any(|name| name.starts_with("logits")), "{failing:?}");
    }
}

#[test]
fn one_code_of_one_weight() {
    // Element 1234 of the first matrix.
    let opened = Archive::open(shelf().join(tiny_int8())).expect("an archive");
    let start = opened.weights().index().data_start();
    let failing = replay_after(tiny_int8(), entry_names::WEIGHTS, |data| {
        let code = &mut data[start + 1234];
        *code = if *code == 127 { 126 } else { code.wrapping_add(1) };
    });
    assert!(failing.iter().any(|name| name.starts_with("logits")), "{failing:?}");
}

#[test]
fn merge_rules_in_another_order() {
    for (archive, one, other) in [(tiny_int8(), 0, 254), (tiny_int8(), 100, 101), (small_int8(), 40, 7000)] {
        let failing = replay_after(archive, entry_names::TOKENIZER, |data| {
            edit_json(data, |tokenizer| {
                tokenizer["model"]["merges"].as_array_mut().expect("merges").swap(one, other);
            });
        });
        assert!(failing.iter().any(|name| name.starts_with("tokenizer")), "{failing:?}");
    }
}

#[test]
fn one_merge_rule_replaced() {
    // The same token, from a pair that never occurs: the token can no longer be produced.
    let failing = replay_after(tiny_int8(), entry_names::TOKENIZER, |data| {
        edit_json(data, |tokenizer| {
            let merges = tokenizer["model"]["merges"].as_array_mut().expect("merges");
            let place = merges.iter().position(|merge| *merge == json!(["Ġt", "he"])).expect("a rule");
            merges[place] = json!(["h", "e"]);
        });
    });
    assert!(failing.iter().any(|name| name == "tokenizer, compiled and not"), "{failing:?}");
}

#[test]
fn two_layers_exchanged_in_the_graph() {
    for kind in ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"] {
        let failing = replay_after(tiny_int8(), entry_names::GRAPH, |data| {
            edit_json(data, |graph| {
                for node in graph["nodes"].as_array_mut().expect("nodes") {
                    for field in ["weight", "bias"] {
                        let Some(name) = node[field].as_str() else { continue };
                        let exchanged = match name.split_once(kind) {
                            Some(("transformer.h.0.", rest)) => format!("transformer.h.1.{kind}{rest}"),
                            Some(("transformer.h.1.", rest)) => format!("transformer.h.0.{kind}{rest}"),
                            _ => continue,
                        };
                        node[field] = exchanged.into();
                    }
                }
            });
        });
        assert!(failing.iter().any(|name| name.starts_with("logits")), "{kind}: {failing:?}");
    }
}

#[test]
fn golden_outputs_of_another_model() {
    let other = Archive::open(shelf().join(small_int8())).expect("an archive");
    let golden = other.entry(entry_names::GOLDEN).expect("an entry").data;
    let failing = replay_after(tiny_int8(), entry_names::GOLDEN, |data| *data = golden.to_vec());
    assert!(!failing.is_empty());
}

fn edit_json(data: &mut Vec<u8>, edit: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(data).expect("JSON");
    edit(&mut json);
    *data = json.to_string().into_bytes();
}

/// Suffixes of the names of scales and code tables.
const SUFFIXES: [&str; 6] =
    [".SCB", ".scales", ".absmax", ".nested_absmax", ".nested_quant_map", ".nested_offset"];

/// A hostile archive may name scales and code tables wherever a tensor is named. `verify` reports it without a run,
/// and nothing is computed with them.
#[test]
fn a_graph_that_names_scales_as_parameters() {
    let folder = temporary_folder();
    let source = Tiny::new();
    for scheme in ["int8", "int8-g32", "int4-g32", "nf4", "nf4-dq", "fp4-dq"] {
        let source = source.path().to_str().expect("UTF-8");
        succeeds(folder.path(), &["pack", source, "-o", "packed.aibit", "-q", scheme]);
        let sound = succeeds(folder.path(), &["verify", "packed.aibit"]);
        assert!(sound.contains("\nok   graph: "), "{sound}");
        let archive = Archive::open(folder.path().join("packed.aibit")).expect("an archive");
        let parameters = &archive.manifest().tensors;
        let tensors = archive.weights().index().tensors();
        let parts: Vec<_> = tensors.iter().filter(|t| !parameters.contains_key(&t.name)).collect();
        assert!(!parts.is_empty(), "{scheme}");
        for part in &parts {
            assert!(SUFFIXES.iter().any(|suffix| part.name.ends_with(suffix)), "{}", part.name);
        }
        for suffix in SUFFIXES {
            let Some(part) = parts.iter().find(|part| part.name.ends_with(suffix)) else { continue };
            let graph = match part.shape[..] {
                [rows, columns] => json!({
                    "version": 1, "context": 64, "vocabulary": rows, "kv_slots": [],
                    "values": [{"name": "x", "width": columns}],
                    "nodes": [
                        {"op": "embed", "table": part.name, "output": 0},
                        {"op": "logits", "input": 0, "weight": part.name},
                    ],
                    "plan": {"offsets": [0], "width": columns},
                }),
                _ => {
                    let json = archive.entry(entry_names::GRAPH).expect("a graph").data;
                    let mut graph: Value = serde_json::from_slice(json).expect("JSON");
                    let nodes = graph["nodes"].as_array_mut().expect("nodes");
                    let node = nodes.iter_mut().find(|node| node["bias"].is_string()).expect("a bias");
                    node["bias"] = part.name.as_str().into();
                    graph
                }
            };
            rebuild(archive.path(), &folder.path().join("hostile.aibit"), |name, data| {
                if name == entry_names::GRAPH {
                    *data = graph.to_string().into_bytes();
                }
            });
            let expected = format!("tensor `{}` is part of another parameter, such as its scales", part.name);
            for args in [&["verify", "hostile.aibit"][..], &["verify", "--run", "hostile.aibit"]] {
                let Outcome { code, stdout, stderr } = run(folder.path(), args);
                assert_eq!((code, stderr.as_str()), (Some(1), ""), "{stdout}");
                assert!(stdout.contains("\nFAIL graph: graph node "), "{stdout}");
                assert!(stdout.contains(&expected), "{stdout}");
            }
            let refused = refuses(folder.path(), &["run", "hostile.aibit", "-p", "a", "-n", "1"]);
            assert!(refused.contains(&expected), "{refused}");
        }
    }
}
