//! `inspect --recipe`: the input precision of each layer, the precision of its KV cache, and the reason for each.

use std::collections::HashMap;
use std::fmt;

use aibit_cpu::LayerError;
use aibit_format::{Archive, FormatError, Recipe, Scheme, entry_names};
use aibit_graph::ops::{Linear, Logits};
use aibit_graph::{ActivationPrecision, Graph, KvPrecision, Op, Place};
use aibit_pack::Measured;
use serde::Serialize;

use crate::visible::on_one_line;

#[derive(Serialize)]
pub(crate) struct Report {
    file: String,
    /// The options given to `pack`.
    recipe: Recipe,
    /// Tokens used for the measurement; absent if the archive has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured_tokens: Option<usize>,
    /// The largest acceptable error.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<f32>,
    layers: Vec<Layer>,
    kv_slots: Vec<Slot>,
}

/// A linear layer. Only layers with INT8 weights have an input precision.
#[derive(Serialize)]
struct Layer {
    weight: String,
    place: Place,
    scheme: Scheme,
    #[serde(skip_serializing_if = "Option::is_none")]
    activations: Option<ActivationPrecision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outlier_threshold: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_int8: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_int8_asym: Option<f32>,
    reason: Reason,
}

#[derive(Serialize)]
struct Slot {
    precision: KvPrecision,
    bytes_per_token: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    absmax: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_int8: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_f16: Option<f32>,
    reason: Reason,
}

/// Why a layer or slot has its precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Reason {
    /// Set by an option of `pack`.
    Asked,
    /// The cheapest whose measured error is within the limit.
    Measured,
    /// The default of the preset, scheme or place.
    Default,
}

impl Reason {
    fn of(is_asked: bool, is_measured: bool) -> Self {
        match (is_asked, is_measured) {
            (true, _) => Self::Asked,
            (false, true) => Self::Measured,
            (false, false) => Self::Default,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Asked => "requested",
            Self::Measured => "measured",
            Self::Default => "default",
        }
    }
}

impl Report {
    pub(crate) fn collect(archive: &Archive) -> anyhow::Result<Self> {
        let manifest = archive.manifest();
        let graph = Graph::from_json(archive.entry(entry_names::GRAPH)?.data)?;
        let measured = match archive.entry(entry_names::MEASURED) {
            Ok(entry) => Some(Measured::from_json(entry.data)?),
            Err(FormatError::MissingEntry { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let errors = measured.as_ref().map(|measured| &measured.errors);
        let by_weight: HashMap<&str, &LayerError> =
            errors.into_iter().flat_map(|e| &e.layers).map(|layer| (layer.weight.as_str(), layer)).collect();
        let recipe = manifest.recipe.clone();
        let mut layers = Vec::new();
        for (op, place) in graph.nodes.iter().zip(graph.places()) {
            let (Op::Linear(Linear { weight, activations, outlier_threshold, .. })
            | Op::Logits(Logits { weight, activations, outlier_threshold, .. })) = op
            else {
                continue;
            };
            let scheme = manifest.tensors.get(weight).map_or(Scheme::F32, |record| record.scheme);
            let place = place.unwrap_or(Place::Other);
            let is_int8 = scheme == Scheme::Int8;
            let error = by_weight.get(weight.as_str()).filter(|_| matches!(op, Op::Linear(_)));
            let is_asked = is_int8 && recipe.activations.contains_key(place.name());
            layers.push(Layer {
                weight: weight.clone(),
                place,
                scheme,
                activations: is_int8.then_some(*activations),
                outlier_threshold: outlier_threshold.filter(|_| is_int8),
                error_int8: error.map(|error| error.int8),
                error_int8_asym: error.map(|error| error.int8_asym),
                reason: Reason::of(is_asked, error.is_some()),
            });
        }
        let slots = graph.kv_slots.iter().enumerate().map(|(index, slot)| {
            let error = errors.and_then(|errors| errors.slots.get(index));
            let elements = slot.n_kv_head * slot.head_dim;
            Slot {
                precision: slot.precision,
                bytes_per_token: match slot.precision {
                    KvPrecision::F32 => 8 * elements,
                    KvPrecision::F16 => 4 * elements,
                    KvPrecision::Int8 => 9 * elements / 4 + 8 * slot.n_kv_head,
                },
                absmax: error.map(|error| error.absmax),
                error_int8: error.map(|error| error.int8),
                error_f16: error.map(|error| error.f16),
                reason: Reason::of(recipe.kv_cache.is_some(), error.is_some()),
            }
        });
        let kv_slots = slots.collect();
        Ok(Self {
            file: archive.path().display().to_string(),
            recipe,
            measured_tokens: errors.map(|errors| errors.tokens),
            limit: measured.as_ref().map(|measured| measured.limit),
            layers,
            kv_slots,
        })
    }
}

/// The recipe in one line, with the requested exceptions.
pub(crate) fn recipe_line(recipe: &Recipe) -> String {
    let overrides = recipe.overrides.iter().map(|o| format!(", {} = {}", o.pattern, o.scheme));
    let activations = recipe.activations.iter().map(|(place, p)| format!(", activations {place} = {p}"));
    let kv_cache = recipe.kv_cache.iter().map(|p| format!(", kv-cache {p}"));
    std::iter::once(recipe.preset.clone()).chain(overrides).chain(activations).chain(kv_cache).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<16} {}", "file", on_one_line(&self.file))?;
        writeln!(f, "{:<16} {}", "recipe", on_one_line(&recipe_line(&self.recipe)))?;
        let measured = match (self.measured_tokens, self.limit) {
            (Some(tokens), Some(limit)) => {
                format!("{tokens} tokens; relative errors of up to {limit} are accepted")
            }
            _ => "nothing".into(),
        };
        writeln!(f, "{:<16} {measured}", "measured")?;
        let shown = |error: Option<f32>| error.map_or_else(String::new, |error| format!("{error:.4}"));
        write!(
            f,
            "\n{:<44} {:<9} {:<9} {:<11} {:>9} {:>9}  why",
            "layer", "place", "scheme", "activations", "int8", "int8-asym"
        )?;
        for layer in &self.layers {
            write!(
                f,
                "\n{:<44} {:<9} {:<9} {:<11} {:>9} {:>9}  {}",
                on_one_line(&layer.weight),
                layer.place,
                layer.scheme.name(),
                layer.activations.map_or("", ActivationPrecision::name),
                shown(layer.error_int8),
                shown(layer.error_int8_asym),
                layer.reason.name()
            )?;
        }
        write!(
            f,
            "\n\n{:<8} {:<9} {:>15} {:>9} {:>9} {:>9}  why",
            "kv slot", "precision", "bytes per token", "absmax", "int8", "f16"
        )?;
        for (index, slot) in self.kv_slots.iter().enumerate() {
            write!(
                f,
                "\n{index:<8} {:<9} {:>15} {:>9} {:>9} {:>9}  {}",
                slot.precision,
                slot.bytes_per_token,
                slot.absmax.map_or_else(String::new, |absmax| format!("{absmax:.1}")),
                shown(slot.error_int8),
                shown(slot.error_f16),
                slot.reason.name()
            )?;
        }
        Ok(())
    }
}
