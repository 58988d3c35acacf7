//! Checkpoints in all published forms: sharded, wrapped, tied in every way, or unsupported.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aibit_gguf::{Gguf, GgufLayout, GgufTensor, Metadata, Value as GgufValue};
use serde_json::{Value, json};

use crate::models::{SourceTensor, Tiny, safetensors_file, safetensors_with};
use crate::support::{Outcome, json as report, refuses, run, succeeds, text};

type Tensors = BTreeMap<String, SourceTensor>;

/// The digest of the weights of a packed `tiny`.
#[track_caller]
fn digest(model: &Tiny) -> String {
    succeeds(model.around(), &["pack", "tiny", "-o", "out.aibit", "-q", "f32"]);
    weights_of(model, "out.aibit")
}

#[track_caller]
fn weights_of(model: &Tiny, archive: &str) -> String {
    succeeds(model.around(), &["verify", archive, "--run"]);
    let report = report(model.around(), &["inspect", archive]);
    let entries = report["entries"].as_array().expect("an array");
    let weights = entries.iter().find(|e| e["name"] == "weights.safetensors").expect("an entry");
    text(&weights["sha256"]).to_owned()
}

/// The messages of `pack` besides its report; it must succeed.
#[track_caller]
fn notes(model: &Tiny, options: &[&str]) -> String {
    let args = [&["pack", "tiny", "-o", "out.aibit"], options].concat();
    let Outcome { code, stderr, .. } = run(model.around(), &args);
    assert_eq!(code, Some(0), "{stderr}");
    stderr
}

#[track_caller]
fn refused(model: &Tiny, words: &[&str]) {
    let _ = fs::remove_file(model.around().join("out.aibit"));
    let message = refuses(model.around(), &["pack", "tiny", "-o", "out.aibit"]);
    for word in words {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
    assert!(!model.around().join("out.aibit").exists(), "{message}");
}

fn renamed(tensors: &mut Tensors, name: impl Fn(&str) -> String) {
    *tensors = std::mem::take(tensors).into_iter().map(|(old, tensor)| (name(&old), tensor)).collect();
}

/// Splits tensors into two files, those for which `is_first` holds into the first, with an index by `place`.
fn sharded(model: Tiny, first: &Tensors, second: &Tensors, place: impl Fn(&str) -> &'static str) -> Tiny {
    let map: BTreeMap<&String, &str> =
        first.keys().chain(second.keys()).map(|name| (name, place(name))).collect();
    model
        .remove("model.safetensors")
        .write(SHARDS[0], &safetensors_file(first))
        .write(SHARDS[1], &safetensors_file(second))
        .write("model.safetensors.index.json", json!({ "weight_map": map }).to_string().as_bytes())
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

#[test]
fn prefixes_that_wrappers_leave_on_every_name_are_taken_off() {
    for (model, prefixes) in [
        (Tiny::new as fn() -> Tiny, ["module._orig_mod.", "base_model.model.", "_forward_module.module."]),
        (|| Tiny::llama("qwen2"), ["_orig_mod.", "module.base_model.model.", "_fsdp_wrapped_module."]),
    ] {
        let expected = digest(&model());
        for prefix in prefixes {
            let wrapped = model().edit_tensors(|tensors| renamed(tensors, |name| format!("{prefix}{name}")));
            assert_eq!(digest(&wrapped), expected, "{prefix}");
        }
    }
    // GPT-2's own prefix may be missing after them.
    let bare = Tiny::new().edit_tensors(|tensors| {
        renamed(tensors, |name| format!("module.{}", name.trim_start_matches("transformer.")));
    });
    assert_eq!(digest(&bare), digest(&Tiny::new()));
}

#[test]
fn a_prefix_that_only_some_names_have_is_refused() {
    let model = Tiny::llama("llama-mha").edit_tensors(|tensors| {
        renamed(tensors, |name| match name.starts_with("lm_head") {
            true => name.to_owned(),
            false => format!("module.{name}"),
        });
    });
    refused(&model, &["`lm_head.weight`", "`module.`", "DataParallel"]);
    let inside = Tiny::llama("llama").edit_tensors(|tensors| {
        renamed(tensors, |name| name.replace("layers.1.mlp.", "layers.1._orig_mod.mlp."));
    });
    refused(&inside, &["layers.1._orig_mod.mlp", "torch.compile"]);
}

#[test]
fn either_tensor_of_a_tied_pair_is_enough() {
    for (model, embedding) in [
        (Tiny::new as fn() -> Tiny, "transformer.wte.weight"),
        (|| Tiny::llama("llama"), "model.embed_tokens.weight"),
        (|| Tiny::llama("qwen3"), "model.embed_tokens.weight"),
    ] {
        let expected = digest(&model());
        let only_head = model().edit_tensors(|tensors| {
            let table = tensors.remove(embedding).expect("an embedding");
            tensors.insert("lm_head.weight".into(), table);
        });
        assert_eq!(digest(&only_head), expected, "{embedding}");
        // With the metadata of `save_model`, in either direction.
        for (kept, dropped) in [("lm_head.weight", embedding), (embedding, "lm_head.weight")] {
            let mut tensors = model().tensors();
            let table = tensors.remove(embedding).expect("an embedding");
            tensors.insert(kept.into(), table);
            let file = safetensors_with(&tensors, &[(dropped, kept), ("format", "pt")]);
            assert_eq!(digest(&model().write("model.safetensors", &file)), expected, "{dropped}");
        }
    }
}

#[test]
fn a_head_is_not_tied_because_it_is_missing() {
    for (model, embedding) in [
        (Tiny::new().with_config("tie_word_embeddings", json!(false)), "transformer.wte.weight"),
        (Tiny::llama("llama").with_config("tie_word_embeddings", json!(false)), "model.embed_tokens.weight"),
    ] {
        refused(&model, &["`lm_head.weight`", "tie_word_embeddings"]);
        // Metadata in the header say that the two were one tensor.
        let file = safetensors_with(&model.tensors(), &[("lm_head.weight", embedding)]);
        let model = model.write("model.safetensors", &file);
        succeeds(model.around(), &["pack", "tiny", "-o", "out.aibit", "-q", "f32"]);
        let untied =
            report(model.around(), &["run", "out.aibit", "-p", "Row by row", "-n", "8", "--temp", "0"]);
        let tied = model.with_config("tie_word_embeddings", json!(true));
        succeeds(tied.around(), &["pack", "tiny", "-o", "tied.aibit", "-q", "f32"]);
        let tied =
            report(tied.around(), &["run", "tied.aibit", "-p", "Row by row", "-n", "8", "--temp", "0"]);
        assert_eq!(untied["generated_ids"], tied["generated_ids"]);
    }
}

#[test]
fn a_tie_of_tensors_that_differ_is_undone_with_a_note() {
    for (model, embedding) in [
        (Tiny::new as fn() -> Tiny, "transformer.wte.weight"),
        (|| Tiny::llama("llama"), "model.embed_tokens.weight"),
    ] {
        let with_head = |model: Tiny| {
            model.edit_tensors(|tensors| {
                let mut head = tensors[embedding].clone();
                head.data.rotate_left(64 * 4); // every token has its neighbour's row
                tensors.insert("lm_head.weight".into(), head);
            })
        };
        let claimed = with_head(model());
        let said = notes(&claimed, &["-q", "f32"]);
        assert!(said.contains("lm_head.weight") && said.contains("tie_word_embeddings"), "{said}");
        let expected = digest(&with_head(model().with_config("tie_word_embeddings", json!(false))));
        assert_eq!(weights_of(&claimed, "out.aibit"), expected);
        // Exports have the same setting.
        succeeds(claimed.around(), &["export", "out.aibit", "--to", "hf", "--dtype", "f32", "-o", "hf"]);
        succeeds(claimed.around(), &["export", "out.aibit", "--to", "gguf", "-o", "out.gguf"]);
        let config = fs::read(claimed.around().join("hf/config.json")).expect("config.json");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        assert_eq!(config["tie_word_embeddings"], false);
        for again in ["hf", "out.gguf"] {
            succeeds(claimed.around(), &["pack", again, "-o", "again.aibit", "-q", "f32"]);
            assert_eq!(weights_of(&claimed, "again.aibit"), expected, "{again}");
        }
    }
}

#[test]
fn a_tensor_in_two_shards_must_be_the_same_in_both() {
    let model = Tiny::llama("qwen2");
    let expected = digest(&model);
    let tensors = model.tensors();
    let (first, mut second): (Tensors, Tensors) =
        tensors.clone().into_iter().partition(|(name, _)| name.contains("layers.0."));
    let norm = "model.layers.0.input_layernorm.weight";
    second.insert(norm.into(), tensors[norm].clone());
    let place = |name: &str| SHARDS[usize::from(!name.contains("layers.0."))];
    let twice = sharded(model, &first, &second, place);
    assert_eq!(digest(&twice), expected);
    second.get_mut(norm).expect("a tensor").data[3] ^= 1;
    refused(
        &twice.write(SHARDS[1], &safetensors_file(&second)),
        &[norm, "differs between", SHARDS[0], SHARDS[1]],
    );
}

#[test]
fn an_index_must_say_where_tensors_are() {
    let model = Tiny::new();
    let (mut first, second): (Tensors, Tensors) =
        model.tensors().into_iter().partition(|(name, _)| name.contains(".h.0."));
    let place = |name: &str| SHARDS[usize::from(!name.contains(".h.0."))];
    let model = sharded(model, &first, &second, place);
    first.remove("transformer.h.0.mlp.c_fc.bias").expect("a tensor");
    let model = model.write(SHARDS[0], &safetensors_file(&first));
    refused(&model, &["model.safetensors.index.json", "transformer.h.0.mlp.c_fc.bias", SHARDS[0]]);
}

#[test]
fn shards_that_the_index_does_not_name_are_mentioned() {
    let model = Tiny::new();
    let (first, second): (Tensors, Tensors) =
        model.tensors().into_iter().partition(|(name, _)| name.contains(".h.0."));
    let model = sharded(model, &first, &second, |name| SHARDS[usize::from(!name.contains(".h.0."))])
        .write("model-00003-of-00003.safetensors", &safetensors_file(&first));
    let said = notes(&model, &[]);
    assert!(said.contains("model-00003-of-00003.safetensors: not named in"), "{said}");
}

#[test]
fn adapters_are_named_alone_and_beside_a_model() {
    let settings = br#"{"peft_type": "LORA", "r": 2}"#;
    let beside = Tiny::new().write("adapter_config.json", settings);
    let said = notes(&beside, &[]);
    assert!(said.contains("adapter_config.json") && said.contains("merge"), "{said}");
    let adapter = safetensors_file(&BTreeMap::from([(
        "base_model.model.h.0.attn.c_attn.lora_A.weight".to_owned(),
        SourceTensor { dtype: safetensors::Dtype::F32, shape: vec![2, 64], data: vec![0; 512] },
    )]));
    // With a configuration and no other weights, without one, and the file itself.
    let alone = beside.remove("model.safetensors").write("adapter_model.safetensors", &adapter);
    refused(&alone, &["adapter_config.json", "merge_and_unload"]);
    let alone = alone.remove("config.json");
    refused(&alone, &["adapter_config.json", "merge_and_unload"]);
    let file = ["pack", "tiny/adapter_model.safetensors", "-o", "out.aibit"];
    assert!(refuses(alone.around(), &file).contains("merge_and_unload"));
    // Not merged, but with the names of a complete model.
    let unmerged = Tiny::llama("llama").edit_tensors(|tensors| {
        renamed(tensors, |name| {
            format!("base_model.model.{}", name.replace("q_proj.weight", "q_proj.base_layer.weight"))
        });
    });
    refused(&unmerged, &["q_proj.base_layer.weight", "merge"]);
}

#[test]
fn quantized_and_other_checkpoints_are_named() {
    let with = |name: &str, dtype, shape: [usize; 2], bytes: usize| {
        Tiny::llama("llama").edit_tensors(|tensors| {
            let data = vec![0; shape[0] * shape[1] * bytes];
            tensors.insert(name.into(), SourceTensor { dtype, shape: shape.to_vec(), data });
        })
    };
    use safetensors::Dtype::{F16, F32, I32};
    refused(&with("model.layers.0.mlp.up_proj.qweight", I32, [8, 4], 4), &["up_proj.qweight", "AWQ"]);
    refused(&with("model.layers.1.mlp.up_proj.weight_packed", I32, [8, 4], 4), &["compressed-tensors"]);
    refused(&with("model.layers.1.mlp.up_proj.biases", F16, [8, 4], 2), &["MLX"]);
    refused(&with("score.weight", F32, [2, 64], 4), &["score.weight", "reward"]);
    let fp8 = Tiny::llama("llama").edit_tensors(|tensors| {
        let tensor = tensors.get_mut("model.layers.0.mlp.up_proj.weight").expect("a tensor");
        tensor.dtype = safetensors::Dtype::F8_E4M3;
        tensor.data.truncate(tensor.shape.iter().product());
    });
    refused(&fp8, &["up_proj.weight", "FP8"]);
    let classes = json!(["LlamaForSequenceClassification"]);
    refused(&Tiny::llama("llama").with_config("architectures", classes), &["architectures", "rates texts"]);
    let mlx = json!({"group_size": 64, "bits": 4});
    refused(&Tiny::llama("llama").with_config("quantization", mlx), &["quantization", "MLX"]);
}

#[test]
fn other_layouts_are_named() {
    let meta = Tiny::llama("llama")
        .remove("model.safetensors")
        .remove("config.json")
        .write("params.json", b"{\"dim\": 64}")
        .write("consolidated.00.pth", b"PK");
    refused(&meta, &["consolidated.00.pth", "convert_llama_weights_to_hf.py"]);
    let onnx = Tiny::llama("llama").remove("model.safetensors").write("model.onnx", b"\x08\x07");
    refused(&onnx, &["model.onnx", "ONNX"]);
    // Files that a trainer saves next to the weights are not weights.
    let model = Tiny::new();
    let expected = digest(&model);
    let file = safetensors_file(&model.tensors());
    let trained = model
        .remove("model.safetensors")
        .write("weights.safetensors", &file)
        .write("training_args.bin", b"PK\x03\x04")
        .write("optimizer.pt", b"PK\x03\x04");
    assert_eq!(digest(&trained), expected);
}

#[test]
fn rows_too_small_for_their_scheme_are_mentioned() {
    let small = || {
        Tiny::new().edit_tensors(|tensors| {
            // Stored as [in, out]: column 3 is row 3 of the layer.
            let tensor = tensors.get_mut("transformer.h.1.mlp.c_fc.weight").expect("a tensor");
            for column in tensor.data.chunks_exact_mut(4).skip(3).step_by(256) {
                column.copy_from_slice(&1e-9_f32.to_le_bytes());
            }
        })
    };
    for (preset, unit) in [("int8", "1 rows"), ("f16", "1 rows"), ("int4-g32", "2 blocks")] {
        let said = notes(&small(), &["-q", preset]);
        assert!(
            said.contains("`transformer.h.1.mlp.c_fc.weight`: ") && said.contains(unit),
            "{preset}: {said}"
        );
    }
    assert_eq!(notes(&small(), &["-q", "f32"]), "");
    assert_eq!(notes(&Tiny::new(), &["-q", "int8"]), "");
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_links_to_elsewhere_are_refused() {
    use std::os::unix::fs::symlink;

    let fifo = |model: Tiny, name: &str| {
        let path = model.path().join(name);
        let _ = fs::remove_file(&path);
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        model
    };
    // Opening a pipe blocks, and `run` ends a program that blocks.
    for name in ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"] {
        refused(&fifo(Tiny::new(), name), &[name, "a device or pipe"]);
    }
    let model = fifo(Tiny::new(), "a.gguf");
    let message = refuses(model.around(), &["pack", "tiny/a.gguf", "-o", "out.aibit"]);
    assert!(message.contains("a device or pipe"), "{message}");
    assert!(refuses(model.around(), &["inspect", "tiny/a.gguf"]).contains("a device or pipe"));
    for name in ["tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"] {
        for (target, problem) in
            [("/dev/zero", "a device or pipe"), ("/etc/passwd", "link out of the folder")]
        {
            let model = Tiny::new();
            let _ = fs::remove_file(model.path().join(name));
            symlink(target, model.path().join(name)).expect("a link");
            refused(&model, &[name, problem]);
        }
    }
}

/// The folder of a model, packed as f32 and exported to the GGUF file `whole.gguf`, with its weights' digest.
fn as_gguf(model: Tiny) -> (Tiny, String) {
    digest(&model);
    succeeds(model.around(), &["export", "out.aibit", "--to", "gguf", "-o", "whole.gguf"]);
    succeeds(model.around(), &["pack", "whole.gguf", "-o", "whole.aibit", "-q", "f32"]);
    let digest = weights_of(&model, "whole.aibit");
    (model, digest)
}

/// Writes a GGUF file with these metadata and tensors of `file`.
fn write_gguf(path: &Path, metadata: &[(String, GgufValue)], tensors: &[&GgufTensor], file: &[u8]) {
    let mut keys = Metadata::default();
    for (key, value) in metadata {
        keys.set(key.clone(), value.clone());
    }
    let infos: Vec<_> = tensors.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect();
    let layout = GgufLayout::new(&keys, &infos).expect("a layout");
    let mut out = vec![0; layout.file_bytes()];
    out[..layout.header().len()].copy_from_slice(layout.header());
    for (place, tensor) in layout.tensors().iter().zip(tensors) {
        out[place.range.clone()].copy_from_slice(tensor.bytes(file));
    }
    fs::write(path, out).expect("written");
}

/// Splits `whole.gguf` like llama-gguf-split: part `n` has the tensors for which `part` is `n`.
fn split(model: &Tiny, name: &str, count: u16, part: impl Fn(usize, &str) -> u16) {
    let file = fs::read(model.around().join("whole.gguf")).expect("a file");
    let gguf = Gguf::parse(&file).expect("GGUF");
    for number in 0..count {
        let mut metadata: Vec<(String, GgufValue)> = match number {
            0 => gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect(),
            _ => Vec::new(),
        };
        metadata.push(("split.no".into(), GgufValue::U16(number)));
        metadata.push(("split.count".into(), GgufValue::U16(count)));
        metadata.push(("split.tensors.count".into(), GgufValue::I32(gguf.tensors().len() as i32)));
        let tensors: Vec<_> = gguf
            .tensors()
            .iter()
            .enumerate()
            .filter(|(index, tensor)| part(*index, &tensor.name) == number)
            .map(|(_, tensor)| tensor)
            .collect();
        let name = format!("{name}-{:05}-of-{count:05}.gguf", number + 1);
        write_gguf(&model.around().join(name), &metadata, &tensors, &file);
    }
}

#[test]
fn split_gguf_files_are_read_whole_from_any_part() {
    for variant in ["llama-mha", "llama3", "qwen3"] {
        let (model, expected) = as_gguf(Tiny::llama(variant));
        split(&model, "even", 3, |index, _| (index % 3) as u16);
        // No tensors in the first part; those from which the configuration is derived in the last.
        split(
            &model,
            "late",
            4,
            |index, name| if name.starts_with("blk.") { 1 + (index % 2) as u16 } else { 3 },
        );
        split(&model, "head", 2, |_, name| {
            u16::from(name == "output.weight" || name == "blk.1.ffn_up.weight")
        });
        for part in [
            "even-00001-of-00003.gguf",
            "even-00003-of-00003.gguf",
            "late-00001-of-00004.gguf",
            "late-00002-of-00004.gguf",
            "head-00002-of-00002.gguf",
        ] {
            succeeds(model.around(), &["pack", part, "-o", "split.aibit", "-q", "f32"]);
            assert_eq!(weights_of(&model, "split.aibit"), expected, "{variant}, {part}");
            let files = &report(model.around(), &["inspect", "split.aibit"])["provenance"]["source"]["files"];
            let count = files.as_array().expect("files").len();
            assert_eq!(count, usize::from(part.as_bytes()[part.len() - 6] - b'0'), "{files}");
        }
    }
    let (model, expected) = as_gguf(Tiny::new());
    split(&model, "gpt2", 2, |_, name| u16::from(name.starts_with("blk.1.")));
    succeeds(model.around(), &["pack", "gpt2-00002-of-00002.gguf", "-o", "split.aibit", "-q", "f32"]);
    assert_eq!(weights_of(&model, "split.aibit"), expected);
}

#[test]
fn a_folder_of_one_gguf_model_is_that_model() {
    let (model, expected) = as_gguf(Tiny::llama("qwen2"));
    let folder = model.around().join("parts");
    fs::create_dir(&folder).expect("a folder");
    split(&model, "parts/m", 2, |index, _| (index % 2) as u16);
    succeeds(model.around(), &["pack", "parts", "-o", "split.aibit", "-q", "f32"]);
    assert_eq!(weights_of(&model, "split.aibit"), expected);
    fs::copy(model.around().join("whole.gguf"), folder.join("other.gguf")).expect("a copy");
    let message = refuses(model.around(), &["pack", "parts", "-o", "out2.aibit"]);
    assert!(message.contains("3 GGUF files") && message.contains("other.gguf"), "{message}");
}

#[test]
fn parts_that_are_missing_or_not_of_one_model_are_named() {
    let (model, _) = as_gguf(Tiny::llama("llama"));
    let path = |name: &str| model.around().join(name);
    let refused = |name: &str, words: &[&str]| {
        let message = refuses(model.around(), &["pack", name, "-o", "none.aibit"]);
        assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
        assert!(!path("none.aibit").exists());
    };
    split(&model, "m", 3, |index, _| (index % 3) as u16);
    fs::rename(path("m-00003-of-00003.gguf"), path("kept")).expect("renamed");
    refused("m-00001-of-00003.gguf", &["m-00003-of-00003.gguf", "missing", "part 3 of 3", "part 1"]);
    // The second part in place of the third.
    fs::copy(path("m-00002-of-00003.gguf"), path("m-00003-of-00003.gguf")).expect("a copy");
    refused("m-00001-of-00003.gguf", &["part 2 of 3", "part 3 of 3"]);
    // A part of another model, with fewer tensors.
    split(&model, "less", 3, |index, _| if index == 7 { 9 } else { (index % 3) as u16 });
    fs::rename(path("less-00003-of-00003.gguf"), path("m-00003-of-00003.gguf")).expect("renamed");
    fs::copy(path("less-00002-of-00003.gguf"), path("m-00002-of-00003.gguf")).expect("a copy");
    refused("m-00001-of-00003.gguf", &["split.tensors.count"]);
    // Without its name, it is still recognised as a part.
    fs::rename(path("less-00001-of-00003.gguf"), path("renamed.gguf")).expect("renamed");
    refused("renamed.gguf", &["part 1 of 3", "-00001-of-00003.gguf", "llama-gguf-split --merge"]);
}

#[test]
fn gguf_files_that_hold_no_model_are_named() {
    let folder = crate::support::temporary_folder();
    let text = |value: &str| GgufValue::String(value.into());
    let strings = |values: &[&str]| {
        GgufValue::Array(aibit_gguf::Array::String(values.iter().map(|v| (*v).to_owned()).collect()))
    };
    for (metadata, word) in [
        (vec![("general.type", text("adapter")), ("general.architecture", text("qwen2"))], "adapter"),
        (vec![("general.type", text("imatrix"))], "importance"),
        (vec![("general.type", text("mmproj")), ("general.architecture", text("clip"))], "image"),
        (vec![("general.architecture", text("clip"))], "image"),
        (
            vec![("general.architecture", text("llama")), ("tokenizer.ggml.tokens", strings(&["a", "b"]))],
            "contains only a vocabulary",
        ),
    ] {
        let metadata: Vec<_> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        write_gguf(&folder.path().join("a.gguf"), &metadata, &[], &[]);
        let message = refuses(folder.path(), &["pack", "a.gguf", "-o", "out.aibit"]);
        assert!(message.contains(word), "{word}: {message}");
    }
}
