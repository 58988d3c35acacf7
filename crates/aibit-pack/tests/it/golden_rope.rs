//! RoPE scaling against transformers: `fixtures/golden/rope`.

use std::fs;

use aibit_format::Archive;
use aibit_pack::Preset;
use aibit_runtime::{Model, Profile, Session};
use serde::Deserialize;
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::support::{Golden, all_logits, fixture, gathered, largest_difference, packed};

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// A folder of `tiny-llama`.
    base: String,
    /// What takes the place of `rope_parameters` in its configuration.
    config: Map<String, Value>,
    length: usize,
    /// Rows of the logits that are kept.
    positions: Vec<usize>,
}

impl Case {
    fn all() -> Vec<Self> {
        let json = fs::read(fixture("golden/rope/cases.json")).expect("golden file");
        serde_json::from_slice::<File>(&json).expect("cases").cases
    }

    fn named(name: &str) -> Self {
        Self::all().into_iter().find(|case| case.name == name).expect("a case of that name")
    }

    fn packed(&self) -> (TempDir, Archive) {
        let folder = gathered(&[&format!("tiny-llama/{}", self.base), "tiny-gpt2/tokenizer"]);
        let path = folder.path().join("config.json");
        let mut config: Map<String, Value> =
            serde_json::from_slice(&fs::read(&path).expect("a configuration")).expect("JSON");
        config.remove("rope_parameters").expect("settings of the base");
        config.extend(self.config.clone());
        fs::write(&path, serde_json::to_vec(&config).expect("JSON")).expect("written");
        packed(folder.path(), Preset::F32)
    }
}

#[test]
fn scaled_frequencies_give_the_logits_of_transformers() {
    let golden = Golden::load("rope");
    let ids = golden.ids("ids");
    for case in Case::all() {
        let (_out, archive) = case.packed();
        let model = Model::load(&archive).expect("model");
        let found = all_logits(&model, Profile::Fast, &ids[..case.length]);
        let width = model.graph().vocabulary;
        let rows: Vec<f32> =
            case.positions.iter().flat_map(|row| &found[row * width..][..width]).copied().collect();
        let difference = largest_difference(&rows, &golden.f32s(&case.name));
        assert!(difference <= 1e-4, "{}: largest difference {difference}", case.name);
    }
}

/// Which table of LongRoPE counts follows from the room that is reserved: not from how many tokens there are, nor how
/// they come.
#[test]
fn the_reserved_context_decides_between_two_tables() {
    let golden = Golden::load("rope");
    let ids = golden.ids("ids");
    let case = Case::named("longrope");
    let (_out, archive) = case.packed();
    let model = Model::load(&archive).expect("model");
    let logits = |capacity: usize, pieces: &[usize]| {
        let mut session = Session::new(&model, Profile::Fast, capacity).expect("memory");
        let (mut all, mut rest) = (Vec::new(), &ids[..pieces.iter().sum()]);
        for piece in pieces {
            let (ids, behind) = rest.split_at(*piece);
            session
                .append_all(ids, |_, logits| all.extend(logits.iter().map(|x| x.to_bits())))
                .expect("logits");
            rest = behind;
        }
        all
    };
    let short = logits(32, &[32]);
    let long = logits(33, &[32]);
    assert_ne!(short, long);
    assert_eq!(short, logits(32, &[1, 2, 29]));
    for capacity in [33, 64, 128, usize::MAX] {
        assert_eq!(long, logits(capacity, &[32]), "{capacity}");
        assert_eq!(long, logits(capacity, &[5, 1, 26]), "{capacity}");
    }
    // The rows of the first 32 tokens are those of a longer sequence.
    let whole = logits(112, &[30, 1, 1, 40, 40]);
    assert_eq!(long, whole[..long.len()]);
}
