//! Which tensor gets which scheme.

use std::fmt;
use std::str::FromStr;

use aibit_format::{Override, Recipe, Scheme};
use aibit_graph::{KvPrecision, Parameter, Role};
use regex::Regex;

use crate::{PackError, SourceDtype};

/// A named choice of schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// Every linear layer, the token embedding (shared with a tied head) and cached keys and values as INT8;
    /// positions as F16.
    #[default]
    Int8,
    /// Exactly what transformers with bitsandbytes quantizes: the linear layers inside the blocks. Other
    /// matrices keep the source's type, cached keys and values are F32.
    BnbInt8,
    /// Everything as F32.
    F32,
    /// Every matrix and cached keys and values as F16.
    F16,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 4] = [Self::Int8, Self::BnbInt8, Self::F32, Self::F16];

    /// The name on the command line and in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::BnbInt8 => "bnb-int8",
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    /// How cached keys and values are kept: about as good as the weights.
    fn kv_precision(self) -> KvPrecision {
        match self {
            Self::Int8 => KvPrecision::Int8,
            Self::F16 => KvPrecision::F16,
            Self::BnbInt8 | Self::F32 => KvPrecision::F32,
        }
    }

    /// The scheme for a parameter. Vectors are F32 in every preset, which holds any source type without loss:
    /// they are small, and executed in place.
    fn scheme(self, role: Role, source: SourceDtype) -> Scheme {
        match (self, role) {
            (_, Role::Vector) | (Self::F32, _) => Scheme::F32,
            (Self::Int8, Role::Linear | Role::Embedding | Role::Head) | (Self::BnbInt8, Role::Linear) => {
                Scheme::Int8
            }
            (Self::Int8, Role::PositionEmbedding) | (Self::F16, _) => Scheme::F16,
            (Self::BnbInt8, Role::Embedding | Role::PositionEmbedding | Role::Head) => match source {
                SourceDtype::F32 => Scheme::F32,
                SourceDtype::F16 => Scheme::F16,
                SourceDtype::Bf16 => Scheme::Bf16,
            },
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("unknown preset `{name}`, known are {known}")
        })
    }
}

/// A recipe whose patterns have been compiled.
#[derive(Debug)]
pub(crate) struct CompiledRecipe {
    preset: Preset,
    overrides: Vec<(Regex, Override)>,
}

impl CompiledRecipe {
    pub(crate) fn new(preset: Preset, overrides: &[Override]) -> Result<Self, PackError> {
        let compile = |o: &Override| match Regex::new(&o.pattern) {
            Ok(regex) => Ok((regex, o.clone())),
            Err(e) => Err(PackError::Recipe(format!(
                "the pattern `{}` is not a regular expression: {e}",
                o.pattern
            ))),
        };
        Ok(Self { preset, overrides: overrides.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// The record of this recipe in the manifest.
    pub(crate) fn record(&self) -> Recipe {
        let overrides = self.overrides.iter().map(|(_, o)| o.clone()).collect();
        Recipe { preset: self.preset.name().to_owned(), overrides }
    }

    /// See [`Preset`], but F16 where integer sums could overflow. Exceptions are about tensors and change nothing here.
    pub(crate) fn kv_precision(&self, head_dim: usize, context: usize) -> KvPrecision {
        let fits = head_dim <= KvPrecision::MAX_INT8_HEAD_DIM && context <= KvPrecision::MAX_INT8_CONTEXT;
        match self.preset.kv_precision() {
            KvPrecision::Int8 if !fits => KvPrecision::F16,
            precision => precision,
        }
    }

    /// The scheme of each parameter, given the source type of each.
    pub(crate) fn schemes(&self, parameters: &[(&Parameter, SourceDtype)]) -> Result<Vec<Scheme>, PackError> {
        for (regex, Override { pattern, scheme }) in &self.overrides {
            if !parameters.iter().any(|(parameter, _)| regex.is_match(&parameter.name)) {
                return Err(PackError::Recipe(format!(
                    "the pattern `{pattern}` (={scheme}) matches no tensor; `aibit inspect` shows the names"
                )));
            }
        }
        parameters.iter().map(|&(parameter, source)| self.scheme(parameter, source)).collect()
    }

    fn scheme(&self, parameter: &Parameter, source: SourceDtype) -> Result<Scheme, PackError> {
        let chosen = self.overrides.iter().rev().find(|(regex, _)| regex.is_match(&parameter.name));
        let Some((_, Override { scheme, .. })) = chosen else {
            return Ok(self.preset.scheme(parameter.role, source));
        };
        if parameter.role == Role::Vector && *scheme != Scheme::F32 {
            let problem = "biases and norms are executed in place as f32; narrow the pattern to matrices";
            return Err(PackError::Scheme { name: parameter.name.clone(), scheme: *scheme, problem });
        }
        Ok(*scheme)
    }
}
