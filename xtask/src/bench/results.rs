//! Results of a run, stored in `target/peers/results.json`, and statistics over rounds.

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) date: String,
    pub(super) commit: String,
    /// Rows of the table of machine and versions.
    pub(super) machine: Vec<(String, String)>,
    pub(super) engines: Vec<Measured>,
    pub(super) rounds: usize,
    /// Number of measurements, and of those disturbed at every attempt.
    pub(super) measurements: usize,
    pub(super) disturbed: usize,
    pub(super) samples: Vec<Sample>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) id: String,
    pub(super) label: String,
    /// Bytes of all model files that the engine reads.
    pub(super) file_bytes: u64,
    /// The greedy token after the prompt.
    pub(super) first_token: String,
}

/// The repetitions of one test in one round.
#[derive(Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) round: usize,
    pub(super) engine: String,
    pub(super) test: String,
    pub(super) threads: usize,
    /// Tokens per second, milliseconds or bytes, depending on the test.
    pub(super) values: Vec<f64>,
    /// Whether other processes computed meanwhile.
    pub(super) disturbed: bool,
}

/// The median of the rounds' medians, with minimum and maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
    /// Number of rounds.
    pub(super) rounds: usize,
}

/// Engine and test of measurements of the machine itself.
pub(super) const MACHINE: &str = "machine";
/// Memory read bandwidth, in bytes per second.
pub(super) const READ: &str = "read";

/// An engine, a test and a number of threads.
#[derive(Clone, Copy)]
pub(super) struct Key<'a>(pub(super) &'a str, pub(super) &'a str, pub(super) usize);

impl Results {
    pub(super) fn engine(&self, id: &str) -> Option<&Measured> {
        self.engines.iter().find(|engine| engine.id == id)
    }

    /// Medians of single rounds, with the rounds' numbers.
    fn rounds(&self, key: Key<'_>) -> Vec<(usize, f64)> {
        self.of(key).filter_map(|sample| Some((sample.round, median(&sample.values)?))).collect()
    }

    fn of(&self, Key(engine, test, threads): Key<'_>) -> impl Iterator<Item = &Sample> {
        // The effect of a busy neighbour differs by engine, so disturbed samples are not comparable.
        self.samples
            .iter()
            .filter(move |s| !s.disturbed && s.engine == engine && s.test == test && s.threads == threads)
    }

    /// The median over rounds, with the extremes of all repetitions.
    pub(super) fn summary(&self, key: Key<'_>) -> Option<Summary> {
        let all: Vec<f64> = self.of(key).flat_map(|sample| sample.values.iter().copied()).collect();
        let rounds: Vec<f64> = self.rounds(key).into_iter().map(|(_, value)| value).collect();
        let Summary { min, max, .. } = summary(&all)?;
        Some(Summary { min, median: median(&rounds)?, max, rounds: rounds.len() })
    }

    /// `a / b` per round, which cancels drift between rounds.
    pub(super) fn ratio(&self, a: Key<'_>, b: Key<'_>) -> Option<Summary> {
        let divisors = self.rounds(b);
        let ratios: Vec<f64> = self
            .rounds(a)
            .into_iter()
            .filter_map(|(round, value)| {
                let (_, divisor) = divisors.iter().find(|(other, _)| *other == round)?;
                Some(value / divisor)
            })
            .collect();
        summary(&ratios)
    }
}

pub(super) fn summary(values: &[f64]) -> Option<Summary> {
    let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(min, max), &v| (min.min(v), max.max(v)));
    Some(Summary { min, median: median(values)?, max, rounds: values.len() })
}

pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
impl Results {
    /// Two rounds with 2 and 4 for `aibit` and 1 and 4 for `peer`.
    pub(super) fn example() -> Self {
        let sample = |round, engine: &str, values: &[f64]| Sample {
            round,
            engine: engine.into(),
            test: "pp128".into(),
            threads: 2,
            values: values.into(),
            disturbed: false,
        };
        let engine = |id: &str| Measured {
            id: id.into(),
            label: id.into(),
            file_bytes: 1_000_000,
            first_token: " the".into(),
        };
        Self {
            date: "2026-01-01".into(),
            commit: "abc".into(),
            machine: vec![],
            engines: vec![engine("aibit"), engine("peer")],
            rounds: 2,
            measurements: 4,
            disturbed: 0,
            samples: vec![
                sample(0, "aibit", &[1.0, 2.0, 9.0]),
                sample(0, "peer", &[1.0]),
                sample(1, "aibit", &[4.0]),
                sample(1, "peer", &[4.0]),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_of_repetitions_and_medians_of_rounds() {
        let summary = Results::example().summary(Key("aibit", "pp128", 2));
        assert_eq!(summary, Some(Summary { min: 1.0, median: 3.0, max: 9.0, rounds: 2 }));
        assert_eq!(Results::example().summary(Key("aibit", "pp512", 2)), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let ratio = Results::example().ratio(Key("aibit", "pp128", 2), Key("peer", "pp128", 2));
        assert_eq!(ratio, Some(Summary { min: 1.0, median: 1.5, max: 2.0, rounds: 2 }));
    }

    #[test]
    fn disturbed_samples_count_nowhere() {
        let mut results = Results::example();
        results.samples[1].disturbed = true;
        let (aibit, peer) = (Key("aibit", "pp128", 2), Key("peer", "pp128", 2));
        assert_eq!(results.ratio(aibit, peer), Some(Summary { min: 1.0, median: 1.0, max: 1.0, rounds: 1 }));
        assert_eq!(results.summary(peer), Some(Summary { min: 4.0, median: 4.0, max: 4.0, rounds: 1 }));
    }
}
