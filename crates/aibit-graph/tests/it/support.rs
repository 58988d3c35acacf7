//! Two small sound graphs: one block of attention and feed-forward each, of layers as GPT-2 has them and as Llama has.

use std::collections::HashMap;

use aibit_graph::ops::{
    Activation, Add, Attention, Concat, Embed, GatedActivation, LayerNorm, Linear, Logits, PositionEmbed,
    RmsNorm, Rope,
};
use aibit_graph::{
    ActivationFunction, ActivationPrecision, BufferPlan, Graph, GraphBuilder, GraphError, KvPrecision,
    KvSlot, LinearLayer, ModelDescription, Op, Origin, Role, RopeStyle, StoredTensor, Value,
};

pub(crate) const CONTEXT: usize = 32;
pub(crate) const VOCABULARY: usize = 50;
const WIDTH: usize = 8;

/// Shapes of stored tensors.
pub(crate) type Shapes = HashMap<String, Vec<usize>>;

/// Node indices of [`sample`], by what they do.
pub(crate) mod node {
    pub(crate) const EMBED: usize = 0;
    pub(crate) const POSITIONS: usize = 1;
    pub(crate) const ADD: usize = 2;
    pub(crate) const NORM: usize = 3;
    pub(crate) const QKV: usize = 4;
    pub(crate) const ATTENTION: usize = 5;
    pub(crate) const RESIDUAL: usize = 7;
    pub(crate) const LOGITS: usize = 12;
}

/// Two query heads of four elements, which share one head of keys and values.
pub(crate) fn sample() -> (Graph, Shapes) {
    let names =
        ["token", "position", "x0", "n0", "qkv", "heads", "attended", "x1", "up", "active", "down", "x2"];
    let widths = [WIDTH, WIDTH, WIDTH, WIDTH, 16, WIDTH, WIDTH, WIDTH, 32, 32, WIDTH, WIDTH];
    let values =
        names.iter().zip(widths).map(|(name, width)| Value { name: (*name).to_owned(), width }).collect();
    let linear = |name: &str, input, output, outlier_threshold| {
        Op::Linear(Linear {
            input,
            weight: format!("{name}.weight"),
            bias: Some(format!("{name}.bias")),
            activations: aibit_graph::ActivationPrecision::Int8,
            outlier_threshold,
            function: None,
            gate: None,
            residual: None,
            output,
        })
    };
    let nodes = vec![
        Op::Embed(Embed { table: "wte".to_owned(), output: 0 }),
        Op::PositionEmbed(PositionEmbed { table: "wpe".to_owned(), output: 1 }),
        Op::Add(Add { a: 0, b: 1, output: 2 }),
        Op::LayerNorm(LayerNorm {
            input: 2,
            weight: "ln.weight".to_owned(),
            bias: Some("ln.bias".to_owned()),
            epsilon: 1e-5,
            output: 3,
        }),
        linear("qkv", 3, 4, Some(6.0)),
        Op::Attention(Attention { qkv: 4, slot: 0, n_head: 2, scale: 0.5, output: 5 }),
        linear("proj", 5, 6, None),
        Op::Add(Add { a: 2, b: 6, output: 7 }),
        linear("up", 7, 8, None),
        Op::Activation(Activation { input: 8, function: ActivationFunction::GeluTanh, output: 9 }),
        linear("down", 9, 10, None),
        Op::Add(Add { a: 7, b: 10, output: 11 }),
        Op::Logits(Logits {
            input: 11,
            weight: "wte".to_owned(),
            activations: ActivationPrecision::Int8,
            outlier_threshold: None,
        }),
    ];
    let mut graph = Graph {
        version: Graph::VERSION,
        context: CONTEXT,
        context_limit: None,
        vocabulary: VOCABULARY,
        values,
        kv_slots: vec![KvSlot { n_kv_head: 1, head_dim: 4, precision: KvPrecision::F32 }],
        nodes,
        plan: BufferPlan::default(),
    };
    graph.plan_buffers();
    let shapes: [(&str, &[usize]); 12] = [
        ("wte", &[VOCABULARY, WIDTH]),
        ("wpe", &[CONTEXT, WIDTH]),
        ("ln.weight", &[WIDTH]),
        ("ln.bias", &[WIDTH]),
        ("qkv.weight", &[16, WIDTH]),
        ("qkv.bias", &[16]),
        ("proj.weight", &[WIDTH, WIDTH]),
        ("proj.bias", &[WIDTH]),
        ("up.weight", &[32, WIDTH]),
        ("up.bias", &[32]),
        ("down.weight", &[WIDTH, 32]),
        ("down.bias", &[WIDTH]),
    ];
    let shapes = shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
    (graph, shapes)
}

pub(crate) fn validate(graph: &Graph, shapes: &Shapes) -> Result<(), GraphError> {
    graph.validate(|name| shapes.get(name).map(|shape| StoredTensor::f32(shape)))
}

/// Checks that the sample, edited, is refused with a message that holds every fragment.
#[track_caller]
pub(crate) fn check_refused(edit: impl FnOnce(&mut Graph, &mut Shapes), fragments: &[&str]) {
    let (mut graph, mut shapes) = sample();
    edit(&mut graph, &mut shapes);
    let message = validate(&graph, &shapes).expect_err("the graph is broken").to_string();
    for fragment in fragments {
        assert!(message.contains(fragment), "`{fragment}` is not in: {message}");
    }
}

/// Node indices of [`gated`], by what they do; where that differs, a value has the index of the node that writes it.
pub(crate) mod gated_node {
    pub(crate) const INPUT_NORM: usize = 1;
    pub(crate) const Q: usize = 2;
    pub(crate) const K: usize = 3;
    pub(crate) const V: usize = 4;
    pub(crate) const QKV: usize = 5;
    pub(crate) const HEAD_NORM: usize = 6;
    pub(crate) const ROPE: usize = 7;
    pub(crate) const GATE: usize = 11;
    pub(crate) const UP: usize = 12;
    pub(crate) const GATE_UP: usize = 13;
    pub(crate) const GATED: usize = 14;
    pub(crate) const LAST_NORM: usize = 17;
    pub(crate) const LOGITS: usize = 18;
}

/// A linear layer that reads `input`.
pub(crate) fn layer<'a>(name: &'a str, input: usize, out_features: usize, has_bias: bool) -> LinearLayer<'a> {
    LinearLayer { name, input, out_features, has_bias, is_transposed: false }
}

/// Two query heads of four elements, which are normalized and turned, and share one head of keys and values; a gated
/// feed-forward of width six. Queries, keys and values have biases, nothing else has.
pub(crate) fn gated() -> ModelDescription {
    let mut b = GraphBuilder::default();
    let table = b.matrix("embed.weight", [VOCABULARY, WIDTH], Role::Embedding);
    let hidden = b.value("hidden", WIDTH);
    b.push(Embed { table: table.clone(), output: hidden });
    let norm = |b: &mut GraphBuilder, name: &str, input: usize| {
        let (weight, output) = (b.vector(&format!("{name}.weight"), WIDTH), b.value(name, WIDTH));
        b.push(RmsNorm { input, weight, epsilon: 1e-5, range: None, output });
        output
    };
    let normed = norm(&mut b, "input_norm", hidden);
    let parts =
        [("q", 8), ("k", 4), ("v", 4)].map(|(name, width)| b.linear(layer(name, normed, width, true)));
    let qkv = b.value("qkv", 16);
    b.push(Concat { parts: parts.to_vec(), output: qkv });
    let (weight, queries_normed) = (b.vector("head_norm.weight", 4), b.value("head_norm", 16));
    b.push(RmsNorm { input: qkv, weight, epsilon: 1e-5, range: Some([0, 8]), output: queries_normed });
    let frequencies = b.parameter("frequencies", &[2], Role::Vector, Origin::Constant(vec![1.0, 0.01]));
    let turned = b.value("rope", 16);
    b.push(Rope {
        input: queries_normed,
        frequencies,
        long: None,
        attention_factor: None,
        heads: 3,
        head_dim: 4,
        style: RopeStyle::NeoX,
        output: turned,
    });
    let slot = b.kv_slot(KvSlot { n_kv_head: 1, head_dim: 4, precision: KvPrecision::F32 });
    let heads = b.value("heads", WIDTH);
    b.push(Attention { qkv: turned, slot, n_head: 2, scale: 0.5, output: heads });
    let attended = b.linear(layer("o", heads, WIDTH, false));
    let hidden = b.add("attention_residual", hidden, attended);
    let parts = ["gate", "up"].map(|name| b.linear(layer(name, hidden, 6, false)));
    let gate_up = b.value("gate_up", 12);
    b.push(Concat { parts: parts.to_vec(), output: gate_up });
    let gated = b.value("gated", 6);
    b.push(GatedActivation { input: gate_up, function: ActivationFunction::Silu, output: gated });
    let down = b.linear(layer("down", gated, WIDTH, false));
    let hidden = b.add("residual", hidden, down);
    let normed = norm(&mut b, "last_norm", hidden);
    b.finish("test", [CONTEXT, VOCABULARY], normed, "head.weight", Some(table))
}

/// The shapes of a model's parameters.
pub(crate) fn shapes_of(model: &ModelDescription) -> Shapes {
    model.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.shape.clone())).collect()
}

/// Checks that the [`gated`] model's graph, edited, is refused with a message that holds every fragment.
#[track_caller]
pub(crate) fn check_gated_refused(edit: impl FnOnce(&mut Graph, &mut Shapes), fragments: &[&str]) {
    let model = gated();
    let (mut graph, mut shapes) = (model.graph.clone(), shapes_of(&model));
    edit(&mut graph, &mut shapes);
    let message = validate(&graph, &shapes).expect_err("the graph is broken").to_string();
    for fragment in fragments {
        assert!(message.contains(fragment), "`{fragment}` is not in: {message}");
    }
}
