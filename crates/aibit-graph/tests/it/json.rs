//! Graphs as JSON: one text per graph, and nothing unknown in it.

use aibit_graph::ops::{
    Activation, Add, Attention, Concat, Embed, GatedActivation, LayerNorm, Linear, Logits, PositionEmbed,
    RmsNorm, Rope,
};
use aibit_graph::{
    ActivationFunction, ActivationPrecision, BufferPlan, ContextLimit, Graph, GraphError, KvPrecision,
    KvSlot, LongFrequencies, Op, RopeStyle, StoredTensor, Value,
};
use proptest::prelude::*;

use crate::support::{sample, validate};

fn text() -> String {
    String::from_utf8(sample().0.to_json()).expect("UTF-8")
}

/// Checks that the sample's text with `to` in place of `from` cannot be read.
#[track_caller]
fn check_text(from: &str, to: &str, fragments: &[&str]) {
    let text = text();
    assert!(text.contains(from), "`{from}` is not in {text}");
    let error = Graph::from_json(text.replacen(from, to, 1).as_bytes()).expect_err("the text is broken");
    for fragment in fragments {
        assert!(error.to_string().contains(fragment), "`{fragment}` is not in: {error}");
    }
}

#[test]
fn a_graph_is_read_back_as_it_was() {
    let (graph, shapes) = sample();
    let json = graph.to_json();
    let read = Graph::from_json(&json).expect("read");
    assert_eq!(read, graph);
    assert_eq!(read.to_json(), json);
    validate(&read, &shapes).expect("valid");
}

#[test]
fn absent_options_are_not_written() {
    let mut graph = sample().0;
    graph.nodes = vec![
        Op::Linear(Linear {
            input: 0,
            weight: "w".to_owned(),
            bias: None,
            activations: ActivationPrecision::Int8,
            outlier_threshold: None,
            function: None,
            gate: None,
            residual: None,
            output: 1,
        }),
        Op::LayerNorm(LayerNorm { input: 0, weight: "w".to_owned(), bias: None, epsilon: 1.0, output: 1 }),
        Op::Logits(Logits {
            input: 0,
            weight: "w".to_owned(),
            activations: ActivationPrecision::Int8,
            outlier_threshold: None,
        }),
    ];
    let json = String::from_utf8(graph.to_json()).expect("UTF-8");
    assert!(
        ["null", "bias", "outlier_threshold", "function", "gate", "residual"]
            .iter()
            .all(|word| !json.contains(word)),
        "{json}"
    );
    assert_eq!(Graph::from_json(json.as_bytes()).expect("read"), graph);
}

#[test]
fn the_precision_of_a_slot_is_written_where_it_is_not_f32() {
    let (mut graph, shapes) = sample();
    assert!(!text().contains("precision"));
    for (precision, name) in [(KvPrecision::F16, "f16"), (KvPrecision::Int8, "int8")] {
        graph.kv_slots[0].precision = precision;
        let json = String::from_utf8(graph.to_json()).expect("UTF-8");
        assert!(json.contains(&format!("\"precision\": \"{name}\"")), "{json}");
        assert_eq!(Graph::from_json(json.as_bytes()).expect("read"), graph);
        validate(&graph, &shapes).expect("valid");
    }
    let head_dim = "\"head_dim\": 4";
    let with = |value: &str| format!("{head_dim}, \"precision\": {value}");
    let explicit = text().replacen(head_dim, &with("\"f32\""), 1);
    assert_eq!(Graph::from_json(explicit.as_bytes()).expect("read"), sample().0);
    for value in ["\"int4\"", "\"Int8\"", "\"\""] {
        check_text(head_dim, &with(value), &["graph: unknown variant", "`f32`, `f16`, `int8`", "line"]);
    }
    for value in ["null", "8", "[]"] {
        check_text(head_dim, &with(value), &["graph: ", "line"]);
    }
}

#[test]
fn unknown_ops_and_functions_are_refused_by_name() {
    check_text(
        "\"op\": \"embed\"",
        "\"op\": \"conv_2d\"",
        &["graph: unknown variant `conv_2d`", "`layer_norm`", "line"],
    );
    check_text("\"op\": \"add\"", "\"op\": \"Add\"", &["graph: unknown variant `Add`", "line"]);
    check_text("\"op\": \"add\"", "\"op\": \"\"", &["graph: unknown variant ``", "line"]);
    check_text("\"op\": \"add\",", "", &["graph: missing field `op`", "line"]);
    check_text(
        "\"gelu_tanh\"",
        "\"gelu_new\"",
        &["graph: unknown variant `gelu_new`", "`quick_gelu`", "line"],
    );
}

#[test]
fn unknown_missing_and_repeated_attributes_are_refused_by_name() {
    check_text("\"a\": 0", "\"a\": 0, \"alpha\": 2", &["graph: unknown field `alpha`", "line"]);
    check_text("\"epsilon\"", "\"eps\"", &["graph: unknown field `eps`", "`epsilon`", "line"]);
    check_text(
        "\"context\": 32",
        "\"context\": 32, \"rope\": true",
        &["graph: unknown field `rope`", "line"],
    );
    check_text("\"width\": 8", "\"width\": 8, \"dtype\": \"f16\"", &["graph: unknown field `dtype`", "line"]);
    check_text(
        "\"head_dim\": 4",
        "\"head_dim\": 4, \"window\": 4",
        &["graph: unknown field `window`", "line"],
    );
    check_text("\"offsets\"", "\"strides\": [], \"offsets\"", &["graph: unknown field `strides`", "line"]);
    check_text("\"a\": 0,", "", &["graph: missing field `a`", "line"]);
    check_text("\"context\": 32,", "", &["graph: missing field `context`", "line"]);
    check_text("\"version\": 1,", "", &["graph: missing field `version`", "line"]);
    check_text("\"a\": 0", "\"a\": 0, \"a\": 0", &["graph: duplicate field `a`", "line"]);
    check_text(
        "\"op\": \"add\"",
        "\"op\": \"add\", \"op\": \"add\"",
        &["graph: duplicate field `op`", "line"],
    );
    check_text(
        "\"context\": 32",
        "\"context\": 32, \"context\": 32",
        &["graph: duplicate field `context`", "line"],
    );
    check_text(
        "\"version\": 1",
        "\"version\": 1, \"version\": 1",
        &["graph: duplicate field `version`", "line"],
    );
}

#[test]
fn other_versions_are_refused_before_anything_else_is_read() {
    for version in [0, 3, u32::MAX] {
        let expected =
            format!("graph version {version} is not supported by this build (1 to 2); update aibit");
        check_text("\"version\": 1", &format!("\"version\": {version}"), &[&expected]);
        let only = format!("{{\"version\": {version}, \"nodes\": [{{\"op\": \"rope\"}}]}}");
        let error = Graph::from_json(only.as_bytes()).expect_err("another version");
        assert!(matches!(error, GraphError::Version { found, supported: 2 } if found == version), "{error}");
    }
    check_text("\"version\": 1", "\"version\": 4294967296", &["graph: invalid value", "line 2"]);
}

#[test]
fn numbers_that_are_no_counts_are_refused() {
    for number in ["-1", "1.5", "1e400", "18446744073709551616", "NaN", "null", "\"32\"", "[]"] {
        check_text("\"context\": 32", &format!("\"context\": {number}"), &["graph: ", "line"]);
        check_text("\"a\": 0", &format!("\"a\": {number}"), &["graph: ", "line"]);
        check_text("\"n_head\": 2", &format!("\"n_head\": {number}"), &["graph: ", "line"]);
    }
    for number in ["1e400", "NaN", "Infinity", "null", "\"1e-5\""] {
        check_text("\"epsilon\": 0.00001", &format!("\"epsilon\": {number}"), &["graph: ", "line"]);
        check_text("\"scale\": 0.5", &format!("\"scale\": {number}"), &["graph: ", "line"]);
    }
}

/// Finite as a JSON number, but not as the f32 that it is read into.
#[test]
fn numbers_beyond_f32_are_refused_by_validation() {
    let check = |from: &str, to: &str, fragment: &str| {
        assert!(text().contains(from));
        let error = match Graph::from_json(text().replacen(from, to, 1).as_bytes()) {
            Ok(graph) => validate(&graph, &sample().1).expect_err("infinite"),
            Err(error) => panic!("a number of f64's range: {error}"),
        };
        assert!(error.to_string().contains(fragment), "{error}");
    };
    check("\"epsilon\": 0.00001", "\"epsilon\": 1e39", "graph node 3 (layer_norm): epsilon is inf");
    check("\"epsilon\": 0.00001", "\"epsilon\": 1e-60", "graph node 3 (layer_norm): epsilon is 0");
    check("\"scale\": 0.5", "\"scale\": -1e300", "graph node 5 (attention): scale is -inf");
    check(
        "\"outlier_threshold\": 6.0",
        "\"outlier_threshold\": 1e39",
        "graph node 4 (linear): outlier_threshold is inf",
    );
}

#[test]
fn text_that_is_not_a_graph_is_refused() {
    let json = text();
    let cases: [&[u8]; 9] = [
        b"",
        b"null",
        b"[]",
        b"[1]",
        b"{}",
        b"\xff\xfe",
        &[b"\xef\xbb\xbf", json.as_bytes()].concat(),
        &json.as_bytes()[..json.len() - 1],
        &[json.as_bytes(), b"{}"].concat(),
    ];
    for bytes in cases {
        let error = Graph::from_json(bytes).expect_err("no graph").to_string();
        assert!(
            error.starts_with("graph: ") && error.contains("line 1") || error.contains("line"),
            "{error}"
        );
    }
    for open in ["[", "{\"a\":", "{\"version\":", "{\"version\":1,\"nodes\":["] {
        Graph::from_json(open.repeat(100_000).as_bytes()).expect_err("nested too deeply");
    }
    let deep = format!("\"a\": {}", "[".repeat(100_000));
    check_text("\"a\": 0", &deep, &["graph: "]);
}

fn any_float() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |f| f.is_finite())
}

fn any_op() -> impl Strategy<Value = Op> {
    let id = || any::<usize>();
    let text = || "\\PC{0,12}";
    let functions = vec![
        ActivationFunction::GeluTanh,
        ActivationFunction::GeluErf,
        ActivationFunction::Relu,
        ActivationFunction::Silu,
        ActivationFunction::Tanh,
        ActivationFunction::QuickGelu,
        ActivationFunction::Sigmoid,
    ];
    prop_oneof![
        (text(), id()).prop_map(|(table, output)| Op::Embed(Embed { table, output })),
        (text(), id()).prop_map(|(table, output)| Op::PositionEmbed(PositionEmbed { table, output })),
        (id(), id(), id()).prop_map(|(a, b, output)| Op::Add(Add { a, b, output })),
        (id(), text(), prop::option::of(text()), any_float(), id()).prop_map(
            |(input, weight, bias, epsilon, output)| Op::LayerNorm(LayerNorm {
                input,
                weight,
                bias,
                epsilon,
                output
            })
        ),
        (id(), text(), any_float(), prop::option::of(any::<[usize; 2]>()), id()).prop_map(
            |(input, weight, epsilon, range, output)| Op::RmsNorm(RmsNorm {
                input,
                weight,
                epsilon,
                range,
                output
            })
        ),
        (
            (id(), text(), id(), id(), prop::sample::select(PAIRINGS.to_vec()), id()),
            (prop::option::of((text(), id())), prop::option::of(any_float())),
        )
            .prop_map(
                |((input, frequencies, heads, head_dim, style, output), (long, attention_factor))| {
                    let long = long.map(|(frequencies, above)| LongFrequencies { frequencies, above });
                    Op::Rope(Rope {
                        input,
                        frequencies,
                        long,
                        attention_factor,
                        heads,
                        head_dim,
                        style,
                        output,
                    })
                }
            ),
        (prop::collection::vec(id(), 0..5), id())
            .prop_map(|(parts, output)| Op::Concat(Concat { parts, output })),
        (id(), prop::sample::select(functions.clone()), id()).prop_map(|(input, function, output)| {
            Op::GatedActivation(GatedActivation { input, function, output })
        }),
        (
            (id(), text(), prop::option::of(text()), prop::option::of(any_float()), id()),
            (
                prop::option::of(prop::sample::select(functions.clone())),
                prop::option::of(prop::sample::select(functions.clone())),
                prop::option::of(id()),
            ),
        )
            .prop_map(
                |((input, weight, bias, outlier_threshold, output), (function, gate, residual))| {
                    Op::Linear(Linear {
                        input,
                        weight,
                        bias,
                        activations: ActivationPrecision::Int8,
                        outlier_threshold,
                        function,
                        gate,
                        residual,
                        output,
                    })
                }
            ),
        (id(), prop::sample::select(functions), id())
            .prop_map(|(input, function, output)| Op::Activation(Activation { input, function, output })),
        (id(), id(), id(), any_float(), id()).prop_map(|(qkv, slot, n_head, scale, output)| Op::Attention(
            Attention { qkv, slot, n_head, scale, output }
        )),
        (id(), text(), prop::option::of(any_float())).prop_map(|(input, weight, outlier_threshold)| {
            Op::Logits(Logits { input, weight, activations: ActivationPrecision::Int8, outlier_threshold })
        }),
    ]
}

const PAIRINGS: [RopeStyle; 2] = [RopeStyle::NeoX, RopeStyle::GptJ];
const LIMITS: [ContextLimit; 2] = [ContextLimit::DynamicRope, ContextLimit::SlidingWindow];
const KV: [KvPrecision; 3] = [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8];

prop_compose! {
    /// Any content that JSON can carry, sound or not.
    fn any_graph()(
        context in any::<usize>(),
        context_limit in prop::option::of(prop::sample::select(&LIMITS[..])),
        vocabulary in any::<usize>(),
        values in prop::collection::vec(("\\PC{0,12}", any::<usize>()), 0..6),
        slots in prop::collection::vec((any::<(usize, usize)>(), prop::sample::select(&KV[..])), 0..3),
        nodes in prop::collection::vec(any_op(), 0..6),
        offsets in prop::collection::vec(any::<usize>(), 0..6),
        width in any::<usize>(),
    ) -> Graph {
        Graph {
            version: Graph::VERSION,
            context,
            context_limit,
            vocabulary,
            values: values.into_iter().map(|(name, width)| Value { name, width }).collect(),
            kv_slots: slots
                .into_iter()
                .map(|((n_kv_head, head_dim), precision)| KvSlot { n_kv_head, head_dim, precision })
                .collect(),
            nodes,
            plan: BufferPlan { offsets, width },
        }
    }
}

proptest! {
    #[test]
    fn any_graph_is_read_back_as_it_was(graph in any_graph()) {
        let read = Graph::from_json(&graph.to_json()).expect("read");
        prop_assert_eq!(&read, &graph);
        prop_assert_eq!(read.to_json(), graph.to_json());
    }

    #[test]
    fn any_graph_is_validated_without_panic(mut graph in any_graph(), small in any::<bool>()) {
        if small {
            // Numbers within the limits reach the rules behind them.
            graph.context = graph.context % 64 + 1;
            graph.vocabulary = graph.vocabulary % 64 + 1;
            graph.plan.width = graph.plan.width % 64 + 1;
            graph.values.iter_mut().for_each(|v| v.width = v.width % 16 + 1);
            for slot in &mut graph.kv_slots {
                (slot.n_kv_head, slot.head_dim) = (slot.n_kv_head % 3 + 1, slot.head_dim % 3 + 1);
            }
        }
        prop_assert!(graph.validate(|_| Some(StoredTensor::f32(&[4]))).is_err() || graph.nodes.len() == 1);
        prop_assert!(graph.validate(|_| None).is_err());
    }

    #[test]
    fn damaged_text_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let (graph, shapes) = sample();
        let mut json = graph.to_json();
        let at = at.index(json.len());
        if cut { json.truncate(at) } else { json[at] = byte }
        if let Ok(graph) = Graph::from_json(&json) {
            let _ = validate(&graph, &shapes);
        }
    }
}
