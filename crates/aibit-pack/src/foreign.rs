//! Detection of unsupported checkpoints by the files, settings and tensors that are specific to their kind.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::PackError;
use crate::checkpoint::TensorDtype;

/// File name of an adapter's settings.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Files that trainers write next to the weights and that look like weights.
const NO_WEIGHTS: [&str; 7] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state", "adapter_model", "qmodel"];

/// File names in a folder; empty if it cannot be listed.
fn names(folder: &Path) -> Vec<String> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// Whether a file of this name is not a model's weights, regardless of its content.
pub(crate) fn is_no_model(name: &str) -> bool {
    NO_WEIGHTS.iter().any(|prefix| name.starts_with(prefix))
}

/// A pattern of file or tensor names.
enum Mark {
    /// Equal to this.
    Is(&'static str),
    /// With this prefix.
    Starts(&'static str),
    /// With one of these suffixes.
    Ends(&'static [&'static str]),
    /// Containing one of these.
    Holds(&'static [&'static str]),
}

impl Mark {
    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Is(wanted) => name == *wanted,
            Self::Starts(beginning) => name.starts_with(beginning),
            Self::Ends(endings) => endings.iter().any(|ending| name.ends_with(ending)),
            Self::Holds(parts) => parts.iter().any(|part| name.contains(part)),
        }
    }
}

/// Files of folders in another layout, and what to do.
const LAYOUTS: [(Mark, &str); 18] = [
    (
        Mark::Is(ADAPTER_CONFIG),
        "an adapter (LoRA, PEFT) without its base model; merge it into its base model first (in peft: \
             `merge_and_unload`, then `save_pretrained`) and pack the result",
    ),
    (Mark::Is("model_index.json"), "a diffusers pipeline; only language models can be packed"),
    (
        Mark::Starts("consolidated."),
        "in the original layout of Meta and Mistral; convert it with transformers' \
             convert_llama_weights_to_hf.py or convert_mistral_weights_to_hf.py, or use the repository's \
             transformers version",
    ),
    (Mark::Is("qmodel.pt"), "quantized by HQQ, which cannot be imported; pack the original model"),
    (Mark::Ends(&[".nemo"]), "a NeMo archive; export it to the transformers layout first"),
    (Mark::Is("model_weights"), "an unpacked NeMo archive; export it to the transformers layout first"),
    (
        Mark::Ends(&[".distcp"]),
        "a distributed torch checkpoint; consolidate it first (accelerate merge-weights)",
    ),
    (Mark::Starts("mp_rank_"), "a DeepSpeed checkpoint; consolidate it with its zero_to_fp32.py first"),
    (Mark::Starts("zero_pp_rank_"), "a DeepSpeed checkpoint; consolidate it with its zero_to_fp32.py first"),
    (Mark::Is("zero_to_fp32.py"), "a DeepSpeed checkpoint; consolidate it with that script first"),
    (Mark::Ends(&[".onnx"]), "an ONNX model; pack the checkpoint that it was exported from"),
    (Mark::Ends(&[".msgpack"]), "a Flax checkpoint; save it with transformers in torch or safetensors first"),
    (
        Mark::Ends(&[".h5"]),
        "a TensorFlow checkpoint; save it with transformers in torch or safetensors first",
    ),
    (
        Mark::Ends(&[".ckpt.index"]),
        "a TensorFlow checkpoint; save it with transformers in torch or safetensors first",
    ),
    (
        Mark::Is("saved_model.pb"),
        "a TensorFlow model; save it with transformers in torch or safetensors first",
    ),
    (Mark::Ends(&[".tflite"]), "a TensorFlow Lite model; pack the checkpoint that it was made from"),
    (Mark::Ends(&[".mlpackage"]), "a Core ML model; pack the checkpoint that it was made from"),
    (Mark::Is("openvino_model.xml"), "an OpenVINO model; pack the checkpoint that it was made from"),
];

/// What a folder without a supported configuration or weights is, and what to do.
pub(crate) fn of_folder(folder: &Path) -> Option<String> {
    let names = names(folder);
    LAYOUTS.iter().find_map(|(mark, what)| {
        let name = names.iter().find(|name| mark.fits(name))?;
        Some(format!("{name:.80} is there, so it is {what}"))
    })
}

/// Notes on what is next to a model's weights and is not packed.
pub(crate) fn beside(folder: &Path) -> Vec<String> {
    let names = names(folder);
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let mut notes = Vec::new();
    if has(ADAPTER_CONFIG) {
        notes.push(format!(
            "{ADAPTER_CONFIG}: the adapter beside the weights is not packed; merge it into them first if it is meant \
             (in peft: `merge_and_unload`)"
        ));
    }
    if has("modules.json") && has("1_Pooling") {
        notes.push("modules.json: a text-embedding model, of which only the language model is packed".into());
    }
    notes
}

/// Refuses a `config.json` of a checkpoint that is not a plain language model.
///
/// # Errors
/// [`PackError::Setting`] with the field.
pub(crate) fn check_config(fields: &Map<String, Value>) -> Result<(), PackError> {
    let shown = |value: &Value| value.to_string().chars().take(60).collect::<String>();
    let set = |field: &str| fields.get(field).filter(|value| !value.is_null());
    for (field, advice) in [
        (
            "compression_config",
            "a checkpoint quantized by compressed-tensors cannot be imported; pack the original model",
        ),
        ("quantization", "a checkpoint quantized by MLX cannot be imported; pack the original model"),
    ] {
        if let Some(found) = set(field) {
            return Err(PackError::Setting { field, found: shown(found), advice });
        }
    }
    let Some(found) = set("architectures") else { return Ok(()) };
    let classes: Vec<&str> = found.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // A class without a head (`LlamaModel`) is a language model if its head is tied to the embedding.
    let is_language_model = |class: &&str| {
        ["ForCausalLM", "LMHeadModel", "Model"].iter().any(|ending| class.ends_with(ending))
            && !["ForReward", "DoubleHeads"].iter().any(|part| class.contains(part))
    };
    if classes.is_empty() || classes.iter().any(is_language_model) {
        return Ok(());
    }
    let is_any = |endings: &[&str]| classes.iter().any(|class| endings.iter().any(|e| class.contains(e)));
    let advice = if is_any(&["Classification", "Reward", "DoubleHeads", "QuestionAnswering"]) {
        "a model that classifies or rates texts has no probabilities of tokens; pack the language model that it was \
         made from"
    } else {
        "only language models can be packed, whose class ends in ForCausalLM or LMHeadModel"
    };
    Err(PackError::Setting { field: "architectures", found: shown(found), advice })
}

/// Tensors of checkpoints that must be converted first, and how.
const UNFINISHED: [(Mark, &str); 5] = [
    (
        Mark::Holds(&[
            "lora_A",
            "lora_B",
            "lora_embedding_",
            "lora_magnitude_vector",
            ".ia3_l",
            "prompt_embeddings",
        ]),
        "belongs to an adapter (LoRA, PEFT) that is not merged; merge it into its model first (in peft: \
         `merge_and_unload`, then `save_pretrained`) and pack the result",
    ),
    (
        Mark::Holds(&[".base_layer.", ".modules_to_save.", ".original_module."]),
        "belongs to a model with an adapter (LoRA, PEFT) that is not merged; merge it first (in peft: \
         `merge_and_unload`, then `save_pretrained`) and pack the result",
    ),
    (
        Mark::Holds(&["_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "._orig_mod."]),
        "has a prefix inside its name that FSDP, activation checkpointing or torch.compile leave around a module; save \
         the state dict of the model without them",
    ),
    (
        Mark::Holds(&["score.weight", "score.bias", "classifier.weight", "v_head."]),
        "belongs to a model that classifies or rates texts (a reward model); pack the language model that it was made \
         from",
    ),
    (
        Mark::Holds(&["vision_tower.", "vision_model.", "visual.", "multi_modal_projector."]),
        "belongs to a vision model; only language models are supported",
    ),
];

/// Tensors of quantized checkpoints, and the method. The first match applies.
const QUANTIZED: [(Mark, &str); 12] = [
    (Mark::Ends(&[".g_idx"]), "GPTQ"),
    (Mark::Ends(&[".qweight", ".qzeros"]), "GPTQ or AWQ"),
    (Mark::Ends(&[".weight_packed"]), "compressed-tensors"),
    (Mark::Ends(&[".weight_scale_inv"]), "FP8 in blocks"),
    (Mark::Ends(&[".weight_scales"]), "EETQ"),
    (
        Mark::Ends(&[".weight_scale", ".input_scale", ".weight_zero_point", ".weight_global_scale"]),
        "compressed-tensors, ModelOpt or FP8",
    ),
    (Mark::Ends(&[".biases", ".scales"]), "MLX"),
    (Mark::Ends(&[".codebooks", ".codes"]), "AQLM"),
    (Mark::Ends(&[".W_q"]), "HQQ"),
    (Mark::Ends(&[".q_weight", ".q_invperm", ".trellis"]), "ExLlama (EXL2, EXL3)"),
    (Mark::Ends(&["._data", "._scale"]), "quanto"),
    (Mark::Ends(&[".Qidxs"]), "QuIP#"),
];

/// The kind of unsupported checkpoint that a tensor indicates, if any.
pub(crate) fn told_by(name: &str, dtype: &TensorDtype) -> Option<String> {
    if let Some((_, what)) = UNFINISHED.iter().find(|(mark, _)| mark.fits(name)) {
        return Some((*what).to_owned());
    }
    let is_f8 =
        matches!(dtype, TensorDtype::Other(dtype) if dtype.starts_with("F8") || dtype.starts_with("float8"));
    let method = match QUANTIZED.iter().find(|(mark, _)| mark.fits(name)) {
        Some((_, method)) => method,
        None if is_f8 => "FP8",
        None => return None,
    };
    Some(format!(
        "belongs to a checkpoint quantized by {method}, which cannot be imported; pack the original model"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::SourceDtype;

    #[test]
    fn tensors_tell_their_method() {
        let float = TensorDtype::Float(SourceDtype::F16);
        for (name, word) in [
            ("model.layers.0.mlp.up_proj.g_idx", "GPTQ"),
            ("model.layers.0.mlp.up_proj.qweight", "AWQ"),
            ("h.0.mlp.c_fc.biases", "MLX"),
            ("model.layers.1.self_attn.q_proj.weight_scale_inv", "FP8"),
            ("model.layers.1.self_attn.q_proj.weight_packed", "compressed-tensors"),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "merge"),
            ("model.layers.0.self_attn.q_proj.base_layer.weight", "merge"),
            ("score.weight", "reward"),
            ("v_head.summary.weight", "reward"),
            ("visual.patch_embed.weight", "vision model"),
        ] {
            let told = told_by(name, &float).unwrap_or_else(|| panic!("{name}"));
            assert!(told.contains(word), "{name}: {told}");
        }
        let f8 = TensorDtype::Other("F8_E4M3".into());
        assert!(told_by("model.layers.0.mlp.up_proj.weight", &f8).is_some_and(|told| told.contains("FP8")));
        for name in [
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj.bias",
            "transformer.h.0.attn.bias",
            "h.0.mlp.c_fc.SCB",
            "lm_head.weight",
            "model.layers.0.self_attn.q_proj.weight.quant_map",
            "model.layers.0.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4",
        ] {
            assert_eq!(told_by(name, &float), None, "{name}");
        }
    }

    #[test]
    fn classes_that_give_no_probabilities_of_tokens_are_refused() {
        let check = |json: &str| check_config(&serde_json::from_str(json).expect("JSON"));
        for accepted in [
            r#"{}"#,
            r#"{"architectures": null}"#,
            r#"{"architectures": []}"#,
            r#"{"architectures": ["GPT2LMHeadModel"]}"#,
            r#"{"architectures": ["YiForCausalLM"]}"#,
            r#"{"architectures": ["GPT2Model"]}"#,
        ] {
            check(accepted).expect(accepted);
        }
        for (refused, word) in [
            (r#"{"architectures": ["LlamaForSequenceClassification"]}"#, "rates texts"),
            (r#"{"architectures": ["Qwen2ForRewardModel"]}"#, "rates texts"),
            (r#"{"architectures": ["GPT2DoubleHeadsModel"]}"#, "rates texts"),
            (r#"{"architectures": ["LlavaForConditionalGeneration"]}"#, "only language models"),
            (r#"{"compression_config": {"format": "int-quantized"}}"#, "compressed-tensors"),
            (r#"{"quantization": {"group_size": 64, "bits": 4}}"#, "MLX"),
        ] {
            let error = check(refused).expect_err(refused).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn folders_of_other_layouts_are_named() {
        for (name, word) in [
            ("adapter_config.json", "merge_and_unload"),
            ("consolidated.00.pth", "Meta"),
            ("model_index.json", "diffusers"),
            ("model.onnx", "ONNX"),
            ("flax_model.msgpack", "Flax"),
            ("tf_model.h5", "TensorFlow"),
            ("llama.nemo", "NeMo"),
            ("mp_rank_00_model_states.pt", "DeepSpeed"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join(name), "x").expect("a file");
            let told = of_folder(folder.path()).unwrap_or_else(|| panic!("{name}"));
            assert!(told.contains(word) && told.contains(name), "{told}");
        }
        assert_eq!(of_folder(tempfile::tempdir().expect("a folder").path()), None);
    }
}
