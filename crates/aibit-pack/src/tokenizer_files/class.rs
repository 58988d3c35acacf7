//! Tokenizer classes of `vocab.json` and `merges.txt`: properties that are given by the class and not by the files.

use serde_json::{Value, json};

use super::{CONFIG, MERGES, Object, Problem, VOCABULARY};

/// A tokenizer class of transformers.
pub(super) struct Class {
    name: &'static str,
    splitting: Splitting,
    /// Default special tokens.
    tokens: &'static [(&'static str, &'static str)],
}

/// How text is split before merging.
enum Splitting {
    Gpt2,
    Qwen2,
}

const END_OF_TEXT: &str = "<|endoftext|>";

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

static KNOWN: [Class; 3] = [
    Class {
        name: "GPT2Tokenizer",
        splitting: Splitting::Gpt2,
        tokens: &[("bos_token", END_OF_TEXT), ("eos_token", END_OF_TEXT), ("unk_token", END_OF_TEXT)],
    },
    Class {
        name: "CodeGenTokenizer",
        splitting: Splitting::Gpt2,
        tokens: &[("bos_token", END_OF_TEXT), ("eos_token", END_OF_TEXT), ("unk_token", END_OF_TEXT)],
    },
    Class {
        name: "Qwen2Tokenizer",
        splitting: Splitting::Qwen2,
        tokens: &[("eos_token", END_OF_TEXT), ("unk_token", END_OF_TEXT), ("pad_token", END_OF_TEXT)],
    },
];

impl Class {
    /// The class of a folder's tokenizer, without the suffix `Fast`: the configured one, else the model's default.
    pub(super) fn name(model: &Object, config: &Object) -> Option<String> {
        let text = |object: &Object, name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
        let own = text(config, "tokenizer_class").or_else(|| text(model, "tokenizer_class"));
        let own = own.map(|name| name.strip_suffix("Fast").map_or(name.clone(), str::to_owned));
        let model_type = text(model, "model_type");
        let of_model = match model_type.as_deref() {
            Some("gpt2") => Some("GPT2Tokenizer"),
            Some("qwen2" | "qwen3") => Some("Qwen2Tokenizer"),
            _ => None,
        };
        match (own, of_model) {
            // Folders of this family name wrong classes, which transformers ignores.
            (Some(_), Some(of_model)) if model_type.as_deref() == Some("qwen2") => Some(of_model.to_owned()),
            (Some(own), _) => Some(own),
            (None, of_model) => of_model.map(str::to_owned),
        }
    }

    pub(super) fn of_name(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|class| class.name == name)
    }

    /// The class that determines the meaning of a `vocab.json` and a `merges.txt`.
    pub(super) fn of_pair(name: Option<&str>) -> Result<&'static Self, Problem> {
        name.and_then(Self::of_name).ok_or_else(|| {
            let found = match name {
                Some(name) => format!("of the class {:?}", name.chars().take(60).collect::<String>()),
                None => "of a class that no file names".to_owned(),
            };
            let known: Vec<_> = KNOWN.iter().map(|class| class.name).collect();
            let problem = format!(
                "the tokenizer is {VOCABULARY} and {MERGES}, {found}, and how that splits texts is not known; known are \
                 {}; {}",
                known.join(", "),
                super::CONVERT
            );
            Problem(CONFIG, problem)
        })
    }

    pub(super) fn default_token(&self, name: &str) -> Option<&'static str> {
        self.tokens.iter().find(|(field, _)| *field == name).map(|(_, token)| *token)
    }

    /// The `tokenizer.json` of a pair.
    pub(super) fn tokenizer(&self, vocab: &[u8], merges: &[u8]) -> Result<Object, Problem> {
        let vocab: Object = serde_json::from_slice(vocab).map_err(|e| Problem(VOCABULARY, e.to_string()))?;
        let merges = std::str::from_utf8(merges).map_err(|e| Problem(MERGES, e.to_string()))?;
        let merges: Vec<&str> =
            merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
        let byte_level = |trim_offsets: bool, use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim_offsets, "use_regex": use_regex});
        let (normalizer, pre_tokenizer) = match self.splitting {
            Splitting::Gpt2 => (Value::Null, byte_level(true, true)),
            Splitting::Qwen2 => {
                let split = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
                let steps = json!({"type": "Sequence", "pretokenizers": [split, byte_level(true, false)]});
                (json!({"type": "NFC"}), steps)
            }
        };
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": byte_level(false, true),
            "decoder": byte_level(true, true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": merges,
            },
        });
        match file {
            Value::Object(file) => Ok(file),
            _ => Ok(Object::new()),
        }
    }

    /// Sets whether a space is prepended to a text, which these classes take from their settings and not from
    /// `tokenizer.json`.
    pub(super) fn set_prefix_space(&self, file: &mut Object, space: bool) {
        fn set(step: &mut Value, space: bool) {
            if step["type"] == "ByteLevel" {
                step["add_prefix_space"] = space.into();
            }
            for step in step.get_mut("pretokenizers").and_then(Value::as_array_mut).into_iter().flatten() {
                set(step, space);
            }
        }
        if let Some(steps) = file.get_mut("pre_tokenizer").filter(|steps| steps.is_object()) {
            set(steps, space);
        }
    }
}

/// Removes the space that SentencePiece tokenizers prepend to a text from the steps of a `tokenizer.json`.
pub(super) fn remove_prefix_space(file: &mut Object) {
    fn change(step: &mut Value) {
        if step["type"] == "Metaspace" {
            step["prepend_scheme"] = "never".into();
            if let Some(fields) = step.as_object_mut() {
                fields.remove("add_prefix_space");
            }
        }
        for members in ["normalizers", "pretokenizers", "decoders"] {
            let Some(steps) = step.get_mut(members).and_then(Value::as_array_mut) else { continue };
            steps.retain(|step| !is_prefix(step));
            steps.iter_mut().for_each(change);
        }
    }
    fn is_prefix(step: &Value) -> bool {
        step["type"] == "Prepend" || (step["type"] == "Strip" && step["content"] == " ")
    }
    for place in ["normalizer", "pre_tokenizer", "decoder"] {
        if let Some(step) = file.get_mut(place) {
            if is_prefix(step) {
                *step = Value::Null;
            } else if step.is_object() {
                change(step);
            }
        }
    }
}
