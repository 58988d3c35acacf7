//! Archives whose graphs need far more memory than their weights: results or errors, within limits.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use aibit_format::{
    Archive, ArchiveWriter, Dtype, Manifest, Scheme, TensorRecord, WeightsLayout, entry_names,
};
use serde_json::{Value, json};

use crate::support::{Outcome, shelf, temporary_folder, tiny_int8};

/// A stored tensor: name, scheme, shape and bytes.
type Stored = (&'static str, Scheme, Vec<usize>, Vec<u8>);

/// Writes an archive with these parameters and this graph, and everything else from the tiny model.
fn write(target: &Path, parameters: &[Stored], graph: &Value) {
    let old = Archive::open(shelf().join(tiny_int8())).expect("an archive");
    let layout: Vec<(String, Dtype, Vec<usize>)> = parameters
        .iter()
        .map(|(name, scheme, shape, _)| ((*name).to_owned(), scheme.dtype(), shape.clone()))
        .collect();
    let layout = WeightsLayout::new(&layout).expect("a layout");
    let mut weights = layout.header().to_vec();
    for info in layout.tensors() {
        let (.., data) = parameters.iter().find(|(name, ..)| *name == info.name).expect("given");
        weights.extend_from_slice(data);
    }
    let mut writer = ArchiveWriter::create(target).expect("a new archive");
    for entry in old.entries().filter(|entry| entry.name != entry_names::MANIFEST) {
        let record = old.manifest().entries.iter().find(|record| record.name == entry.name).expect("listed");
        let graph = graph.to_string().into_bytes();
        let data = match entry.name {
            entry_names::WEIGHTS => &weights,
            entry_names::GRAPH => &graph,
            _ => entry.data,
        };
        writer.add(entry.name, &record.media_type, data).expect("add");
    }
    let record = |scheme| TensorRecord {
        scheme,
        source_dtype: "F32".to_owned(),
        transposed: false,
        joined: Vec::new(),
    };
    let tensors = parameters.iter().map(|(name, scheme, ..)| ((*name).to_owned(), record(*scheme))).collect();
    let manifest = Manifest { tensors, tied: BTreeMap::new(), ..old.manifest().clone() };
    writer.finish(manifest).expect("finish");
}

/// Runs the binary with an address space limited to `megabytes`.
fn run_within(megabytes: usize, folder: &Path, args: &[&str]) -> Outcome {
    let script = format!("ulimit -v {} && exec \"$0\" \"$@\"", megabytes * 1024);
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_aibit")])
        .args(args)
        .current_dir(folder)
        .output()
        .expect("a shell");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A prompt of some sixty tokens.
const PROMPT: &str =
    "One two three four five six seven eight nine ten eleven twelve, and back again to where we were.";

/// The rows of logits would need 480 MB, for an archive of 4 MB.
#[test]
fn logits_of_a_huge_vocabulary_are_computed_row_by_row() {
    const VOCABULARY: usize = 1 << 21;
    let folder = temporary_folder();
    let graph = json!({
        "version": 1, "context": 64, "vocabulary": VOCABULARY, "kv_slots": [],
        "values": [{"name": "x", "width": 1}],
        "nodes": [
            {"op": "embed", "table": "table", "output": 0},
            {"op": "logits", "input": 0, "weight": "table"},
        ],
        "plan": {"offsets": [0], "width": 1},
    });
    let table = ("table", Scheme::F16, vec![VOCABULARY, 1], vec![0; 2 * VOCABULARY]);
    write(&folder.path().join("wide.aibit"), &[table], &graph);
    fs::write(folder.path().join("text"), format!("{PROMPT} {}", &PROMPT[..36])).expect("write");
    let Outcome { code, stdout, stderr } =
        run_within(500, folder.path(), &["eval", "wide.aibit", "--ppl", "text", "-t", "1"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    // Every id is equally likely.
    assert!(stdout.contains("2097152"), "{stdout}");
    let Outcome { code, stdout, stderr } = run_within(
        500,
        folder.path(),
        &["eval", "wide.aibit", "--ppl", "text", "-t", "1", "--kl-base", "wide.aibit"],
    );
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("no memory for the logits of a window: "), "{stderr}");
}

/// Eight tables of angles and the values would need 1.5 GB for the whole prompt.
#[test]
fn wide_values_and_tables_of_angles_shorten_a_pass() {
    const PAIRS: usize = 1 << 18;
    const WIDTH: usize = 2 * PAIRS;
    let folder = temporary_folder();
    let mut values = vec![json!({"name": "x", "width": 8}), json!({"name": "wide", "width": WIDTH})];
    let mut nodes = vec![
        json!({"op": "embed", "table": "table", "output": 0}),
        json!({"op": "concat", "parts": vec![0; WIDTH / 8], "output": 1}),
    ];
    let mut offsets = vec![WIDTH, 0];
    const NAMES: [&str; 8] = ["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7"];
    for name in NAMES {
        values.push(json!({"name": name, "width": WIDTH}));
        nodes.push(json!({
            "op": "rope", "input": values.len() - 2, "frequencies": name, "heads": 1, "head_dim": WIDTH,
            "pairing": "half", "output": values.len() - 1,
        }));
        offsets.push(0);
    }
    let mut width = WIDTH;
    while width > 8 {
        width /= 2;
        values.push(json!({"name": "half", "width": width}));
        nodes.push(json!({
            "op": "gated_activation", "input": values.len() - 2, "function": "relu", "output": values.len() - 1,
        }));
        offsets.push(if offsets.last() == Some(&0) { WIDTH } else { 0 });
    }
    nodes.push(json!({"op": "logits", "input": values.len() - 1, "weight": "table"}));
    let graph = json!({
        "version": 1, "context": 128, "vocabulary": 512, "kv_slots": [], "values": values, "nodes": nodes,
        "plan": {"offsets": offsets, "width": WIDTH + WIDTH / 2},
    });
    let vector = |name| (name, Scheme::F32, vec![PAIRS], vec![0; 4 * PAIRS]);
    let mut parameters = vec![("table", Scheme::F32, vec![512, 8], vec![0; 4 * 512 * 8])];
    parameters.extend(NAMES.map(vector));
    write(&folder.path().join("turning.aibit"), &parameters, &graph);
    let args = ["run", "turning.aibit", "-p", PROMPT, "-n", "1", "-t", "1"];
    let Outcome { code, stderr, .. } = run_within(600, folder.path(), &args);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

/// A gigabyte of keys and values for sixty-four tokens: what a longer prompt needs is refused before it is computed, and
/// neither the process nor the machine dies of it.
#[test]
fn a_cache_beyond_the_memory_is_refused_by_its_size() {
    const HEADS: usize = 1 << 19;
    let folder = temporary_folder();
    let graph = json!({
        "version": 1, "context": 1 << 24, "vocabulary": 512,
        "kv_slots": [{"n_kv_head": HEADS, "head_dim": 4}],
        "values": [
            {"name": "x", "width": 8},
            {"name": "qkv", "width": 12 * HEADS},
            {"name": "y", "width": 4 * HEADS},
        ],
        "nodes": [
            {"op": "embed", "table": "table", "output": 0},
            {"op": "concat", "parts": vec![0; 12 * HEADS / 8], "output": 1},
            {"op": "attention", "qkv": 1, "slot": 0, "n_head": HEADS, "scale": 1.0, "output": 2},
            {"op": "logits", "input": 0, "weight": "table"},
        ],
        "plan": {"offsets": [16 * HEADS, 0, 12 * HEADS], "width": 16 * HEADS + 8},
    });
    let table = ("table", Scheme::F32, vec![512, 8], vec![0; 4 * 512 * 8]);
    write(&folder.path().join("deep.aibit"), &[table], &graph);
    let prompt = [PROMPT; 2].join(" ");
    let Outcome { code, stdout, stderr } =
        run_within(2000, folder.path(), &["run", "deep.aibit", "-p", &prompt, "-n", "100000", "-t", "1"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("no memory for the KV cache: "), "{stderr}");
}
