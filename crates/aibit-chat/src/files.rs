//! The files that say how conversations are written: one reader for packing, running and exporting.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::ChatError;
use crate::jinja::MAX_TEMPLATE;

const CHAT_TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const PROCESSOR_TEMPLATE: &str = "chat_template.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";

/// Of several templates, the one that counts where no other is asked for.
const DEFAULT: &str = "default";
/// Fields of special tokens, whose names templates know.
#[rustfmt::skip] // a list of words
const SPECIAL_TOKENS: [&str; 7] = [
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
];

/// What there is of the files about conversations.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChatFiles<'a> {
    /// `chat_template.jinja`.
    pub template: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `chat_template.json`, in which processors were saved.
    pub processor_template: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
}

impl<'a> ChatFiles<'a> {
    /// The files that `read` has.
    pub fn read(mut read: impl FnMut(&str) -> Option<&'a [u8]>) -> Self {
        Self {
            template: read(CHAT_TEMPLATE),
            tokenizer_config: read(TOKENIZER_CONFIG),
            processor_template: read(PROCESSOR_TEMPLATE),
            special_tokens_map: read(SPECIAL_TOKENS_MAP),
        }
    }

    /// The template with the name of its file.
    pub(super) fn template(&self) -> Result<Option<(&'static str, String)>, ChatError> {
        if let Some(bytes) = self.template {
            return Ok(Some((CHAT_TEMPLATE, checked(CHAT_TEMPLATE, bytes)?)));
        }
        for (file, json) in
            [(TOKENIZER_CONFIG, self.tokenizer_config), (PROCESSOR_TEMPLATE, self.processor_template)]
        {
            let Some(template) = Settings::parse(file, json)?.chat_template else { continue };
            if let Some(source) = chosen(file, &template)? {
                return Ok(Some((file, checked(file, source.as_bytes())?)));
            }
        }
        Ok(None)
    }

    /// Special tokens by their names; what `tokenizer_config.json` says counts before the map.
    pub(super) fn special_tokens(&self) -> Result<Vec<(String, String)>, ChatError> {
        let mut tokens = BTreeMap::new();
        for (file, json) in
            [(SPECIAL_TOKENS_MAP, self.special_tokens_map), (TOKENIZER_CONFIG, self.tokenizer_config)]
        {
            tokens.extend(Settings::parse(file, json)?.special_tokens);
        }
        Ok(tokens.into_iter().collect())
    }
}

fn settings_error(file: &'static str, problem: impl Into<String>) -> ChatError {
    ChatError::Settings { file, problem: problem.into() }
}

fn template_error(file: &'static str, problem: impl Into<String>) -> ChatError {
    ChatError::Template { file, problem: problem.into() }
}

/// The template that a field says: a string, or the default of several, which are a list of objects with a name or an
/// object of names.
fn chosen(file: &'static str, template: &Value) -> Result<Option<String>, ChatError> {
    let wrong = || {
        settings_error(
            file,
            "`chat_template` must be a string, a list of objects with `name` and `template`, or an object of \
             names and templates",
        )
    };
    let mut named = BTreeMap::new();
    match template {
        Value::Null => return Ok(None),
        Value::String(source) => return Ok(Some(source.clone())),
        Value::Array(templates) => {
            for template in templates {
                let field = |name: &str| template.get(name).and_then(Value::as_str).ok_or_else(wrong);
                named.insert(field("name")?, field("template")?);
            }
        }
        Value::Object(templates) => {
            for (name, template) in templates {
                named.insert(name.as_str(), template.as_str().ok_or_else(wrong)?);
            }
        }
        Value::Bool(_) | Value::Number(_) => return Err(wrong()),
    }
    match named.get(DEFAULT) {
        Some(source) => Ok(Some((*source).to_owned())),
        None if named.is_empty() => Ok(None),
        None => {
            let names: Vec<&str> = named.into_keys().collect();
            Err(template_error(
                file,
                format!(
                    "there is no template named `{DEFAULT}` among {}; write the one to use as \
                     chat_template.jinja",
                    names.join(", ")
                ),
            ))
        }
    }
}

fn checked(file: &'static str, bytes: &[u8]) -> Result<String, ChatError> {
    if bytes.len() > MAX_TEMPLATE {
        let found = bytes.len();
        return Err(template_error(
            file,
            format!("the template has {found} bytes, allowed are {MAX_TEMPLATE}"),
        ));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let source = std::str::from_utf8(bytes)
        .map_err(|e| template_error(file, format!("the template is not UTF-8: {e}")))?;
    // As a template it would be the same prompt for every conversation.
    if source.starts_with("version https://git-lfs.github.com/spec/") {
        let problem =
            "the template is a pointer of Git LFS and not the file itself; fetch it with `git lfs pull`";
        return Err(template_error(file, problem));
    }
    Ok(source.to_owned())
}

/// What `tokenizer_config.json` and its like say of conversations. All else is read over: such files may be large.
#[derive(Default)]
struct Settings {
    chat_template: Option<Value>,
    special_tokens: BTreeMap<String, String>,
}

impl Settings {
    fn parse(file: &'static str, json: Option<&[u8]>) -> Result<Self, ChatError> {
        json.map_or(Ok(Self::default()), |json| {
            serde_json::from_slice(json).map_err(|e| settings_error(file, e.to_string()))
        })
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Settings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
                let mut settings = Settings::default();
                // Of a key that comes again the last counts, as in Python.
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "chat_template" => settings.chat_template = Some(map.next_value()?),
                        // Tokens of a model's own, such as the place of an image.
                        "extra_special_tokens" => {
                            if let Value::Object(tokens) = map.next_value()? {
                                for (name, token) in tokens {
                                    settings
                                        .special_tokens
                                        .extend(content(&token).map(|token| (name, token)));
                                }
                            }
                        }
                        name if SPECIAL_TOKENS.contains(&name) => match map.next_value::<Value>()? {
                            // transformers takes both for no token.
                            Value::Null | Value::Bool(false) => drop(settings.special_tokens.remove(name)),
                            token => match content(&token) {
                                Some(token) => drop(settings.special_tokens.insert(key, token)),
                                None => {
                                    return Err(serde::de::Error::custom(format_args!(
                                        "`{name}` must be a string or an object with `content`"
                                    )));
                                }
                            },
                        },
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(settings)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The text of a token, which stands alone or among what else is said of it.
fn content(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}
