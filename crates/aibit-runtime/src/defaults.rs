//! What a package says about how it is run: `generation_config.json`, without one the same fields of `config.json`, and
//! the ends of text that these and the tokenizer's files name.

use std::collections::{BTreeMap, BTreeSet};

use aibit_format::{Archive, entry_names};
use aibit_tokenizer::Tokenizer;
use serde_json::Value;

use crate::RuntimeError;
use crate::logits_processors::LogitsProcessors;
use crate::settings_file::{SettingsFile, sequence};
use crate::text_stream::TextStream;

/// A package's own generation settings; `None` where it has no opinion.
///
/// They mean what transformers makes of them. Sampling settings without `do_sample` count where the user asks to sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PackageDefaults {
    /// Ids that end a text: those of `generation_config.json` or, without any there, `config.json`, and the `eos_token`
    /// of `tokenizer_config.json` and `special_tokens_map.json`.
    pub stop_ids: Vec<u32>,
    /// Strings that end a text.
    pub stop_strings: Vec<String>,
    /// Most tokens to generate.
    pub max_tokens: Option<usize>,
    /// Sampling temperature; only where the package asks to be sampled.
    pub temperature: Option<f32>,
    /// Most likely tokens that are considered; 0 is all.
    pub top_k: Option<usize>,
    /// Probability mass that is considered.
    pub top_p: Option<f32>,
    /// Share of the largest probability below which tokens are dropped.
    pub min_p: Option<f32>,
    /// Mass of the tokens of typical information that are considered.
    pub typical_p: Option<f32>,
    /// Probability below which tokens are dropped.
    pub epsilon_cutoff: Option<f32>,
    /// The same, lower where the entropy is high.
    pub eta_cutoff: Option<f32>,
    /// Penalty on tokens that have occurred.
    pub repeat_penalty: Option<f32>,
    /// Tokens that this penalty looks back on; `None`: all. In packages of GGUF files, as transformers knows no such field.
    pub repeat_last_n: Option<usize>,
    /// Rules on which tokens may come.
    pub processors: LogitsProcessors,
    /// What of the files has no effect though a reader may expect one, a sentence each.
    pub notes: Vec<String>,
}

/// The files that settings are read from, as far as there are such files.
#[derive(Debug, Clone, Copy, Default)]
pub struct SettingsFiles<'a> {
    /// `generation_config.json`.
    pub generation_config: Option<&'a [u8]>,
    /// `config.json`.
    pub config: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
}

/// Penalties and biases beyond these would leave the range of f32 with logits of a sound model.
const LARGEST_FACTOR: f64 = 1e6;

/// Fields of `generation_config.json` that are read here.
const READ: [&str; 26] = [
    "begin_suppress_tokens",
    "bad_words_ids",
    "do_sample",
    "eos_token_id",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "max_length",
    "max_new_tokens",
    "max_time",
    "min_length",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram_size",
    "num_return_sequences",
    "repeat_last_n",
    "repetition_penalty",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Fields that change nothing about one sequence that is generated token by token: how caches, speculation and outputs
/// are organised, parameters of beam search, tokens that only batches or empty prompts need, records of tools.
const WITHOUT_EFFECT: [&str; 46] = [
    "_commit_hash",
    "_from_model_config",
    "_name_or_path",
    "architectures",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "dtype",
    "early_stopping",
    "generation_kwargs",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_matching_ngram_size",
    "model_type",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "remove_invalid_values",
    "renormalize_logits",
    "return_dict",
    "return_dict_in_generate",
    "return_legacy_cache",
    "speculation_type",
    "target_lookbehind",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "use_model_defaults",
    "use_mtp",
];

/// Fields that would change the text and are not supported: refused unless they have the value that switches them off.
const UNSUPPORTED: [(&str, Off, &str); 17] = [
    ("constraints", Off::Unset, "constrained beam search"),
    ("diversity_penalty", Off::At(0.0), "beam search in groups"),
    ("dola_layers", Off::Unset, "contrasting the logits of layers"),
    ("encoder_no_repeat_ngram_size", Off::At(0.0), "forbidding the n-grams of the prompt"),
    ("encoder_repetition_penalty", Off::At(1.0), "preferring the tokens of the prompt"),
    ("force_bos_token_to_be_generated", Off::At(0.0), "a forced first token of encoder-decoder models"),
    ("force_words_ids", Off::Unset, "constrained beam search"),
    ("forced_decoder_ids", Off::Unset, "forced tokens of encoder-decoder models"),
    ("guidance_scale", Off::At(1.0), "classifier-free guidance"),
    ("num_beam_groups", Off::At(1.0), "beam search in groups"),
    ("num_beams", Off::At(1.0), "beam search"),
    ("penalty_alpha", Off::At(0.0), "contrastive search"),
    ("prefix_allowed_tokens_fn", Off::Unset, "a function that chooses tokens"),
    ("token_healing", Off::At(0.0), "changing the end of the prompt"),
    ("top_h", Off::Unset, "top-h sampling"),
    ("watermarking_config", Off::Unset, "watermarks"),
    ("custom_generate", Off::Unset, "code of the model's own"),
];

/// The value that switches a field off.
#[derive(Clone, Copy)]
enum Off {
    /// None but leaving it out, `false` and an empty list.
    Unset,
    /// A number, beside the above; `false` is 0.
    At(f64),
}

impl Off {
    fn is(self, value: &Value) -> bool {
        match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Number(number) => matches!(self, Self::At(off) if number.as_f64() == Some(off)),
            _ => false,
        }
    }
}

impl<'a> SettingsFiles<'a> {
    /// The files of an archive.
    pub fn of(archive: &'a Archive) -> Self {
        let entry = |name: &str| archive.entry(name).ok().map(|entry| entry.data);
        Self {
            generation_config: entry(entry_names::GENERATION_CONFIG),
            config: entry(entry_names::CONFIG),
            tokenizer_config: entry("tokenizer_config.json"),
            special_tokens_map: entry("special_tokens_map.json"),
        }
    }
}

impl PackageDefaults {
    /// Reads an archive's settings, with its tokenizer and the number of tokens that its model has.
    ///
    /// # Errors
    /// As [`PackageDefaults::from_files`].
    pub fn load(archive: &Archive, tokenizer: &Tokenizer, vocabulary: usize) -> Result<Self, RuntimeError> {
        let _span = tracing::info_span!("package defaults").entered();
        Self::from_files(&SettingsFiles::of(archive), tokenizer, vocabulary)
    }

    /// Reads settings. `null` is absence everywhere, and so is -1 where a token id or `top_k` could stand.
    ///
    /// # Errors
    /// [`RuntimeError::Settings`] naming the file and the field, for malformed JSON, fields of a wrong type or out of
    /// range, and settings that would change the text but are not supported.
    pub fn from_files(
        files: &SettingsFiles<'_>,
        tokenizer: &Tokenizer,
        vocabulary: usize,
    ) -> Result<Self, RuntimeError> {
        let config = SettingsFile::parse(entry_names::CONFIG, files.config)?;
        let generation = SettingsFile::parse(entry_names::GENERATION_CONFIG, files.generation_config)?;
        let tokenizer_files = [
            SettingsFile::parse_field("tokenizer_config.json", files.tokenizer_config, "eos_token")?,
            SettingsFile::parse_field("special_tokens_map.json", files.special_tokens_map, "eos_token")?,
        ];
        // As in transformers: the second generation's file hides all that the first kept in config.json.
        let settings = if files.generation_config.is_some() { &generation } else { &config };

        let mut reader = Reader { settings, vocabulary, notes: Vec::new() };
        reader.refuse_unsupported()?;
        let stop_ids = reader.stop_ids(&config, &tokenizer_files, tokenizer)?;
        let mut defaults = reader.sampling()?;
        defaults.stop_strings = reader.stop_strings()?;
        defaults.max_tokens = settings.count("max_new_tokens")?.filter(|&max| max > 0);
        defaults.processors = reader.processors()?;
        defaults.stop_ids = stop_ids;
        reader.refuse_if_nothing_is_left(&defaults)?;
        if files.generation_config.is_some() {
            reader.note_unknown_fields();
        } // most fields of config.json are about the model
        reader.note_what_has_no_effect()?;
        defaults.notes = reader.notes;
        Ok(defaults)
    }
}

/// Reads the fields of the file that counts.
struct Reader<'a> {
    settings: &'a SettingsFile,
    /// Number of tokens that the model has.
    vocabulary: usize,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn refuse_unsupported(&self) -> Result<(), RuntimeError> {
        for (field, off, what) in UNSUPPORTED {
            let Some(value) = self.settings.get(field) else { continue };
            // Contrastive search is a way of not sampling.
            let is_off = off.is(value) || field == "penalty_alpha" && self.settings.flag("do_sample")?;
            if !is_off {
                let advice = format!("{what} is not supported; remove the field to generate without it");
                return Err(self.settings.refusal(field, &advice));
            }
        }
        Ok(())
    }

    fn sampling(&self) -> Result<PackageDefaults, RuntimeError> {
        let settings = self.settings;
        let from_0 = |x: f64| x >= 0.0 && x <= f64::from(f32::MAX);
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let is_sampled = settings.flag("do_sample")?;
        let temperature = settings.number("temperature", "from 0", from_0)?;
        // Where a field is missing, the class has a default for those who sample.
        let or = |value: Option<f32>, default: f32| value.or(is_sampled.then_some(default));
        let top_k = match settings.count("top_k")? {
            // Given as -1, it is not missing.
            None if settings.get("top_k").is_some() => Some(0),
            None => is_sampled.then_some(50),
            top_k => top_k,
        };
        let cutoff = |field| settings.number(field, "from 0 to 1", share).map(|x| x.filter(|&x| x < 1.0));
        let factor = |x: f64| (1.0 / LARGEST_FACTOR..=LARGEST_FACTOR).contains(&x);
        Ok(PackageDefaults {
            temperature: or(temperature, 1.0).filter(|_| is_sampled),
            top_k,
            top_p: or(settings.number("top_p", "from 0", from_0)?, 1.0).map(|p| p.min(1.0)),
            min_p: or(settings.number("min_p", "from 0 to 1", share)?, 0.0),
            typical_p: settings.number("typical_p", "above 0", |x| x > 0.0 && from_0(x))?.map(|p| p.min(1.0)),
            epsilon_cutoff: cutoff("epsilon_cutoff")?,
            eta_cutoff: cutoff("eta_cutoff")?,
            repeat_last_n: settings.count("repeat_last_n")?,
            repeat_penalty: settings.number("repetition_penalty", "from 1e-6 to 1e6", factor)?,
            ..PackageDefaults::default()
        })
    }

    fn stop_ids(
        &mut self,
        config: &SettingsFile,
        tokenizer_files: &[SettingsFile],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, RuntimeError> {
        let field = "eos_token_id";
        let (file, ids) = match self.settings.ids(field)? {
            Some(ids) => (self.settings, ids),
            None => (config, config.ids(field)?.unwrap_or_default()),
        };
        let mut stop_ids = self.known(file.name(), field, ids);
        for file in tokenizer_files {
            let Some(token) = file.special_token("eos_token")? else { continue };
            match tokenizer.token_id(token) {
                Some(id) => {
                    stop_ids.extend(self.known(file.name(), "eos_token", vec![u64::from(id)]));
                }
                None => self.notes.push(format!(
                    "{}: `eos_token` is {token:?}, which is no token of the tokenizer, so it ends no text",
                    file.name()
                )),
            }
        }
        let mut seen = BTreeSet::new();
        stop_ids.retain(|id| seen.insert(*id));
        Ok(stop_ids)
    }

    /// The ids that the model has; of others the notes tell.
    fn known(&mut self, file: &str, field: &str, ids: Vec<u64>) -> Vec<u32> {
        let vocabulary = self.vocabulary;
        let (known, unknown): (Vec<u64>, Vec<u64>) = ids.into_iter().partition(|&id| id < vocabulary as u64);
        if let Some(id) = unknown.first() {
            let others =
                if unknown.len() > 1 { format!(" and {} more", unknown.len() - 1) } else { String::new() };
            self.notes.push(format!(
                "{file}: `{field}` has {id}{others}, but the model has {vocabulary} tokens; it has no effect there"
            ));
        }
        known.into_iter().filter_map(|id| u32::try_from(id).ok()).collect()
    }

    fn known_ids(&mut self, field: &str) -> Result<Vec<u32>, RuntimeError> {
        let ids = self.settings.ids(field)?.unwrap_or_default();
        Ok(self.known(self.settings.name(), field, ids))
    }

    /// A sequence whose tokens the model has, all of them.
    fn known_sequence(&mut self, field: &str, ids: Vec<u64>) -> Option<Vec<u32>> {
        let length = ids.len();
        Some(self.known(self.settings.name(), field, ids)).filter(|known| known.len() == length)
    }

    fn processors(&mut self) -> Result<LogitsProcessors, RuntimeError> {
        let settings = self.settings;
        let count = |field| settings.count(field).map(Option::unwrap_or_default);
        let mut bad_words = Vec::new();
        for ids in settings.sequences("bad_words_ids")? {
            bad_words.extend(self.known_sequence("bad_words_ids", ids));
        }
        let forced_bos = self.known_ids("forced_bos_token_id")?;
        if forced_bos.len() > 1 {
            return Err(settings.refusal("forced_bos_token_id", "it must be one token id"));
        }
        Ok(LogitsProcessors {
            sequence_bias: self.sequence_bias()?,
            no_repeat_ngram_size: count("no_repeat_ngram_size")?,
            bad_words,
            min_length: count("min_length")?,
            min_new_tokens: count("min_new_tokens")?,
            forced_bos: forced_bos.first().copied(),
            forced_eos: self.known_ids("forced_eos_token_id")?,
            length_decay: self.length_decay()?,
            suppressed: self.known_ids("suppress_tokens")?,
            suppressed_first: self.known_ids("begin_suppress_tokens")?,
        })
    }

    /// `[[[1, 2], -0.5], …]`; of a sequence that is given twice the last bias counts.
    fn sequence_bias(&mut self) -> Result<Vec<(Vec<u32>, f32)>, RuntimeError> {
        let field = "sequence_bias";
        let Some(value) = self.settings.get(field) else { return Ok(Vec::new()) };
        let pair = |value: &Value| match value.as_array()?.as_slice() {
            [ids, bias] => {
                let bias = bias.as_f64().filter(|bias| bias.abs() <= LARGEST_FACTOR)?;
                Some((sequence(ids)?, bias as f32))
            }
            _ => None,
        };
        let pairs: Option<BTreeMap<Vec<u64>, f32>> =
            value.as_array().and_then(|pairs| pairs.iter().map(pair).collect());
        let Some(pairs) = pairs else {
            let must_be =
                "it must be a list of pairs of token ids and a bias from -1e6 to 1e6: [[[1, 2], -0.5]]";
            return Err(self.settings.refusal(field, must_be));
        };
        let mut known = Vec::new();
        for (ids, bias) in pairs {
            known.extend(self.known_sequence(field, ids).map(|ids| (ids, bias)));
        }
        Ok(known)
    }

    /// `[start, factor]`.
    fn length_decay(&self) -> Result<Option<(usize, f64)>, RuntimeError> {
        let field = "exponential_decay_length_penalty";
        let Some(value) = self.settings.get(field) else { return Ok(None) };
        let pair = match value.as_array().map(Vec::as_slice) {
            Some([start, factor]) => start.as_f64().zip(factor.as_f64()),
            _ => None,
        };
        match pair {
            Some((start, factor))
                if start >= 0.0 && start.fract() == 0.0 && factor > 0.0 && factor <= LARGEST_FACTOR =>
            {
                Ok(Some((start as usize, factor)))
            }
            _ => Err(self.settings.refusal(
                field,
                "it must be a number of tokens and a factor above 0 and up to 1e6: [20, 1.1]",
            )),
        }
    }

    /// A string or a list of strings that a [`TextStream`] can stop at.
    fn stop_strings(&self) -> Result<Vec<String>, RuntimeError> {
        let field = "stop_strings";
        let strings: Option<Vec<String>> = match self.settings.get(field) {
            None => Some(Vec::new()),
            Some(Value::String(one)) => Some(vec![one.clone()]),
            Some(Value::Array(several)) => {
                several.iter().map(|string| string.as_str().map(str::to_owned)).collect()
            }
            Some(_) => None,
        };
        let strings = strings
            .ok_or_else(|| self.settings.refusal(field, "it must be a string or a list of strings"))?;
        TextStream::new(strings.clone()).map_err(|problem| RuntimeError::Settings {
            file: self.settings.name(),
            problem: format!("`{field}`: {problem}"),
        })?;
        Ok(strings)
    }

    /// A text whose first token is forbidden, whichever it is, could never begin.
    fn refuse_if_nothing_is_left(&self, defaults: &PackageDefaults) -> Result<(), RuntimeError> {
        let LogitsProcessors { suppressed, suppressed_first, bad_words, min_new_tokens, min_length, .. } =
            &defaults.processors;
        let single = bad_words.iter().filter(|word| word.len() == 1).flatten();
        let single = single.filter(|id| !defaults.stop_ids.contains(id));
        let ends = defaults.stop_ids.iter().filter(|_| *min_new_tokens > 0 || *min_length > 1);
        let forbidden: BTreeSet<u32> =
            suppressed.iter().chain(suppressed_first).chain(single).chain(ends).copied().collect();
        if forbidden.len() < self.vocabulary {
            return Ok(());
        }
        let problem = format!(
            "`suppress_tokens`, `begin_suppress_tokens` and `bad_words_ids` leave none of the model's {} tokens",
            self.vocabulary
        );
        Err(RuntimeError::Settings { file: self.settings.name(), problem })
    }

    fn note_unknown_fields(&mut self) {
        for field in self.settings.names() {
            let is_known = READ.contains(&field)
                || WITHOUT_EFFECT.contains(&field)
                || UNSUPPORTED.iter().any(|(name, ..)| *name == field);
            if !is_known {
                let field = field.escape_debug();
                self.notes
                    .push(format!("{}: `{field}` is not known and has no effect", self.settings.name()));
            }
        }
    }

    fn note_what_has_no_effect(&mut self) -> Result<(), RuntimeError> {
        let file = self.settings.name();
        let mut note = |text: String| self.notes.push(format!("{file}: {text}"));
        if let Some(length) = self.settings.count("max_length")? {
            note(format!("`max_length` {length} has no effect; -n says how many tokens are generated"));
        }
        if self.settings.get("max_time").is_some() {
            note("`max_time` has no effect; a text ends by its tokens, not by the clock".into());
        }
        if let Some(sequences) = self.settings.count("num_return_sequences")?
            && sequences > 1
        {
            note(format!(
                "`num_return_sequences` {sequences} has no effect; one text is generated at a time"
            ));
        }
        Ok(())
    }
}
