//! Which instruction set the kernels run on and how they read weights: found at run time, forced with `AIBIT_ISA` and
//! `AIBIT_READ`.

use std::fmt;

use crate::read::ReadPattern;
use crate::simd::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512Vnni, AvxVnni};

/// An instruction set that this CPU has, and how weights are read on it.
///
/// A value exists only where the CPU supports it, so holding one is the proof that its code may run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa {
    level: Level,
    read: ReadPattern,
}

/// The one list of instruction sets, each with the token its kernels ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
}

/// `AIBIT_ISA` names no instruction set of this CPU, or `AIBIT_READ` is no read pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// The value names no instruction set, or one that this CPU lacks.
    #[error(
        "AIBIT_ISA is `{value}`, which this CPU does not offer; available: {available}; \
         unset it to use the best of them"
    )]
    Unavailable {
        /// What the variable held.
        value: String,
        /// The names that would work, comma-separated.
        available: String,
    },
    /// The value is no read pattern.
    #[error(
        "AIBIT_READ is `{value}`, which is no read pattern: RUNS[,PREFETCH[,PIECES]] with 1, 2 or 4 runs, up to \
         1048576 bytes of prefetch and 1 to 64 pieces, as `1,16384`; unset it to use what suits this CPU"
    )]
    Read {
        /// What the variable held.
        value: String,
    },
}

impl Isa {
    /// Plain Rust, present on every CPU: the specification that the others equal bit for bit.
    pub const SCALAR: Self = Self::new(Level::Scalar(Scalar));

    const fn new(level: Level) -> Self {
        Self { level, read: ReadPattern::FOUR_RUNS }
    }

    /// Every instruction set of this CPU: [`Isa::SCALAR`] first, the best last. They read weights in four runs.
    pub fn available() -> Vec<Self> {
        let levels = [
            Some(Level::Scalar(Scalar)),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            AvxVnni::detect().map(Level::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            Avx512Vnni::detect().map(Level::Avx512Vnni),
        ];
        levels.into_iter().flatten().map(Self::new).collect()
    }

    /// The best instruction set of this CPU.
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::SCALAR)
    }

    /// The instruction set that `AIBIT_ISA` names, or the best one if the variable is unset or empty, with the read
    /// pattern of `AIBIT_READ`, else the best one.
    ///
    /// # Errors
    /// [`IsaError::Unavailable`] if the variable names one that this CPU lacks or nobody knows, [`IsaError::Read`] if
    /// there is no such pattern.
    pub fn selected() -> Result<Self, IsaError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let isa = match variable("AIBIT_ISA") {
            None => Self::best(),
            Some(value) => Self::named(&value.to_string_lossy())?,
        };
        let read = match variable("AIBIT_READ").map(|value| value.to_string_lossy().into_owned()) {
            None => ReadPattern::best(),
            Some(value) => value.parse().map_err(|()| IsaError::Read { value })?,
        };
        Ok(isa.reading(read))
    }

    /// The same instruction set with another read pattern.
    ///
    /// # Panics
    /// If `read` has another number of runs than 1, 2 or 4, or no pieces.
    pub fn reading(self, read: ReadPattern) -> Self {
        assert!([1, 2, 4].contains(&read.runs) && read.pieces > 0, "no read pattern: {read}");
        Self { read, ..self }
    }

    /// How weights are read that are used once.
    pub fn read_pattern(self) -> ReadPattern {
        self.read
    }

    /// The available instruction set called `name`.
    ///
    /// # Errors
    /// [`IsaError::Unavailable`] if there is none.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let available = Self::available();
        let found = available.iter().find(|isa| isa.name() == name);
        found.copied().ok_or_else(|| IsaError::Unavailable {
            value: name.to_owned(),
            available: available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Its name: `scalar`, `avx2`, `avxvnni` or `avx512vnni`.
    pub fn name(self) -> &'static str {
        match self.level {
            Level::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni(_) => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni(_) => "avx512vnni",
        }
    }

    pub(crate) fn level(self) -> Level {
        self.level
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Calls `function(token, arguments...)`, compiled for the instruction set of `isa`.
///
/// `function` is an `#[inline(always)]` function, generic over [`Simd`](crate::simd::Simd): inlined
/// into a caller that enables the features, so that the compiler vectorises its plain loops for them.
macro_rules! dispatch {
    ($isa:expr => $function:ident($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        #[allow(clippy::too_many_arguments, reason = "the wrapped function's own arguments")]
        fn avx2(simd: $crate::simd::Avx2, $($argument: $type),*) $(-> $output)? {
            $function(simd, $($argument),*)
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        #[allow(clippy::too_many_arguments, reason = "the wrapped function's own arguments")]
        fn avxvnni(simd: $crate::simd::AvxVnni, $($argument: $type),*) $(-> $output)? {
            $function(simd, $($argument),*)
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        #[allow(clippy::too_many_arguments, reason = "the wrapped function's own arguments")]
        fn avx512vnni(simd: $crate::simd::Avx512Vnni, $($argument: $type),*) $(-> $output)? {
            $function(simd, $($argument),*)
        }

        match $isa.level() {
            $crate::isa::Level::Scalar(simd) => $function(simd, $($argument),*),
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Level::Avx2(simd) => {
                #[expect(unsafe_code, reason = "enters code compiled for AVX2")]
                #[allow(clippy::let_unit_value, reason = "some of the functions return nothing")]
                // SAFETY: a value of `Avx2` exists only if `detect` saw these features on this CPU.
                let output = unsafe { avx2(simd, $($argument),*) };
                output
            }
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Level::AvxVnni(simd) => {
                #[expect(unsafe_code, reason = "enters code compiled for AVX-VNNI")]
                #[allow(clippy::let_unit_value, reason = "some of the functions return nothing")]
                // SAFETY: a value of `AvxVnni` exists only if `detect` saw these features on this CPU.
                let output = unsafe { avxvnni(simd, $($argument),*) };
                output
            }
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Level::Avx512Vnni(simd) => {
                #[expect(unsafe_code, reason = "enters code compiled for AVX-512")]
                #[allow(clippy::let_unit_value, reason = "some of the functions return nothing")]
                // SAFETY: a value of `Avx512Vnni` exists only if `detect` saw these features on this CPU.
                let output = unsafe { avx512vnni(simd, $($argument),*) };
                output
            }
        }
    }};
}
pub(crate) use dispatch;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_comes_first_and_every_name_finds_its_isa() {
        let available = Isa::available();
        assert_eq!(available[0], Isa::SCALAR);
        assert_eq!(available.last(), Some(&Isa::best()));
        for isa in available {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_choices() {
        let message = Isa::named("mmx").unwrap_err().to_string();
        assert!(message.contains("`mmx`") && message.contains("available: scalar"), "{message}");
    }
}
