//! `config.json` of a model of the family.

use aibit_graph::{ActivationFunction, ConfigError, ConfigFields, ContextLimit};

use crate::{Rope, RopeScaling, rope_settings};

/// The family's name in messages.
pub(crate) const FAMILY: &str = "the Llama family";

/// The members of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// Llama 1 to 3 and models of the same architecture: SmolLM2, TinyLlama, Yi.
    Llama,
    /// Mistral 7B and related models.
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

    /// Its class in transformers.
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// The settings of a model that affect its output, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// The member of the family.
    pub model_type: ModelType,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Longest sequence; at most the sliding window, up to which the window masks nothing.
    pub n_ctx: usize,
    /// Why the context ends there although the model could continue.
    pub context_limit: Option<ContextLimit>,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Number of query heads.
    pub n_head: usize,
    /// Number of KV heads; divides `n_head`.
    pub n_kv_head: usize,
    /// Elements per head; even.
    pub head_dim: usize,
    /// Width inside the MLP.
    pub n_inner: usize,
    /// Function of the MLP's gate.
    pub activation: ActivationFunction,
    /// Added to the mean square in each norm.
    pub rms_norm_epsilon: f32,
    /// The rotary position embedding.
    pub rope: Rope,
    /// Whether queries, keys and values have biases.
    pub has_qkv_bias: bool,
    /// Whether the attention output has a bias.
    pub has_output_bias: bool,
    /// Whether the MLP's layers have biases.
    pub has_mlp_bias: bool,
    /// Whether queries and keys are normalized, per head.
    pub has_qk_norm: bool,
    /// Whether the head is tied to the token embedding.
    pub tie_word_embeddings: bool,
}

/// Defaults of transformers' classes for absent fields.
struct Defaults {
    vocab_size: usize,
    intermediate_size: usize,
    /// If absent, the number of query heads.
    n_kv_head: Option<usize>,
    /// If absent, width divided by heads.
    head_dim: Option<usize>,
    max_position_embeddings: usize,
}

impl ModelType {
    /// Source: transformers 5.24, `configuration_llama.py` and related files; common defaults are in
    /// [`LlamaConfig::from_json`].
    fn defaults(self) -> Defaults {
        match self {
            Self::Llama => Defaults {
                vocab_size: 32_000,
                intermediate_size: 11_008,
                n_kv_head: None,
                head_dim: None,
                max_position_embeddings: 2048,
            },
            Self::Mistral => Defaults {
                vocab_size: 32_000,
                intermediate_size: 14_336,
                n_kv_head: Some(8),
                head_dim: None,
                max_position_embeddings: 131_072,
            },
            Self::Qwen2 => Defaults {
                vocab_size: 151_936,
                intermediate_size: 22_016,
                n_kv_head: Some(32),
                head_dim: None,
                max_position_embeddings: 32_768,
            },
            Self::Qwen3 => Defaults { head_dim: Some(128), ..Self::Qwen2.defaults() },
        }
    }
}

/// Default size of a sliding window.
const DEFAULT_WINDOW: usize = 4096;

impl LlamaConfig {
    /// Parses and checks `config.json`. A field that is absent or null has the default of its class in transformers;
    /// fields that only affect training are ignored.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] for an invalid file, [`ConfigError::WrongType`] for a field of another type,
    /// [`ConfigError::OutOfRange`] for contradicting numbers, [`ConfigError::Unsupported`] for a setting that changes
    /// the result and is not supported.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let fields = ConfigFields::from_json(json)?;
        let found = fields.get("model_type").cloned().unwrap_or_default();
        let model_type = ModelType::ALL.into_iter().find(|known| found == known.name());
        let model_type = model_type.ok_or_else(|| {
            let supported = "\"llama\", \"mistral\", \"qwen2\" and \"qwen3\" are";
            ConfigError::unsupported(FAMILY, "model_type", &found, supported)
        })?;
        refuse_foreign_settings(&fields)?;
        let defaults = model_type.defaults();
        let integer = |name, default| Ok::<_, ConfigError>(fields.integer(name)?.unwrap_or(default));
        let flag = |name| Ok::<_, ConfigError>(fields.boolean(name)?.unwrap_or(false));
        let vocab_size = integer("vocab_size", defaults.vocab_size)?;
        let context = integer("max_position_embeddings", defaults.max_position_embeddings)?;
        let n_embd = integer("hidden_size", 4096)?;
        let n_layer = integer("num_hidden_layers", 32)?;
        let n_head = integer("num_attention_heads", 32)?;
        let n_inner = integer("intermediate_size", defaults.intermediate_size)?;
        let n_kv_head = match fields.integer("num_key_value_heads")? {
            Some(heads) => heads,
            // Classes with a default of their own treat null as Llama's does.
            None if fields.is_null("num_key_value_heads") => n_head,
            None => defaults.n_kv_head.unwrap_or(n_head),
        };
        for (field, found, max) in [
            ("vocab_size", vocab_size, 1 << 24),
            ("max_position_embeddings", context, 1 << 24),
            ("hidden_size", n_embd, 65_535), // integer products of longer rows could overflow i32
            ("num_hidden_layers", n_layer, 4096),
            ("num_attention_heads", n_head, 1 << 16),
            ("num_key_value_heads", n_kv_head, 1 << 16),
            ("intermediate_size", n_inner, 65_535),
        ] {
            ConfigError::check_range(field, found, max)?;
        }
        if !n_head.is_multiple_of(n_kv_head) {
            let allowed = format!("a divisor of num_attention_heads = {n_head}");
            return Err(ConfigError::out_of_range("num_key_value_heads", n_kv_head, allowed));
        }
        let head_dim = match fields.integer("head_dim")?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if !n_embd.is_multiple_of(n_head) => {
                let allowed = format!("a multiple of num_attention_heads = {n_head} (there is no head_dim)");
                return Err(ConfigError::out_of_range("hidden_size", n_embd, allowed));
            }
            None => n_embd / n_head,
        };
        ConfigError::check_range("head_dim", head_dim, 1 << 16)?;
        if !head_dim.is_multiple_of(2) {
            let allowed = "an even number: positions turn pairs";
            return Err(ConfigError::out_of_range("head_dim", head_dim, allowed));
        }
        if n_head.saturating_mul(head_dim) > 65_535 {
            let allowed = format!("at most 65535 / num_attention_heads = {}", 65_535 / n_head);
            return Err(ConfigError::out_of_range("head_dim", head_dim, allowed));
        }
        let has_attention_bias = match model_type {
            ModelType::Llama | ModelType::Qwen3 => flag("attention_bias")?,
            ModelType::Mistral | ModelType::Qwen2 => false,
        };
        let activation = fields.string("hidden_act")?.unwrap_or_else(|| "silu".into());
        let window = window(&fields, model_type, n_layer)?.map(|window| window.max(1));
        let rope = rope_settings::read(&fields, context, head_dim)?;
        let context_limit = match (&rope.scaling, window) {
            (_, Some(window)) if window < context => Some(ContextLimit::SlidingWindow),
            (RopeScaling::Dynamic { .. }, _) => Some(ContextLimit::DynamicRope),
            _ => None,
        };
        Ok(Self {
            model_type,
            vocab_size,
            n_ctx: context.min(window.unwrap_or(usize::MAX)),
            context_limit,
            n_embd,
            n_layer,
            n_head,
            n_kv_head,
            head_dim,
            n_inner,
            activation: ActivationFunction::of_config(FAMILY, "hidden_act", &activation)?,
            rms_norm_epsilon: ConfigError::check_epsilon(
                "rms_norm_eps",
                fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            )?,
            rope,
            has_qkv_bias: has_attention_bias || model_type == ModelType::Qwen2,
            has_output_bias: has_attention_bias,
            has_mlp_bias: model_type == ModelType::Llama && flag("mlp_bias")?,
            has_qk_norm: model_type == ModelType::Qwen3,
            tie_word_embeddings: flag("tie_word_embeddings")?,
        })
    }
}

/// The size of the sliding window, if any layer has one.
fn window(
    fields: &ConfigFields,
    model_type: ModelType,
    n_layer: usize,
) -> Result<Option<usize>, ConfigError> {
    let kinds = fields.strings("layer_types")?;
    let window = match fields.integer("sliding_window")? {
        None if fields.is_null("sliding_window") => None,
        window => Some(window.unwrap_or(DEFAULT_WINDOW)),
    };
    let refused =
        |kind: &str, supported| Err(ConfigError::unsupported(FAMILY, "layer_types", &kind.into(), supported));
    match model_type {
        ModelType::Llama | ModelType::Mistral => {
            // The class ignores this field, but some engines follow it.
            if let Some(kind) = kinds.iter().flatten().find(|kind| *kind != "full_attention") {
                return refused(kind, "full_attention is");
            }
            Ok(window.filter(|_| model_type == ModelType::Mistral))
        }
        ModelType::Qwen2 | ModelType::Qwen3 => {
            let is_used = fields.boolean("use_sliding_window")?.unwrap_or(false);
            let window = window.filter(|_| is_used);
            let Some(kinds) = kinds else {
                let first = fields.integer("max_window_layers")?.unwrap_or(28);
                return Ok(window.filter(|_| first < n_layer));
            };
            if kinds.len() != n_layer {
                let allowed = format!("one kind for each of num_hidden_layers = {n_layer}");
                let found = format!("a list of {}", kinds.len());
                return Err(ConfigError::out_of_range("layer_types", found, allowed));
            }
            if let Some(kind) =
                kinds.iter().find(|k| !matches!(k.as_str(), "full_attention" | "sliding_attention"))
            {
                return refused(kind, "full_attention and sliding_attention are");
            }
            match (kinds.iter().find(|kind| *kind == "sliding_attention"), window) {
                (Some(kind), None) => refused(
                    kind,
                    "full_attention is where use_sliding_window and sliding_window set no window",
                ),
                (Some(_), window) => Ok(window),
                (None, _) => Ok(None),
            }
        }
    }
}

/// Refuses settings of other families that affect the result, unless their value is neutral. The classes of this
/// family ignore them, so a file with one was made for other software or is another model under this name.
fn refuse_foreign_settings(fields: &ConfigFields) -> Result<(), ConfigError> {
    const FOREIGN: [(&str, Option<f64>); 21] = [
        ("attention_multiplier", None),
        ("embedding_multiplier", Some(1.0)),
        ("residual_multiplier", Some(1.0)),
        ("logits_scaling", Some(1.0)),
        ("logit_scale", Some(1.0)),
        ("scale_emb", Some(1.0)),
        ("scale_depth", None),
        ("dim_model_base", None),
        ("query_pre_attn_scalar", None),
        ("logits_soft_cap", Some(0.0)),
        ("attn_logit_softcapping", Some(0.0)),
        ("final_logit_softcapping", Some(0.0)),
        ("clip_qkv", Some(0.0)),
        ("num_local_experts", Some(0.0)),
        ("num_experts", Some(0.0)),
        ("n_routed_experts", Some(0.0)),
        ("use_qk_norm", None),
        ("qk_layernorm", None),
        ("alibi", None),
        ("use_bidirectional_attention", None),
        ("no_rope_layers", None),
    ];
    for (field, neutral) in FOREIGN {
        let Some(value) = fields.get(field) else { continue };
        let is_neutral =
            *value == serde_json::Value::Bool(false) || (neutral.is_some() && value.as_f64() == neutral);
        if !is_neutral {
            return Err(ConfigError::unsupported(FAMILY, field, value, "its models do not have it"));
        }
    }
    match fields.get("is_causal") {
        Some(value) if *value != true => {
            Err(ConfigError::unsupported(FAMILY, "is_causal", value, "causal attention is"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const BASE: &str = r#""vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128, "hidden_act": "silu", "rms_norm_eps": 1e-5"#;

    fn read(fields: &str) -> Result<LlamaConfig, ConfigError> {
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
        assert_eq!(
            context(
                r#""model_type": "qwen2", "sliding_window": 32, "use_sliding_window": true, "max_window_layers": 0"#
            ),
            32
        );
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
            (
                r#""model_type": "llama", "num_attention_heads": 5, "num_key_value_heads": null"#,
                "there is no head_dim",
            ),
            (r#""model_type": "llama", "head_dim": 15"#, "head_dim is 15"),
            (r#""model_type": "llama", "head_dim": 20000"#, "head_dim is 20000"),
            (r#""model_type": "llama", "rms_norm_eps": 0"#, "rms_norm_eps"),
            (r#""model_type": "llama", "rope_theta": 0"#, "rope_theta is 0"),
            (
                r#""model_type": "llama", "layer_types": ["full_attention", "sliding_attention"]"#,
                "layer_types",
            ),
            (r#""model_type": "llama", "is_causal": false"#, "is_causal"),
            (r#""model_type": "llama", "attention_multiplier": 0.1"#, "attention_multiplier"),
            (r#""model_type": "llama", "residual_multiplier": 0.5"#, "residual_multiplier"),
            (r#""model_type": "qwen2", "attn_logit_softcapping": 50.0"#, "attn_logit_softcapping"),
            (r#""model_type": "mistral", "num_local_experts": 8"#, "num_local_experts"),
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
    }

    #[test]
    fn absent_fields_have_the_values_of_their_class() {
        // The values of `LlamaConfig()` and related classes in transformers 5.24.
        let of = |json: &str| LlamaConfig::from_json(json.as_bytes()).expect("the defaults of the class");
        let llama = of(r#"{"model_type": "llama"}"#);
        assert_eq!(
            (llama.vocab_size, llama.n_embd, llama.n_inner, llama.n_layer),
            (32_000, 4096, 11_008, 32)
        );
        assert_eq!((llama.n_head, llama.n_kv_head, llama.head_dim, llama.n_ctx), (32, 32, 128, 2048));
        assert_eq!((llama.rms_norm_epsilon, llama.activation), (1e-6, ActivationFunction::Silu));
        let mistral = of(r#"{"model_type": "mistral"}"#);
        assert_eq!((mistral.n_inner, mistral.n_kv_head, mistral.n_ctx), (14_336, 8, 4096));
        let qwen2 = of(r#"{"model_type": "qwen2"}"#);
        assert_eq!((qwen2.vocab_size, qwen2.n_inner, qwen2.n_kv_head), (151_936, 22_016, 32));
        assert_eq!((qwen2.n_ctx, qwen2.head_dim), (32_768, 128));
        let qwen3 = of(r#"{"model_type": "qwen3", "hidden_size": 64}"#);
        assert_eq!((qwen3.n_ctx, qwen3.head_dim, qwen3.n_kv_head), (32_768, 128, 32));
        // Names from early conversions, which the class ignores.
        let old = of(r#"{"model_type": "llama", "max_sequence_length": 256, "hidden_activation": "gelu"}"#);
        assert_eq!((old.n_ctx, old.activation), (2048, ActivationFunction::Silu));
    }

    #[test]
    fn null_is_absence() {
        let of = |json: &str| LlamaConfig::from_json(json.as_bytes()).expect("a configuration");
        for model_type in ModelType::ALL.map(ModelType::name) {
            let fields = [
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "head_dim",
                "hidden_act",
                "max_position_embeddings",
                "rms_norm_eps",
                "rope_theta",
                "rope_scaling",
                "rope_parameters",
                "attention_bias",
                "mlp_bias",
                "tie_word_embeddings",
                "use_sliding_window",
                "max_window_layers",
                "layer_types",
                "partial_rotary_factor",
                "original_max_position_embeddings",
                "attention_multiplier",
                "is_causal",
            ];
            let nulls: Vec<_> = fields.iter().map(|field| format!("\"{field}\": null")).collect();
            let nulls = of(&format!(r#"{{"model_type": "{model_type}", {}}}"#, nulls.join(", ")));
            assert_eq!(nulls, of(&format!(r#"{{"model_type": "{model_type}"}}"#)));
            // As many KV heads as query heads, where an absent field has a default of its own.
            let own = of(&format!(r#"{{"model_type": "{model_type}", "num_key_value_heads": null}}"#));
            assert_eq!(own.n_kv_head, own.n_head);
        }
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_field() {
        for (fields, culprit) in [
            (r#""vocab_size": 512.5"#, "vocab_size is 512.5, expected a non-negative integer"),
            (r#""hidden_size": "64""#, "hidden_size is \"64\""),
            (r#""num_hidden_layers": true"#, "num_hidden_layers is true"),
            (r#""num_key_value_heads": [2]"#, "num_key_value_heads is [2]"),
            (r#""hidden_act": 1"#, "hidden_act is 1, expected a string"),
            (r#""rms_norm_eps": "1e-5""#, "rms_norm_eps is \"1e-5\", expected a number"),
            (r#""attention_bias": "true""#, "attention_bias is \"true\", expected a boolean"),
            (r#""tie_word_embeddings": 1"#, "tie_word_embeddings is 1"),
            (r#""rope_theta": "10000""#, "rope_theta is \"10000\""),
            (r#""rope_scaling": "linear""#, "rope_scaling is \"linear\", expected an object"),
            (r#""rope_parameters": []"#, "rope_parameters is [], expected an object"),
            (r#""rope_scaling": {"type": 2}"#, "rope_scaling.type is 2, expected a string"),
            (r#""rope_scaling": {"type": "linear", "factor": "2"}"#, "rope_scaling.factor is \"2\""),
            (r#""layer_types": "full_attention""#, "layer_types is \"full_attention\""),
            (r#""sliding_window": "no""#, "sliding_window is \"no\""),
        ] {
            let message =
                read(&format!("\"model_type\": \"llama\", {fields}")).expect_err(fields).to_string();
            assert!(message.contains(culprit), "{fields}: {message}");
        }
    }

    #[test]
    fn only_layers_with_a_window_end_the_context() {
        let context = |model_type: &str, fields: &str| {
            read(&format!(r#""model_type": "{model_type}", {fields}"#)).expect("a configuration").n_ctx
        };
        for model_type in ["qwen2", "qwen3"] {
            let used = r#""use_sliding_window": true, "sliding_window": 32"#;
            let of = |fields: &str| context(model_type, &format!("{used}, {fields}"));
            assert_eq!(of(r#""max_window_layers": 2"#), 128);
            assert_eq!(of(r#""max_window_layers": 1"#), 32);
            assert_eq!(
                of(r#""layer_types": ["full_attention", "full_attention"], "max_window_layers": 0"#),
                128
            );
            assert_eq!(of(r#""layer_types": ["full_attention", "sliding_attention"]"#), 32);
            let message = read(&format!(
                r#""model_type": "{model_type}", "layer_types": ["sliding_attention", "full_attention"]"#
            ));
            assert!(message.expect_err("no window").to_string().contains("layer_types"));
            let message =
                read(&format!(r#""model_type": "{model_type}", "layer_types": ["full_attention"]"#));
            assert!(message.expect_err("one of two").to_string().contains("layer_types is a list of 1"));
            let message = read(&format!(
                r#""model_type": "{model_type}", "layer_types": ["linear_attention", "full_attention"]"#
            ));
            assert!(message.expect_err("another kind").to_string().contains("linear_attention"));
        }
        // Llama's class has no window.
        assert_eq!(context("llama", r#""sliding_window": 32, "use_sliding_window": true"#), 128);
    }

    fn rope(fields: &str) -> Rope {
        for model_type in ["mistral", "qwen2", "qwen3"] {
            let other = read(&format!("\"model_type\": \"{model_type}\", \"head_dim\": 16, {fields}"));
            let llama = read(&format!("\"model_type\": \"llama\", \"head_dim\": 16, {fields}"));
            assert_eq!(other.expect("other").rope, llama.expect("llama").rope, "{model_type}: {fields}");
        }
        read(&format!("\"model_type\": \"llama\", {fields}")).expect("a configuration").rope
    }

    #[test]
    fn rope_scaling_counts_beside_rope_parameters() {
        use RopeScaling::{Default, Dynamic, Linear};
        // Each as given by `LlamaConfig(**fields).rope_parameters` in transformers 5.24.
        for (fields, theta, scaling) in [
            (
                r#""rope_scaling": {"rope_type": "linear", "factor": 3}, "rope_parameters": {"rope_type": "default"}"#,
                1e4,
                Linear { factor: 3.0 },
            ),
            // It replaces the other as a whole: its base is then the default.
            (
                r#""rope_scaling": {"type": "linear", "factor": 3}, "rope_parameters": {"rope_theta": 7.0}"#,
                1e4,
                Linear { factor: 3.0 },
            ),
            (
                r#""rope_scaling": {"type": "linear", "factor": 3}, "rope_parameters": {"rope_theta": 7.0}, "rope_theta": 5.0"#,
                5.0,
                Linear { factor: 3.0 },
            ),
            (
                r#""rope_scaling": {"type": "linear", "factor": 3, "rope_theta": 6.0}, "rope_theta": 5.0"#,
                6.0,
                Linear { factor: 3.0 },
            ),
            // If empty, it is ignored.
            (
                r#""rope_scaling": {}, "rope_parameters": {"rope_theta": 7.0, "rope_type": "linear", "factor": 2}"#,
                7.0,
                Linear { factor: 2.0 },
            ),
            (
                r#""rope_scaling": null, "rope_parameters": {"rope_theta": 7.0}, "rope_theta": 5.0"#,
                7.0,
                Default,
            ),
            (
                r#""rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_type": "linear", "factor": 2}"#,
                1e4,
                Default,
            ),
            (r#""rope_parameters": {"rope_theta": null}, "rope_theta": 5.0"#, 5.0, Default),
            // Of two names the newer takes precedence, in either object; a factor without a kind has no effect.
            (
                r#""rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2}"#,
                1e4,
                Linear { factor: 2.0 },
            ),
            (
                r#""rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2}"#,
                1e4,
                Dynamic { factor: 2.0 },
            ),
            (r#""rope_parameters": {"type": "yarn", "rope_type": "default", "factor": 2}"#, 1e4, Default),
            (
                r#""rope_parameters": {"type": "linear", "rope_type": null, "factor": 2}"#,
                1e4,
                Linear { factor: 2.0 },
            ),
            (r#""rope_scaling": {"factor": 2}"#, 1e4, Default),
            // Keys that the kind does not have are ignored.
            (r#""rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}"#, 1e4, Default),
        ] {
            assert_eq!(rope(fields), Rope { theta, scaling }, "{fields}");
        }
    }

    #[test]
    fn yarn_and_longrope_are_read_with_their_defaults() {
        // The context is 128; expected values worked out from the formulas of transformers 5.24.
        let mscale = |factor: f64, scale: f64| 0.1 * scale * factor.ln() + 1.0;
        let yarn =
            |fields: &str| match rope(&format!(r#""rope_scaling": {{"type": "yarn", {fields}}}"#)).scaling {
                RopeScaling::Yarn {
                    factor,
                    beta_fast,
                    beta_slow,
                    truncate,
                    original_context,
                    attention_factor,
                } => (factor, beta_fast, beta_slow, truncate, original_context, attention_factor),
                other => panic!("{other:?}"),
            };
        assert_eq!(yarn(r#""factor": 4"#), (4.0, 32.0, 1.0, true, 128.0, mscale(4.0, 1.0)));
        assert_eq!(
            yarn(
                r#""factor": 4, "original_max_position_embeddings": 32, "beta_fast": 16, "beta_slow": 2,
                "truncate": false, "attention_factor": 0.9"#
            ),
            (4.0, 16.0, 2.0, false, 32.0, 0.9)
        );
        assert_eq!(yarn(r#""factor": null, "original_max_position_embeddings": 64"#).0, 2.0);
        assert_eq!(yarn(r#""factor": 0.5"#).5, 1.0);
        assert_eq!(yarn(r#""factor": 4, "beta_fast": 0, "beta_slow": 0"#).1, 32.0);
        let both = r#""factor": 4, "mscale": 0.7, "mscale_all_dim": 0.3"#;
        assert_eq!(yarn(both).5, mscale(4.0, 0.7) / mscale(4.0, 0.3));
        assert_eq!(yarn(r#""factor": 4, "mscale": 0.7"#).5, mscale(4.0, 1.0));
        assert_eq!(yarn(r#""factor": 4, "mscale": 0.7, "mscale_all_dim": 0"#).5, mscale(4.0, 1.0));
        // At the top level the original context overrides the one inside.
        let outside = r#""original_max_position_embeddings": 16,
            "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32}"#;
        assert!(matches!(rope(outside).scaling, RopeScaling::Yarn { original_context: 16.0, .. }));

        let tables = r#""short_factor": [1, 1, 1, 1, 1, 1, 1, 2], "long_factor": [1, 2, 3, 4, 5, 6, 7, 8]"#;
        let longrope = |fields: &str| match rope(&format!(
            r#""rope_scaling": {{"type": "longrope", {tables}{fields}}}"#
        ))
        .scaling
        {
            RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor } => {
                assert_eq!((short_factor[7], long_factor[7]), (2.0, 8.0));
                (original_context, attention_factor)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(longrope(""), (128, 1.0));
        let root = |factor: f64| (1.0 + factor.ln() / 32_f64.ln()).sqrt();
        assert_eq!(longrope(r#", "original_max_position_embeddings": 32"#), (32, root(4.0)));
        assert_eq!(longrope(r#", "original_max_position_embeddings": 32, "factor": 8"#), (32, root(8.0)));
        let given = r#", "original_max_position_embeddings": 32, "attention_factor": 1.5"#;
        assert_eq!(longrope(given), (32, 1.5));
    }

    #[test]
    fn kinds_of_scaling_that_are_not_supported_are_refused_in_every_spelling() {
        for kind in ["su", "ntk", "mrope", "proportional", "axial", "llama4", "Linear", ""] {
            for object in ["rope_scaling", "rope_parameters"] {
                for name in ["type", "rope_type"] {
                    let fields = format!(
                        r#""model_type": "qwen2", "{object}": {{"{name}": "{kind}", "factor": 2.0}}"#
                    );
                    let message = read(&fields).expect_err("must be refused").to_string();
                    assert!(message.contains(&format!("{object}.{name} = \"{kind}\"")), "{message}");
                }
            }
        }
        for (fields, culprit) in [
            (r#""rope_scaling": {"type": "linear"}"#, "rope_scaling.factor is absent"),
            (r#""rope_scaling": {"type": "dynamic"}"#, "rope_scaling.factor is absent"),
            (r#""rope_scaling": {"type": "linear", "factor": 0}"#, "rope_scaling.factor is 0"),
            (r#""rope_scaling": {"type": "linear", "factor": -2}"#, "rope_scaling.factor is -2"),
            (r#""rope_scaling": {"type": "llama3", "factor": 8}"#, "low_freq_factor is absent"),
            (
                r#""rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}"#,
                "high_freq_factor is 1",
            ),
            (
                r#""rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": -1}"#,
                "rope_scaling.beta_fast is -1",
            ),
            (
                r#""rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 0}"#,
                "original_max_position_embeddings is 0",
            ),
            (r#""rope_scaling": {"type": "longrope", "long_factor": [1]}"#, "short_factor is absent"),
            (
                r#""rope_scaling": {"type": "longrope", "short_factor": [1, 2]}"#,
                "short_factor is a list of 2",
            ),
            (
                r#""rope_scaling": {"type": "longrope", "short_factor": [1, 2, 3, 4, 5, 6, 7, 0]}"#,
                "short_factor is 0",
            ),
            (
                r#""rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2}}"#,
                "rope_parameters.full_attention",
            ),
            (r#""partial_rotary_factor": 0.5"#, "partial_rotary_factor = 0.5"),
            (
                r#""rope_scaling": {"type": "linear", "factor": 2, "partial_rotary_factor": 0.25}"#,
                "rope_scaling.partial_rotary_factor = 0.25",
            ),
            (r#""rope_theta": 0.5"#, "rope_theta is 0.5"),
            (r#""rope_parameters": {"rope_theta": -1}"#, "rope_parameters.rope_theta is -1"),
        ] {
            let message =
                read(&format!("\"model_type\": \"llama\", {fields}")).expect_err(fields).to_string();
            assert!(message.contains(culprit), "{fields}: {message}");
        }
        // The inner value takes precedence.
        rope(r#""partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 1.0}"#);
    }

    #[test]
    fn rope_settings_are_read_back_as_they_were() {
        let tables = r#""short_factor": [1, 1, 1, 1, 1, 1, 1, 2], "long_factor": [1, 2, 3, 4, 5, 6, 7, 8]"#;
        for scaling in [
            r#""type": "default""#,
            r#""type": "linear", "factor": 2.5"#,
            r#""type": "dynamic", "factor": 2.5"#,
            r#""type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                "original_max_position_embeddings": 64"#,
            r#""type": "yarn", "factor": 4, "original_max_position_embeddings": 32, "truncate": false"#,
            &format!(r#""type": "longrope", {tables}, "original_max_position_embeddings": 32"#),
        ] {
            let want = rope(&format!(r#""rope_theta": 5e5, "rope_scaling": {{{scaling}}}"#));
            let written = rope_settings::rope_settings(&want);
            let fields = |names: &[&str]| {
                let field = |name: &&str| Some(format!("\"{name}\": {}", written.get(*name)?));
                names.iter().filter_map(field).collect::<Vec<_>>().join(", ")
            };
            // As version 4 reads it, as version 5 reads its own, and both together.
            assert_eq!(
                rope(&fields(&["rope_theta", "rope_scaling", "original_max_position_embeddings"])),
                want
            );
            assert_eq!(rope(&fields(&["rope_parameters"])), want);
            let all = ["rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings"];
            assert_eq!(rope(&fields(&all)), want);
        }
    }
}
