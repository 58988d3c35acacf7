use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use super::generation::GenerationArgs;
use super::message_input::{Input, Message};
use super::unsupported::UnsupportedArgs;
use super::{ArchiveArg, open_archive, watch_for_interrupt};
use crate::clock;
use crate::errors::{self, Advised};
use crate::output::Output;
use aibit_chat::ChatTemplate;
use aibit_cpu::Model;
use aibit_format::Archive;
use aibit_runtime::{Chat, ChatOptions, GenerateOptions, Generation, PackageDefaults, RuntimeError};
use aibit_tokenizer::Tokenizer;

const HELP: &str = "\
/help, /?            this list
/history             the conversation so far
/system TEXT         set the system message for the following turns
/clear               clear the conversation, but keep the system message
/bye, /exit, /quit   end; so does the end of input
//help               send /help; any other line that begins with / is sent unchanged
\"\"\"                  start or end a message of several lines";

/// Chat with a model
///
/// Each line is a message, formatted by the package's chat template; the answer is streamed. A line that begins or
/// ends with """ starts a message of several lines, and another """ ends it. /help lists the commands; a line such as
/// /etc/fstab, which is not a command, is a message.
///
/// Ctrl-C ends an answer and keeps its beginning in the conversation; at the prompt it clears the line, and twice it
/// ends the program. A message that does not fit the context is refused; there is no context shift.
///
/// If messages come from a pipe or a file, the exit code is 2 if any of them could not be answered.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
        aibit chat assistant.aibit\n  \
        aibit chat assistant.aibit --system \"Answer in one sentence.\" --temp 0.7\n  \
        printf 'Hello!\\nAnd again?\\n' | aibit chat assistant.aibit")]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArg,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Encode special tokens in a message as special tokens, not as text
    #[arg(long)]
    allow_special: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    unsupported: UnsupportedArgs,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    args.unsupported.refuse()?;
    if out.is_json() {
        let message = "`chat` has no JSON output; `aibit run FILE -p TEXT --chat --json` answers one message";
        return Err(Advised::new("usage", message).into());
    }
    let threads = args.generation.threads.start()?;
    let archive = open_archive(args.archive.path())?;
    let template = template(&archive)?;
    let model = Model::load(&archive)?.with_threads(threads);
    let tokenizer = Tokenizer::load(&archive)?;
    let defaults = PackageDefaults::load(&archive, &tokenizer, model.graph().vocabulary)?;
    let options = args.generation.options(&defaults)?;
    let conversation = ChatOptions { now: clock::now(), allow_special: args.allow_special };
    let session = args.generation.session(&model, out)?;
    let mut chat = Chat::new(session, &tokenizer, &template, conversation);
    if let Some(system) = &args.system {
        chat.set_system(system);
    }
    let interrupted = watch_for_interrupt()?;
    let mut input = Input::open()?;
    let mut all_is_well = true;
    loop {
        let refused: Option<anyhow::Error> = match input.message(&interrupted)? {
            Message::End => break,
            Message::Nothing => None,
            Message::Refused(problem) => Some(problem.into()),
            Message::Say(text) => say(&mut chat, &text, &options, &interrupted, out)?,
            Message::Command(name, rest) => match (name.as_str(), rest.as_str()) {
                ("help" | "?", "") => out.write(&format!("{HELP}\n")).map(|()| None)?,
                ("history", "") => out.write(&history(&chat)).map(|()| None)?,
                ("clear", "") => {
                    chat.clear();
                    None
                }
                ("quit" | "exit" | "bye", "") => break,
                ("system", "") => Some(
                    Advised::new("usage", "/system needs a text").hint("/system Answer in one sentence."),
                ),
                ("system", text) => {
                    chat.set_system(text);
                    None
                }
                _ => Some(
                    Advised::new("usage", format!("/{name} takes no argument"))
                        .hint("to send it to the model, start the line with //"),
                ),
            }
            .map(Into::into),
        };
        if let Some(error) = refused {
            out.complain(&error, errors::hint(&error).as_deref());
            all_is_well = false;
        }
    }
    // At a terminal the user has seen each error and may have sent a better message since.
    Ok(if all_is_well || input.is_terminal() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// The package's chat template, without which there is no conversation.
pub(crate) fn template(archive: &Archive) -> anyhow::Result<ChatTemplate> {
    ChatTemplate::load(archive)?.ok_or_else(|| {
        let message = format!(
            "{} has no chat template, neither chat_template.jinja nor `chat_template` in tokenizer_config.json; \
             it can only continue text: `aibit run FILE -p TEXT`",
            archive.path().display()
        );
        Advised::new("chat_template", message).into()
    })
}

/// Sends `text` and prints the answer, or returns why there is none.
fn say(
    chat: &mut Chat<'_>,
    text: &str,
    options: &GenerateOptions,
    interrupted: &AtomicBool,
    out: &mut Output,
) -> anyhow::Result<Option<anyhow::Error>> {
    interrupted.store(false, Ordering::Relaxed);
    let mut failure = None;
    let mut on_text = |text: &str| {
        if let Err(e) = out.write(text) {
            failure = Some(e);
            return ControlFlow::Break(());
        }
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let answer = chat.say(text, options, &mut on_text);
    interrupted.store(false, Ordering::Relaxed);
    if let Some(e) = failure {
        return Err(e);
    }
    match answer {
        Ok(Generation { ids, stop_reason, .. }) => {
            out.write("\n")?;
            let (used, capacity) = chat.context();
            out.remark(&format!("[{} tokens, {stop_reason:?}; context {used} of {capacity}]", ids.len()));
            Ok(None)
        }
        Err(error @ RuntimeError::ContextFull { .. }) => {
            let hint = "/clear clears the conversation; -c sets a longer context";
            Ok(Some(Advised::of(error).hint(hint).into()))
        }
        Err(error) => Ok(Some(error.into())),
    }
}

fn history(chat: &Chat<'_>) -> String {
    chat.messages().iter().fold(String::new(), |mut text, message| {
        writeln!(text, "{}: {}", message.role, message.content).expect("a string takes any text");
        text
    })
}
