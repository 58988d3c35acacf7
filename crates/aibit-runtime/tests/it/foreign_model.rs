//! A package of a family that nothing here knows: the graph says all there is to know.
//!
//! The package is `fixtures/golden/tiny-llama/qwen3.aibit`; a test of `aibit-pack` says how it is made.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use aibit_cpu::{LoadError, Model};
use aibit_format::{Archive, ArchiveWriter, entry_names};
use aibit_graph::ops::{Concat, GatedActivation, Linear, Logits, RmsNorm, Rope};
use aibit_graph::{Graph, Op};
use aibit_runtime::{GenerateOptions, Golden, Profile, Session, Tokenizer, generate};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/tiny-llama").join(name)
}

pub(crate) fn archive() -> Archive {
    Archive::open(fixture("qwen3.aibit")).expect("the package")
}

pub(crate) fn loaded(archive: &Archive) -> (Model, Tokenizer) {
    (Model::load(archive).expect("a model"), Tokenizer::load(archive).expect("a tokenizer"))
}

/// A tensor of the golden data: little-endian I64.
fn golden_ids(name: &str) -> Vec<u32> {
    let file = fs::read(fixture("expected.safetensors")).expect("golden file");
    let (length, rest) = file.split_first_chunk().expect("a header");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Value = serde_json::from_slice(header).expect("a header");
    assert_eq!(header[name]["dtype"], "I64", "{name}");
    let offset = |at: usize| header[name]["data_offsets"][at].as_u64().expect("an offset") as usize;
    data[offset(0)..offset(1)].as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
}

/// Crates of this workspace that a crate is built with; `with_tests` adds those of its tests.
fn closure(of: &str, with_tests: bool) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let (mut found, mut left) = (BTreeSet::new(), vec![of.to_owned()]);
    while let Some(name) = left.pop() {
        let package = packages.iter().find(|package| package["name"] == *name).expect("a package");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let is_used = dependency["kind"] != "dev" || with_tests && name == of;
            let used = dependency["name"].as_str().expect("a name");
            if is_used && dependency["path"].is_string() && found.insert(used.to_owned()) {
                left.push(used.to_owned());
            }
        }
    }
    found
}

/// What the other tests of this file prove anything by.
#[test]
fn no_crate_that_knows_a_family_is_part_of_this_binary() {
    let closure = closure("aibit-runtime", true);
    assert!(closure.contains("aibit-graph") && closure.contains("aibit-quant"), "{closure:?}");
    for family in ["aibit-families", "aibit-gpt2", "aibit-llama", "aibit-pack", "aibit-export", "aibit-gguf"]
    {
        assert!(!closure.contains(family), "{family}: {closure:?}");
    }
    // The search finds what is there.
    assert!(self::closure("aibit-pack", false).contains("aibit-llama"));
}

#[test]
fn it_generates_the_ids_of_transformers() {
    let archive = archive();
    assert_eq!(archive.manifest().architecture, "qwen3");
    let (model, tokenizer) = loaded(&archive);
    let nodes = &model.graph().nodes;
    let ops: BTreeSet<_> = nodes.iter().map(Op::name).collect();
    assert!(["rms_norm", "rope"].iter().all(|op| ops.contains(op)), "{ops:?}");
    assert!(nodes.iter().any(|op| matches!(op, Op::Linear(Linear { gate: Some(_), .. }))), "{nodes:?}");
    let (prompt, want) = (golden_ids("qwen3.prompt"), golden_ids("qwen3.generated"));
    // Its margins are 0.51 and more, far above what INT8 weights and activations of two bytes move a logit by.
    let options = GenerateOptions { max_tokens: Some(want.len()), ..GenerateOptions::default() };
    let mut session = Session::new(&model, Profile::Precise, usize::MAX).expect("memory");
    let generation =
        generate(&mut session, &tokenizer, &prompt, &options, &mut |_| ControlFlow::Continue(()))
            .expect("generated");
    assert_eq!(generation.ids, want);
}

#[test]
fn it_gives_what_was_recorded_when_it_was_packed() {
    let archive = archive();
    for entry in archive.entries() {
        archive.verify_entry(entry.name).expect("the digest");
    }
    let (model, tokenizer) = loaded(&archive);
    let golden = Golden::from_json(archive.entry(entry_names::GOLDEN).expect("golden").data).expect("golden");
    let json = archive.entry(entry_names::TOKENIZER).expect("tokenizer").data;
    let checks = golden.replay(&model, &tokenizer, json).expect("replayed");
    assert!(checks.len() > 4);
    for check in checks {
        assert!(check.ok, "{}: {}", check.name, check.detail);
    }
}

/// The package's model with another graph.
fn with_graph(edit: impl FnOnce(&mut Graph)) -> Result<Model, LoadError> {
    let archive = archive();
    let json = archive.entry(entry_names::GRAPH).expect("graph").data;
    let mut graph = Graph::from_json(json).expect("graph");
    edit(&mut graph);
    let graph = Graph::from_json(&graph.to_json()).expect("what a file can hold");
    Model::new(graph, archive.weights().clone(), archive.manifest())
}

/// A gate inside a linear layer gives the bits of one behind it, whatever the profile and the number of tokens.
#[test]
fn a_gate_may_stand_apart() {
    let fused = with_graph(|_| {}).expect("the graph as it is");
    let apart = with_graph(|graph| {
        let mut nodes = Vec::new();
        for mut op in std::mem::take(&mut graph.nodes) {
            let mut behind = None;
            if let Op::Linear(Linear { gate, output, .. }) = &mut op
                && let Some(function) = gate.take()
            {
                let width = 2 * graph.values[*output].width;
                graph.values.push(aibit_graph::Value { name: "wide".to_owned(), width });
                let input = graph.values.len() - 1;
                behind = Some(Op::GatedActivation(GatedActivation { input, function, output: *output }));
                *output = input;
            }
            nodes.push(op);
            nodes.extend(behind);
        }
        graph.nodes = nodes;
        graph.plan_buffers();
    })
    .expect("a sound graph");
    assert!(apart.graph().nodes.len() > fused.graph().nodes.len());
    for profile in Profile::ALL {
        let logits = |model| {
            let mut session = Session::new(model, profile, 16).expect("memory");
            let mut bits = Vec::new();
            for ids in [&[3, 1, 4, 1, 5, 9, 2][..], &[6], &[5, 3]] {
                session
                    .append_all(ids, |_, rows| bits.extend(rows.iter().map(|x| x.to_bits())))
                    .expect("logits");
            }
            bits
        };
        assert!(logits(&fused) == logits(&apart), "{profile}");
    }
}

#[test]
fn hostile_graphs_are_refused_when_the_model_is_loaded() {
    with_graph(|_| {}).expect("the graph as it is");
    let at = |graph: &Graph, name: &str| graph.nodes.iter().position(|op| op.name() == name).expect("a node");
    let check = |edit: &dyn Fn(&mut Graph), expected: &str| {
        let message = with_graph(edit).expect_err("refused").to_string();
        assert!(message.contains(expected), "{message}");
    };
    for (heads, head_dim) in
        [(usize::MAX, 2), (usize::MAX / 2 + 1, 2), (1 << 32, 1 << 32), (usize::MAX, usize::MAX)]
    {
        let edit = |graph: &mut Graph| {
            let node = at(graph, "rope");
            let Op::Rope(Rope { heads: own, head_dim: own_dim, .. }) = &mut graph.nodes[node] else {
                unreachable!()
            };
            (*own, *own_dim) = (heads, head_dim);
        };
        check(&edit, &format!("{heads} heads of {head_dim} elements do not fit the width"));
    }
    for range in [[0, usize::MAX], [usize::MAX, usize::MAX], [usize::MAX - 1, usize::MAX], [usize::MAX, 0]] {
        let edit = |graph: &mut Graph| {
            let node =
                graph.nodes.iter().position(|op| matches!(op, Op::RmsNorm(RmsNorm { range: Some(_), .. })));
            let Op::RmsNorm(RmsNorm { range: own, .. }) = &mut graph.nodes[node.expect("a norm of heads")]
            else {
                unreachable!()
            };
            *own = Some(range);
        };
        check(&edit, &format!("range {}..{}", range[0], range[1]));
    }
    // A matrix where a vector is called for, and codes where floats are.
    let edit = |graph: &mut Graph| {
        let node = at(graph, "rope");
        let Op::Rope(Rope { frequencies, .. }) = &mut graph.nodes[node] else { unreachable!() };
        *frequencies = "model.embed_tokens.weight".to_owned();
    };
    check(&edit, "the node requires a vector");
    // A row of 65,536 parts instead of the first projection.
    let edit = |graph: &mut Graph| {
        let node = at(graph, "linear");
        let Op::Linear(Linear { input, output, .. }) = graph.nodes[node] else { unreachable!() };
        graph.nodes[node] = Op::Concat(Concat { parts: vec![input; 1 << 16], output });
    };
    check(&edit, "the widths of its parts do not add up to the width");
}

/// A `concat` of very many parts is sound, and is executed.
#[test]
fn a_row_of_very_many_parts_is_computed() {
    let model = with_graph(|graph| {
        // The logits read their value beside itself many times over, halved again by gates.
        let Some(Op::Logits(Logits { input, .. })) = graph.nodes.last().cloned() else {
            panic!("the logits")
        };
        let width = graph.values[input].width;
        let parts = (1 << 16) / width;
        let mut add = |name: &str, width: usize| {
            graph.values.push(aibit_graph::Value { name: name.to_owned(), width });
            graph.values.len() - 1
        };
        let wide = add("wide", parts * width);
        let mut last = wide;
        let mut halves = Vec::new();
        let mut left = parts * width;
        while left > width {
            left /= 2;
            let half = add("half", left);
            let function = aibit_graph::ActivationFunction::Relu;
            halves.push(Op::GatedActivation(GatedActivation { input: last, function, output: half }));
            last = half;
        }
        let logits = graph.nodes.len() - 1;
        graph.nodes.insert(logits, Op::Concat(Concat { parts: vec![input; parts], output: wide }));
        graph.nodes.splice(logits + 1..logits + 1, halves);
        let Some(Op::Logits(Logits { input, .. })) = graph.nodes.last_mut() else { panic!("the logits") };
        *input = last;
        graph.plan_buffers();
    })
    .expect("a sound graph");
    let mut session = Session::new(&model, Profile::Fast, 3).expect("memory");
    session.append_all(&[1, 2, 3], |_, _| {}).expect("logits");
}

/// A package with another first frequency. Whatever it computes, it does no harm.
#[test]
fn frequencies_that_are_no_numbers_do_no_harm() {
    let archive = archive();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1e30] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let target = folder.path().join("bad.aibit");
        let mut writer = ArchiveWriter::create(&target).expect("create");
        for entry in archive.entries() {
            if entry.name == entry_names::MANIFEST {
                continue;
            }
            let mut data = archive.entry(entry.name).expect("an entry").data.to_vec();
            if entry.name == entry_names::WEIGHTS {
                let index = archive.weights().index();
                let tensor = index.get("model.rotary_emb.inv_freq").expect("the frequencies");
                data[index.data_start() + tensor.begin..][..4].copy_from_slice(&bad.to_le_bytes());
            }
            writer.add(entry.name, "application/octet-stream", &data).expect("add");
        }
        writer.finish(archive.manifest().clone()).expect("finish");
        let bad_archive = Archive::open(&target).expect("open");
        let Ok(model) = Model::load(&bad_archive) else { continue };
        for profile in Profile::ALL {
            let mut session = Session::new(&model, profile, 8).expect("memory");
            let mut rows = 0;
            let outcome = session.append_all(&[5, 4, 3, 2, 1], |_, logits| rows += logits.len());
            assert!(outcome.is_err() || rows == 5 * model.graph().vocabulary, "{bad}: {rows} logits");
        }
    }
}
