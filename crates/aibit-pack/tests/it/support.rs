//! Golden data, packing and running in tests.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use aibit_cpu::Model;
use aibit_format::Archive;
use aibit_pack::{ModelSource, PackOptions, Preset, pack};
use aibit_runtime::{GenerateOptions, Profile, Session, Tokenizer, generate};
use safetensors::SafeTensors;
use tempfile::TempDir;

pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

/// Files of folders of golden data in one folder.
pub(crate) fn gathered(folders: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    for from in folders {
        for file in std::fs::read_dir(fixture(&format!("golden/{from}"))).expect("fixture") {
            let file = file.expect("file").path();
            std::fs::copy(&file, folder.path().join(file.file_name().expect("name"))).expect("copy");
        }
    }
    folder
}

pub(crate) fn packed(folder: &Path, preset: impl Into<Option<Preset>>) -> (TempDir, Archive) {
    let out = tempfile::tempdir().expect("temporary folder");
    let target = out.path().join("model.aibit");
    let source = ModelSource::open(folder).expect("a model");
    pack(&source, &target, &PackOptions { preset: preset.into(), ..PackOptions::default() }, &())
        .expect("packed");
    let archive = Archive::open(&target).expect("opened");
    (out, archive)
}

pub(crate) struct Golden(Vec<u8>);

impl Golden {
    /// Reads `expected.safetensors` of a folder of golden data.
    pub(crate) fn load(folder: &str) -> Self {
        Self(std::fs::read(fixture(&format!("golden/{folder}/expected.safetensors"))).expect("golden file"))
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.0).expect("golden file");
        file.tensor(name).expect("golden tensor").data().to_vec()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.bytes(name).as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    }

    pub(crate) fn f32s(&self, name: &str) -> Vec<f64> {
        self.bytes(name).as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
    }

    pub(crate) fn f64s(&self, name: &str) -> Vec<f64> {
        self.bytes(name).as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
    }
}

pub(crate) fn all_logits(model: &Model, profile: Profile, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let mut session = Session::new(model, profile, ids.len()).expect("memory");
    session.append_all(ids, |_, logits| all.extend_from_slice(logits)).expect("logits");
    all
}

pub(crate) fn greedy(
    model: &Model,
    tokenizer: &Tokenizer,
    profile: Profile,
    prompt: &[u32],
    n: usize,
) -> Vec<u32> {
    let options = GenerateOptions { max_tokens: Some(n), ..GenerateOptions::default() };
    let mut session = Session::new(model, profile, usize::MAX).expect("memory");
    generate(&mut session, tokenizer, prompt, &options, &mut |_| ControlFlow::Continue(()))
        .expect("generated")
        .ids
}

pub(crate) fn largest_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}
