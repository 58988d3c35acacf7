//! Model folders: the trained one, and copies of the tiny one to modify.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::temporary_folder;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The folder of the trained model, which must not be written to.
pub(crate) fn small() -> PathBuf {
    fixtures().join("aibit-small-gpt2")
}

/// Results of the reference implementation for the trained model.
pub(crate) fn small_expected() -> Value {
    serde_json::from_slice(&fs::read(small().join("expected.json")).expect("a fixture")).expect("JSON")
}

/// A copy of the tiny random model.
pub(crate) struct Tiny {
    /// The model's parent folder; the model is in `tiny`, which messages therefore show.
    folder: TempDir,
    path: PathBuf,
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct SourceTensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

impl Tiny {
    pub(crate) fn new() -> Self {
        Self::of(&["tiny-gpt2/fp32", "tiny-gpt2/tokenizer"])
    }

    /// A variant of the tiny Llama.
    pub(crate) fn llama(variant: &str) -> Self {
        Self::of(&[&format!("tiny-llama/{variant}"), "tiny-gpt2/tokenizer"])
    }

    /// The files of folders of golden data.
    fn of(folders: &[&str]) -> Self {
        let folder = temporary_folder();
        let path = folder.path().join("tiny");
        fs::create_dir(&path).expect("a folder");
        for golden in folders {
            for from in fs::read_dir(fixtures().join("golden").join(golden)).expect("fixtures") {
                let from = from.expect("a fixture").path();
                let to = path.join(from.file_name().expect("a file name"));
                // Written again, since a copy would keep permissions.
                fs::write(to, fs::read(&from).expect("a fixture")).expect("write");
            }
        }
        Self { folder, path }
    }

    /// The model's folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The parent folder, in which the binary runs.
    pub(crate) fn around(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn remove(self, name: &str) -> Self {
        fs::remove_file(self.path.join(name)).expect("the file was there");
        self
    }

    pub(crate) fn write(self, name: &str, content: &[u8]) -> Self {
        fs::write(self.path.join(name), content).expect("write");
        self
    }

    /// Sets a field of `config.json`.
    pub(crate) fn with_config(self, field: &str, value: Value) -> Self {
        self.edit_json("config.json", |config| config[field] = value)
    }

    pub(crate) fn edit_json(self, name: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let mut json = serde_json::from_slice(&fs::read(self.path.join(name)).expect("read")).expect("JSON");
        edit(&mut json);
        self.write(name, json.to_string().as_bytes())
    }

    /// The tensors of `model.safetensors`.
    pub(crate) fn tensors(&self) -> BTreeMap<String, SourceTensor> {
        let file = fs::read(self.path.join("model.safetensors")).expect("read");
        let tensors = SafeTensors::deserialize(&file).expect("safetensors");
        let owned = |view: &TensorView<'_>| SourceTensor {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        tensors.tensors().iter().map(|(name, view)| (name.clone(), owned(view))).collect()
    }

    /// Changes the tensors of `model.safetensors`.
    pub(crate) fn edit_tensors(self, edit: impl FnOnce(&mut BTreeMap<String, SourceTensor>)) -> Self {
        let mut tensors = self.tensors();
        edit(&mut tensors);
        let file = safetensors_file(&tensors);
        self.write("model.safetensors", &file)
    }
}

pub(crate) fn safetensors_file(tensors: &BTreeMap<String, SourceTensor>) -> Vec<u8> {
    safetensors_with(tensors, &[])
}

/// A safetensors file whose header has these pairs in `__metadata__`.
pub(crate) fn safetensors_with(
    tensors: &BTreeMap<String, SourceTensor>,
    metadata: &[(&str, &str)],
) -> Vec<u8> {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data);
        (name, view.expect("shape and bytes agree"))
    });
    safetensors::serialize(views, Some(metadata)).expect("serialize")
}
