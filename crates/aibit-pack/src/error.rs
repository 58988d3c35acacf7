use std::path::PathBuf;

use aibit_cpu::LoadError;
use aibit_format::{FormatError, Scheme};
use aibit_gguf::GgufError;
use aibit_graph::ConfigError;
use aibit_quant::QuantError;
use aibit_runtime::RuntimeError;
use aibit_tokenizer::TokenizerError;
use aibit_torch::TorchError;

/// Why a model cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A system error.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// The attempted action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The source is not a model.
    #[error("{} is not a model: {problem:.1000}", .path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
    /// A file of the source is malformed.
    #[error("{}: {problem:.1000}", .path.display())]
    SourceFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The archive cannot be written, or a file cannot be mapped.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// `config.json` is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model's family is not supported.
    #[error(
        "the model is of the family \"{found:.80}\", which is not supported yet; supported are {supported}"
    )]
    Architecture {
        /// The model's family.
        found: String,
        /// The supported families.
        supported: String,
    },
    /// A setting of `config.json` that no family supports.
    #[error("config.json: {field} is set ({found}); {advice}")]
    Setting {
        /// The field.
        field: &'static str,
        /// Its value, truncated.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A setting to be carried over is invalid.
    #[error(transparent)]
    CarriedSetting(RuntimeError),
    /// A torch checkpoint is refused.
    #[error("{}: {source}", .path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TorchError,
    },
    /// A GGUF file is refused.
    #[error("{}: {source}", .path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: GgufError,
    },
    /// A tensor of the checkpoint does not match the model.
    #[error("tensor `{name:.200}`: {problem:.1000}")]
    Tensor {
        /// Its name in the checkpoint.
        name: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// Tensors required by the configuration are missing.
    #[error("the checkpoint lacks {count} of the model's tensors, among them {examples:.1000}")]
    MissingTensors {
        /// Their number.
        count: usize,
        /// Some of them.
        examples: String,
    },
    /// A weight cannot be quantized.
    #[error("tensor `{name:.200}`: {source}")]
    Quant {
        /// Its canonical name.
        name: String,
        /// Why not.
        source: QuantError,
    },
    /// The recipe does not match the model.
    #[error("recipe: {0:.1000}")]
    Recipe(String),
    /// The requested scheme is impossible for the tensor.
    #[error("tensor `{name:.200}` cannot be stored as {scheme}: {problem}")]
    Scheme {
        /// Its canonical name.
        name: String,
        /// The scheme.
        scheme: Scheme,
        /// Why not.
        problem: String,
    },
    /// A tensor is already quantized, and the chosen scheme would requantize it.
    #[error(
        "tensor `{name:.200}` is already quantized ({found}) and would be requantized as {scheme}, which is less accurate; \
         {advice}"
    )]
    Requantize {
        /// Its name in the checkpoint.
        name: String,
        /// Its encoding in the checkpoint.
        found: &'static str,
        /// The chosen scheme.
        scheme: Scheme,
        /// What to do.
        advice: &'static str,
    },
    /// The finished package cannot be loaded.
    #[error("the package does not run: {0}")]
    Load(#[from] LoadError),
    /// The finished package does not run.
    #[error("the package does not run: {0}")]
    Runtime(#[from] RuntimeError),
}

impl From<TokenizerError> for PackError {
    fn from(error: TokenizerError) -> Self {
        Self::Runtime(error.into())
    }
}
