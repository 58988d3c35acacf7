use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use aibit_format::{Archive, Provenance, Recipe, Scheme, entry_names};
use aibit_graph::Graph;
use serde::Serialize;

use super::{ArchiveArg, gguf, open_archive, recipe};
use crate::output::{Output, bytes, count};
use crate::visible::on_one_line;

/// Show the contents of an archive or a GGUF file
///
/// Reads headers only and verifies no digests; see `aibit verify`.
#[derive(clap::Args)]
#[command(
    visible_alias = "show",
    after_help = "Examples:\n  \
        aibit inspect gpt2.aibit\n  \
        aibit inspect gpt2.aibit --tensors\n  \
        aibit inspect gpt2.aibit --recipe\n  \
        aibit inspect model.gguf\n  \
        aibit inspect model.gguf --tokenizer > tokenizer.json\n  \
        aibit inspect gpt2.aibit --json | jq '.tensors[0]'"
)]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArg,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print only the tokenizer, as a tokenizer.json
    #[arg(long, conflicts_with = "tensors")]
    tokenizer: bool,
    /// Print only the input precision of each layer and the precision of its KV cache, with the errors measured when
    /// the archive was made
    #[arg(long, conflicts_with_all = ["tensors", "tokenizer"])]
    recipe: bool,
}

#[derive(Serialize)]
struct Report {
    file: String,
    format_version: u32,
    architecture: String,
    parameters: u64,
    bits_per_weight: f64,
    file_bytes: u64,
    context: usize,
    vocabulary: usize,
    nodes: usize,
    tensors: Vec<TensorLine>,
    tied: BTreeMap<String, String>,
    entries: Vec<EntryLine>,
    recipe: Recipe,
    provenance: Provenance,
    #[serde(skip)]
    list_tensors: bool,
}

#[derive(Serialize)]
struct TensorLine {
    name: String,
    scheme: Scheme,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: u64,
    /// From the start of the archive file.
    offset: u64,
    #[serde(skip)]
    is_parameter: bool,
}

#[derive(Serialize)]
struct EntryLine {
    name: String,
    bytes: u64,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    if args.tokenizer {
        out.emit(&tokenizer(args.archive.path())?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.recipe {
        out.emit(&recipe::Report::collect(&open_archive(args.archive.path())?)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if gguf::is_gguf(args.archive.path()) {
        out.emit(&gguf::Report::read(args.archive.path(), args.tensors)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let archive = open_archive(args.archive.path())?;
    out.emit(&Report::collect(&archive, args.tensors)?)?;
    Ok(ExitCode::SUCCESS)
}

impl Report {
    fn collect(archive: &Archive, list_tensors: bool) -> anyhow::Result<Self> {
        let manifest = archive.manifest();
        let graph = Graph::from_json(archive.entry(entry_names::GRAPH)?.data)?;
        let tensors: Vec<_> = archive
            .weights()
            .index()
            .tensors()
            .iter()
            .map(|info| TensorLine {
                name: info.name.clone(),
                scheme: manifest.tensors.get(&info.name).map_or(Scheme::F32, |record| record.scheme),
                dtype: info.dtype.name(),
                shape: match manifest.tensors.get(&info.name) {
                    Some(record) => record.scheme.shape(&info.shape),
                    None => info.shape.clone(),
                },
                bytes: info.bytes() as u64,
                offset: archive.weights().file_offset(info),
                is_parameter: manifest.tensors.contains_key(&info.name),
            })
            .collect();
        let parameters: u64 =
            tensors.iter().filter(|t| t.is_parameter).map(|t| t.shape.iter().product::<usize>() as u64).sum();
        let tensor_bytes: u64 = tensors.iter().map(|t| t.bytes).sum();
        let digest = |name: &str| manifest.entries.iter().find(|e| e.name == name).map(|e| e.sha256.clone());
        Ok(Self {
            file: archive.path().display().to_string(),
            format_version: manifest.version,
            architecture: manifest.architecture.clone(),
            parameters,
            bits_per_weight: 8.0 * tensor_bytes as f64 / parameters as f64,
            file_bytes: archive.file_bytes(),
            context: graph.context,
            vocabulary: graph.vocabulary,
            nodes: graph.nodes.len(),
            tensors,
            tied: manifest.tied.clone(),
            entries: archive
                .entries()
                .map(|e| EntryLine {
                    name: e.name.to_owned(),
                    bytes: e.data.len() as u64,
                    offset: e.offset,
                    sha256: digest(e.name),
                })
                .collect(),
            recipe: manifest.recipe.clone(),
            provenance: manifest.provenance.clone(),
            list_tensors,
        })
    }
}

/// The tokenizer of an archive, or of a GGUF file as `pack` would convert it.
fn tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    let json = if gguf::is_gguf(path) {
        gguf::tokenizer(path)?
    } else {
        open_archive(path)?.entry(entry_names::TOKENIZER)?.data.to_vec()
    };
    Ok(Tokenizer(serde_json::from_slice(&json)?))
}

#[derive(Serialize)]
struct Tokenizer(serde_json::Map<String, serde_json::Value>);

impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |key: &str, value: String| writeln!(f, "{key:<16} {}", on_one_line(&value));
        line("file", format!("{}, {}, format {}", self.file, bytes(self.file_bytes), self.format_version))?;
        line("architecture", format!("{}, {} graph nodes", self.architecture, self.nodes))?;
        line(
            "parameters",
            format!("{}, {:.2} bits per weight", count(self.parameters), self.bits_per_weight),
        )?;
        line("context", self.context.to_string())?;
        line("vocabulary", self.vocabulary.to_string())?;
        for (alias, target) in &self.tied {
            line("tied", format!("{alias} is {target}"))?;
        }
        line("recipe", recipe::recipe_line(&self.recipe))?;
        let source = &self.provenance.source;
        let from = match (&source.repository, &source.revision) {
            (Some(repository), Some(revision)) => format!("{repository} at {revision}"),
            _ => source.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", "),
        };
        line("made by", self.provenance.tool.clone())?;
        line("made from", from)?;

        writeln!(f, "\n{:<10} {:>8} {:>12} {:>12}", "scheme", "tensors", "parameters", "bytes")?;
        for scheme in Scheme::ALL {
            let of_scheme: Vec<_> =
                self.tensors.iter().filter(|t| t.is_parameter && t.scheme == scheme).collect();
            if of_scheme.is_empty() {
                continue;
            }
            let elements: usize = of_scheme.iter().map(|t| t.shape.iter().product::<usize>()).sum();
            let size: u64 = of_scheme.iter().map(|t| t.bytes).sum();
            writeln!(
                f,
                "{scheme:<10} {:>8} {:>12} {:>12}",
                of_scheme.len(),
                count(elements as u64),
                bytes(size)
            )?;
        }
        let scales: Vec<_> = self.tensors.iter().filter(|t| !t.is_parameter).collect();
        if !scales.is_empty() {
            let size: u64 = scales.iter().map(|t| t.bytes).sum();
            writeln!(f, "{:<10} {:>8} {:>12} {:>12}", "(scales)", scales.len(), "", bytes(size))?;
        }
        write!(f, "\n{:<26} {:>12} {:>12}", "entry", "bytes", "offset")?;
        for entry in &self.entries {
            write!(f, "\n{:<26} {:>12} {:>12}", on_one_line(&entry.name), entry.bytes, entry.offset)?;
        }
        if self.list_tensors {
            write!(
                f,
                "\n\n{:<44} {:<6} {:<5} {:>16} {:>12} {:>12}",
                "tensor", "scheme", "dtype", "shape", "bytes", "offset"
            )?;
            for t in &self.tensors {
                let shape = format!("{:?}", t.shape);
                write!(
                    f,
                    "\n{:<44} {:<6} {:<5} {:>16} {:>12} {:>12}",
                    on_one_line(&t.name),
                    if t.is_parameter { t.scheme.name() } else { "" },
                    t.dtype,
                    shape,
                    t.bytes,
                    t.offset
                )?;
            }
        }
        Ok(())
    }
}
