//! Ragged batches, forks and pages: every sequence has the bits that it has alone.

use aibit_cpu::{Context, Isa, Model, Threads};
use aibit_graph::KvPrecision;
use aibit_runtime::{Batch, Executor, PAGE, Profile, Run, RuntimeError, SequenceId, Sequences, Session};

use crate::support::{archive, bits, model, tokens};

const PRECISIONS: [KvPrecision; 3] = [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8];

/// The logits after each token of `ids`, one sequence, one pass.
fn alone(model: &Model, profile: Profile, ids: &[u32]) -> Vec<Vec<u32>> {
    let mut session = Session::new(model, profile, ids.len()).expect("memory");
    let mut rows = Vec::new();
    let vocabulary = model.graph().vocabulary;
    session
        .append_all(ids, |_, logits| rows.extend(logits.chunks_exact(vocabulary).map(bits)))
        .expect("logits");
    rows
}

/// Appends some tokens to some sequences in one pass, and returns the logits after each of them.
fn pass(sequences: &mut dyn Sequences, parts: &[(SequenceId, &[u32])]) -> Vec<Vec<Vec<u32>>> {
    let all: Vec<u32> = parts.iter().flat_map(|(_, tokens)| tokens.iter().copied()).collect();
    let runs: Vec<Run> =
        parts.iter().map(|(sequence, tokens)| Run { sequence: *sequence, len: tokens.len() }).collect();
    sequences.forward(&Batch { tokens: &all, runs: &runs }).expect("a pass");
    let mut start = 0;
    let mut logits = Vec::new();
    for (_, tokens) in parts {
        let rows: Vec<usize> = (start..start + tokens.len()).collect();
        start += tokens.len();
        let mut found = Vec::new();
        for rows in rows.chunks(sequences.logits_per_call()) {
            let logits = sequences.logits(rows).expect("logits");
            found.extend(logits.chunks_exact(logits.len() / rows.len()).map(bits));
        }
        logits.push(found);
    }
    logits
}

/// Three rounds over five sequences: prompts beside single tokens, sequences that wait, one that crosses pages.
#[test]
fn a_ragged_batch_has_the_bits_of_each_sequence_alone() {
    let archive = archive();
    let lengths = [[70, 1, 1], [1, 1, 30], [0, 64, 1], [63, 2, 0], [5, 1, 60]];
    for precision in PRECISIONS {
        let scalar = model(&archive, precision).with_isa(Isa::SCALAR);
        for profile in Profile::ALL {
            let ids: Vec<Vec<u32>> = (0..5)
                .map(|i| tokens(i as u64, lengths[i].iter().sum(), scalar.graph().vocabulary))
                .collect();
            // Profile exact finds its outliers over a whole call, so its reference has the same calls.
            let want: Vec<Vec<Vec<u32>>> = ids
                .iter()
                .zip(&lengths)
                .map(|(ids, lengths)| match profile {
                    Profile::Fast | Profile::Precise => alone(&scalar, profile, ids),
                    Profile::Exact => in_calls(&scalar, profile, ids, lengths),
                })
                .collect();
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let model = scalar.with_context(Context { isa, threads: Threads::team(threads) });
                    let mut sequences = model.sequences(profile, 20).expect("memory");
                    let named: Vec<SequenceId> = ids.iter().map(|ids| sequences.start(ids.len())).collect();
                    let mut done = [0; 5];
                    for round in 0..3 {
                        let parts: Vec<(SequenceId, &[u32])> = (0..5)
                            .map(|i| (named[i], &ids[i][done[i]..done[i] + lengths[i][round]]))
                            .collect();
                        let found = pass(&mut *sequences, &parts);
                        for i in 0..5 {
                            let end = done[i] + lengths[i][round];
                            assert!(
                                found[i] == want[i][done[i]..end],
                                "{precision}, {profile}, {isa}, {threads} threads: sequence {i}, tokens {}..{end}",
                                done[i]
                            );
                            done[i] = end;
                        }
                    }
                }
            }
        }
    }
}

fn in_calls(model: &Model, profile: Profile, ids: &[u32], calls: &[usize]) -> Vec<Vec<u32>> {
    let mut session = Session::new(model, profile, ids.len()).expect("memory");
    let vocabulary = model.graph().vocabulary;
    let (mut rows, mut start) = (Vec::new(), 0);
    for &call in calls.iter().filter(|call| **call > 0) {
        session
            .append_all(&ids[start..start + call], |_, logits| {
                rows.extend(logits.chunks_exact(vocabulary).map(bits));
            })
            .expect("logits");
        start += call;
    }
    rows
}

#[test]
fn forks_share_a_prompt_and_go_on_by_themselves() {
    let archive = archive();
    for precision in PRECISIONS {
        let model = model(&archive, precision);
        let vocabulary = model.graph().vocabulary;
        let prompt = tokens(1, PAGE + 20, vocabulary);
        let mut sequences = model.sequences(Profile::Fast, 100).expect("memory");
        let first = sequences.start(2 * PAGE);
        pass(&mut *sequences, &[(first, &prompt)]);
        let used = sequences.pages().used;
        assert_eq!(used, 2);
        // Four go on from the whole prompt and one from the middle of its first page, all in one batch.
        let forks: Vec<(SequenceId, usize)> = [PAGE + 20, PAGE + 20, PAGE + 20, 30]
            .into_iter()
            .map(|len| (sequences.fork(first, len), len))
            .chain([(first, PAGE + 20)])
            .collect();
        assert_eq!(sequences.pages().used, used, "a fork takes no pages");
        let continuations: Vec<Vec<u32>> = (0..5).map(|i| tokens(10 + i, 3, vocabulary)).collect();
        let parts: Vec<(SequenceId, &[u32])> =
            forks.iter().zip(&continuations).map(|((id, _), tokens)| (*id, &tokens[..])).collect();
        let found = pass(&mut *sequences, &parts);
        for (((_, len), continuation), found) in forks.iter().zip(&continuations).zip(found) {
            let ids = [&prompt[..*len], continuation].concat();
            assert!(found == alone(&model, Profile::Fast, &ids)[*len..], "{precision}, after {len}");
        }
        // The first page is shared by four, the second has four copies, and one fork has copied the first.
        assert_eq!(sequences.pages().used, 1 + 4 + 1);
        for (id, _) in forks {
            sequences.end(id);
        }
        assert_eq!(sequences.pages().used, 0);
    }
}

#[test]
fn a_truncated_sequence_goes_on_as_if_the_rest_had_never_been() {
    let archive = archive();
    for precision in PRECISIONS {
        let model = model(&archive, precision);
        let ids = tokens(3, 2 * PAGE, model.graph().vocabulary);
        for profile in [Profile::Fast, Profile::Precise] {
            for len in [0, 1, 40, PAGE, PAGE + 7] {
                let mut session = Session::new(&model, profile, 2 * PAGE).expect("memory");
                session.append(&tokens(4, 2 * PAGE, model.graph().vocabulary)).expect("logits");
                session.truncate(0);
                session.append(&ids[..PAGE + 30]).expect("logits");
                session.truncate(len);
                let found = bits(session.append(&ids[len..PAGE + 40]).expect("logits"));
                let want = &alone(&model, profile, &ids[..PAGE + 40])[PAGE + 39];
                assert!(found == *want, "{precision}, {profile}, truncated to {len}");
            }
        }
    }
}

/// Four sequences on four threads, two of them on one team and two on another.
#[test]
fn sessions_that_run_at_once_have_the_bits_of_each_alone() {
    let model = model(&archive(), KvPrecision::Int8);
    let vocabulary = model.graph().vocabulary;
    let want: Vec<Vec<Vec<u32>>> =
        (0..4).map(|seed| alone(&model, Profile::Fast, &tokens(seed, 80, vocabulary))).collect();
    let models = [2, 3].map(|threads| model.with_threads(Threads::team(threads)));
    std::thread::scope(|scope| {
        for (seed, want) in (0..4).zip(&want) {
            let model = &models[seed % 2];
            scope.spawn(move || {
                let ids = tokens(seed as u64, 80, vocabulary);
                let mut session = Session::new(model, Profile::Fast, 80).expect("memory");
                let first = bits(session.append(&ids[..40]).expect("logits"));
                assert!(first == want[39], "sequence {seed}");
                for (position, id) in (40..).zip(&ids[40..]) {
                    let logits = bits(session.append(&[*id]).expect("logits"));
                    assert!(logits == want[position], "sequence {seed}, position {position}");
                }
            });
        }
    });
}

#[test]
fn a_refused_batch_changes_nothing() {
    let model = model(&archive(), KvPrecision::F16);
    let ids = tokens(5, 40, model.graph().vocabulary);
    let mut sequences = model.sequences(Profile::Fast, 2).expect("memory");
    let (first, second, third) = (sequences.start(PAGE), sequences.start(50), sequences.start(PAGE));
    pass(&mut *sequences, &[(first, &ids[..30]), (second, &ids)]);
    let mut refused = |parts: &[(SequenceId, &[u32])]| {
        let all: Vec<u32> = parts.iter().flat_map(|(_, tokens)| tokens.iter().copied()).collect();
        let runs: Vec<Run> =
            parts.iter().map(|(sequence, tokens)| Run { sequence: *sequence, len: tokens.len() }).collect();
        let refused = sequences.forward(&Batch { tokens: &all, runs: &runs });
        assert_eq!([first, second, third].map(|id| sequences.len(id)), [30, 40, 0]);
        refused.expect_err("refused")
    };
    let e = refused(&[(first, &ids[..2]), (second, &ids[..11])]);
    assert!(matches!(e, RuntimeError::ContextFull { tokens: 11, used: 40, context: 50, .. }), "{e}");
    let e = refused(&[(first, &ids[..2]), (third, &ids[..1])]);
    assert!(matches!(e, RuntimeError::PagesExhausted { pages: 2 }), "{e}");
    let e = refused(&[(first, &ids[..2]), (second, &[u32::MAX])]);
    assert!(matches!(e, RuntimeError::TokenId { id: u32::MAX, .. }), "{e}");
    // What was reserved for the refused batches is no obstacle.
    let found = pass(&mut *sequences, &[(first, &ids[30..]), (second, &ids[..10])]);
    assert!(found[0] == alone(&model, Profile::Fast, &ids)[30..]);
}

#[test]
fn sixteen_continuations_of_a_prompt_take_its_memory_once() {
    let model = model(&archive(), KvPrecision::Int8);
    let prompt = tokens(6, 512.min(model.graph().context - 16), model.graph().vocabulary);
    let mut sequences = model.sequences(Profile::Fast, 1000).expect("memory");
    let first = sequences.start(prompt.len() + 16);
    pass(&mut *sequences, &[(first, &prompt)]);
    let of_prompt = sequences.pages().used;
    let forks: Vec<SequenceId> = (0..16).map(|_| sequences.fork(first, prompt.len())).collect();
    let parts: Vec<(SequenceId, &[u32])> = forks.iter().map(|id| (*id, &prompt[..10])).collect();
    pass(&mut *sequences, &parts);
    // Each has at most the page that it writes, copied or new.
    assert_eq!(sequences.pages().used, of_prompt + 16);
}
