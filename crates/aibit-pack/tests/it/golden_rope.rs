//! RoPE scaling against transformers: `fixtures/golden/rope`.

use std::fs;

use aibit_cpu::Model;
use aibit_format::Archive;
use aibit_pack::{ModelSource, PackOptions, Preset, pack};
use aibit_runtime::{Profile, Session};
use serde::Deserialize;
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::support::{Golden, all_logits, fixture, gathered, largest_difference};

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

    /// The package, and what the packer says of it.
    fn packed(&self) -> (TempDir, Archive, Vec<String>) {
        let folder = gathered(&[&format!("tiny-llama/{}", self.base), "tiny-gpt2/tokenizer"]);
        let path = folder.path().join("config.json");
        let mut config: Map<String, Value> =
            serde_json::from_slice(&fs::read(&path).expect("a configuration")).expect("JSON");
        config.remove("rope_parameters").expect("settings of the base");
        config.extend(self.config.clone());
        fs::write(&path, serde_json::to_vec(&config).expect("JSON")).expect("written");
        let out = tempfile::tempdir().expect("temporary folder");
        let target = out.path().join("model.aibit");
        let source = ModelSource::open(folder.path()).expect("a model");
        let options = PackOptions { preset: Some(Preset::F32), ..PackOptions::default() };
        let report = pack(&source, &target, &options, &()).expect("packed");
        let archive = Archive::open(&target).expect("opened");
        (out, archive, report.notes)
    }
}

#[test]
fn scaled_frequencies_give_the_logits_of_transformers() {
    let golden = Golden::load("rope");
    let ids = golden.ids("ids");
    for case in Case::all() {
        let (_out, archive, _) = case.packed();
        let model = Model::load(&archive).expect("model");
        let found = all_logits(&model, Profile::Fast, &ids[..case.length]);
        let width = model.graph().vocabulary;
        let rows: Vec<f32> =
            case.positions.iter().flat_map(|row| &found[row * width..][..width]).copied().collect();
        let difference = largest_difference(&rows, &golden.f32s(&case.name));
        assert!(difference <= 1e-4, "{}: largest difference {difference}", case.name);
    }
}

/// Beyond its original context dynamic scaling depends on the length of the sequence, as a sliding window on what is out
/// of sight: the context ends there, and the packer and the error say why.
#[test]
fn a_context_that_ends_early_says_why() {
    let fields = |config: &str| serde_json::from_str(config).expect("JSON");
    for (base, config, context, why, note) in [
        (
            "llama",
            r#"{"rope_scaling": {"type": "dynamic", "factor": 4.0}}"#,
            128,
            "dynamic RoPE scaling",
            "dynamic",
        ),
        ("mistral", r#"{"sliding_window": 40}"#, 40, "sliding window", "sliding window of 40"),
        (
            "qwen2",
            r#"{"use_sliding_window": true, "sliding_window": 24, "max_window_layers": 1, "layer_types": null}"#,
            24,
            "sliding window",
            "sliding window of 24",
        ),
    ] {
        let case = Case {
            name: base.into(),
            base: base.into(),
            config: fields(config),
            length: context,
            positions: Vec::new(),
        };
        let (_out, archive, notes) = case.packed();
        assert!(notes.iter().any(|line| line.contains(note)), "{notes:?}");
        let model = Model::load(&archive).expect("model");
        assert_eq!(model.graph().context, context);
        let ids = vec![5; context + 1];
        let error = |capacity| {
            let mut session = Session::new(&model, Profile::Fast, capacity).expect("memory");
            session.append(&ids).expect_err("one too many").to_string()
        };
        assert!(error(usize::MAX).contains(why), "{}", error(usize::MAX));
        // A smaller room was asked for.
        assert!(!error(16).contains(why), "{}", error(16));
    }
    let (_out, _archive, notes) = Case::named("yarn").packed();
    assert!(!notes.iter().any(|line| line.contains("context")), "{notes:?}");
}

/// The reserved context selects LongRoPE's table; the number of tokens and how a prompt is cut do not.
#[test]
fn the_reserved_context_decides_between_two_tables() {
    let golden = Golden::load("rope");
    let ids = golden.ids("ids");
    let case = Case::named("longrope");
    let (_out, archive, _) = case.packed();
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
