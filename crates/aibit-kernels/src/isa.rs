//! Which instruction set the kernels run on: found at run time, forced with `AIBIT_ISA`.

use std::fmt;

use crate::simd::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512Vnni};

/// An instruction set that this CPU has.
///
/// A value exists only where the CPU supports it, so holding one is the proof that its code may run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

/// The one list of instruction sets, each with the token its kernels ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
}

/// `AIBIT_ISA` asks for something this CPU does not have.
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
}

impl Isa {
    /// Plain Rust, present on every CPU: the specification that the others equal bit for bit.
    pub const SCALAR: Self = Self(Level::Scalar(Scalar));

    /// Every instruction set of this CPU: [`Isa::SCALAR`] first, the best last.
    pub fn available() -> Vec<Self> {
        let levels = [
            Some(Level::Scalar(Scalar)),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            Avx512Vnni::detect().map(Level::Avx512Vnni),
        ];
        levels.into_iter().flatten().map(Self).collect()
    }

    /// The best instruction set of this CPU.
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::SCALAR)
    }

    /// The instruction set that `AIBIT_ISA` names, or the best one if the variable is unset or empty.
    ///
    /// # Errors
    /// [`IsaError::Unavailable`] if the variable names one that this CPU lacks or nobody knows.
    pub fn selected() -> Result<Self, IsaError> {
        match std::env::var_os("AIBIT_ISA") {
            None => Ok(Self::best()),
            Some(value) if value.is_empty() => Ok(Self::best()),
            Some(value) => Self::named(&value.to_string_lossy()),
        }
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

    /// Its name: `scalar`, `avx2` or `avx512vnni`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni(_) => "avx512vnni",
        }
    }

    pub(crate) fn level(self) -> Level {
        self.0
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
