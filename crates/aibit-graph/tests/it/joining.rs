//! Linear layers that read the same become one: when they do, what they become, and that no bit of a result changes.

use aibit_graph::ops::{Activation, Add, Concat, Embed, Linear};
use aibit_graph::{
    ActivationFunction, ActivationPrecision, GraphBuilder, ModelDescription, Op, Origin, Parameter, Role,
};

use crate::interpreter::model_logits;
use crate::support::{gated, gated_node, layer, shapes_of, validate};

/// Fuses a model, checks that it is sound and computes the bits of the plain one, and returns it.
#[track_caller]
fn fused(plain: &ModelDescription, may_join: impl Fn(&[&Parameter]) -> bool) -> ModelDescription {
    validate(&plain.graph, &shapes_of(plain)).expect("the plain graph is valid");
    let mut fused = plain.clone();
    fused.fuse(may_join);
    let shapes = shapes_of(&fused);
    assert_eq!(shapes.len(), fused.parameters.len(), "a parameter is listed twice");
    validate(&fused.graph, &shapes).expect("the fused graph is valid");
    for ids in [&[3][..], &[3, 1, 2], &[49, 0, 0, 7, 49]] {
        let bits = |model| model_logits(model, ids).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(plain), bits(&fused), "{ids:?}");
    }
    fused
}

fn ops(model: &ModelDescription) -> Vec<&'static str> {
    model.graph.nodes.iter().map(Op::name).collect()
}

fn concats(model: &ModelDescription) -> usize {
    model.graph.nodes.iter().filter(|op| matches!(op, Op::Concat(_))).count()
}

/// Checks that the [`gated`] model, edited, keeps this many of its two `concat` nodes.
#[track_caller]
fn check_kept(edit: impl FnOnce(&mut ModelDescription), kept: usize) -> ModelDescription {
    let mut plain = gated();
    edit(&mut plain);
    plain.graph.plan_buffers();
    let fused = fused(&plain, |_| true);
    assert_eq!(concats(&fused), kept, "{:?}", ops(&fused));
    fused
}

fn linear(model: &mut ModelDescription, node: usize) -> &mut Op {
    let op = &mut model.graph.nodes[node];
    assert!(matches!(op, Op::Linear(_)), "{op:?}");
    op
}

/// Rows of a joined parameter by part.
fn parts<'a>(model: &'a ModelDescription, name: &str) -> (&'a [usize], Vec<(&'a str, usize)>) {
    let parameter = model.parameters.iter().find(|parameter| parameter.name == name).expect("a parameter");
    let Origin::Joined(parts) = &parameter.origin else { panic!("`{name}` is not joined") };
    (&parameter.shape, parts.iter().map(|part| (part.name.as_str(), part.shape[0])).collect())
}

#[test]
fn projections_that_read_the_same_become_one_layer() {
    let fused = fused(&gated(), |_| true);
    let want = [
        "embed",
        "rms_norm",
        "linear", // q, k and v
        "rms_norm",
        "rope",
        "attention",
        "linear", // o and the residual
        "linear", // gate and up, and the gate's function
        "linear", // down and the residual
        "rms_norm",
        "logits",
    ];
    assert_eq!(ops(&fused), want);
    assert_eq!(
        parts(&fused, "qkv.weight"),
        (&[16, 8][..], vec![("q.weight", 8), ("k.weight", 4), ("v.weight", 4)])
    );
    assert_eq!(parts(&fused, "qkv.bias"), (&[16][..], vec![("q.bias", 8), ("k.bias", 4), ("v.bias", 4)]));
    assert_eq!(parts(&fused, "gate_up.weight"), (&[12, 8][..], vec![("gate.weight", 6), ("up.weight", 6)]));
    // Each in the place of the first of its parts: the order in which execution needs them.
    let names: Vec<_> = fused.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let want = [
        "embed.weight",
        "input_norm.weight",
        "qkv.weight",
        "qkv.bias",
        "head_norm.weight",
        "frequencies",
        "o.weight",
        "gate_up.weight",
        "down.weight",
        "last_norm.weight",
    ];
    assert_eq!(names, want);
    assert_eq!(fused.tied, gated().tied);
}

#[test]
fn joining_twice_changes_nothing() {
    let once = fused(&gated(), |_| true);
    assert_eq!(fused(&once, |_| true), once);
}

#[test]
fn the_packer_has_a_say() {
    // Neither weights nor biases.
    assert_eq!(concats(&fused(&gated(), |_| false)), 2);
    // Biases that are stored in different ways keep their weights apart.
    let kept = fused(&gated(), |parameters| parameters[0].name != "q.bias");
    assert_eq!(concats(&kept), 1);
    assert!(kept.parameters.iter().any(|parameter| parameter.name == "k.weight"));
    // It is asked about all parts at once, weights apart from biases.
    let asked = std::cell::RefCell::new(Vec::new());
    fused(&gated(), |parameters| {
        asked
            .borrow_mut()
            .push(parameters.iter().map(|parameter| parameter.name.clone()).collect::<Vec<_>>());
        true
    });
    assert_eq!(
        asked.into_inner(),
        [
            vec!["q.weight", "k.weight", "v.weight"],
            vec!["q.bias", "k.bias", "v.bias"],
            vec!["gate.weight", "up.weight"]
        ]
    );
}

#[test]
fn layers_that_read_different_values_stay_apart() {
    check_kept(
        |model| {
            let Op::Linear(Linear { input, .. }) = linear(model, gated_node::K) else { unreachable!() };
            *input = 0; // before the norm
        },
        1,
    );
}

#[test]
fn a_part_that_something_else_reads_stays() {
    let fused = check_kept(
        |model| {
            // The queries are added to the attention's output instead of the residual stream.
            let Op::Add(Add { a, .. }) = &mut model.graph.nodes[10] else { panic!("the residual") };
            *a = gated_node::Q;
        },
        1,
    );
    assert!(fused.parameters.iter().any(|parameter| parameter.name == "q.weight"));
    // Twice in the same row.
    check_kept(
        |model| {
            model.graph.nodes[gated_node::GATE_UP] = Op::Concat(Concat {
                parts: vec![gated_node::UP, gated_node::UP],
                output: gated_node::GATE_UP,
            });
            // The gate goes nowhere, which is allowed.
        },
        1,
    );
}

#[test]
fn biases_on_some_keep_all_apart() {
    let fused = check_kept(
        |model| {
            let Op::Linear(Linear { bias, .. }) = linear(model, gated_node::V) else { unreachable!() };
            *bias = None;
            model.parameters.retain(|parameter| parameter.name != "v.bias");
        },
        1,
    );
    assert!(fused.parameters.iter().any(|parameter| parameter.name == "q.bias"));
    // On none of them they join as gate and up do.
    let fused = check_kept(
        |model| {
            for node in [gated_node::Q, gated_node::K, gated_node::V] {
                let Op::Linear(Linear { bias, .. }) = linear(model, node) else { unreachable!() };
                *bias = None;
            }
            model.parameters.retain(|parameter| !parameter.name.ends_with(".bias"));
        },
        0,
    );
    assert!(!fused.parameters.iter().any(|parameter| parameter.name == "qkv.bias"));
}

#[test]
fn layers_that_differ_in_anything_but_tensors_stay_apart() {
    let edits: [fn(&mut Op); 4] = [
        |op| {
            let Op::Linear(Linear { activations, .. }) = op else { unreachable!() };
            *activations = ActivationPrecision::Int8x2;
        },
        |op| {
            let Op::Linear(Linear { outlier_threshold, .. }) = op else { unreachable!() };
            *outlier_threshold = Some(6.0);
        },
        |op| {
            let Op::Linear(Linear { function, .. }) = op else { unreachable!() };
            *function = Some(ActivationFunction::Relu);
        },
        |op| {
            let Op::Linear(Linear { residual, .. }) = op else { unreachable!() };
            *residual = Some(gated_node::GATE);
        },
    ];
    for edit in edits {
        check_kept(|model| edit(linear(model, gated_node::UP)), 1);
    }
    // The same residual in each: what a sum is written over cannot be in two halves of a row.
    check_kept(
        |model| {
            model.graph.values[gated_node::GATE].width = 8;
            model.graph.values[gated_node::UP].width = 8;
            model.graph.values[gated_node::GATE_UP].width = 16;
            model.graph.values[gated_node::GATED].width = 8;
            for parameter in &mut model.parameters {
                match parameter.name.as_str() {
                    "gate.weight" | "up.weight" | "down.weight" => parameter.shape = vec![8, 8],
                    _ => {}
                }
            }
            for node in [gated_node::GATE, gated_node::UP] {
                let Op::Linear(Linear { residual, .. }) = linear(model, node) else { unreachable!() };
                *residual = Some(0);
            }
        },
        1,
    );
    // What all of them have is no difference.
    check_kept(
        |model| {
            for node in [gated_node::GATE, gated_node::UP] {
                change_all(linear(model, node));
            }
        },
        0,
    );
}

fn change_all(op: &mut Op) {
    let Op::Linear(Linear { activations, outlier_threshold, function, .. }) = op else { unreachable!() };
    *activations = ActivationPrecision::Int8x2;
    *outlier_threshold = Some(6.0);
    *function = Some(ActivationFunction::Relu);
}

#[test]
fn what_is_no_linear_layer_stays_apart() {
    check_kept(
        |model| {
            let Op::Concat(Concat { parts, .. }) = &mut model.graph.nodes[gated_node::QKV] else {
                panic!("qkv")
            };
            assert_eq!(parts[0], gated_node::Q);
            parts[0] = gated_node::INPUT_NORM;
        },
        1,
    );
}

/// A weight that another layer multiplies by too is still needed under its own name.
#[test]
fn a_parameter_that_something_else_uses_stays() {
    let fused = check_kept(
        |model| {
            // The output projection is the query projection once more.
            let Op::Linear(Linear { weight, .. }) = linear(model, 9) else { unreachable!() };
            *weight = "q.weight".to_owned();
            model.parameters.retain(|parameter| parameter.name != "o.weight");
        },
        1,
    );
    assert!(fused.parameters.iter().any(|parameter| parameter.name == "q.weight"));
    // One weight for both halves: a manifest cannot name a part twice.
    check_kept(
        |model| {
            let Op::Linear(Linear { weight, .. }) = linear(model, gated_node::UP) else { unreachable!() };
            *weight = "gate.weight".to_owned();
            model.parameters.retain(|parameter| parameter.name != "up.weight");
        },
        1,
    );
}

#[test]
fn parts_keep_their_order_in_the_row_not_in_the_graph() {
    let fused = check_kept(
        |model| {
            let Op::Concat(Concat { parts, .. }) = &mut model.graph.nodes[gated_node::GATE_UP] else {
                panic!("gate, up")
            };
            parts.reverse();
        },
        0,
    );
    assert_eq!(parts(&fused, "gate_up.weight").1, [("up.weight", 6), ("gate.weight", 6)]);
}

#[test]
fn constants_and_other_roles_are_not_joined() {
    check_kept(
        |model| {
            let up = model.parameters.iter_mut().find(|parameter| parameter.name == "up.weight").expect("up");
            up.role = Role::Head;
        },
        1,
    );
    check_kept(
        |model| {
            let up = model.parameters.iter_mut().find(|parameter| parameter.name == "up.weight").expect("up");
            up.origin = Origin::Constant(vec![0.5; 48]);
        },
        1,
    );
    // How a checkpoint stores each part is the part's own business.
    check_kept(
        |model| {
            let up = model.parameters.iter_mut().find(|parameter| parameter.name == "up.weight").expect("up");
            up.origin = Origin::Transposed;
        },
        0,
    );
}

/// Layers that read what a joined one has written, in a graph with nodes between the parts.
#[test]
fn nodes_between_the_parts_stay_where_they_are() {
    let mut b = GraphBuilder::default();
    let table = b.matrix("embed.weight", [50, 8], Role::Embedding);
    let hidden = b.value("hidden", 8);
    b.push(Embed { table: table.clone(), output: hidden });
    let first = b.linear(layer("first", hidden, 3, false));
    let between = b.linear(layer("between", hidden, 8, true));
    let active = b.value("active", 8);
    b.push(Activation { input: between, function: ActivationFunction::Relu, output: active });
    let second = b.linear(layer("second", hidden, 5, false));
    let sum = b.add("sum", hidden, active);
    let both = b.value("both", 8);
    b.push(Concat { parts: vec![second, first], output: both });
    let end = b.add("end", sum, both);
    let plain = b.finish("test", [32, 50], end, "head.weight", Some(table));
    let fused = fused(&plain, |_| true);
    // The joined layer stands where the parts met; the sum after it became its residual.
    assert_eq!(ops(&fused), ["embed", "linear", "linear", "logits"]);
    assert_eq!(parts(&fused, "both.weight"), (&[8, 8][..], vec![("second.weight", 5), ("first.weight", 3)]));
}
