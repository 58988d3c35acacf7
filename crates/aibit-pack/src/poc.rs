//! The archive format of the proof of concept that preceded this project: a ZIP with a `state_dict` saved by torch,
//! tokenizer files and a little metadata.
//!
//! File names varied. The state dict is the only torch file; the others are identified by the last part of their
//! name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use aibit_format::{FileKind, PartialFile, entry_names};
use aibit_hub::max_file_bytes;
use serde_json::{Map, Value, json};
use zip::ZipArchive;

use crate::checkpoint::{Checkpoint, TensorDtype};
use crate::{PackError, small_file, tokenizer_files};

/// The largest plausible compression ratio.
const MAX_RATIO: u64 = 200;

/// The content of such an archive.
pub(crate) struct Unpacked {
    /// The state dict, in a temporary file.
    pub(crate) weights: PartialFile,
    /// The small files, by their names in a model folder.
    pub(crate) files: BTreeMap<&'static str, Vec<u8>>,
}

/// Whether a ZIP file was written by `torch.save`, and is not an archive that contains such a file.
pub(crate) fn is_torch(path: &Path) -> Result<bool, PackError> {
    let zip = open(path)?;
    let is_pickle = |name: &str| name == "data.pkl" || name.ends_with("/data.pkl");
    Ok(zip.file_names().flatten().any(|name| is_pickle(&name)))
}

fn open(path: &Path) -> Result<ZipArchive<File>, PackError> {
    let file = File::open(path).map_err(|source| io("open", path, source))?;
    ZipArchive::new(file).map_err(|e| bad(path, format!("not a readable ZIP file: {e}")))
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> PackError {
    PackError::Io { action, path: path.to_owned(), source }
}

fn bad(path: &Path, problem: impl Into<String>) -> PackError {
    PackError::NotAModel { path: path.to_owned(), problem: problem.into() }
}

/// Unpacks the archive at `path`.
pub(crate) fn unpack(path: &Path) -> Result<Unpacked, PackError> {
    let mut zip = open(path)?;
    if zip.index_for_name(entry_names::MANIFEST).is_some()
        && zip.index_for_name(entry_names::WEIGHTS).is_some()
    {
        return Err(bad(path, "it is already an .aibit archive; use `aibit run` or `aibit export`"));
    }
    let known = [
        entry_names::CONFIG,
        entry_names::GENERATION_CONFIG,
        entry_names::TOKENIZER,
        tokenizer_files::VOCABULARY,
        tokenizer_files::MERGES,
        "tokenizer_config.json",
        "special_tokens_map.json",
    ];
    let (mut files, mut weights, mut model_type) = (BTreeMap::new(), None, None);
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(|e| bad(path, format!("entry {index}: {e}")))?;
        if !entry.is_file() {
            continue;
        }
        let name = entry.name().map_err(|e| bad(path, format!("entry {index}: {e}")))?.into_owned();
        let base = name.rsplit(['/', '\\']).next().unwrap_or(&name).to_owned();
        if entry.size() > MAX_RATIO.saturating_mul(entry.compressed_size()).saturating_add(1 << 20) {
            let (size, packed) = (entry.size(), entry.compressed_size());
            return Err(bad(
                path,
                format!("its entry `{name:.80}` would grow from {packed} to {size} bytes"),
            ));
        }
        let mut head = Vec::new();
        entry.by_ref().take(4).read_to_end(&mut head).map_err(|source| io("read", path, source))?;
        if matches!(FileKind::of(&head, entry.size()), FileKind::Zip | FileKind::Pickle) {
            if weights.is_some() {
                return Err(bad(path, format!("it holds more than one torch file, `{name:.80}` among them")));
            }
            let folder = std::env::temp_dir();
            let unpacked = PartialFile::create(&folder, "unpacked")
                .map_err(|source| io("create a file in", &folder, source))?;
            let mut file = unpacked.file();
            let size = entry.size();
            let copied = file.write_all(&head).and_then(|()| {
                std::io::copy(&mut entry.take(size.saturating_sub(head.len() as u64)), &mut file)
            });
            copied.and_then(|_| file.rewind()).map_err(|source| io("unpack", path, source))?;
            weights = Some(unpacked);
        } else if base.ends_with(".json") || base.ends_with(".txt") {
            let limit = max_file_bytes(&base);
            let size = entry.size();
            let is_known = known.contains(&base.as_str());
            if size > limit && !is_known {
                continue; // not used
            }
            if size > limit {
                let problem = format!("its entry `{name:.80}` has {size} bytes, allowed are {limit}");
                return Err(bad(path, problem));
            }
            entry.take(limit).read_to_end(&mut head).map_err(|source| io("read", path, source))?;
            let content = small_file::normalized(&base, head);
            match known.into_iter().find(|known| *known == base) {
                Some(known) => {
                    let content = content.map_err(|e| bad(path, format!("its entry `{name:.80}`: {e}")))?;
                    files.insert(known, content);
                }
                None => model_type = model_type.or(content.ok().and_then(|json| named_model(&json))),
            }
        }
    }
    let weights = weights.ok_or_else(|| bad(path, "it is a ZIP file without a torch file in it"))?;
    if !files.contains_key(entry_names::CONFIG) {
        let model_type = model_type.ok_or_else(|| {
            bad(path, "it holds no config.json, and no metadata with a model_type or model_name")
        })?;
        files.insert(entry_names::CONFIG, configuration(path, &model_type, weights.path())?);
    }
    Ok(Unpacked { weights, files })
}

/// The name of the model in a metadata file.
fn named_model(json: &[u8]) -> Option<String> {
    let fields: Map<String, Value> = serde_json::from_slice(json).ok()?;
    let name = ["model_type", "model_name", "model_id", "model", "base_model"]
        .iter()
        .find_map(|key| fields.get(*key)?.as_str())?;
    Some(name.rsplit('/').next().unwrap_or(name).to_owned())
}

/// The family of the proof of concept.
const MODEL_TYPE: &str = "gpt2";

/// A configuration derived from the tensors' shapes, for GPT-2, whose heads have 64 elements and whose other settings
/// are transformers' defaults.
fn configuration(path: &Path, model: &str, weights: &Path) -> Result<Vec<u8>, PackError> {
    if !model.starts_with(MODEL_TYPE) {
        return Err(PackError::Architecture { found: model.to_owned(), supported: MODEL_TYPE.into() });
    }
    let checkpoint = Checkpoint::unpacked(weights, path)?;
    let shape = |name: &str| {
        let tensor = checkpoint
            .tensors()
            .get(name)
            .or_else(|| checkpoint.tensors().get(&format!("transformer.{name}")));
        match tensor.map(|tensor| tensor.shape.as_slice()) {
            Some(&[rows, columns]) => Ok((rows, columns)),
            _ => Err(bad(
                path,
                format!("it holds no config.json, and no matrix `{name}` to tell the model's size by"),
            )),
        }
    };
    let ((vocabulary, width), (context, _)) = (shape("wte.weight")?, shape("wpe.weight")?);
    let layers = (0..).take_while(|i| shape(&format!("h.{i}.attn.c_attn.weight")).is_ok()).count();
    let is_quantized = checkpoint.tensors().values().any(|tensor| tensor.dtype == TensorDtype::I8);
    let mut config = json!({
        "model_type": MODEL_TYPE,
        "vocab_size": vocabulary,
        "n_positions": context,
        "n_embd": width,
        "n_layer": layers,
        "n_head": width / 64,
    });
    if is_quantized {
        config["quantization_config"] = json!({"quant_method": "bitsandbytes", "load_in_8bit": true});
    }
    Ok(serde_json::to_vec_pretty(&config).expect("a value has only string keys"))
}
