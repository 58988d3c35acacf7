//! From logits to text without a model, and token by token with one.

use std::ops::ControlFlow;

use aibit_runtime::logits_processors::History;
use aibit_runtime::sampler::SamplerError;
use aibit_runtime::{
    ChooseToken, Decoder, GenerateOptions, Piece, Pieces, Profile, Session, StopReason, Tokenizer, generate,
};

use crate::foreign_model::{archive, loaded};

/// Chooses these ids, whatever the logits are.
struct Scripted(Vec<u32>);

impl ChooseToken for Scripted {
    fn choose(&mut self, logits: &mut [f32], history: &History<'_>) -> Result<u32, SamplerError> {
        logits.fill(0.0); // a sampler may change them
        Ok(self.0[history.ids.len() - history.prompt])
    }
}

fn scripted<'t>(tokenizer: &'t Tokenizer, ids: &[u32], options: &GenerateOptions) -> Decoder<'t> {
    Decoder::with_sampler(tokenizer, &[5, 6], options, Box::new(Scripted(ids.to_vec()))).expect("options")
}

#[test]
fn a_sampler_of_ones_own_and_log_probabilities_before_it() {
    let (_, tokenizer) = loaded(&archive());
    let ids = tokenizer.encode("Once upon a time, there").expect("ids");
    let options = GenerateOptions { logprobs: true, ..GenerateOptions::default() };
    let mut decoder = scripted(&tokenizer, &ids, &options);
    let mut text = String::new();
    for id in &ids {
        let logits: Vec<f32> = (0..512).map(|i| ((i * 37 + id) % 101) as f32 / 9.0).collect();
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let want = (f64::from(logits[*id as usize]) - sum.ln()) as f32;
        let piece = decoder.push(&mut logits.clone()).expect("a choice").expect("a piece");
        assert_eq!(piece.id, *id);
        let logprob = piece.logprob.expect("asked for");
        assert!((logprob - want).abs() < 1e-5, "{logprob} for {want}");
        text.push_str(&piece.text);
    }
    text.push_str(&decoder.finish());
    assert_eq!((text.as_str(), decoder.generated()), ("Once upon a time, there", &ids[..]));
    assert_eq!(decoder.stopped(), None);
}

#[test]
fn what_stops_a_decoder() {
    let (_, tokenizer) = loaded(&archive());
    let ids = tokenizer.encode("one two three four").expect("ids");
    let stopped = |options: GenerateOptions| {
        let mut decoder = scripted(&tokenizer, &ids, &options);
        let mut text = String::new();
        for _ in &ids {
            match decoder.push(&mut [0.0; 512]).expect("a choice") {
                Some(Piece { text: more, logprob, .. }) => {
                    assert_eq!(logprob, None);
                    text.push_str(&more);
                }
                None => break,
            }
        }
        text.push_str(&decoder.finish());
        (text, decoder.stopped(), decoder.generated().len())
    };
    let options = GenerateOptions::default;
    let (text, reason, count) = stopped(GenerateOptions { max_tokens: Some(2), ..options() });
    assert_eq!((reason, count), (Some(StopReason::Length), 2));
    assert!("one two three four".starts_with(&text), "{text}");
    let (_, reason, count) = stopped(GenerateOptions { max_tokens: Some(0), ..options() });
    assert_eq!((reason, count), (Some(StopReason::Length), 0));
    let (_, reason, count) = stopped(GenerateOptions { stop_ids: vec![ids[3]], ..options() });
    assert_eq!(
        (reason, count),
        (Some(StopReason::StopId), ids.iter().position(|id| *id == ids[3]).expect("one"))
    );
    let (text, reason, _) = stopped(GenerateOptions { stop_strings: vec![" three".into()], ..options() });
    assert_eq!((text.as_str(), reason), ("one two", Some(StopReason::StopString)));
}

#[test]
fn pieces_are_the_generation() {
    let (model, tokenizer) = loaded(&archive());
    let prompt = tokenizer.encode_prompt("Once upon a time").expect("ids");
    let options = GenerateOptions { max_tokens: Some(12), ..GenerateOptions::default() };
    let session = || Session::new(&model, Profile::Fast, 64).expect("memory");
    let mut on_text = |_: &str| ControlFlow::Continue(());
    let whole =
        generate(&mut session(), &tokenizer, &prompt, &options, &mut on_text).expect("a continuation");

    let mut session = session();
    let decoder = Decoder::new(&tokenizer, &prompt, &options).expect("options");
    let mut pieces = Pieces::new(&mut session, decoder, &prompt).expect("a prompt");
    let found: Vec<Piece> = pieces.by_ref().collect::<Result<_, _>>().expect("pieces");
    let rest = pieces.decoder().finish();
    assert_eq!(found.iter().map(|piece| piece.id).collect::<Vec<_>>(), whole.ids);
    let text: String = found.into_iter().map(|piece| piece.text).chain([rest]).collect();
    assert_eq!((text, pieces.decoder().stopped()), (whole.text, Some(whole.stop_reason)));
}
