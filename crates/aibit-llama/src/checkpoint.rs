//! Tensor names in checkpoints of the family.

use aibit_graph::CheckpointName;

/// Maps a checkpoint's tensor name to the canonical one.
///
/// Checkpoints of the model without its head omit the prefix `model.` of canonical names. Rotary tensors in old
/// checkpoints and factors in GGUF files are ignored: they follow from the configuration.
pub fn checkpoint_name(name: &str) -> CheckpointName {
    let buffer = name.rsplit_once("rotary_emb.").map(|(_, buffer)| buffer);
    if let Some(
        "inv_freq" | "original_inv_freq" | "short_inv_freq" | "long_inv_freq" | "cos_cached" | "sin_cached",
    ) = buffer
    {
        return CheckpointName::Buffer;
    }
    let has_prefix = name.starts_with("model.") || name.starts_with("lm_head.");
    CheckpointName::Parameter(if has_prefix { name.to_owned() } else { format!("model.{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_restored_and_frequencies_are_told_apart() {
        let parameter = |name: &str| CheckpointName::Parameter(name.to_owned());
        assert_eq!(checkpoint_name("norm.weight"), parameter("model.norm.weight"));
        assert_eq!(checkpoint_name("model.norm.weight"), parameter("model.norm.weight"));
        assert_eq!(checkpoint_name("lm_head.weight"), parameter("lm_head.weight"));
        assert_eq!(checkpoint_name("model.layers.0.self_attn.rotary_emb.inv_freq"), CheckpointName::Buffer);
    }
}
