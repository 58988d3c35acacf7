//! Packed models against transformers and bitsandbytes: `fixtures/golden/tiny-gpt2` (random weights, logits of
//! every pipeline) and `fixtures/aibit-small-gpt2` (trained). Tolerances are those of the golden README.

use std::path::Path;

use aibit_cpu::Model;
use aibit_families::Family;
use aibit_format::{Archive, Dtype, Scheme, entry_names};
use aibit_graph::ops::{Linear, Logits};
use aibit_graph::{ActivationPrecision, Graph, KvPrecision, Op};
use aibit_kernels::{Isa, Threads};
use aibit_pack::Preset;
use aibit_runtime::{Profile, Session, Tokenizer};
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::support::{Golden, all_logits, fixture, gathered, greedy, largest_difference, packed};

/// The tiny model's files, which lie apart, in one folder.
fn tiny(weights: &str) -> TempDir {
    gathered(&[&format!("tiny-gpt2/{weights}"), "tiny-gpt2/tokenizer"])
}

#[test]
fn tiny_f32_gives_the_logits_and_ids_of_transformers() {
    let (folder, golden) = (tiny("fp32"), Golden::load("tiny-gpt2"));
    let (_out, archive) = packed(folder.path(), Preset::F32);
    let (model, tokenizer) =
        (Model::load(&archive).expect("model"), Tokenizer::load(&archive).expect("tokenizer"));
    let prompt = golden.ids("input_ids");
    assert_eq!(tokenizer.encode("Row by row, the largest value").expect("encoded"), prompt);
    let difference =
        largest_difference(&all_logits(&model, Profile::Fast, &prompt), &golden.f64s("logits.fp32_in_f64"));
    assert!(difference <= 1e-4, "largest difference {difference}");
    assert_eq!(greedy(&model, &tokenizer, Profile::Fast, &prompt, 32), golden.ids("generated.fp32"));
}

#[test]
fn tiny_bnb_int8_in_exact_gives_the_logits_and_ids_of_bitsandbytes() {
    let (folder, golden) = (tiny("fp32"), Golden::load("tiny-gpt2"));
    let (_out, archive) = packed(folder.path(), Preset::BnbInt8);
    let (model, tokenizer) =
        (Model::load(&archive).expect("model"), Tokenizer::load(&archive).expect("tokenizer"));
    let prompt = golden.ids("input_ids");
    let difference =
        largest_difference(&all_logits(&model, Profile::Exact, &prompt), &golden.f32s("logits.int8"));
    assert!(difference <= 1e-2, "largest difference {difference}");
    // The smallest distance between the two best logits is 0.05 there, five times the tolerance.
    assert_eq!(greedy(&model, &tokenizer, Profile::Exact, &prompt, 32), golden.ids("generated.int8"));
}

#[test]
fn tiny_bnb_int8_without_outliers_gives_the_logits_of_threshold_zero() {
    let (folder, golden) = (tiny("fp32"), Golden::load("tiny-gpt2"));
    let (_out, archive) = packed(folder.path(), Preset::BnbInt8);
    let tokenizer = Tokenizer::load(&archive).expect("tokenizer");
    let mut graph = graph(&archive);
    for node in &mut graph.nodes {
        if let Op::Linear(Linear { outlier_threshold, .. }) | Op::Logits(Logits { outlier_threshold, .. }) =
            node
        {
            *outlier_threshold = None;
        }
    }
    let model = Model::new(graph, archive.weights().clone(), archive.manifest()).expect("model");
    let prompt = golden.ids("input_ids");
    let difference =
        largest_difference(&all_logits(&model, Profile::Exact, &prompt), &golden.f32s("logits.int8_t0"));
    assert!(difference <= 1e-2, "largest difference {difference}");
    assert_eq!(greedy(&model, &tokenizer, Profile::Exact, &prompt, 32), golden.ids("generated.int8_t0"));
}

fn graph(archive: &Archive) -> Graph {
    Graph::from_json(archive.entry(entry_names::GRAPH).expect("graph").data).expect("graph")
}

/// Weights in F32 are multiplied alike in every profile, so what differs is the cache.
#[test]
fn the_preset_sets_the_precision_of_the_cache_and_profiles_follow_it() {
    let (folder, ids) = (tiny("fp32"), Golden::load("tiny-gpt2").ids("input_ids"));
    for (preset, precision) in [
        (Preset::Int8, KvPrecision::Int8),
        (Preset::BnbInt8, KvPrecision::F32),
        (Preset::F16, KvPrecision::F16),
        (Preset::F32, KvPrecision::F32),
    ] {
        let (_out, archive) = packed(folder.path(), preset);
        assert!(graph(&archive).kv_slots.iter().all(|slot| slot.precision == precision), "{preset}");
    }
    let (_out, archive) = packed(folder.path(), Preset::F32);
    let logits = |precision: KvPrecision, profile: Profile| {
        let mut graph = graph(&archive);
        graph.kv_slots.iter_mut().for_each(|slot| slot.precision = precision);
        let model = Model::new(graph, archive.weights().clone(), archive.manifest()).expect("model");
        let bits: Vec<u32> = all_logits(&model, profile, &ids).iter().map(|logit| logit.to_bits()).collect();
        bits
    };
    let of = |precision| logits(precision, Profile::Fast);
    let [f32, f16, int8] = [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8].map(of);
    assert!(f32 != f16 && f16 != int8 && int8 != f32);
    assert_eq!(logits(KvPrecision::F32, Profile::Precise), f32);
    assert_eq!(logits(KvPrecision::F16, Profile::Precise), f16);
    assert_eq!(logits(KvPrecision::Int8, Profile::Precise), f16);
    for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
        assert_eq!(logits(precision, Profile::Exact), f32);
    }
}

#[test]
fn the_stored_graph_is_fused_and_gives_the_bits_of_the_plain_one() {
    let (folder, golden) = (tiny("fp32"), Golden::load("tiny-gpt2"));
    let prompt = golden.ids("input_ids");
    for preset in [Preset::Int8, Preset::BnbInt8, Preset::F32] {
        let (_out, archive) = packed(folder.path(), preset);
        let config = archive.entry(entry_names::CONFIG).expect("config").data;
        let mut plain = Family::Gpt2.describe(config).expect("config").graph;
        let stored = Model::load(&archive).expect("model");
        assert!(stored.graph().nodes.len() < plain.nodes.len());
        plain.kv_slots.clone_from(&stored.graph().kv_slots);
        for op in &mut plain.nodes {
            let (Op::Linear(Linear { weight, activations, outlier_threshold, .. })
            | Op::Logits(Logits { weight, activations, outlier_threshold, .. })) = op
            else {
                continue;
            };
            (*activations, *outlier_threshold) = precisions(stored.graph(), weight);
        }
        let plain = Model::new(plain, archive.weights().clone(), archive.manifest()).expect("model");
        for profile in Profile::ALL {
            let bits =
                |model| all_logits(model, profile, &prompt).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(&stored), bits(&plain), "{preset:?} in {profile}");
        }
    }
}

fn precisions(graph: &Graph, of: &str) -> (ActivationPrecision, Option<f32>) {
    let of_layer = |op: &Op| match op {
        Op::Linear(Linear { weight, activations, outlier_threshold, .. })
        | Op::Logits(Logits { weight, activations, outlier_threshold, .. })
            if weight == of =>
        {
            Some((*activations, *outlier_threshold))
        }
        _ => None,
    };
    graph.nodes.iter().find_map(of_layer).expect("a layer with this weight")
}

#[test]
fn packed_codes_are_those_that_bitsandbytes_saved() {
    let folder = tiny("fp32");
    let (_out, archive) = packed(folder.path(), Preset::BnbInt8);
    let saved = std::fs::read(fixture("golden/tiny-gpt2/int8/model.safetensors")).expect("golden file");
    let saved = SafeTensors::deserialize(&saved).expect("golden file");
    let mut compared = 0;
    for (name, tensor) in saved.tensors() {
        if name.ends_with(".weight_format") {
            continue; // says row-major, which an archive always is
        }
        let ours = archive.weights().get(&name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(ours.info.shape, tensor.shape(), "{name}");
        assert_eq!(ours.data, tensor.data(), "{name}");
        compared += 1;
    }
    assert_eq!(compared, archive.weights().index().tensors().len());
}

/// The checkpoints that bitsandbytes saved, taken over as they are: its own logits, and its own ids.
#[test]
fn quantized_checkpoints_give_the_logits_and_ids_of_their_maker() {
    let golden = Golden::load("tiny-gpt2");
    let prompt = golden.ids("input_ids");
    let check = |folder: &Path, profile: Profile, name: &str, tolerance: f64| {
        let (_out, archive) = packed(folder, None);
        let (model, tokenizer) =
            (Model::load(&archive).expect("model"), Tokenizer::load(&archive).expect("tokenizer"));
        let logits = all_logits(&model, profile, &prompt);
        let difference = largest_difference(&logits, &golden.f32s(&format!("logits.{name}")));
        assert!(difference <= tolerance, "{name}: largest difference {difference}");
        let ids = greedy(&model, &tokenizer, profile, &prompt, 32);
        assert_eq!(ids, golden.ids(&format!("generated.{name}")), "{name}");
    };
    check(tiny("int8").path(), Profile::Exact, "int8", 1e-2);
    for name in ["nf4", "nf4-dq"] {
        for profile in Profile::ALL {
            check(tiny(name).path(), profile, &name.replace('-', "_"), 1e-4);
        }
    }
    // `torch.save(model.state_dict())` beside the configuration of the same model.
    let folder = tiny("int8");
    std::fs::remove_file(folder.path().join("model.safetensors")).expect("removed");
    let saved = folder.path().join("int8.pt");
    std::fs::copy(fixture("golden/tiny-gpt2/int8_state_dict.pt"), &saved).expect("copy");
    check(folder.path(), Profile::Exact, "int8", 1e-2);
    check(&saved, Profile::Exact, "int8", 1e-2);
    // The same codes with everything else in fp16: embeddings rounded so move activations across code boundaries, but not
    // further than INT8 itself moved the logits (0.158, says the golden README).
    let (_out, whole) = packed(&saved, None);
    std::fs::copy(fixture("golden/tiny-gpt2/int8_fp16_state_dict.pt"), &saved).expect("copy");
    let (_other_out, half) = packed(&saved, None);
    for info in whole.weights().index().tensors().iter().filter(|info| info.dtype == Dtype::I8) {
        let [whole, half] =
            [&whole, &half].map(|archive| archive.weights().get(&info.name).expect("codes").data);
        assert!(whole == half, "{}", info.name);
    }
    assert_eq!(half.manifest().tensors["transformer.wte.weight"].scheme, Scheme::F16);
    check(&saved, Profile::Exact, "int8", 0.158);
}

#[test]
fn a_threshold_of_zero_is_taken_from_the_checkpoint() {
    let (folder, golden) = (tiny("int8"), Golden::load("tiny-gpt2"));
    let path = folder.path().join("config.json");
    let config = std::fs::read_to_string(&path).expect("config");
    assert!(config.contains("\"llm_int8_threshold\": 6.0"));
    let config = config.replace("\"llm_int8_threshold\": 6.0", "\"llm_int8_threshold\": 0.0");
    std::fs::write(&path, config).expect("config");
    let (_out, archive) = packed(folder.path(), None);
    let model = Model::load(&archive).expect("model");
    let logits = all_logits(&model, Profile::Exact, &golden.ids("input_ids"));
    assert!(largest_difference(&logits, &golden.f32s("logits.int8_t0")) <= 1e-2);
}

/// Everything that bitsandbytes stores of a weight lies in the archive byte for byte, under its own name where it has one.
#[test]
fn quantized_checkpoints_are_taken_over_byte_for_byte() {
    // 8 layers of so many tensors; 8 biases, 10 tensors of norms and 2 embeddings.
    for (name, parts) in [("nf4", 2), ("nf4-dq", 4)] {
        let (_out, archive) = packed(tiny(name).path(), None);
        let saved =
            std::fs::read(fixture(&format!("golden/tiny-gpt2/{name}/model.safetensors"))).expect("file");
        let saved = SafeTensors::deserialize(&saved).expect("golden file");
        let mut compared = 0;
        for (name, tensor) in saved.tensors() {
            if name.ends_with(".quant_map") || name.contains(".quant_state.") {
                continue; // what the scheme says of every tensor, and the offset, which is compared by the logits
            }
            let ours = archive.weights().get(&name).unwrap_or_else(|| panic!("no tensor {name}"));
            assert_eq!(ours.data, tensor.data(), "{name}");
            compared += 1;
        }
        assert_eq!(compared, 8 * parts + 20, "{name}");
    }
}

/// What bitsandbytes made of the same weights.
#[test]
fn packed_four_bit_codes_are_those_that_bitsandbytes_saved() {
    for (preset, name) in [(Preset::Nf4, "nf4"), (Preset::Nf4Dq, "nf4-dq")] {
        let (_out, archive) = packed(tiny("fp32").path(), preset);
        let saved =
            std::fs::read(fixture(&format!("golden/tiny-gpt2/{name}/model.safetensors"))).expect("file");
        let saved = SafeTensors::deserialize(&saved).expect("golden file");
        let mut compared = 0;
        for (tensor_name, tensor) in saved.tensors().into_iter().filter(|(name, _)| name.ends_with(".weight"))
        {
            let ours =
                archive.weights().get(&tensor_name).unwrap_or_else(|| panic!("no tensor {tensor_name}"));
            assert_eq!(ours.data, tensor.data(), "{name}: {tensor_name}");
            compared += 1;
        }
        assert_eq!(compared, 8 + 2 + 5, "{name}");
    }
}

#[test]
fn the_tiny_tokenizer_encodes_and_decodes_as_its_reference() {
    let json = std::fs::read(fixture("golden/tiny-gpt2/tokenizer/tokenizer.json")).expect("tokenizer");
    let cases = std::fs::read(fixture("golden/tiny-gpt2/tokenizer/tokenizer_cases.json")).expect("cases");
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&cases).expect("cases");
    let tokenizer = Tokenizer::from_json(&json).expect("tokenizer");
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(tokenizer.encode(text).expect("encoded"), ids, "{text:?}");
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.bytes(id)).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), case["decoded"].as_str().expect("decoded"), "{text:?}");
    }
}

#[test]
fn logits_are_bit_equal_for_any_chunking_thread_count_and_instruction_set() {
    let (_out, archive) = packed(&fixture("aibit-small-gpt2"), Preset::Int8);
    let tokenizer = Tokenizer::load(&archive).expect("tokenizer");
    let text = std::fs::read_to_string(fixture("aibit-small-gpt2/README.md")).expect("text");
    let ids = &tokenizer.encode(&text).expect("encoded")[..150];
    let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let load = || Model::load(&archive).expect("model");
    let expected = bits(&all_logits(&load(), Profile::Fast, ids));

    let model = load();
    for split in [1, 2, 7, 64, 149] {
        let mut session = Session::new(&model, Profile::Fast, 512).expect("memory");
        let mut found = Vec::new();
        for chunk in ids.chunks(split) {
            session.append_all(chunk, |_, logits| found.extend(bits(logits))).expect("logits");
        }
        assert!(found == expected, "in chunks of {split}");
    }
    for threads in [2, 3] {
        let found = bits(&all_logits(&model.with_threads(Threads::team(threads)), Profile::Fast, ids));
        assert!(found == expected, "with {threads} threads");
    }
    for isa in Isa::available() {
        // The scalar specification is slow: fewer tokens say as much.
        let ids = if isa == Isa::SCALAR { &ids[..20] } else { ids };
        let found = bits(&all_logits(&load().with_isa(isa), Profile::Fast, ids));
        assert!(found == expected[..found.len()], "on {}", isa.name());
    }
}

#[test]
fn small_f32_continues_as_transformers_does() {
    let (_out, archive) = packed(&fixture("aibit-small-gpt2"), Preset::F32);
    let (model, tokenizer) =
        (Model::load(&archive).expect("model"), Tokenizer::load(&archive).expect("tokenizer"));
    let expected = std::fs::read(fixture("aibit-small-gpt2/expected.json")).expect("expected.json");
    let expected: serde_json::Value = serde_json::from_slice(&expected).expect("expected.json");
    let cases = expected["greedy"].as_array().expect("cases");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case[key].clone()).expect("ids");
        let prompt = tokenizer.encode(case["prompt"].as_str().expect("prompt")).expect("encoded");
        assert_eq!(prompt, ids("prompt_ids"));
        assert_eq!(greedy(&model, &tokenizer, Profile::Fast, &prompt, 48), ids("continuation_ids"));
        let mut session = Session::new(&model, Profile::Fast, 512).expect("memory");
        let logits = session.append(&prompt).expect("logits");
        let top: Vec<(usize, f64)> =
            serde_json::from_value(case["first_step_top5"].clone()).expect("top five");
        for (id, logit) in top {
            assert!(
                (f64::from(logits[id]) - logit).abs() < 1e-4,
                "logit {id} is {}, not {logit}",
                logits[id]
            );
        }
    }
}
