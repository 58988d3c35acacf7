//! From configuration to graph and tensors.

use aibit_graph::{
    ActivationFunction, ActivationPrecision, BufferPlan, Graph, KvPrecision, KvSlot, ModelDescription, Op,
    Parameter, Role, SourceLayout, Value, ValueId,
};

use crate::Gpt2Config;

/// Activation magnitude from which LLM.int8() computes in floating point (§3.2 of the paper).
const OUTLIER_THRESHOLD: f32 = 6.0;

/// The graph of a GPT-2 model and the tensors it names.
///
/// Pre-norm blocks: `h += c_proj(attention(c_attn(ln_1(h))))`, `h += c_proj(act(c_fc(ln_2(h))))`, then
/// `ln_f` and the head, without bias. Attention scores are scaled by `1 / sqrt(head_dim)` and, where the
/// configuration says so, by `1 / (layer + 1)`. The graph is plain: one node per operation.
pub fn describe(config: &Gpt2Config) -> ModelDescription {
    let mut b = Builder { config, values: Vec::new(), nodes: Vec::new(), parameters: Vec::new() };
    let (n_embd, n_inner) = (config.n_embd, config.n_inner);
    let head_dim = n_embd / config.n_head;

    let wte = b.matrix("transformer.wte.weight", [config.vocab_size, n_embd], Role::Embedding);
    let wpe = b.matrix("transformer.wpe.weight", [config.n_ctx, n_embd], Role::PositionEmbedding);
    let tokens = b.value("tokens", n_embd);
    b.nodes.push(Op::Embed { table: wte.clone(), output: tokens });
    let positions = b.value("positions", n_embd);
    b.nodes.push(Op::PositionEmbed { table: wpe, output: positions });
    let mut hidden = b.add("hidden", tokens, positions);

    for layer in 0..config.n_layer {
        let h = format!("transformer.h.{layer}");
        let mut scale = if config.scale_attn_weights { (head_dim as f32).sqrt().recip() } else { 1.0 };
        if config.scale_attn_by_inverse_layer_idx {
            scale /= (layer + 1) as f32;
        }
        let normed = b.layer_norm(&format!("{h}.ln_1"), hidden);
        let qkv = b.conv1d(&format!("{h}.attn.c_attn"), normed, 3 * n_embd);
        let mixed = b.value(&format!("{h}.attn"), n_embd);
        b.nodes.push(Op::Attention { qkv, slot: layer, n_head: config.n_head, scale, output: mixed });
        let projected = b.conv1d(&format!("{h}.attn.c_proj"), mixed, n_embd);
        hidden = b.add(&format!("{h}.attn.residual"), hidden, projected);

        let normed = b.layer_norm(&format!("{h}.ln_2"), hidden);
        let up = b.conv1d(&format!("{h}.mlp.c_fc"), normed, n_inner);
        let active = b.value(&format!("{h}.mlp.act"), n_inner);
        b.nodes.push(Op::Activation { input: up, function: config.activation, output: active });
        let down = b.conv1d(&format!("{h}.mlp.c_proj"), active, n_embd);
        b.set_activations(after_activation(config.activation));
        hidden = b.add(&format!("{h}.mlp.residual"), hidden, down);
    }
    let normed = b.layer_norm("transformer.ln_f", hidden);
    let mut tied = Vec::new();
    let head = if config.tie_word_embeddings {
        tied.push(("lm_head.weight".to_owned(), wte.clone()));
        wte
    } else {
        b.matrix("lm_head.weight", [config.vocab_size, n_embd], Role::Head)
    };
    b.nodes.push(Op::Logits {
        input: normed,
        weight: head,
        // One token of a prompt needs logits, and one token waits for memory: the second byte costs next to nothing.
        activations: ActivationPrecision::Int8x2,
        outlier_threshold: None,
    });

    let mut graph = Graph {
        version: Graph::VERSION,
        context: config.n_ctx,
        vocabulary: config.vocab_size,
        values: b.values,
        kv_slots: vec![
            KvSlot { n_kv_head: config.n_head, head_dim, precision: KvPrecision::F32 };
            config.n_layer
        ],
        nodes: b.nodes,
        plan: BufferPlan::default(),
    };
    graph.plan_buffers();
    ModelDescription { architecture: crate::MODEL_TYPE, graph, parameters: b.parameters, tied }
}

/// How the layer behind an activation function takes its input. Most functions flatten one side, on which a
/// symmetric scale would waste half of its codes: measured, this layer loses more than all others together.
fn after_activation(function: ActivationFunction) -> ActivationPrecision {
    match function {
        ActivationFunction::Tanh => ActivationPrecision::Int8,
        _ => ActivationPrecision::Int8Asym,
    }
}

struct Builder<'c> {
    config: &'c Gpt2Config,
    values: Vec<Value>,
    nodes: Vec<Op>,
    parameters: Vec<Parameter>,
}

impl Builder<'_> {
    fn value(&mut self, name: &str, width: usize) -> ValueId {
        self.values.push(Value { name: name.to_owned(), width });
        self.values.len() - 1
    }

    fn parameter(&mut self, name: &str, shape: &[usize], role: Role, source_layout: SourceLayout) -> String {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.parameters.push(Parameter { name: name.clone(), shape, role, source_layout });
        name
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2], role: Role) -> String {
        self.parameter(name, &shape, role, SourceLayout::Canonical)
    }

    fn vector(&mut self, name: &str, width: usize) -> String {
        self.parameter(name, &[width], Role::Vector, SourceLayout::Canonical)
    }

    fn add(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        let output = self.value(name, self.values[a].width);
        self.nodes.push(Op::Add { a, b, output });
        output
    }

    fn layer_norm(&mut self, name: &str, input: ValueId) -> ValueId {
        let width = self.values[input].width;
        let weight = self.vector(&format!("{name}.weight"), width);
        let bias = Some(self.vector(&format!("{name}.bias"), width));
        let output = self.value(name, width);
        let epsilon = self.config.layer_norm_epsilon;
        self.nodes.push(Op::LayerNorm { input, weight, bias, epsilon, output });
        output
    }

    /// Sets how the last linear layer takes its input.
    fn set_activations(&mut self, precision: ActivationPrecision) {
        if let Some(Op::Linear { activations, .. }) = self.nodes.last_mut() {
            *activations = precision;
        }
    }

    /// GPT-2's linear layers are `Conv1D` modules, whose weight a checkpoint stores as `[in, out]`.
    fn conv1d(&mut self, name: &str, input: ValueId, out_features: usize) -> ValueId {
        let shape = [out_features, self.values[input].width];
        let weight =
            self.parameter(&format!("{name}.weight"), &shape, Role::Linear, SourceLayout::Transposed);
        let bias = Some(self.vector(&format!("{name}.bias"), out_features));
        let output = self.value(name, out_features);
        let outlier_threshold = Some(OUTLIER_THRESHOLD);
        self.nodes.push(Op::Linear {
            input,
            weight,
            bias,
            activations: ActivationPrecision::Int8,
            outlier_threshold,
            function: None,
            residual: None,
            output,
        });
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str) -> ModelDescription {
        let config = Gpt2Config::from_json(config.as_bytes()).expect("config");
        let model = describe(&config);
        let shapes: std::collections::HashMap<_, _> =
            model.parameters.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
        assert_eq!(shapes.len(), model.parameters.len(), "a parameter is listed twice");
        model.graph.validate(|name| shapes.get(name).copied()).expect("a valid graph");
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
                .filter_map(|n| if let Op::Attention { scale, .. } = n { Some(*scale) } else { None })
                .collect()
        };
        let base = r#""model_type": "gpt2", "n_layer": 2, "n_head": 12, "n_embd": 768"#;
        assert_eq!(scales(&format!("{{{base}}}")), [0.125, 0.125]);
        let inverse = format!("{{{base}, \"scale_attn_by_inverse_layer_idx\": true}}");
        assert_eq!(scales(&inverse), [0.125, 0.0625]);
        assert_eq!(scales(&format!("{{{base}, \"scale_attn_weights\": false}}")), [1.0, 1.0]);
    }
}
