//! Conversations: the package's template, which turns messages into the text that the model was trained on, and
//! [`Chat`], which keeps a conversation and its KV cache together.

mod conversation;
mod files;
mod jinja;
mod time;

use std::ops::Range;

use aibit_format::Archive;

pub use self::conversation::{Chat, ChatOptions};
pub use self::files::ChatFiles;
use self::jinja::{Content, Rendered, Variable};
pub use self::time::LocalTime;
use crate::{RuntimeError, Tokenizer};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
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

    fn entries(&self) -> Vec<(&'static str, Content)> {
        let content = |text: &str, is_typed| Content { text: text.to_owned(), is_typed };
        vec![("role", content(&self.role, false)), ("content", content(&self.content, true))]
    }
}

/// How a package writes a conversation as one text: Jinja, as transformers renders it.
///
/// A template is treated as hostile. It reads no files and no clock and runs no code but its own, and ends with
/// an error past two million instructions, 64 MiB of strings and lists read and made, or 4 MiB of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// Name of the entry that it comes from.
    file: &'static str,
    source: String,
    /// Special tokens by the names that templates know them by.
    special_tokens: Vec<(String, String)>,
}

/// A conversation as a text, of which some was written by those who take part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatText {
    /// Special tokens are written out.
    pub text: String,
    /// Where `text` comes from contents of messages, in bytes, in order. Special tokens that are written there are
    /// text: [`Tokenizer::encode_partly_plain`](crate::Tokenizer::encode_partly_plain) encodes them so.
    pub typed: Vec<Range<usize>>,
}

impl ChatText {
    /// The ids of the conversation. Special tokens that are written in messages are text, unless `allow_special`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer, allow_special: bool) -> Result<Vec<u32>, RuntimeError> {
        if allow_special {
            return tokenizer.encode(&self.text);
        }
        tokenizer.encode_partly_plain(&self.text, &self.typed)
    }
}

impl ChatTemplate {
    /// The template of an open archive; `None` where it has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_files`].
    pub fn load(archive: &Archive) -> Result<Option<Self>, RuntimeError> {
        let _span = tracing::info_span!("chat template").entered();
        Self::from_files(&ChatFiles::read(|name| archive.entry(name).ok().map(|entry| entry.data)))
    }

    /// The template in `files`: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`, else
    /// `chat_template.json`; of several the one named `default`. `None` where there is none.
    ///
    /// # Errors
    /// [`RuntimeError::Settings`] for malformed JSON or fields of a wrong type, [`RuntimeError::ChatTemplate`] for
    /// a template that is not UTF-8, is longer than 64 KiB or is a pointer of Git LFS, and for several of which
    /// none is the default. [`ChatTemplate::check`] looks at its syntax.
    pub fn from_files(files: &ChatFiles<'_>) -> Result<Option<Self>, RuntimeError> {
        let Some((file, source)) = files.template()? else { return Ok(None) };
        Ok(Some(Self { file, source, special_tokens: files.special_tokens()? }))
    }

    /// What the template says.
    pub fn into_source(self) -> String {
        self.source
    }

    /// Refuses a template that can render no conversation at all.
    ///
    /// # Errors
    /// [`RuntimeError::ChatTemplate`] for wrong syntax and for statements that are not supported.
    pub fn check(&self) -> Result<(), RuntimeError> {
        jinja::check(&self.source)
            .map_err(|e| RuntimeError::ChatTemplate { file: self.file, problem: e.problem })
    }

    /// Why the template cannot render a conversation of one message; `None` where it can, and where it refuses such
    /// a conversation itself.
    pub fn failure(&self) -> Option<RuntimeError> {
        let messages = [ChatMessage::new("user", "Hello!")];
        let failure =
            jinja::render(&self.source, &self.variables(&messages, true), LocalTime::EPOCH).err()?;
        (!failure.raised).then_some(RuntimeError::ChatTemplate { file: self.file, problem: failure.problem })
    }

    /// The text of a conversation; with `add_generation_prompt` up to where the assistant's next answer begins.
    /// `now` is what `strftime_now` prints.
    ///
    /// [`ChatText::encode`] turns it into ids, and adds none of its own.
    ///
    /// # Errors
    /// [`RuntimeError::ChatTemplate`] for wrong syntax, a feature that is not supported, a limit that is
    /// reached, and for a conversation that the template itself refuses, with its message.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
        now: LocalTime,
    ) -> Result<ChatText, RuntimeError> {
        match jinja::render(&self.source, &self.variables(messages, add_generation_prompt), now) {
            Ok(Rendered { text, typed }) => Ok(ChatText { text, typed }),
            Err(e) => Err(RuntimeError::ChatTemplate { file: self.file, problem: e.problem }),
        }
    }

    fn variables(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Vec<(&str, Variable)> {
        let tokens =
            self.special_tokens.iter().map(|(name, token)| (name.as_str(), Variable::Token(token.clone())));
        let given = [
            ("messages", Variable::Messages(messages.iter().map(ChatMessage::entries).collect())),
            ("add_generation_prompt", Variable::Flag(add_generation_prompt)),
            // Defined, as in transformers, where templates ask `tools is not none`.
            ("tools", Variable::None),
            ("documents", Variable::None),
        ];
        tokens.chain(given).collect()
    }
}
