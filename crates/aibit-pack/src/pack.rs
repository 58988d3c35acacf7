//! From source to archive.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use aibit_families::Family;
use aibit_format::{
    ArchiveWriter, EntryWriter, FORMAT_VERSION, FormatError, JoinedRows, Manifest, OutputFile, OutputTarget,
    Override, Provenance, Replace, Scheme, Source, TensorRecord, WeightsLayout, entry_names,
};
use aibit_graph::{CheckpointName, ConfigError, ContextLimit, ModelDescription, Op, Origin, Parameter, Role};
use aibit_quant::{
    FourBit, Int8Rowwise, NestedAbsmax, QuantError, quantize_four_bit, quantize_int4_groups,
    quantize_int8_groups,
};
use aibit_runtime::{
    ChatFiles, ChatTemplate, Golden, Model, PackageDefaults, SettingsFiles, Tokenizer, compile_tokenizer,
};
use half::{bf16, f16};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bnb::{self, QuantizationConfig};
use crate::checkpoint::{Checkpoint, CheckpointTensor, SourceDtype};
use crate::encoding::{Block, Elements, Encoding, encoding_of, le_bytes, nested_tables};
use crate::recipe::{CompiledRecipe, Preset};
use crate::source::{FURTHER_TEMPLATES, digest_file};
use crate::{ModelSource, PackError, Progress, foreign, tokenizer_files};

/// What to make of a source.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// Schemes by role; by default [`Preset::Keep`] for a source that is quantized already and [`Preset::Int8`] for others.
    pub preset: Option<Preset>,
    /// Exceptions by name; the last that matches counts.
    pub overrides: Vec<Override>,
    /// Whether values that were quantized before may be quantized again.
    pub requantize: bool,
    /// Whether the archive may replace a file that is no archive.
    pub force: bool,
}

impl PackOptions {
    /// Checks a path for the archive, before any work is done for it.
    ///
    /// # Errors
    /// As [`OutputTarget::file`].
    pub fn target(&self, path: &Path) -> Result<OutputTarget, FormatError> {
        OutputTarget::file(path, if self.force { Replace::Any } else { Replace::Archive })
    }
}

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct PackReport {
    /// Architecture family.
    pub architecture: String,
    /// Number of weights, those of a tied head counted once.
    pub parameters: u64,
    /// Bits of tensor data per parameter, scales included.
    pub bits_per_weight: f64,
    /// Parameters per scheme.
    pub schemes: BTreeMap<&'static str, u64>,
    /// Length of the source's weight files.
    pub source_weight_bytes: u64,
    /// Length of the archive.
    pub file_bytes: u64,
    /// What the user should know about the source though nothing is wrong with the package, a sentence each.
    pub notes: Vec<String>,
}

/// Files that are carried along unchanged where the source has them.
const CARRIED_FILES: [&str; 5] = [
    entry_names::GENERATION_CONFIG,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Elements quantized by one task: large enough to be worth a task, small enough that a few fit in cache.
const BLOCK_ELEMENTS: usize = 1 << 19;

/// Packs `source` into one archive at `target`.
///
/// Weights stream through a few blocks of rows at a time. Nothing appears at `target` before the archive is
/// complete and has produced its own golden outputs. The same source and options give the same bytes, whatever
/// the folder and the number of threads. An archive at `target` is replaced, any other file only with
/// [`PackOptions::force`], and a file of the source never.
///
/// # Errors
/// Any [`PackError`]: a setting, tensor or file that is refused, named with its numbers. `target` is then as it
/// was before.
pub fn pack(
    source: &ModelSource,
    target: &Path,
    options: &PackOptions,
    progress: &dyn Progress,
) -> Result<PackReport, PackError> {
    let target = options.target(target)?;
    source.check_is_no_source(&target)?;
    let output = OutputFile::create(target)?;
    let mut config = source.read(entry_names::CONFIG)?.expect("a model source has a config.json");
    let (family, mut description) = describe(&config)?;
    let tokenizer_files = tokenizer_files::load(source)?;
    let compiled_tokenizer = compile_tokenizer(&tokenizer_files.json)?;
    let tokenizer = match &compiled_tokenizer {
        Some(compiled) => Tokenizer::from_compiled(compiled.clone())?,
        None => Tokenizer::from_json(&tokenizer_files.json)?,
    };
    let carried = carried_files(source)?;
    let mut notes = check_settings(&config, &carried, &tokenizer, description.graph.vocabulary)?;
    notes.extend(source.left_out());
    notes.extend(tokens_beyond(source, &tokenizer, description.graph.vocabulary)?);
    notes.extend(check_chat_template(source, &carried)?);
    let checkpoint = source.checkpoint()?;
    check_index(source, &checkpoint, family)?;
    if let Some((head, embedding)) = differing_tie(&checkpoint, family, &description)? {
        config = untied(&config)?;
        (_, description) = describe(&config)?;
        notes.push(format!(
            "`{head}` differs from `{embedding}`, though config.json ties them (tie_word_embeddings); both are packed, \
             untied"
        ));
    }
    if let Some(limit) = description.graph.context_limit {
        notes.push(context_note(limit, description.graph.context));
    }
    let mut plain = description.clone();
    fill_absent(&mut plain, &checkpoint, family);
    let tensors = match_tensors(&checkpoint, family, &plain)?;
    let is_quantized = tensors.iter().any(|t| t.encoding.is_quantized());
    let recipe = CompiledRecipe::new(options.preset, is_quantized, &options.overrides, options.requantize)?;
    for slot in &mut description.graph.kv_slots {
        slot.precision = recipe.kv_precision(slot.head_dim, description.graph.context);
    }
    let typed: Vec<_> = tensors.iter().map(|t| (t.parameter, &t.encoding)).collect();
    let schemes = recipe.schemes(&typed)?;
    let plan = join(&mut description, tensors, schemes);
    let layout = weights_layout(&plan)?;

    let mut read_files = vec![entry_names::CONFIG];
    read_files.extend(tokenizer_files.read);
    read_files.extend(carried.iter().map(|(name, _)| *name));
    let mut large_files = source.weight_files();
    if !source.whole_files().is_empty() {
        read_files.clear(); // made of these files, or parts of them
        large_files = source.whole_files();
    }
    let mut files = read_files.into_iter().map(|name| source.digest(name)).collect::<Result<Vec<_>, _>>()?;
    let mut source_weight_bytes = 0;
    for path in large_files {
        let length = std::fs::metadata(path).map_or(0, |m| m.len());
        progress.start("reading", length);
        let file = digest_file(path, &mut |bytes| progress.advance(bytes))?;
        progress.finish();
        source_weight_bytes += file.bytes;
        files.push(file);
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));

    let mut archive = ArchiveWriter::new(output)?;
    notes.extend(write_weights(&mut archive, &checkpoint, &plan, &layout, progress)?);
    archive.add(entry_names::GRAPH, "application/json", &description.graph.to_json())?;
    archive.add(entry_names::CONFIG, "application/json", &config)?;
    archive.add(entry_names::TOKENIZER, "application/json", &tokenizer_files.json)?;
    if let Some(compiled) = &compiled_tokenizer {
        archive.add(entry_names::TOKENIZER_COMPILED, "application/octet-stream", compiled)?;
    }
    for (name, bytes) in &carried {
        let media_type = if name.ends_with(".json") { "application/json" } else { "text/plain" };
        archive.add(name, media_type, bytes)?;
    }
    let manifest = Manifest {
        format: "aibit".into(),
        version: FORMAT_VERSION,
        required_features: Vec::new(),
        architecture: description.architecture.into(),
        entries: Vec::new(),
        tensors: plan.iter().map(|p| (p.parameter.name.clone(), p.record())).collect(),
        tied: description.tied.iter().cloned().collect(),
        recipe: recipe.record(),
        provenance: Provenance {
            tool: concat!("aibit ", env!("CARGO_PKG_VERSION")).into(),
            source: Source {
                repository: source.repository.as_ref().map(|(repository, _)| repository.clone()),
                revision: source.repository.as_ref().map(|(_, revision)| revision.clone()),
                files,
            },
        },
    };
    progress.start("recording golden outputs", 0);
    let model = Model::new(description.graph.clone(), archive.weights()?, &manifest)?;
    let golden = Golden::record(&model, &tokenizer, &tokenizer_files.json)?;
    drop(model);
    progress.finish();
    archive.add(entry_names::GOLDEN, "application/json", &golden.to_json())?;
    let file_bytes = archive.finish(manifest)?;
    Ok(PackReport { notes, ..report(&description, &plan, &layout, source_weight_bytes, file_bytes) })
}

fn carried_files(source: &ModelSource) -> Result<Vec<(&'static str, Vec<u8>)>, PackError> {
    let mut carried = Vec::new();
    for name in CARRIED_FILES {
        carried.extend(source.read(name)?.map(|bytes| (name, bytes)));
    }
    Ok(carried)
}

/// Reads the carried settings as `run` will, and returns what of them has no effect.
fn check_settings(
    config: &[u8],
    carried: &[(&'static str, Vec<u8>)],
    tokenizer: &Tokenizer,
    vocabulary: usize,
) -> Result<Vec<String>, PackError> {
    let file = |name| carried.iter().find(|(other, _)| *other == name).map(|(_, bytes)| bytes.as_slice());
    let files = SettingsFiles {
        generation_config: file(entry_names::GENERATION_CONFIG),
        config: Some(config),
        tokenizer_config: file("tokenizer_config.json"),
        special_tokens_map: file("special_tokens_map.json"),
    };
    let defaults = PackageDefaults::from_files(&files, tokenizer, vocabulary);
    Ok(defaults.map_err(PackError::CarriedSetting)?.notes)
}

/// A note on the tokens that the model has no row for, if there are any: texts without them can be used.
///
/// # Errors
/// [`PackError::SourceFile`] where every prompt begins with one.
fn tokens_beyond(
    source: &ModelSource,
    tokenizer: &Tokenizer,
    vocabulary: usize,
) -> Result<Option<String>, PackError> {
    const SHOWN: usize = 5;
    tokenizer.check_ids(&tokenizer.encode_prompt("")?, vocabulary).map_err(|e| PackError::SourceFile {
        path: source.folder.join(entry_names::TOKENIZER),
        problem: format!("every prompt begins with a token that the model has no row for: {e}"),
    })?;
    let ids: Vec<u32> = tokenizer.ids_beyond(vocabulary).collect();
    let token = |&id: &u32| format!("{:?} ({id})", String::from_utf8_lossy(&tokenizer.bytes(id)));
    let shown: Vec<_> = ids.iter().take(SHOWN).map(token).collect();
    let more = if ids.len() > SHOWN { format!(" and {} more", ids.len() - SHOWN) } else { String::new() };
    Ok((!ids.is_empty()).then(|| {
        format!(
            "the model has {vocabulary} rows for tokens and none for {}{more}: texts with such a token are refused",
            shown.join(", ")
        )
    }))
}

/// Reads the chat template as `run` will, and returns what will not work.
fn check_chat_template(
    source: &ModelSource,
    carried: &[(&'static str, Vec<u8>)],
) -> Result<Vec<String>, PackError> {
    let file =
        |name: &str| carried.iter().find(|(other, _)| *other == name).map(|(_, bytes)| bytes.as_slice());
    let template = ChatTemplate::from_files(&ChatFiles::read(file)).map_err(PackError::CarriedSetting)?;
    let others = source.further_chat_templates()?;
    let Some(template) = template else {
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let problem = format!(
            "there is no chat template named `default`, only {}; copy the one to use to chat_template.jinja",
            others.join(", ")
        );
        return Err(PackError::SourceFile { path: source.folder.join(FURTHER_TEMPLATES), problem });
    };
    template.check().map_err(PackError::CarriedSetting)?;
    let failure =
        template.failure().map(|e| format!("the chat template fails for a conversation of one message: {e}"));
    let left_out = (!others.is_empty()).then(|| {
        format!("{FURTHER_TEMPLATES}: {} left out; only the default chat template is used", others.join(", "))
    });
    Ok(failure.into_iter().chain(left_out).collect())
}

/// Builds the graph of whichever family `config.json` names.
fn describe(config: &[u8]) -> Result<(Family, ModelDescription), PackError> {
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(config).map_err(ConfigError::from)?;
    let set = |field: &str| fields.get(field).filter(|value| !value.is_null());
    let shown = |value: &serde_json::Value| value.to_string().chars().take(60).collect::<String>();
    if let Some(found) = set("auto_map") {
        let advice =
            "the model asks for code of its own, which is never run; only built-in families can be packed";
        return Err(PackError::Setting { field: "auto_map", found: shown(found), advice });
    }
    foreign::check_config(&fields)?;
    let mut threshold = None;
    if let Some(found) = set("quantization_config") {
        let quantization = QuantizationConfig::deserialize(found).unwrap_or_default();
        if !quantization.is_bitsandbytes() {
            let advice = "a checkpoint quantized by this method cannot be imported; pack the original model";
            let found = found.get("quant_method").map_or_else(|| shown(found), shown);
            return Err(PackError::Setting { field: "quantization_config", found, advice });
        }
        threshold = Some(quantization.threshold());
    }
    let model_type = set("model_type").and_then(|value| value.as_str()).unwrap_or("(none)");
    let Some(family) = Family::of(model_type) else {
        let (found, supported) = (model_type.chars().take(60).collect(), Family::supported());
        return Err(PackError::Architecture { found, supported });
    };
    let mut description = family.describe(config)?;
    if let Some(threshold) = threshold {
        set_outlier_threshold(&mut description, threshold);
    }
    Ok((family, description))
}

/// Gives layers whose activations may have outliers the checkpoint's own threshold, where 0 means that there are none.
fn set_outlier_threshold(description: &mut ModelDescription, threshold: f32) {
    for op in &mut description.graph.nodes {
        if let Op::Linear { outlier_threshold: Some(value), .. } = op {
            *value = threshold;
        }
        if let Op::Linear { outlier_threshold, .. } = op {
            *outlier_threshold = outlier_threshold.filter(|threshold| *threshold > 0.0);
        }
    }
}

/// A parameter of the plain graph and the checkpoint's tensor for it.
struct Matched<'a> {
    parameter: &'a Parameter,
    /// `None` for a constant.
    tensor: Option<&'a CheckpointTensor>,
    encoding: Encoding<'a>,
}

impl Matched<'_> {
    /// Quantized weights have left the orientation of their layer behind.
    fn is_transposed(&self) -> bool {
        self.parameter.origin == Origin::Transposed
            && matches!(self.encoding, Encoding::Float(_))
            && self.tensor.is_some_and(|tensor| !tensor.is_canonical)
    }

    /// The parameter as a matrix; a vector is one row.
    fn matrix_shape(&self) -> [usize; 2] {
        match *self.parameter.shape {
            [rows, columns] => [rows, columns],
            _ => [1, self.parameter.shape.iter().product()],
        }
    }

    fn elements<'c>(&'c self, checkpoint: &'c Checkpoint) -> Result<Elements<'c>, PackError> {
        match (self.tensor, &self.parameter.origin) {
            (Some(tensor), _) => {
                let shape = self.matrix_shape();
                Elements::open(checkpoint, tensor, &self.encoding, shape, self.is_transposed())
            }
            (None, Origin::Constant(values)) => Ok(Elements::constant(values)),
            (None, _) => unreachable!("only constants are matched with no tensor"),
        }
    }
}

/// A parameter of the archive, and what of the checkpoint it is made of: the rows of one after those of another.
struct Planned<'a> {
    parameter: Parameter,
    sources: Vec<Matched<'a>>,
    scheme: Scheme,
}

impl Planned<'_> {
    fn name(&self) -> &str {
        &self.parameter.name
    }

    fn record(&self) -> TensorRecord {
        let first = &self.sources[0];
        let part = |source: &Matched<'_>| JoinedRows {
            name: source.parameter.name.clone(),
            rows: source.parameter.shape[0],
        };
        TensorRecord {
            scheme: self.scheme,
            source_dtype: first.encoding.name().into(),
            transposed: first.is_transposed(),
            joined: if self.sources.len() > 1 { self.sources.iter().map(part).collect() } else { Vec::new() },
        }
    }
}

/// Fuses the graph, and joins parameters that it has made one and that are stored alike.
fn join<'a>(
    description: &mut ModelDescription,
    tensors: Vec<Matched<'a>>,
    schemes: Vec<Scheme>,
) -> Vec<Planned<'a>> {
    let mut by_name: HashMap<&str, (Matched<'a>, Scheme)> = tensors
        .into_iter()
        .zip(schemes)
        .map(|(t, scheme)| (t.parameter.name.as_str(), (t, scheme)))
        .collect();
    description.fuse(|parameters| {
        let stored = |parameter: &Parameter| {
            let (source, scheme) = &by_name[parameter.name.as_str()];
            (*scheme, source.encoding.name(), source.is_transposed())
        };
        let first = stored(parameters[0]);
        !first.0.has_nested_scales() && parameters.iter().all(|parameter| stored(parameter) == first)
    });
    let planned = |parameter: &Parameter| {
        let parts = match &parameter.origin {
            Origin::Joined(parts) => parts.as_slice(),
            _ => std::slice::from_ref(parameter),
        };
        let parts =
            parts.iter().map(|part| by_name.remove(part.name.as_str()).expect("matched, and used once"));
        let (sources, schemes): (Vec<_>, Vec<_>) = parts.unzip();
        Planned { parameter: parameter.clone(), sources, scheme: schemes[0] }
    };
    description.parameters.iter().map(planned).collect()
}

/// Checks that every parameter which an index places in a file is there.
fn check_index(source: &ModelSource, checkpoint: &Checkpoint, family: Family) -> Result<(), PackError> {
    let Some(index) = source.index() else { return Ok(()) };
    let is_missing = |name: &str| {
        let is_buffer = family.checkpoint_name(checkpoint.unwrapped(name)) == CheckpointName::Buffer;
        !is_buffer && !checkpoint.holds(name)
    };
    match index.weight_map.iter().find(|(name, _)| is_missing(name)) {
        None => Ok(()),
        Some((name, shard)) => {
            let problem = format!("it places the tensor `{name:.80}` in {shard:.80}, which does not hold it");
            Err(PackError::SourceFile { path: index.path.clone(), problem })
        }
    }
}

/// A head and the embedding that `config.json` ties it to, where the checkpoint has both and they differ: their names.
fn differing_tie(
    checkpoint: &Checkpoint,
    family: Family,
    description: &ModelDescription,
) -> Result<Option<(String, String)>, PackError> {
    let find = |wanted: &str| {
        let is_wanted = |name: &str| matches!(family.checkpoint_name(name), CheckpointName::Parameter(name) if name == wanted);
        checkpoint.tensors().iter().find(|(name, _)| is_wanted(name))
    };
    for (head, embedding) in &description.tied {
        if let (Some((head, a)), Some((embedding, b))) = (find(head), find(embedding))
            && !checkpoint.is_same(a, b)?
        {
            return Ok(Some((head.clone(), embedding.clone())));
        }
    }
    Ok(None)
}

/// `config.json` of the same model with a head of its own, which is what transformers makes of one whose tensors differ.
fn untied(config: &[u8]) -> Result<Vec<u8>, PackError> {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(config).map_err(ConfigError::from)?;
    fields.insert("tie_word_embeddings".into(), false.into());
    Ok(serde_json::to_vec_pretty(&fields).expect("a value has only string keys"))
}

/// What ends the context after `positions`, where the model could go on.
fn context_note(limit: ContextLimit, positions: usize) -> String {
    match limit {
        ContextLimit::DynamicRope => format!(
            "the RoPE scaling `dynamic` is computed up to the original context of {positions} positions, where it changes \
             nothing; the package's context ends there"
        ),
        ContextLimit::SlidingWindow => format!(
            "the model has a sliding window of {positions} positions, up to which it hides nothing; the package's context \
             ends there"
        ),
    }
}

/// Makes zeros of the parameters that a GGUF file may lack and does.
fn fill_absent(description: &mut ModelDescription, checkpoint: &Checkpoint, family: Family) {
    if !checkpoint.is_gguf() {
        return;
    }
    let architecture = description.architecture;
    for parameter in &mut description.parameters {
        if !checkpoint.tensors().contains_key(&parameter.name)
            && family.gguf_may_lack(architecture, &parameter.name)
        {
            parameter.origin = Origin::Constant(vec![0.0; parameter.shape.iter().product()]);
        }
    }
}

/// Finds every parameter in the checkpoint, and a parameter for every tensor.
fn match_tensors<'a>(
    checkpoint: &'a Checkpoint,
    family: Family,
    description: &'a ModelDescription,
) -> Result<Vec<Matched<'a>>, PackError> {
    let parameters: HashMap<&str, &Parameter> =
        description.parameters.iter().map(|p| (p.name.as_str(), p)).collect();
    let wrong = |name: &str, problem: String| PackError::Tensor { name: name.to_owned(), problem };
    let mut found: HashMap<&str, (&String, &CheckpointTensor)> = HashMap::new();
    let mut aliases = Vec::new();
    for (source_name, tensor) in checkpoint.tensors() {
        if let Some(problem) = foreign::told_by(source_name, &tensor.dtype) {
            return Err(wrong(source_name, problem));
        }
        if bnb::weight_of(source_name).is_some_and(|weight| checkpoint.tensors().contains_key(&weight)) {
            continue; // read with its weight
        }
        let CheckpointName::Parameter(name) = family.checkpoint_name(source_name) else { continue };
        if let Some((_, target)) = description.tied.iter().find(|(alias, _)| *alias == name) {
            aliases.push((source_name, tensor, target));
            continue;
        }
        let Some(parameter) = parameters.get(name.as_str()) else {
            return Err(wrong(
                source_name,
                "config.json describes no such tensor; the checkpoint is of another model".into(),
            ));
        };
        if let Some((twin, _)) = found.insert(&parameter.name, (source_name, tensor)) {
            return Err(wrong(source_name, format!("is the same parameter as `{twin}`")));
        }
    }
    // Of a tied pair, the head may be the one that was kept.
    for (alias, tensor, target) in aliases {
        if let Some(parameter) = parameters.get(target.as_str()) {
            found.entry(&parameter.name).or_insert((alias, tensor));
        }
    }
    let is_missing =
        |p: &&Parameter| !matches!(p.origin, Origin::Constant(_)) && !found.contains_key(p.name.as_str());
    let missing: Vec<_> = description.parameters.iter().filter(is_missing).collect();
    if let [Parameter { name, role: Role::Head, .. }] = missing.as_slice() {
        let problem = "is not in the checkpoint, and config.json does not tie it to the embedding (tie_word_embeddings): \
                       the model gives no probabilities of tokens, as embedding models do not, or a part of the \
                       checkpoint is missing";
        return Err(wrong(name, problem.into()));
    }
    if !missing.is_empty() {
        let examples = missing.iter().take(3).map(|p| format!("`{}`", p.name)).collect::<Vec<_>>().join(", ");
        return Err(PackError::MissingTensors { count: missing.len(), examples });
    }
    description
        .parameters
        .iter()
        .map(|parameter| {
            if let Origin::Constant(_) = parameter.origin {
                return Ok(Matched { parameter, tensor: None, encoding: Encoding::Float(SourceDtype::F32) });
            }
            let (source_name, tensor) = found[parameter.name.as_str()];
            let encoding = encoding_of(checkpoint, source_name, tensor, &parameter.shape)?;
            if let Encoding::Float(_) | Encoding::Ggml(_) = encoding {
                let mut expected = parameter.shape.clone();
                if parameter.origin == Origin::Transposed && !tensor.is_canonical {
                    expected.reverse();
                }
                if tensor.shape != expected {
                    return Err(wrong(
                        source_name,
                        format!("has shape {:?}, config.json calls for {expected:?}", tensor.shape),
                    ));
                }
            }
            Ok(Matched { parameter, tensor: Some(tensor), encoding })
        })
        .collect()
}

fn weights_layout(plan: &[Planned<'_>]) -> Result<WeightsLayout, PackError> {
    let mut tensors = Vec::new();
    for planned in plan {
        let (scheme, shape) = (planned.scheme, &planned.parameter.shape);
        if scheme.is_quantized() && shape.len() != 2 {
            let (name, problem) = (planned.name().to_owned(), "quantization takes matrices".into());
            return Err(PackError::Scheme { name, scheme, problem });
        }
        tensors.push((planned.name().to_owned(), scheme.dtype(), scheme.stored_shape(shape)));
        tensors.extend(scheme.parts(planned.name(), shape).into_iter().map(|p| (p.name, p.dtype, p.shape)));
    }
    Ok(WeightsLayout::new(&tensors)?)
}

/// Streams every tensor in the layout's order. What a scheme stores beside the codes is kept from the pass over them, or
/// computed by a pass of its own where the layout has it first. Returns notes on values that a scheme could not hold.
fn write_weights(
    archive: &mut ArchiveWriter,
    checkpoint: &Checkpoint,
    plan: &[Planned<'_>],
    layout: &WeightsLayout,
    progress: &dyn Progress,
) -> Result<Vec<String>, PackError> {
    let mut by_name: HashMap<String, &Planned<'_>> = HashMap::new();
    for planned in plan {
        by_name.insert(planned.name().to_owned(), planned);
        let parts = planned.scheme.parts(planned.name(), &planned.parameter.shape);
        by_name.extend(parts.into_iter().map(|part| (part.name, planned)));
    }
    let mut kept: HashMap<String, Vec<u8>> = HashMap::new();
    let mut notes = BTreeSet::new();

    progress.start("quantizing", layout.file_bytes());
    let mut entry =
        archive.start_entry(entry_names::WEIGHTS, "application/vnd.safetensors", layout.file_bytes())?;
    entry.write_all(layout.header())?;
    for info in layout.tensors() {
        let planned = by_name[&info.name];
        if info.name == planned.name() {
            kept.extend(write_parameter(Some(&mut entry), checkpoint, planned, &mut notes)?);
        } else {
            if !kept.contains_key(&info.name) {
                kept.extend(write_parameter(None, checkpoint, planned, &mut notes)?);
            }
            entry.write_all(&kept.remove(&info.name).expect("a part of its scheme"))?;
        }
        progress.advance(info.bytes() as u64);
    }
    entry.finish()?;
    progress.finish();
    Ok(notes.into_iter().collect())
}

/// Encodes a parameter block by block, in parallel, and writes the blocks in order; returns what its scheme stores beside
/// them, by name.
fn write_parameter(
    mut entry: Option<&mut EntryWriter<'_>>,
    checkpoint: &Checkpoint,
    planned: &Planned<'_>,
    notes: &mut BTreeSet<String>,
) -> Result<Vec<(String, Vec<u8>)>, PackError> {
    let names = planned.scheme.parts(planned.name(), &planned.parameter.shape);
    let mut parts = vec![Vec::new(); names.len()];
    let mut is_kept = true;
    for source in &planned.sources {
        let [rows, columns] = source.matrix_shape();
        let elements = source.elements(checkpoint)?;
        is_kept = source.encoding.is_quantized() && source.encoding.scheme(columns) == Some(planned.scheme);
        let block_rows = (BLOCK_ELEMENTS / columns).max(1);
        let starts: Vec<_> = (0..rows).step_by(block_rows).collect();
        let mut lost = 0;
        for batch in starts.chunks(2 * rayon::current_num_threads()) {
            let blocks: Vec<_> = batch
                .par_iter()
                .map(|&start| {
                    let wanted = start..(start + block_rows).min(rows);
                    if is_kept {
                        return Ok((elements.codes(wanted), 0));
                    }
                    let values = elements.values(wanted);
                    let block = encode(source, planned.scheme, start, &values)?;
                    let lost = vanished(planned.scheme, &values, &block);
                    Ok((block, lost))
                })
                .collect::<Result<_, PackError>>()?;
            for (block, count) in blocks {
                lost += count;
                if let Some(entry) = entry.as_deref_mut() {
                    entry.write_all(&block.data)?;
                }
                parts.iter_mut().zip(block.parts).for_each(|(part, bytes)| part.extend(bytes));
            }
        }
        drop(elements);
        if lost > 0 {
            let (name, scheme) = (&source.parameter.name, planned.scheme);
            let unit = if scheme.block() > 1 { "blocks of 32 values" } else { "rows" };
            notes.insert(format!(
                "tensor `{name}`: {lost} {unit} hold only values too small for {scheme} and become zeros; keep it in \
                 bf16 or f32 (--tensor-type {name}=bf16)"
            ));
        }
        if let Some(tensor) = source.tensor {
            checkpoint.release(tensor);
        }
    }
    if !is_kept && planned.scheme.has_nested_scales() {
        let absmax: Vec<f32> = parts[0].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let nested = NestedAbsmax::quantize(&absmax);
        let tables = nested_tables(&nested);
        parts = [vec![nested.codes], tables.into()].concat();
    }
    Ok(names.into_iter().map(|part| part.name).zip(parts).collect())
}

/// Encodes some rows of a parameter, the first of which is row `start`. A scheme with double quantization gets its absmax
/// as it is: that needs all rows.
fn encode(
    source: &Matched<'_>,
    scheme: Scheme,
    start: usize,
    values: &ndarray::Array2<f32>,
) -> Result<Block, PackError> {
    let name = &source.parameter.name;
    let columns = source.matrix_shape()[1];
    let place = |index: usize| match *source.parameter.shape {
        [_, columns] => format!("row {}, column {}", start + index / columns, index % columns),
        _ => format!("element {index}"),
    };
    if let Some((index, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        let problem = format!("{} holds {value}; check the source checkpoint", place(index));
        return Err(PackError::Tensor { name: name.to_owned(), problem });
    }
    let narrow = |bytes_of: &dyn Fn(f32) -> ([u8; 2], bool)| {
        let mut data = Vec::with_capacity(2 * values.len());
        for (index, &value) in values.iter().enumerate() {
            let (bytes, is_finite) = bytes_of(value);
            if !is_finite {
                let problem = format!(
                    "{} holds {value}, which {} rounds to infinity; keep this tensor in f32",
                    place(index),
                    scheme
                );
                return Err(PackError::Tensor { name: name.to_owned(), problem });
            }
            data.extend(bytes);
        }
        Ok(Block { data, parts: Vec::new() })
    };
    // Positions in messages are those of the whole parameter.
    let failed = |source: QuantError| {
        let source = match source {
            QuantError::NotFinite { row, column, value } => {
                let at = row * columns + column;
                QuantError::NotFinite { row: start + at / columns, column: at % columns, value }
            }
            QuantError::BeyondF16 { row, column, value } => {
                let at = row * columns + column;
                QuantError::BeyondF16 { row: start + at / columns, column: at % columns, value }
            }
            other => other,
        };
        PackError::Quant { name: name.to_owned(), source }
    };
    let flat = values.as_slice().expect("rows side by side");
    let halves = |scales: &[f16]| scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    match scheme {
        Scheme::F32 => Ok(Block { data: le_bytes(flat), parts: Vec::new() }),
        Scheme::F16 => narrow(&|v| (f16::from_f32(v).to_le_bytes(), f16::from_f32(v).is_finite())),
        Scheme::Bf16 => narrow(&|v| (bf16::from_f32(v).to_le_bytes(), bf16::from_f32(v).is_finite())),
        Scheme::Int8 => {
            let quantized = Int8Rowwise::from_checkpoint_rows(values.view()).map_err(failed)?;
            let data = quantized.codes.iter().map(|&code| code as u8).collect();
            Ok(Block { data, parts: vec![le_bytes(&quantized.absmax.to_vec())] })
        }
        Scheme::Int8G32 => {
            let quantized = quantize_int8_groups(flat).map_err(failed)?;
            let data = quantized.codes.iter().map(|&code| code as u8).collect();
            Ok(Block { data, parts: vec![halves(&quantized.scales)] })
        }
        Scheme::Int4G32 => {
            let quantized = quantize_int4_groups(flat).map_err(failed)?;
            Ok(Block { data: quantized.codes, parts: vec![halves(&quantized.scales)] })
        }
        Scheme::Nf4 | Scheme::Nf4Dq | Scheme::Fp4 | Scheme::Fp4Dq => {
            let is_nf4 = matches!(scheme, Scheme::Nf4 | Scheme::Nf4Dq);
            let kind = if is_nf4 { FourBit::Nf4 } else { FourBit::Fp4 };
            let quantized = quantize_four_bit(flat, kind).map_err(failed)?;
            Ok(Block { data: quantized.codes, parts: vec![le_bytes(&quantized.absmax)] })
        }
    }
}

/// How many rows, or blocks with a scale of their own, hold values other than zero and become zeros: F16, which such schemes
/// use for values or scales, ends at 3e-8.
fn vanished(scheme: Scheme, values: &ndarray::Array2<f32>, block: &Block) -> usize {
    let has_value = |value: &f32| *value != 0.0;
    match scheme {
        Scheme::F16 | Scheme::Int8 => {
            let is_zero = |value: &f32| f16::from_f32(*value).to_f32() == 0.0;
            let rows = values.rows().into_iter();
            rows.filter(|row| row.iter().all(is_zero) && row.iter().any(has_value)).count()
        }
        Scheme::Int8G32 | Scheme::Int4G32 => {
            let blocks = values.as_slice().expect("rows side by side").chunks(scheme.block());
            let scales = block.parts[0].as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes));
            blocks
                .zip(scales)
                .filter(|(values, scale)| scale.to_f32() == 0.0 && values.iter().any(has_value))
                .count()
        }
        Scheme::F32 | Scheme::Bf16 | Scheme::Nf4 | Scheme::Nf4Dq | Scheme::Fp4 | Scheme::Fp4Dq => 0,
    }
}

fn report(
    description: &ModelDescription,
    plan: &[Planned<'_>],
    layout: &WeightsLayout,
    source_weight_bytes: u64,
    file_bytes: u64,
) -> PackReport {
    let mut schemes = BTreeMap::new();
    for planned in plan.iter().filter(|planned| !matches!(planned.parameter.origin, Origin::Constant(_))) {
        let count: usize = planned.parameter.shape.iter().product();
        *schemes.entry(planned.scheme.name()).or_default() += count as u64;
    }
    let parameters: u64 = schemes.values().sum();
    let stored: usize = layout.tensors().iter().map(|t| t.bytes()).sum();
    PackReport {
        architecture: description.architecture.into(),
        parameters,
        bits_per_weight: 8.0 * stored as f64 / parameters as f64,
        schemes,
        source_weight_bytes,
        file_bytes,
        notes: Vec::new(),
    }
}
