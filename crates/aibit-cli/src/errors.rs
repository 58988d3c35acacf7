//! What to do about an error, where its message does not say.

use std::io;

use aibit_format::FormatError;
use aibit_pack::PackError;
use aibit_pack::hub::HubError;
use aibit_runtime::RuntimeError;

/// Whether the reader of our output has gone, which is its right.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// A line of advice.
pub(crate) fn hint(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|e| {
        if let Some(e) = e.downcast_ref::<FormatError>() {
            return format_hint(e);
        }
        if let Some(e) = e.downcast_ref::<RuntimeError>() {
            return match e {
                RuntimeError::Format(e) => format_hint(e),
                RuntimeError::ContextFull { .. } => Some("shorten the prompt; nothing is cut off silently"),
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
        e.downcast_ref::<HubError>().map(|_| "a folder that is already on disk can be packed without the hub")
    })
}

fn format_hint(error: &FormatError) -> Option<&'static str> {
    match error {
        FormatError::Container { .. }
        | FormatError::Digest { .. }
        | FormatError::WeightsHeader(_)
        | FormatError::Manifest(_) => Some(
            "the file is damaged or was changed after it was packed; copy it again, or pack the model again",
        ),
        _ => None,
    }
}
