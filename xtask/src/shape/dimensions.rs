//! Sizes of the shapes, their configurations, and the cost of a token.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Options, Shape};

/// Properties common to all kinds of models here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dimensions {
    pub(crate) kind: Kind,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Width inside the MLP.
    pub(crate) inner: usize,
    pub(crate) vocabulary: usize,
    pub(crate) context: usize,
    pub(crate) is_tied: bool,
    theta: f64,
    /// Llama 3's scaling of the rotary frequencies.
    rope_factor: Option<f64>,
    /// Added to the mean square in every norm: the original value, divided by the gain's mean square, like the
    /// residual stream.
    epsilon: f64,
}

/// The architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gpt2,
    Llama,
    Qwen2,
}

/// SmolLM2's vocabulary; that of Llama 3 or Qwen2 would make the head the largest part of the small models.
const VOCABULARY: usize = 49_152;

impl Dimensions {
    /// The dimensions of `shape`, checked against `options`.
    pub(crate) fn of(shape: Shape, options: &Options) -> anyhow::Result<Self> {
        let llama = Self {
            kind: Kind::Llama,
            hidden: 2048,
            layers: 16,
            heads: 32,
            kv_heads: 8,
            head_dim: 64,
            inner: 8192,
            vocabulary: VOCABULARY,
            context: 131_072,
            is_tied: true,
            theta: 500_000.0,
            rope_factor: Some(32.0),
            epsilon: 1e-5,
        };
        let qwen2 = Self {
            kind: Kind::Qwen2,
            hidden: 896,
            layers: 24,
            heads: 14,
            kv_heads: 2,
            inner: 4864,
            context: 32_768,
            theta: 1e6,
            rope_factor: None,
            epsilon: 1e-6,
            ..llama
        };
        let mut dimensions = match shape {
            Shape::Gpt2 => Self {
                kind: Kind::Gpt2,
                hidden: 768,
                layers: 12,
                heads: 12,
                kv_heads: 12,
                inner: 3072,
                vocabulary: 50_257,
                context: 1024,
                rope_factor: None,
                ..llama
            },
            Shape::Llama1b => llama,
            Shape::Llama8b => Self {
                hidden: 4096,
                layers: 32,
                head_dim: 128,
                inner: 14_336,
                is_tied: false,
                rope_factor: Some(8.0),
                ..llama
            },
            Shape::Qwen2 => qwen2,
            Shape::Qwen2Small => {
                Self { hidden: 512, layers: 12, heads: 8, inner: 1408, vocabulary: 8192, ..qwen2 }
            }
        };
        let name = shape.name();
        ensure!(
            options.key_bias == 0.0 || dimensions.kind == Kind::Qwen2,
            "{name} has no key biases: --key-bias is for qwen2-05b and qwen2-small"
        );
        ensure!(
            options.value_channel == 1.0 || dimensions.kind != Kind::Gpt2,
            "--value-channel is for the shapes with a value projection of their own, not for gpt2"
        );
        ensure!(
            options.outliers <= dimensions.hidden,
            "{} outlier channels, but {name} has {} channels",
            options.outliers,
            dimensions.hidden
        );
        if let Some(layers) = options.layers {
            let most = dimensions.layers;
            ensure!((1..=most).contains(&layers), "--layers {layers}, but {name} has {most}");
            dimensions.layers = layers;
        }
        dimensions.epsilon /= f64::from(dimensions.gain_rms(options)).powi(2);
        Ok(dimensions)
    }

    /// `config.json`.
    pub(super) fn config(&self) -> Value {
        let end_of_text = self.vocabulary - 1;
        let (model_type, class) = match self.kind {
            Kind::Gpt2 => {
                return json!({
                    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": self.vocabulary,
                    "n_positions": self.context, "n_embd": self.hidden, "n_layer": self.layers, "n_head": self.heads,
                    "activation_function": "gelu_new", "layer_norm_epsilon": self.epsilon,
                    "bos_token_id": end_of_text, "eos_token_id": end_of_text, "tie_word_embeddings": true,
                });
            }
            Kind::Llama => ("llama", "LlamaForCausalLM"),
            Kind::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        };
        let mut config = json!({
            "model_type": model_type, "architectures": [class], "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context, "hidden_size": self.hidden, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "intermediate_size": self.inner, "hidden_act": "silu", "rms_norm_eps": self.epsilon,
            "rope_theta": self.theta, "torch_dtype": "bfloat16", "bos_token_id": end_of_text,
            "eos_token_id": end_of_text, "tie_word_embeddings": self.is_tied,
        });
        if let Some(factor) = self.rope_factor {
            config["rope_scaling"] = json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            });
        }
        config
    }

    /// Root mean square of a norm's gain.
    pub(super) fn gain_rms(&self, options: &Options) -> f32 {
        let squares: f32 = super::tensors::gain(self.hidden, options).iter().map(|gain| gain * gain).sum();
        (squares / self.hidden as f32).sqrt()
    }

    /// Multiplications per token in the matrices of all layers.
    pub(crate) fn layer_products(&self) -> usize {
        let attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads);
        self.layers * (attention + self.hidden * self.inner * self.matrices_in_mlp())
    }

    /// Bytes of int8 weights read per token: codes, row scales, and the head.
    pub(crate) fn bytes_per_token(&self) -> usize {
        let attention = (self.heads + 2 * self.kv_heads) * self.head_dim + self.hidden;
        let mlp = (self.matrices_in_mlp() - 1) * self.inner + self.hidden;
        let rows = self.layers * (attention + mlp) + self.vocabulary;
        self.layer_products() + self.vocabulary * self.hidden + rows * size_of::<f32>()
    }

    fn matrices_in_mlp(&self) -> usize {
        if self.kind == Kind::Gpt2 { 2 } else { 3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_models() {
        let of = |shape| Dimensions::of(shape, &Options::default()).unwrap();
        let gpt2 = of(Shape::Gpt2);
        assert_eq!(gpt2.layer_products(), 84_934_656);
        assert_eq!(gpt2.bytes_per_token(), 84_934_656 + 38_597_376 + 4 * (12 * 6912 + 50_257));
        // Parameters of the layers of Llama 3.2 1B (1,235,814,400 with 128,256 embeddings), 3.1 8B (8,030,261,248 with two
        // such matrices) and Qwen2.5 0.5B (494,032,768 with 151,936 embeddings), less their vectors.
        assert_eq!(of(Shape::Llama1b).layer_products(), 1_235_814_400 - 128_256 * 2048 - 33 * 2048);
        assert_eq!(of(Shape::Llama8b).layer_products(), 8_030_261_248 - 2 * 128_256 * 4096 - 65 * 4096);
        assert_eq!(
            of(Shape::Qwen2).layer_products(),
            494_032_768 - 151_936 * 896 - 49 * 896 - 24 * (896 + 2 * 128)
        );
    }

    #[test]
    fn what_a_shape_lacks_is_refused() {
        let refused = |shape, options| Dimensions::of(shape, &options).unwrap_err().to_string();
        let key_bias = Options { key_bias: 1.0, ..Options::default() };
        assert!(refused(Shape::Llama1b, key_bias).contains("llama-1b has no key biases"));
        let layers = Options { layers: Some(17), ..Options::default() };
        assert_eq!(refused(Shape::Llama1b, layers), "--layers 17, but llama-1b has 16");
    }
}
