//! Packing as a whole: the same bytes on one thread and on two, progress that adds up, golden outputs in one pass.

use std::sync::Mutex;

use aibit_cpu::{Model, Threads};
use aibit_format::Archive;
use aibit_pack::{ModelSource, PackOptions, Preset, Progress, pack};
use aibit_runtime::{Golden, Profile, Tokenizer};

use crate::support::{fixture, gathered, greedy, packed};

#[test]
fn a_package_is_the_same_bytes_on_one_thread_and_on_two() {
    // GPT-2 stores matrices the other way round; the Llama's layers are joined of several tensors.
    let llama = gathered(&["tiny-llama/llama", "tiny-gpt2/tokenizer"]);
    for folder in [fixture("aibit-small-gpt2"), llama.path().to_owned()] {
        let source = ModelSource::open(&folder).expect("a model");
        let out = tempfile::tempdir().expect("temporary folder");
        for preset in [Preset::Int8, Preset::Nf4Dq] {
            let bytes = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
                let target = out.path().join("model.aibit");
                let threads = Threads::team(threads);
                let options = PackOptions { preset: Some(preset), threads, ..PackOptions::default() };
                pool.install(|| pack(&source, &target, &options, &())).expect("packed");
                std::fs::read(&target).expect("archive")
            };
            assert!(bytes(1) == bytes(2), "{}, {preset}", folder.display());
        }
    }
}

/// Every call, in order.
#[derive(Default)]
struct Calls(Mutex<Vec<Call>>);

#[derive(Debug, PartialEq)]
enum Call {
    Start(u64),
    Advance(u64),
    Finish,
}

impl Progress for Calls {
    fn start(&self, _what: &str, bytes: u64) {
        self.0.lock().expect("calls").push(Call::Start(bytes));
    }
    fn advance(&self, bytes: u64) {
        self.0.lock().expect("calls").push(Call::Advance(bytes));
    }
    fn finish(&self) {
        self.0.lock().expect("calls").push(Call::Finish);
    }
}

#[test]
fn progress_is_one_piece_of_work_whose_steps_add_up_to_its_total() {
    let source = ModelSource::open(fixture("aibit-small-gpt2")).expect("a model");
    let out = tempfile::tempdir().expect("temporary folder");
    let calls = Calls::default();
    pack(&source, &out.path().join("model.aibit"), &PackOptions::default(), &calls).expect("packed");
    let calls = calls.0.into_inner().expect("calls");
    let [Call::Start(total), steps @ .., Call::Finish] = calls.as_slice() else {
        panic!("begins with {:?}, ends with {:?}", calls.first(), calls.last());
    };
    let bytes = steps.iter().map(|step| match step {
        Call::Advance(bytes) => *bytes,
        other => panic!("{other:?} in the middle"),
    });
    assert_eq!(bytes.sum::<u64>(), *total);
}

#[test]
fn golden_outputs_are_what_generation_gives() {
    let (_out, archive) = packed(&fixture("aibit-small-gpt2"), Preset::Int8);
    let golden = Golden::from_json(archive.entry("golden.json").expect("entry").data).expect("golden");
    let (model, tokenizer) =
        (Model::load(&archive).expect("model"), Tokenizer::load(&archive).expect("tokenizer"));
    assert_eq!(golden.runs.len(), 4);
    for run in &golden.runs {
        assert_eq!(run.greedy_ids, greedy(&model, &tokenizer, Profile::Fast, &run.prompt_ids, 16));
    }
    check_replay(&golden, &archive, true);
}

#[test]
fn a_shorter_record_is_replayed_as_far_as_it_goes_and_still_compared() {
    let (_out, archive) = packed(&fixture("aibit-small-gpt2"), Preset::Int8);
    let mut golden = Golden::from_json(archive.entry("golden.json").expect("entry").data).expect("golden");
    golden.runs.truncate(1);
    golden.runs[0].greedy_ids.truncate(3);
    check_replay(&golden, &archive, true);
    golden.runs[0].greedy_ids[2] ^= 1;
    check_replay(&golden, &archive, false);
}

fn check_replay(golden: &Golden, archive: &Archive, expected: bool) {
    let (model, tokenizer) =
        (Model::load(archive).expect("model"), Tokenizer::load(archive).expect("tokenizer"));
    let json = archive.entry("tokenizer.json").expect("entry").data;
    let checks = golden.replay(&model, &tokenizer, json).expect("replayed");
    assert_eq!(checks.iter().all(|check| check.ok), expected, "{checks:?}");
}
