//! Packing: from a source to an archive.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use aibit_chat::{ChatError, ChatFiles, ChatTemplate};
use aibit_cpu::{Model, Threads};
use aibit_families::Family;
use aibit_format::{
    ArchiveWriter, FORMAT_VERSION, FormatError, Manifest, OutputFile, OutputTarget, Override, Provenance,
    Replace, Scheme, Source, WeightsLayout, entry_names,
};
use aibit_graph::{
    ActivationPrecision, CheckpointName, ConfigError, ContextLimit, KvPrecision, ModelDescription, Origin,
    Place,
};
use aibit_runtime::{Golden, PackageDefaults, SettingsFiles};
use aibit_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::bnb::QuantizationConfig;
use crate::checkpoint::Checkpoint;
use crate::plan::{Planned, join, match_tensors, weights_layout};
use crate::recipe::{CompiledRecipe, Preset};
use crate::source::{FURTHER_TEMPLATES, digest_file};
use crate::write::write_weights;
use crate::{ModelSource, PackError, Progress, foreign, tokenizer_files};

/// Options for packing.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// Schemes by role; by default [`Preset::Keep`] for a source that is already quantized and [`Preset::Int8`]
    /// otherwise.
    pub preset: Option<Preset>,
    /// Exceptions by name; the last match applies.
    pub overrides: Vec<Override>,
    /// Whether quantized values may be requantized.
    pub requantize: bool,
    /// Input precision of linear layers by place, instead of the measured choice.
    pub activations: BTreeMap<Place, ActivationPrecision>,
    /// KV cache precision, instead of the measured choice.
    pub kv_cache: Option<KvPrecision>,
    /// Whether a file that is not an archive may be replaced.
    pub force: bool,
    /// The threads that measure the package and record its golden outputs. Quantizing and writing use the current rayon
    /// pool.
    pub threads: Threads,
}

impl PackOptions {
    /// Checks the archive's path before any work is done.
    ///
    /// # Errors
    /// As [`OutputTarget::file`].
    pub fn target(&self, path: &Path) -> Result<OutputTarget, FormatError> {
        OutputTarget::file(path, if self.force { Replace::Any } else { Replace::Archive })
    }
}

/// Report on a package.
#[derive(Debug, Clone, Serialize)]
pub struct PackReport {
    /// Architecture family.
    pub architecture: String,
    /// Number of weights, with a tied head counted once.
    pub parameters: u64,
    /// Bits of tensor data per parameter, scales included.
    pub bits_per_weight: f64,
    /// Parameters per scheme.
    pub schemes: BTreeMap<&'static str, u64>,
    /// Length of the source's weight files.
    pub source_weight_bytes: u64,
    /// Length of the archive.
    pub file_bytes: u64,
    /// Remarks on the source that do not affect the validity of the package, a sentence each.
    pub notes: Vec<String>,
}

/// Files that are carried over unchanged if the source has them.
const CARRIED_FILES: [&str; 5] = [
    entry_names::GENERATION_CONFIG,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Packs `source` into one archive at `target`.
///
/// Weights are streamed a few blocks of rows at a time. `target` appears only when the archive is complete and has
/// produced its own golden outputs. The same source and options give the same bytes, regardless of the folder and the
/// number of threads. An archive at `target` is replaced, any other file only with [`PackOptions::force`], and a
/// source file never.
///
/// # Errors
/// Any [`PackError`]: a setting, tensor or file that is refused, named with its numbers. `target` is then unchanged.
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
    let (family, mut description, threshold) = describe(&config)?;
    let tokenizer_files = tokenizer_files::load(source)?;
    let compiled_tokenizer = aibit_tokenizer::compile(&tokenizer_files.json)?;
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
        (_, description, _) = describe(&config)?;
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
    let typed: Vec<_> = tensors.iter().map(|t| (t.parameter, &t.encoding)).collect();
    let schemes = recipe.schemes(&typed)?;
    let plan = join(&mut description, tensors, schemes);
    let is_int8: HashSet<&str> =
        plan.iter().filter(|p| p.scheme == Scheme::Int8).map(|p| p.parameter.name.as_str()).collect();
    let precision = recipe.precision(options, threshold);
    precision.prepare(&mut description.graph, |weight| is_int8.contains(weight));
    let layout = weights_layout(&plan)?;

    let mut read_files = vec![entry_names::CONFIG];
    read_files.extend(tokenizer_files.read);
    read_files.extend(carried.iter().map(|(name, _)| *name));
    let mut large_files = source.weight_files();
    if !source.whole_files().is_empty() {
        read_files.clear(); // derived from these files
        large_files = source.whole_files();
    }
    let mut files = read_files.into_iter().map(|name| source.digest(name)).collect::<Result<Vec<_>, _>>()?;
    let source_weight_bytes =
        large_files.iter().map(|path| std::fs::metadata(path).map_or(0, |m| m.len())).sum();
    // The cost of the measurement, and also of golden outputs, in bytes written.
    let share = layout.file_bytes() / 4;
    progress.start("packing", source_weight_bytes + layout.file_bytes() + 2 * share);
    let mut archive = ArchiveWriter::new(output)?;
    let digest = |path: &PathBuf| digest_file(path, &mut |bytes| progress.advance(bytes));
    // Each is one thread's work; the second is divided further.
    let (digests, written) = rayon::join(
        || large_files.iter().map(digest).collect::<Result<Vec<_>, _>>(),
        || write_weights(&mut archive, &checkpoint, &plan, &layout, progress),
    );
    files.extend(digests?);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    notes.extend(written?);
    let manifest = Manifest {
        format: "aibit".into(),
        version: FORMAT_VERSION,
        required_features: Vec::new(),
        architecture: description.architecture.into(),
        entries: Vec::new(),
        tensors: plan.iter().map(|p| (p.parameter.name.clone(), p.record())).collect(),
        tied: description.tied.iter().cloned().collect(),
        recipe: recipe.record(options),
        provenance: Provenance {
            tool: concat!("aibit ", env!("CARGO_PKG_VERSION")).into(),
            source: Source {
                repository: source.repository.as_ref().map(|(repository, _)| repository.clone()),
                revision: source.repository.as_ref().map(|(_, revision)| revision.clone()),
                files,
            },
        },
    };
    let model = Model::new(description.graph.clone(), archive.weights()?, &manifest)?;
    let model = model.with_threads(options.threads.clone());
    let measured = precision.measure(&model, &tokenizer, &mut part_of(progress, share))?;
    drop(model);
    precision.decide(&mut description.graph, measured.as_ref());
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
    let model = Model::new(description.graph.clone(), archive.weights()?, &manifest)?;
    let model = model.with_threads(options.threads.clone());
    let golden = Golden::record(&model, &tokenizer, &tokenizer_files.json, &mut part_of(progress, share))?;
    drop(model);
    if let Some(measured) = &measured {
        archive.add(entry_names::MEASURED, "application/json", &measured.to_json())?;
    }
    archive.add(entry_names::GOLDEN, "application/json", &golden.to_json())?;
    let file_bytes = archive.finish(manifest)?;
    progress.finish();
    Ok(PackReport { notes, ..report(&description, &plan, &layout, source_weight_bytes, file_bytes) })
}

/// A callback that receives the fraction of a stage's work done and advances `progress` by that fraction of `bytes`.
fn part_of(progress: &dyn Progress, bytes: u64) -> impl FnMut(f64) + '_ {
    let mut done = 0;
    move |share| {
        let now = (share * bytes as f64) as u64;
        progress.advance(now - done);
        done = now;
    }
}

fn carried_files(source: &ModelSource) -> Result<Vec<(&'static str, Vec<u8>)>, PackError> {
    let mut carried = Vec::new();
    for name in CARRIED_FILES {
        carried.extend(source.read(name)?.map(|bytes| (name, bytes)));
    }
    Ok(carried)
}

/// Parses the carried settings as `run` does, and returns notes on those without effect.
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

/// A note on tokens without a row in the embedding, if any: texts without them can be used.
///
/// # Errors
/// [`PackError::SourceFile`] if every prompt starts with one.
fn tokens_beyond(
    source: &ModelSource,
    tokenizer: &Tokenizer,
    vocabulary: usize,
) -> Result<Option<String>, PackError> {
    const SHOWN: usize = 5;
    tokenizer.check_ids(&tokenizer.encode_prompt("")?, vocabulary).map_err(|e| PackError::SourceFile {
        path: source.folder.join(entry_names::TOKENIZER),
        problem: format!("every prompt begins with a token without a row in the embedding: {e}"),
    })?;
    let ids: Vec<u32> = tokenizer.ids_beyond(vocabulary).collect();
    let token = |&id: &u32| format!("{:?} ({id})", String::from_utf8_lossy(&tokenizer.bytes(id)));
    let shown: Vec<_> = ids.iter().take(SHOWN).map(token).collect();
    let more = if ids.len() > SHOWN { format!(" and {} more", ids.len() - SHOWN) } else { String::new() };
    Ok((!ids.is_empty()).then(|| {
        format!(
            "the embedding has {vocabulary} rows and none for {}{more}: texts with such a token are refused",
            shown.join(", ")
        )
    }))
}

/// Parses the chat template as `run` does, and returns notes on what will not work.
fn check_chat_template(
    source: &ModelSource,
    carried: &[(&'static str, Vec<u8>)],
) -> Result<Vec<String>, PackError> {
    let file =
        |name: &str| carried.iter().find(|(other, _)| *other == name).map(|(_, bytes)| bytes.as_slice());
    let refused = |e: ChatError| PackError::CarriedSetting(e.into());
    let template = ChatTemplate::from_files(&ChatFiles::read(file)).map_err(refused)?;
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
    template.check().map_err(refused)?;
    let failure =
        template.failure().map(|e| format!("the chat template fails for a conversation of one message: {e}"));
    let left_out = (!others.is_empty()).then(|| {
        format!("{FURTHER_TEMPLATES}: {} left out; only the default chat template is used", others.join(", "))
    });
    Ok(failure.into_iter().chain(left_out).collect())
}

/// Builds the graph of the family that `config.json` names. The last value is LLM.int8()'s outlier threshold, if the
/// checkpoint was quantized with one.
fn describe(config: &[u8]) -> Result<(Family, ModelDescription, Option<f32>), PackError> {
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(config).map_err(ConfigError::from)?;
    let set = |field: &str| fields.get(field).filter(|value| !value.is_null());
    let shown = |value: &serde_json::Value| value.to_string().chars().take(60).collect::<String>();
    if let Some(found) = set("auto_map") {
        let advice =
            "the model requires custom code, which is never run; only built-in families can be packed";
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
    Ok((family, family.describe(config)?, threshold))
}

/// Checks that every parameter is in the file to which the index assigns it.
fn check_index(source: &ModelSource, checkpoint: &Checkpoint, family: Family) -> Result<(), PackError> {
    let Some(index) = source.index() else { return Ok(()) };
    let is_missing = |name: &str| {
        let is_buffer = family.checkpoint_name(checkpoint.unwrapped(name)) == CheckpointName::Buffer;
        !is_buffer && !checkpoint.holds(name)
    };
    match index.weight_map.iter().find(|(name, _)| is_missing(name)) {
        None => Ok(()),
        Some((name, shard)) => {
            let problem = format!("it assigns the tensor `{name:.80}` to {shard:.80}, which lacks it");
            Err(PackError::SourceFile { path: index.path.clone(), problem })
        }
    }
}

/// The names of a head and the embedding to which `config.json` ties it, if the checkpoint has both and they differ.
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

/// `config.json` of the same model with an untied head, which is how transformers loads one whose tensors differ.
fn untied(config: &[u8]) -> Result<Vec<u8>, PackError> {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(config).map_err(ConfigError::from)?;
    fields.insert("tie_word_embeddings".into(), false.into());
    Ok(serde_json::to_vec_pretty(&fields).expect("a value has only string keys"))
}

/// Why the context ends after `positions` although the model could continue.
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

/// Sets parameters that a GGUF file may omit, and does, to zero.
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
