//! `config.json` of a GPT-2 model.

use aibit_graph::{ActivationFunction, ConfigError};
use serde::Deserialize;

/// The settings of a GPT-2 model that decide what it computes, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// Token ids.
    pub vocab_size: usize,
    /// Longest sequence (`n_positions`).
    pub n_ctx: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Attention heads; divides `n_embd`.
    pub n_head: usize,
    /// Width inside the MLP.
    pub n_inner: usize,
    /// Function inside the MLP.
    pub activation: ActivationFunction,
    /// Added to the variance in every layer norm.
    pub layer_norm_epsilon: f32,
    /// Scale attention scores by `1 / sqrt(head_dim)`.
    pub scale_attn_weights: bool,
    /// Scale them by `1 / (layer + 1)` besides.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// The head shares the token embedding.
    pub tie_word_embeddings: bool,
}

/// The name in messages.
const FAMILY: &str = "GPT-2";

/// The file's own fields, with transformers' defaults.
#[derive(Deserialize)]
#[serde(default)]
struct RawConfig {
    model_type: String,
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: String,
    layer_norm_epsilon: f64,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
    /// Orders the operations for mixed precision; in f32 the result is the same, so only its type is checked.
    reorder_and_upcast_attn: bool,
    tie_word_embeddings: bool,
    add_cross_attention: bool,
    is_encoder_decoder: bool,
    pruned_heads: serde_json::Map<String, serde_json::Value>,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            model_type: String::new(),
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".into(),
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            reorder_and_upcast_attn: false,
            tie_word_embeddings: true,
            add_cross_attention: false,
            is_encoder_decoder: false,
            pruned_heads: serde_json::Map::new(),
        }
    }
}

impl Gpt2Config {
    /// Reads and checks `config.json`.
    ///
    /// Fields that are absent take transformers' defaults, fields that only concern training are not looked at.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] for what is not such a file, [`ConfigError::OutOfRange`] for numbers that
    /// contradict each other, [`ConfigError::Unsupported`] for a setting that changes the result and is
    /// not implemented.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_json::from_slice(json)?;
        if raw.model_type != crate::MODEL_TYPE {
            let found = format!("\"{}\"", raw.model_type);
            return Err(ConfigError::Unsupported {
                family: FAMILY,
                field: "model_type",
                found,
                supported: "it must be \"gpt2\"",
            });
        }
        let unsupported = [
            ("add_cross_attention", raw.add_cross_attention),
            ("is_encoder_decoder", raw.is_encoder_decoder),
        ];
        if let Some(&(field, _)) = unsupported.iter().find(|(_, set)| *set) {
            let supported = "a decoder without cross-attention is";
            return Err(ConfigError::Unsupported { family: FAMILY, field, found: "true".into(), supported });
        }
        if !raw.pruned_heads.is_empty() {
            let found = serde_json::to_string(&raw.pruned_heads)?;
            return Err(ConfigError::Unsupported {
                family: FAMILY,
                field: "pruned_heads",
                found,
                supported: "whole heads are",
            });
        }
        let n_inner = raw.n_inner.unwrap_or(raw.n_embd.saturating_mul(4));
        for (field, found, max) in [
            ("vocab_size", raw.vocab_size, 1 << 24),
            ("n_positions", raw.n_positions, 1 << 24),
            ("n_embd", raw.n_embd, 1 << 16),
            ("n_layer", raw.n_layer, 4096),
            ("n_head", raw.n_head, 1 << 16),
            ("n_inner", n_inner, 65_535), // integer products of longer rows could pass i32
        ] {
            ConfigError::check_range(field, found, max)?;
        }
        if !raw.n_embd.is_multiple_of(raw.n_head) {
            let allowed = format!("a multiple of n_head = {}", raw.n_head);
            return Err(ConfigError::OutOfRange { field: "n_embd", found: raw.n_embd.to_string(), allowed });
        }
        let layer_norm_epsilon = ConfigError::check_epsilon("layer_norm_epsilon", raw.layer_norm_epsilon)?;
        Ok(Self {
            vocab_size: raw.vocab_size,
            n_ctx: raw.n_positions,
            n_embd: raw.n_embd,
            n_layer: raw.n_layer,
            n_head: raw.n_head,
            n_inner,
            activation: ActivationFunction::of_config(
                FAMILY,
                "activation_function",
                &raw.activation_function,
            )?,
            layer_norm_epsilon,
            scale_attn_weights: raw.scale_attn_weights,
            scale_attn_by_inverse_layer_idx: raw.scale_attn_by_inverse_layer_idx,
            tie_word_embeddings: raw.tie_word_embeddings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        Gpt2Config::from_json(json.as_bytes()).expect_err("must be refused").to_string()
    }

    #[test]
    fn absent_fields_take_the_defaults_of_gpt2_124m() {
        let config = Gpt2Config::from_json(br#"{"model_type": "gpt2"}"#).expect("defaults");
        assert_eq!((config.n_layer, config.n_head, config.n_embd, config.n_inner), (12, 12, 768, 3072));
        assert_eq!((config.vocab_size, config.n_ctx), (50257, 1024));
        assert!(config.tie_word_embeddings && config.scale_attn_weights);
    }

    #[test]
    fn unsupported_settings_are_refused_by_name() {
        for (json, culprit) in [
            (r#"{"model_type": "bert"}"#, "model_type"),
            (r#"{"model_type": "gpt2", "add_cross_attention": true}"#, "add_cross_attention"),
            (r#"{"model_type": "gpt2", "is_encoder_decoder": true}"#, "is_encoder_decoder"),
            (r#"{"model_type": "gpt2", "activation_function": "mish"}"#, "mish"),
            (r#"{"model_type": "gpt2", "pruned_heads": {"0": [1]}}"#, "pruned_heads"),
            (r#"{"model_type": "gpt2", "n_layer": 0}"#, "n_layer"),
            (r#"{"model_type": "gpt2", "n_layer": -1}"#, "-1"),
            (r#"{"model_type": "gpt2", "n_layer": 1000000000}"#, "n_layer"),
            (r#"{"model_type": "gpt2", "n_head": 5}"#, "multiple of n_head = 5"),
            (r#"{"model_type": "gpt2", "layer_norm_epsilon": 0}"#, "layer_norm_epsilon"),
            (r#"{"model_type": "gpt2", "reorder_and_upcast_attn": 3}"#, "expected a boolean"),
        ] {
            let message = refusal(json);
            assert!(message.contains(culprit), "{json}: {message}");
        }
    }
}
