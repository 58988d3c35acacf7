//! In what order weights that are used once are read from memory. It changes the speed and never the result.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::Isa;

/// The most runs of weights that are read side by side.
pub(crate) const RUNS: usize = 4;

/// How the weights of a layer are read where each is used for one token, or a few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPattern {
    /// Places, far from each other, from which weights are read side by side: 1, 2 or 4.
    pub runs: usize,
    /// How many bytes ahead of each read is prefetched; 0: none.
    pub prefetch: usize,
    /// Pieces per thread that a layer is cut into. Fewer leave a thread waiting for another's last one, more interrupt
    /// the runs.
    pub pieces: usize,
}

impl ReadPattern {
    /// Four runs hide the latency of new pages, up to Zen 4 better than any prefetch.
    pub const FOUR_RUNS: Self = Self { runs: 4, prefetch: 0, pieces: 4 };

    /// One run, prefetched: Zen 5's fastest. What is prefetched beyond the end of a piece may be another thread's, so pieces
    /// are long.
    pub const PREFETCHED: Self = Self { runs: 1, prefetch: 16 << 10, pieces: 2 };

    /// What the probe chooses from.
    pub const CANDIDATES: [Self; 3] =
        [Self::FOUR_RUNS, Self { runs: 1, prefetch: 4 << 10, pieces: 2 }, Self::PREFETCHED];

    /// The best one for this CPU: known for AMD's families, measured once per process on others, which takes some five
    /// milliseconds.
    pub fn best() -> Self {
        static BEST: OnceLock<ReadPattern> = OnceLock::new();
        *BEST.get_or_init(|| match known() {
            Some(pattern) => pattern,
            None => crate::limits::fastest(Isa::best(), &Self::CANDIDATES),
        })
    }
}

impl fmt::Display for ReadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, prefetch, pieces } = self;
        write!(f, "{runs},{prefetch},{pieces}")
    }
}

/// As [`ReadPattern`] prints itself; what is left out at the end is that of [`ReadPattern::FOUR_RUNS`].
impl FromStr for ReadPattern {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut fields = [Self::FOUR_RUNS.runs, Self::FOUR_RUNS.prefetch, Self::FOUR_RUNS.pieces];
        for (at, number) in text.split(',').enumerate() {
            *fields.get_mut(at).ok_or(())? = number.trim().parse().map_err(|_| ())?;
        }
        let [runs, prefetch, pieces] = fields;
        let valid = [1, 2, 4].contains(&runs) && prefetch <= 1 << 20 && (1..=64).contains(&pieces);
        valid.then_some(Self { runs, prefetch, pieces }).ok_or(())
    }
}

/// What has been measured for this CPU's family.
#[cfg(target_arch = "x86_64")]
fn known() -> Option<ReadPattern> {
    use std::arch::x86_64::__cpuid;

    #[expect(unsafe_code, reason = "an instruction that every x86-64 has")]
    #[allow(unused_unsafe, reason = "safe in newer compilers than the oldest that builds this")]
    // SAFETY: every x86-64 has the instruction and these leaves.
    let (vendor, version) = unsafe { (__cpuid(0), __cpuid(1).eax) };
    let amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD";
    let family = (version >> 8 & 0xF) + (version >> 20 & 0xFF);
    match family {
        0x17 | 0x19 if amd => Some(ReadPattern::FOUR_RUNS),
        0x1A if amd => Some(ReadPattern::PREFETCHED),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn known() -> Option<ReadPattern> {
    Some(ReadPattern::FOUR_RUNS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_they_are_printed() {
        for pattern in ReadPattern::CANDIDATES {
            assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
        assert_eq!("1".parse(), Ok(ReadPattern { runs: 1, prefetch: 0, pieces: 4 }));
        assert_eq!("2, 4096".parse(), Ok(ReadPattern { runs: 2, prefetch: 4096, pieces: 4 }));
        for wrong in ["", "3", "0", "4,", "4,x", "4,-1", "1,0,0", "1,0,4,1", "1,99999999"] {
            assert_eq!(wrong.parse::<ReadPattern>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn the_best_pattern_is_a_valid_one() {
        let best = ReadPattern::best();
        assert_eq!(best.to_string().parse(), Ok(best));
    }
}
