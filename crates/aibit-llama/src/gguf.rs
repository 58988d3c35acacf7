//! The family in GGUF files: the keys of its configuration, the names and the order of rows of its tensors, both ways.
//!
//! Source: llama.cpp, `gguf-py/gguf/constants.py`, `conversion/llama.py` and `conversion/qwen.py`.

use aibit_gguf::{GgmlType, Gguf, GgufError, Metadata, TensorNames, Value, special_ids};
use serde_json::json;

use crate::{LlamaConfig, ModelType, Rope, RopeScaling};

/// Its tensors there.
pub const GGUF_NAMES: TensorNames = TensorNames {
    top: &[
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.rotary_emb.inv_freq", FACTORS),
    ],
    block_prefix: "model.layers.",
    block: &[
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ],
};

/// What frequencies are divided by, where that is not one factor.
const FACTORS: &str = "rope_freqs.weight";

/// Whether the rows of a tensor stand in another order there: those of a head's first half between those of its second
/// half, since `llama` turns neighbours where checkpoints turn elements half a head apart.
pub fn has_interleaved_rows(architecture: &str, name: &str) -> bool {
    let module = name.strip_prefix("blk.").and_then(|rest| rest.split('.').nth(1));
    architecture == ModelType::Llama.name() && matches!(module, Some("attn_q" | "attn_k"))
}

/// `general.architecture` of a member of the family. Mistral is called `llama` there.
fn architecture(model_type: ModelType) -> &'static str {
    match model_type {
        ModelType::Llama | ModelType::Mistral => "llama",
        other => other.name(),
    }
}

/// Elements per head of the model that metadata describe.
///
/// # Errors
/// [`GgufError::Metadata`] for a key that is missing, of another type or impossible.
pub fn gguf_head_dim(metadata: &Metadata, architecture: &str) -> Result<usize, GgufError> {
    let key = |name: &str| format!("{architecture}.{name}");
    let (width, heads) = (key("embedding_length"), key("attention.head_count"));
    let bad = |key: String, problem: String| GgufError::Metadata { key, problem };
    let required = |key: &String| metadata.integer(key)?.ok_or_else(|| bad(key.clone(), "is missing".into()));
    let head_dim = match metadata.integer(&key("attention.key_length"))? {
        Some(length) => length,
        None => required(&width)?.checked_div(required(&heads)?).unwrap_or(0),
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = metadata.integer(&key(name))?.filter(|other| *other != head_dim) {
            let problem =
                format!("is {other}, heads have {head_dim} elements; other values are not supported");
            return Err(bad(key(name), problem));
        }
    }
    usize::try_from(head_dim)
        .ok()
        .filter(|head_dim| *head_dim > 0 && head_dim.is_multiple_of(2))
        .ok_or_else(|| bad(heads, format!("gives heads of {head_dim} elements, which must be pairs")))
}

/// The `config.json` that a GGUF file of the family stands for.
///
/// # Errors
/// [`GgufError::Metadata`] for a key that is missing, of another type, or of a kind of model that is not supported.
pub fn gguf_config(gguf: &Gguf, file: &[u8], vocabulary: usize) -> Result<serde_json::Value, GgufError> {
    let metadata = gguf.metadata();
    let bad = |key: &str, problem: &str| GgufError::Metadata { key: key.to_owned(), problem: problem.into() };
    let architecture = metadata.string("general.architecture")?.unwrap_or_default();
    let member = ModelType::ALL.into_iter().find(|known| known.name() == architecture);
    let model_type = member.unwrap_or(ModelType::Llama);
    let key = |name: &str| format!("{architecture}.{name}");
    let optional = |name: &str| metadata.integer(&key(name));
    let integer = |name: &str| optional(name)?.ok_or_else(|| bad(&key(name), "is missing"));
    if let Some(1..) = optional("expert_count")? {
        return Err(bad(&key("expert_count"), "asks for a mixture of experts, which is not supported"));
    }
    let float = |name: &str| -> Result<Option<f64>, GgufError> {
        let Some(value) = metadata.float(&key(name))? else { return Ok(None) };
        // JSON has no such numbers: it would be as if the key were missing.
        if !(value as f32).is_finite() {
            return Err(bad(&key(name), &format!("is {value}, it must be a finite F32")));
        }
        // An F32 there, the shortest number that rounds to it here.
        Ok(Some((value as f32).to_string().parse().unwrap_or(value)))
    };
    let epsilon = key("attention.layer_norm_rms_epsilon");
    let heads = integer("attention.head_count")?;
    let mut rope = json!({ "rope_theta": float("rope.freq_base")?.unwrap_or(10_000.0) });
    match metadata.string(&key("rope.scaling.type"))? {
        None | Some("none") => {}
        // Refused by name with the configuration, where it is none that is known.
        Some(other) => {
            rope["rope_type"] = other.into();
            rope["factor"] = float("rope.scaling.factor")?.into();
        }
    }
    if let Some(tensor) = gguf.tensor(FACTORS) {
        if tensor.dtype != GgmlType::F32 {
            return Err(bad(FACTORS, "must be F32"));
        }
        let factors: Vec<f32> =
            tensor.bytes(file).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let pairs = gguf_head_dim(metadata, architecture)? / 2;
        if factors.len() != pairs {
            return Err(bad(FACTORS, &format!("has {} factors, heads have {pairs} pairs", factors.len())));
        }
        let theta = rope["rope_theta"].as_f64().unwrap_or_default();
        rope = llama3_settings(theta, &factors).ok_or_else(|| {
            bad(FACTORS, "are not the factors of Llama 3, which are the only ones supported")
        })?;
    }
    let specials = special_ids(metadata)?;
    let has_bias = |name: &str| gguf.tensor(&format!("blk.0.{name}.bias")).is_some();
    Ok(json!({
        "model_type": model_type.name(),
        "architectures": [model_type.class()],
        "vocab_size": vocabulary,
        "max_position_embeddings": integer("context_length")?,
        "hidden_size": integer("embedding_length")?,
        "intermediate_size": integer("feed_forward_length")?,
        "num_hidden_layers": integer("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": optional("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": gguf_head_dim(metadata, architecture)?,
        "hidden_act": "silu",
        "rms_norm_eps": float("attention.layer_norm_rms_epsilon")?.ok_or_else(|| bad(&epsilon, "is missing"))?,
        "rope_parameters": rope,
        "attention_bias": has_bias("attn_output"),
        "mlp_bias": has_bias("ffn_down"),
        "tie_word_embeddings": gguf.tensor("output.weight").is_none(),
        "bos_token_id": specials.bos,
        "eos_token_id": specials.eos,
    }))
}

/// The settings of Llama 3.1 and later that give these factors. Files hold the factors alone; the largest is one of the
/// settings, the original context follows from any that lies between, and the rest is the same in every model so far.
fn llama3_settings(theta: f64, factors: &[f32]) -> Option<serde_json::Value> {
    let factor = factors.iter().copied().fold(1.0, f32::max);
    let is_number = |factor: &f32| factor.is_finite() && *factor >= 1.0;
    if !factors.iter().all(is_number) {
        return None;
    }
    // Blended frequencies say what the original context was; without any, all that blends none gives the same.
    let plain = Rope { theta, scaling: RopeScaling::Default }.frequencies(2 * factors.len());
    let blended = factors.iter().zip(plain).find(|(divisor, _)| **divisor > 1.0 && **divisor < factor);
    let solved = blended.map(|(divisor, frequency)| {
        let [divisor, factor, frequency] = [*divisor, factor, frequency].map(f64::from);
        let smooth = (divisor.recip() - factor.recip()) / (1.0 - factor.recip());
        ((1.0 + 3.0 * smooth) * std::f64::consts::TAU / frequency).round() as u32
    });
    let known = [8192, 4096, 2048, 16_384, 32_768, 131_072];
    solved.into_iter().chain(known).find_map(|original: u32| {
        let scaling = RopeScaling::Llama3 {
            factor: factor.into(),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: original.into(),
        };
        let divisors = Rope { theta, scaling }.divisors(2 * factors.len());
        let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs();
        divisors.iter().zip(factors).all(is_near).then(|| {
            json!({
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            })
        })
    })
}

/// The keys that llama.cpp needs to know of a model, the architecture first.
///
/// # Errors
/// The setting that llama.cpp does not have for this family.
pub fn gguf_metadata(config: &LlamaConfig) -> Result<Vec<(String, Value)>, String> {
    use aibit_graph::ActivationFunction::Silu;
    if config.activation != Silu {
        return Err(format!("its MLP has the activation silu, this model has {:?}", config.activation));
    }
    if config.model_type == ModelType::Qwen3 && config.has_qkv_bias {
        return Err("its Qwen3 has no biases in the attention".into());
    }
    let architecture = architecture(config.model_type);
    let key = |name: &str| format!("{architecture}.{name}");
    let mut entries = vec![("general.architecture".to_owned(), Value::String(architecture.to_owned()))];
    for (name, value) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.n_ctx),
        ("embedding_length", config.n_embd),
        ("feed_forward_length", config.n_inner),
        ("block_count", config.n_layer),
        ("attention.head_count", config.n_head),
        ("attention.head_count_kv", config.n_kv_head),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ] {
        let value =
            u32::try_from(value).map_err(|_| format!("{name} is {value}, which 32 bits do not hold"))?;
        entries.push((key(name), Value::U32(value)));
    }
    entries.push((key("attention.layer_norm_rms_epsilon"), Value::F32(config.rms_norm_epsilon)));
    entries.push((key("rope.freq_base"), Value::F32(config.rope.theta as f32)));
    if let RopeScaling::Linear { factor } = config.rope.scaling {
        entries.push((key("rope.scaling.type"), Value::String("linear".into())));
        entries.push((key("rope.scaling.factor"), Value::F32(factor as f32)));
    }
    Ok(entries)
}

/// Tensors that a GGUF file has and no checkpoint: the factors of Llama 3.
pub fn gguf_constants(config: &LlamaConfig) -> Vec<(&'static str, Vec<f32>)> {
    match config.rope.scaling {
        RopeScaling::Llama3 { .. } => vec![(FACTORS, config.rope.divisors(config.head_dim))],
        RopeScaling::Default | RopeScaling::Linear { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_rows_of_queries_and_keys_are_told_apart() {
        for (canonical, gguf) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.layers.29.self_attn.q_proj.weight", "blk.29.attn_q.weight"),
            ("model.layers.0.self_attn.k_norm.weight", "blk.0.attn_k_norm.weight"),
            ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ] {
            assert_eq!(GGUF_NAMES.to_gguf(canonical).as_deref(), Some(gguf));
            assert_eq!(GGUF_NAMES.to_canonical(gguf).as_deref(), Some(canonical));
        }
        assert!(has_interleaved_rows("llama", "blk.3.attn_q.weight"));
        assert!(has_interleaved_rows("llama", "blk.3.attn_k.bias"));
        assert!(!has_interleaved_rows("llama", "blk.3.attn_v.weight"));
        assert!(!has_interleaved_rows("llama", "blk.3.attn_q_norm.weight"));
        assert!(!has_interleaved_rows("qwen2", "blk.3.attn_q.weight"));
    }

    #[test]
    fn the_settings_of_llama_3_are_found_in_its_factors() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let factors = Rope { theta: 5e5, scaling }.divisors(64);
        let settings = llama3_settings(5e5, &factors).expect("the settings of Llama 3.2");
        assert_eq!(
            (&settings["factor"], &settings["original_max_position_embeddings"]),
            (&json!(32.0), &json!(8192))
        );
        assert_eq!(llama3_settings(5e5, &[1.0, 3.0, 2.0, 7.0]), None);
    }
}
