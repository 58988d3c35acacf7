//! Rules on the next token that a package may carry: the logits processors of transformers, in its order.
//!
//! Each follows the class of the same task in `transformers/generation/logits_process.py` (5.24). A forbidden token's
//! logit becomes minus infinity. None costs more than one look at the text and at the rule's own ids.

/// The text that a token is chosen for.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// The text so far, prompt included, oldest token first.
    pub ids: &'a [u32],
    /// How many of them are the prompt.
    pub prompt: usize,
    /// Most tokens that may follow the prompt.
    pub max_tokens: Option<usize>,
    /// Ids that end the text.
    pub stop_ids: &'a [u32],
}

impl<'a> History<'a> {
    /// A prompt, of which nothing but its ids is known.
    pub fn of_prompt(ids: &'a [u32]) -> Self {
        Self { ids, prompt: ids.len(), max_tokens: None, stop_ids: &[] }
    }

    fn generated(&self) -> usize {
        self.ids.len() - self.prompt
    }
}

/// Which rules there are; by default none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogitsProcessors {
    /// Added to the logit of a sequence's last token where the text ends with the others.
    pub sequence_bias: Vec<(Vec<u32>, f32)>,
    /// Length of runs of tokens that never come a second time; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// Sequences that never come.
    pub bad_words: Vec<Vec<u32>>,
    /// Least length of the text, prompt included, before a stop id may end it.
    pub min_length: usize,
    /// Least number of tokens after the prompt before a stop id may end the text.
    pub min_new_tokens: usize,
    /// The token that follows a prompt of one token.
    pub forced_bos: Option<u32>,
    /// The token that comes last where as many are generated as were asked for. Several are equally likely.
    pub forced_eos: Vec<u32>,
    /// Number of tokens from which stop ids become more likely, and the factor by which they do with each token.
    pub length_decay: Option<(usize, f64)>,
    /// Tokens that never come.
    pub suppressed: Vec<u32>,
    /// Tokens that do not come first.
    pub suppressed_first: Vec<u32>,
}

impl LogitsProcessors {
    /// Applies what comes before the penalties: the biases of sequences.
    pub(crate) fn bias(&self, logits: &mut [f32], history: &History<'_>) {
        for (sequence, bias) in &self.sequence_bias {
            if let Some(logit) = completed(sequence, history.ids).and_then(|last| at(logits, last)) {
                *logit += bias;
            }
        }
    }

    /// Applies what comes after the penalties: all other rules.
    pub(crate) fn restrict(&self, logits: &mut [f32], history: &History<'_>) {
        let forbid = |logits: &mut [f32], ids: &[u32]| {
            for &id in ids {
                at(logits, id).into_iter().for_each(|logit| *logit = f32::NEG_INFINITY);
            }
        };
        let &History { ids, stop_ids, .. } = history;
        self.forbid_repeated_ngrams(logits, ids);
        for word in &self.bad_words {
            let is_end = matches!(**word, [id] if stop_ids.contains(&id));
            if let Some(last) = completed(word, ids).filter(|_| !is_end) {
                forbid(logits, &[last]);
            }
        }
        if ids.len() < self.min_length || history.generated() < self.min_new_tokens {
            forbid(logits, stop_ids);
        }
        if let Some(id) = self.forced_bos.filter(|_| ids.len() == 1) {
            force(logits, &[id]);
        }
        if !self.forced_eos.is_empty() && history.max_tokens == Some(history.generated() + 1) {
            force(logits, &self.forced_eos);
        }
        if let Some((start, factor)) = self.length_decay
            && history.generated() > start
        {
            let exponent = i32::try_from(history.generated() - start).unwrap_or(i32::MAX);
            for &id in stop_ids {
                let Some(logit) = at(logits, id).filter(|logit| logit.is_finite()) else { continue };
                let raised = f64::from(*logit) + f64::from(logit.abs()) * (factor.powi(exponent) - 1.0);
                *logit = raised.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
            }
        }
        forbid(logits, &self.suppressed);
        // After a prompt of one token, a forced token comes first and is none of these.
        let first = usize::from(history.prompt == 1 && self.forced_bos.is_some());
        if history.generated() == first {
            forbid(logits, &self.suppressed_first);
        }
    }

    fn forbid_repeated_ngrams(&self, logits: &mut [f32], ids: &[u32]) {
        let size = self.no_repeat_ngram_size;
        if size == 0 || ids.len() < size {
            return;
        }
        let begun = &ids[ids.len() + 1 - size..];
        for ngram in ids.windows(size) {
            if let Some((&last, before)) = ngram.split_last()
                && before == begun
                && let Some(logit) = at(logits, last)
            {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

fn at(logits: &mut [f32], id: u32) -> Option<&mut f32> {
    logits.get_mut(id as usize)
}

/// The last token of a sequence whose other tokens end the text.
fn completed(sequence: &[u32], ids: &[u32]) -> Option<u32> {
    let (&last, before) = sequence.split_last()?;
    ids.ends_with(before).then_some(last)
}

/// Leaves no token possible but these, each as likely as the others.
fn force(logits: &mut [f32], ids: &[u32]) {
    logits.fill(f32::NEG_INFINITY);
    for &id in ids {
        at(logits, id).into_iter().for_each(|logit| *logit = 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: f32 = f32::NEG_INFINITY;

    /// Applies all rules to four logits after `ids`, of which the first `prompt` are the prompt; token 3 ends the text.
    #[track_caller]
    fn check(rules: LogitsProcessors, ids: &[u32], prompt: usize, max_tokens: usize, want: [f32; 4]) {
        let mut logits = [2.0, -2.0, 1.0, 0.5];
        let history = History { ids, prompt, max_tokens: Some(max_tokens), stop_ids: &[3] };
        rules.bias(&mut logits, &history);
        rules.restrict(&mut logits, &history);
        assert_eq!(logits, want);
    }

    fn none() -> LogitsProcessors {
        LogitsProcessors::default()
    }

    #[test]
    fn sequences_are_biased_where_they_would_be_completed() {
        let rules = LogitsProcessors {
            sequence_bias: vec![(vec![0], 1.0), (vec![2, 1], -3.0), (vec![1, 2, 1], 0.5), (vec![9], 1.0)],
            ..none()
        };
        check(rules.clone(), &[0], 1, 9, [3.0, -2.0, 1.0, 0.5]);
        check(rules.clone(), &[0, 2], 1, 9, [3.0, -5.0, 1.0, 0.5]);
        check(rules, &[1, 2], 1, 9, [3.0, -4.5, 1.0, 0.5]);
    }

    #[test]
    fn ngrams_come_once() {
        let of = |no_repeat_ngram_size| LogitsProcessors { no_repeat_ngram_size, ..none() };
        check(of(1), &[0, 2, 0], 1, 9, [NO, -2.0, NO, 0.5]);
        check(of(2), &[0, 1, 0], 3, 9, [2.0, NO, 1.0, 0.5]);
        check(of(2), &[0], 1, 9, [2.0, -2.0, 1.0, 0.5]);
        check(of(3), &[1, 0, 2, 1, 0], 1, 9, [2.0, -2.0, NO, 0.5]);
        check(of(3), &[1, 0], 1, 9, [2.0, -2.0, 1.0, 0.5]);
        check(of(usize::MAX), &[1, 0, 1, 0], 1, 9, [2.0, -2.0, 1.0, 0.5]);
    }

    #[test]
    fn bad_words_do_not_come_but_for_the_end_of_the_text() {
        let rules = LogitsProcessors { bad_words: vec![vec![0], vec![3], vec![1, 2], vec![2, 3]], ..none() };
        check(rules.clone(), &[0], 1, 9, [NO, -2.0, 1.0, 0.5]);
        check(rules.clone(), &[0, 1], 1, 9, [NO, -2.0, NO, 0.5]);
        check(rules, &[0, 2], 1, 9, [NO, -2.0, 1.0, NO]);
    }

    #[test]
    fn stop_ids_wait_for_the_least_length() {
        let of = |min_length, min_new_tokens| LogitsProcessors { min_length, min_new_tokens, ..none() };
        check(of(3, 0), &[0, 1], 1, 9, [2.0, -2.0, 1.0, NO]);
        check(of(2, 0), &[0, 1], 1, 9, [2.0, -2.0, 1.0, 0.5]);
        check(of(0, 2), &[0, 1], 1, 9, [2.0, -2.0, 1.0, NO]);
        check(of(0, 1), &[0, 1], 1, 9, [2.0, -2.0, 1.0, 0.5]);
    }

    #[test]
    fn forced_tokens_are_the_only_ones() {
        let first = LogitsProcessors { forced_bos: Some(1), ..none() };
        check(first.clone(), &[0], 1, 9, [NO, 0.0, NO, NO]);
        check(first, &[0, 1], 1, 9, [2.0, -2.0, 1.0, 0.5]);
        let last = LogitsProcessors { forced_eos: vec![3, 1], ..none() };
        check(last.clone(), &[0, 1, 2], 1, 3, [NO, 0.0, NO, 0.0]);
        check(last.clone(), &[0, 1, 2], 1, 4, [2.0, -2.0, 1.0, 0.5]);
        let begins_after_it =
            LogitsProcessors { forced_bos: Some(1), suppressed_first: vec![0, 1], ..none() };
        check(begins_after_it.clone(), &[0], 1, 9, [NO, 0.0, NO, NO]);
        check(begins_after_it, &[0, 1], 1, 9, [NO, NO, 1.0, 0.5]);
    }

    #[test]
    fn the_end_becomes_likelier_with_each_token() {
        let rules = LogitsProcessors { length_decay: Some((1, 2.0)), ..none() };
        check(rules.clone(), &[0, 1], 1, 9, [2.0, -2.0, 1.0, 0.5]);
        check(rules.clone(), &[0, 1, 1], 1, 9, [2.0, -2.0, 1.0, 1.0]);
        check(rules.clone(), &[0, 1, 1, 1], 1, 9, [2.0, -2.0, 1.0, 2.0]);
        check(rules, &[0; 5000], 1, 9, [2.0, -2.0, 1.0, f32::MAX]);
    }

    #[test]
    fn suppressed_tokens_do_not_come() {
        let rules = LogitsProcessors { suppressed: vec![2, 77], suppressed_first: vec![0], ..none() };
        check(rules.clone(), &[0], 1, 9, [NO, -2.0, NO, 0.5]);
        check(rules, &[0, 1], 1, 9, [2.0, -2.0, NO, 0.5]);
    }
}
