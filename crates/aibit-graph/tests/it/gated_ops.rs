//! The ops of models of the Llama family: rules of their shapes, their JSON, and what may be done in place.

use aibit_graph::ops::{Activation, Concat, Linear, RmsNorm, Rope};
use aibit_graph::{ActivationFunction, ContextLimit, Graph, LongFrequencies, Op, RopeStyle, Value};

use crate::support::{Shapes, check_gated_refused, gated, gated_node, shapes_of, validate};

fn rope(heads: usize, head_dim: usize) -> Op {
    let frequencies = "frequencies".to_owned();
    Op::Rope(Rope {
        input: 6,
        frequencies,
        long: None,
        attention_factor: None,
        heads,
        head_dim,
        style: RopeStyle::GptJ,
        output: 7,
    })
}

fn head_norm(range: Option<[usize; 2]>) -> Op {
    Op::RmsNorm(RmsNorm { input: 5, weight: "head_norm.weight".to_owned(), epsilon: 1e-5, range, output: 6 })
}

fn concat(parts: Vec<usize>) -> Op {
    Op::Concat(Concat { parts, output: 5 })
}

/// Checks that the gated model's graph is valid after an edit.
#[track_caller]
fn check_valid(edit: impl FnOnce(&mut Graph, &mut Shapes)) {
    let model = gated();
    let (mut graph, mut shapes) = (model.graph.clone(), shapes_of(&model));
    edit(&mut graph, &mut shapes);
    graph.plan_buffers();
    validate(&graph, &shapes).expect("valid");
    assert_eq!(Graph::from_json(&graph.to_json()).expect("read"), graph);
}

/// Checks that a shape of a tensor is refused with this problem.
#[track_caller]
fn check_shape(tensor: &str, shape: &[usize], message: &str) {
    check_gated_refused(|_, shapes| _ = shapes.insert(tensor.to_owned(), shape.to_vec()), &[message]);
}

#[test]
fn the_gated_model_is_valid_and_indexed_as_the_tests_say() {
    check_valid(|_, _| {});
    let nodes = gated().graph.nodes;
    let names = [
        (gated_node::INPUT_NORM, "rms_norm"),
        (gated_node::V, "linear"),
        (gated_node::QKV, "concat"),
        (gated_node::HEAD_NORM, "rms_norm"),
        (gated_node::ROPE, "rope"),
        (gated_node::GATE_UP, "concat"),
        (gated_node::GATED, "gated_activation"),
        (gated_node::LAST_NORM, "rms_norm"),
        (gated_node::LOGITS, "logits"),
    ];
    for (node, name) in names {
        assert_eq!(nodes[node].name(), name, "{node}");
        assert!(name == "logits" || nodes[node].output() == Some(node), "{node}");
    }
    assert_eq!(nodes.len(), gated_node::LOGITS + 1);
}

#[test]
fn rms_norms_keep_the_width_and_have_an_epsilon() {
    check_gated_refused(
        |g, _| g.values[1].width = 9,
        &["graph node 1 (rms_norm): value 0 has width 8, value 1 has width 9"],
    );
    for epsilon in [0.0, -1e-6, f32::NAN, f32::INFINITY] {
        let expected =
            format!("graph node 17 (rms_norm): epsilon is {epsilon}, it must be positive and finite");
        check_gated_refused(
            |g, _| {
                let Op::RmsNorm(RmsNorm { epsilon: own, .. }) = &mut g.nodes[gated_node::LAST_NORM] else {
                    panic!("the norm")
                };
                *own = epsilon;
            },
            &[&expected],
        );
    }
}

#[test]
fn rms_norms_take_whole_runs_within_the_row() {
    for range in
        [[0, 17], [8, 8], [12, 8], [16, 16], [0, usize::MAX], [usize::MAX, usize::MAX], [usize::MAX, 0]]
    {
        let [start, end] = range;
        let expected = format!("graph node 6 (rms_norm): range {start}..{end} of 16 elements");
        check_gated_refused(|g, _| g.nodes[gated_node::HEAD_NORM] = head_norm(Some(range)), &[&expected]);
    }
    check_gated_refused(
        |g, _| g.nodes[gated_node::HEAD_NORM] = head_norm(Some([1, 8])),
        &["graph node 6 (rms_norm): 7 elements are not whole runs of 4, the length of `head_norm.weight`"],
    );
    check_shape(
        "head_norm.weight",
        &[3],
        "graph node 6 (rms_norm): 8 elements are not whole runs of 3, the length of `head_norm.weight`",
    );
    check_shape(
        "last_norm.weight",
        &[16],
        "graph node 17 (rms_norm): 8 elements are not whole runs of 16, the length of `last_norm.weight`",
    );
    for shape in [&[2, 2][..], &[4, 1], &[], &[0]] {
        let expected = format!(
            "graph node 6 (rms_norm): tensor `head_norm.weight` has shape {shape:?}, the node requires a vector"
        );
        check_shape("head_norm.weight", shape, &expected);
    }
    // Runs anywhere in the row, and runs of a whole row.
    for range in [Some([0, 16]), Some([5, 13]), Some([12, 16]), None] {
        check_valid(|g, _| g.nodes[gated_node::HEAD_NORM] = head_norm(range));
    }
    check_valid(|_, shapes| _ = shapes.insert("last_norm.weight".to_owned(), vec![2]));
}

#[test]
fn ropes_turn_heads_that_fit_the_row() {
    check_gated_refused(
        |g, _| g.values[gated_node::ROPE].width = 17,
        &["graph node 7 (rope): value 6 has width 16, value 7 has width 17"],
    );
    const HALF: usize = usize::MAX / 2 + 1; // twice that wraps to 0
    for (heads, head_dim) in [
        (5, 4),
        (1, 17),
        (17, 1),
        (0, 4),
        (3, 0),
        (0, 0),
        (usize::MAX, 2),
        (2, usize::MAX),
        (usize::MAX, usize::MAX),
        (HALF, 2),
        (HALF + 4, 2), // to 8
        (usize::MAX, 1),
    ] {
        let expected =
            format!("graph node 7 (rope): {heads} heads of {head_dim} elements do not fit the width 16");
        check_gated_refused(|g, _| g.nodes[gated_node::ROPE] = rope(heads, head_dim), &[&expected]);
    }
    for (pairs, head_dim) in [(3, 4), (HALF, 4), (usize::MAX, 4), (2, 3), (1, 1)] {
        let expected = format!(
            "graph node 7 (rope): {pairs} pairs, the length of `frequencies`, do not fit heads of {head_dim} elements"
        );
        check_gated_refused(
            |g, shapes| {
                g.nodes[gated_node::ROPE] = rope(3, head_dim);
                shapes.insert("frequencies".to_owned(), vec![pairs]);
            },
            &[&expected],
        );
    }
    for shape in [&[1, 2][..], &[2, 1], &[], &[0]] {
        let expected = format!(
            "graph node 7 (rope): tensor `frequencies` has shape {shape:?}, the node requires a vector"
        );
        check_shape("frequencies", shape, &expected);
    }
    // As many heads as fit, heads that are turned in part, and of an odd length.
    for (heads, head_dim) in [(4, 4), (1, 16), (3, 5), (2, 8)] {
        check_valid(|g, _| g.nodes[gated_node::ROPE] = rope(heads, head_dim));
    }
}

#[test]
fn concats_have_two_parts_or_more_that_fill_the_row() {
    for parts in [vec![], vec![2]] {
        let expected = format!("graph node 5 (concat): {} parts, two or more are required", parts.len());
        check_gated_refused(|g, _| g.nodes[gated_node::QKV] = concat(parts), &[&expected]);
    }
    for parts in [vec![2, 3], vec![2, 3, 4, 3], vec![2, 2, 3]] {
        check_gated_refused(
            |g, _| g.nodes[gated_node::QKV] = concat(parts),
            &["graph node 5 (concat): the widths of its parts do not add up to the width 16 of value 5"],
        );
    }
    check_gated_refused(
        |g, _| g.nodes[gated_node::QKV] = concat(vec![2, 3, 19]),
        &["graph node 5 (concat): value 19 does not exist, the graph has 18"],
    );
    check_gated_refused(
        |g, _| g.nodes[gated_node::QKV] = concat(vec![2, 3, 5]),
        &["graph node 5 (concat): value 5 is read before it is written"],
    );
    check_gated_refused(
        |g, _| g.nodes[gated_node::QKV] = concat(vec![2, 3, usize::MAX]),
        &["graph node 5 (concat): value 18446744073709551615 does not exist"],
    );
    // A part may stand twice, as in repeated heads.
    check_valid(|g, _| g.nodes[gated_node::QKV] = concat(vec![2, 2]));
    check_valid(|g, _| g.nodes[gated_node::QKV] = concat(vec![4, 3, 4, 3]));
}

#[test]
fn a_concat_of_very_many_parts_is_checked_like_any_other() {
    // As many parts as there may be values; they cannot all be different ones.
    let parts = 1 << 16;
    let edit = |width: usize| {
        move |g: &mut Graph, shapes: &mut Shapes| {
            g.values[gated_node::UP].width = 1;
            shapes.insert("up.weight".to_owned(), vec![1, 8]);
            g.nodes[gated_node::GATE_UP] =
                Op::Concat(Concat { parts: vec![gated_node::UP; parts], output: gated_node::GATE_UP });
            g.values[gated_node::GATE_UP].width = width;
            g.values[gated_node::GATED].width = width / 2;
            shapes.insert("down.weight".to_owned(), vec![8, width / 2]);
        }
    };
    check_valid(edit(parts));
    check_gated_refused(
        edit(parts + 1),
        &["graph node 13 (concat): the widths of its parts do not add up to the width 65537 of value 13"],
    );
    // Widths at their limit: the sum goes far beyond one.
    check_gated_refused(
        |g, shapes| {
            edit(1 << 24)(g, shapes);
            g.values[gated_node::UP].width = 1 << 24;
            shapes.insert("up.weight".to_owned(), vec![1 << 24, 8]);
        },
        &["graph node 13 (concat): the widths of its parts do not add up to the width 16777216 of value 13"],
    );
}

#[test]
fn gated_activations_halve_the_width() {
    for width in [5, 7, 12, 1 << 23] {
        let expected = format!(
            "graph node 14 (gated_activation): value 13 of width 12 is not twice as wide as value 14 of width {width}"
        );
        check_gated_refused(|g, _| g.values[gated_node::GATED].width = width, &[&expected]);
    }
    check_gated_refused(
        |g, shapes| {
            g.values[gated_node::UP].width = 7;
            g.values[gated_node::GATE_UP].width = 13;
            shapes.insert("up.weight".to_owned(), vec![7, 8]);
        },
        &[
            "graph node 14 (gated_activation): value 13 of width 13 is not twice as wide as value 14 of width 6",
        ],
    );
}

#[test]
fn a_gated_layer_has_twice_the_rows_and_neither_function_nor_residual() {
    const GATED: usize = 7;
    let mut model = gated();
    model.fuse(|_| true);
    let check = |edit: &dyn Fn(&mut Op, &mut Shapes), message: &str| {
        let (mut graph, mut shapes) = (model.graph.clone(), shapes_of(&model));
        edit(&mut graph.nodes[GATED], &mut shapes);
        graph.plan_buffers();
        let error = validate(&graph, &shapes).expect_err("edited").to_string();
        assert!(error.contains(message), "{error}");
    };
    let is_gated = |op: &Op| matches!(op, Op::Linear(Linear { gate: Some(ActivationFunction::Silu), .. }));
    assert!(is_gated(&model.graph.nodes[GATED]), "{:?}", model.graph.nodes[GATED]);
    assert_eq!(Graph::from_json(&model.graph.to_json()).expect("read"), model.graph);
    for rows in [6, 11, 13, 24] {
        let message = format!("tensor `gate_up.weight` has shape [{rows}, 8], the node requires [12, 8]");
        check(&|_, shapes| _ = shapes.insert("gate_up.weight".to_owned(), vec![rows, 8]), &message);
    }
    check(
        &|op, shapes| {
            let Op::Linear(Linear { bias, .. }) = op else { unreachable!() };
            *bias = Some("gate_up.bias".to_owned());
            shapes.insert("gate_up.bias".to_owned(), vec![6]);
        },
        "tensor `gate_up.bias` has shape [6], the node requires [12]",
    );
    check(
        &|op, _| {
            let Op::Linear(Linear { function, .. }) = op else { unreachable!() };
            *function = Some(ActivationFunction::Relu);
        },
        "node 7 (linear): a gate and a function, which exclude each other",
    );
    check(
        &|op, _| {
            let Op::Linear(Linear { residual, input, .. }) = op else { unreachable!() };
            *residual = Some(*input);
        },
        "node 7 (linear): a gate and a residual, which exclude each other",
    );
}

#[test]
fn their_tensors_exist() {
    for (tensor, node) in [
        ("input_norm.weight", "node 1 (rms_norm)"),
        ("head_norm.weight", "node 6 (rms_norm)"),
        ("frequencies", "node 7 (rope)"),
    ] {
        let expected = format!("graph {node}: tensor `{tensor}` is not in the archive");
        check_gated_refused(|_, shapes| _ = shapes.remove(tensor), &[&expected]);
    }
}

#[test]
fn they_are_written_and_read_back() {
    let graph = gated().graph;
    let json = String::from_utf8(graph.to_json()).expect("UTF-8");
    assert_eq!(Graph::from_json(json.as_bytes()).expect("read"), graph);
    assert!(!json.contains("null"), "{json}");
    // Of the three norms one has a range.
    assert_eq!(json.matches("\"rms_norm\"").count(), 3);
    assert_eq!(json.matches("\"range\"").count(), 1);
    let squeezed: String = json.split_whitespace().collect();
    for text in [
        r#"{"op":"rms_norm","input":0,"weight":"input_norm.weight","epsilon":0.00001,"output":1}"#,
        r#"{"op":"rms_norm","input":5,"weight":"head_norm.weight","epsilon":0.00001,"range":[0,8],"output":6}"#,
        r#"{"op":"rope","input":6,"frequencies":"frequencies","heads":3,"head_dim":4,"pairing":"half","output":7}"#,
        r#"{"op":"concat","parts":[2,3,4],"output":5}"#,
        r#"{"op":"gated_activation","input":13,"function":"silu","output":14}"#,
    ] {
        assert!(squeezed.contains(text), "{text} is not in {squeezed}");
    }
    let adjacent = json.replacen("\"half\"", "\"adjacent\"", 1);
    let read = Graph::from_json(adjacent.as_bytes()).expect("read");
    assert!(matches!(read.nodes[gated_node::ROPE], Op::Rope(Rope { style: RopeStyle::GptJ, .. })));
}

#[test]
fn ropes_may_have_frequencies_for_long_contexts_and_a_factor() {
    let scaled = |above: usize, attention_factor: f32| {
        Op::Rope(Rope {
            input: 6,
            frequencies: "frequencies".to_owned(),
            long: Some(LongFrequencies { frequencies: "long".to_owned(), above }),
            attention_factor: Some(attention_factor),
            heads: 3,
            head_dim: 4,
            style: RopeStyle::NeoX,
            output: 7,
        })
    };
    check_gated_refused(
        |g, _| g.context_limit = Some(ContextLimit::DynamicRope),
        &["graph: the version of a graph with a `context_limit` is 1, allowed is 2"],
    );
    let mut model = gated();
    assert_eq!(model.graph.version, 1);
    model.graph.nodes[gated_node::ROPE] = scaled(16, 1.25);
    model.graph.version = 2;
    let json = String::from_utf8(model.graph.to_json()).expect("UTF-8");
    assert_eq!(Graph::from_json(json.as_bytes()).expect("read"), model.graph);
    let squeezed: String = json.split_whitespace().collect();
    let want = r#"{"op":"rope","input":6,"frequencies":"frequencies","long":{"frequencies":"long","above":16},"attention_factor":1.25,"heads":3,"head_dim":4,"pairing":"half","output":7}"#;
    assert!(squeezed.contains(want), "{squeezed}");
    let unknown = json.replacen("\"above\"", "\"below\": 3, \"above\"", 1);
    let error = Graph::from_json(unknown.as_bytes()).expect_err("an unknown attribute").to_string();
    assert!(error.contains("below"), "{error}");

    check_gated_refused(
        |g, shapes| {
            g.nodes[gated_node::ROPE] = scaled(16, 1.25);
            shapes.insert("long".to_owned(), vec![2]);
        },
        &["graph node 7 (rope): has attributes of graph version 2, this is version 1"],
    );
    check_valid(|g, shapes| {
        g.version = 2;
        g.nodes[gated_node::ROPE] = scaled(16, -1.25);
        shapes.insert("long".to_owned(), vec![2]);
    });
    for (above, factor, shape, expected) in [
        (16, 1.0, None, "graph node 7 (rope): tensor `long` is not in the archive"),
        (16, 1.0, Some(vec![1]), "node 7 (rope): tensor `long` has shape [1]"),
        (16, 1.0, Some(vec![3]), "node 7 (rope): tensor `long` has shape [3]"),
        (16, 1.0, Some(vec![1, 2]), "node 7 (rope): tensor `long` has shape [1, 2]"),
        (0, 1.0, Some(vec![2]), "graph node 7 (rope): `above` is 0, it must be positive"),
        (16, f32::NAN, Some(vec![2]), "graph node 7 (rope): attention_factor is NaN, it must be finite"),
        (16, f32::INFINITY, Some(vec![2]), "graph node 7 (rope): attention_factor is inf, it must be finite"),
    ] {
        check_gated_refused(
            |g, shapes| {
                g.version = 2;
                g.nodes[gated_node::ROPE] = scaled(above, factor);
                if let Some(shape) = shape {
                    shapes.insert("long".to_owned(), shape);
                }
            },
            &[expected],
        );
    }
}

/// Checks that the gated model's text with `to` in place of `from` cannot be read.
#[track_caller]
fn check_text(from: &str, to: &str, fragments: &[&str]) {
    let text = String::from_utf8(gated().graph.to_json()).expect("UTF-8");
    assert!(text.contains(from), "`{from}` is not in {text}");
    let error = Graph::from_json(text.replacen(from, to, 1).as_bytes()).expect_err("the text is broken");
    for fragment in fragments {
        assert!(error.to_string().contains(fragment), "`{fragment}` is not in: {error}");
    }
}

#[test]
fn unknown_and_missing_attributes_are_refused_by_name() {
    for (from, to, expected) in [
        ("\"heads\": 3", "\"heads\": 3, \"theta\": 10000.0", "unknown field `theta`"),
        ("\"pairing\": \"half\",", "", "missing field `pairing`"),
        ("\"heads\": 3,", "", "missing field `heads`"),
        ("\"head_dim\": 4,\n      \"pairing\"", "\"pairing\"", "missing field `head_dim`"),
        ("\"frequencies\": \"frequencies\",", "", "missing field `frequencies`"),
        ("\"range\"", "\"columns\"", "unknown field `columns`"),
        ("\"parts\"", "\"inputs\"", "unknown field `inputs`"),
        ("\"function\": \"silu\",", "", "missing field `function`"),
        ("\"function\": \"silu\"", "\"function\": \"silu\", \"limit\": 7", "unknown field `limit`"),
        ("\"weight\": \"input_norm.weight\"", "\"weight\": \"x\", \"bias\": \"y\"", "unknown field `bias`"),
        (
            "\"pairing\": \"half\"",
            "\"pairing\": \"half\", \"pairing\": \"half\"",
            "duplicate field `pairing`",
        ),
    ] {
        check_text(from, to, &["graph: ", expected, "line"]);
    }
    for name in ["interleaved", "Half", "neox", ""] {
        check_text(
            "\"half\"",
            &format!("\"{name}\""),
            &[&format!("graph: unknown variant `{name}`"), "`half` or `adjacent`", "line"],
        );
    }
    for op in ["rmsnorm", "RmsNorm", "swiglu", "rotary"] {
        check_text(
            "\"op\": \"rope\"",
            &format!("\"op\": \"{op}\""),
            &["unknown variant", "`gated_activation`"],
        );
    }
}

#[test]
fn attributes_of_the_wrong_kind_are_refused() {
    let range = "\"range\": [\n        0,\n        8\n      ]";
    for value in
        ["[0]", "[0, 8, 16]", "[0, -8]", "[0, 8.0]", "[[0, 8]]", "8", "\"0..8\"", "[0, 18446744073709551616]"]
    {
        check_text(range, &format!("\"range\": {value}"), &["graph: ", "line"]);
    }
    for value in ["-3", "3.0", "null", "\"3\"", "18446744073709551616", "[3]"] {
        check_text("\"heads\": 3", &format!("\"heads\": {value}"), &["graph: ", "line"]);
    }
    for value in ["null", "0", "{\"half\": 1}", "{}", "[\"half\"]"] {
        check_text("\"pairing\": \"half\"", &format!("\"pairing\": {value}"), &["graph: ", "line"]);
    }
    for value in ["-1", "null", "2", "\"2\"", "[2, null]", "{}"] {
        check_text(
            "\"parts\": [\n        2,\n        3,\n        4\n      ]",
            &format!("\"parts\": {value}"),
            &["graph: ", "line"],
        );
    }
}

/// Numbers that a file can hold, all the way from its text.
#[test]
fn hostile_numbers_in_a_text_are_refused_by_validation() {
    let check = |from: &str, to: &str, expected: &str| {
        let text = String::from_utf8(gated().graph.to_json()).expect("UTF-8");
        assert!(text.contains(from), "`{from}` is not in {text}");
        let graph = Graph::from_json(text.replacen(from, to, 1).as_bytes()).expect("numbers of their type");
        let error = validate(&graph, &shapes_of(&gated())).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(
        "\"heads\": 3",
        "\"heads\": 18446744073709551615",
        "18446744073709551615 heads of 4 elements do not fit the width 16",
    );
    check(
        "\"heads\": 3,\n      \"head_dim\": 4",
        "\"heads\": 4294967296, \"head_dim\": 4294967296",
        "4294967296 heads of 4294967296 elements do not fit the width 16",
    );
    check(
        "\"range\": [\n        0,\n        8",
        "\"range\": [0, 18446744073709551615",
        "range 0..18446744073709551615 of 16 elements",
    );
    check(
        "\"range\": [\n        0,\n        8",
        "\"range\": [18446744073709551615, 18446744073709551615",
        "range 18446744073709551615..18446744073709551615 of 16 elements",
    );
    let parts = "\"parts\": [\n        2,\n        3,\n        4\n      ]";
    check(parts, &format!("\"parts\": [{}2]", "2,".repeat((1 << 16) - 1)), "do not add up to the width 16");
    check(parts, "\"parts\": []", "0 parts, two or more are required");
    check("\"epsilon\": 0.00001", "\"epsilon\": 1e39", "epsilon is inf");
}

#[test]
fn what_turns_or_normalizes_parts_of_a_row_works_in_place() {
    let plan = gated().graph.plan;
    let place = |node: usize| plan.offsets[node];
    assert_eq!(place(gated_node::HEAD_NORM), place(gated_node::QKV), "a norm of heads over its argument");
    assert_eq!(place(gated_node::ROPE), place(gated_node::HEAD_NORM), "a rotation over its argument");
    // The planner uses no place that validation refuses.
    assert_ne!(place(gated_node::LAST_NORM), place(16), "a norm of rows beside its argument");
    assert_ne!(place(gated_node::GATED), place(gated_node::GATE_UP));
}

#[test]
fn what_reads_more_than_it_has_written_does_not_work_in_place() {
    let over = |node: usize, input: usize, what: &str| {
        for shift in [0, 1] {
            let expected = format!(
                "graph buffer plan: node {node} ({what}) writes value {node} over value {input}, which is still needed"
            );
            check_gated_refused(
                |g, _| {
                    // Every value in a place of its own, but for the one under test.
                    g.plan.offsets = (0..18).map(|v| 32 * v).collect();
                    g.plan.offsets[node] = g.plan.offsets[input] + shift;
                    let end = |v: usize| g.plan.offsets[v] + g.values[v].width;
                    g.plan.width = (0..18).map(end).max().expect("values");
                },
                &[&expected],
            );
        }
    };
    over(gated_node::LAST_NORM, 16, "rms_norm");
    over(gated_node::GATED, gated_node::GATE_UP, "gated_activation");
    over(gated_node::QKV, gated_node::Q, "concat");
    over(gated_node::GATE_UP, gated_node::GATE, "concat");
    // A shift by one element is no place to work in for those that otherwise may.
    for (node, input, what) in [
        (gated_node::ROPE, gated_node::HEAD_NORM, "rope"),
        (gated_node::HEAD_NORM, gated_node::QKV, "rms_norm"),
    ] {
        let expected =
            format!("node {node} ({what}) writes value {node} over value {input}, which is still needed");
        check_gated_refused(
            |g, _| {
                g.plan.offsets = (0..18).map(|v| 32 * v).collect();
                g.plan.offsets[node] = g.plan.offsets[input] + 1;
                g.plan.width = 32 * 17 + 8;
            },
            &[&expected],
        );
    }
    // Without its range a norm of heads is one of rows.
    check_gated_refused(
        |g, _| g.nodes[gated_node::HEAD_NORM] = head_norm(None),
        &["graph buffer plan: node 6 (rms_norm) writes value 6 over value 5, which is still needed"],
    );
}

#[test]
fn an_argument_that_is_needed_later_is_not_worked_on_in_place() {
    // The unturned row is needed once more.
    let edit = |g: &mut Graph| {
        g.values.push(Value { name: "again".to_owned(), width: 16 });
        let again = Op::Activation(Activation {
            input: gated_node::HEAD_NORM,
            function: ActivationFunction::Relu,
            output: 18,
        });
        g.nodes.insert(gated_node::ROPE + 1, again);
    };
    check_valid(|g, _| edit(g));
    check_gated_refused(
        |g, _| {
            edit(g);
            g.plan_buffers();
            g.plan.offsets[gated_node::ROPE] = g.plan.offsets[gated_node::HEAD_NORM];
        },
        &["graph buffer plan: node 7 (rope) writes value 7 over value 6, which is still needed"],
    );
}
