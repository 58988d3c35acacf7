//! GGUF files as a source: what takes the place of `config.json` and `tokenizer.json`, and names of tensors.

use std::collections::BTreeMap;

use aibit_gguf::{Gguf, GgufError};

/// The small files of a model folder, made of a GGUF file's metadata.
pub(crate) fn files(map: &[u8]) -> Result<BTreeMap<&'static str, Vec<u8>>, GgufError> {
    let _gguf = Gguf::parse(map)?;
    Ok(BTreeMap::new())
}

/// The name that a tensor of a GGUF file has in a checkpoint of its family.
pub(crate) fn checkpoint_name(name: &str) -> String {
    name.to_owned()
}
