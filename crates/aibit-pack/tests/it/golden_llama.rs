//! Packed models of the Llama family against transformers and bitsandbytes: `fixtures/golden/tiny-llama`.

use aibit_cpu::Model;
use aibit_format::{Archive, Override, Scheme, entry_names};
use aibit_graph::{Graph, Op};
use aibit_pack::{ModelSource, PackOptions, Preset, pack};
use aibit_runtime::{Profile, Tokenizer};
use tempfile::TempDir;

use crate::support::{Golden, all_logits, gathered, greedy, largest_difference, packed};

const VARIANTS: [&str; 8] =
    ["llama", "llama-mha", "llama3", "llama-linear", "mistral", "qwen2", "qwen3", "qwen3-mha"];

fn folder(variant: &str) -> TempDir {
    gathered(&[&format!("tiny-llama/{variant}"), "tiny-gpt2/tokenizer"])
}

fn loaded(archive: &Archive) -> (Model, Tokenizer) {
    (Model::load(archive).expect("model"), Tokenizer::load(archive).expect("tokenizer"))
}

/// The prompt with what transformers continues it by: the logits are of all positions.
fn sequence(golden: &Golden, variant: &str) -> Vec<u32> {
    [golden.ids(&format!("{variant}.prompt")), golden.ids(&format!("{variant}.generated"))].concat()
}

#[test]
fn f32_gives_the_logits_and_ids_of_transformers() {
    let golden = Golden::load("tiny-llama");
    for variant in VARIANTS {
        let (_out, archive) = packed(folder(variant).path(), Preset::F32);
        let (model, tokenizer) = loaded(&archive);
        let ids = sequence(&golden, variant);
        let difference = largest_difference(
            &all_logits(&model, Profile::Fast, &ids),
            &golden.f32s(&format!("{variant}.logits")),
        );
        assert!(difference <= 1e-4, "{variant}: largest difference {difference}");
        let prompt = golden.ids(&format!("{variant}.prompt"));
        let generated = greedy(&model, &tokenizer, Profile::Fast, &prompt, 16);
        assert_eq!(generated, golden.ids(&format!("{variant}.generated")), "{variant}");
    }
}

#[test]
fn checkpoints_of_bitsandbytes_give_its_logits() {
    let golden = Golden::load("tiny-llama");
    let prompt = golden.ids("llama.prompt");
    for (variant, profile, tolerance) in
        [("llama-int8", Profile::Exact, 1e-2), ("llama-nf4-dq", Profile::Fast, 1e-4)]
    {
        let (_out, archive) = packed(folder(variant).path(), None);
        let (model, _) = loaded(&archive);
        let difference = largest_difference(
            &all_logits(&model, profile, &prompt),
            &golden.f32s(&format!("{variant}.logits")),
        );
        assert!(difference <= tolerance, "{variant}: largest difference {difference}");
    }
}

/// Layers that are stored in different ways stay apart, and the results are the bits of the joined ones.
#[test]
fn joined_layers_give_the_bits_of_separate_ones() {
    let golden = Golden::load("tiny-llama");
    for variant in ["llama-mha", "qwen2", "qwen3"] {
        let folder = folder(variant);
        let (_out, joined) = packed(folder.path(), Preset::F32);
        let out = tempfile::tempdir().expect("temporary folder");
        let target = out.path().join("model.aibit");
        // The checkpoint's weights are BF16, so each has the values that it has as F32.
        let overrides = ["k_proj.weight", "up_proj.weight"]
            .map(|pattern| Override { pattern: pattern.into(), scheme: Scheme::Bf16 });
        let options = PackOptions {
            preset: Some(Preset::F32),
            overrides: overrides.to_vec(),
            ..PackOptions::default()
        };
        let source = ModelSource::open(folder.path()).expect("a model");
        pack(&source, &target, &options, &()).expect("packed");
        let apart = Archive::open(&target).expect("opened");
        let concats = |archive: &Archive| {
            let graph =
                Graph::from_json(archive.entry(entry_names::GRAPH).expect("graph").data).expect("graph");
            graph.nodes.iter().filter(|op| matches!(op, Op::Concat(_))).count()
        };
        assert_eq!((concats(&joined), concats(&apart)), (0, 4), "{variant}");
        let ids = sequence(&golden, variant);
        let bits = |archive: &Archive| -> Vec<u32> {
            all_logits(&loaded(archive).0, Profile::Fast, &ids).into_iter().map(f32::to_bits).collect()
        };
        assert_eq!(bits(&joined), bits(&apart), "{variant}");
    }
}

/// The cache holds what one pass over all tokens computes.
#[test]
fn a_prompt_in_pieces_gives_the_bits_of_one_pass() {
    let golden = Golden::load("tiny-llama");
    for variant in ["llama3", "qwen3"] {
        let (_out, archive) = packed(folder(variant).path(), Preset::Int8);
        let (model, _) = loaded(&archive);
        let ids = sequence(&golden, variant);
        let whole = all_logits(&model, Profile::Fast, &ids);
        let mut session = aibit_runtime::Session::new(&model, Profile::Fast, ids.len()).expect("memory");
        let mut pieces = Vec::new();
        for piece in ids.chunks(7) {
            session.append_all(piece, |_, logits| pieces.extend_from_slice(logits)).expect("logits");
        }
        assert_eq!(whole, pieces, "{variant}");
    }
}
