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
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The source is no model.
    #[error("{} is not a model: {problem:.1000}", .path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is missing or in the way.
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
    /// The archive cannot be written, or a file not be mapped.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// `config.json` is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model is of a family that has no crate yet.
    #[error(
        "the model is of the family \"{found:.80}\", which is not supported yet; supported are {supported}"
    )]
    Architecture {
        /// The model's family.
        found: String,
        /// Families that are.
        supported: String,
    },
    /// A setting of `config.json` that no family supports.
    #[error("config.json: {field} is set ({found}); {advice}")]
    Setting {
        /// The field.
        field: &'static str,
        /// Its value, shortened.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A setting that is carried along cannot be meant.
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
    /// A tensor of the checkpoint does not fit the model.
    #[error("tensor `{name:.200}`: {problem:.1000}")]
    Tensor {
        /// Its name in the checkpoint.
        name: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// Tensors that the configuration calls for are not in the checkpoint.
    #[error("the checkpoint lacks {count} of the model's tensors, among them {examples:.1000}")]
    MissingTensors {
        /// How many.
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
    /// The recipe does not fit the model.
    #[error("recipe: {0:.1000}")]
    Recipe(String),
    /// A scheme was asked for that the tensor cannot have.
    #[error("tensor `{name:.200}` cannot be stored as {scheme}: {problem}")]
    Scheme {
        /// Its canonical name.
        name: String,
        /// The scheme.
        scheme: Scheme,
        /// Why not.
        problem: String,
    },
    /// A tensor is quantized already, and the scheme that was chosen would quantize its values once more.
    #[error(
        "tensor `{name:.200}` is quantized already ({found}) and would be quantized again as {scheme}, which loses more; \
         {advice}"
    )]
    Requantize {
        /// Its name in the checkpoint.
        name: String,
        /// How it is stored there.
        found: &'static str,
        /// The scheme that was chosen.
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
