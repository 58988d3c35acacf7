//! One broken graph for every rule, refused with the node and the numbers.

use std::collections::BTreeSet;

use aibit_graph::ops::{
    Activation, Add, Attention, Embed, LayerNorm, Linear, Logits, PositionEmbed, RmsNorm, Rope,
};
use aibit_graph::{
    ActivationFunction, ActivationPrecision, Graph, GraphBuilder, GraphError, KvPrecision, KvSlot,
    LinearLayer, LongFrequencies, ModelDescription, Op, Role, RopeStyle, StoredTensor, TensorKind, Value,
};

use crate::support::{CONTEXT, VOCABULARY, check_refused, node, sample, validate};

#[test]
fn the_sample_is_valid() {
    let (graph, shapes) = sample();
    validate(&graph, &shapes).expect("valid");
}

#[test]
fn limits_bound_every_number() {
    const MAX: usize = 1 << 24;
    let check = |edit: fn(&mut Graph, usize), what: &str, max: usize| {
        for found in [0, max + 1, usize::MAX] {
            check_refused(
                |g, _| edit(g, found),
                &[&format!("graph: {what} is {found}, allowed is 1 to {max}")],
            );
        }
    };
    check(|g, n| g.context = n, "context", MAX);
    check(|g, n| g.vocabulary = n, "vocabulary", MAX);
    check(|g, n| g.values[3].width = n, "the width of value 3", MAX);
    check(|g, n| g.plan.width = n, "the arena's width", MAX);
    check(|g, n| g.kv_slots[0].n_kv_head = n, "n_kv_head of KV slot 0", MAX);
    check(|g, n| g.kv_slots[0].head_dim = n, "head_dim of KV slot 0", MAX);
    check_refused(
        |g, _| g.kv_slots[0] = KvSlot { n_kv_head: 1 << 13, head_dim: 1 << 12, precision: KvPrecision::F32 },
        &["graph: the width of KV slot 0 is 33554432, allowed is 1 to 16777216"],
    );
    // The limit of integer sums; a head of floating-point elements may be longer.
    for (precision, allowed) in [(KvPrecision::Int8, "65535"), (KvPrecision::F16, "16777216")] {
        check_refused(
            |g, _| g.kv_slots[0] = KvSlot { n_kv_head: 1, head_dim: (1 << 24) + 1, precision },
            &[&format!("graph: head_dim of KV slot 0 is 16777217, allowed is 1 to {allowed}")],
        );
    }
    check_refused(
        |g, _| (g.kv_slots[0].precision, g.context) = (KvPrecision::Int8, 131_073),
        &["graph: the context with KV slot 0 is 131073, allowed is 1 to 131072"],
    );
    check_refused(|g, _| g.nodes.clear(), &["graph: the number of nodes is 0, allowed is 1 to 65536"]);
    check_refused(|g, _| g.values.clear(), &["graph: the number of values is 0, allowed is 1 to 65536"]);
    check_refused(
        |g, _| g.nodes = vec![g.nodes[node::ADD].clone(); 65_537],
        &["graph: the number of nodes is 65537, allowed is 1 to 65536"],
    );
    check_refused(
        |g, _| g.values = vec![g.values[0].clone(); 65_537],
        &["graph: the number of values is 65537, allowed is 1 to 65536"],
    );
}

#[test]
fn values_are_written_before_they_are_read() {
    check_refused(
        |g, _| g.nodes[node::NORM] = norm(7, 3, 1e-5),
        &["graph node 3 (layer_norm): value 7 is read before it is written"],
    );
    check_refused(
        |g, _| g.nodes[node::ADD] = Op::Add(Add { a: 0, b: 2, output: 2 }),
        &["graph node 2 (add): value 2 is read before it is written"],
    );
    check_refused(
        |g, _| g.nodes[node::LOGITS] = logits(usize::MAX - 1, "wte"),
        &["graph node 12 (logits): value 18446744073709551614 does not exist, the graph has 12"],
    );
    check_refused(|g, _| g.nodes.swap(0, 2), &["graph node 0 (add): value 0 is read before it is written"]);
    check_refused(
        |g, _| {
            g.values.push(Value { name: "never written".to_owned(), width: 8 });
            g.nodes[node::LOGITS] = logits(12, "wte");
        },
        &["graph node 12 (logits): value 12 is read before it is written"],
    );
}

#[test]
fn values_are_written_once() {
    check_refused(
        |g, _| {
            g.nodes[node::POSITIONS] = Op::PositionEmbed(PositionEmbed { table: "wpe".to_owned(), output: 0 })
        },
        &["graph node 1 (position_embed): value 0 is written twice"],
    );
    check_refused(
        |g, _| g.nodes[node::ADD] = Op::Add(Add { a: 0, b: 1, output: 0 }),
        &["graph node 2 (add): value 0 is written twice"],
    );
}

#[test]
fn values_exist() {
    check_refused(
        |g, _| g.nodes[node::EMBED] = Op::Embed(Embed { table: "wte".to_owned(), output: 12 }),
        &["graph node 0 (embed): value 12 does not exist, the graph has 12"],
    );
    check_refused(
        |g, _| g.nodes[node::ADD] = Op::Add(Add { a: 0, b: 99, output: 2 }),
        &["graph node 2 (add): value 99 does not exist, the graph has 12"],
    );
    check_refused(
        |g, _| g.nodes[node::ADD] = Op::Add(Add { a: 0, b: 1, output: usize::MAX }),
        &["graph node 2 (add): value 18446744073709551615 does not exist"],
    );
    check_refused(
        |g, _| _ = g.values.pop(),
        &["graph node 11 (add): value 11 does not exist, the graph has 11"],
    );
}

#[test]
fn tensors_exist() {
    let uses = [
        ("wte", "node 0 (embed)"),
        ("wpe", "node 1 (position_embed)"),
        ("ln.weight", "node 3 (layer_norm)"),
        ("ln.bias", "node 3 (layer_norm)"),
        ("qkv.weight", "node 4 (linear)"),
        ("down.bias", "node 10 (linear)"),
    ];
    for (tensor, node) in uses {
        let expected = format!("graph {node}: tensor `{tensor}` is not in the archive");
        check_refused(|_, shapes| _ = shapes.remove(tensor), &[&expected]);
    }
    check_refused(
        |g, _| g.nodes[node::LOGITS] = logits(11, "lm_head"),
        &["graph node 12 (logits): tensor `lm_head` is not in the archive"],
    );
}

#[test]
fn tensors_have_the_shapes_that_the_values_ask_for() {
    let check = |node: &str, tensor: &str, shape: &[usize], expected: &str| {
        let message =
            format!("graph node {node}: tensor `{tensor}` has shape {shape:?}, the node requires {expected}");
        check_refused(|_, shapes| _ = shapes.insert(tensor.to_owned(), shape.to_vec()), &[&message]);
    };
    check("0 (embed)", "wte", &[VOCABULARY - 1, 8], "[50, 8]");
    check("0 (embed)", "wte", &[8, VOCABULARY], "[50, 8]");
    check("1 (position_embed)", "wpe", &[CONTEXT - 1, 8], "[32, 8]");
    check("1 (position_embed)", "wpe", &[CONTEXT, 8, 1], "[32, 8]");
    check("3 (layer_norm)", "ln.weight", &[9], "[8]");
    check("3 (layer_norm)", "ln.bias", &[1, 8], "[8]");
    check("4 (linear)", "qkv.weight", &[8, 16], "[16, 8]");
    check("4 (linear)", "qkv.bias", &[8], "[16]");
    check("10 (linear)", "down.weight", &[8, 31], "[8, 32]");
    check("10 (linear)", "down.bias", &[], "[8]");
    check_refused(
        |g, shapes| {
            shapes.insert("head".to_owned(), vec![VOCABULARY + 1, 8]);
            g.nodes[node::LOGITS] = logits(11, "head");
        },
        &["graph node 12 (logits): tensor `head` has shape [51, 8], the node requires [50, 8]"],
    );
}

#[test]
fn element_wise_ops_keep_the_width() {
    check_refused(
        |g, _| g.values[1].width = 9,
        &["graph node 1 (position_embed): tensor `wpe` has shape [32, 8], the node requires [32, 9]"],
    );
    check_refused(
        |g, _| g.nodes[node::RESIDUAL] = Op::Add(Add { a: 2, b: 4, output: 7 }),
        &["graph node 7 (add): value 4 has width 16, value 7 has width 8"],
    );
    check_refused(
        |g, _| g.nodes[node::RESIDUAL] = Op::Add(Add { a: 4, b: 2, output: 7 }),
        &["graph node 7 (add): value 4 has width 16, value 7 has width 8"],
    );
    check_refused(
        |g, _| g.values[9].width = 31,
        &["graph node 9 (activation): value 8 has width 32, value 9 has width 31"],
    );
    check_refused(
        |g, _| g.values[3].width = 16,
        &["graph node 3 (layer_norm): value 2 has width 8, value 3 has width 16"],
    );
}

#[test]
fn a_value_is_not_added_to_itself() {
    check_refused(
        |g, _| g.nodes[node::ADD] = Op::Add(Add { a: 1, b: 1, output: 2 }),
        &["graph node 2 (add): value 1 is added to itself"],
    );
}

#[test]
fn epsilon_is_positive_and_finite() {
    for epsilon in [0.0, -0.0, -1e-5, f32::NAN, f32::INFINITY] {
        let expected =
            format!("graph node 3 (layer_norm): epsilon is {epsilon}, it must be positive and finite");
        check_refused(|g, _| g.nodes[node::NORM] = norm(2, 3, epsilon), &[&expected]);
    }
}

#[test]
fn outlier_thresholds_are_positive_and_finite() {
    for threshold in [0.0, -6.0, f32::NAN, f32::NEG_INFINITY] {
        let expected = format!("outlier_threshold is {threshold}, it must be positive and finite");
        check_refused(
            |g, _| {
                let Op::Linear(Linear { activations: ActivationPrecision::Int8, outlier_threshold, .. }) =
                    &mut g.nodes[node::QKV]
                else {
                    panic!("a linear node")
                };
                *outlier_threshold = Some(threshold);
            },
            &["graph node 4 (linear): ", &expected],
        );
        check_refused(
            |g, _| {
                let Op::Logits(Logits { activations: ActivationPrecision::Int8, outlier_threshold, .. }) =
                    &mut g.nodes[node::LOGITS]
                else {
                    panic!("the logits")
                };
                *outlier_threshold = Some(threshold);
            },
            &["graph node 12 (logits): ", &expected],
        );
    }
}

fn attention(slot: usize, n_head: usize, scale: f32) -> Op {
    Op::Attention(Attention { qkv: 4, slot, n_head, scale, output: 5 })
}

#[test]
fn scales_are_finite() {
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let expected = format!("graph node 5 (attention): scale is {scale}, it must be finite");
        check_refused(|g, _| g.nodes[node::ATTENTION] = attention(0, 2, scale), &[&expected]);
    }
}

#[test]
fn heads_fit_the_slot_and_the_widths() {
    let heads = |n_head: usize, slot: KvSlot, problem: &str| {
        check_refused(
            |g, _| {
                g.kv_slots[0] = slot;
                g.nodes[node::ATTENTION] = attention(0, n_head, 0.5);
            },
            &["graph node 5 (attention): ", problem],
        );
    };
    let slot = |n_kv_head, head_dim| KvSlot { n_kv_head, head_dim, precision: KvPrecision::F16 };
    heads(0, slot(1, 4), "n_head 0 is not a positive multiple of n_kv_head 1");
    heads(3, slot(2, 4), "n_head 3 is not a positive multiple of n_kv_head 2");
    heads(1, slot(2, 4), "n_head 1 is not a positive multiple of n_kv_head 2");
    heads(3, slot(1, 4), "3 query heads and 1 key-value heads of 4 elements do not fit widths 16 and 8");
    heads(2, slot(2, 4), "2 query heads and 2 key-value heads of 4 elements do not fit widths 16 and 8");
    heads(2, slot(1, 5), "2 query heads and 1 key-value heads of 5 elements do not fit widths 16 and 8");
    heads(usize::MAX, slot(1, 1), "18446744073709551615 query heads and 1 key-value heads");
    heads(1 << 62, slot(1, 4), "4611686018427387904 query heads"); // 2^62 * 4 wraps to 0
    heads((1 << 62) + 2, slot(1, 4), "4611686018427387906 query heads"); // to the right widths
    // Queries, keys and values fit, the output does not.
    check_refused(
        |g, _| {
            g.values[5].width = 16;
            g.nodes[node::ATTENTION] = attention(0, 2, 0.5);
        },
        &[
            "graph node 5 (attention): 2 query heads and 1 key-value heads of 4 elements do not fit widths 16 and 16",
        ],
    );
}

#[test]
fn every_attention_has_a_slot_of_its_own_and_every_slot_an_attention() {
    check_refused(
        |g, _| g.nodes[node::ATTENTION] = attention(1, 2, 0.5),
        &["graph node 5 (attention): KV slot 1 of 1"],
    );
    check_refused(
        |g, _| g.nodes[node::ATTENTION] = attention(usize::MAX, 2, 0.5),
        &["graph node 5 (attention): KV slot 18446744073709551615 of 1"],
    );
    check_refused(|g, _| g.kv_slots.clear(), &["graph node 5 (attention): KV slot 0 of 0"]);
    check_refused(
        |g, _| {
            g.values.push(Value { name: "again".to_owned(), width: 8 });
            g.nodes.insert(
                node::ATTENTION + 1,
                Op::Attention(Attention { qkv: 4, slot: 0, n_head: 2, scale: 0.5, output: 12 }),
            );
            g.plan_buffers();
        },
        &["graph node 6 (attention): KV slot 0 is used by an earlier node"],
    );
    // A cache would be allocated for it.
    check_refused(
        |g, _| g.kv_slots.push(KvSlot { n_kv_head: 1 << 12, head_dim: 1 << 12, precision: KvPrecision::F32 }),
        &[
            "graph: the number of KV slots is 2 (no attention node uses KV slot 1), allowed is one per attention node",
        ],
    );
}

#[test]
fn logits_come_last_and_only_there() {
    check_refused(
        |g, _| _ = g.nodes.pop(),
        &["graph node 11 (add): `logits` is the last node and stands nowhere else"],
    );
    check_refused(
        |g, _| g.nodes.insert(node::LOGITS, logits(11, "wte")),
        &["graph node 12 (logits): `logits` is the last node and stands nowhere else"],
    );
    check_refused(
        |g, _| g.nodes.swap(node::LOGITS - 1, node::LOGITS),
        &["graph node 11 (logits): value 11 is read before it is written"],
    );
}

#[test]
fn errors_carry_their_numbers_as_fields() {
    let (mut graph, shapes) = sample();
    graph.nodes[node::ADD] = Op::Add(Add { a: 0, b: 99, output: 2 });
    let error = validate(&graph, &shapes).expect_err("no such value");
    assert!(matches!(error, GraphError::Value { node: 2, op: "add", value: 99, .. }), "{error}");
    let (graph, mut shapes) = sample();
    shapes.insert("wte".to_owned(), vec![1]);
    let GraphError::TensorShape { node, tensor, found, expected, .. } =
        validate(&graph, &shapes).expect_err("another shape")
    else {
        panic!("a shape error");
    };
    assert_eq!((node, tensor.as_str(), found, expected), (0, "wte", vec![1], vec![50, 8]));
}

#[test]
fn options_that_are_absent_ask_for_no_tensor() {
    let (mut graph, mut shapes) = sample();
    for op in &mut graph.nodes {
        match op {
            Op::LayerNorm(LayerNorm { bias, .. }) | Op::Linear(Linear { bias, .. }) => *bias = None,
            Op::Activation(Activation { function, .. }) => *function = ActivationFunction::Silu,
            _ => {}
        }
    }
    shapes.retain(|name, _| !name.ends_with(".bias"));
    validate(&graph, &shapes).expect("valid");
}

fn norm(input: usize, output: usize, epsilon: f32) -> Op {
    Op::LayerNorm(LayerNorm { input, weight: "ln.weight".to_owned(), bias: None, epsilon, output })
}

fn logits(input: usize, weight: &str) -> Op {
    Op::Logits(Logits {
        input,
        weight: weight.to_owned(),
        activations: ActivationPrecision::Int8,
        outlier_threshold: None,
    })
}

/// What may be named where: every attribute that names a tensor, with every kind of tensor that it does not take.
#[test]
fn tensors_are_named_only_where_their_kind_fits() {
    const PART: &str = "is part of another parameter, such as its scales";
    const NOT_F32: &str = "is not stored in F32, in which vectors are executed where they lie";
    let everything = everything();
    let mut seen = BTreeSet::new();
    for (node, op) in everything.graph.nodes.iter().enumerate() {
        for (attribute, tensor, is_vector) in named(op) {
            seen.insert((op.name(), attribute));
            let check = |kind: TensorKind| {
                let validated = everything.graph.validate(|name| {
                    let shape = everything.parameters.iter().find(|p| p.name == name)?.shape.as_slice();
                    let kind = if name == tensor { kind } else { TensorKind::F32 };
                    Some(StoredTensor { shape, kind })
                });
                validated.map_err(|error| error.to_string())
            };
            let refused = |problem: &str| {
                Err(format!("graph node {node} ({}): tensor `{tensor}` {problem}", op.name()))
            };
            assert_eq!(check(TensorKind::F32), Ok(()), "node {node}, {attribute}");
            assert_eq!(check(TensorKind::Part), refused(PART), "node {node}, {attribute}");
            let encoded = if is_vector { refused(NOT_F32) } else { Ok(()) };
            assert_eq!(check(TensorKind::Encoded), encoded, "node {node}, {attribute}");
        }
    }
    let attributes = [
        ("embed", "table"),
        ("layer_norm", "bias"),
        ("layer_norm", "weight"),
        ("linear", "bias"),
        ("linear", "weight"),
        ("logits", "weight"),
        ("position_embed", "table"),
        ("rms_norm", "weight"),
        ("rope", "frequencies"),
        ("rope", "long"),
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), attributes);
}

/// Attribute, tensor, and whether it is a vector, of each tensor that an op names.
fn named(op: &Op) -> impl Iterator<Item = (&'static str, &str, bool)> {
    let (first, second) = match op {
        Op::Embed(Embed { table, .. }) | Op::PositionEmbed(PositionEmbed { table, .. }) => {
            (Some(("table", table, false)), None)
        }
        Op::LayerNorm(LayerNorm { weight, bias, .. }) => (Some(("weight", weight, true)), named_bias(bias)),
        Op::RmsNorm(RmsNorm { weight, .. }) => (Some(("weight", weight, true)), None),
        Op::Rope(Rope { frequencies, long, .. }) => {
            let long = long.as_ref().map(|long| ("long", &long.frequencies, true));
            (Some(("frequencies", frequencies, true)), long)
        }
        Op::Linear(Linear { weight, bias, .. }) => (Some(("weight", weight, false)), named_bias(bias)),
        Op::Logits(Logits { weight, .. }) => (Some(("weight", weight, false)), None),
        Op::Add(_) | Op::Concat(_) | Op::Activation(_) | Op::GatedActivation(_) | Op::Attention(_) => {
            (None, None)
        }
    };
    first
        .into_iter()
        .chain(second)
        .map(|(attribute, tensor, is_vector)| (attribute, tensor.as_str(), is_vector))
}

fn named_bias(bias: &Option<String>) -> Option<(&'static str, &String, bool)> {
    bias.as_ref().map(|bias| ("bias", bias, true))
}

/// A model with every op that names tensors.
fn everything() -> ModelDescription {
    let mut b = GraphBuilder::default();
    let table = b.matrix("wte", [VOCABULARY, 8], Role::Embedding);
    let embedded = b.value("embedded", 8);
    b.push(Embed { table, output: embedded });
    let table = b.matrix("wpe", [CONTEXT, 8], Role::PositionEmbedding);
    let position = b.value("position", 8);
    b.push(PositionEmbed { table, output: position });
    let hidden = b.add("hidden", embedded, position);
    let (weight, bias) = (b.vector("ln.weight", 8), Some(b.vector("ln.bias", 8)));
    let normed = b.value("normed", 8);
    b.push(LayerNorm { input: hidden, weight, bias, epsilon: 1e-5, output: normed });
    let weight = b.vector("rms.weight", 8);
    let again = b.value("again", 8);
    b.push(RmsNorm { input: normed, weight, epsilon: 1e-5, range: None, output: again });
    let frequencies = b.vector("frequencies", 2);
    let long = Some(LongFrequencies { frequencies: b.vector("long", 2), above: 16 });
    let turned = b.value("turned", 8);
    let style = RopeStyle::NeoX;
    b.push(Rope {
        input: again,
        frequencies,
        long,
        attention_factor: None,
        heads: 2,
        head_dim: 4,
        style,
        output: turned,
    });
    let up = b.linear(LinearLayer {
        name: "up",
        input: turned,
        out_features: 8,
        has_bias: true,
        is_transposed: false,
    });
    b.finish("test", [CONTEXT, VOCABULARY], up, "head", None)
}

#[test]
fn the_text_of_an_error_has_a_limit() {
    let (graph, shapes) = sample();
    let long = "x".repeat(1 << 20);
    let json = String::from_utf8(graph.to_json()).expect("JSON");
    for (from, to) in [
        ("\"embed\"", format!("\"{long}\"")),
        ("\"table\"", format!("\"{long}\"")),
        ("\"wte\"", format!("\"{long}\"")),
        ("\"version\"", format!("\"{long}\"")),
    ] {
        let json = json.replacen(from, &to, 1);
        let error = match Graph::from_json(json.as_bytes()) {
            Ok(graph) => validate(&graph, &shapes).expect_err("no such tensor"),
            Err(error) => error,
        };
        let text = error.to_string();
        assert!(text.len() < 500, "{from}: {} bytes of text", text.len());
    }
}

#[test]
fn the_length_of_a_graph_has_a_limit() {
    let mut json = sample().0.to_json();
    json.resize(Graph::MAX_JSON, b' ');
    Graph::from_json(&json).expect("as long as allowed");
    json.push(b' ');
    let error = Graph::from_json(&json).expect_err("too long").to_string();
    assert_eq!(error, "graph: 4194305 bytes of JSON, allowed are 4194304");
}
