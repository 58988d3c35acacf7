//! The meaning of a graph, in the plainest form: f32, one buffer per value, one loop per op, no plan.

use aibit_graph::ops::{
    Activation, Add, Attention, Concat, Embed, GatedActivation, LayerNorm, Linear, Logits, PositionEmbed,
    RmsNorm, Rope,
};
use aibit_graph::{ActivationFunction, Graph, ModelDescription, Op, Origin, Parameter, RopeStyle, ValueId};

use crate::support::Shapes;

/// The logits of the last of `ids`, with tensors drawn from their names.
pub(crate) fn last_logits(graph: &Graph, shapes: &Shapes, ids: &[usize]) -> Vec<f32> {
    logits_with(graph, &|name| drawn(name, shapes[name].iter().product()), ids)
}

/// The same for a model. A joined tensor has the rows of its parts, each drawn from its own name.
pub(crate) fn model_logits(model: &ModelDescription, ids: &[usize]) -> Vec<f32> {
    fn elements(parameter: &Parameter) -> Vec<f32> {
        match &parameter.origin {
            Origin::Joined(parts) => parts.iter().flat_map(elements).collect(),
            Origin::Constant(values) => values.clone(),
            Origin::Canonical | Origin::Transposed => {
                drawn(&parameter.name, parameter.shape.iter().product())
            }
        }
    }
    let tensor = |name: &str| {
        let parameter = model.parameters.iter().find(|parameter| parameter.name == name);
        elements(parameter.expect("a parameter of the model"))
    };
    logits_with(&model.graph, &tensor, ids)
}

fn logits_with(graph: &Graph, tensor: &dyn Fn(&str) -> Vec<f32>, ids: &[usize]) -> Vec<f32> {
    let m = ids.len();
    let mut values: Vec<Vec<f32>> = vec![Vec::new(); graph.values.len()];
    let width = |value: ValueId| graph.values[value].width;
    let optional = |name: &Option<String>| name.as_deref().map(tensor);
    let rows = |table: &str, width: usize, rows: &mut dyn Iterator<Item = usize>| -> Vec<f32> {
        let table = tensor(table);
        rows.flat_map(|row| table[row * width..][..width].to_vec()).collect()
    };
    for node in &graph.nodes {
        let (output, result) = match node {
            Op::Embed(Embed { table, output }) => {
                (*output, rows(table, width(*output), &mut ids.iter().copied()))
            }
            Op::PositionEmbed(PositionEmbed { table, output }) => {
                (*output, rows(table, width(*output), &mut (0..m)))
            }
            Op::Add(Add { a, b, output }) => {
                (*output, values[*a].iter().zip(&values[*b]).map(|(a, b)| a + b).collect())
            }
            Op::LayerNorm(LayerNorm { input, weight, bias, epsilon, output }) => {
                let (weight, bias) = (tensor(weight), optional(bias));
                let mut result = Vec::new();
                for x in values[*input].chunks(width(*input)) {
                    let mean = x.iter().sum::<f32>() / x.len() as f32;
                    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / x.len() as f32;
                    for (i, x) in x.iter().enumerate() {
                        let normed = (x - mean) / (variance + epsilon).sqrt() * weight[i];
                        result.push(normed + bias.as_ref().map_or(0.0, |bias| bias[i]));
                    }
                }
                (*output, result)
            }
            Op::RmsNorm(RmsNorm { input, weight, epsilon, range, output }) => {
                let weight = tensor(weight);
                let [start, end] = range.unwrap_or([0, width(*input)]);
                let mut result = values[*input].clone();
                for x in result.chunks_mut(width(*input)) {
                    for run in x[start..end].chunks_mut(weight.len()) {
                        let mean = run.iter().map(|x| x.powi(2)).sum::<f32>() / run.len() as f32;
                        run.iter_mut().zip(&weight).for_each(|(x, w)| *x *= w / (mean + epsilon).sqrt());
                    }
                }
                (*output, result)
            }
            Op::Rope(Rope { input, frequencies, long, attention_factor, heads, head_dim, style, output }) => {
                let frequencies = match long {
                    Some(long) if m > long.above => tensor(&long.frequencies),
                    _ => tensor(frequencies),
                };
                let factor = attention_factor.unwrap_or(1.0);
                let mut result = values[*input].clone();
                for (position, x) in result.chunks_mut(width(*input)).enumerate() {
                    for head in x.chunks_mut(*head_dim).take(*heads) {
                        for (pair, frequency) in frequencies.iter().enumerate() {
                            let (a, b) = match style {
                                RopeStyle::NeoX => (pair, pair + frequencies.len()),
                                RopeStyle::GptJ => (2 * pair, 2 * pair + 1),
                            };
                            let (sin, cos) = (position as f32 * frequency).sin_cos();
                            let (sin, cos) = (sin * factor, cos * factor);
                            (head[a], head[b]) =
                                (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
                        }
                    }
                }
                (*output, result)
            }
            Op::Concat(Concat { parts, output }) => {
                let row = |t: usize| {
                    let part = |part: &ValueId| values[*part][t * width(*part)..][..width(*part)].to_vec();
                    parts.iter().flat_map(part).collect::<Vec<_>>()
                };
                (*output, (0..m).flat_map(row).collect())
            }
            Op::GatedActivation(GatedActivation { input, function, output }) => {
                (*output, gated(&values[*input], width(*input), *function))
            }
            Op::Linear(Linear { input, weight, bias, function, gate, residual, output, .. }) => {
                let mut y = product(&values[*input], width(*input), &tensor(weight));
                if let Some(bias) = optional(bias) {
                    y.iter_mut().zip(bias.iter().cycle()).for_each(|(y, bias)| *y += bias);
                }
                if let Some(function) = function {
                    y.iter_mut().for_each(|y| *y = apply(*function, *y));
                }
                if let Some(gate) = gate {
                    y = gated(&y, 2 * width(*output), *gate);
                }
                if let Some(residual) = residual {
                    y.iter_mut().zip(&values[*residual]).for_each(|(y, residual)| *y += residual);
                }
                (*output, y)
            }
            Op::Activation(Activation { input, function, output }) => {
                (*output, values[*input].iter().map(|x| apply(*function, *x)).collect())
            }
            Op::Attention(Attention { qkv, slot, n_head, scale, output }) => {
                let kv = graph.kv_slots[*slot];
                let result = attention(&values[*qkv], *n_head, kv.n_kv_head, kv.head_dim, *scale);
                (*output, result)
            }
            Op::Logits(Logits { input, weight, .. }) => {
                let k = width(*input);
                return product(&values[*input][(m - 1) * k..], k, &tensor(weight));
            }
        };
        values[output] = result;
    }
    unreachable!("a graph ends with logits")
}

/// The function of the first half of each row of `x[m, width]` times the second half.
fn gated(x: &[f32], width: usize, function: ActivationFunction) -> Vec<f32> {
    let row = |x: &[f32]| {
        let (gates, gated) = x.split_at(width / 2);
        gates.iter().zip(gated).map(|(g, x)| apply(function, *g) * x).collect::<Vec<_>>()
    };
    x.chunks(width).flat_map(row).collect()
}

/// `x[m, k] · w[n, k]ᵀ`.
fn product(x: &[f32], k: usize, w: &[f32]) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
}

fn attention(qkv: &[f32], n_head: usize, n_kv_head: usize, d: usize, scale: f32) -> Vec<f32> {
    let rows: Vec<&[f32]> = qkv.chunks((n_head + 2 * n_kv_head) * d).collect();
    let mut result = Vec::new();
    for (position, row) in rows.iter().enumerate() {
        for head in 0..n_head {
            let kv_head = head / (n_head / n_kv_head);
            let key = |at: usize| &rows[at][(n_head + kv_head) * d..][..d];
            let value = |at: usize| &rows[at][(n_head + n_kv_head + kv_head) * d..][..d];
            let score =
                |at| row[head * d..][..d].iter().zip(key(at)).map(|(q, k)| q * k).sum::<f32>() * scale;
            let scores: Vec<f32> = (0..=position).map(score).collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = scores.iter().map(|score| (score - max).exp()).sum();
            for i in 0..d {
                let weighted =
                    scores.iter().enumerate().map(|(at, score)| (score - max).exp() * value(at)[i]);
                result.push(weighted.sum::<f32>() / sum);
            }
        }
    }
    result
}

fn apply(function: ActivationFunction, x: f32) -> f32 {
    match function {
        ActivationFunction::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        ActivationFunction::Relu => x.max(0.0),
        ActivationFunction::Silu => x / (1.0 + (-x).exp()),
        other => panic!("no test here uses {other:?}"),
    }
}

/// Numbers in -1..1 that depend on the name only.
fn drawn(name: &str, elements: usize) -> Vec<f32> {
    let mut state = name.bytes().fold(17_u64, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(elements).collect()
}
