//! A small sound graph: one block of attention and feed-forward.

use std::collections::HashMap;

use aibit_graph::{
    ActivationFunction, ActivationPrecision, BufferPlan, Graph, GraphError, KvPrecision, KvSlot, Op, Value,
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
    let linear = |name: &str, input, output, outlier_threshold| Op::Linear {
        input,
        weight: format!("{name}.weight"),
        bias: Some(format!("{name}.bias")),
        activations: aibit_graph::ActivationPrecision::Int8,
        outlier_threshold,
        function: None,
        residual: None,
        output,
    };
    let nodes = vec![
        Op::Embed { table: "wte".to_owned(), output: 0 },
        Op::PositionEmbed { table: "wpe".to_owned(), output: 1 },
        Op::Add { a: 0, b: 1, output: 2 },
        Op::LayerNorm {
            input: 2,
            weight: "ln.weight".to_owned(),
            bias: Some("ln.bias".to_owned()),
            epsilon: 1e-5,
            output: 3,
        },
        linear("qkv", 3, 4, Some(6.0)),
        Op::Attention { qkv: 4, slot: 0, n_head: 2, scale: 0.5, output: 5 },
        linear("proj", 5, 6, None),
        Op::Add { a: 2, b: 6, output: 7 },
        linear("up", 7, 8, None),
        Op::Activation { input: 8, function: ActivationFunction::GeluTanh, output: 9 },
        linear("down", 9, 10, None),
        Op::Add { a: 7, b: 10, output: 11 },
        Op::Logits {
            input: 11,
            weight: "wte".to_owned(),
            activations: ActivationPrecision::Int8,
            outlier_threshold: None,
        },
    ];
    let mut graph = Graph {
        version: Graph::VERSION,
        context: CONTEXT,
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
    graph.validate(|name| shapes.get(name).map(Vec::as_slice))
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
