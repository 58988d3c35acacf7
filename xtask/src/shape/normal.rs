//! Normal numbers by counter: any part of a tensor can be made by itself, on any thread, at a gigabyte a second.

/// Entries of the table.
const QUANTILES: usize = 1 << 16;

/// The quantiles of the standard normal distribution in the middles of 65,536 equal parts: from −4.3 to 4.3.
pub(crate) struct Normal {
    table: Vec<f32>,
}

impl Normal {
    /// Integrates `z' = √2π · exp(z² / 2)`, the quantile function's derivative, from 0 by Runge and Kutta's method: with
    /// additions and multiplications alone the table is the same on every platform.
    pub(crate) fn new() -> Self {
        /// Steps for each entry: the derivative grows by a half from one entry to the next at the end.
        const STEPS: usize = 32;
        const SQRT_2_PI: f64 = 2.506_628_274_631_000_5;
        // With w = z', which follows w' = w² z.
        let derivative = |(z, w): (f64, f64)| (w, w * w * z);
        let step = |(z, w): (f64, f64), length: f64| {
            let moved = |by: f64, (dz, dw): (f64, f64)| (z + by * dz, w + by * dw);
            let k1 = derivative((z, w));
            let k2 = derivative(moved(length / 2.0, k1));
            let k3 = derivative(moved(length / 2.0, k2));
            let k4 = derivative(moved(length, k3));
            let mean = |a: f64, b: f64, c: f64, d: f64| (a + 2.0 * b + 2.0 * c + d) / 6.0;
            moved(length, (mean(k1.0, k2.0, k3.0, k4.0), mean(k1.1, k2.1, k3.1, k4.1)))
        };
        let mut table = vec![0.0; QUANTILES];
        let mut at = (0.0, SQRT_2_PI);
        let length = 1.0 / (QUANTILES * STEPS) as f64;
        for index in 0..QUANTILES / 2 {
            let steps = if index == 0 { STEPS / 2 } else { STEPS };
            for _ in 0..steps {
                at = step(at, length);
            }
            table[QUANTILES / 2 + index] = at.0 as f32;
            table[QUANTILES / 2 - 1 - index] = -at.0 as f32;
        }
        Self { table }
    }

    /// Numbers `4 * group` to `4 * group + 3` of the stream `key`.
    pub(super) fn four(&self, key: u64, group: u64) -> [f32; 4] {
        let bits = mix(key.wrapping_add(group.wrapping_mul(STEP)));
        [bits, bits >> 16, bits >> 32, bits >> 48].map(|bits| self.table[usize::from(bits as u16)])
    }

    /// The first `length` numbers of the stream `key`.
    pub(crate) fn take(&self, key: u64, length: usize) -> Vec<f32> {
        (0_u64..).flat_map(|group| self.four(key, group)).take(length).collect()
    }
}

/// The key of a stream, by its name (FNV-1a).
pub(crate) fn stream(seed: u64, name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    mix(seed ^ mix(hash))
}

/// SplitMix64 (Steele et al. 2014): the counter's step, and its finalizer.
pub(super) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_the_quantiles() {
        let Normal { table } = Normal::new();
        // Quantiles as printed tables have them: of 0.75, 0.975, 0.995 and 0.9995.
        for (p, z) in [(0.75, 0.674_49), (0.975, 1.959_96), (0.995, 2.575_83), (0.9995, 3.290_53)] {
            // The middles of parts on both sides of p: entry `i` is the quantile of (i + 1/2) / 65,536.
            let index = (p * QUANTILES as f64 - 0.5).ceil() as usize;
            assert!(table[index - 1] < z + 1e-5 && z - 1e-5 < table[index], "{p}: {}", table[index]);
        }
        // Of 1 - 1 / 131,072.
        assert!((table[QUANTILES - 1] - 4.3249).abs() < 2e-3, "{}", table[QUANTILES - 1]);
    }

    #[test]
    fn a_stream_is_normal() {
        let values = Normal::new().take(stream(1, "a"), 1 << 20);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
        // Five standard errors: 1 / √n and √(2 / n).
        assert!(mean.abs() < 0.005 && (square - 1.0).abs() < 0.007, "{mean} {square}");
    }
}
