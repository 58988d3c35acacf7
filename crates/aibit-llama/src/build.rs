//! Builds the graph and the list of tensors from a configuration.

use aibit_graph::ops::{Attention, Concat, Embed, GatedActivation, RmsNorm, Rope};
use aibit_graph::{
    Graph, GraphBuilder, KvPrecision, KvSlot, LinearLayer, LongFrequencies, ModelDescription, Origin, Role,
    RopeStyle, ValueId,
};

use crate::LlamaConfig;

/// The graph of a model of the family and its tensors.
///
/// Pre-norm blocks: `h += o_proj(attention(q_proj(x), k_proj(x), v_proj(x)))` with `x = norm(h)` and rotary position
/// embedding of queries and keys; `h += down_proj(act(gate_proj(x)) * up_proj(x))`; then the norm and the head,
/// without bias. The graph is plain: one node per operation. Rotary frequencies are a tensor.
pub fn describe(config: &LlamaConfig) -> ModelDescription {
    let mut b = GraphBuilder::default();
    let &LlamaConfig { n_embd, n_head, n_kv_head, head_dim, n_inner, .. } = config;
    let epsilon = config.rms_norm_epsilon;

    let embedding = b.matrix("model.embed_tokens.weight", [config.vocab_size, n_embd], Role::Embedding);
    let frequencies = config.rope.frequencies(head_dim);
    let frequencies = b.parameter(
        "model.rotary_emb.inv_freq",
        &[frequencies.len()],
        Role::Vector,
        Origin::Constant(frequencies),
    );
    // Not needed if the context ends before the long frequencies apply.
    let long = config.rope.long_frequencies(head_dim).filter(|(_, above)| *above < config.n_ctx);
    let long = long.map(|(frequencies, above)| LongFrequencies {
        frequencies: b.parameter(
            "model.rotary_emb.long_inv_freq",
            &[frequencies.len()],
            Role::Vector,
            Origin::Constant(frequencies),
        ),
        above,
    });
    let attention_factor = Some(config.rope.attention_factor()).filter(|factor| *factor != 1.0);
    let mut hidden = b.value("hidden", n_embd);
    b.push(Embed { table: embedding.clone(), output: hidden });

    for layer in 0..config.n_layer {
        let block = format!("model.layers.{layer}");
        let module = |name: &str| format!("{block}.{name}");
        let slot = b.kv_slot(KvSlot { n_kv_head, head_dim, precision: KvPrecision::F32 });
        let normed = rms_norm(&mut b, &module("input_layernorm"), hidden, epsilon);
        let projections = [("q_proj", n_head), ("k_proj", n_kv_head), ("v_proj", n_kv_head)];
        let parts = projections.map(|(name, heads)| {
            let name = module(&format!("self_attn.{name}"));
            linear(&mut b, &name, normed, heads * head_dim, config.has_qkv_bias)
        });
        let mut qkv = concat(&mut b, &module("self_attn.qkv_proj"), &parts);
        let queries = n_head * head_dim;
        let keys = n_kv_head * head_dim;
        if config.has_qk_norm {
            for (name, range) in [("q_norm", [0, queries]), ("k_norm", [queries, queries + keys])] {
                let name = module(&format!("self_attn.{name}"));
                let weight = b.vector(&format!("{name}.weight"), head_dim);
                let output = b.value(&name, queries + 2 * keys);
                b.push(RmsNorm { input: qkv, weight, epsilon, range: Some(range), output });
                qkv = output;
            }
        }
        let turned = b.value(&module("self_attn.rope"), queries + 2 * keys);
        b.push(Rope {
            input: qkv,
            frequencies: frequencies.clone(),
            long: long.clone(),
            attention_factor,
            heads: n_head + n_kv_head,
            head_dim,
            style: RopeStyle::NeoX,
            output: turned,
        });
        let mixed = b.value(&module("self_attn"), queries);
        let scale = (head_dim as f32).sqrt().recip();
        b.push(Attention { qkv: turned, slot, n_head, scale, output: mixed });
        let output = linear(&mut b, &module("self_attn.o_proj"), mixed, n_embd, config.has_output_bias);
        hidden = b.add(&module("self_attn.residual"), hidden, output);

        let normed = rms_norm(&mut b, &module("post_attention_layernorm"), hidden, epsilon);
        let parts = ["gate_proj", "up_proj"].map(|name| {
            let name = module(&format!("mlp.{name}"));
            linear(&mut b, &name, normed, n_inner, config.has_mlp_bias)
        });
        let gate_up = concat(&mut b, &module("mlp.gate_up_proj"), &parts);
        let gated = b.value(&module("mlp.act"), n_inner);
        b.push(GatedActivation { input: gate_up, function: config.activation, output: gated });
        let down = linear(&mut b, &module("mlp.down_proj"), gated, n_embd, config.has_mlp_bias);
        hidden = b.add(&module("mlp.residual"), hidden, down);
    }
    let normed = rms_norm(&mut b, "model.norm", hidden, epsilon);
    let tied_to = config.tie_word_embeddings.then_some(embedding);
    let sizes = [config.n_ctx, config.vocab_size];
    let mut model = b.finish(config.model_type.name(), sizes, normed, "lm_head.weight", tied_to);
    if config.context_limit.is_some() {
        model.graph.context_limit = config.context_limit;
        model.graph.version = Graph::NEWEST;
    }
    model
}

fn rms_norm(b: &mut GraphBuilder, name: &str, input: ValueId, epsilon: f32) -> ValueId {
    let width = b.width(input);
    let weight = b.vector(&format!("{name}.weight"), width);
    let output = b.value(name, width);
    b.push(RmsNorm { input, weight, epsilon, range: None, output });
    output
}

fn linear(b: &mut GraphBuilder, name: &str, input: ValueId, out_features: usize, has_bias: bool) -> ValueId {
    let is_transposed = false;
    b.linear(LinearLayer { name, input, out_features, has_bias, is_transposed })
}

/// Named like the layer that results when the parts are joined.
fn concat(b: &mut GraphBuilder, name: &str, parts: &[ValueId]) -> ValueId {
    let width = parts.iter().map(|part| b.width(*part)).sum();
    let output = b.value(name, width);
    b.push(Concat { parts: parts.to_vec(), output });
    output
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aibit_graph::{Graph, Op, StoredTensor};

    use super::*;

    fn check(config: &str) -> ModelDescription {
        let config = LlamaConfig::from_json(config.as_bytes()).expect("config");
        let model = describe(&config);
        for fuse in [false, true] {
            let mut model = model.clone();
            if fuse {
                model.fuse(|_| true);
            }
            let shapes: HashMap<_, _> =
                model.parameters.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
            assert_eq!(shapes.len(), model.parameters.len(), "a parameter is listed twice");
            model
                .graph
                .validate(|name| shapes.get(name).copied().map(StoredTensor::f32))
                .expect("a valid graph");
            let again = Graph::from_json(&model.graph.to_json()).expect("round trip");
            assert_eq!(again, model.graph);
        }
        model
    }

    fn count(model: &ModelDescription) -> usize {
        let of_checkpoint = model.parameters.iter().filter(|p| !matches!(p.origin, Origin::Constant(_)));
        of_checkpoint.map(|p| p.shape.iter().product::<usize>()).sum()
    }

    #[test]
    fn models_have_their_known_numbers_of_parameters() {
        // SmolLM2-135M, Qwen3-0.6B and Llama-2-7B; parameter counts from their publishers.
        let smollm2 = check(
            r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
                "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5,
                "max_position_embeddings": 8192, "hidden_act": "silu", "rope_theta": 1e5,
                "tie_word_embeddings": true}"#,
        );
        assert_eq!(count(&smollm2), 134_515_008);
        assert_eq!(smollm2.tied, [("lm_head.weight".to_owned(), "model.embed_tokens.weight".to_owned())]);
        let qwen3 = check(
            r#"{"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
                "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
                "max_position_embeddings": 40960, "hidden_act": "silu", "rms_norm_eps": 1e-6,
                "rope_theta": 1e6, "tie_word_embeddings": true}"#,
        );
        assert_eq!(count(&qwen3), 596_049_920);
        let llama2 = check(
            r#"{"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
                "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
                "max_position_embeddings": 4096, "hidden_act": "silu", "rms_norm_eps": 1e-5}"#,
        );
        assert_eq!(count(&llama2), 6_738_415_616);
    }

    #[test]
    fn projections_become_one_layer_each() {
        let mut model = check(
            r#"{"model_type": "qwen2", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 6,
                "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
                "max_position_embeddings": 16, "hidden_act": "silu", "rms_norm_eps": 1e-5}"#,
        );
        model.fuse(|_| true);
        let names: Vec<_> = model.graph.nodes.iter().map(Op::name).collect();
        let block = ["rms_norm", "linear", "rope", "attention", "linear", "rms_norm", "linear"];
        let want = [&["embed"][..], &block, &["linear", "rms_norm", "logits"]].concat();
        assert_eq!(names, want);
        let joined = |name: &str| {
            let parameter = model.parameters.iter().find(|p| p.name == name).expect("a joined parameter");
            let Origin::Joined(parts) = &parameter.origin else { panic!("{name} is not joined") };
            let parts: Vec<_> = parts.iter().map(|p| (p.name.as_str(), p.shape.clone())).collect();
            (parameter.shape.clone(), parts)
        };
        let (shape, parts) = joined("model.layers.0.self_attn.qkv_proj.bias");
        assert_eq!(shape, [16]);
        assert_eq!(parts[1], ("model.layers.0.self_attn.k_proj.bias", vec![4]));
        let (shape, parts) = joined("model.layers.0.mlp.gate_up_proj.weight");
        assert_eq!(shape, [12, 8]);
        assert_eq!(parts[0], ("model.layers.0.mlp.gate_proj.weight", vec![6, 8]));
    }
}
