//! The family in GGUF files: configuration keys, tensor names and row order, in both directions.
//!
//! Source: llama.cpp, `gguf-py/gguf/constants.py`, `conversion/llama.py` and `conversion/qwen.py`.

use aibit_gguf::{Gguf, GgufError, Metadata, TensorNames, Value, special_ids};
use serde_json::json;

use crate::gguf_rope::{self, FACTORS, LONG_FACTORS, SHORT_FACTORS};
use crate::{LlamaConfig, ModelType, rope_settings};

/// Tensor names in GGUF files.
pub const GGUF_NAMES: TensorNames = TensorNames {
    top: &[
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.rotary_emb.inv_freq", FACTORS),
        ("model.rotary_emb.short_inv_freq", SHORT_FACTORS),
        ("model.rotary_emb.long_inv_freq", LONG_FACTORS),
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

/// Whether the rows of a tensor are permuted in GGUF files: in each head, the rows of the first half are interleaved
/// with those of the second, since `llama` uses GPT-J pairing and checkpoints use GPT-NeoX pairing.
pub fn has_interleaved_rows(architecture: &str, name: &str) -> bool {
    let module = name.strip_prefix("blk.").and_then(|rest| rest.split('.').nth(1));
    architecture == ModelType::Llama.name() && matches!(module, Some("attn_q" | "attn_k"))
}

/// `general.architecture` of a member of the family. Mistral is `llama` in GGUF files.
fn architecture(model_type: ModelType) -> &'static str {
    match model_type {
        ModelType::Llama | ModelType::Mistral => "llama",
        other => other.name(),
    }
}

/// Elements per head, from the metadata.
///
/// # Errors
/// [`GgufError::Metadata`] for a key that is missing, of another type or out of range.
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

/// The `config.json` equivalent to a GGUF file of the family.
///
/// # Errors
/// [`GgufError::Metadata`] for a key that is missing, of another type, or not supported.
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
    refuse_foreign_settings(metadata, architecture)?;
    let epsilon = key("attention.layer_norm_rms_epsilon");
    let heads = integer("attention.head_count")?;
    let (context, head_dim) = (integer("context_length")?, gguf_head_dim(metadata, architecture)?);
    let rope = gguf_rope::read(gguf, file, architecture, context, head_dim)?;
    let specials = special_ids(metadata)?;
    // Some layers may have a bias and others not.
    let has_bias = |modules: &[&str]| {
        let module = |name: &str| {
            name.strip_prefix("blk.")?.strip_suffix(".bias")?.split_once('.').map(|(_, m)| m.to_owned())
        };
        gguf.tensors().iter().filter_map(|tensor| module(&tensor.name)).any(|m| modules.contains(&m.as_str()))
    };
    let mut config = json!({
        "model_type": model_type.name(),
        "architectures": [model_type.class()],
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "hidden_size": integer("embedding_length")?,
        "intermediate_size": integer("feed_forward_length")?,
        "num_hidden_layers": integer("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": optional("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": gguf_rope::float(metadata, &epsilon)?.ok_or_else(|| bad(&epsilon, "is missing"))?,
        "attention_bias": has_bias(&["attn_q", "attn_k", "attn_v", "attn_output"]),
        "mlp_bias": has_bias(&["ffn_gate", "ffn_up", "ffn_down"]),
        "tie_word_embeddings": gguf.tensor("output.weight").is_none(),
        "bos_token_id": specials.bos,
        "eos_token_id": specials.eos,
    });
    config.as_object_mut().expect("an object").extend(rope_settings(&rope));
    if model_type == ModelType::Qwen2 {
        // Its class has biases only on queries, keys and values.
        config["attention_bias"] = false.into();
    }
    Ok(config)
}

/// Whether llama.cpp treats this tensor as zero if a file of `architecture` lacks it: any bias of Llama or Qwen3 may
/// be missing. `name` is canonical.
pub fn gguf_may_lack(architecture: &str, name: &str) -> bool {
    let optional = [ModelType::Llama, ModelType::Qwen3].map(ModelType::name);
    optional.contains(&architecture) && name.starts_with("model.layers.") && name.ends_with("_proj.bias")
}

/// Refuses keys of other architectures that affect the result, unless their value is neutral. llama.cpp ignores them
/// for this family, so a file with one is another model under this name.
fn refuse_foreign_settings(metadata: &Metadata, architecture: &str) -> Result<(), GgufError> {
    for (name, neutral) in [
        ("attn_logit_softcapping", 0.0),
        ("final_logit_softcapping", 0.0),
        ("attention.scale", 0.0),
        ("attention.clamp_kqv", 0.0),
        ("attention.max_alibi_bias", 0.0),
        ("logit_scale", 1.0),
        ("embedding_scale", 1.0),
        ("residual_scale", 1.0),
    ] {
        let key = format!("{architecture}.{name}");
        // Zero means absent.
        if let Some(found) = metadata.float(&key)?.filter(|found| *found != 0.0 && *found != neutral) {
            return Err(GgufError::Metadata { key, problem: format!("is {found}, which is not supported") });
        }
    }
    for (name, usual) in [("use_parallel_residual", false), ("attention.causal", true)] {
        let key = format!("{architecture}.{name}");
        if let Some(found) = metadata.boolean(&key)?.filter(|found| *found != usual) {
            return Err(GgufError::Metadata { key, problem: format!("is {found}, which is not supported") });
        }
    }
    Ok(())
}

/// The header of a GGUF file, without parameters and tokenizer.
#[derive(Debug)]
pub struct GgufHeader {
    /// The keys that llama.cpp needs, the architecture first.
    pub metadata: Vec<(String, Value)>,
    /// Tensors that no checkpoint has: rotary frequency factors.
    pub constants: Vec<(&'static str, Vec<f32>)>,
}

/// The header of the GGUF file for a model.
///
/// # Errors
/// The setting that llama.cpp does not support for this family.
pub fn gguf_header(config: &LlamaConfig) -> Result<GgufHeader, String> {
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
    let rope = gguf_rope::write(&config.rope, architecture, config.head_dim)?;
    entries.extend(rope.metadata);
    Ok(GgufHeader { metadata: entries, constants: rope.constants })
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
}
