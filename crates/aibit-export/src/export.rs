//! One archive to one target.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aibit_format::{Archive, entry_names};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::parameter::{Model, f32_bytes};
use crate::{ExportError, Target, bnb, compressed_tensors, gguf, hf};

/// How to export.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportOptions {
    /// Whether codes that the target cannot hold may be quantized again.
    pub requantize: bool,
    /// The type of floating-point weights, where the target leaves a choice; F16 unless said.
    pub dtype: Option<FloatDtype>,
    /// How the engine is to take activations, where the target leaves a choice.
    pub activations: ActivationDtype,
}

/// What an engine that loads an export multiplies weights with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActivationDtype {
    /// Activations in floating point: the weights lose nothing more.
    #[default]
    Float,
    /// Activations in INT8, one scale per token: faster, and what CPUs want.
    Int8,
}

impl FromStr for ActivationDtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "float" => Ok(Self::Float),
            "int8" => Ok(Self::Int8),
            _ => Err(format!("unknown type `{name}`, known are float and int8")),
        }
    }
}

/// A floating-point type of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FloatDtype {
    /// Half the size; values beyond 65,504 are refused.
    #[default]
    F16,
    /// Every value as it is.
    F32,
}

impl FloatDtype {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// The type of tensors, and its name in `config.json`.
    pub(crate) fn tensors(self) -> (Dtype, &'static str) {
        match self {
            Self::F16 => (Dtype::F16, "float16"),
            Self::F32 => (Dtype::F32, "float32"),
        }
    }
}

impl FromStr for FloatDtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::F16, Self::F32]
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| format!("unknown type `{name}`, known are f16 and f32"))
    }
}

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    /// Where.
    #[serde(serialize_with = "as_displayed")]
    pub output: PathBuf,
    /// The target's name.
    pub target: &'static str,
    /// Matrices whose codes are those of the archive.
    pub kept: usize,
    /// Matrices that were dequantized, every value as it was or rounded to the type that was asked for.
    pub dequantized: usize,
    /// Matrices that were quantized again.
    pub requantized: usize,
    /// Bytes written.
    pub bytes: u64,
}

/// A path as text, which not every path is.
fn as_displayed<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Exports `archive` to `path`: a new folder or a file, as [`Target::is_folder`] says. It appears when it is complete.
///
/// # Errors
/// [`ExportError::Model`] and [`ExportError::Parameter`] for what the target cannot hold, [`ExportError::Io`].
pub fn export(
    archive: &Archive,
    target: Target,
    path: &Path,
    options: &ExportOptions,
) -> Result<ExportReport, ExportError> {
    let unused = |option: &'static str| ExportError::Option { target, option };
    if options.dtype.is_some() && !matches!(target, Target::Hf | Target::CompressedTensors) {
        return Err(unused("--dtype"));
    }
    if options.activations != ActivationDtype::Float && target != Target::CompressedTensors {
        return Err(unused("--activations"));
    }
    let mut report = ExportReport {
        output: path.to_owned(),
        target: target.name(),
        kept: 0,
        dequantized: 0,
        requantized: 0,
        bytes: 0,
    };
    let io = |action| move |source| ExportError::Io { action, path: path.to_owned(), source };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if target.is_folder() {
        if path.exists() {
            let source = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it is there already");
            return Err(io("create")(source));
        }
        let folder = tempfile::Builder::new().prefix(".aibit-").tempdir_in(parent).map_err(io("create"))?;
        let model = Model::open(archive)?;
        match target {
            Target::Bnb => bnb::write(&model, folder.path(), options, &mut report)?,
            Target::CompressedTensors => {
                compressed_tensors::write(&model, folder.path(), options, &mut report)?;
            }
            _ => hf::write(&model, folder.path(), options, &mut report)?,
        }
        write_small_files(archive, folder.path())?;
        for entry in fs::read_dir(folder.path()).map_err(io("read"))? {
            report.bytes += entry.and_then(|entry| entry.metadata()).map_err(io("read"))?.len();
        }
        let model = folder.path().join("model.safetensors");
        fs::File::open(model).and_then(|file| file.sync_all()).map_err(io("write"))?;
        // Kept under its final name; on failure the temporary one is removed.
        fs::rename(folder.path(), path).map_err(io("create"))?;
        let _ = folder.keep();
    } else {
        let mut file = NamedTempFile::new_in(parent).map_err(io("create"))?;
        match target {
            Target::Gguf => gguf::write(&Model::open(archive)?, &mut file, options, &mut report)?,
            _ => {
                report.kept = archive.manifest().tensors.values().filter(|t| t.scheme.is_quantized()).count();
                file.write_all(archive.entry(entry_names::WEIGHTS)?.data).map_err(io("write"))?;
            }
        }
        file.as_file().sync_all().map_err(io("write"))?;
        report.bytes = file.as_file().metadata().map_err(io("read"))?.len();
        file.persist(path).map_err(|e| io("create")(e.error))?;
    }
    Ok(report)
}

/// The tokenizer and what else the archive carries, as it came.
fn write_small_files(archive: &Archive, folder: &Path) -> Result<(), ExportError> {
    const OWN: [&str; 6] = [
        entry_names::MANIFEST,
        entry_names::WEIGHTS,
        entry_names::GRAPH,
        entry_names::CONFIG,
        entry_names::TOKENIZER_COMPILED,
        entry_names::GOLDEN,
    ];
    for entry in archive.entries().filter(|entry| !OWN.contains(&entry.name)) {
        let path = folder.join(entry.name);
        fs::write(&path, entry.data).map_err(|source| ExportError::Io { action: "write", path, source })?;
    }
    Ok(())
}

/// A tensor to be written.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

/// Writes `model.safetensors` and `config.json` to a folder.
pub(crate) fn write_model(
    folder: &Path,
    tensors: &[Tensor],
    config: &serde_json::Map<String, serde_json::Value>,
) -> Result<(), ExportError> {
    let path = folder.join("model.safetensors");
    let views = tensors.iter().map(|Tensor { name, dtype, shape, data }| {
        TensorView::new(*dtype, shape.clone(), data).map(|view| (name.as_str(), view))
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    views
        .collect::<Result<Vec<_>, _>>()
        .and_then(|views| safetensors::serialize_to_file(views, Some(metadata), &path))
        .map_err(|e| ExportError::Io { action: "write", path, source: std::io::Error::other(e) })?;
    let path = folder.join(entry_names::CONFIG);
    let json = serde_json::to_vec_pretty(config).expect("a value has only string keys");
    fs::write(&path, json).map_err(|source| ExportError::Io { action: "write", path, source })
}

/// Values as elements of `dtype`; `None` for a value that has no finite one.
pub(crate) fn encode(values: &[f32], dtype: Dtype) -> Option<Vec<u8>> {
    match dtype {
        Dtype::F16 => {
            let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
            halves
                .iter()
                .all(|v| v.is_finite())
                .then(|| halves.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
        Dtype::BF16 => {
            let brains: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
            brains
                .iter()
                .all(|v| v.is_finite())
                .then(|| brains.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
        _ => Some(f32_bytes(values)),
    }
}
