//! Places of linear layers, by the node behind which they stand.

use aibit_graph::Place::{Attention, Gate, Head, Norm, Other};

use crate::support::{gated, sample};

#[test]
fn a_layer_stands_behind_the_node_that_writes_its_input() {
    let (graph, _) = sample();
    let layers: Vec<_> = graph.places().into_iter().flatten().collect();
    // Queries, keys and values; projection; the MLP's first layer, which reads a sum; its second; the head.
    assert_eq!(layers, [Norm, Attention, Other, Gate, Head]);
    assert_eq!(graph.places().len(), graph.nodes.len());
}

#[test]
fn fusing_changes_no_place() {
    let mut model = gated();
    let layers = |model: &aibit_graph::ModelDescription| -> Vec<_> {
        model.graph.places().into_iter().flatten().collect()
    };
    let mut places = layers(&model);
    model.fuse(|_| true);
    let fused = layers(&model);
    assert_eq!(fused, [Norm, Attention, Other, Gate, Head]);
    places.dedup();
    assert_eq!(places, fused);
}
