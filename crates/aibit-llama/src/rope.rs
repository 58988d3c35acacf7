//! Rotary frequencies.

use std::f64::consts::{PI, TAU};

/// A rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// How the context is extended beyond that of the original training.
    pub scaling: RopeScaling,
}

/// A kind of RoPE scaling.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Unchanged up to the model's context; beyond it the base would grow with the length of the sequence, which is
    /// not supported.
    Dynamic {
        /// The factor of that growth.
        factor: f64,
    },
    /// Long wavelengths divided by a factor, short ones kept, those between interpolated by wavelength (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths longer than the original context divided by this are long.
        low_freq_factor: f64,
        /// Wavelengths shorter than the original context divided by this are short.
        high_freq_factor: f64,
        /// Context of the original training.
        original_context: f64,
    },
    /// Long wavelengths divided by a factor, short ones kept, those between interpolated by index (Peng et al. 2023,
    /// arXiv:2309.00071).
    Yarn {
        /// The factor.
        factor: f64,
        /// Wavelengths with at least this many rotations in the original context are short.
        beta_fast: f64,
        /// Wavelengths with at most this many rotations are long.
        beta_slow: f64,
        /// Whether the ends of the interpolated range are rounded outwards to integers.
        truncate: bool,
        /// Context of the original training.
        original_context: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
    /// Each frequency divided by a factor of its own, with a second set of factors for long contexts (Ding et al.
    /// 2024, arXiv:2402.13753).
    LongRope {
        /// Factors up to the original context, `[head_dim / 2]`.
        short_factor: Vec<f64>,
        /// Factors beyond it, `[head_dim / 2]`.
        long_factor: Vec<f64>,
        /// Context of the original training.
        original_context: usize,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
}

impl Rope {
    /// The angle of each pair of a head, `[head_dim / 2]`, in radians per position: `theta^(-2i / head_dim)`, scaled.
    /// For LongRoPE, the frequencies for short contexts.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = self.plain(head_dim);
        plain.zip(self.exact_divisors(head_dim)).map(|(plain, by)| (plain / by) as f32).collect()
    }

    /// LongRoPE's frequencies for contexts longer than the original one, and that length, if they differ.
    pub fn long_frequencies(&self, head_dim: usize) -> Option<(Vec<f32>, usize)> {
        match &self.scaling {
            RopeScaling::LongRope { short_factor, long_factor, original_context, .. }
                if short_factor != long_factor =>
            {
                let long = self.plain(head_dim).zip(long_factor).map(|(plain, by)| (plain / by) as f32);
                Some((long.collect(), *original_context))
            }
            _ => None,
        }
    }

    /// Factor on cosines and sines.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor as f32
            }
            RopeScaling::Default
            | RopeScaling::Linear { .. }
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Llama3 { .. } => 1.0,
        }
    }

    /// The divisor of each frequency, `[head_dim / 2]`; for LongRoPE, those for short contexts.
    pub fn divisors(&self, head_dim: usize) -> Vec<f32> {
        self.exact_divisors(head_dim).into_iter().map(|divisor| divisor as f32).collect()
    }

    /// Source: transformers, `modeling_rope_utils.py`.
    fn exact_divisors(&self, head_dim: usize) -> Vec<f64> {
        let pairs = head_dim / 2;
        match self.scaling {
            RopeScaling::Default | RopeScaling::Dynamic { .. } => vec![1.0; pairs],
            RopeScaling::Linear { factor } => vec![factor; pairs],
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let divisor = |frequency: f64| {
                    let waves = original_context * frequency / TAU;
                    if waves > high_freq_factor {
                        1.0
                    } else if waves < low_freq_factor {
                        factor
                    } else {
                        let smooth = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        1.0 / ((1.0 - smooth) / factor + smooth)
                    }
                };
                self.plain(head_dim).map(divisor).collect()
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_context, .. } => {
                let width = head_dim as f64;
                // The index of the wavelength with this many rotations in the original context.
                let place = |turns: f64| {
                    width * (original_context / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (place(beta_fast), place(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(width - 1.0));
                if low == high {
                    high += 0.001;
                }
                let divisor = |pair: usize| {
                    let kept = 1.0 - ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    1.0 / ((1.0 - kept) / factor + kept)
                };
                (0..pairs).map(divisor).collect()
            }
            RopeScaling::LongRope { ref short_factor, .. } => short_factor.clone(),
        }
    }

    fn plain(&self, head_dim: usize) -> impl Iterator<Item = f64> {
        (0..head_dim / 2).map(move |i| self.theta.powf(-2.0 * i as f64 / head_dim as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: RopeScaling) -> Vec<f32> {
        Rope { theta: 10_000.0, scaling }.frequencies(8)
    }

    #[test]
    fn frequencies_worked_out_by_hand() {
        assert_eq!(frequencies(RopeScaling::Default), [1.0, 0.1, 0.01, 0.001]);
        assert_eq!(frequencies(RopeScaling::Dynamic { factor: 4.0 }), [1.0, 0.1, 0.01, 0.001]);
        assert_eq!(frequencies(RopeScaling::Linear { factor: 2.0 }), [0.5, 0.05, 0.005, 0.0005]);
        // 100 positions are 15.9, 1.59, 0.159 and 0.0159 rotations: kept, between 1 and 4, and twice slowed down.
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 100.0,
        };
        let smooth = (10.0 / TAU - 1.0) / 3.0;
        let between = (0.1 * ((1.0 - smooth) / 8.0 + smooth)) as f32;
        assert_eq!(frequencies(scaling), [1.0, between, 0.00125, 0.000125]);
    }

    #[test]
    fn yarn_blends_by_place() {
        let yarn = |beta_fast, beta_slow, truncate, original_context| RopeScaling::Yarn {
            factor: 4.0,
            beta_fast,
            beta_slow,
            truncate,
            original_context,
            attention_factor: 1.0,
        };
        // With 2π rotations in 2π·100 positions per radian, the index of `n` rotations in a series of four over base
        // 10,000 is log10(100 / n): 0 for 100 rotations, 1 for 10, 2 for one. Between 0 and 2 the second wavelength
        // is half kept.
        let original = TAU * 100.0;
        let near = |found: Vec<f32>, want: [f64; 4]| {
            let is_near = |(found, want): (&f32, f64)| (f64::from(*found) / want - 1.0).abs() < 1e-6;
            assert!(found.iter().zip(want).all(is_near), "{found:?}, want {want:?}");
        };
        let half = 0.1 * (0.5 + 0.5 / 4.0);
        near(frequencies(yarn(100.0, 1.0, false, original)), [1.0, half, 0.01 / 4.0, 0.001 / 4.0]);
        // Indices 0.5 and 1.5, rounded outwards to 0 and 2, are the same; not rounded, the second wavelength is half
        // kept and the others are outside the range.
        let (fast, slow) = (100.0 / 10.0_f64.sqrt(), 10.0 / 10.0_f64.sqrt());
        near(frequencies(yarn(fast, slow, true, original)), [1.0, half, 0.01 / 4.0, 0.001 / 4.0]);
        near(frequencies(yarn(fast, slow, false, original)), [1.0, half, 0.01 / 4.0, 0.001 / 4.0]);
        // Both indices equal: a step.
        near(frequencies(yarn(10.0, 10.0, false, original)), [1.0, 0.1, 0.01 / 4.0, 0.001 / 4.0]);
    }

    #[test]
    fn longrope_has_two_tables() {
        let scaling = RopeScaling::LongRope {
            short_factor: vec![1.0, 1.0, 2.0, 2.0],
            long_factor: vec![1.0, 2.0, 4.0, 10.0],
            original_context: 64,
            attention_factor: 1.25,
        };
        let rope = Rope { theta: 10_000.0, scaling };
        assert_eq!(rope.frequencies(8), [1.0, 0.1, 0.005, 0.0005]);
        assert_eq!(rope.long_frequencies(8), Some((vec![1.0, 0.05, 0.0025, 0.0001], 64)));
        assert_eq!(rope.attention_factor(), 1.25);
    }
}
