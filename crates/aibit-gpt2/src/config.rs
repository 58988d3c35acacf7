//! A GPT-2 model's `config.json`.

use aibit_graph::{ActivationFunction, ConfigError, ConfigFields};

/// The settings of a GPT-2 model that affect its output, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Longest sequence (`n_positions`).
    pub n_ctx: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Number of attention heads; divides `n_embd`.
    pub n_head: usize,
    /// Width inside the MLP.
    pub n_inner: usize,
    /// Function inside the MLP.
    pub activation: ActivationFunction,
    /// Added to the variance in each layer norm.
    pub layer_norm_epsilon: f32,
    /// Scale attention scores by `1 / sqrt(head_dim)`.
    pub scale_attn_weights: bool,
    /// Also scale them by `1 / (layer + 1)`.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether the head is tied to the token embedding.
    pub tie_word_embeddings: bool,
}

/// The family's name in messages.
const FAMILY: &str = "GPT-2";

impl Gpt2Config {
    /// Parses and checks `config.json`.
    ///
    /// A field that is absent or null has transformers' default; fields that only affect training are ignored. If a
    /// size has two names, the general one takes precedence, as in transformers.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] for an invalid file, [`ConfigError::WrongType`] for a field of another type,
    /// [`ConfigError::OutOfRange`] for contradicting numbers, [`ConfigError::Unsupported`] for a setting that changes
    /// the result and is not supported.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let fields = ConfigFields::from_json(json)?;
        let model_type = fields.get("model_type").cloned().unwrap_or_default();
        if model_type != crate::MODEL_TYPE {
            return Err(ConfigError::unsupported(FAMILY, "model_type", &model_type, "it must be \"gpt2\""));
        }
        let flag = |name, default| Ok::<_, ConfigError>(fields.boolean(name)?.unwrap_or(default));
        for field in ["add_cross_attention", "is_encoder_decoder"] {
            if flag(field, false)? {
                let supported = "a decoder without cross-attention is";
                return Err(ConfigError::unsupported(FAMILY, field, &true.into(), supported));
            }
        }
        // Reorders operations for mixed precision; the result in f32 is the same, so only the type is checked.
        flag("reorder_and_upcast_attn", false)?;
        if fields.object("pruned_heads")?.is_some_and(|heads| !heads.is_empty()) {
            let found = fields.get("pruned_heads").cloned().unwrap_or_default();
            return Err(ConfigError::unsupported(FAMILY, "pruned_heads", &found, "whole heads are"));
        }
        let size = |general: Option<&'static str>, own: &'static str, default: usize, max| {
            let (mut name, mut found) = (own, None);
            if let Some(general) = general {
                (name, found) = (general, fields.integer(general)?);
            }
            if found.is_none() {
                (name, found) = (own, fields.integer(own)?);
            }
            let found = found.unwrap_or(default);
            ConfigError::check_range(name, found, max)?;
            Ok::<_, ConfigError>(found)
        };
        let n_embd = size(Some("hidden_size"), "n_embd", 768, 1 << 16)?;
        let n_head = size(Some("num_attention_heads"), "n_head", 12, 1 << 16)?;
        if !n_embd.is_multiple_of(n_head) {
            let allowed = format!("a multiple of n_head = {n_head}");
            return Err(ConfigError::out_of_range("n_embd", n_embd, allowed));
        }
        let activation = fields.string("activation_function")?.unwrap_or_else(|| "gelu_new".into());
        let epsilon = fields.number("layer_norm_epsilon")?.unwrap_or(1e-5);
        Ok(Self {
            vocab_size: size(None, "vocab_size", 50_257, 1 << 24)?,
            n_ctx: size(Some("max_position_embeddings"), "n_positions", 1024, 1 << 24)?,
            n_embd,
            n_layer: size(Some("num_hidden_layers"), "n_layer", 12, 4096)?,
            n_head,
            // Integer products of longer rows could overflow i32.
            n_inner: size(None, "n_inner", n_embd.saturating_mul(4), 65_535)?,
            activation: ActivationFunction::of_config(FAMILY, "activation_function", &activation)?,
            layer_norm_epsilon: ConfigError::check_epsilon("layer_norm_epsilon", epsilon)?,
            scale_attn_weights: flag("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: flag("scale_attn_by_inverse_layer_idx", false)?,
            tie_word_embeddings: flag("tie_word_embeddings", true)?,
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

    #[test]
    fn null_is_absence_and_general_names_count() {
        // The values of `GPT2Config(**fields)` in transformers 5.24.
        let of = |json: &str| Gpt2Config::from_json(json.as_bytes()).expect("a configuration");
        let nulls = of(r#"{"model_type": "gpt2", "vocab_size": null, "n_positions": null, "n_embd": null,
            "n_layer": null, "n_head": null, "n_inner": null, "activation_function": null, "layer_norm_epsilon": null,
            "scale_attn_weights": null, "scale_attn_by_inverse_layer_idx": null, "reorder_and_upcast_attn": null,
            "tie_word_embeddings": null, "add_cross_attention": null, "is_encoder_decoder": null,
            "pruned_heads": null, "hidden_size": null, "max_position_embeddings": null}"#);
        assert_eq!(nulls, of(r#"{"model_type": "gpt2"}"#));
        let general = of(r#"{"model_type": "gpt2", "n_embd": 64, "hidden_size": 96, "n_layer": 5,
            "num_hidden_layers": 3, "num_attention_heads": 6, "max_position_embeddings": 77, "n_positions": 88,
            "n_ctx": 99}"#);
        assert_eq!((general.n_embd, general.n_inner, general.n_layer), (96, 384, 3));
        assert_eq!((general.n_head, general.n_ctx), (6, 77));
        // An old name that the class ignores.
        assert_eq!(of(r#"{"model_type": "gpt2", "n_ctx": 512}"#).n_ctx, 1024);
    }
}
