//! GPT-2 in GGUF files: configuration keys and tensor names, in both directions.
//!
//! Source: llama.cpp, `gguf-py/gguf/constants.py` and `conversion/gpt2.py`.

use aibit_gguf::{GgufError, Metadata, TensorNames, Value};
use serde_json::json;

use crate::Gpt2Config;

/// `general.architecture` of this family.
pub const GGUF_ARCHITECTURE: &str = "gpt2";

const CONTEXT: &str = "gpt2.context_length";
const WIDTH: &str = "gpt2.embedding_length";
const INNER: &str = "gpt2.feed_forward_length";
const LAYERS: &str = "gpt2.block_count";
const HEADS: &str = "gpt2.attention.head_count";
const EPSILON: &str = "gpt2.attention.layer_norm_epsilon";

/// Tensor names in GGUF files.
pub const GGUF_NAMES: TensorNames = TensorNames {
    top: &[
        ("transformer.wte.weight", "token_embd.weight"),
        ("transformer.wpe.weight", "position_embd.weight"),
        ("transformer.ln_f.weight", "output_norm.weight"),
        ("transformer.ln_f.bias", "output_norm.bias"),
        ("lm_head.weight", "output.weight"),
    ],
    block_prefix: "transformer.h.",
    block: &[
        ("ln_1", "attn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ],
};

/// The `config.json` equivalent to a GGUF file's metadata; `has_head` says whether the head is a separate tensor.
///
/// # Errors
/// [`GgufError::Metadata`] for a key that is missing or of another type.
pub fn gguf_config(
    metadata: &Metadata,
    vocabulary: usize,
    has_head: bool,
) -> Result<serde_json::Value, GgufError> {
    let missing = |key: &str| GgufError::Metadata { key: key.to_owned(), problem: "is missing".into() };
    let integer = |key: &str| metadata.integer(key)?.ok_or_else(|| missing(key));
    let epsilon = metadata.float(EPSILON)?.ok_or_else(|| missing(EPSILON))?;
    let end_of_text = metadata.integer("tokenizer.ggml.eos_token_id")?;
    Ok(json!({
        "model_type": crate::MODEL_TYPE,
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": vocabulary,
        "n_positions": integer(CONTEXT)?,
        "n_embd": integer(WIDTH)?,
        "n_layer": integer(LAYERS)?,
        "n_head": integer(HEADS)?,
        "n_inner": integer(INNER)?,
        "activation_function": "gelu_new",
        // An F32 in the file; written as the shortest decimal that rounds to it.
        "layer_norm_epsilon": (epsilon as f32).to_string().parse::<f64>().unwrap_or(epsilon),
        "tie_word_embeddings": !has_head,
        "bos_token_id": metadata.integer("tokenizer.ggml.bos_token_id")?.or(end_of_text),
        "eos_token_id": end_of_text,
    }))
}

/// The keys that llama.cpp needs, the architecture first.
///
/// # Errors
/// The setting that llama.cpp's GPT-2 does not support.
pub fn gguf_metadata(config: &Gpt2Config) -> Result<Vec<(String, Value)>, String> {
    use aibit_graph::ActivationFunction::GeluTanh;
    if config.activation != GeluTanh {
        return Err(format!("its GPT-2 has the activation gelu_new, this model has {:?}", config.activation));
    }
    if !config.scale_attn_weights || config.scale_attn_by_inverse_layer_idx {
        return Err("its GPT-2 scales attention by 1 / sqrt(head_dim) only".into());
    }
    let integer = |key: &str, value: usize| match u32::try_from(value) {
        Ok(value) => Ok((key.to_owned(), Value::U32(value))),
        Err(_) => Err(format!("{key} is {value}, which 32 bits do not hold")),
    };
    Ok(vec![
        ("general.architecture".to_owned(), Value::String(GGUF_ARCHITECTURE.to_owned())),
        integer(CONTEXT, config.n_ctx)?,
        integer(WIDTH, config.n_embd)?,
        integer(INNER, config.n_inner)?,
        integer(LAYERS, config.n_layer)?,
        integer(HEADS, config.n_head)?,
        (EPSILON.to_owned(), Value::F32(config.layer_norm_epsilon)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (canonical, gguf) in [
            ("transformer.wte.weight", "token_embd.weight"),
            ("transformer.h.11.attn.c_attn.bias", "blk.11.attn_qkv.bias"),
            ("transformer.h.0.mlp.c_proj.weight", "blk.0.ffn_down.weight"),
            ("transformer.ln_f.bias", "output_norm.bias"),
            ("lm_head.weight", "output.weight"),
        ] {
            assert_eq!(GGUF_NAMES.to_gguf(canonical).as_deref(), Some(gguf));
            assert_eq!(GGUF_NAMES.to_canonical(gguf).as_deref(), Some(canonical));
        }
        assert_eq!(GGUF_NAMES.to_gguf("transformer.h.0.attn.bias"), None);
        assert_eq!(GGUF_NAMES.to_canonical("blk.0.attn_q.weight"), None);
    }
}
