//! A conversation and its KV cache, kept together.

use std::ops::ControlFlow;

use aibit_chat::{ChatMessage, ChatTemplate, LocalTime};
use aibit_tokenizer::Tokenizer;

use crate::generate::generate_after;
use crate::{GenerateOptions, Generation, RuntimeError, Session};

const SYSTEM: &str = "system";

/// How a conversation is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatOptions {
    /// When the conversation begins, as a template prints it: the same in every turn, so that what has been computed
    /// stays right.
    pub now: LocalTime,
    /// Whether special tokens that are written in messages are those tokens, and not text.
    pub allow_special: bool,
}

/// A conversation with a model: its messages, and the sequence that holds what has been computed of them.
///
/// Each turn renders and encodes the whole conversation and computes what differs from the turn before, which is
/// the new message where the template only appends.
#[derive(Debug)]
pub struct Chat<'m> {
    session: Session,
    tokenizer: &'m Tokenizer,
    template: &'m ChatTemplate,
    options: ChatOptions,
    messages: Vec<ChatMessage>,
    /// What the session holds.
    computed: Vec<u32>,
}

impl<'m> Chat<'m> {
    /// An empty conversation in an empty `session`, whose capacity is the longest that the conversation may get.
    pub fn new(
        mut session: Session,
        tokenizer: &'m Tokenizer,
        template: &'m ChatTemplate,
        options: ChatOptions,
    ) -> Self {
        session.truncate(0);
        Self { session, tokenizer, template, options, messages: Vec::new(), computed: Vec::new() }
    }

    /// The messages so far, the system message first if there is one.
    pub fn messages(&self) -> &[ChatMessage] {
        &self.messages
    }

    /// Tokens of the context that the last turn has taken, and all there are.
    pub fn context(&self) -> (usize, usize) {
        (self.session.len(), self.session.capacity())
    }

    /// Sets or replaces the system message, for the turns to come.
    pub fn set_system(&mut self, content: impl Into<String>) {
        let message = ChatMessage::new(SYSTEM, content);
        match self.messages.first_mut().filter(|first| first.role == SYSTEM) {
            Some(first) => *first = message,
            None => self.messages.insert(0, message),
        }
    }

    /// Forgets all messages but the system's.
    pub fn clear(&mut self) {
        self.messages.retain(|message| message.role == SYSTEM);
    }

    /// Says `content` as the user and generates the assistant's answer, which becomes part of the conversation,
    /// also where `on_text` breaks it off.
    ///
    /// # Errors
    /// [`RuntimeError::Chat`] for a conversation that cannot be rendered, [`RuntimeError::ContextFull`]
    /// for one that does not fit, and any of [`generate`](fn@crate::generate). The conversation is then as it was.
    pub fn say(
        &mut self,
        content: impl Into<String>,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, RuntimeError> {
        self.messages.push(ChatMessage::new("user", content));
        let answer = self.answer(options, on_text);
        match &answer {
            Ok(generation) => self.messages.push(ChatMessage::new("assistant", &generation.text)),
            Err(_) => drop(self.messages.pop()),
        }
        answer
    }

    fn answer(
        &mut self,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, RuntimeError> {
        let ChatOptions { now, allow_special } = self.options;
        let text = self.template.render(&self.messages, true, now)?;
        let mut ids = text.encode(self.tokenizer, allow_special)?;
        let shared = ids.iter().zip(&self.computed).take_while(|(new, old)| new == old).count();
        let kept = shared.min(ids.len().saturating_sub(1)); // logits come with a token that is computed
        if ids.len() > self.session.capacity() {
            return Err(self.session.context_full(ids.len() - kept, kept));
        }
        self.session.truncate(kept);
        self.computed.truncate(kept);
        let generation = generate_after(&mut self.session, self.tokenizer, &ids, kept, options, on_text)?;
        ids.extend(&generation.ids);
        ids.truncate(self.session.len()); // nothing is computed from the last token
        self.computed = ids;
        Ok(generation)
    }
}
