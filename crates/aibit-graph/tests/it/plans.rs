//! Buffer plans: no node writes over what a later one reads.

use std::collections::HashMap;

use aibit_graph::ops::{
    Activation, Add, Concat, Embed, GatedActivation, LayerNorm, Linear, Logits, RmsNorm, Rope,
};
use aibit_graph::{ActivationFunction, ActivationPrecision, BufferPlan, Graph, KvSlot, Op, RopeStyle, Value};
use proptest::prelude::*;

use crate::fusion::same_meaning;
use crate::support::{Shapes, check_refused, sample, validate};

#[test]
fn the_samples_plan_is_the_one_worked_out_by_hand() {
    let plan = sample().0.plan;
    // token 0, position 16, x0 over token, n0 16, qkv 32 past n0's line, heads 16, attended 32, x1 over x0,
    // up 16, active over up, down 48 past active's two lines, x2 over x1.
    assert_eq!(plan.offsets, [0, 16, 0, 16, 32, 16, 32, 0, 16, 16, 48, 0]);
    assert_eq!(plan.width, 56);
}

#[test]
fn a_plan_has_one_place_for_every_value() {
    check_refused(|g, _| _ = g.plan.offsets.pop(), &["graph buffer plan: 11 offsets for 12 values"]);
    check_refused(|g, _| g.plan.offsets.push(0), &["graph buffer plan: 13 offsets for 12 values"]);
    check_refused(|g, _| g.plan.offsets.clear(), &["graph buffer plan: 0 offsets for 12 values"]);
}

#[test]
fn places_lie_in_the_arena() {
    check_refused(
        |g, _| g.plan.width = 55,
        &["graph buffer plan: value 10 (`down`) of width 8 at offset 48 exceeds the arena's width 55"],
    );
    check_refused(
        |g, _| g.plan.offsets[0] = 49,
        &["graph buffer plan: value 0 (`token`) of width 8 at offset 49 exceeds the arena's width 56"],
    );
    check_refused(
        |g, _| g.plan.offsets[4] = usize::MAX - 15,
        &["value 4 (`qkv`) of width 16 at offset 18446744073709551600 exceeds the arena's width 56"],
    );
    check_refused(
        |g, _| g.plan.offsets[4] = usize::MAX,
        &["value 4 (`qkv`) of width 16 at offset 18446744073709551615 exceeds the arena's width 56"],
    );
    // An arena must not ask for more than its values take, nor hold values that no node writes.
    check_refused(
        |g, _| g.plan.width = 1 << 20,
        &["graph buffer plan: the arena's width is 1048576, the values take 56"],
    );
    check_refused(
        |g, _| {
            g.values.push(Value { name: "unused".to_owned(), width: 8 });
            g.plan.offsets.push(0);
        },
        &["the number of values is 13 (no node writes value 12)"],
    );
}

#[test]
fn live_values_do_not_overlap() {
    check_refused(
        |g, _| g.plan.offsets[1] = 7,
        &["graph buffer plan: node 1 (position_embed) writes value 1 over value 0, which is still needed"],
    );
    check_refused(
        |g, _| g.plan.offsets[1] = 0,
        &["graph buffer plan: node 1 (position_embed) writes value 1 over value 0, which is still needed"],
    );
    // The residual x0 lives until node 7.
    check_refused(
        |g, _| g.plan.offsets[5] = 1,
        &["graph buffer plan: node 5 (attention) writes value 5 over value 2, which is still needed"],
    );
    // One value around another.
    check_refused(
        |g, _| g.plan.offsets[8] = 3,
        &["graph buffer plan: node 8 (linear) writes value 8 over value 7, which is still needed"],
    );
    // The logits read x2; nothing is written after, so a value may lie anywhere before.
    check_refused(
        |g, _| g.plan.offsets[3] = 0,
        &["graph buffer plan: node 3 (layer_norm) writes value 3 over value 2, which is still needed"],
    );
}

#[test]
fn values_side_by_side_may_touch() {
    let (mut graph, shapes) = sample();
    graph.plan.offsets[1] = 8;
    validate(&graph, &shapes).expect("valid");
}

/// Only element-wise ops may work in place: others read an input element after writing an output element.
#[test]
fn only_element_wise_ops_work_in_place() {
    let (graph, _) = sample();
    assert_eq!(graph.plan.offsets[2], graph.plan.offsets[0], "an add over its first operand");
    assert_eq!(graph.plan.offsets[9], graph.plan.offsets[8], "an activation over its argument");
    // `heads` dies in the projection, which writes `attended`.
    check_refused(
        |g, _| g.plan.offsets[6] = g.plan.offsets[5],
        &["node 6 (linear) writes value 6 over value 5, which is still needed"],
    );
    check_refused(
        |g, _| g.plan.offsets[5] = g.plan.offsets[4],
        &["node 5 (attention) writes value 5 over value 4, which is still needed"],
    );
    // Over the second operand, which dies too, and partly over the first.
    check_refused(
        |g, _| g.plan.offsets[2] = g.plan.offsets[1],
        &["node 2 (add) writes value 2 over value 1, which is still needed"],
    );
    check_refused(
        |g, _| g.plan.offsets[2] = g.plan.offsets[0] + 1,
        &["node 2 (add) writes value 2 over value 0, which is still needed"],
    );
    check_refused(
        |g, _| g.plan.offsets[9] = g.plan.offsets[8] + 1,
        &["node 9 (activation) writes value 9 over value 8, which is still needed"],
    );
    // In place over the first operand, but the second lies there too.
    check_refused(
        |g, _| {
            g.plan.offsets = (0..12).map(|v| 32 * v).collect();
            g.plan.width = 32 * 11 + 8; // to the end of the last value
            g.plan.offsets[7] = g.plan.offsets[2];
            g.plan.offsets[6] = g.plan.offsets[2] + 4;
        },
        &["node 6 (linear) writes value 6 over value 2, which is still needed"],
    );
}

#[test]
fn an_input_that_is_needed_later_is_not_worked_on_in_place() {
    let edit = |g: &mut Graph| {
        // The residual adds x0 once more at the end.
        g.values.push(Value { name: "x3".to_owned(), width: 8 });
        g.nodes.insert(12, Op::Add(Add { a: 11, b: 2, output: 12 }));
        let Op::Logits(Logits { input, .. }) = &mut g.nodes[13] else { panic!("the logits") };
        *input = 12;
        g.plan_buffers();
    };
    let (mut graph, shapes) = sample();
    edit(&mut graph);
    validate(&graph, &shapes).expect("valid");
    assert_ne!(graph.plan.offsets[7], graph.plan.offsets[2]);
    check_refused(
        |g, _| {
            edit(g);
            g.plan.offsets[7] = g.plan.offsets[2];
        },
        &["graph buffer plan: node 7 (add) writes value 7 over value 2, which is still needed"],
    );
}

/// A value that no node reads still needs a place while it is written.
#[test]
fn a_value_that_nothing_reads_does_no_harm() {
    let edit = |g: &mut Graph| {
        g.values.push(Value { name: "unread".to_owned(), width: 8 });
        g.nodes.insert(
            3,
            Op::Activation(Activation { input: 2, function: ActivationFunction::Relu, output: 12 }),
        );
    };
    let (mut graph, shapes) = sample();
    edit(&mut graph);
    graph.plan_buffers();
    validate(&graph, &shapes).expect("valid");
    check_no_clobbering(&graph).expect("no clobbering");
    check_refused(
        |g, _| {
            edit(g);
            g.plan.offsets.push(g.plan.offsets[2]);
        },
        &["graph buffer plan: node 3 (activation) writes value 12 over value 2, which is still needed"],
    );
}

/// As many nodes as are allowed, half of their values alive at once.
#[test]
fn the_largest_graph_is_valid() {
    let half = 1 << 15;
    let value = |i: usize| Value { name: i.to_string(), width: 1 };
    let mut nodes: Vec<_> =
        (0..half).map(|output| Op::Embed(Embed { table: "e".to_owned(), output })).collect();
    nodes.push(Op::Add(Add { a: 0, b: 1, output: half }));
    nodes.extend((2..half).map(|i| Op::Add(Add { a: half + i - 2, b: i, output: half + i - 1 })));
    let last = 2 * half - 2;
    nodes.push(Op::Logits(Logits {
        input: last,
        weight: "e".to_owned(),
        activations: ActivationPrecision::Int8,
        outlier_threshold: None,
    }));
    assert_eq!(nodes.len(), 1 << 16);
    let offsets = (0..=last).map(|v| if v < half { v } else { 0 }).collect();
    let graph = Graph {
        version: Graph::VERSION,
        context: 1,
        context_limit: None,
        vocabulary: 1,
        values: (0..=last).map(value).collect(),
        kv_slots: Vec::<KvSlot>::new(),
        nodes,
        plan: BufferPlan { offsets, width: half },
    };
    validate(&graph, &HashMap::from([("e".to_owned(), vec![1, 1])])).expect("valid");
}

/// Executes a graph on an arena of tags: each node fills its output with the output's index, and before that
/// finds in each input the index of that input. Node by node, all inputs are read before the output is written,
/// except that only what is combined element by element may be in the output's place.
fn check_no_clobbering(graph: &Graph) -> Result<(), String> {
    let mut arena = vec![usize::MAX; graph.plan.width];
    let place = |v: usize| graph.plan.offsets[v]..graph.plan.offsets[v] + graph.values[v].width;
    for (at, op) in graph.nodes.iter().enumerate() {
        for input in op.inputs() {
            if arena[place(input)].iter().any(|&tag| tag != input) {
                return Err(format!("node {at} reads value {input}, finds {:?}", &arena[place(input)]));
            }
        }
        let Some(output) = op.output() else { continue };
        for input in op.inputs() {
            let (read, written) = (place(input), place(output));
            let apart = read.end <= written.start || written.end <= read.start;
            let first = match op {
                Op::Add(Add { a, .. }) => Some(*a),
                Op::Activation(Activation { input, .. })
                | Op::Rope(Rope { input, .. })
                | Op::RmsNorm(RmsNorm { input, range: Some(_), .. }) => Some(*input),
                Op::Linear(Linear { input, residual, .. }) => residual.filter(|residual| residual != input),
                _ => None,
            };
            let in_place = first == Some(input) && read == written;
            if !apart && !in_place {
                return Err(format!("node {at} writes value {output} over its input {input}"));
            }
        }
        arena[place(output)].fill(output);
    }
    Ok(())
}

/// A graph from random choices: each step takes earlier values and makes a new one.
fn random_graph(steps: &[(u8, u16, u16)]) -> (Graph, Shapes) {
    const WIDTHS: [usize; 4] = [1, 8, 16, 33];
    const WIDEST: usize = 64;
    let mut graph = Graph {
        version: Graph::VERSION,
        context: 4,
        context_limit: None,
        vocabulary: 5,
        values: Vec::new(),
        kv_slots: Vec::new(),
        nodes: Vec::new(),
        plan: BufferPlan::default(),
    };
    let mut shapes = HashMap::new();
    for width in 1..=WIDEST {
        shapes.insert(format!("table{width}"), vec![5, width]);
        shapes.insert(format!("norm{width}"), vec![width]);
        for other in WIDTHS {
            shapes.insert(format!("matrix{other}x{width}"), vec![other, width]);
        }
    }
    let embed = |graph: &mut Graph, width: usize| {
        let output = graph.values.len();
        graph.values.push(Value { name: format!("v{output}"), width });
        graph.nodes.push(Op::Embed(Embed { table: format!("table{width}"), output }));
    };
    embed(&mut graph, 8);
    for &(kind, first, second) in steps {
        let output = graph.values.len();
        let input = usize::from(first) % output;
        let width = graph.values[input].width;
        let (op, width) = match kind % 10 {
            0 => {
                embed(&mut graph, WIDTHS[usize::from(first) % 4]);
                continue;
            }
            1 | 2 => {
                // A second operand of the same width, where there is one; earlier or later than the first.
                let others: Vec<_> =
                    (0..output).filter(|&v| v != input && graph.values[v].width == width).collect();
                let Some(&b) = others.get(usize::from(second) % others.len().max(1)) else { continue };
                (Op::Add(Add { a: input, b, output }), width)
            }
            3 => (Op::Activation(Activation { input, function: ActivationFunction::Relu, output }), width),
            4 => {
                let weight = format!("norm{width}");
                (Op::LayerNorm(LayerNorm { input, weight, bias: None, epsilon: 1.0, output }), width)
            }
            5 => {
                // Rows as a whole, or one run of them.
                let run = usize::from(second) % width + 1;
                let start = usize::from(first) % (width - run + 1);
                let range = (second % 3 > 0).then_some([start, start + run]);
                let weight = format!("norm{}", if range.is_some() { run } else { width });
                (Op::RmsNorm(RmsNorm { input, weight, epsilon: 1.0, range, output }), width)
            }
            6 => {
                let pairs = usize::from(second) % width + 1;
                let (heads, head_dim) = (width / (2 * pairs), 2 * pairs);
                let style = if second % 2 == 0 { RopeStyle::NeoX } else { RopeStyle::GptJ };
                if heads == 0 {
                    continue;
                }
                let frequencies = format!("norm{pairs}");
                let (long, attention_factor) = (None, None);
                (
                    Op::Rope(Rope {
                        input,
                        frequencies,
                        long,
                        attention_factor,
                        heads,
                        head_dim,
                        style,
                        output,
                    }),
                    width,
                )
            }
            7 => {
                let other = usize::from(second) % output;
                let both = width + graph.values[other].width;
                if both > WIDEST {
                    continue;
                }
                (Op::Concat(Concat { parts: vec![input, other], output }), both)
            }
            8 => {
                if width % 2 == 1 {
                    continue;
                }
                (
                    Op::GatedActivation(GatedActivation {
                        input,
                        function: ActivationFunction::Relu,
                        output,
                    }),
                    width / 2,
                )
            }
            _ => {
                let wide = WIDTHS[usize::from(second) % 4];
                let weight = format!("matrix{wide}x{width}");
                (
                    Op::Linear(Linear {
                        input,
                        weight,
                        bias: None,
                        activations: ActivationPrecision::Int8,
                        outlier_threshold: None,
                        function: None,
                        gate: None,
                        residual: None,
                        output,
                    }),
                    wide,
                )
            }
        };
        graph.values.push(Value { name: format!("v{output}"), width });
        graph.nodes.push(op);
    }
    let input = graph.values.len() - 1;
    let weight = format!("table{}", graph.values[input].width);
    graph.nodes.push(Op::Logits(Logits {
        input,
        weight,
        activations: ActivationPrecision::Int8,
        outlier_threshold: None,
    }));
    (graph, shapes)
}

proptest! {
    #[test]
    fn planned_graphs_are_valid_and_clobber_nothing(steps in prop::collection::vec(any::<(u8, u16, u16)>(), 0..60)) {
        let (mut graph, shapes) = random_graph(&steps);
        graph.plan_buffers();
        prop_assert!(validate(&graph, &shapes).is_ok(), "{:?}", validate(&graph, &shapes));
        prop_assert_eq!(check_no_clobbering(&graph), Ok(()));
        let sum: usize = graph.values.iter().map(|v| v.width.next_multiple_of(16)).sum();
        prop_assert!(graph.plan.width <= sum, "an arena of {} for {sum}", graph.plan.width);
        prop_assert!(graph.plan.offsets.iter().all(|offset| offset % 16 == 0));
        let before = graph.clone();
        graph.plan_buffers();
        prop_assert_eq!(graph, before, "planning again changes nothing");
    }

    #[test]
    fn fused_graphs_mean_the_same_and_clobber_nothing(steps in prop::collection::vec(any::<(u8, u16, u16)>(), 0..40)) {
        let (mut plain, shapes) = random_graph(&steps);
        plain.plan_buffers();
        let mut fused = plain.clone();
        fused.fuse();
        prop_assert_eq!(same_meaning(&plain, &fused, &shapes), Ok(()));
        prop_assert_eq!(check_no_clobbering(&fused), Ok(()));
    }

    #[test]
    fn any_plan_that_is_accepted_clobbers_nothing(
        steps in prop::collection::vec(any::<(u8, u16, u16)>(), 0..12),
        moves in prop::collection::vec((any::<prop::sample::Index>(), 0..70_usize), 1..4),
        exchange in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let (mut graph, shapes) = random_graph(&steps);
        graph.plan_buffers();
        graph.plan.width += 64;
        for (value, offset) in moves {
            let value = value.index(graph.values.len());
            graph.plan.offsets[value] = offset;
        }
        let (a, b) = (exchange.0.index(graph.values.len()), exchange.1.index(graph.values.len()));
        graph.plan.offsets.swap(a, b);
        // Stricter than the simulation by nothing but values that no node reads.
        if validate(&graph, &shapes).is_ok() {
            prop_assert_eq!(check_no_clobbering(&graph), Ok(()));
        }
    }
}
