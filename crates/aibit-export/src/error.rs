use std::path::PathBuf;

use aibit_chat::ChatError;
use aibit_format::{FormatError, Scheme};
use aibit_gguf::GgufError;
use aibit_graph::{ConfigError, GraphError};
use aibit_quant::QuantError;
use aibit_runtime::RuntimeError;
use aibit_tokenizer::TokenizerError;

use crate::Target;

/// Why an archive cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
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
    /// The archive is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The archive's configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A small file of the archive is not JSON.
    #[error("{entry}: {source}")]
    Json {
        /// The entry.
        entry: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The archive's graph is refused.
    #[error("graph.json: {0}")]
    Graph(#[from] GraphError),
    /// The archive is of a family that is not built in.
    #[error(
        "the model is of the family \"{found}\", which cannot be exported; supported are {}",
        aibit_families::Family::supported()
    )]
    Family {
        /// The model's family.
        found: String,
    },
    /// Its tokenizer, or its tensors, cannot be said in a GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The archive's tokenizer, chat template or settings are refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// An option that means nothing for the target.
    #[error("{option} has no meaning for {target}; leave it out")]
    Option {
        /// The target.
        target: Target,
        /// The option on the command line.
        option: &'static str,
    },
    /// The target cannot hold this model.
    #[error("{target} cannot hold this model: {problem}")]
    Model {
        /// The target.
        target: Target,
        /// Why not, and what to do.
        problem: String,
    },
    /// The target cannot hold a parameter as it is stored.
    #[error("{target} cannot hold `{name}` as {scheme}: {problem}")]
    Parameter {
        /// The target.
        target: Target,
        /// The parameter.
        name: String,
        /// How the archive stores it.
        scheme: Scheme,
        /// Why not, and what to do.
        problem: String,
    },
    /// Values cannot be quantized as the target wants them.
    #[error("tensor `{name}`: {source}")]
    Quant {
        /// The parameter.
        name: String,
        /// Why not.
        source: QuantError,
    },
}

impl From<TokenizerError> for ExportError {
    fn from(error: TokenizerError) -> Self {
        Self::Runtime(error.into())
    }
}

impl From<ChatError> for ExportError {
    fn from(error: ChatError) -> Self {
        Self::Runtime(error.into())
    }
}
