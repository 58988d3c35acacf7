//! `config.json` of a model of the family.

use aibit_graph::{ActivationFunction, ConfigError};
use serde::Deserialize;
use serde_json::Value;

use crate::{Rope, RopeScaling};

/// The name in messages.
const FAMILY: &str = "the Llama family";

/// The members of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// Llama 1 to 3, and what has their shape: SmolLM2, TinyLlama, Yi.
    Llama,
    /// Mistral 7B and its kin.
    Mistral,
    /// Qwen2 and Qwen2.5: queries, keys and values have biases.
    Qwen2,
    /// Qwen3: queries and keys are normalized.
    Qwen3,
}

impl ModelType {
    /// Every member.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class that transformers loads it as.
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// The settings of a model that decide what it computes, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Which member of the family it is.
    pub model_type: ModelType,
    /// Token ids.
    pub vocab_size: usize,
    /// Longest sequence. With a sliding window at most that, up to which the window hides nothing.
    pub n_ctx: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Query heads.
    pub n_head: usize,
    /// Heads of keys and values; divides `n_head`.
    pub n_kv_head: usize,
    /// Elements per head; even.
    pub head_dim: usize,
    /// Width inside the MLP.
    pub n_inner: usize,
    /// Function of the MLP's gate.
    pub activation: ActivationFunction,
    /// Added to the mean square in every norm.
    pub rms_norm_epsilon: f32,
    /// How positions turn queries and keys.
    pub rope: Rope,
    /// Queries, keys and values have biases.
    pub has_qkv_bias: bool,
    /// The attention's output layer has one.
    pub has_output_bias: bool,
    /// The MLP's layers have.
    pub has_mlp_bias: bool,
    /// Queries and keys are normalized, each head by itself.
    pub has_qk_norm: bool,
    /// The head shares the token embedding.
    pub tie_word_embeddings: bool,
}

/// The file's own fields. Sizes have no defaults: transformers writes them, and a guess would be a wrong model.
#[derive(Deserialize)]
struct RawConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    hidden_act: String,
    rms_norm_eps: f64,
    /// Up to transformers 4; null where a later one has written the rest.
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    /// From transformers 5 on.
    rope_parameters: Option<RawRope>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
}

#[derive(Deserialize)]
struct RawRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

/// Head width of a Qwen3 model that says none.
const QWEN3_HEAD_DIM: usize = 128;

impl LlamaConfig {
    /// Reads and checks `config.json`. Fields that only concern training are not looked at.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] for what is not such a file, [`ConfigError::OutOfRange`] for numbers that
    /// contradict each other, [`ConfigError::Unsupported`] for a setting that changes the result and is
    /// not implemented.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let fields: serde_json::Map<String, Value> = serde_json::from_slice(json)?;
        let found = fields.get("model_type").cloned().unwrap_or_default();
        let model_type = ModelType::ALL.into_iter().find(|known| found == known.name());
        let model_type = model_type.ok_or_else(|| {
            unsupported("model_type", found, "\"llama\", \"mistral\", \"qwen2\" and \"qwen3\" are")
        })?;
        // From the text again: errors then have a line.
        let raw: RawConfig = serde_json::from_slice(json)?;
        let n_head = raw.num_attention_heads;
        let n_kv_head = raw.num_key_value_heads.unwrap_or(n_head);
        for (field, found, max) in [
            ("vocab_size", raw.vocab_size, 1 << 24),
            ("max_position_embeddings", raw.max_position_embeddings, 1 << 24),
            ("hidden_size", raw.hidden_size, 65_535), // integer products of longer rows could pass i32
            ("num_hidden_layers", raw.num_hidden_layers, 4096),
            ("num_attention_heads", n_head, 1 << 16),
            ("num_key_value_heads", n_kv_head, 1 << 16),
            ("intermediate_size", raw.intermediate_size, 65_535),
        ] {
            ConfigError::check_range(field, found, max)?;
        }
        let out_of_range = |field, found: usize, allowed| ConfigError::OutOfRange {
            field,
            found: found.to_string(),
            allowed,
        };
        if !n_head.is_multiple_of(n_kv_head) {
            let allowed = format!("a divisor of num_attention_heads = {n_head}");
            return Err(out_of_range("num_key_value_heads", n_kv_head, allowed));
        }
        let head_dim = match (raw.head_dim, model_type) {
            (Some(head_dim), _) => head_dim,
            (None, ModelType::Qwen3) => QWEN3_HEAD_DIM,
            (None, _) if !raw.hidden_size.is_multiple_of(n_head) => {
                let allowed = format!("a multiple of num_attention_heads = {n_head} (there is no head_dim)");
                return Err(out_of_range("hidden_size", raw.hidden_size, allowed));
            }
            (None, _) => raw.hidden_size / n_head,
        };
        ConfigError::check_range("head_dim", head_dim, 1 << 16)?;
        if !head_dim.is_multiple_of(2) {
            return Err(out_of_range("head_dim", head_dim, "an even number: positions turn pairs".into()));
        }
        if n_head.saturating_mul(head_dim) > 65_535 {
            let allowed = format!("at most 65535 / num_attention_heads = {}", 65_535 / n_head);
            return Err(out_of_range("head_dim", head_dim, allowed));
        }
        let has_attention_bias = match model_type {
            ModelType::Llama | ModelType::Qwen3 => raw.attention_bias.unwrap_or(false),
            ModelType::Mistral | ModelType::Qwen2 => false,
        };
        let window = match model_type {
            ModelType::Mistral => raw.sliding_window,
            _ => raw.sliding_window.filter(|_| raw.use_sliding_window == Some(true)),
        };
        Ok(Self {
            model_type,
            vocab_size: raw.vocab_size,
            n_ctx: raw.max_position_embeddings.min(window.unwrap_or(usize::MAX).max(1)),
            n_embd: raw.hidden_size,
            n_layer: raw.num_hidden_layers,
            n_head,
            n_kv_head,
            head_dim,
            n_inner: raw.intermediate_size,
            activation: ActivationFunction::of_config(FAMILY, "hidden_act", &raw.hidden_act)?,
            rms_norm_epsilon: ConfigError::check_epsilon("rms_norm_eps", raw.rms_norm_eps)?,
            rope: rope(&raw)?,
            has_qkv_bias: has_attention_bias || model_type == ModelType::Qwen2,
            has_output_bias: has_attention_bias,
            has_mlp_bias: model_type == ModelType::Llama && raw.mlp_bias.unwrap_or(false),
            has_qk_norm: model_type == ModelType::Qwen3,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
        })
    }
}

fn unsupported(field: &'static str, found: impl Into<Value>, supported: &'static str) -> ConfigError {
    let found = found.into().to_string().chars().take(60).collect();
    ConfigError::Unsupported { family: FAMILY, field, found, supported }
}

fn rope(raw: &RawConfig) -> Result<Rope, ConfigError> {
    let settings = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let theta = settings.and_then(|rope| rope.rope_theta).or(raw.rope_theta).unwrap_or(10_000.0);
    let check = |field, value: f64, allowed: &str, is_allowed: bool| match is_allowed && value.is_finite() {
        true => Ok(value),
        false => Err(ConfigError::OutOfRange { field, found: value.to_string(), allowed: allowed.into() }),
    };
    check("rope_theta", theta, "a number above 1", theta > 1.0)?;
    let Some(settings) = settings else { return Ok(Rope { theta, scaling: RopeScaling::Default }) };
    if let Some(part) = settings.partial_rotary_factor.filter(|part| *part != 1.0) {
        return Err(unsupported("partial_rotary_factor", part, "1 is: positions turn whole heads"));
    }
    let required = |field, value: Option<f64>| {
        let value = value.ok_or(ConfigError::OutOfRange {
            field,
            found: "absent".into(),
            allowed: "a positive number".into(),
        })?;
        check(field, value, "a positive number", value > 0.0)
    };
    let scaling = match settings.rope_type.as_deref().unwrap_or("default") {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: required("rope_scaling.factor", settings.factor)? },
        "llama3" => {
            let low = required("rope_scaling.low_freq_factor", settings.low_freq_factor)?;
            let high = required("rope_scaling.high_freq_factor", settings.high_freq_factor)?;
            check("rope_scaling.high_freq_factor", high, "a number above low_freq_factor", high > low)?;
            RopeScaling::Llama3 {
                factor: required("rope_scaling.factor", settings.factor)?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context: required(
                    "rope_scaling.original_max_position_embeddings",
                    settings.original_max_position_embeddings,
                )?,
            }
        }
        other => return Err(unsupported("rope_type", other, "default, linear and llama3 are")),
    };
    Ok(Rope { theta, scaling })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#""vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 128, "hidden_act": "silu", "rms_norm_eps": 1e-5"#;

    fn read(fields: &str) -> Result<LlamaConfig, ConfigError> {
        // Of a key that stands twice the parser would take neither.
        let mut base: serde_json::Map<String, Value> =
            serde_json::from_str(&format!("{{{BASE}}}")).expect("JSON");
        let fields: serde_json::Map<String, Value> =
            serde_json::from_str(&format!("{{{fields}}}")).expect("JSON");
        base.extend(fields);
        LlamaConfig::from_json(&serde_json::to_vec(&base).expect("JSON"))
    }

    #[test]
    fn members_differ_in_what_they_add() {
        let of = |fields: &str| read(fields).expect("a configuration");
        let llama = of(r#""model_type": "llama", "num_key_value_heads": null"#);
        assert_eq!((llama.n_kv_head, llama.head_dim, llama.rope.theta), (4, 16, 10_000.0));
        assert!(!(llama.has_qkv_bias || llama.has_qk_norm || llama.tie_word_embeddings));
        let biased = of(r#""model_type": "llama", "attention_bias": true, "mlp_bias": true"#);
        assert!(biased.has_qkv_bias && biased.has_output_bias && biased.has_mlp_bias);
        let qwen2 = of(r#""model_type": "qwen2", "num_key_value_heads": 2, "rope_theta": 1e6"#);
        assert!(qwen2.has_qkv_bias && !qwen2.has_output_bias && !qwen2.has_qk_norm);
        assert_eq!((qwen2.n_kv_head, qwen2.rope.theta), (2, 1e6));
        let qwen3 = of(r#""model_type": "qwen3""#);
        assert!(qwen3.has_qk_norm && !qwen3.has_qkv_bias);
        assert_eq!(qwen3.head_dim, 128);
    }

    #[test]
    fn a_sliding_window_ends_the_context() {
        let context = |fields: &str| read(fields).expect("a configuration").n_ctx;
        assert_eq!(context(r#""model_type": "mistral", "sliding_window": 32"#), 32);
        assert_eq!(context(r#""model_type": "mistral", "sliding_window": null"#), 128);
        assert_eq!(context(r#""model_type": "mistral", "sliding_window": 4096"#), 128);
        assert_eq!(
            context(r#""model_type": "qwen2", "sliding_window": 32, "use_sliding_window": false"#),
            128
        );
        assert_eq!(context(r#""model_type": "qwen2", "sliding_window": 32, "use_sliding_window": true"#), 32);
    }

    #[test]
    fn both_spellings_of_rope_settings_are_read() {
        let scaling = r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}"#;
        let old = format!(r#""model_type": "llama", "rope_theta": 5e5, "rope_scaling": {scaling}"#);
        let new = format!(
            r#""model_type": "llama", "rope_parameters": {}"#,
            scaling.replacen('{', r#"{"rope_theta": 5e5, "#, 1)
        );
        let (old, new) = (read(&old).expect("old"), read(&new).expect("new"));
        assert_eq!(old.rope, new.rope);
        assert_eq!(old.rope.theta, 5e5);
        assert!(matches!(old.rope.scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
    }

    #[test]
    fn unsupported_settings_are_refused_by_name() {
        for (fields, culprit) in [
            (r#""model_type": "gemma""#, "model_type = \"gemma\""),
            (r#""model_type": "llama", "hidden_act": "mish""#, "mish"),
            (r#""model_type": "llama", "num_key_value_heads": 3"#, "num_key_value_heads is 3"),
            (r#""model_type": "llama", "num_attention_heads": 5"#, "there is no head_dim"),
            (r#""model_type": "llama", "head_dim": 15"#, "head_dim is 15"),
            (r#""model_type": "llama", "head_dim": 20000"#, "head_dim is 20000"),
            (r#""model_type": "llama", "rms_norm_eps": 0"#, "rms_norm_eps"),
            (r#""model_type": "llama", "rope_theta": 0"#, "rope_theta is 0"),
            (
                r#""model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 4}"#,
                "rope_type = \"yarn\"",
            ),
            (r#""model_type": "llama", "rope_scaling": {"type": "linear"}"#, "factor is absent"),
            (
                r#""model_type": "llama", "rope_parameters": {"partial_rotary_factor": 0.5}"#,
                "partial_rotary_factor = 0.5",
            ),
            (r#""model_type": "llama", "num_hidden_layers": 0"#, "num_hidden_layers"),
            (r#""model_type": "llama", "vocab_size": -1"#, "-1"),
        ] {
            let message = read(fields).expect_err("must be refused").to_string();
            assert!(message.contains(culprit), "{fields}: {message}");
        }
        let message =
            LlamaConfig::from_json(br#"{"model_type": "llama"}"#).expect_err("no sizes").to_string();
        assert!(message.contains("missing field"), "{message}");
    }
}
