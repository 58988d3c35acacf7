//! The choice of precisions for activations and the KV cache. Made only here: families describe a model, and the
//! graph stores the choice.

use std::collections::BTreeMap;

use aibit_cpu::{LayerError, Measurement, Model, SlotError};
use aibit_graph::ops::{Linear, Logits};
use aibit_graph::{ActivationPrecision, Graph, KvPrecision, KvSlot, Op, Place};
use aibit_runtime::RuntimeError;
use aibit_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

/// Activation magnitude from which LLM.int8() computes in floating point (Dettmers et al. 2022, §3.2).
pub(crate) const LLM_INT8_THRESHOLD: f32 = 6.0;

/// The largest acceptable relative error of a product, for layers and for attention. Justified by measurements in
/// `docs/quantization.md`, sections 3.1 and 4.
const LIMIT: f32 = 0.0125;

/// A quarter of F16's range, since keys and values of other texts can be larger than the measured ones.
const F16_ABSMAX: f32 = 16_376.0;

/// Maximum number of tokens of [`TEXT`] to measure.
const TOKENS: usize = 192;

/// Maximum product of weight bytes and tokens in a measurement: a few seconds on two cores.
const PRODUCTS: u64 = 1 << 40;

/// Minimum number of tokens for any model: the first token's keys and values differ from all others.
const LEAST_TOKENS: usize = 32;

/// Text of several kinds: prose, dialogue, code, numbers and another language.
const TEXT: &str = "\
The ferry left the harbour at ten past six, half empty and a little late. Nobody on deck spoke; the town behind them \
grew smaller until only the tower of the old customs house was left above the fog.\n\n\
\"You have been here before?\" asked the man with the newspaper.\n\
\"Twice,\" she said. \"The first time I was eight years old, and it rained for a week.\"\n\n\
def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / max(len(values), 1)\n\n\
| year | income | change |\n| 1997 | 1,204.50 | +3.2 % |\n| 1998 | 1,187.25 | -1.4 % |\n\n\
1. Heat the oven to 180 °C. 2. Mix 250 g of flour with 3 eggs. 3. Wait; then bake for 40 minutes.\n\n\
Im Jahr 1823 wurde die Brücke über den Fluss gebaut. La plupart des maisons datent de cette époque.\n\
<p class=\"note\">See https://example.org/a?b=1&c=2 for details.</p>\n";

/// The requested options, and how the weights are stored.
#[derive(Debug)]
pub(crate) struct PrecisionRecipe {
    /// Requested precisions of activations, by place.
    pub(crate) activations: BTreeMap<Place, ActivationPrecision>,
    /// Requested precision of the KV cache.
    pub(crate) kv_cache: Option<KvPrecision>,
    /// The preset's KV cache precision, used if it is accurate enough.
    pub(crate) preset_kv_cache: KvPrecision,
    /// LLM.int8()'s outlier threshold, `None` for no outliers.
    pub(crate) threshold: Option<f32>,
}

/// The content of `measured.json`: the measurements on which the choice is based.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The largest acceptable error.
    pub limit: f32,
    /// The errors.
    #[serde(flatten)]
    pub errors: Measurement,
}

impl Measured {
    /// Parses `measured.json`.
    ///
    /// # Errors
    /// The parser's, for malformed JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The JSON, with equal bytes for equal measurements.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("finite numbers and strings")
    }
}

impl PrecisionRecipe {
    /// Prepares `graph` for [`measure`](Self::measure) and [`decide`](Self::decide): layers with an INT8 weight, by
    /// `is_int8`, take two bytes per activation and get LLM.int8()'s threshold.
    pub(crate) fn prepare(&self, graph: &mut Graph, is_int8: impl Fn(&str) -> bool) {
        for op in &mut graph.nodes {
            if let Op::Linear(Linear { weight, activations, outlier_threshold, .. })
            | Op::Logits(Logits { weight, activations, outlier_threshold, .. }) = op
                && is_int8(weight)
            {
                *activations = ActivationPrecision::Int8x2;
                *outlier_threshold = self.threshold;
            }
        }
    }

    /// Runs as much of [`TEXT`] as the model's size allows, if a choice depends on it. `progress` receives the
    /// fraction of the work done.
    pub(crate) fn measure(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Option<Measured>, RuntimeError> {
        let graph = model.graph();
        let is_int8 =
            |op: &Op| matches!(op, Op::Linear(Linear { activations: ActivationPrecision::Int8x2, .. }));
        let is_cached_in_less = self.kv_cache.is_none() && self.preset_kv_cache != KvPrecision::F32;
        let most = usize::try_from(PRODUCTS / model.weights_bytes().max(1)).unwrap_or(TOKENS);
        let mut ids = tokenizer.encode_prompt(TEXT)?;
        ids.retain(|id| (*id as usize) < graph.vocabulary);
        ids.truncate(most.clamp(LEAST_TOKENS, TOKENS).min(graph.context));
        if ids.is_empty() || !is_cached_in_less && !graph.nodes.iter().any(is_int8) {
            progress(1.0);
            return Ok(None);
        }
        let mut errors = Measurement::of(model, &ids, progress)?;
        if self.preset_kv_cache == KvPrecision::F32 {
            errors.slots.clear(); // no choice depends on them
        }
        Ok(Some(Measured { limit: LIMIT, errors }))
    }

    /// Sets the precision of every layer whose weight is INT8 and of every slot.
    pub(crate) fn decide(&self, graph: &mut Graph, measured: Option<&Measured>) {
        let errors = measured.map(|measured| &measured.errors);
        let context = graph.context;
        for (index, slot) in graph.kv_slots.iter_mut().enumerate() {
            let error = errors.and_then(|errors| errors.slots.get(index));
            slot.precision = self.kv_cache.unwrap_or_else(|| self.of_slot(slot, context, error));
        }
        let mut layers = errors.map_or(&[][..], |errors| &errors.layers).iter();
        let places = graph.places();
        for (op, place) in graph.nodes.iter_mut().zip(places) {
            let (activations, error) = match op {
                Op::Linear(Linear { activations: activations @ ActivationPrecision::Int8x2, .. }) => {
                    (activations, layers.next())
                }
                // Logits are computed for one token of a prompt, and decode is bound by memory: the second byte is
                // free.
                Op::Logits(Logits { activations: activations @ ActivationPrecision::Int8x2, .. }) => {
                    (activations, None)
                }
                _ => continue,
            };
            let asked = self.activations.get(&place.unwrap_or(Place::Other));
            *activations = asked.copied().unwrap_or_else(|| of_layer(error));
        }
    }

    fn of_slot(&self, slot: &KvSlot, context: usize, error: Option<&SlotError>) -> KvPrecision {
        let fits =
            slot.head_dim <= KvPrecision::MAX_INT8_HEAD_DIM && context <= KvPrecision::MAX_INT8_CONTEXT;
        let holds_f16 = error.is_none_or(|error| error.absmax <= F16_ABSMAX && error.f16 <= LIMIT);
        match self.preset_kv_cache {
            KvPrecision::Int8 if fits && error.is_some_and(|error| error.int8 <= LIMIT) => KvPrecision::Int8,
            KvPrecision::Int8 | KvPrecision::F16 if holds_f16 => KvPrecision::F16,
            _ => KvPrecision::F32,
        }
    }
}

/// The cheapest precision that is accurate enough, or the highest without a measurement. A zero point has no
/// measurable cost, so it is used where it makes a difference: it halves the error of one-sided values.
fn of_layer(error: Option<&LayerError>) -> ActivationPrecision {
    match error {
        Some(error) if error.int8 <= LIMIT && error.int8_asym >= 0.75 * error.int8 => {
            ActivationPrecision::Int8
        }
        Some(error) if error.int8_asym <= LIMIT => ActivationPrecision::Int8Asym,
        _ => ActivationPrecision::Int8x2,
    }
}
