//! What a package says about how it wants to be run: `generation_config.json`, then `config.json`.

use aibit_format::{Archive, entry_names};
use serde::Deserialize;

use crate::RuntimeError;

/// A package's own generation settings; `None` where it has no opinion.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PackageDefaults {
    /// Ids that end a text.
    pub stop_ids: Vec<u32>,
    /// Sampling temperature; only where the package asks to be sampled.
    pub temperature: Option<f32>,
    /// Most likely tokens that are considered.
    pub top_k: Option<usize>,
    /// Probability mass that is considered.
    pub top_p: Option<f32>,
    /// Share of the largest probability below which tokens are dropped.
    pub min_p: Option<f32>,
    /// Penalty on tokens that have occurred.
    pub repeat_penalty: Option<f32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    eos_token_id: Option<OneOrMany>,
    do_sample: bool,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl PackageDefaults {
    /// Reads an archive's settings. Sampling settings count only with `do_sample`, as in transformers.
    ///
    /// # Errors
    /// [`RuntimeError::Settings`] naming the file, for malformed JSON or fields of a wrong type.
    pub fn load(archive: &Archive) -> Result<Self, RuntimeError> {
        let _span = tracing::info_span!("package defaults").entered();
        let read = |name: &'static str| match archive.entry(name) {
            Ok(entry) => serde_json::from_slice::<Raw>(entry.data)
                .map_err(|e| RuntimeError::Settings { file: name, problem: e.to_string() }),
            Err(_) => Ok(Raw::default()),
        };
        let (generation, config) = (read(entry_names::GENERATION_CONFIG)?, read(entry_names::CONFIG)?);
        let stop_ids = match generation.eos_token_id.or(config.eos_token_id) {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![id],
            Some(OneOrMany::Many(ids)) => ids,
        };
        if !generation.do_sample {
            return Ok(Self { stop_ids, repeat_penalty: generation.repetition_penalty, ..Self::default() });
        }
        Ok(Self {
            stop_ids,
            temperature: Some(generation.temperature.unwrap_or(1.0)),
            top_k: generation.top_k,
            top_p: generation.top_p,
            min_p: generation.min_p,
            repeat_penalty: generation.repetition_penalty,
        })
    }
}
