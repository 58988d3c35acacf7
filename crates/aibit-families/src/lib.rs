#![doc = include_str!("../README.md")]
//! # In detail
//!
//! The model families that this build can pack, by name: the one place to which a new family is added.
//!
//! Each family is a crate that turns a configuration into a graph; the executor does not know families. See
//! `docs/adding-an-architecture.md`.

use aibit_gguf::{Gguf, GgufError, Metadata, TensorNames, Value};
use aibit_gpt2::Gpt2Config;
use aibit_graph::{CheckpointName, ConfigError, ModelDescription};
use aibit_llama::{LlamaConfig, ModelType};
use serde_json::Map;

/// A model family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// GPT-2.
    Gpt2,
    /// Llama, Mistral, Qwen2 and Qwen3.
    Llama,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 2] = [Self::Gpt2, Self::Llama];

    /// The values of `model_type` in `config.json` that belong to the family. GGUF files use the same names for
    /// architectures.
    pub fn model_types(self) -> Vec<&'static str> {
        match self {
            Self::Gpt2 => vec![aibit_gpt2::MODEL_TYPE],
            Self::Llama => ModelType::ALL.map(ModelType::name).to_vec(),
        }
    }

    /// The family with this `model_type`.
    pub fn of(model_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.model_types().contains(&model_type))
    }

    /// Every `model_type`, for messages.
    pub fn supported() -> String {
        Self::ALL.into_iter().flat_map(Self::model_types).collect::<Vec<_>>().join(", ")
    }

    /// The graph and parameters of the model with this `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] for a configuration that the family refuses.
    pub fn describe(self, config: &[u8]) -> Result<ModelDescription, ConfigError> {
        Ok(match self {
            Self::Gpt2 => aibit_gpt2::describe(&Gpt2Config::from_json(config)?),
            Self::Llama => aibit_llama::describe(&LlamaConfig::from_json(config)?),
        })
    }

    /// The role of a checkpoint's tensor in a package.
    pub fn checkpoint_name(self, name: &str) -> CheckpointName {
        match self {
            Self::Gpt2 => aibit_gpt2::checkpoint_name(name),
            Self::Llama => aibit_llama::checkpoint_name(name),
        }
    }

    /// Whether transformers implements the family's linear layers as `Conv1D` instead of `Linear`.
    pub fn has_conv1d_layers(self) -> bool {
        match self {
            Self::Gpt2 => true,
            Self::Llama => false,
        }
    }

    /// The `config.json` equivalent to a GGUF `file`; `vocabulary` is the number of its tokens.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for a key that is missing, of another type or not supported.
    pub fn gguf_config(
        self,
        gguf: &Gguf,
        file: &[u8],
        vocabulary: usize,
    ) -> Result<serde_json::Value, GgufError> {
        match self {
            Self::Gpt2 => {
                let has_head = gguf.tensor("output.weight").is_some();
                aibit_gpt2::gguf_config(gguf.metadata(), vocabulary, has_head)
            }
            Self::Llama => aibit_llama::gguf_config(gguf, file, vocabulary),
        }
    }

    /// The mapping between canonical tensor names and those in GGUF files.
    pub fn gguf_names(self) -> &'static TensorNames {
        match self {
            Self::Gpt2 => &aibit_gpt2::GGUF_NAMES,
            Self::Llama => &aibit_llama::GGUF_NAMES,
        }
    }

    /// The number of rows per head of a tensor whose rows are permuted in GGUF files: in each head, the rows of the
    /// first half are interleaved with those of the second. `None` for other tensors. `architecture` and `metadata`
    /// are the file's.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for keys that do not give the head length.
    pub fn gguf_interleaved_rows(
        self,
        metadata: &Metadata,
        architecture: &str,
        name: &str,
    ) -> Result<Option<usize>, GgufError> {
        match self {
            Self::Llama if aibit_llama::has_interleaved_rows(architecture, name) => {
                aibit_llama::gguf_head_dim(metadata, architecture).map(Some)
            }
            Self::Gpt2 | Self::Llama => Ok(None),
        }
    }

    /// Whether a parameter that is missing in a GGUF file is zero: `name` is canonical, `architecture` the file's.
    pub fn gguf_may_lack(self, architecture: &str, name: &str) -> bool {
        match self {
            Self::Gpt2 => false,
            Self::Llama => aibit_llama::gguf_may_lack(architecture, name),
        }
    }

    /// Fields of `config.json` that give the settings of `config` to every version of transformers, to be merged into
    /// it when it is exported.
    ///
    /// # Errors
    /// [`ConfigError`] for a configuration that the family refuses.
    pub fn portable_settings(self, config: &[u8]) -> Result<Map<String, serde_json::Value>, ConfigError> {
        Ok(match self {
            Self::Gpt2 => Map::new(),
            Self::Llama => aibit_llama::rope_settings(&LlamaConfig::from_json(config)?.rope),
        })
    }

    /// The keys of a GGUF file for the model with this `config.json`, and the tensors that only GGUF files have.
    ///
    /// # Errors
    /// Why a GGUF file cannot represent the model.
    pub fn gguf_header(self, config: &[u8]) -> Result<GgufHeader, String> {
        let refused = |error: ConfigError| error.to_string();
        Ok(match self {
            Self::Gpt2 => {
                let config = Gpt2Config::from_json(config).map_err(refused)?;
                GgufHeader { metadata: aibit_gpt2::gguf_metadata(&config)?, constants: Vec::new() }
            }
            Self::Llama => {
                let config = LlamaConfig::from_json(config).map_err(refused)?;
                let aibit_llama::GgufHeader { metadata, constants } = aibit_llama::gguf_header(&config)?;
                GgufHeader { metadata, constants }
            }
        })
    }
}

/// The header of a GGUF file, without parameters and tokenizer.
#[derive(Debug)]
pub struct GgufHeader {
    /// Keys and values, the architecture first.
    pub metadata: Vec<(String, Value)>,
    /// Tensors that no checkpoint has, by name.
    pub constants: Vec<(&'static str, Vec<f32>)>,
}
