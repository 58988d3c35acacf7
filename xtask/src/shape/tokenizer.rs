//! The small model's tokenizer, grown to any size.

use std::collections::HashSet;
use std::fs;

use anyhow::Context;
use serde_json::{Value, json};

use super::normal::{STEP, mix};
use crate::root;

/// `tokenizer.json` with `vocabulary` tokens: the small model's merges, then seeded merges of its longer pieces; the end of text
/// is the last token.
pub(super) fn grown(vocabulary: usize) -> anyhow::Result<Vec<u8>> {
    let json = fs::read(root().join("fixtures/aibit-small-gpt2/tokenizer.json"))?;
    let mut tokenizer: Value = serde_json::from_slice(&json)?;
    let end_of_text = vocabulary - 1;
    let model = tokenizer["model"].as_object_mut().context("model")?;
    let vocab = model.get_mut("vocab").and_then(Value::as_object_mut).context("vocab")?;
    vocab.remove("<|endoftext|>");
    let mut pieces: Vec<String> = vocab.keys().cloned().collect();
    pieces.sort_unstable();
    let letters = |piece: &String| {
        piece.len() > 1 && piece.trim_start_matches('Ġ').bytes().all(|b| b.is_ascii_lowercase())
    };
    let heads: Vec<_> = pieces.iter().filter(|piece| letters(piece)).cloned().collect();
    let tails: Vec<_> = heads.iter().filter(|piece| !piece.starts_with('Ġ')).cloned().collect();
    let mut known: HashSet<String> = pieces.into_iter().collect();
    let mut merges = Vec::new();
    let mut numbers = (0_u64..).map(|index| mix(index.wrapping_mul(STEP).wrapping_add(7)));
    let mut choose = |from: &[String]| {
        let number = numbers.next().unwrap_or_default();
        from[(number % from.len() as u64) as usize].clone()
    };
    let mut id = vocab.len();
    while id < end_of_text {
        let (head, tail) = (choose(&heads), choose(&tails));
        let merged = format!("{head}{tail}");
        if known.insert(merged.clone()) {
            vocab.insert(merged, id.into());
            merges.push(json!([head, tail]));
            id += 1;
        }
    }
    vocab.insert("<|endoftext|>".into(), end_of_text.into());
    model.get_mut("merges").and_then(Value::as_array_mut).context("merges")?.extend(merges);
    for token in tokenizer["added_tokens"].as_array_mut().context("added_tokens")? {
        token["id"] = end_of_text.into();
    }
    Ok(serde_json::to_vec(&tokenizer)?)
}
