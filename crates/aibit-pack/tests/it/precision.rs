//! Which precision layers and slots of a package get, and what the profile exact makes of it.

use std::collections::BTreeMap;
use std::path::Path;

use aibit_cpu::Model;
use aibit_format::{Archive, Override, Scheme, entry_names};
use aibit_graph::ops::{Linear, Logits};
use aibit_graph::{ActivationPrecision, Graph, KvPrecision, Op, Place};
use aibit_pack::{Measured, ModelSource, PackOptions, Preset, pack};
use aibit_runtime::Profile;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use crate::support::{Golden, all_logits, gathered, packed};

fn folder(variant: &str) -> TempDir {
    gathered(&[variant, "tiny-gpt2/tokenizer"])
}

fn packed_with(folder: &Path, options: PackOptions) -> (TempDir, Archive) {
    let out = tempfile::tempdir().expect("temporary folder");
    let target = out.path().join("model.aibit");
    pack(&ModelSource::open(folder).expect("a model"), &target, &options, &()).expect("packed");
    let archive = Archive::open(&target).expect("opened");
    (out, archive)
}

fn graph(archive: &Archive) -> Graph {
    Graph::from_json(archive.entry(entry_names::GRAPH).expect("graph").data).expect("graph")
}

/// Place, precision and threshold of each layer.
fn layers(archive: &Archive) -> Vec<(Place, ActivationPrecision, Option<f32>)> {
    let graph = graph(archive);
    let places = graph.places();
    let layer = |(op, place): (&Op, Option<Place>)| match op {
        Op::Linear(Linear { activations, outlier_threshold, .. })
        | Op::Logits(Logits { activations, outlier_threshold, .. }) => {
            Some((place.expect("a place"), *activations, *outlier_threshold))
        }
        _ => None,
    };
    graph.nodes.iter().zip(places).filter_map(layer).collect()
}

fn slots(archive: &Archive) -> Vec<KvPrecision> {
    graph(archive).kv_slots.iter().map(|slot| slot.precision).collect()
}

/// Changes the last elements of BF16 tensors of a folder's `model.safetensors`, the number of them and their value given
/// for each name that ends so.
fn edit(folder: &Path, ending: &str, count: usize, value: f32) {
    let path = folder.join("model.safetensors");
    let mut file = std::fs::read(&path).expect("weights");
    let start = 8 + u64::from_le_bytes(*file.first_chunk().expect("a length")) as usize;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&file[8..start]).expect("JSON");
    let bf16 = [value.to_bits().to_le_bytes()[2], value.to_bits().to_le_bytes()[3]];
    let mut edited = 0;
    for (_, tensor) in header.iter().filter(|(name, _)| name.ends_with(ending)) {
        assert_eq!(tensor["dtype"], "BF16");
        let end = start + tensor["data_offsets"][1].as_u64().expect("an offset") as usize;
        for element in file[end - 2 * count..end].as_chunks_mut().0 {
            *element = bf16;
        }
        edited += 1;
    }
    assert!(edited > 0, "no tensor ends in {ending}");
    std::fs::write(&path, file).expect("weights");
}

#[test]
fn options_decide_and_the_manifest_records_them() {
    let activations = BTreeMap::from([
        (Place::Norm, ActivationPrecision::Int8x2),
        (Place::Attention, ActivationPrecision::Int8Asym),
        (Place::Gate, ActivationPrecision::Int8),
        (Place::Head, ActivationPrecision::Int8),
    ]);
    for variant in ["tiny-gpt2/fp32", "tiny-llama/qwen2"] {
        for kv_cache in KvPrecision::ALL {
            let options = PackOptions {
                preset: Some(Preset::Int8),
                activations: activations.clone(),
                kv_cache: Some(kv_cache),
                ..PackOptions::default()
            };
            let (_out, archive) = packed_with(folder(variant).path(), options);
            let found = layers(&archive);
            assert_eq!(found.len(), 9, "{variant}: two blocks of four layers, and the head");
            assert!(found.iter().all(|(place, precision, _)| activations[place] == *precision), "{found:?}");
            assert_eq!(slots(&archive), [kv_cache; 2], "{variant}");
            let recipe = &archive.manifest().recipe;
            let recorded = BTreeMap::from(
                [("norm", "int8x2"), ("attention", "int8-asym"), ("gate", "int8"), ("head", "int8")]
                    .map(|(place, precision)| (place.to_owned(), precision.to_owned())),
            );
            assert_eq!(recipe.activations, recorded);
            assert_eq!(recipe.kv_cache.as_deref(), Some(kv_cache.name()));
        }
    }
}

#[test]
fn the_cheapest_precision_within_the_limits_is_chosen() {
    for variant in ["tiny-gpt2/fp32", "tiny-llama/llama", "tiny-llama/qwen2"] {
        let (_out, archive) = packed(folder(variant).path(), Preset::Int8);
        let entry = archive.entry(entry_names::MEASURED).expect("a measurement");
        let Measured { limit, errors } = Measured::from_json(entry.data).expect("a measurement");
        let found = layers(&archive);
        assert_eq!((found.len(), errors.layers.len(), errors.slots.len()), (9, 8, 2), "{variant}");
        assert_eq!(found[8].1, ActivationPrecision::Int8x2, "the head");
        for ((_, precision, _), error) in found.iter().zip(&errors.layers) {
            let gains = error.int8_asym < 0.75 * error.int8;
            let expected = match (error.int8 <= limit && !gains, error.int8_asym <= limit) {
                (true, _) => ActivationPrecision::Int8,
                (false, true) => ActivationPrecision::Int8Asym,
                (false, false) => ActivationPrecision::Int8x2,
            };
            assert_eq!(*precision, expected, "{variant}: {error:?}");
        }
        for (precision, error) in slots(&archive).iter().zip(&errors.slots) {
            assert!(error.f16 < error.int8, "{error:?}");
            let expected = if error.int8 <= limit { KvPrecision::Int8 } else { KvPrecision::F16 };
            assert_eq!(*precision, expected, "{variant}: {error:?}");
        }
    }
}

#[test]
fn large_key_biases_get_a_cache_that_holds_them() {
    for (bias, expected) in
        [(0.5, KvPrecision::Int8), (128.0, KvPrecision::F16), (98_304.0, KvPrecision::F32)]
    {
        let folder = folder("tiny-llama/qwen2");
        edit(folder.path(), "k_proj.bias", 3, bias);
        let (_out, archive) = packed(folder.path(), Preset::Int8);
        assert_eq!(slots(&archive), [expected; 2], "key biases of {bias}");
    }
}

#[test]
fn every_int8_layer_has_the_threshold_of_llm_int8_the_head_included() {
    let thresholds = |archive: &Archive| -> Vec<_> {
        layers(archive).into_iter().map(|(_, _, threshold)| threshold).collect()
    };
    for variant in ["tiny-gpt2/fp32", "tiny-llama/llama"] {
        let folder = folder(variant);
        assert_eq!(thresholds(&packed(folder.path(), Preset::Int8).1), [Some(6.0); 9], "{variant}");
        let mut without_head = [Some(6.0); 9];
        without_head[8] = None;
        assert_eq!(thresholds(&packed(folder.path(), Preset::BnbInt8).1), without_head, "{variant}");
        assert_eq!(thresholds(&packed(folder.path(), Preset::F32).1), [None; 9], "{variant}");
    }
    // The checkpoint's own, for layers that it has no codes of as well.
    let folder = folder("tiny-llama/llama-int8");
    let path = folder.path().join("config.json");
    let config = std::fs::read_to_string(&path).expect("config");
    for (threshold, expected) in [("6.0", Some(6.0)), ("3.5", Some(3.5)), ("0.0", None)] {
        let from = "\"llm_int8_threshold\": 6.0";
        assert!(config.contains(from));
        let to = format!("\"llm_int8_threshold\": {threshold}");
        std::fs::write(&path, config.replace(from, &to)).expect("config");
        let (_out, archive) = packed(folder.path(), Preset::Int8);
        assert_eq!(thresholds(&archive), [expected; 9], "{threshold}");
    }
}

/// A model packed from floats, and bitsandbytes' own checkpoint of it.
#[test]
fn exact_gives_equal_logits_for_equal_codes() {
    let golden = [Golden::load("tiny-gpt2").ids("input_ids"), Golden::load("tiny-llama").ids("llama.prompt")];
    let sources = [("tiny-gpt2/fp32", "tiny-gpt2/int8"), ("tiny-llama/llama", "tiny-llama/llama-int8")];
    for ((floats, codes), ids) in sources.into_iter().zip(golden) {
        for preset in [Preset::BnbInt8, Preset::Int8] {
            let bits = |variant: &str| -> Vec<u32> {
                let (_out, archive) = packed(folder(variant).path(), preset);
                let model = Model::load(&archive).expect("model");
                all_logits(&model, Profile::Exact, &ids).into_iter().map(f32::to_bits).collect()
            };
            assert!(bits(floats) == bits(codes), "{floats} and {codes} as {preset}");
        }
    }
}

#[test]
fn what_is_not_int8_needs_no_measurement() {
    let folder = folder("tiny-llama/llama");
    for preset in [Preset::F32, Preset::Nf4] {
        let (_out, archive) = packed(folder.path(), preset);
        assert!(archive.entry(entry_names::MEASURED).is_err(), "{preset}");
    }
    // One layer is enough.
    let overrides = vec![Override { pattern: "layers.1.mlp.down_proj".into(), scheme: Scheme::Int8 }];
    let options = PackOptions { preset: Some(Preset::F32), overrides, ..PackOptions::default() };
    let (_out, archive) = packed_with(folder.path(), options);
    let entry = archive.entry(entry_names::MEASURED).expect("a measurement");
    let measured = Measured::from_json(entry.data).expect("a measurement").errors;
    let weights: Vec<_> = measured.layers.iter().map(|layer| layer.weight.as_str()).collect();
    assert_eq!(weights, ["model.layers.1.mlp.down_proj.weight"]);
    assert_eq!(measured.slots, []);
}

/// A GPT-2 folder with each inner neuron `times` times, at a share of its weight: the same function.
fn widened(folder: &Path, times: usize) {
    let path = folder.join("model.safetensors");
    let file = std::fs::read(&path).expect("weights");
    let tensors = SafeTensors::deserialize(&file).expect("safetensors");
    let mut wide = BTreeMap::new();
    for (name, tensor) in tensors.iter() {
        let (mut shape, mut data) = (tensor.shape().to_vec(), tensor.data().to_vec());
        if name.contains("mlp.c_fc") {
            let row = 4 * shape.last().expect("a dimension");
            data = data.chunks_exact(row).flat_map(|row| row.repeat(times)).collect();
            *shape.last_mut().expect("a dimension") *= times;
        } else if name.ends_with("mlp.c_proj.weight") {
            for value in data.as_chunks_mut().0 {
                *value = (f32::from_le_bytes(*value) / times as f32).to_le_bytes();
            }
            data = data.repeat(times);
            shape[0] *= times;
        }
        wide.insert(name.to_owned(), (shape, data));
    }
    let views = wide.iter().map(|(name, (shape, data))| {
        (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), data).expect("a tensor"))
    });
    let out = safetensors::serialize(views, None).expect("safetensors");
    std::fs::write(path, out).expect("weights");
    let path = folder.join("config.json");
    let config = std::fs::read_to_string(&path).expect("config.json");
    let n_inner = format!("\"n_inner\": {}", 256 * times);
    std::fs::write(path, config.replace("\"n_inner\": null", &n_inner)).expect("config.json");
}

#[test]
fn rows_too_long_for_a_zero_point_never_get_one() {
    let source = folder("tiny-gpt2/fp32");
    widened(source.path(), 128);
    let (_out, archive) = packed(source.path(), Preset::Int8);
    let entry = archive.entry(entry_names::MEASURED).expect("a measurement");
    let Measured { errors, .. } = Measured::from_json(entry.data).expect("a measurement");
    let long: Vec<_> = errors.layers.iter().filter(|layer| layer.weight.contains("mlp.c_proj")).collect();
    assert_eq!(long.len(), 2);
    for layer in long {
        assert_eq!(layer.int8_asym, layer.int8, "{}: 32,768 inputs", layer.weight);
    }
    // The codes are those of the narrow model, each so many times, so the logits are the same but for rounding.
    let (_narrow_out, narrow) = packed(folder("tiny-gpt2/fp32").path(), Preset::Int8);
    let ids = Golden::load("tiny-gpt2").ids("input_ids");
    let [wide, narrow] = [&archive, &narrow]
        .map(|archive| all_logits(&Model::load(archive).expect("model"), Profile::Precise, &ids));
    let difference = wide.iter().zip(&narrow).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= 5e-3, "largest difference {difference}");

    let source = ModelSource::open(source.path()).expect("a model");
    let options = PackOptions {
        preset: Some(Preset::Int8),
        activations: BTreeMap::from([(Place::Gate, ActivationPrecision::Int8Asym)]),
        ..PackOptions::default()
    };
    let out = tempfile::tempdir().expect("temporary folder");
    let error = pack(&source, &out.path().join("model.aibit"), &options, &()).expect_err("too long");
    let text = format!("{error:?} {error}");
    assert!(text.contains("32767") && text.contains("mlp.c_proj"), "{text}");
}
