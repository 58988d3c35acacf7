//! From logits to the next token id.
//!
//! The steps run in this order, which is that of transformers, each on what the one before left; every step can be
//! switched off. [`LogitsProcessors`] bias sequences before the first step and forbid tokens after the second:
//!
//! 1. **repeat penalty** (CTRL, Keskar et al. 2019, arXiv:1909.05858, §4.1): the logit of every token
//!    in the window is divided by the penalty if positive, multiplied if negative, once per token;
//! 2. **presence and frequency penalty** (OpenAI's definition):
//!    `logit - count * frequency - (count > 0) * presence`, `count` being occurrences in the window;
//! 3. **temperature**: logits are divided by it. At 0 the first largest logit wins and the rest is skipped;
//! 4. **top-k**: the `k` largest logits stay, of equal ones those with the lowest ids (temperature does
//!    not change their order);
//! 5. **top-p** (Holtzman et al. 2020, arXiv:1904.09751): of what is left, the smallest set of most
//!    probable tokens whose mass is at least `p`, and at least one;
//! 6. **min-p** (Nguyen et al. 2024, arXiv:2407.01082): tokens with `p_i >= min_p * p_max` stay;
//! 7. **typical-p** (Meister et al. 2022, arXiv:2202.00666): the smallest set of tokens whose information is closest
//!    to the entropy and whose mass is at least `p`;
//! 8. **epsilon cutoff** (Hewitt et al. 2022, arXiv:2210.15191): tokens of at least that probability stay;
//! 9. **eta cutoff** (the same paper): tokens of at least `min(eta, sqrt(eta) * exp(-entropy))` stay;
//! 10. **draw** from what is left, renormalized.
//!
//! The window of steps 1 and 2 is the last [`SamplerOptions::repeat_last_n`] tokens of the history.
//!
//! A seed gives the same tokens for the same logits on every platform: the generator is ChaCha8, the
//! exponential is computed in software, and candidates are drawn in an order fixed here.

use std::cmp::Ordering;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::logits_processors::{History, LogitsProcessors};

/// What a [`Sampler`] does. The fields' order is the order of the steps.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// Divides positive and multiplies negative logits of tokens in the window; 1 is off.
    pub repeat_penalty: f32,
    /// Length of the window that all three penalties see; 0 is off, `usize::MAX` the whole history.
    pub repeat_last_n: usize,
    /// Subtracted once from the logit of each token in the window; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted for each occurrence in the window; 0 is off.
    pub frequency_penalty: f32,
    /// Divides the logits: below 1 sharper, above 1 flatter, 0 greedy.
    pub temperature: f32,
    /// Number of tokens to choose from; 0 is off.
    pub top_k: usize,
    /// Probability mass to choose from, in `[0, 1]`; 1 is off, 0 leaves the most probable token.
    pub top_p: f32,
    /// Least probability, as a share of the largest, in `[0, 1]`; 0 is off.
    pub min_p: f32,
    /// Mass of the tokens of typical information, in `[0, 1]`; 1 is off.
    pub typical_p: f32,
    /// Least probability, in `[0, 1)`; 0 is off.
    pub epsilon_cutoff: f32,
    /// Least probability, lower where the entropy is high, in `[0, 1)`; 0 is off.
    pub eta_cutoff: f32,
    /// Seed of the generator.
    pub seed: u64,
}

impl SamplerOptions {
    /// Returns options that always take the most probable token and penalize nothing.
    pub fn greedy() -> Self {
        Self {
            repeat_penalty: 1.0,
            repeat_last_n: 0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
            seed: 0,
        }
    }

    /// Checks that every option lies in its range.
    ///
    /// # Errors
    /// [`SamplerError::Option`] names the first option that does not, with its value and the range.
    pub fn validate(&self) -> Result<(), SamplerError> {
        let check = |option, value: f32, range, holds: bool| {
            // No comparison holds for NaN, so NaN is outside every range.
            if holds { Ok(()) } else { Err(SamplerError::Option { option, value, range }) }
        };
        let finite = "a finite number";
        let Self { repeat_penalty, presence_penalty, frequency_penalty, temperature, top_p, min_p, .. } =
            *self;
        let Self { typical_p, epsilon_cutoff, eta_cutoff, .. } = *self;
        check(
            "repeat_penalty",
            repeat_penalty,
            "above 0 and finite",
            repeat_penalty > 0.0 && repeat_penalty.is_finite(),
        )?;
        check("presence_penalty", presence_penalty, finite, presence_penalty.is_finite())?;
        check("frequency_penalty", frequency_penalty, finite, frequency_penalty.is_finite())?;
        check(
            "temperature",
            temperature,
            "0 (greedy) or above and finite",
            temperature >= 0.0 && temperature.is_finite(),
        )?;
        check("top_p", top_p, "from 0 to 1 (off)", (0.0..=1.0).contains(&top_p))?;
        check("min_p", min_p, "from 0 (off) to 1", (0.0..=1.0).contains(&min_p))?;
        check("typical_p", typical_p, "from 0 to 1 (off)", (0.0..=1.0).contains(&typical_p))?;
        let below_1 = "from 0 (off) to below 1";
        check("epsilon_cutoff", epsilon_cutoff, below_1, (0.0..1.0).contains(&epsilon_cutoff))?;
        check("eta_cutoff", eta_cutoff, below_1, (0.0..1.0).contains(&eta_cutoff))
    }
}

/// Why no token was drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// An option is outside its range.
    #[error("sampler option `{option}` is {value}; it must be {range}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: f32,
        /// What it may be.
        range: &'static str,
    },
    /// There are no logits.
    #[error("no logits: the model's vocabulary is empty")]
    NoLogits,
    /// A logit is NaN or plus infinity.
    #[error(
        "the logit of token id {token} is {value} after the penalties; the model computed a value that \
         is not a number, or a penalty is too strong: run `aibit verify` on the archive"
    )]
    NotFinite {
        /// The token.
        token: u32,
        /// Its logit.
        value: f32,
    },
    /// Every logit is minus infinity.
    #[error("all {count} logits are minus infinity, so no token is possible")]
    NothingPossible {
        /// Number of logits.
        count: usize,
    },
    /// The history holds a token that the model does not have.
    #[error("the history holds token id {token}, the vocabulary has {vocabulary} tokens")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Number of logits.
        vocabulary: usize,
    },
}

/// Draws token ids; see the [module documentation](self) for the steps.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    processors: LogitsProcessors,
    generator: ChaCha8Rng,
    /// Kept between calls for their memory.
    candidates: Vec<Candidate>,
    /// How often each token is in the window: zeros, but for `seen`.
    counts: Vec<u32>,
    /// The tokens in the window, each once.
    seen: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    token: u32,
    logit: f32,
    /// Probability, up to a factor that all candidates share; the largest logit has 1.
    weight: f64,
}

impl Candidate {
    /// Largest logit first, of equal ones the lowest id: a total order, as no logit is NaN.
    fn rank(&self, other: &Self) -> Ordering {
        let by_logit = other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal);
        by_logit.then(self.token.cmp(&other.token))
    }
}

impl Sampler {
    /// Returns a sampler whose generator starts from `options.seed`.
    ///
    /// # Errors
    /// As [`SamplerOptions::validate`].
    pub fn new(options: SamplerOptions, processors: LogitsProcessors) -> Result<Self, SamplerError> {
        options.validate()?;
        let generator = ChaCha8Rng::seed_from_u64(options.seed);
        let (candidates, counts, seen) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { options, processors, generator, candidates, counts, seen })
    }

    /// Returns the options this sampler was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Returns the next token id.
    ///
    /// `logits` has one value per token id; minus infinity excludes a token. They are left with the penalties and
    /// the processors applied. Unless greedy, each call takes one number from the generator.
    ///
    /// # Errors
    /// [`SamplerError`] if there are no logits, one is NaN or plus infinity, all are minus infinity, or
    /// the history's window holds an id beyond the logits.
    pub fn sample(&mut self, logits: &mut [f32], history: &History<'_>) -> Result<u32, SamplerError> {
        self.processors.bias(logits, history);
        self.penalize(logits, history.ids)?;
        self.processors.restrict(logits, history);
        let (best, max) = largest(logits)?;
        if self.options.temperature == 0.0 {
            return Ok(best);
        }
        self.candidates.clear();
        let possible = (0..).zip(logits.iter()).filter(|&(_, &logit)| logit > f32::NEG_INFINITY);
        self.candidates.extend(possible.map(|(token, &logit)| Candidate { token, logit, weight: 0.0 }));
        if self.options.top_k > 0 && self.options.top_k < self.candidates.len() {
            self.sort_first(self.options.top_k);
            self.candidates.truncate(self.options.top_k);
        }
        self.weigh(max); // after top-k: the exponential of a whole vocabulary is slow
        if self.options.top_p < 1.0 {
            self.keep_nucleus();
        }
        // The largest weight is 1, so a weight is also the share of the largest probability.
        let min_p = f64::from(self.options.min_p);
        self.candidates.retain(|candidate| candidate.weight >= min_p);
        if self.options.typical_p < 1.0 {
            self.keep_typical();
        }
        let SamplerOptions { epsilon_cutoff, eta_cutoff, .. } = self.options;
        if epsilon_cutoff > 0.0 {
            self.keep_probable(|_| f64::from(epsilon_cutoff));
        }
        if eta_cutoff > 0.0 {
            let eta = f64::from(eta_cutoff);
            self.keep_probable(|entropy| eta.min(eta.sqrt() * libm::exp(-entropy)));
        }
        Ok(self.draw().unwrap_or(best))
    }

    fn penalize(&mut self, logits: &mut [f32], history: &[u32]) -> Result<(), SamplerError> {
        let SamplerOptions { repeat_penalty, presence_penalty, frequency_penalty, repeat_last_n, .. } =
            self.options;
        if repeat_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0 {
            return Ok(());
        }
        for token in self.seen.drain(..) {
            self.counts[token as usize] = 0;
        }
        let vocabulary = logits.len();
        self.counts.resize(vocabulary, 0);
        for &token in &history[history.len().saturating_sub(repeat_last_n)..] {
            let Some(count) = self.counts.get_mut(token as usize) else {
                return Err(SamplerError::UnknownToken { token, vocabulary });
            };
            if *count == 0 {
                self.seen.push(token);
            }
            *count += 1;
        }
        for &token in &self.seen {
            let (logit, count) = (&mut logits[token as usize], self.counts[token as usize]);
            if *logit > 0.0 {
                *logit /= repeat_penalty;
            } else {
                *logit *= repeat_penalty;
            }
            *logit -= count as f32 * frequency_penalty + presence_penalty;
        }
        Ok(())
    }

    /// Applies the temperature and the exponential of the softmax.
    fn weigh(&mut self, max: f32) {
        let temperature = f64::from(self.options.temperature);
        for candidate in &mut self.candidates {
            // Never above 0, so the exponential cannot overflow however small the temperature is.
            let scaled = (f64::from(candidate.logit) - f64::from(max)) / temperature;
            candidate.weight = libm::exp(scaled);
        }
    }

    /// Puts the first `count` candidates by rank in front, in order, without sorting the others.
    fn sort_first(&mut self, count: usize) {
        let count = count.min(self.candidates.len());
        if count < self.candidates.len() {
            self.candidates.select_nth_unstable_by(count, Candidate::rank);
        }
        self.candidates[..count].sort_unstable_by(Candidate::rank);
    }

    /// Keeps the smallest prefix by rank whose mass is at least `top_p`. The nucleus is small as a
    /// rule, so a short prefix is sorted first and a longer one only if that was too short.
    fn keep_nucleus(&mut self) {
        let total: f64 = self.candidates.iter().map(|candidate| candidate.weight).sum();
        let wanted = total * f64::from(self.options.top_p);
        let mut sorted = 0;
        while sorted < self.candidates.len() {
            sorted = (sorted * 8).max(256).min(self.candidates.len());
            self.sort_first(sorted);
            let mut mass = 0.0;
            let nucleus = self.candidates[..sorted].iter().position(|candidate| {
                mass += candidate.weight;
                mass >= wanted
            });
            if let Some(last) = nucleus {
                self.candidates.truncate(last + 1);
                return;
            }
        }
    }

    /// Returns the sum of the weights and the entropy of the probabilities, in nats.
    fn entropy(&self) -> (f64, f64) {
        let total: f64 = self.candidates.iter().map(|candidate| candidate.weight).sum();
        let terms = self.candidates.iter().map(|candidate| match candidate.weight / total {
            0.0 => 0.0, // the limit of p * ln p
            p => -p * libm::log(p),
        });
        (total, terms.sum())
    }

    /// Keeps the tokens whose information is closest to the entropy, up to a mass of `typical_p` and at least one.
    fn keep_typical(&mut self) {
        let (total, entropy) = self.entropy();
        let distance = |candidate: &Candidate| (-libm::log(candidate.weight / total) - entropy).abs();
        self.candidates.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.rank(b)));
        let wanted = total * f64::from(self.options.typical_p);
        let mut mass = 0.0;
        let last = self.candidates.iter().position(|candidate| {
            mass += candidate.weight;
            mass >= wanted
        });
        if let Some(last) = last {
            let limit = distance(&self.candidates[last]);
            let count = self.candidates.partition_point(|candidate| distance(candidate) <= limit);
            self.candidates.truncate(count);
        }
    }

    /// Keeps the tokens of at least the probability that `least` gives for the entropy, and the most probable ones.
    fn keep_probable(&mut self, least: impl FnOnce(f64) -> f64) {
        let (total, entropy) = self.entropy();
        let least = least(entropy) * total;
        let largest = self.candidates.iter().map(|candidate| candidate.weight).fold(0.0, f64::max);
        self.candidates.retain(|candidate| candidate.weight >= least.min(largest));
    }

    /// Returns nothing only if there is no candidate.
    fn draw(&mut self) -> Option<u32> {
        let total: f64 = self.candidates.iter().map(|candidate| candidate.weight).sum();
        let uniform = (self.generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64; // in [0, 1)
        let mut left = uniform * total;
        let mut drawn = None;
        for candidate in self.candidates.iter().filter(|candidate| candidate.weight > 0.0) {
            drawn = Some(candidate.token);
            if left < candidate.weight {
                break;
            }
            left -= candidate.weight; // rounding may leave a little after the last one, which then wins
        }
        drawn
    }
}

/// Returns the first largest logit and its token.
pub(crate) fn largest(logits: &[f32]) -> Result<(u32, f32), SamplerError> {
    let mut best = None;
    let mut max = f32::NEG_INFINITY;
    for (token, &value) in (0..).zip(logits) {
        if value.is_nan() || value == f32::INFINITY {
            return Err(SamplerError::NotFinite { token, value });
        }
        if value > max {
            (best, max) = (Some(token), value);
        }
    }
    match best {
        Some(token) => Ok((token, max)),
        None if logits.is_empty() => Err(SamplerError::NoLogits),
        None => Err(SamplerError::NothingPossible { count: logits.len() }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn none() -> LogitsProcessors {
        LogitsProcessors::default()
    }

    /// Options that draw from the plain softmax.
    fn plain() -> SamplerOptions {
        SamplerOptions { temperature: 1.0, ..SamplerOptions::greedy() }
    }

    /// Logits whose softmax is `probabilities`.
    fn logits_of(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    fn drawn(options: &SamplerOptions, logits: &[f32], history: &[u32], times: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(options.clone(), none()).unwrap();
        (0..times)
            .map(|_| sampler.sample(&mut logits.to_vec(), &History::of_prompt(history)).unwrap())
            .collect()
    }

    /// Draws often enough that a token of 1% is missed once in 10^43 runs; the seed is fixed anyway.
    fn support(options: &SamplerOptions, logits: &[f32]) -> Vec<u32> {
        let set: BTreeSet<u32> = drawn(options, logits, &[], 10_000).into_iter().collect();
        set.into_iter().collect()
    }

    #[track_caller]
    fn check_penalties(options: SamplerOptions, history: &[u32], want: &[f32]) {
        let mut logits = [2.0, -2.0, 1.0, 0.0];
        Sampler::new(options, none()).unwrap().sample(&mut logits, &History::of_prompt(history)).unwrap();
        assert_eq!(logits, want);
    }

    #[test]
    fn greedy_takes_the_first_largest() {
        let greedy = SamplerOptions::greedy();
        assert_eq!(drawn(&greedy, &[0.0, 3.0, 3.0, -1.0], &[], 1), [1]);
        assert_eq!(drawn(&greedy, &[-0.0, 0.0], &[], 1), [0]);
        assert_eq!(drawn(&greedy, &[f32::NEG_INFINITY, -1e30], &[], 1), [1]);
        assert_eq!(drawn(&greedy, &[5.0], &[], 1), [0]);
    }

    #[test]
    fn repeat_penalty_divides_positive_and_multiplies_negative_once() {
        let options =
            SamplerOptions { repeat_penalty: 2.0, repeat_last_n: usize::MAX, ..SamplerOptions::greedy() };
        check_penalties(options.clone(), &[0, 1, 1, 0, 3, 3], &[1.0, -4.0, 1.0, 0.0]);
        // The two last tokens only.
        let window = SamplerOptions { repeat_last_n: 2, ..options.clone() };
        check_penalties(window, &[0, 1, 2, 1], &[2.0, -4.0, 0.5, 0.0]);
        check_penalties(SamplerOptions { repeat_last_n: 0, ..options }, &[0, 1], &[2.0, -2.0, 1.0, 0.0]);
    }

    #[test]
    fn presence_and_frequency_penalties_are_subtracted_after_the_repeat_penalty() {
        let options = SamplerOptions {
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            repeat_last_n: usize::MAX,
            ..SamplerOptions::greedy()
        };
        check_penalties(options.clone(), &[0, 0, 0, 2], &[0.75, -2.0, 0.25, 0.0]);
        check_penalties(SamplerOptions { repeat_penalty: 2.0, ..options }, &[0], &[0.25, -2.0, 1.0, 0.0]);
    }

    #[test]
    fn penalties_change_the_greedy_choice() {
        let options = SamplerOptions { repeat_penalty: 2.0, repeat_last_n: 8, ..SamplerOptions::greedy() };
        assert_eq!(drawn(&options, &[3.0, 2.0], &[0], 1), [1]);
    }

    #[test]
    fn top_k_keeps_the_largest_and_breaks_ties_by_id() {
        let logits = logits_of(&[0.1, 0.2, 0.3, 0.2, 0.2]);
        let with = |top_k| SamplerOptions { top_k, ..plain() };
        assert_eq!(support(&with(1), &logits), [2]);
        assert_eq!(support(&with(2), &logits), [1, 2]);
        assert_eq!(support(&with(3), &logits), [1, 2, 3]);
        assert_eq!(support(&with(5), &logits), [0, 1, 2, 3, 4]);
        assert_eq!(support(&with(usize::MAX), &logits), [0, 1, 2, 3, 4]);
        assert_eq!(support(&with(0), &logits), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_of_that_mass() {
        let logits = logits_of(&[0.05, 0.5, 0.15, 0.3]);
        let with = |top_p| SamplerOptions { top_p, ..plain() };
        assert_eq!(support(&with(0.0), &logits), [1]);
        assert_eq!(support(&with(1e-6), &logits), [1]);
        assert_eq!(support(&with(0.49), &logits), [1]);
        assert_eq!(support(&with(0.51), &logits), [1, 3]);
        assert_eq!(support(&with(0.81), &logits), [1, 2, 3]);
        assert_eq!(support(&with(0.96), &logits), [0, 1, 2, 3]);
        // After top-k the mass is of what top-k left: 0.5 / 0.8 = 0.625.
        let both = SamplerOptions { top_k: 2, top_p: 0.62, ..plain() };
        assert_eq!(support(&both, &logits), [1]);
    }

    #[test]
    fn top_p_reaches_beyond_the_first_sorted_prefix() {
        // Equal logits: a mass of 0.75 is the first three quarters of the ids.
        let options = SamplerOptions { top_p: 0.75, ..plain() };
        let ids = drawn(&options, &vec![0.0; 4000], &[], 2000);
        assert!(ids.iter().all(|&id| id < 3000));
        assert!(ids.iter().any(|&id| id > 2900));
    }

    #[test]
    fn min_p_compares_with_the_largest() {
        let logits = logits_of(&[0.05, 0.5, 0.15, 0.3]);
        let with = |min_p| SamplerOptions { min_p, ..plain() };
        assert_eq!(support(&with(0.09), &logits), [0, 1, 2, 3]);
        assert_eq!(support(&with(0.11), &logits), [1, 2, 3]);
        assert_eq!(support(&with(0.31), &logits), [1, 3]);
        assert_eq!(support(&with(0.61), &logits), [1]);
        assert_eq!(support(&with(1.0), &logits), [1]);
        // Temperature comes first: at 2, the ratio 0.05 / 0.5 becomes its square root, 0.316.
        let warm = SamplerOptions { min_p: 0.31, temperature: 2.0, ..plain() };
        assert_eq!(support(&warm, &logits), [0, 1, 2, 3]);
    }

    #[test]
    fn typical_p_keeps_what_is_closest_to_the_entropy() {
        // Information in nats: 0.511, 1.386, 1.897; the entropy is 0.937, so the distances are 0.427, 0.449, 0.960.
        let logits = logits_of(&[0.6, 0.25, 0.15]);
        let with = |typical_p| SamplerOptions { typical_p, ..plain() };
        assert_eq!(support(&with(0.59), &logits), [0]);
        assert_eq!(support(&with(0.61), &logits), [0, 1]);
        assert_eq!(support(&with(0.86), &logits), [0, 1, 2]);
        let logits = logits_of(&[0.45, 0.15, 0.2, 0.2]);
        // Entropy 1.288: distances 0.489, 0.609, 0.321, 0.321, and equal ones stay together.
        assert_eq!(support(&with(0.1), &logits), [2, 3]);
    }

    #[test]
    fn cutoffs_keep_what_is_probable_enough() {
        let logits = logits_of(&[0.05, 0.5, 0.15, 0.3]);
        let epsilon = |epsilon_cutoff| SamplerOptions { epsilon_cutoff, ..plain() };
        assert_eq!(support(&epsilon(0.04), &logits), [0, 1, 2, 3]);
        assert_eq!(support(&epsilon(0.1), &logits), [1, 2, 3]);
        assert_eq!(support(&epsilon(0.9), &logits), [1]);
        // The entropy is 1.142, so the limit is sqrt(eta) * 0.319 where that is below eta.
        let eta = |eta_cutoff| SamplerOptions { eta_cutoff, ..plain() };
        assert_eq!(support(&eta(0.03), &logits), [0, 1, 2, 3]);
        assert_eq!(support(&eta(0.06), &logits), [1, 2, 3]);
        assert_eq!(support(&eta(0.2), &logits), [1, 2, 3]);
        assert_eq!(support(&eta(0.3), &logits), [1, 3]);
    }

    #[test]
    fn impossible_tokens_are_never_drawn() {
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
        assert_eq!(support(&plain(), &logits), [1, 3]);
    }

    #[test]
    fn extreme_temperatures_stay_finite() {
        for temperature in [f32::MIN_POSITIVE, 1e-40] {
            let cold = SamplerOptions { temperature, ..plain() };
            assert_eq!(support(&cold, &[1.0, 1.5, f32::MIN, f32::MAX]), [3]);
        }
        let hot = SamplerOptions { temperature: f32::MAX, ..plain() };
        assert_eq!(support(&hot, &[1.0, 50.0, -50.0]), [0, 1, 2]);
    }

    /// Pearson's statistic of `draws` draws against the probabilities that the options should give.
    fn chi_square(options: &SamplerOptions, logits: &[f32], want: &[f64]) -> f64 {
        let draws = 20_000;
        let mut counts = vec![0_u32; want.len()];
        for token in drawn(options, logits, &[], draws) {
            counts[token as usize] += 1;
        }
        let terms = counts.iter().zip(want).map(|(&count, &p)| {
            let expected = p * draws as f64;
            (f64::from(count) - expected).powi(2) / expected
        });
        terms.sum()
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        // With 4 degrees of freedom the statistic exceeds 18.5 once in 1000 seeds.
        let p = [0.4, 0.05, 0.25, 0.1, 0.2];
        let logits = logits_of(&p);
        for seed in 0..5 {
            let options = SamplerOptions { seed, ..plain() };
            assert!(chi_square(&options, &logits, &p) < 18.5, "seed {seed}");
            let cool = SamplerOptions { temperature: 0.5, ..options.clone() };
            let total: f64 = p.iter().map(|p| p * p).sum();
            let squared = p.map(|p| p * p / total);
            assert!(chi_square(&cool, &logits, &squared) < 18.5, "seed {seed}");
            let top = SamplerOptions { top_k: 5, top_p: 0.9999, min_p: 0.01, ..options };
            assert!(chi_square(&top, &logits, &p) < 18.5, "seed {seed}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_tokens_everywhere() {
        let options = SamplerOptions { seed: 42, ..plain() };
        let logits: Vec<f32> = (0..100_u8).map(|i| f32::from(i % 7) / 2.0).collect();
        // What this version draws: if it changes, everyone's seeded output changes.
        let want = [68, 96, 42, 62, 30, 16, 32, 81, 76, 26, 52, 90];
        assert_eq!(drawn(&options, &logits, &[], 12), want);
        let other = SamplerOptions { seed: 43, ..options.clone() };
        assert_ne!(drawn(&options, &logits, &[], 12), drawn(&other, &logits, &[], 12));
    }

    #[test]
    fn options_outside_their_range_are_named_with_value_and_range() {
        #[track_caller]
        fn refuses(options: SamplerOptions, message: &str) {
            assert_eq!(Sampler::new(options, none()).unwrap_err().to_string(), message);
        }
        let base = SamplerOptions::greedy();
        let nan = f32::NAN;
        refuses(
            SamplerOptions { temperature: -1.0, ..base.clone() },
            "sampler option `temperature` is -1; it must be 0 (greedy) or above and finite",
        );
        refuses(
            SamplerOptions { temperature: nan, ..base.clone() },
            "sampler option `temperature` is NaN; it must be 0 (greedy) or above and finite",
        );
        refuses(
            SamplerOptions { top_p: -0.1, ..base.clone() },
            "sampler option `top_p` is -0.1; it must be from 0 to 1 (off)",
        );
        refuses(
            SamplerOptions { min_p: 1.5, ..base.clone() },
            "sampler option `min_p` is 1.5; it must be from 0 (off) to 1",
        );
        refuses(
            SamplerOptions { repeat_penalty: 0.0, ..base.clone() },
            "sampler option `repeat_penalty` is 0; it must be above 0 and finite",
        );
        refuses(
            SamplerOptions { presence_penalty: f32::INFINITY, ..base.clone() },
            "sampler option `presence_penalty` is inf; it must be a finite number",
        );
        for options in [
            SamplerOptions { temperature: f32::INFINITY, ..base.clone() },
            SamplerOptions { top_p: nan, ..base.clone() },
            SamplerOptions { top_p: 1.1, ..base.clone() },
            SamplerOptions { top_p: -0.5, ..base.clone() },
            SamplerOptions { min_p: nan, ..base.clone() },
            SamplerOptions { min_p: -0.1, ..base.clone() },
            SamplerOptions { repeat_penalty: nan, ..base.clone() },
            SamplerOptions { repeat_penalty: -1.0, ..base.clone() },
            SamplerOptions { frequency_penalty: nan, ..base.clone() },
            SamplerOptions { typical_p: 1.5, ..base.clone() },
            SamplerOptions { epsilon_cutoff: 1.0, ..base.clone() },
            SamplerOptions { eta_cutoff: nan, ..base.clone() },
        ] {
            assert!(options.validate().is_err(), "{options:?}");
        }
        base.validate().unwrap();
    }

    #[test]
    fn unusable_logits_and_histories_are_errors() {
        let penalized = SamplerOptions { repeat_penalty: 1.1, repeat_last_n: 4, ..SamplerOptions::greedy() };
        for options in [SamplerOptions::greedy(), plain()] {
            let mut sampler = Sampler::new(options, none()).unwrap();
            let mut sample =
                |logits: &[f32]| sampler.sample(&mut logits.to_vec(), &History::of_prompt(&[])).unwrap_err();
            assert_eq!(sample(&[]), SamplerError::NoLogits);
            assert_eq!(sample(&[f32::NEG_INFINITY; 3]), SamplerError::NothingPossible { count: 3 });
            assert!(matches!(sample(&[0.0, f32::NAN]), SamplerError::NotFinite { token: 1, .. }));
            let infinite = SamplerError::NotFinite { token: 0, value: f32::INFINITY };
            assert_eq!(sample(&[f32::INFINITY, 0.0]), infinite);
        }
        let mut sampler = Sampler::new(penalized, none()).unwrap();
        assert_eq!(
            sampler.sample(&mut [0.0, 1.0], &History::of_prompt(&[2])).unwrap_err().to_string(),
            "the history holds token id 2, the vocabulary has 2 tokens"
        );
    }

    fn any_options() -> impl Strategy<Value = SamplerOptions> {
        (
            prop_oneof![Just(0.0_f32), 0.01..3.0_f32],
            0..12_usize,
            prop_oneof![Just(1.0_f32), 0.01..1.0_f32],
            prop_oneof![Just(0.0_f32), 0.0..1.0_f32],
            prop_oneof![Just(1.0_f32), 0.5..2.0_f32],
            (0..20_usize, -1.0..1.0_f32, -1.0..1.0_f32),
            any::<u64>(),
        )
            .prop_map(|(temperature, top_k, top_p, min_p, repeat_penalty, penalties, seed)| {
                let (repeat_last_n, presence_penalty, frequency_penalty) = penalties;
                SamplerOptions {
                    repeat_penalty,
                    repeat_last_n,
                    presence_penalty,
                    frequency_penalty,
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    seed,
                    ..SamplerOptions::greedy()
                }
            })
    }

    /// Few distinct values, so that ties are common, and some impossible tokens.
    fn any_logits() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![
            4 => (-8..8_i8).prop_map(|x| f32::from(x) / 2.0),
            4 => -20.0..20.0_f32,
            1 => Just(f32::NEG_INFINITY),
        ];
        prop::collection::vec(logit, 1..600)
            .prop_filter("one is possible", |logits| logits.iter().any(|l| l.is_finite()))
    }

    /// The allowed set by sorting everything, straight from the definitions; `slack` widens the
    /// thresholds, as sums in another order round differently.
    fn allowed(options: &SamplerOptions, logits: &[f32], slack: f64) -> BTreeSet<u32> {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.retain(|&id| logits[id as usize].is_finite());
        ids.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap());
        if options.temperature == 0.0 {
            return ids[..1].iter().copied().collect();
        }
        if options.top_k > 0 {
            ids.truncate(options.top_k);
        }
        let max = f64::from(logits[ids[0] as usize]);
        let weight =
            |id: &u32| ((f64::from(logits[*id as usize]) - max) / f64::from(options.temperature)).exp();
        if options.top_p < 1.0 {
            let wanted = ids.iter().map(weight).sum::<f64>() * (f64::from(options.top_p) + slack);
            let mut mass = 0.0;
            let before = ids.iter().take_while(|id| {
                let short = mass < wanted;
                mass += weight(id);
                short
            });
            let count = before.count().max(1);
            ids.truncate(count);
        }
        ids.retain(|id| weight(id) >= f64::from(options.min_p) - slack);
        ids.into_iter().collect()
    }

    proptest! {
        #[test]
        fn the_token_lies_in_the_allowed_set(
            options in any_options(),
            logits in any_logits(),
            history in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let history: Vec<u32> = history.iter().map(|id| id.index(logits.len()) as u32).collect();
            let mut sampler = Sampler::new(options.clone(), none()).unwrap();
            for _ in 0..8 {
                let mut penalized = logits.clone();
                let token = sampler.sample(&mut penalized, &History::of_prompt(&history)).unwrap();
                let allowed = allowed(&options, &penalized, 1e-9);
                prop_assert!(allowed.contains(&token), "{token} not in {allowed:?}");
            }
        }

        #[test]
        fn top_k_of_one_is_greedy(options in any_options(), logits in any_logits()) {
            let one = SamplerOptions { top_k: 1, ..options.clone() };
            let greedy = SamplerOptions { temperature: 0.0, ..options };
            prop_assert_eq!(drawn(&one, &logits, &[0], 3), drawn(&greedy, &logits, &[0], 3));
        }

        #[test]
        fn a_seed_repeats_itself(options in any_options(), logits in any_logits()) {
            prop_assert_eq!(drawn(&options, &logits, &[], 8), drawn(&options, &logits, &[], 8));
        }

        #[test]
        fn tokens_absent_from_the_window_keep_their_logits(
            options in any_options(),
            logits in any_logits(),
            history in prop::collection::vec(0..4_u32, 0..30),
        ) {
            let mut penalized = logits.clone();
            penalized.resize(logits.len().max(4), 0.0);
            let before = penalized.clone();
            Sampler::new(options, none()).unwrap().sample(&mut penalized, &History::of_prompt(&history)).unwrap();
            prop_assert_eq!(&penalized[4..], &before[4..]);
        }
    }
}
