use std::ops::Range;

use aibit_format::Archive;
use aibit_tokenizer::{Tokenizer, TokenizerError};

use crate::jinja::{self, Content, Rendered, Variable};
use crate::{ChatError, ChatFiles, LocalTime};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ChatMessage {
    /// Its author, as templates name them: `system`, `user`, `assistant`.
    pub role: String,
    /// Its text.
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

/// A package's chat template, in Jinja, rendered as transformers renders it.
///
/// A template is hostile. It reads no files and no clock, runs no code but its own, and ends with an error after two
/// million instructions, 64 MiB of strings and lists read and made, or 4 MiB of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// Name of the entry that it comes from.
    file: &'static str,
    source: String,
    /// Special tokens by their names in templates.
    special_tokens: Vec<(String, String)>,
}

/// A conversation as text, some of which was typed by its participants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatText {
    /// Special tokens are written out.
    pub text: String,
    /// Byte ranges of `text` that come from the contents of messages, in order. Special tokens that are written there
    /// are text: [`Tokenizer::encode_partly_plain`] encodes them so.
    pub typed: Vec<Range<usize>>,
}

impl ChatText {
    /// Returns the ids of the conversation. Special tokens written in messages are text, unless `allow_special`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer, allow_special: bool) -> Result<Vec<u32>, TokenizerError> {
        if allow_special {
            return tokenizer.encode(&self.text);
        }
        tokenizer.encode_partly_plain(&self.text, &self.typed)
    }
}

impl ChatTemplate {
    /// Returns the template of an open archive; `None` if it has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_files`].
    pub fn load(archive: &Archive) -> Result<Option<Self>, ChatError> {
        let _span = tracing::info_span!("chat template").entered();
        Self::from_files(&ChatFiles::read(|name| archive.entry(name).ok().map(|entry| entry.data)))
    }

    /// Returns the template in `files`: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`, else
    /// `chat_template.json`; of several the one named `default`. `None` if there is none.
    ///
    /// # Errors
    /// [`ChatError::Settings`] for malformed JSON or fields of a wrong type, [`ChatError::Template`] for
    /// a template that is not UTF-8, is longer than 64 KiB or is a Git LFS pointer, and for several of which none is the
    /// default. [`ChatTemplate::check`] checks its syntax.
    pub fn from_files(files: &ChatFiles<'_>) -> Result<Option<Self>, ChatError> {
        let Some((file, source)) = files.template()? else { return Ok(None) };
        Ok(Some(Self { file, source, special_tokens: files.special_tokens()? }))
    }

    /// Returns the template's source.
    pub fn into_source(self) -> String {
        self.source
    }

    /// Refuses a template that cannot render any conversation.
    ///
    /// # Errors
    /// [`ChatError::Template`] for wrong syntax and for statements that are not supported.
    pub fn check(&self) -> Result<(), ChatError> {
        jinja::check(&self.source).map_err(|e| ChatError::Template { file: self.file, problem: e.problem })
    }

    /// Returns why the template cannot render a conversation of one message; `None` if it can, and if it rejects such a
    /// conversation itself.
    pub fn failure(&self) -> Option<ChatError> {
        let messages = [ChatMessage::new("user", "Hello!")];
        let failure =
            jinja::render(&self.source, &self.variables(&messages, true), LocalTime::EPOCH).err()?;
        (!failure.raised).then_some(ChatError::Template { file: self.file, problem: failure.problem })
    }

    /// Returns the text of a conversation; with `add_generation_prompt`, up to where the assistant's next answer begins.
    /// `strftime_now` prints `now`.
    ///
    /// [`ChatText::encode`] turns it into ids, and adds none.
    ///
    /// # Errors
    /// [`ChatError::Template`] for wrong syntax, a feature that is not supported, a limit that is
    /// reached, and for a conversation that the template itself refuses, with its message.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
        now: LocalTime,
    ) -> Result<ChatText, ChatError> {
        match jinja::render(&self.source, &self.variables(messages, add_generation_prompt), now) {
            Ok(Rendered { text, typed }) => Ok(ChatText { text, typed }),
            Err(e) => Err(ChatError::Template { file: self.file, problem: e.problem }),
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
