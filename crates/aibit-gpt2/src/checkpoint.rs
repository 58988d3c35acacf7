//! Tensor names in GPT-2 checkpoints.

use aibit_graph::CheckpointName;

/// Maps a checkpoint's tensor name to the canonical one.
///
/// Some checkpoints, the original among them, omit the prefix `transformer.` of canonical names. `attn.bias` and
/// `attn.masked_bias` are mask buffers, not parameters.
pub fn checkpoint_name(name: &str) -> CheckpointName {
    if name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") {
        return CheckpointName::Buffer;
    }
    let canonical = if name.starts_with("transformer.") || name.starts_with("lm_head.") {
        name.to_owned()
    } else {
        format!("transformer.{name}")
    };
    CheckpointName::Parameter(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_restored_and_mask_buffers_are_told_apart_from_biases() {
        let parameter = |name: &str| CheckpointName::Parameter(name.to_owned());
        assert_eq!(checkpoint_name("wte.weight"), parameter("transformer.wte.weight"));
        assert_eq!(checkpoint_name("transformer.wte.weight"), parameter("transformer.wte.weight"));
        assert_eq!(checkpoint_name("lm_head.weight"), parameter("lm_head.weight"));
        assert_eq!(checkpoint_name("h.0.attn.bias"), CheckpointName::Buffer);
        assert_eq!(checkpoint_name("transformer.h.0.attn.masked_bias"), CheckpointName::Buffer);
        assert_eq!(checkpoint_name("h.0.attn.c_attn.bias"), parameter("transformer.h.0.attn.c_attn.bias"));
    }
}
