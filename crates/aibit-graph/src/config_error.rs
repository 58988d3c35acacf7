use serde_json::Value;

use crate::ActivationFunction;
use crate::error::beginning;

/// Why an architecture crate refuses a model's configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a valid configuration in JSON.
    #[error("config.json: {0}")]
    Parse(String),
    /// A value of the wrong type.
    #[error("config.json: {field} is {found:.80}, expected {expected}")]
    WrongType {
        /// The field.
        field: String,
        /// The expected type.
        expected: &'static str,
        /// Its value.
        found: String,
    },
    /// A number out of range.
    #[error("config.json: {field} is {found:.80}, allowed is {allowed}")]
    OutOfRange {
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// The allowed range.
        allowed: String,
    },
    /// An unsupported setting that would change the result.
    #[error("config.json: {field} = {found:.80} is not supported for {family} ({supported})")]
    Unsupported {
        /// The family's name for messages.
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
    /// Checks that a number of a configuration is in `1..=max`.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`].
    pub fn check_range(field: &'static str, found: usize, max: usize) -> Result<(), Self> {
        if (1..=max).contains(&found) {
            return Ok(());
        }
        Err(Self::out_of_range(field, found, format!("1 to {max}")))
    }

    /// Checks that an epsilon of a norm is positive as an F32, and returns it.
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

    /// An error for a number out of range; `allowed` describes the range.
    pub fn out_of_range(field: impl Into<String>, found: impl ToString, allowed: impl Into<String>) -> Self {
        Self::OutOfRange { field: field.into(), found: found.to_string(), allowed: allowed.into() }
    }

    /// An error for an unsupported setting of `family`; `supported` describes the alternatives.
    pub fn unsupported(
        family: &'static str,
        field: impl Into<String>,
        found: &Value,
        supported: &'static str,
    ) -> Self {
        Self::Unsupported { family, field: field.into(), found: Self::shortened(found), supported }
    }

    /// A value for error messages, truncated to 60 characters.
    pub(crate) fn shortened(value: &Value) -> String {
        value.to_string().chars().take(60).collect()
    }
}

impl ActivationFunction {
    /// The activation function that a configuration of `family` names in `field`, by transformers' `ACT2FN`.
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
