//! Which tensor gets which scheme.

use std::fmt;
use std::str::FromStr;

use aibit_format::{Override, Recipe, Scheme};
use aibit_graph::{ActivationPrecision, KvPrecision, Parameter, Place, Role};
use regex::Regex;

use crate::encoding::Encoding;
use crate::precision::{LLM_INT8_THRESHOLD, PrecisionRecipe};
use crate::{PackError, PackOptions};

/// A named choice of schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Every linear layer, the token embedding (shared with a tied head) and cached keys and values as INT8;
    /// positions as F16.
    Int8,
    /// Exactly what transformers with bitsandbytes quantizes: the linear layers inside the blocks. Other
    /// matrices keep the source's type, cached keys and values are F32.
    BnbInt8,
    /// [`Preset::BnbInt8`] with NF4 in place of INT8.
    Nf4,
    /// [`Preset::Nf4`] with double quantization.
    Nf4Dq,
    /// [`Preset::BnbInt8`] with FP4 in place of INT8.
    Fp4,
    /// [`Preset::Fp4`] with double quantization.
    Fp4Dq,
    /// Every linear layer and the token embedding as INT8 in groups of 32, as in GGUF's Q8_0; positions as F16.
    Int8G32,
    /// Every linear layer as INT4 in groups of 32, as in GGUF's Q4_0; embedding and head as INT8 in groups.
    Int4G32,
    /// Everything as F32.
    F32,
    /// Every matrix and cached keys and values as F16.
    F16,
    /// Every matrix as the source has it, codes and scales included, or as F32 where no scheme holds its codes; cached
    /// keys and values are F32.
    Keep,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 11] = [
        Self::Int8,
        Self::BnbInt8,
        Self::Nf4,
        Self::Nf4Dq,
        Self::Fp4,
        Self::Fp4Dq,
        Self::Int8G32,
        Self::Int4G32,
        Self::F32,
        Self::F16,
        Self::Keep,
    ];

    /// The name on the command line and in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::BnbInt8 => "bnb-int8",
            Self::Nf4 => "nf4",
            Self::Nf4Dq => "nf4-dq",
            Self::Fp4 => "fp4",
            Self::Fp4Dq => "fp4-dq",
            Self::Int8G32 => "int8-g32",
            Self::Int4G32 => "int4-g32",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Keep => "keep",
        }
    }

    /// How cached keys and values are kept: about as good as the weights.
    fn kv_precision(self) -> KvPrecision {
        match self {
            Self::Int8 => KvPrecision::Int8,
            Self::F16 | Self::Int8G32 | Self::Int4G32 => KvPrecision::F16,
            Self::BnbInt8 | Self::Nf4 | Self::Nf4Dq | Self::Fp4 | Self::Fp4Dq | Self::F32 | Self::Keep => {
                KvPrecision::F32
            }
        }
    }

    /// The scheme for a parameter. Vectors are F32 in every preset, which holds any source type without loss:
    /// they are small, and executed in place.
    fn scheme(self, parameter: &Parameter, source: &Encoding<'_>) -> Scheme {
        let columns = parameter.shape.last().copied().unwrap_or(1);
        // As the source has it, or what holds every value.
        let kept = source.scheme(columns).unwrap_or(Scheme::F32);
        match (self, parameter.role) {
            (_, Role::Vector) | (Self::F32, _) => Scheme::F32,
            (Self::Keep, _) => kept,
            (Self::Int8, Role::Linear | Role::Embedding | Role::Head) | (Self::BnbInt8, Role::Linear) => {
                Scheme::Int8
            }
            (Self::Nf4, Role::Linear) => Scheme::Nf4,
            (Self::Nf4Dq, Role::Linear) => Scheme::Nf4Dq,
            (Self::Fp4, Role::Linear) => Scheme::Fp4,
            (Self::Fp4Dq, Role::Linear) => Scheme::Fp4Dq,
            (Self::Int4G32, Role::Linear) => Scheme::Int4G32,
            (Self::Int8G32, Role::Linear | Role::Embedding | Role::Head)
            | (Self::Int4G32, Role::Embedding | Role::Head) => Scheme::Int8G32,
            (Self::Int8 | Self::Int8G32 | Self::Int4G32, Role::PositionEmbedding) | (Self::F16, _) => {
                Scheme::F16
            }
            (
                Self::BnbInt8 | Self::Nf4 | Self::Nf4Dq | Self::Fp4 | Self::Fp4Dq,
                Role::Embedding | Role::PositionEmbedding | Role::Head,
            ) => kept,
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
    /// Whether nobody asked for the preset.
    is_default: bool,
    requantize: bool,
}

impl CompiledRecipe {
    /// Without a preset a source that is quantized already is kept, and any other becomes INT8.
    pub(crate) fn new(
        preset: Option<Preset>,
        is_quantized: bool,
        overrides: &[Override],
        requantize: bool,
    ) -> Result<Self, PackError> {
        let is_default = preset.is_none();
        let preset = preset.unwrap_or(if is_quantized { Preset::Keep } else { Preset::Int8 });
        let compile = |o: &Override| match Regex::new(&o.pattern) {
            Ok(regex) => Ok((regex, o.clone())),
            Err(e) => Err(PackError::Recipe(format!(
                "the pattern `{}` is not a regular expression: {e}",
                o.pattern
            ))),
        };
        let overrides = overrides.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { preset, overrides, is_default, requantize })
    }

    /// The record of this recipe in the manifest.
    pub(crate) fn record(&self, options: &PackOptions) -> Recipe {
        let name = |(place, precision): (&Place, &ActivationPrecision)| {
            (place.name().to_owned(), precision.name().to_owned())
        };
        Recipe {
            preset: self.preset.name().to_owned(),
            overrides: self.overrides.iter().map(|(_, o)| o.clone()).collect(),
            activations: options.activations.iter().map(name).collect(),
            kv_cache: options.kv_cache.map(|precision| precision.name().to_owned()),
        }
    }

    /// How activations, keys and values are to be treated; `threshold` is the outlier threshold that the checkpoint was
    /// quantized with, where it was, 0 for no outliers.
    pub(crate) fn precision(&self, options: &PackOptions, threshold: Option<f32>) -> PrecisionRecipe {
        PrecisionRecipe {
            activations: options.activations.clone(),
            kv_cache: options.kv_cache,
            preset_kv_cache: self.preset.kv_precision(),
            threshold: Some(threshold.unwrap_or(LLM_INT8_THRESHOLD)).filter(|threshold| *threshold > 0.0),
        }
    }

    /// The scheme of each parameter, given how the source stores it.
    pub(crate) fn schemes(
        &self,
        parameters: &[(&Parameter, &Encoding<'_>)],
    ) -> Result<Vec<Scheme>, PackError> {
        for (regex, Override { pattern, scheme }) in &self.overrides {
            if !parameters.iter().any(|(parameter, _)| regex.is_match(&parameter.name)) {
                return Err(PackError::Recipe(format!(
                    "the pattern `{pattern}` (={scheme}) matches no tensor; `aibit inspect` shows the names"
                )));
            }
        }
        parameters.iter().map(|&(parameter, source)| self.scheme(parameter, source)).collect()
    }

    fn scheme(&self, parameter: &Parameter, source: &Encoding<'_>) -> Result<Scheme, PackError> {
        let chosen = self.overrides.iter().rev().find(|(regex, _)| regex.is_match(&parameter.name));
        let columns = parameter.shape.last().copied().unwrap_or(1);
        let kept = source.scheme(columns);
        let scheme = match chosen {
            Some((_, o)) => o.scheme,
            // Four times the size is no choice to be made for somebody.
            None if self.is_default && kept.is_none() => Scheme::Int8,
            None => self.preset.scheme(parameter, source),
        };
        let refused =
            |problem: String| Err(PackError::Scheme { name: parameter.name.clone(), scheme, problem });
        if parameter.role == Role::Vector && scheme != Scheme::F32 {
            return refused(
                "biases and norms are executed in place as f32; narrow the pattern to matrices".into(),
            );
        }
        if !columns.is_multiple_of(scheme.block()) {
            let block = scheme.block();
            return refused(format!(
                "its rows of {columns} are not whole blocks of {block}; choose another scheme"
            ));
        }
        // F32 holds every value of every format.
        if source.is_quantized() && kept != Some(scheme) && scheme != Scheme::F32 && !self.requantize {
            return Err(PackError::Requantize {
                name: parameter.name.clone(),
                found: source.name(),
                scheme,
                advice: if kept.is_some() {
                    "omit --quantize to keep the codes, or use --requantize"
                } else {
                    "no scheme can hold its codes: use --requantize, or --quantize keep to store its values as f32"
                },
            });
        }
        Ok(scheme)
    }
}
