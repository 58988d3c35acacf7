//! Models of real shapes with seeded weights, for measurements that need no download.
//!
//! Weights are random, but activations are realistic: layers after a norm are divided by the root mean square of its
//! gain, so that activations are the same for any gain; logits have the spread of a trained model's, so that a KL
//! divergence is meaningful.

mod dimensions;
mod normal;
mod tensors;
mod tokenizer;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;

pub(crate) use self::dimensions::Dimensions;
pub(crate) use self::normal::{Normal, stream};
use crate::root;

/// Increased whenever the same options give other bytes.
const VERSION: u32 = 2;

/// The available shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// GPT-2 124M: 0.25 GB in F16
    Gpt2,
    /// Llama 3.2 1B, with a vocabulary of 49,152: 2.1 GB in BF16
    #[value(name = "llama-1b")]
    #[serde(rename = "llama-1b")]
    Llama1b,
    /// Llama 3.1 8B, with a vocabulary of 49,152: 14.8 GB in BF16
    #[value(name = "llama-8b")]
    #[serde(rename = "llama-8b")]
    Llama8b,
    /// Qwen2.5 0.5B, with a vocabulary of 49,152: 0.8 GB in BF16
    #[value(name = "qwen2-05b")]
    #[serde(rename = "qwen2-05b")]
    Qwen2,
    /// A Qwen2 of 12 layers with a vocabulary of 8,192, for quality: 0.1 GB in BF16
    #[value(name = "qwen2-small")]
    #[serde(rename = "qwen2-small")]
    Qwen2Small,
}

/// Deviations from a plain model of the shape.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize)]
pub(crate) struct Options {
    /// Gain of every norm; the following layers are divided by it, so that every gain computes the same function
    #[arg(long, value_name = "GAIN", default_value_t = 1.0, value_parser = positive)]
    pub(crate) norms: f32,
    /// Number of channels of every norm whose gain is 25 times the others'
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) outliers: usize,
    /// Euclidean norm of every layer's key bias (Qwen2 shapes), all in the slowest quarter of the rotated pairs, as
    /// in Qwen2.5: within some thousand positions it does not change attention weights
    #[arg(long, value_name = "NORM", default_value_t = 0.0, value_parser = not_negative)]
    pub(crate) key_bias: f32,
    /// Factor of one value channel of every head relative to the others (all shapes except gpt2); the columns that
    /// read it are divided by its square root
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = positive)]
    pub(crate) value_channel: f32,
    /// Number of layers, instead of all
    #[arg(long, value_name = "N")]
    pub(crate) layers: Option<usize>,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 1337)]
    pub(crate) seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { norms: 1.0, outliers: 0, key_bias: 0.0, value_channel: 1.0, layers: None, seed: 1337 }
    }
}

/// `cargo xtask shape`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shape
    #[arg(value_enum)]
    shape: Shape,
    #[command(flatten)]
    options: Options,
    /// The folder to write [default: a folder in target/bench named after shape and options]
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// Creates the model that `args` describe and returns its folder.
pub(crate) fn run(args: &Args) -> anyhow::Result<PathBuf> {
    match &args.output {
        None => make(args.shape, &args.options),
        Some(folder) => {
            make_in(folder, args.shape, &args.options)?;
            Ok(folder.clone())
        }
    }
}

/// The model's folder in `target/bench`, created unless complete.
pub(crate) fn make(shape: Shape, options: &Options) -> anyhow::Result<PathBuf> {
    let folder = root().join("target/bench").join(options.label(shape));
    make_in(&folder, shape, options)?;
    Ok(folder)
}

fn make_in(folder: &Path, shape: Shape, options: &Options) -> anyhow::Result<()> {
    // Written last: a marker that all files are complete, with their parameters.
    let stamp = folder.join("shape.json");
    let wanted = serde_json::to_vec_pretty(
        &serde_json::json!({ "version": VERSION, "shape": shape, "options": options }),
    )?;
    if fs::read(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let dimensions = Dimensions::of(shape, options)?;
    let names = folder.exists().then(|| fs::read_dir(folder)).transpose()?;
    let is_ours = stamp.exists() || names.is_none_or(|mut names| names.next().is_none());
    ensure!(
        is_ours || folder.starts_with(root().join("target")),
        "{} holds other files: name a folder that is empty or does not exist",
        folder.display()
    );
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&dimensions.config())?)?;
    fs::write(folder.join("tokenizer.json"), tokenizer::grown(dimensions.vocabulary)?)?;
    writer::write(folder, &dimensions, options)?;
    fs::write(&stamp, wanted)?;
    Ok(())
}

impl Options {
    /// A file name: the shape and every non-default option.
    pub(crate) fn label(&self, shape: Shape) -> String {
        let mut label = shape.name();
        let default = Self::default();
        let mut add = |name: &str, value: String, is_default: bool| {
            if !is_default {
                label.push_str(&format!("-{name}{value}"));
            }
        };
        add("norms", self.norms.to_string(), self.norms == default.norms);
        add("outliers", self.outliers.to_string(), self.outliers == default.outliers);
        add("key-bias", self.key_bias.to_string(), self.key_bias == default.key_bias);
        add("value-channel", self.value_channel.to_string(), self.value_channel == default.value_channel);
        add("layers", self.layers.unwrap_or_default().to_string(), self.layers.is_none());
        add("seed", self.seed.to_string(), self.seed == default.seed);
        label
    }
}

impl Shape {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn positive(text: &str) -> Result<f32, String> {
    number(text).and_then(|value| if value > 0.0 { Ok(value) } else { Err("must be above 0".into()) })
}

fn not_negative(text: &str) -> Result<f32, String> {
    number(text).and_then(|value| if value >= 0.0 { Ok(value) } else { Err("must not be below 0".into()) })
}

fn number(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "is not a number".to_owned())?;
    if value.is_finite() { Ok(value) } else { Err("must be finite".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_names_what_is_not_the_default() {
        assert_eq!(Options::default().label(Shape::Llama1b), "llama-1b");
        let options = Options { norms: 0.05, layers: Some(2), ..Options::default() };
        assert_eq!(options.label(Shape::Qwen2Small), "qwen2-small-norms0.05-layers2");
    }
}
