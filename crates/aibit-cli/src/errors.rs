//! How an error is shown: its message with causes, a hint, and a stable code for programs.

use std::error::Error;
use std::{fmt, io};

use aibit_chat::ChatError;
use aibit_cpu::LoadError;
use aibit_export::ExportError;
use aibit_format::FormatError;
use aibit_gguf::GgufError;
use aibit_graph::{ConfigError, GraphError};
use aibit_hub::HubError;
use aibit_pack::PackError;
use aibit_runtime::RuntimeError;
use aibit_runtime::sampler::SamplerError;
use aibit_runtime::text_stream::StopError;
use aibit_tokenizer::TokenizerError;

/// An error of the command line itself, or a library error with an added hint.
#[derive(Debug)]
pub(crate) struct Advised {
    message: String,
    hint: Option<String>,
    code: Option<&'static str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Advised {
    /// An error with the given [`code`].
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: Some(code), source: None }
    }

    /// Wraps `source`, keeping its message and code.
    pub(crate) fn of(source: impl Error + Send + Sync + 'static) -> Self {
        Self { message: source.to_string(), hint: None, code: None, source: Some(Box::new(source)) }
    }

    /// Adds a hint.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Advised {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// Whether the reader of the output has closed the pipe, which is not an error.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// The messages of the error and its causes, outermost first, without those that an earlier one contains.
pub(crate) fn messages(error: &anyhow::Error) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for message in error.chain().map(ToString::to_string) {
        if !messages.iter().any(|outer| outer.contains(&message)) {
            messages.push(message);
        }
    }
    messages
}

/// The hint for an error, if any.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    let advised = error.chain().filter_map(|e| e.downcast_ref::<Advised>());
    advised.flat_map(|e| e.hint.clone()).next().or_else(|| library_hint(error).map(str::to_owned))
}

fn library_hint(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|e| {
        if let Some(e) = e.downcast_ref::<FormatError>() {
            return format_hint(e);
        }
        if let Some(LoadError::Format(e)) = e.downcast_ref::<LoadError>() {
            return format_hint(e);
        }
        if let Some(TokenizerError::Format(e)) = e.downcast_ref() {
            return format_hint(e);
        }
        if let Some(e) = e.downcast_ref::<RuntimeError>() {
            return match e {
                RuntimeError::Format(e) | RuntimeError::Tokenizer(TokenizerError::Format(e)) => {
                    format_hint(e)
                }
                RuntimeError::ContextFull { .. } => {
                    Some("shorten the prompt; it is never truncated silently")
                }
                RuntimeError::EmptyPrompt => Some("give a prompt with -p TEXT or -f FILE"),
                _ => None,
            };
        }
        if let Some(e) = e.downcast_ref::<PackError>() {
            return match e {
                PackError::Format(e) => format_hint(e),
                PackError::NotAModel { .. } => Some(
                    "a model folder holds config.json, tokenizer.json (or vocab.json and merges.txt) and \
                     model.safetensors; a model on the hub is named ORGANISATION/NAME",
                ),
                _ => None,
            };
        }
        e.downcast_ref::<HubError>().map(|_| "a folder on disk can be packed without the hub")
    })
}

fn format_hint(error: &FormatError) -> Option<&'static str> {
    match error {
        FormatError::Container { .. }
        | FormatError::Digest { .. }
        | FormatError::WeightsHeader(_)
        | FormatError::Manifest(_) => Some(
            "the file is damaged or was changed after it was packed; copy it again or pack the model again",
        ),
        _ => None,
    }
}

/// The stable code of an error; `docs/json.md` lists them.
pub(crate) fn code(error: &anyhow::Error) -> &'static str {
    error.chain().find_map(code_of).unwrap_or("failed")
}

fn code_of(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(e) = error.downcast_ref::<Advised>() {
        return e.code;
    }
    if let Some(e) = error.downcast_ref::<FormatError>() {
        return Some(format_code(e));
    }
    if let Some(e) = error.downcast_ref::<LoadError>() {
        return Some(load_code(e));
    }
    if let Some(e) = error.downcast_ref::<RuntimeError>() {
        return Some(runtime_code(e));
    }
    if let Some(e) = error.downcast_ref::<TokenizerError>() {
        return Some(tokenizer_code(e));
    }
    if let Some(e) = error.downcast_ref::<ChatError>() {
        return Some(chat_code(e));
    }
    if let Some(e) = error.downcast_ref::<PackError>() {
        return Some(pack_code(e));
    }
    if let Some(e) = error.downcast_ref::<ExportError>() {
        return Some(export_code(e));
    }
    if error.is::<SamplerError>() {
        return Some("sampling");
    }
    if error.is::<StopError>() {
        return Some("stop_string");
    }
    if error.is::<GgufError>() {
        return Some("gguf");
    }
    if error.is::<HubError>() {
        return Some("hub");
    }
    if error.is::<ConfigError>() {
        return Some("config");
    }
    if error.is::<GraphError>() {
        return Some("graph");
    }
    error.downcast_ref::<io::Error>().map(io_code)
}

fn io_code(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "not_found",
        io::ErrorKind::PermissionDenied => "permission_denied",
        io::ErrorKind::StorageFull => "storage_full",
        io::ErrorKind::InvalidData => "not_utf8",
        _ => "io",
    }
}

fn format_code(error: &FormatError) -> &'static str {
    match error {
        FormatError::Io { source, .. } => io_code(source),
        FormatError::Output { .. } => "output",
        FormatError::NotAFile { .. } => "not_a_file",
        FormatError::NotAnArchive { .. } => "not_an_archive",
        FormatError::Version { .. } | FormatError::Feature { .. } => "newer_version",
        _ => "damaged",
    }
}

fn load_code(error: &LoadError) -> &'static str {
    match error {
        LoadError::Format(e) => format_code(e),
        LoadError::Graph(_) | LoadError::Scheme { .. } => "graph",
        LoadError::Isa(_) => "isa",
        _ => "model",
    }
}

fn runtime_code(error: &RuntimeError) -> &'static str {
    match error {
        RuntimeError::Format(e) => format_code(e),
        RuntimeError::Sampler(_) => "sampling",
        RuntimeError::Stop(_) => "stop_string",
        RuntimeError::Tokenizer(e) => tokenizer_code(e),
        RuntimeError::Chat(e) => chat_code(e),
        RuntimeError::Golden(_) => "damaged",
        RuntimeError::Settings { .. } => "settings",
        RuntimeError::TokenId { .. } => "token_id",
        RuntimeError::ContextFull { .. } => "context_full",
        RuntimeError::EmptyPrompt => "empty_prompt",
        RuntimeError::Memory { .. } | RuntimeError::PagesExhausted { .. } => "memory",
        RuntimeError::TextTooShort { .. } => "text_too_short",
        RuntimeError::Window { .. } | RuntimeError::SecondHalf { .. } => "window",
        RuntimeError::NotComparable(_) => "not_comparable",
        _ => "model",
    }
}

fn tokenizer_code(error: &TokenizerError) -> &'static str {
    match error {
        TokenizerError::Format(e) => format_code(e),
        TokenizerError::Json(_) => "tokenizer",
        TokenizerError::Compiled(_) => "settings",
        TokenizerError::TokenBeyond { .. } => "token_id",
        _ => "model",
    }
}

fn chat_code(error: &ChatError) -> &'static str {
    match error {
        ChatError::Settings { .. } => "settings",
        ChatError::Template { .. } => "chat_template",
        _ => "model",
    }
}

fn pack_code(error: &PackError) -> &'static str {
    match error {
        PackError::Io { source, .. } => io_code(source),
        PackError::NotAModel { .. } => "not_a_model",
        PackError::Format(e) => format_code(e),
        PackError::Config(_) | PackError::Setting { .. } => "config",
        PackError::Architecture { .. } => "architecture",
        PackError::Recipe(_) | PackError::Scheme { .. } | PackError::Requantize { .. } => "recipe",
        PackError::Load(e) => load_code(e),
        PackError::Runtime(e) | PackError::CarriedSetting(e) => runtime_code(e),
        _ => "source",
    }
}

fn export_code(error: &ExportError) -> &'static str {
    match error {
        ExportError::Io { source, .. } => io_code(source),
        ExportError::Format(e) => format_code(e),
        ExportError::Config(_) => "config",
        ExportError::Family { .. } => "architecture",
        ExportError::Json { .. } => "damaged",
        ExportError::Graph(_) => "graph",
        ExportError::Runtime(e) => runtime_code(e),
        ExportError::Gguf(_) => "gguf",
        ExportError::Option { .. } => "usage",
        _ => "target",
    }
}
