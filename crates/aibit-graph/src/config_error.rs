use crate::ActivationFunction;

/// Why an architecture crate refuses a model's configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not the JSON of such a configuration.
    #[error("config.json: {0}")]
    Parse(#[from] serde_json::Error),
    /// A number that no model can have.
    #[error("config.json: {field} is {found}, allowed is {allowed}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: String,
    },
    /// A setting that would change the result and is not supported.
    #[error("config.json: {field} = {found} is not supported for {family} ({supported})")]
    Unsupported {
        /// The family, as people call it.
        family: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is supported instead.
        supported: &'static str,
    },
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
        Err(Self::OutOfRange { field, found: found.to_string(), allowed: format!("1 to {max}") })
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
        Err(Self::OutOfRange { field, found: found.to_string(), allowed: "a positive number".into() })
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
                let found = format!("\"{other:.60}\"");
                return Err(ConfigError::Unsupported { family, field, found, supported });
            }
        })
    }
}
