use serde_json::Value;

use crate::ActivationFunction;
use crate::error::beginning;

/// Why an architecture crate refuses a model's configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not the JSON of such a configuration.
    #[error("config.json: {0}")]
    Parse(String),
    /// A value of another type than the field has.
    #[error("config.json: {field} is {found:.80}, expected {expected}")]
    WrongType {
        /// The field.
        field: String,
        /// The type.
        expected: &'static str,
        /// Its value.
        found: String,
    },
    /// A number that no model can have.
    #[error("config.json: {field} is {found:.80}, allowed is {allowed}")]
    OutOfRange {
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: String,
    },
    /// A setting that would change the result and is not supported.
    #[error("config.json: {field} = {found:.80} is not supported for {family} ({supported})")]
    Unsupported {
        /// The family, as people call it.
        family: &'static str,
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What is supported instead.
        supported: &'static str,
    },
}

impl From<serde_json::Error> for ConfigError {
    fn from(error: serde_json::Error) -> Self {
        Self::Parse(beginning(&error))
    }
}

impl ConfigError {
    /// Checks that a number of a configuration is from 1 to `max`.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`].
    pub fn check_range(field: &'static str, found: usize, max: usize) -> Result<(), Self> {
        if (1..=max).contains(&found) {
            return Ok(());
        }
        Err(Self::out_of_range(field, found, format!("1 to {max}")))
    }

    /// Checks that a number that is added to a variance is positive as an F32, which is returned.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`].
    pub fn check_epsilon(field: &'static str, found: f64) -> Result<f32, Self> {
        let epsilon = found as f32;
        if epsilon.is_finite() && epsilon > 0.0 {
            return Ok(epsilon);
        }
        Err(Self::out_of_range(field, found, "a positive number"))
    }

    /// A number that `field` cannot have; what is `allowed`.
    pub fn out_of_range(field: impl Into<String>, found: impl ToString, allowed: impl Into<String>) -> Self {
        Self::OutOfRange { field: field.into(), found: found.to_string(), allowed: allowed.into() }
    }

    /// A setting of `family` that is not supported; what is `supported` instead.
    pub fn unsupported(
        family: &'static str,
        field: impl Into<String>,
        found: &Value,
        supported: &'static str,
    ) -> Self {
        Self::Unsupported { family, field: field.into(), found: Self::shortened(found), supported }
    }

    /// A value as errors show it, at most 60 characters of it.
    pub(crate) fn shortened(value: &Value) -> String {
        value.to_string().chars().take(60).collect()
    }
}

impl ActivationFunction {
    /// The function that a configuration of `family` names in `field`, as transformers' `ACT2FN` has it.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] for any other name.
    pub fn of_config(family: &'static str, field: &'static str, name: &str) -> Result<Self, ConfigError> {
        Ok(match name {
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => Self::GeluTanh,
            "gelu" | "gelu_python" => Self::GeluErf,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "tanh" => Self::Tanh,
            "quick_gelu" => Self::QuickGelu,
            "sigmoid" => Self::Sigmoid,
            other => {
                let supported = "gelu_new, gelu_pytorch_tanh, gelu_fast, gelu, relu, silu, swish, tanh, quick_gelu and \
                                 sigmoid are";
                return Err(ConfigError::unsupported(family, field, &Value::from(other), supported));
            }
        })
    }
}
