//! Frequencies of the rotary position embedding.

use std::f64::consts::TAU;

/// How positions turn queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// What makes a model's context longer than what it was first trained for.
    pub scaling: RopeScaling,
}

/// A change to the frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long waves divided by a factor, short ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Waves longer than the original context divided by this one are long.
        low_freq_factor: f64,
        /// Waves shorter than the original context divided by this one are short.
        high_freq_factor: f64,
        /// Positions that the model was first trained for.
        original_context: f64,
    },
}

impl Rope {
    /// The angle of each pair of a head, `[head_dim / 2]`, in radians per position:
    /// `theta^(-2i / head_dim)`, scaled.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        self.plain(head_dim).map(|frequency| (frequency / self.scaling.divisor(frequency)) as f32).collect()
    }

    /// What each frequency is divided by, `[head_dim / 2]`.
    pub fn divisors(&self, head_dim: usize) -> Vec<f32> {
        self.plain(head_dim).map(|frequency| self.scaling.divisor(frequency) as f32).collect()
    }

    fn plain(&self, head_dim: usize) -> impl Iterator<Item = f64> {
        (0..head_dim / 2).map(move |i| self.theta.powf(-2.0 * i as f64 / head_dim as f64))
    }
}

impl RopeScaling {
    /// Source: transformers, `modeling_rope_utils.py`.
    fn divisor(&self, frequency: f64) -> f64 {
        match *self {
            Self::Default => 1.0,
            Self::Linear { factor } => factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let waves = original_context * frequency / TAU;
                if waves > high_freq_factor {
                    1.0
                } else if waves < low_freq_factor {
                    factor
                } else {
                    let smooth = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_worked_out_by_hand() {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::Default };
        assert_eq!(rope.frequencies(8), [1.0, 0.1, 0.01, 0.001]);
        let linear = Rope { scaling: RopeScaling::Linear { factor: 2.0 }, ..rope };
        assert_eq!(linear.frequencies(8), [0.5, 0.05, 0.005, 0.0005]);
        // 100 positions are 15.9, 1.59, 0.159 and 0.0159 waves: kept, between 1 and 4, and twice slowed down.
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 100.0,
        };
        let smooth = (10.0 / TAU - 1.0) / 3.0;
        let between = (0.1 * ((1.0 - smooth) / 8.0 + smooth)) as f32;
        assert_eq!(Rope { scaling, ..rope }.frequencies(8), [1.0, between, 0.00125, 0.000125]);
    }
}
