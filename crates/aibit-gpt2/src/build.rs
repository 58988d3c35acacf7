//! Builds the graph and the list of tensors from a configuration.

use aibit_graph::ops::{Activation, Attention, Embed, LayerNorm, PositionEmbed};
use aibit_graph::{GraphBuilder, KvPrecision, KvSlot, LinearLayer, ModelDescription, Role, ValueId};

use crate::Gpt2Config;

/// The graph of a GPT-2 model and its tensors.
///
/// Pre-norm blocks: `h += c_proj(attention(c_attn(ln_1(h))))`, `h += c_proj(act(c_fc(ln_2(h))))`, then
/// `ln_f` and the head, without bias. Attention scores are scaled by `1 / sqrt(head_dim)` and, if configured, by `1 /
/// (layer + 1)`. The graph is plain: one node per operation.
pub fn describe(config: &Gpt2Config) -> ModelDescription {
    let mut b = GraphBuilder::default();
    let (n_embd, n_inner) = (config.n_embd, config.n_inner);
    let head_dim = n_embd / config.n_head;

    let wte = b.matrix("transformer.wte.weight", [config.vocab_size, n_embd], Role::Embedding);
    let wpe = b.matrix("transformer.wpe.weight", [config.n_ctx, n_embd], Role::PositionEmbedding);
    let tokens = b.value("tokens", n_embd);
    b.push(Embed { table: wte.clone(), output: tokens });
    let positions = b.value("positions", n_embd);
    b.push(PositionEmbed { table: wpe, output: positions });
    let mut hidden = b.add("hidden", tokens, positions);

    for layer in 0..config.n_layer {
        let h = format!("transformer.h.{layer}");
        let mut scale = if config.scale_attn_weights { (head_dim as f32).sqrt().recip() } else { 1.0 };
        if config.scale_attn_by_inverse_layer_idx {
            scale /= (layer + 1) as f32;
        }
        let slot = b.kv_slot(KvSlot { n_kv_head: config.n_head, head_dim, precision: KvPrecision::F32 });
        let normed = layer_norm(&mut b, &format!("{h}.ln_1"), hidden, config);
        let qkv = conv1d(&mut b, &format!("{h}.attn.c_attn"), normed, 3 * n_embd);
        let mixed = b.value(&format!("{h}.attn"), n_embd);
        b.push(Attention { qkv, slot, n_head: config.n_head, scale, output: mixed });
        let projected = conv1d(&mut b, &format!("{h}.attn.c_proj"), mixed, n_embd);
        hidden = b.add(&format!("{h}.attn.residual"), hidden, projected);

        let normed = layer_norm(&mut b, &format!("{h}.ln_2"), hidden, config);
        let up = conv1d(&mut b, &format!("{h}.mlp.c_fc"), normed, n_inner);
        let active = b.value(&format!("{h}.mlp.act"), n_inner);
        b.push(Activation { input: up, function: config.activation, output: active });
        let down = conv1d(&mut b, &format!("{h}.mlp.c_proj"), active, n_embd);
        hidden = b.add(&format!("{h}.mlp.residual"), hidden, down);
    }
    let normed = layer_norm(&mut b, "transformer.ln_f", hidden, config);
    let tied_to = config.tie_word_embeddings.then_some(wte);
    b.finish(crate::MODEL_TYPE, [config.n_ctx, config.vocab_size], normed, "lm_head.weight", tied_to)
}

fn layer_norm(b: &mut GraphBuilder, name: &str, input: ValueId, config: &Gpt2Config) -> ValueId {
    let width = b.width(input);
    let weight = b.vector(&format!("{name}.weight"), width);
    let bias = Some(b.vector(&format!("{name}.bias"), width));
    let output = b.value(name, width);
    b.push(LayerNorm { input, weight, bias, epsilon: config.layer_norm_epsilon, output });
    output
}

/// GPT-2's linear layers are `Conv1D` modules, whose weight a checkpoint stores as `[in, out]`.
fn conv1d(b: &mut GraphBuilder, name: &str, input: ValueId, out_features: usize) -> ValueId {
    let (has_bias, is_transposed) = (true, true);
    b.linear(LinearLayer { name, input, out_features, has_bias, is_transposed })
}

#[cfg(test)]
mod tests {
    use aibit_graph::{Graph, Op, StoredTensor};

    use super::*;

    fn check(config: &str) -> ModelDescription {
        let config = Gpt2Config::from_json(config.as_bytes()).expect("config");
        let model = describe(&config);
        let shapes: std::collections::HashMap<_, _> =
            model.parameters.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
        assert_eq!(shapes.len(), model.parameters.len(), "a parameter is listed twice");
        model.graph.validate(|name| shapes.get(name).copied().map(StoredTensor::f32)).expect("a valid graph");
        let again = Graph::from_json(&model.graph.to_json()).expect("round trip");
        assert_eq!(again, model.graph);
        model
    }

    #[test]
    fn gpt2_124m_has_its_known_number_of_parameters() {
        let model = check(r#"{"model_type": "gpt2"}"#);
        let count: usize = model.parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum();
        assert_eq!(count, 124_439_808);
        assert_eq!(model.tied, [("lm_head.weight".to_owned(), "transformer.wte.weight".to_owned())]);
        // Residual stream + qkv or MLP width + attention output: the plan stays near the widest layer.
        assert!(model.graph.plan.width <= 768 + 768 + 3072 + 768, "arena width {}", model.graph.plan.width);
    }

    #[test]
    fn a_head_of_its_own_is_a_parameter() {
        let model = check(r#"{"model_type": "gpt2", "n_layer": 2, "tie_word_embeddings": false}"#);
        assert!(model.tied.is_empty());
        assert!(model.parameters.iter().any(|p| p.name == "lm_head.weight" && p.role == Role::Head));
    }

    #[test]
    fn attention_scales_follow_the_configuration() {
        let scales = |json: &str| -> Vec<f32> {
            let nodes = check(json).graph.nodes;
            nodes
                .iter()
                .filter_map(
                    |n| if let Op::Attention(Attention { scale, .. }) = n { Some(*scale) } else { None },
                )
                .collect()
        };
        let base = r#""model_type": "gpt2", "n_layer": 2, "n_head": 12, "n_embd": 768"#;
        assert_eq!(scales(&format!("{{{base}}}")), [0.125, 0.125]);
        let inverse = format!("{{{base}, \"scale_attn_by_inverse_layer_idx\": true}}");
        assert_eq!(scales(&inverse), [0.125, 0.0625]);
        assert_eq!(scales(&format!("{{{base}, \"scale_attn_weights\": false}}")), [1.0, 1.0]);
    }
}
