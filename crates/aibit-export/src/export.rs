//! One archive to one target.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aibit_format::{Archive, OutputFile, OutputFolder, OutputTarget, entry_names};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;

use crate::parameter::{Model, f32_bytes};
use crate::{ExportError, Target, bnb, compressed_tensors, gguf, hf, own_tensors, portable};

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

/// An export that is written and not yet in its place. Dropping it removes it.
#[derive(Debug)]
pub struct Exported {
    report: ExportReport,
    output: Output,
}

#[derive(Debug)]
enum Output {
    File(OutputFile),
    Folder(OutputFolder),
}

impl Exported {
    /// Where it can be read until it has its name.
    pub fn partial_path(&self) -> &Path {
        match &self.output {
            Output::File(file) => file.partial_path(),
            Output::Folder(folder) => folder.partial_path(),
        }
    }

    /// What was written.
    pub fn report(&self) -> &ExportReport {
        &self.report
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// [`ExportError::Format`] with the system's reason.
    pub fn finish(self) -> Result<ExportReport, ExportError> {
        match self.output {
            Output::File(file) => _ = file.finish()?,
            Output::Folder(folder) => folder.finish()?,
        }
        Ok(self.report)
    }
}

/// Exports `archive` to `output`, a folder or a file as [`Target::is_folder`] says.
///
/// # Errors
/// [`ExportError::Model`] and [`ExportError::Parameter`] for what the target cannot hold, [`ExportError::Io`].
pub fn export(
    archive: &Archive,
    target: Target,
    output: OutputTarget,
    options: &ExportOptions,
) -> Result<Exported, ExportError> {
    let unused = |option: &'static str| ExportError::Option { target, option };
    if options.dtype.is_some() && !matches!(target, Target::Hf | Target::CompressedTensors) {
        return Err(unused("--dtype"));
    }
    if options.activations != ActivationDtype::Float && target != Target::CompressedTensors {
        return Err(unused("--activations"));
    }
    let mut report = ExportReport {
        output: output.path().to_owned(),
        target: target.name(),
        kept: 0,
        dequantized: 0,
        requantized: 0,
        bytes: 0,
    };
    let output = if target.is_folder() {
        let folder = OutputFolder::create(output)?;
        let model = Model::open(archive)?;
        match target {
            Target::Bnb => bnb::write(&model, &folder, options, &mut report)?,
            Target::CompressedTensors => compressed_tensors::write(&model, &folder, options, &mut report)?,
            _ => hf::write(&model, &folder, options, &mut report)?,
        }
        write_small_files(&model, &folder, &mut report)?;
        Output::Folder(folder)
    } else {
        let output = OutputFile::create(output)?;
        let mut file = BufWriter::new(output.file());
        match target {
            Target::Gguf => gguf::write(&Model::open(archive)?, &mut file, options, &mut report)?,
            _ => own_tensors::write(archive, &mut file, &mut report)?,
        }
        let io = |source| ExportError::Io { action: "write", path: report.output.clone(), source };
        file.flush().map_err(io)?;
        drop(file);
        report.bytes = output.file().metadata().map_err(io)?.len();
        Output::File(output)
    };
    Ok(Exported { report, output })
}

/// The tokenizer and what else the archive carries.
fn write_small_files(
    model: &Model<'_>,
    folder: &OutputFolder,
    report: &mut ExportReport,
) -> Result<(), ExportError> {
    for entry in model.archive.entries().filter(|entry| portable::is_carried(entry.name)) {
        write_file(folder, entry.name, report, |file| file.write_all(entry.data))?;
    }
    let settings = portable::tokenizer_config(model)?;
    write_file(folder, portable::TOKENIZER_CONFIG, report, |file| file.write_all(&settings))
}

/// Writes a file of a folder, and counts its bytes.
fn write_file(
    folder: &OutputFolder,
    name: &str,
    report: &mut ExportReport,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), ExportError> {
    let io = |source| ExportError::Io { action: "write", path: report.output.join(name), source };
    let file = folder.create_file(name)?;
    let mut writer = BufWriter::new(&file);
    write(&mut writer).and_then(|()| writer.flush()).map_err(io)?;
    drop(writer);
    report.bytes += file.metadata().map_err(io)?.len();
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
    folder: &OutputFolder,
    tensors: &[Tensor],
    config: &serde_json::Map<String, serde_json::Value>,
    report: &mut ExportReport,
) -> Result<(), ExportError> {
    // The widest elements first, so that all are aligned.
    let mut tensors: Vec<_> = tensors.iter().collect();
    tensors.sort_by(|a, b| (Reverse(a.dtype), &a.name).cmp(&(Reverse(b.dtype), &b.name)));
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for Tensor { name, dtype, shape, data } in &tensors {
        let data_offsets = (end, end + data.len());
        end += data.len();
        infos.push((name.clone(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets }));
    }
    let name = "model.safetensors";
    let invalid = |e| ExportError::Io {
        action: "write",
        path: report.output.join(name),
        source: std::io::Error::other(e),
    };
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(metadata), infos).map_err(invalid)?;
    let mut header = serde_json::to_vec(&header).expect("a header has only string keys");
    header.resize(header.len().next_multiple_of(8), b' ');
    write_file(folder, name, report, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| file.write_all(&tensor.data))
    })?;
    let json = serde_json::to_vec_pretty(config).expect("a value has only string keys");
    write_file(folder, entry_names::CONFIG, report, |file| file.write_all(&json))
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
