//! Conversion of Llama-family models between formats without changes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aibit_cpu::Model;
use aibit_format::Archive;
use aibit_gguf::Gguf;
use aibit_runtime::{Profile, Session};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use crate::interchange::same_tensors;
use crate::support::{json, parse_json, refuses, run, succeeds};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(path)
}

/// A folder `source` with a checkpoint of a tiny model, and its tokenizer.
fn tiny(variant: &str) -> TempDir {
    let around = tempfile::tempdir().expect("temporary folder");
    let folder = around.path().join("source");
    fs::create_dir(&folder).expect("a folder");
    for from in [golden(&format!("tiny-llama/{variant}")), golden("tiny-gpt2/tokenizer")] {
        for file in fs::read_dir(from).expect("fixture") {
            let file = file.expect("file").path();
            // Fixtures may be read-only, so their contents are copied.
            fs::write(folder.join(file.file_name().expect("name")), fs::read(&file).expect("file"))
                .expect("written");
        }
    }
    around
}

/// Every tensor of a floating-point safetensors file, as F32 bits.
fn values(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let file = fs::read(path).expect("weights");
    let tensors = SafeTensors::deserialize(&file).expect("safetensors").tensors();
    let widened = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let bits = match view.dtype() {
            Dtype::F32 => view.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            // The upper half of an F32.
            Dtype::BF16 => {
                view.data().as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b)) << 16).collect()
            }
            other => panic!("{name} is {other:?}"),
        };
        (name, (view.shape().to_vec(), bits))
    };
    tensors.into_iter().map(widened).collect()
}

#[track_caller]
fn same_values(found: &Path, expected: &Path) {
    let [found, expected] = [found, expected].map(values);
    assert!(found.keys().eq(expected.keys()), "{:?} and {:?}", found.keys(), expected.keys());
    for (name, tensor) in expected {
        assert!(found[&name] == tensor, "{name} differs");
    }
}

/// The ids with which transformers continues the variant's prompt, after that prompt.
fn sequence(variant: &str) -> Vec<u32> {
    let file = fs::read(golden("tiny-llama/expected.safetensors")).expect("golden file");
    let file = SafeTensors::deserialize(&file).expect("safetensors");
    let ids = |name: &str| -> Vec<u32> {
        let tensor = file.tensor(&format!("{variant}.{name}")).expect("golden tensor");
        tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    };
    [ids("prompt"), ids("generated")].concat()
}

/// The bits of the logits at every position.
fn logits(archive: &Path, ids: &[u32]) -> Vec<u32> {
    let model = Model::load(&Archive::open(archive).expect("opened")).expect("a model");
    let mut session = Session::new(&model, Profile::Fast, ids.len()).expect("memory");
    let mut bits = Vec::new();
    session.append_all(ids, |_, logits| bits.extend(logits.iter().map(|x| x.to_bits()))).expect("logits");
    bits
}

const VARIANTS: [&str; 6] = ["llama", "llama3", "llama-linear", "mistral", "qwen2", "qwen3"];

#[test]
fn floats_leave_for_gguf_and_come_back() {
    for variant in VARIANTS {
        let around = tiny(variant);
        let folder = around.path();
        succeeds(folder, &["pack", "source", "-o", "a.aibit", "-q", "f32"]);
        succeeds(folder, &["export", "a.aibit", "--to", "gguf", "-o", "a.gguf", "--check"]);
        succeeds(folder, &["pack", "a.gguf", "-o", "b.aibit", "-q", "keep"]);
        let text = succeeds(folder, &["diff", "a.aibit", "b.aibit", "--codes"]);
        assert!(text.trim().starts_with("no difference in "), "{variant}: {text}");
        // Not only by our own comparison: the values are the checkpoint's, under its names.
        succeeds(folder, &["export", "b.aibit", "--to", "hf", "--dtype", "f32", "-o", "out"]);
        same_values(
            &folder.join("out/model.safetensors"),
            &golden(&format!("tiny-llama/{variant}/model.safetensors")),
        );
        let ids = sequence(variant);
        let [before, after] = ["a.aibit", "b.aibit"].map(|name| logits(&folder.join(name), &ids));
        assert!(before == after, "{variant}: other logits");
        let ids = |archive: &str| {
            json(folder, &["run", archive, "-p", "Row by row", "-n", "8"])["generated_ids"].clone()
        };
        assert_eq!(ids("a.aibit"), ids("b.aibit"), "{variant}");
        succeeds(folder, &["export", "b.aibit", "--to", "gguf", "-o", "b.gguf"]);
        if variant != "mistral" {
            // A GGUF file of a Mistral has the architecture `llama`, as from llama.cpp's converter.
            let [first, second] = ["a.gguf", "b.gguf"].map(|name| fs::read(folder.join(name)).expect("file"));
            assert!(first == second, "{variant}: {} and {} bytes", first.len(), second.len());
        }
    }
}

#[test]
fn int8_leaves_for_gguf_with_its_codes() {
    // For each: matrices, two layers of seven and the embedding, and the head if untied.
    for (variant, matrices) in
        [("llama", 15), ("llama-mha", 16), ("llama3", 15), ("qwen2", 15), ("qwen3", 15)]
    {
        let around = tiny(variant);
        let folder = around.path();
        succeeds(folder, &["pack", "source", "-o", "a.aibit", "-q", "int8"]);
        succeeds(folder, &["export", "a.aibit", "--to", "gguf", "-o", "a.gguf", "--check"]);
        succeeds(folder, &["pack", "a.gguf", "-o", "b.aibit"]);
        let outcome = run(folder, &["diff", "a.aibit", "b.aibit", "--codes", "--tensors", "--json"]);
        assert_eq!(outcome.code, Some(1), "{variant}: schemes differ");
        let found = parse_json(&outcome.stdout);
        let changed = found["changed"].as_array().expect("changes");
        assert_eq!(changed.len(), matrices, "{variant}: {found}");
        for change in changed {
            assert_eq!(change["schemes"], serde_json::json!(["int8", "int8-g32"]), "{variant}");
            assert_eq!(change["codes"]["changed"], 0, "{variant}: {change}");
            // Half a unit in the last place of an F16 scale.
            assert!(change["relative_error"].as_f64().expect("error") <= 1.01 / 2048.0, "{change}");
        }
        // From there on nothing changes.
        succeeds(folder, &["export", "b.aibit", "--to", "gguf", "-o", "b.gguf"]);
        let [first, second] = ["a.gguf", "b.gguf"].map(|name| fs::read(folder.join(name)).expect("file"));
        assert!(first == second, "{variant}: {} and {} bytes", first.len(), second.len());
    }
    // Rows of 48 are not whole blocks of 32.
    let around = tiny("llama-linear");
    succeeds(around.path(), &["pack", "source", "-o", "a.aibit", "-q", "int8"]);
    let message = refuses(around.path(), &["export", "a.aibit", "--to", "gguf", "-o", "a.gguf"]);
    assert!(message.contains("rows of 48 are not whole blocks of 32"), "{message}");
}

/// The row order of llama.cpp's converter: `reshape(heads, 2, head_dim / 2, ...).swapaxes(1, 2)`.
#[test]
fn queries_and_keys_have_the_order_of_rows_that_llama_cpp_expects() {
    for (variant, head_dim, is_reordered) in
        [("llama", 16, true), ("llama-linear", 32, true), ("mistral", 16, true), ("qwen2", 16, false)]
    {
        let around = tiny(variant);
        let folder = around.path();
        succeeds(folder, &["pack", "source", "-o", "a.aibit", "-q", "f32"]);
        succeeds(folder, &["export", "a.aibit", "--to", "gguf", "-o", "a.gguf"]);
        let file = fs::read(folder.join("a.gguf")).expect("file");
        let gguf = Gguf::parse(&file).expect("a GGUF file");
        let source = values(&golden(&format!("tiny-llama/{variant}/model.safetensors")));
        for (theirs, ours) in [("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj")] {
            let (shape, bits) = &source[&format!("model.layers.1.self_attn.{ours}.weight")];
            let tensor = gguf.tensor(&format!("blk.1.{theirs}.weight")).expect("a tensor");
            let found: Vec<u32> =
                tensor.bytes(&file).as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
            assert_eq!(&tensor.shape, shape, "{variant}: {theirs}");
            for row in 0..shape[0] {
                let (head, at) = (row / head_dim, row % head_dim);
                let from = match is_reordered && theirs != "attn_v" {
                    true => head * head_dim + at % 2 * (head_dim / 2) + at / 2,
                    false => row,
                };
                let columns = shape[1];
                assert!(
                    found[row * columns..][..columns] == bits[from * columns..][..columns],
                    "{variant}: row {row} of {theirs}"
                );
            }
        }
    }
}

#[test]
fn checkpoints_of_bitsandbytes_come_and_go_without_a_change() {
    for variant in ["llama-int8", "llama-nf4-dq"] {
        let around = tiny(variant);
        let folder = around.path();
        succeeds(folder, &["pack", "source", "-o", "a.aibit"]);
        succeeds(folder, &["export", "a.aibit", "--to", "bnb", "-o", "out", "--check"]);
        same_tensors(
            &folder.join("out/model.safetensors"),
            &golden(&format!("tiny-llama/{variant}/model.safetensors")),
        );
        let text = succeeds(folder, &["diff", "source", "out", "--codes"]);
        assert!(text.trim().starts_with("no difference in "), "{variant}: {text}");
        let ids = |archive: &str| {
            json(folder, &["run", archive, "-p", "Row by row", "-n", "8"])["generated_ids"].clone()
        };
        succeeds(folder, &["pack", "out", "-o", "b.aibit"]);
        assert_eq!(ids("a.aibit"), ids("b.aibit"), "{variant}");
    }
}

#[test]
fn a_folder_of_floats_holds_the_values() {
    for variant in ["llama", "llama-mha", "llama3", "llama-linear", "mistral", "qwen2", "qwen3", "qwen3-mha"]
    {
        let around = tiny(variant);
        let folder = around.path();
        succeeds(folder, &["pack", "source", "-o", "a.aibit", "-q", "f32"]);
        succeeds(folder, &["export", "a.aibit", "--to", "hf", "--dtype", "f32", "-o", "out"]);
        let source = golden(&format!("tiny-llama/{variant}/model.safetensors"));
        same_values(&folder.join("out/model.safetensors"), &source);
        // It is a checkpoint of the same model again.
        succeeds(folder, &["pack", "out", "-o", "b.aibit", "-q", "f32"]);
        let ids = sequence(variant);
        let [before, after] = ["a.aibit", "b.aibit"].map(|name| logits(&folder.join(name), &ids));
        assert!(before == after, "{variant}: other logits");
    }
}

/// A joined tensor equals its parts: codes and scales, row by row.
#[test]
fn quantized_values_leave_under_the_names_of_the_checkpoint() {
    // Blocks of 64 divide the rows of only one of them.
    for (preset, variant) in [("int8", "qwen2"), ("int8-g32", "qwen2"), ("nf4", "llama")] {
        let around = tiny(variant);
        let folder = around.path();
        succeeds(folder, &["pack", "source", "-o", "a.aibit", "-q", preset]);
        succeeds(folder, &["export", "a.aibit", "--to", "hf", "--dtype", "f32", "-o", "out"]);
        let outcome = run(folder, &["diff", "a.aibit", "out", "--tensors", "--json"]);
        for change in parse_json(&outcome.stdout)["changed"].as_array().expect("changes") {
            assert_eq!(change["max_error"], 0.0, "{preset}: {change}");
        }
        let source = values(&golden(&format!("tiny-llama/{variant}/model.safetensors")));
        let out = values(&folder.join("out/model.safetensors"));
        assert!(source.keys().eq(out.keys()), "{preset}");
        for (name, (shape, bits)) in &source {
            let (out_shape, out_bits) = &out[name];
            assert_eq!(out_shape, shape, "{preset}: {name}");
            if !name.contains("_proj.weight") {
                continue;
            }
            // Close to the source row by row, which rows of another part would not be.
            for (row, (a, b)) in bits.chunks(shape[1]).zip(out_bits.chunks(shape[1])).enumerate() {
                let [a, b] =
                    [a, b].map(|bits| -> Vec<f32> { bits.iter().map(|b| f32::from_bits(*b)).collect() });
                let absmax = a.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                // Half the widest gap: NF4's is 0.304 of its block's absmax, INT8's is 1/127. Group scales are
                // rounded to F16, which moves a code of 127 by half a unit in the last place of its value.
                let step = match preset {
                    "nf4" => 0.153,
                    "int8-g32" => 0.5 / 127.0 + 1.01 / 2048.0,
                    _ => 0.5 / 127.0 * 1.01,
                };
                let error = a.iter().zip(&b).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
                assert!(error <= step * absmax, "{preset}: row {row} of {name} is {error} away, of {absmax}");
            }
        }
    }
}
