//! Fused graphs mean what the plain ones mean, and hold what they should.

use aibit_graph::ops::{Add, Linear, Logits};
use aibit_graph::{ActivationFunction, Graph, Op};

use crate::interpreter::last_logits;
use crate::support::{Shapes, node, sample, validate};

pub(crate) fn same_meaning(plain: &Graph, fused: &Graph, shapes: &Shapes) -> Result<(), String> {
    validate(fused, shapes).map_err(|error| error.to_string())?;
    // Which NaN comes of two is nobody's promise.
    let bits_of = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
    let bits = |graph| last_logits(graph, shapes, &[3, 1, 2]).into_iter().map(bits_of).collect::<Vec<_>>();
    if bits(plain) == bits(fused) { Ok(()) } else { Err("other logits".to_owned()) }
}

#[test]
fn activations_and_residuals_become_part_of_their_linear_layers() {
    let (plain, shapes) = sample();
    let mut fused = plain.clone();
    fused.fuse();
    let names: Vec<_> = fused.nodes.iter().map(Op::name).collect();
    let want = [
        "embed",
        "position_embed",
        "add",
        "layer_norm",
        "linear",
        "attention",
        "linear",
        "linear",
        "linear",
        "logits",
    ];
    assert_eq!(names, want);
    let fusions: Vec<_> = fused
        .nodes
        .iter()
        .filter_map(|node| match node {
            Op::Linear(Linear { function, residual, .. }) => {
                Some((*function, residual.map(|value| fused.values[value].name.as_str())))
            }
            _ => None,
        })
        .collect();
    let gelu = Some(ActivationFunction::GeluTanh);
    assert_eq!(fusions, [(None, None), (None, Some("x0")), (gelu, None), (None, Some("x1"))]);
    let values: Vec<_> = fused.values.iter().map(|value| value.name.as_str()).collect();
    assert_eq!(values, ["token", "position", "x0", "n0", "qkv", "heads", "x1", "active", "x2"]);
    assert_eq!(same_meaning(&plain, &fused, &shapes), Ok(()));
    // The residual stream never moves.
    let place =
        |name: &str| fused.plan.offsets[values.iter().position(|value| *value == name).expect("a value")];
    assert_eq!((place("x0"), place("x1")), (place("x1"), place("x2")));
}

#[test]
fn a_sum_that_something_else_reads_stays_apart() {
    let (mut plain, shapes) = sample();
    // The head reads the feed-forward's own output beside the residual sum's.
    let Op::Add(Add { b: down, .. }) = plain.nodes[node::LOGITS - 1] else { panic!("the residual sum") };
    let Op::Logits(Logits { input, .. }) = &mut plain.nodes[node::LOGITS] else { panic!("the logits") };
    *input = down;
    plain.plan_buffers();
    let mut fused = plain.clone();
    fused.fuse();
    let adds = |graph: &Graph| graph.nodes.iter().filter(|node| matches!(node, Op::Add(_))).count();
    assert_eq!((adds(&plain), adds(&fused)), (3, 2));
    assert_eq!(same_meaning(&plain, &fused, &shapes), Ok(()));
}

#[test]
fn fusing_twice_changes_nothing() {
    let (mut graph, _) = sample();
    graph.fuse();
    let once = graph.clone();
    graph.fuse();
    assert_eq!(graph, once);
}
