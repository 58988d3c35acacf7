//! Conversations: the package's template, which turns messages into the text that the model was trained on, and
//! [`Chat`], which keeps a conversation and its KV cache together.

mod conversation;
mod guard;
mod sandbox;

use aibit_format::Archive;
use minijinja::Value;
use serde::{Deserialize, Serialize};

pub use self::conversation::Chat;
use crate::RuntimeError;

const CHAT_TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
/// Tokens that a template knows by these names.
const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who says it, as the template calls them: `system`, `user`, `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    fn value(&self) -> Value {
        Value::from_pairs([("role", self.role.as_str()), ("content", self.content.as_str())])
    }
}

/// How a package writes a conversation as one text: Jinja, as transformers renders it.
///
/// A template is treated as hostile. It reads no files, knows no time and runs no code but its own, and ends with
/// an error past two million instructions, 64 MiB of strings and lists read and made, or 4 MiB of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// Name of the entry that it comes from.
    file: &'static str,
    source: String,
    special_tokens: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// The template of an open archive: the entry `chat_template.jinja`, else `chat_template` in
    /// `tokenizer_config.json`, of several the one named `default`; `None` where it has neither.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_files`].
    pub fn load(archive: &Archive) -> Result<Option<Self>, RuntimeError> {
        let _span = tracing::info_span!("chat template").entered();
        let entry = |name: &str| archive.entry(name).ok().map(|entry| entry.data);
        Self::from_files(entry(CHAT_TEMPLATE), entry(TOKENIZER_CONFIG), entry(SPECIAL_TOKENS_MAP))
    }

    /// The template in `chat_template.jinja`, `tokenizer_config.json` and `special_tokens_map.json`, as far as
    /// there are such files.
    ///
    /// # Errors
    /// [`RuntimeError::Settings`] for malformed JSON or fields of a wrong type, [`RuntimeError::ChatTemplate`]
    /// for a template that is not UTF-8 or longer than 64 KiB. Its syntax is looked at when it is rendered.
    pub fn from_files(
        template: Option<&[u8]>,
        tokenizer_config: Option<&[u8]>,
        special_tokens_map: Option<&[u8]>,
    ) -> Result<Option<Self>, RuntimeError> {
        let config = Raw::parse(TOKENIZER_CONFIG, tokenizer_config)?;
        let (file, source) = match (template, &config.chat_template) {
            (Some(bytes), _) => (CHAT_TEMPLATE, check_template(CHAT_TEMPLATE, bytes)?),
            (None, Some(template)) => match template.default() {
                Some(source) => (TOKENIZER_CONFIG, check_template(TOKENIZER_CONFIG, source.as_bytes())?),
                None => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        let map = Raw::parse(SPECIAL_TOKENS_MAP, special_tokens_map)?;
        let [configured, mapped] = [config.special_tokens(), map.special_tokens()];
        let special_tokens = SPECIAL_TOKENS
            .into_iter()
            .zip(configured.into_iter().zip(mapped))
            .filter_map(|(name, (configured, mapped))| Some((name, configured.or(mapped)?)))
            .collect();
        Ok(Some(Self { file, source, special_tokens }))
    }

    /// The text of a conversation, special tokens written out; with `add_generation_prompt` up to where the
    /// assistant's next answer begins.
    ///
    /// [`Tokenizer::encode`](crate::Tokenizer::encode) turns it into ids, and adds none of its own.
    ///
    /// # Errors
    /// [`RuntimeError::ChatTemplate`] for wrong syntax, a feature that is not supported, a limit that is
    /// reached, and for a conversation that the template itself refuses, with its message.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, RuntimeError> {
        let none = Value::from(()); // defined, as in transformers, where templates ask `tools is not none`
        let mut variables = vec![
            ("messages", messages.iter().map(ChatMessage::value).collect()),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", none.clone()),
            ("documents", none),
        ];
        variables
            .extend(self.special_tokens.iter().map(|(name, token)| (*name, Value::from(token.as_str()))));
        sandbox::render(&self.source, Value::from_pairs(variables))
            .map_err(|problem| RuntimeError::ChatTemplate { file: self.file, problem })
    }
}

fn check_template(file: &'static str, bytes: &[u8]) -> Result<String, RuntimeError> {
    let error = |problem: String| RuntimeError::ChatTemplate { file, problem };
    if bytes.len() > sandbox::MAX_TEMPLATE {
        let (found, allowed) = (bytes.len(), sandbox::MAX_TEMPLATE);
        return Err(error(format!("the template has {found} bytes, allowed are {allowed}")));
    }
    String::from_utf8(bytes.to_vec()).map_err(|e| error(format!("the template is not UTF-8: {e}")))
}

/// What `tokenizer_config.json` and `special_tokens_map.json` say of templates.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    chat_template: Option<RawTemplate>,
    bos_token: Option<RawToken>,
    eos_token: Option<RawToken>,
    unk_token: Option<RawToken>,
    pad_token: Option<RawToken>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawToken {
    Text(String),
    Added { content: String },
}

impl Raw {
    fn parse(file: &'static str, json: Option<&[u8]>) -> Result<Self, RuntimeError> {
        json.map_or(Ok(Self::default()), |json| {
            serde_json::from_slice(json).map_err(|e| RuntimeError::Settings { file, problem: e.to_string() })
        })
    }

    /// In the order of [`SPECIAL_TOKENS`].
    fn special_tokens(self) -> [Option<String>; 4] {
        [self.bos_token, self.eos_token, self.unk_token, self.pad_token].map(|token| {
            token.map(|token| match token {
                RawToken::Text(content) | RawToken::Added { content } => content,
            })
        })
    }
}

impl RawTemplate {
    fn default(&self) -> Option<&str> {
        match self {
            Self::One(template) => Some(template),
            Self::Named(templates) => {
                templates.iter().find(|t| t.name == "default").map(|t| t.template.as_str())
            }
        }
    }
}
