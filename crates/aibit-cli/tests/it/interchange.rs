//! Conversion from and to other engines' formats without changing codes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

use crate::models::{SourceTensor, safetensors_file};
use crate::support::{json, parse_json, refuses, run, succeeds};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/tiny-gpt2").join(path)
}

/// A folder `source` with a checkpoint of the tiny model, and its tokenizer.
fn tiny(checkpoint: &str) -> TempDir {
    let around = tempfile::tempdir().expect("temporary folder");
    let folder = around.path().join("source");
    fs::create_dir(&folder).expect("a folder");
    for from in [golden(checkpoint), golden("tokenizer")] {
        for file in fs::read_dir(from).expect("fixture") {
            let file = file.expect("file").path();
            // Fixtures may be read-only, so their contents are copied.
            fs::write(folder.join(file.file_name().expect("name")), fs::read(&file).expect("file"))
                .expect("written");
        }
    }
    around
}

/// Checks that two safetensors files have the same tensors, byte for byte.
pub(crate) fn same_tensors(found: &Path, expected: &Path) {
    let [found, expected] = [found, expected].map(|path| fs::read(path).expect("weights"));
    let found = SafeTensors::deserialize(&found).expect("safetensors");
    let expected = SafeTensors::deserialize(&expected).expect("safetensors");
    let names = |file: &SafeTensors<'_>| {
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(&found), names(&expected));
    for (name, tensor) in expected.tensors() {
        let found = found.tensor(&name).expect("the same names");
        assert_eq!((found.dtype(), found.shape()), (tensor.dtype(), tensor.shape()), "{name}");
        assert!(found.data() == tensor.data(), "{name}");
    }
}

#[test]
fn checkpoints_of_bitsandbytes_come_and_go_without_a_change() {
    for checkpoint in ["int8", "nf4", "nf4-dq"] {
        let around = tiny(checkpoint);
        let folder = around.path();
        succeeds(folder, &["pack", "source", "-o", "a.aibit"]);
        succeeds(folder, &["export", "a.aibit", "--to", "bnb", "-o", "out", "--check"]);
        same_tensors(
            &folder.join("out/model.safetensors"),
            &golden(&format!("{checkpoint}/model.safetensors")),
        );
        let config = |path: &Path| -> Value {
            serde_json::from_slice(&fs::read(path).expect("config")).expect("JSON")
        };
        let ours = config(&folder.join("out/config.json"));
        let theirs = config(&golden(&format!("{checkpoint}/config.json")));
        let key = "quantization_config";
        let is_eight = checkpoint == "int8";
        for (name, value) in theirs[key].as_object().expect("settings") {
            // For 8 bits the settings of 4 bits have no effect, and vice versa.
            if name.starts_with("bnb_4bit") == is_eight {
                continue;
            }
            assert_eq!(&ours[key][name], value, "{checkpoint}: {name}");
        }
        assert_eq!(
            succeeds(folder, &["diff", "source", "out", "--codes"]).trim(),
            format!("no difference in {} parameters", 28)
        );
    }
}

#[test]
fn a_state_dict_gives_the_same_package_as_the_folder() {
    let around = tiny("int8");
    let folder = around.path();
    fs::remove_file(folder.join("source/model.safetensors")).expect("removed");
    fs::write(folder.join("source/state.pt"), fs::read(golden("int8_state_dict.pt")).expect("file"))
        .expect("written");
    succeeds(folder, &["pack", "source/state.pt", "-o", "a.aibit"]);
    succeeds(folder, &["export", "a.aibit", "--to", "bnb", "-o", "out"]);
    same_tensors(&folder.join("out/model.safetensors"), &golden("int8/model.safetensors"));
}

#[test]
fn int8_leaves_for_gguf_with_its_codes() {
    let around = tiny("int8");
    let folder = around.path();
    for preset in ["int8", "bnb-int8"] {
        let (archive, file) = (format!("{preset}.aibit"), format!("{preset}.gguf"));
        fs::write(
            folder.join("source/model.safetensors"),
            fs::read(golden("fp32/model.safetensors")).expect("file"),
        )
        .expect("written");
        fs::write(folder.join("source/config.json"), fs::read(golden("fp32/config.json")).expect("file"))
            .expect("written");
        succeeds(folder, &["pack", "source", "-o", &archive, "-q", preset]);
        succeeds(folder, &["export", &archive, "--to", "gguf", "-o", &file, "--check"]);
        let outcome = run(folder, &["diff", &archive, &file, "--codes", "--tensors", "--json"]);
        assert_eq!(outcome.code, Some(1), "schemes differ");
        let found = parse_json(&outcome.stdout);
        let changed = found["changed"].as_array().expect("changes");
        let matrices = if preset == "int8" { 9 } else { 8 };
        assert_eq!(changed.len(), matrices, "{found}");
        for change in changed {
            assert_eq!(change["schemes"], serde_json::json!(["int8", "int8-g32"]));
            assert_eq!(change["codes"]["changed"], 0, "{change}");
            // Half a unit in the last place of an F16 scale.
            assert!(change["relative_error"].as_f64().expect("error") <= 1.01 / 2048.0, "{change}");
        }
    }
}

#[test]
fn gguf_files_come_and_go_byte_for_byte() {
    let around = tiny("fp32");
    let folder = around.path();
    for preset in ["int8-g32", "int4-g32", "f16", "f32"] {
        let [archive, file] = ["aibit", "gguf"].map(|kind| format!("{preset}.{kind}"));
        succeeds(folder, &["pack", "source", "-o", &archive, "-q", preset]);
        succeeds(folder, &["export", &archive, "--to", "gguf", "-o", &file]);
        succeeds(folder, &["pack", &file, "-o", "again.aibit", "-q", "keep"]);
        assert_eq!(
            succeeds(folder, &["diff", &archive, "again.aibit", "--codes"]).trim(),
            "no difference in 28 parameters"
        );
        succeeds(folder, &["export", "again.aibit", "--to", "gguf", "-o", "again.gguf", "--force"]);
        let [first, second] = [&file, "again.gguf"].map(|name| fs::read(folder.join(name)).expect("file"));
        assert!(first == second, "{preset}: {} and {} bytes", first.len(), second.len());
        // An error about an unreadable file names the problem of its own format.
        fs::write(folder.join("cut.gguf"), &first[..first.len() / 2]).expect("written");
        let message = refuses(folder, &["diff", &archive, "cut.gguf"]);
        assert!(message.contains("the file is truncated"), "{message}");
        // Both compute the same.
        let ids = |archive: &str| {
            json(folder, &["run", archive, "-p", "Row by row", "-n", "8"])["generated_ids"].clone()
        };
        assert_eq!(ids(&archive), ids("again.aibit"), "{preset}");
    }
}

#[test]
fn a_folder_of_floats_holds_the_values() {
    let around = tiny("fp32");
    let folder = around.path();
    succeeds(folder, &["pack", "source", "-o", "int8.aibit", "-q", "int8"]);
    succeeds(folder, &["export", "int8.aibit", "--to", "hf", "--dtype", "f32", "-o", "out"]);
    let outcome = run(folder, &["diff", "int8.aibit", "out", "--tensors", "--json"]);
    let found = parse_json(&outcome.stdout);
    for change in found["changed"].as_array().expect("changes") {
        assert_eq!(change["max_error"], 0.0, "{change}");
    }
    // The plain model again: a folder has Conv1D's orientation and names.
    succeeds(folder, &["pack", "source", "-o", "f32.aibit", "-q", "f32"]);
    succeeds(folder, &["export", "f32.aibit", "--to", "hf", "--dtype", "f32", "-o", "same"]);
    same_tensors(&folder.join("same/model.safetensors"), &golden("fp32/model.safetensors"));
}

#[test]
fn what_a_target_cannot_hold_is_refused() {
    let around = tiny("nf4");
    let folder = around.path();
    succeeds(folder, &["pack", "source", "-o", "nf4.aibit"]);
    let message = refuses(folder, &["export", "nf4.aibit", "--to", "gguf", "-o", "out.gguf"]);
    assert!(message.contains("gguf cannot hold `transformer.h.0.attn.c_attn.weight` as nf4"), "{message}");
    assert!(message.contains("--requantize"), "{message}");
    assert!(!folder.join("out.gguf").exists());
    succeeds(folder, &["export", "nf4.aibit", "--to", "gguf", "-o", "out.gguf", "--requantize"]);

    let message = refuses(folder, &["pack", "source", "-o", "int8.aibit", "-q", "int8"]);
    assert!(message.contains("is already quantized"), "{message}");
    succeeds(folder, &["pack", "source", "-o", "int8.aibit", "-q", "int8", "--requantize"]);

    let around = tiny("fp32");
    let folder = around.path();
    succeeds(folder, &["pack", "source", "-o", "f16.aibit", "-q", "f16"]);
    let message = refuses(folder, &["export", "f16.aibit", "--to", "compressed-tensors", "-o", "out"]);
    assert!(message.contains("are of the kind Conv1D"), "{message}");
    let message = refuses(folder, &["export", "f16.aibit", "--to", "gguf", "--dtype", "f32", "-o", "out"]);
    assert!(message.contains("--dtype has no meaning for gguf"), "{message}");
    let message = refuses(folder, &["export", "f16.aibit", "--to", "bnb", "-o", "out"]);
    assert!(message.contains("bnb cannot hold `transformer.h.0.attn.c_attn.weight` as f16"), "{message}");
    assert!(!folder.join("out").exists());
}

#[test]
fn a_gguf_file_is_inspected() {
    let around = tiny("fp32");
    let folder = around.path();
    succeeds(folder, &["pack", "source", "-o", "a.aibit", "-q", "int8-g32"]);
    succeeds(folder, &["export", "a.aibit", "--to", "gguf", "-o", "a.gguf"]);
    let text = succeeds(folder, &["inspect", "a.gguf", "--tensors"]);
    for expected in
        ["GGUF 3", "general.architecture", "gpt2", "Q8_0", "blk.1.ffn_down.weight", "[512 x string]"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    // Both tokenizers split text alike.
    for file in ["a.gguf", "a.aibit"] {
        let tokenizer = succeeds(folder, &["inspect", file, "--tokenizer"]);
        let tokenizer: Value = serde_json::from_str(&tokenizer).expect("JSON");
        assert_eq!(tokenizer["model"]["type"], "BPE", "{file}");
        assert_eq!(tokenizer["model"]["vocab"].as_object().expect("a vocabulary").len(), 512, "{file}");
    }
    let report = json(folder, &["inspect", "a.gguf"]);
    assert_eq!(report["tensors"].as_array().expect("tensors").len(), 28);
}

#[test]
fn another_family_is_refused_by_name() {
    let around = tiny("fp32");
    let folder = around.path();
    succeeds(folder, &["pack", "source", "-o", "a.aibit", "-q", "int8-g32"]);
    succeeds(folder, &["export", "a.aibit", "--to", "gguf", "-o", "a.gguf"]);
    let mut file = fs::read(folder.join("a.gguf")).expect("file");
    let at = file.windows(4).position(|bytes| bytes == b"gpt2").expect("the architecture");
    file[at..at + 4].copy_from_slice(b"bert");
    fs::write(folder.join("b.gguf"), file).expect("written");
    let message = refuses(folder, &["pack", "b.gguf", "-o", "b.aibit"]);
    assert!(message.contains("the model is of the family \"bert\""), "{message}");
}

/// The error for a bitsandbytes checkpoint with modified tensors.
fn after(checkpoint: &str, edit: impl FnOnce(&mut BTreeMap<String, SourceTensor>)) -> String {
    let around = tiny(checkpoint);
    let path = around.path().join("source/model.safetensors");
    let file = fs::read(&path).expect("weights");
    let owned = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let (dtype, shape, data) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name, SourceTensor { dtype, shape, data })
    };
    let mut tensors: BTreeMap<_, _> =
        SafeTensors::deserialize(&file).expect("safetensors").tensors().into_iter().map(owned).collect();
    edit(&mut tensors);
    fs::write(&path, safetensors_file(&tensors)).expect("written");
    let message = refuses(around.path(), &["pack", "source", "-o", "a.aibit"]);
    assert!(!around.path().join("a.aibit").exists());
    message
}

const LAYER: &str = "transformer.h.0.attn.c_attn";

#[test]
fn damaged_int8_checkpoints_are_refused() {
    let after = |suffix: &str, edit: &dyn Fn(&mut SourceTensor)| {
        after("int8", |tensors| edit(tensors.get_mut(&format!("{LAYER}.{suffix}")).expect("a tensor")))
    };
    let message = self::after("int8", |tensors| _ = tensors.remove(&format!("{LAYER}.SCB")));
    assert!(message.contains("its scales `transformer.h.0.attn.c_attn.SCB` are missing"), "{message}");
    let message = after("SCB", &|scb| {
        scb.shape = vec![191];
        scb.data.truncate(4 * 191);
    });
    assert!(message.contains("must be F32 of shape [192], found F32 of shape [191]"), "{message}");
    let message = after("SCB", &|scb| {
        scb.dtype = Dtype::F16;
        scb.data.truncate(2 * 192);
    });
    assert!(message.contains("must be F32 of shape [192], found F16 of shape [192]"), "{message}");
    for (value, shown) in [(f32::NAN, "NaN"), (-1.0, "-1"), (f32::INFINITY, "inf")] {
        let message = after("SCB", &|scb| scb.data[8..12].copy_from_slice(&value.to_le_bytes()));
        assert!(message.contains(&format!("holds {shown} for row 2")), "{message}");
    }
    for format in 1..=3 {
        let message = after("weight_format", &|tensor| tensor.data[0] = format);
        assert!(
            message.contains(&format!("is weight_format {format}, an order of codes for certain GPUs")),
            "{message}"
        );
    }
    let message = after("weight", &|weight| weight.shape.reverse());
    assert!(message.contains("has shape [64, 192], config.json requires [192, 64]"), "{message}");
}

#[test]
fn damaged_four_bit_checkpoints_are_refused() {
    let after = |checkpoint: &str, suffix: &str, edit: &dyn Fn(&mut SourceTensor)| {
        after(checkpoint, |tensors| {
            edit(tensors.get_mut(&format!("{LAYER}.weight{suffix}")).expect("a tensor"))
        })
    };
    let state = |from: &'static str, to: &'static str| {
        after("nf4-dq", ".quant_state.bitsandbytes__nf4", &move |tensor| {
            let text = String::from_utf8(tensor.data.clone()).expect("JSON");
            assert!(text.contains(from), "{text}");
            tensor.data = text.replace(from, to).into_bytes();
            tensor.shape = vec![tensor.data.len()];
        })
    };
    for (from, to, expected) in [
        ("{", "[", "is not the JSON of a quantization state"),
        ("\"blocksize\": 64", "\"blocksize\": 0", "has blocks of 0; blocks of 64 can be read"),
        ("\"blocksize\": 64", "\"blocksize\": -1", "is not the JSON of a quantization state"),
        ("[192, 64]", "[64, 192]", "is of shape [64, 192], config.json requires [192, 64]"),
        ("\"nf4\"", "\"int4\"", "has the quant_type `int4`; nf4 and fp4 can be read"),
        ("\"float32\", \"shape\"", "\"float8\", \"shape\"", "stands for values of type `float8`"),
        ("\"nested_blocksize\": 256", "\"nested_blocksize\": 128", "has its absmax in blocks of Some(128)"),
    ] {
        let message = state(from, to);
        assert!(message.contains(expected), "{message}");
    }
    let message = after("nf4", ".quant_map", &|map| map.data[0] ^= 1);
    assert!(message.contains("has a quant_map of its own; only that of nf4 can be read"), "{message}");
    let message = after("nf4", ".quant_map", &|map| {
        map.shape = vec![15];
        map.data.truncate(60);
    });
    assert!(message.contains("must be F32, F16 or BF16 of shape [16], found F32 of shape [15]"), "{message}");
    let message =
        after("nf4", ".absmax", &|absmax| absmax.data[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(message.contains("holds NaN at 0"), "{message}");
    let message = after("nf4-dq", ".absmax", &|absmax| {
        absmax.shape = vec![191];
        absmax.data.truncate(191);
    });
    assert!(message.contains("must be U8 of shape [192], found U8 of shape [191]"), "{message}");
    let message = after("nf4", "", &|weight| {
        weight.shape = vec![6143, 1];
        weight.data.truncate(6143);
    });
    assert!(message.contains("has 6143 bytes of codes, 12288 elements take 6144"), "{message}");
    let message = self::after("nf4", |tensors| {
        tensors.remove(&format!("{LAYER}.weight.quant_state.bitsandbytes__nf4"));
    });
    assert!(message.contains("has element type U8"), "{message}");
}

/// The same bytes with another dtype, as created by `bnb_4bit_quant_storage`, and absmax in fewer bits.
#[test]
fn other_storage_types_of_four_bits_are_read() {
    let around = tiny("nf4");
    let folder = around.path();
    succeeds(folder, &["pack", "source", "-o", "a.aibit"]);
    let path = folder.join("source/model.safetensors");
    let file = fs::read(&path).expect("weights");
    let mut tensors = BTreeMap::new();
    for (name, view) in SafeTensors::deserialize(&file).expect("safetensors").tensors() {
        let (mut dtype, mut shape, data) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        if dtype == Dtype::U8 && name.ends_with(".weight") {
            (dtype, shape) = (Dtype::BF16, vec![data.len() / 2, 1]);
        }
        tensors.insert(name, SourceTensor { dtype, shape, data });
    }
    fs::write(&path, safetensors_file(&tensors)).expect("written");
    let text = succeeds(folder, &["diff", "a.aibit", "source", "--codes"]);
    assert_eq!(text.trim(), "no difference in 28 parameters");
}

/// Writes an archive of the proof of concept, with or without a configuration in it.
fn proof_of_concept(path: &Path, state_dict: &[u8], config: Option<Vec<u8>>) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).expect("a file"));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, data: &[u8]| {
        zip.start_file(name, options).expect("an entry");
        zip.write_all(data).expect("written");
    };
    add("quantized_model_state_dict.pt", state_dict);
    add("tokenizer/vocab.json", &fs::read(golden("tokenizer/vocab.json")).expect("fixture"));
    add("tokenizer/merges.txt", &fs::read(golden("tokenizer/merges.txt")).expect("fixture"));
    add("metadata.json", br#"{"model_name": "openai-community/gpt2", "quantization": "int8"}"#);
    if let Some(config) = config {
        add("config.json", &config);
    }
    zip.finish().expect("a ZIP file");
}

#[test]
fn a_damaged_archive_of_the_proof_of_concept_is_named() {
    let around = tiny("int8");
    let folder = around.path();
    let state_dict = fs::read(golden("int8_state_dict.pt")).expect("fixture");
    let mut flipped = state_dict.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [&state_dict[..state_dict.len() / 2], &state_dict[..40], &flipped] {
        for config in [None, Some(fs::read(golden("int8/config.json")).expect("fixture"))] {
            proof_of_concept(&folder.join("old.aibit"), damaged, config);
            let message = refuses(folder, &["pack", "old.aibit", "-o", "out.aibit"]);
            assert!(message.contains("old.aibit"), "{message}");
            let elsewhere = std::env::temp_dir().to_string_lossy().into_owned();
            assert!(!message.contains(&elsewhere), "{message}");
        }
    }
}

#[test]
fn a_large_file_in_an_archive_of_the_proof_of_concept_is_refused_by_its_length() {
    let around = tiny("int8");
    let folder = around.path();
    let state_dict = fs::read(golden("int8_state_dict.pt")).expect("fixture");
    let config = format!("{{\"eos_token_id\": [{}0]}}", "0,".repeat(20 << 20)).into_bytes();
    let length = config.len();
    proof_of_concept(&folder.join("old.aibit"), &state_dict, Some(config));
    let message = refuses(folder, &["pack", "old.aibit", "-o", "out.aibit"]);
    let problem = format!("config.json` has {length} bytes, allowed are 2097152");
    assert!(message.contains(&problem), "{message}");
    assert!(!folder.join("out.aibit").exists());
}

/// The archive of the proof of concept, with and without a configuration in it.
#[test]
fn the_archive_of_the_proof_of_concept_is_taken_over() {
    let around = tiny("int8");
    let folder = around.path();
    succeeds(folder, &["pack", "source", "-o", "a.aibit"]);
    let make = |name: &str, config: Option<Vec<u8>>| {
        proof_of_concept(
            &folder.join(name),
            &fs::read(golden("int8_state_dict.pt")).expect("fixture"),
            config,
        );
    };
    make("with.aibit", Some(fs::read(golden("int8/config.json")).expect("fixture")));
    succeeds(folder, &["pack", "with.aibit", "-o", "b.aibit"]);
    let text = succeeds(folder, &["diff", "a.aibit", "b.aibit", "--codes"]);
    assert_eq!(text.trim(), "no difference in 28 parameters");
    let ids = |archive: &str| {
        json(folder, &["run", archive, "-p", "Row by row", "-n", "8"])["generated_ids"].clone()
    };
    assert_eq!(ids("a.aibit"), ids("b.aibit"));
    succeeds(folder, &["convert", "with.aibit", "-o", "converted.aibit"]);
    let [packed, converted] =
        ["b.aibit", "converted.aibit"].map(|name| fs::read(folder.join(name)).expect("file"));
    assert!(packed == converted);
    // Without a configuration, sizes are taken from tensors, but heads have 64 elements in every GPT-2: here one
    // head.
    make("without.aibit", None);
    succeeds(folder, &["pack", "without.aibit", "-o", "c.aibit"]);
    let text = succeeds(folder, &["diff", "a.aibit", "c.aibit", "--codes"]);
    assert_eq!(text.trim(), "no difference in 28 parameters");
}

#[test]
fn an_archive_is_written_anew() {
    let around = tiny("int8");
    let folder = around.path();
    succeeds(folder, &["pack", "source", "-o", "a.aibit"]);
    succeeds(folder, &["convert", "a.aibit", "-o", "b.aibit"]);
    let mut file = fs::read(folder.join("a.aibit")).expect("file");
    assert!(file == fs::read(folder.join("b.aibit")).expect("file"), "the same version gives the same bytes");
    // A changed byte of the weights is detected, and nothing is written.
    let at = file.windows(8).position(|bytes| bytes == b"{\"__meta").expect("weights") + 100_000;
    file[at] ^= 1;
    fs::write(folder.join("a.aibit"), file).expect("written");
    let message = refuses(folder, &["convert", "a.aibit", "-o", "c.aibit"]);
    assert!(message.contains("weights.safetensors"), "{message}");
    assert!(!folder.join("c.aibit").exists());
    let message = refuses(folder, &["convert", "source", "-o", "c.aibit"]);
    assert!(message.contains("source"), "{message}");
}
