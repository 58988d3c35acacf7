//! The tensors of each architecture and how large their values are.

use super::dimensions::{Dimensions, Kind};
use super::normal::{Normal, stream};
use super::{Options, normal};

/// A tensor as it is in the file.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    values: Values,
}

/// What a tensor holds; numbers are standard deviations.
#[derive(Clone, Copy)]
enum Values {
    /// `[out, in]`, each output widened by a factor of its own, as training does.
    Linear(f32),
    /// The same as `[in, out]`: GPT-2's.
    Conv1d(f32),
    /// Linear, with one loud output in each head.
    Value(f32),
    /// Linear, with that channel's columns divided.
    AttentionOutput(f32),
    Bias(f32),
    KeyBias,
    Gain,
}

/// Standard deviation of the logits; those of trained models have 2 to 3.
const LOGITS: f32 = 2.5;

/// What a sublayer adds to the residual stream, in standard deviations of an embedding. Where the head is the embedding a
/// token would otherwise predict itself, whatever the layers do.
const SUBLAYER: f32 = 4.0;

/// Standard deviations of queries and keys, and of what enters an attention output and an MLP output, for values,
/// gates and the like of 1.
const QUERY_KEY: f32 = 1.2;
const ATTENDED: f32 = 0.3;
const ACTIVATED: f32 = 0.6;

/// The gain of an outlier channel, in gains of the others.
const OUTLIER_GAIN: f32 = 25.0;

/// Every tensor, in the order of the file.
pub(super) fn all(dimensions: &Dimensions, options: &Options) -> Vec<Tensor> {
    match dimensions.kind {
        Kind::Gpt2 => gpt2(dimensions, options),
        Kind::Llama | Kind::Qwen2 => llama(dimensions, options),
    }
}

fn gpt2(dimensions: &Dimensions, options: &Options) -> Vec<Tensor> {
    let &Dimensions { hidden, inner, vocabulary, context, .. } = dimensions;
    let Spreads { embedding, behind_norm, attention_output, mlp_output } = Spreads::of(dimensions, options);
    let mut tensors = List(Vec::new());
    tensors.add("transformer.wte.weight", &[vocabulary, hidden], Values::Linear(embedding));
    tensors.add("transformer.wpe.weight", &[context, hidden], Values::Linear(0.5 * embedding));
    for layer in 0..dimensions.layers {
        let prefix = format!("transformer.h.{layer}");
        for (name, inputs, outputs, spread, bias) in [
            ("attn.c_attn", hidden, 3 * hidden, behind_norm, 0.1),
            ("attn.c_proj", hidden, hidden, attention_output, 0.1 * embedding),
            ("mlp.c_fc", hidden, inner, behind_norm, 0.1),
            ("mlp.c_proj", inner, hidden, mlp_output, 0.1 * embedding),
        ] {
            tensors.add(&format!("{prefix}.{name}.weight"), &[inputs, outputs], Values::Conv1d(spread));
            tensors.add(&format!("{prefix}.{name}.bias"), &[outputs], Values::Bias(bias));
        }
        for norm in ["ln_1", "ln_2"] {
            tensors.add_norm(&format!("{prefix}.{norm}"), hidden, options);
        }
    }
    tensors.add_norm("transformer.ln_f", hidden, options);
    tensors.0
}

fn llama(dimensions: &Dimensions, options: &Options) -> Vec<Tensor> {
    let &Dimensions { kind, hidden, heads, kv_heads, head_dim, inner, vocabulary, .. } = dimensions;
    let Spreads { embedding, behind_norm, attention_output, mlp_output } = Spreads::of(dimensions, options);
    let query_key = QUERY_KEY * behind_norm;
    let (queries, values) = (heads * head_dim, kv_heads * head_dim);
    let mut tensors = List(Vec::new());
    tensors.add("model.embed_tokens.weight", &[vocabulary, hidden], Values::Linear(embedding));
    for layer in 0..dimensions.layers {
        let prefix = format!("model.layers.{layer}");
        let mut add = |name: &str, shape: &[usize], values| {
            tensors.add(&format!("{prefix}.{name}"), shape, values);
        };
        add("input_layernorm.weight", &[hidden], Values::Gain);
        add("self_attn.q_proj.weight", &[queries, hidden], Values::Linear(query_key));
        add("self_attn.k_proj.weight", &[values, hidden], Values::Linear(query_key));
        add("self_attn.v_proj.weight", &[values, hidden], Values::Value(behind_norm));
        if kind == Kind::Qwen2 {
            add("self_attn.q_proj.bias", &[queries], Values::Bias(0.1));
            add("self_attn.k_proj.bias", &[values], Values::KeyBias);
            add("self_attn.v_proj.bias", &[values], Values::Bias(0.1));
        }
        add("self_attn.o_proj.weight", &[hidden, queries], Values::AttentionOutput(attention_output));
        add("post_attention_layernorm.weight", &[hidden], Values::Gain);
        add("mlp.gate_proj.weight", &[inner, hidden], Values::Linear(behind_norm));
        add("mlp.up_proj.weight", &[inner, hidden], Values::Linear(behind_norm));
        add("mlp.down_proj.weight", &[hidden, inner], Values::Linear(mlp_output));
    }
    tensors.add("model.norm.weight", &[hidden], Values::Gain);
    if !dimensions.is_tied {
        tensors.add("lm_head.weight", &[vocabulary, hidden], Values::Linear(embedding));
    }
    tensors.0
}

/// Standard deviations of the weights.
struct Spreads {
    /// Of the token embedding and of the head, which is the same or one like it.
    embedding: f32,
    behind_norm: f32,
    attention_output: f32,
    mlp_output: f32,
}

impl Spreads {
    fn of(dimensions: &Dimensions, options: &Options) -> Self {
        let &Dimensions { hidden, heads, head_dim, inner, .. } = dimensions;
        let root = |width: usize| (width as f32).sqrt();
        let behind_norm = 1.0 / (dimensions.gain_rms(options) * root(hidden));
        let embedding = LOGITS * behind_norm;
        Self {
            embedding,
            behind_norm,
            attention_output: SUBLAYER * embedding / (ATTENDED * root(heads * head_dim)),
            mlp_output: SUBLAYER * embedding / (ACTIVATED * root(inner)),
        }
    }
}

struct List(Vec<Tensor>);

impl List {
    fn add(&mut self, name: &str, shape: &[usize], values: Values) {
        self.0.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), values });
    }

    fn add_norm(&mut self, name: &str, width: usize, options: &Options) {
        self.add(&format!("{name}.weight"), &[width], Values::Gain);
        self.add(&format!("{name}.bias"), &[width], Values::Bias(0.02 * options.norms));
    }
}

/// The gain of a norm: outlier channels at even distances.
pub(super) fn gain(width: usize, options: &Options) -> Vec<f32> {
    let mut gain = vec![options.norms; width];
    for outlier in 0..options.outliers {
        gain[(outlier * width / options.outliers + 17) % width] *= OUTLIER_GAIN;
    }
    gain
}

/// A tensor's values as `normal * row * column`: one factor for each row and each column.
pub(super) struct Product {
    pub(super) key: u64,
    pub(super) rows: Vec<f32>,
    pub(super) columns: Vec<f32>,
}

/// The values of a tensor.
pub(super) enum Contents {
    Vector(Vec<f32>),
    Matrix(Product),
}

impl Tensor {
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn contents(&self, normal: &Normal, dimensions: &Dimensions, options: &Options) -> Contents {
        let key = stream(options.seed, &self.name);
        let widths = |outputs: usize, spread: f32| -> Vec<f32> {
            let widths = normal.take(normal::mix(key), outputs);
            widths.into_iter().map(|width| spread * aibit_kernels::exp(0.25 * width)).collect()
        };
        let (first, last) = (self.shape[0], *self.shape.last().unwrap_or(&1));
        let product = |outputs_first: bool, spread| {
            let (rows, columns) = if outputs_first {
                (widths(first, spread), vec![1.0; last])
            } else {
                (vec![1.0; first], widths(last, spread))
            };
            Product { key, rows, columns }
        };
        let head_dim = dimensions.head_dim;
        Contents::Matrix(match self.values {
            Values::Linear(spread) => product(true, spread),
            Values::Conv1d(spread) => product(false, spread),
            Values::Value(spread) => {
                let mut product = product(true, spread);
                for (head, rows) in product.rows.chunks_mut(head_dim).enumerate() {
                    rows[loud_channel(head, head_dim)] *= options.value_channel;
                }
                product
            }
            Values::AttentionOutput(spread) => {
                let mut product = product(true, spread);
                let group = dimensions.heads / dimensions.kv_heads;
                for (head, columns) in product.columns.chunks_mut(head_dim).enumerate() {
                    columns[loud_channel(head / group, head_dim)] /= options.value_channel.sqrt();
                }
                product
            }
            Values::Bias(spread) => {
                return Contents::Vector(normal.take(key, first).iter().map(|v| spread * v).collect());
            }
            Values::KeyBias => {
                return Contents::Vector(key_bias(normal, key, first, head_dim, options.key_bias));
            }
            Values::Gain => return Contents::Vector(gain(first, options)),
        })
    }
}

/// The loud value channel of a head of keys and values.
fn loud_channel(head: usize, head_dim: usize) -> usize {
    (7 + 11 * head) % head_dim
}

/// A bias of Euclidean norm `norm`, heavy-tailed, in the slowest quarter of each head's pairs. Their angle hardly changes over
/// a context, so it adds the same to all scores of a query, and the softmax takes that out.
fn key_bias(normal: &Normal, key: u64, length: usize, head_dim: usize, norm: f32) -> Vec<f32> {
    let pairs = head_dim / 2;
    let tails = normal.take(normal::mix(key), length);
    let mut bias: Vec<f32> = normal
        .take(key, length)
        .into_iter()
        .zip(tails)
        .enumerate()
        // Element `pair` is rotated with element `pair + pairs`.
        .map(|(index, (value, tail))| {
            let is_slow = index % pairs >= pairs - pairs / 4;
            if is_slow { value * aibit_kernels::exp(tail) } else { 0.0 }
        })
        .collect();
    let squares: f32 = bias.iter().map(|value| value * value).sum();
    for value in &mut bias {
        *value *= norm / squares.sqrt();
    }
    bias
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::*;

    fn contents(shape: Shape, options: &Options, name: &str) -> Contents {
        let dimensions = Dimensions::of(shape, options).unwrap();
        let tensors = all(&dimensions, options);
        let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
        tensor.contents(&Normal::new(), &dimensions, options)
    }

    #[test]
    fn a_key_bias_has_its_norm_and_lies_in_slow_pairs() {
        let options = Options { key_bias: 921.0, ..Options::default() };
        let name = "model.layers.0.self_attn.k_proj.bias";
        let Contents::Vector(bias) = contents(Shape::Qwen2, &options, name) else { panic!("a vector") };
        let norm = bias.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((norm - 921.0).abs() < 0.01, "{norm}");
        // Of 32 pairs in 64 elements the last 8: 24..32 and 56..64.
        let is_zero = |index: usize| bias[index] == 0.0 && bias[64 + index] == 0.0;
        assert!((0..24).chain(32..56).all(is_zero) && (24..32).chain(56..64).all(|index| !is_zero(index)));
    }

    #[test]
    fn a_loud_value_channel_is_taken_back_where_it_is_read() {
        let loud = Options { value_channel: 100.0, ..Options::default() };
        let factors = |options: &Options, name: &str| {
            let name = format!("model.layers.0.self_attn.{name}.weight");
            let Contents::Matrix(product) = contents(Shape::Qwen2, options, &name) else {
                panic!("a matrix")
            };
            product
        };
        let plain = Options::default();
        let (v, v_plain) = (factors(&loud, "v_proj").rows, factors(&plain, "v_proj").rows);
        let changed: Vec<usize> = (0..v.len()).filter(|&row| v[row] != v_plain[row]).collect();
        assert_eq!(changed, [7, 64 + 18]);
        assert_eq!(v[7], 100.0 * v_plain[7]);
        // 14 query heads, seven for each head of keys and values.
        let columns = factors(&loud, "o_proj").columns;
        let changed: Vec<usize> = (0..columns.len()).filter(|&column| columns[column] == 0.1).collect();
        let expected: Vec<usize> = (0..14).map(|head| 64 * head + if head < 7 { 7 } else { 18 }).collect();
        assert_eq!(changed, expected);
    }

    #[test]
    fn outlier_channels_are_25_times_the_others() {
        let options = Options { norms: 2.0, outliers: 6, ..Options::default() };
        let gain = gain(768, &options);
        assert_eq!(gain.iter().filter(|&&gain| gain == 50.0).count(), 6);
        assert_eq!(gain.iter().filter(|&&gain| gain == 2.0).count(), 762);
        let dimensions = Dimensions::of(Shape::Gpt2, &options).unwrap();
        // 2 √((762 + 6 · 625) / 768)
        assert!((dimensions.gain_rms(&options) - 4.8469).abs() < 1e-3);
    }
}
