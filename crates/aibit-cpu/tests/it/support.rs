use std::path::PathBuf;

use aibit_cpu::Model;
use aibit_format::{Archive, entry_names};
use aibit_graph::{Graph, KvPrecision};

/// A package of four layers with grouped queries, norms of queries and keys, and a head of its own.
pub(crate) fn archive() -> Archive {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/tiny-llama/qwen3.aibit");
    Archive::open(&path).expect("the committed package")
}

pub(crate) fn graph(archive: &Archive) -> Graph {
    Graph::from_json(archive.entry(entry_names::GRAPH).expect("a graph").data).expect("a valid graph")
}

/// The package's model with keys and values kept in `precision`.
pub(crate) fn model(archive: &Archive, precision: KvPrecision) -> Model {
    let mut graph = graph(archive);
    graph.kv_slots.iter_mut().for_each(|slot| slot.precision = precision);
    Model::new(graph, archive.weights().clone(), archive.manifest()).expect("a model")
}

/// Tokens that follow from `seed` (SplitMix64).
pub(crate) fn tokens(seed: u64, count: usize, vocabulary: usize) -> Vec<u32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % vocabulary as u64) as u32
    };
    std::iter::repeat_with(next).take(count).collect()
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
