//! Small files of a folder in words that transformers 4 and 5, and what is built on either, take to mean the same.

use aibit_format::entry_names;
use serde_json::{Map, Value};

use crate::ExportError;
use crate::parameter::Model;

/// The tokenizer's settings, beside `tokenizer.json`.
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The class that takes a tokenizer to be what `tokenizer.json` says. Version 5 calls it `TokenizersBackend`, which version
/// 4 does not know; this name is known to both.
const TOKENIZER_CLASS: &str = "PreTrainedTokenizerFast";

/// `config.json` for weights of the type `dtype`; without one, of the type that the archive's own names, or F32.
pub(crate) fn config(model: &Model<'_>, dtype: Option<&str>) -> Result<Map<String, Value>, ExportError> {
    let mut config = model.config_json.clone();
    config.remove("quantization_config");
    // `torch_dtype` until 4.55.
    let own = ["dtype", "torch_dtype"].iter().find_map(|key| config.get(*key)?.as_str().map(str::to_owned));
    let dtype = dtype.map(str::to_owned).or(own).unwrap_or_else(|| "float32".to_owned());
    for key in ["dtype", "torch_dtype"] {
        config.insert(key.to_owned(), dtype.as_str().into());
    }
    // Where it is absent, the default is that of the class and the version.
    config.insert("tie_word_embeddings".to_owned(), (!model.description.tied.is_empty()).into());
    config.extend(model.family.portable_settings(model.config)?);
    Ok(config)
}

/// `tokenizer_config.json`, made of the archive's own where it has one.
pub(crate) fn tokenizer_config(model: &Model<'_>) -> Result<Vec<u8>, ExportError> {
    let mut settings: Map<String, Value> = match model.archive.entry(TOKENIZER_CONFIG) {
        Ok(entry) => serde_json::from_slice(entry.data)
            .map_err(|source| ExportError::Json { entry: TOKENIZER_CONFIG, source })?,
        Err(_) => Map::new(),
    };
    let class = settings.get("tokenizer_class").and_then(Value::as_str);
    if class.is_none_or(|class| class == "TokenizersBackend") {
        settings.insert("tokenizer_class".to_owned(), TOKENIZER_CLASS.into());
    }
    // Version 5 calls the list `extra_special_tokens`, under which version 4 expects a map of names, and still reads the
    // former name.
    if settings.get("extra_special_tokens").is_some_and(Value::is_array) {
        let list = settings.remove("extra_special_tokens").unwrap_or_default();
        settings.entry("additional_special_tokens").or_insert(list);
    }
    Ok(serde_json::to_vec_pretty(&settings).expect("a value has only string keys"))
}

/// Entries of an archive that a folder gets under the same name, as they are.
pub(crate) fn is_carried(entry: &str) -> bool {
    const OTHERS: [&str; 7] = [
        entry_names::MANIFEST,
        entry_names::WEIGHTS,
        entry_names::GRAPH,
        entry_names::CONFIG,
        entry_names::TOKENIZER_COMPILED,
        entry_names::GOLDEN,
        TOKENIZER_CONFIG,
    ];
    !OTHERS.contains(&entry)
}
