//! How well a model predicts a text, and how far two models' predictions are apart.

use rayon::prelude::*;
use serde::Serialize;

use crate::{Executor, Profile, RuntimeError, Session};

/// Windows over a text.
#[derive(Debug, Clone, Copy)]
pub struct PerplexityOptions {
    /// Tokens per window; `None`: the model's context.
    pub window: Option<usize>,
    /// Tokens from the start of one window to the next; `None`: a whole window.
    pub stride: Option<usize>,
    /// Which tokens of a window are scored.
    pub scored: Scored,
    /// The token that takes the place of each window's first; `None`: the text's own.
    pub first_token: Option<u32>,
    /// How integer products are computed.
    pub profile: Profile,
}

/// Which tokens of a window are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scored {
    /// Each that no window before it has scored, but the first of the window.
    All,
    /// Those from `window / 2 + 1` on, in whole windows that do not overlap, as llama.cpp's `llama-perplexity` does:
    /// each has at least half a window before it.
    SecondHalf,
}

/// The perplexity of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexity {
    /// `exp(mean_nll)`.
    pub perplexity: f64,
    /// Mean negative log-likelihood of the scored tokens, in nats.
    pub mean_nll: f64,
    /// Tokens of the text.
    pub tokens: usize,
    /// Tokens that were predicted.
    pub scored_tokens: usize,
    /// Tokens per window.
    pub window: usize,
    /// Tokens from one window to the next.
    pub stride: usize,
    /// Comparison with the base model, where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Divergence>,
}

/// How far a model's next-token distributions are from a base model's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// Perplexity of the base model.
    pub perplexity: f64,
    /// Mean Kullback-Leibler divergence `KL(base || model)` per scored token, in nats.
    pub mean_kl: f64,
    /// Share of scored tokens for which both models find the same id most likely.
    pub top1_agreement: f64,
}

/// Computes the perplexity of `ids` under `model`, and how far it is from `base` if one is given.
///
/// The text is cut into windows of `window` tokens, each computed on its own, starting every `stride` tokens.
/// A token is scored in the first window that predicts it; the first token of a window is never scored there.
/// With the defaults windows do not overlap. With [`Scored::SecondHalf`] less is scored, and what follows the last whole
/// window is left out. `progress` is called with the number of tokens done.
///
/// # Errors
/// [`RuntimeError::TextTooShort`], [`RuntimeError::Window`], [`RuntimeError::SecondHalf`], [`RuntimeError::TokenId`], and
/// [`RuntimeError::NotComparable`] for a base of another vocabulary or a shorter context.
pub fn perplexity(
    model: &dyn Executor,
    base: Option<&dyn Executor>,
    ids: &[u32],
    options: &PerplexityOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Perplexity, RuntimeError> {
    let context = model.limits().context;
    let window = options.window.unwrap_or(context);
    let stride = options.stride.unwrap_or(window);
    if !(2..=context).contains(&window) || !(1..=window).contains(&stride) {
        return Err(RuntimeError::Window { window, stride, context });
    }
    if ids.len() < 2 {
        return Err(RuntimeError::TextTooShort { tokens: ids.len() });
    }
    let second_half = options.scored == Scored::SecondHalf;
    if second_half && (window < 3 || stride != window || ids.len() < window) {
        return Err(RuntimeError::SecondHalf { window, stride, tokens: ids.len() });
    }
    let vocabulary = model.limits().vocabulary;
    if let Some(base) = base {
        let (theirs, theirs_context) = (base.limits().vocabulary, base.limits().context);
        if theirs != vocabulary || theirs_context < window {
            return Err(RuntimeError::NotComparable(format!(
                "the model has {vocabulary} token ids and windows of {window}, the base {theirs} and a context of \
                 {theirs_context}"
            )));
        }
    }
    let mut session = Session::new(model, options.profile, window)?;
    let mut base_session = base.map(|base| Session::new(base, options.profile, window)).transpose()?;

    // The model's rows of one window, kept until the base's are there.
    let (mut kept, mut kept_log_sums) = (Vec::new(), Vec::new());
    if base.is_some() {
        let elements = window.min(ids.len()).checked_mul(vocabulary);
        let bytes = elements.and_then(|elements| elements.checked_mul(size_of::<f32>()));
        let refused = RuntimeError::Memory { what: "the logits of a window", bytes };
        elements.and_then(|elements| kept.try_reserve_exact(elements).ok()).ok_or(refused)?;
    }

    let (mut nll, mut base_nll, mut kl) = (0.0_f64, 0.0_f64, 0.0_f64);
    let (mut scored, mut agreements, mut scored_to) = (0_usize, 0_usize, 0_usize);
    for start in (0..ids.len()).step_by(stride) {
        let end = (start + window).min(ids.len());
        if second_half && end - start < window {
            break;
        }
        let mut tokens = ids[start..end].to_vec();
        if let Some(first) = options.first_token {
            tokens[0] = first; // which nothing predicts
        }
        let tokens = &tokens;
        // Row r predicts token start + r + 1.
        let first_row = if second_half { window / 2 } else { scored_to.saturating_sub(start + 1) };
        let wanted = |row: usize| row >= first_row && row + 1 < tokens.len();
        kept.clear();
        kept_log_sums.clear();
        session.truncate(0);
        session.append_all(tokens, |first, logits| {
            for (row, logits, log_sum) in log_sums(first, logits, vocabulary, &wanted) {
                nll += log_sum - f64::from(logits[tokens[row + 1] as usize]);
                scored += 1;
                if base.is_some() {
                    kept.extend_from_slice(logits);
                    kept_log_sums.push(log_sum);
                }
            }
        })?;
        if let Some(base_session) = &mut base_session {
            let mut rows = kept.chunks_exact(vocabulary).zip(&kept_log_sums);
            base_session.truncate(0);
            base_session.append_all(tokens, |first, logits| {
                for (row, base, log_sum) in log_sums(first, logits, vocabulary, &wanted) {
                    let (model, model_log_sum) = rows.next().expect("both models score the same rows");
                    base_nll += log_sum - f64::from(base[tokens[row + 1] as usize]);
                    kl += divergence(base, log_sum, model, *model_log_sum);
                    agreements += usize::from(argmax(base) == argmax(model));
                }
            })?;
        }
        scored_to = end;
        progress(end);
        if end == ids.len() {
            break;
        }
    }
    let mean = |sum: f64| sum / scored as f64;
    Ok(Perplexity {
        perplexity: mean(nll).exp(),
        mean_nll: mean(nll),
        tokens: ids.len(),
        scored_tokens: scored,
        window,
        stride,
        base: base.map(|_| Divergence {
            perplexity: mean(base_nll).exp(),
            mean_kl: mean(kl),
            top1_agreement: mean(agreements as f64),
        }),
    })
}

/// The wanted rows among those that start at row `first`, each with its number and its [`log_sum_exp`].
fn log_sums<'l>(
    first: usize,
    logits: &'l [f32],
    vocabulary: usize,
    wanted: &(impl Fn(usize) -> bool + Sync),
) -> Vec<(usize, &'l [f32], f64)> {
    logits
        .par_chunks_exact(vocabulary)
        .enumerate()
        .map(|(row, logits)| (first + row, logits))
        .filter(|(row, _)| wanted(*row))
        .map(|(row, logits)| (row, logits, log_sum_exp(logits)))
        .collect()
}

/// `ln Σ exp(x)`, terms in f32, their sum in f64.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// `Σ p (ln p - ln q)` with `p` the softmax of `base` and `q` that of `model`.
fn divergence(base: &[f32], base_log_sum: f64, model: &[f32], model_log_sum: f64) -> f64 {
    base.iter()
        .zip(model)
        .map(|(&b, &m)| {
            let log_p = f64::from(b) - base_log_sum;
            log_p.exp() * (log_p - (f64::from(m) - model_log_sum))
        })
        .sum()
}

fn argmax(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_hand_worked_distributions() {
        let p = [1.0_f32.ln(), 3.0_f32.ln()]; // 1/4, 3/4
        let q = [0.0_f32, 0.0]; // 1/2, 1/2
        let expected = 0.25 * (0.5_f64).ln() + 0.75 * (1.5_f64).ln();
        let got = divergence(&p, log_sum_exp(&p), &q, log_sum_exp(&q));
        assert!((got - expected).abs() < 1e-7, "{got} against {expected}");
        assert_eq!(divergence(&q, log_sum_exp(&q), &q, log_sum_exp(&q)), 0.0);
    }
}
