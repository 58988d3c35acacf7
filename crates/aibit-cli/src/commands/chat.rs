use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use aibit_format::Archive;
use aibit_runtime::{
    Chat, ChatTemplate, GenerateOptions, Generation, Model, PackageDefaults, RuntimeError, Tokenizer,
};
use anyhow::{Context, anyhow, bail};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::generation::GenerationArgs;
use super::{ArchiveArg, watch_for_interrupt};
use crate::output::Output;

const HELP: &str = "\
/help         this list
/history      the conversation so far
/system TEXT  set the system message, for the turns to come
/clear        forget the conversation, but not the system message
/quit         end; so do /exit and the end of input
//TEXT        say /TEXT
\"\"\"           on a line of its own: begin a message of several lines, and end it";

/// Talk to a model
///
/// Each line is a message, written as the package's chat template says; the answer is printed as it comes. A line
/// that is just """ begins a message of several lines, and another one ends it. /help lists the commands.
///
/// Ctrl-C ends an answer, of which the conversation keeps what has come; at the prompt it clears the line, and
/// twice it ends the program. A message that no longer fits the context is refused: nothing is ever shifted out.
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
    #[command(flatten)]
    generation: GenerationArgs,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    if out.is_json() {
        bail!("a conversation is no JSON object; `aibit run FILE -p TEXT --chat --json` answers one message");
    }
    args.generation.threads.start()?;
    let archive = Archive::open(args.archive.path())?;
    let template = template(&archive)?;
    let model = Model::load(&archive)?;
    let tokenizer = Tokenizer::load(&archive)?;
    let options = args.generation.options(&PackageDefaults::load(&archive)?);
    options.sampler.validate()?;
    let mut chat = Chat::new(args.generation.session(&model)?, &tokenizer, &template);
    if let Some(system) = &args.system {
        chat.set_system(system);
    }
    let interrupted = watch_for_interrupt()?;
    let mut input = Input::open()?;
    loop {
        match input.message(&interrupted)? {
            Message::End => return Ok(ExitCode::SUCCESS),
            Message::Nothing => {}
            Message::Unfinished => {
                let error = anyhow!("the message that \"\"\" began has no end, and was not sent");
                out.complain(&error, Some("end it with a line that is just \"\"\""));
            }
            Message::Say(text) => say(&mut chat, &text, &options, &interrupted, out)?,
            Message::Command(line) => {
                let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
                match (name, rest.trim()) {
                    ("help", "") => out.write(&format!("{HELP}\n"))?,
                    ("history", "") => out.write(&history(&chat))?,
                    ("clear", "") => chat.clear(),
                    ("quit" | "exit", "") => return Ok(ExitCode::SUCCESS),
                    ("system", "") => {
                        out.complain(
                            &anyhow!("/system needs a text"),
                            Some("/system Answer in one sentence."),
                        );
                    }
                    ("system", text) => chat.set_system(text),
                    ("help" | "history" | "clear" | "quit" | "exit", _) => {
                        let error = anyhow!("/{name} takes nothing after it");
                        out.complain(&error, Some("to say it to the model, begin with //"));
                    }
                    _ => {
                        let error = anyhow!("there is no command /{name}");
                        out.complain(
                            &error,
                            Some("/help lists the commands; to say it to the model, begin with //"),
                        );
                    }
                }
            }
        }
    }
}

/// The package's chat template, which a conversation needs.
pub(crate) fn template(archive: &Archive) -> anyhow::Result<ChatTemplate> {
    ChatTemplate::load(archive)?.with_context(|| {
        format!(
            "{} has no chat template, neither chat_template.jinja nor `chat_template` in tokenizer_config.json: \
             its model continues text, with `aibit run FILE -p TEXT`",
            archive.path().display()
        )
    })
}

/// Says `text` and prints the answer. What cannot be answered is an error message, not the end.
fn say(
    chat: &mut Chat<'_>,
    text: &str,
    options: &GenerateOptions,
    interrupted: &AtomicBool,
    out: &mut Output,
) -> anyhow::Result<()> {
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
        return Err(e.into());
    }
    match answer {
        Ok(Generation { ids, stop_reason, .. }) => {
            out.write("\n")?;
            let (used, capacity) = chat.context();
            out.remark(&format!("[{} tokens, {stop_reason:?}; context {used} of {capacity}]", ids.len()));
        }
        Err(error) => {
            let hint = match &error {
                RuntimeError::ContextFull { .. } => {
                    Some("/clear forgets the conversation; -c asks for a longer context")
                }
                _ => None,
            };
            out.complain(&error.into(), hint);
        }
    }
    Ok(())
}

fn history(chat: &Chat<'_>) -> String {
    chat.messages().iter().fold(String::new(), |mut text, message| {
        writeln!(text, "{}: {}", message.role, message.content).expect("a string takes any text");
        text
    })
}

/// What the user wants.
enum Message {
    Say(String),
    /// A command with what follows it, without the slash.
    Command(String),
    Nothing,
    /// Several lines without an end.
    Unfinished,
    End,
}

/// Where messages come from.
enum Input {
    /// A terminal, with editing and the lines of this session.
    Terminal(Box<DefaultEditor>),
    /// Anything else, read as it is.
    Lines(io::StdinLock<'static>),
}

enum Line {
    Text(String),
    /// Ctrl-C at the prompt.
    Cleared,
    End,
}

impl Input {
    fn open() -> anyhow::Result<Self> {
        // The editor draws on standard output, which is for answers alone where it is no terminal.
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            let editor = DefaultEditor::new().context("cannot read from the terminal")?;
            return Ok(Self::Terminal(Box::new(editor)));
        }
        Ok(Self::Lines(io::stdin().lock()))
    }

    fn message(&mut self, interrupted: &AtomicBool) -> anyhow::Result<Message> {
        let first = match self.line("> ", interrupted)? {
            Line::Text(line) => line,
            // Twice in a row.
            Line::Cleared => match self.line("> ", interrupted)? {
                Line::Text(line) => line,
                Line::Cleared | Line::End => return Ok(Message::End),
            },
            Line::End => return Ok(Message::End),
        };
        if first.trim() == "\"\"\"" {
            let mut lines = Vec::new();
            loop {
                match self.line(". ", interrupted)? {
                    Line::Text(line) if line.trim() == "\"\"\"" => return Ok(Message::Say(lines.join("\n"))),
                    Line::Text(line) => lines.push(line),
                    Line::Cleared => return Ok(Message::Nothing),
                    Line::End => return Ok(Message::Unfinished),
                }
            }
        }
        Ok(match first.strip_prefix('/') {
            _ if first.trim().is_empty() => Message::Nothing,
            Some(text) if text.starts_with('/') => Message::Say(text.to_owned()),
            Some(command) => Message::Command(command.to_owned()),
            None => Message::Say(first),
        })
    }

    fn line(&mut self, prompt: &str, interrupted: &AtomicBool) -> anyhow::Result<Line> {
        match self {
            Self::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => {
                    editor.add_history_entry(&line).context("cannot keep a line")?;
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Cleared),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
            Self::Lines(stdin) => {
                let mut line = String::new();
                let read = stdin.read_line(&mut line).context("cannot read from standard input")?;
                if read == 0 || interrupted.load(Ordering::Relaxed) {
                    return Ok(Line::End);
                }
                let line = line.strip_suffix('\n').unwrap_or(&line);
                Ok(Line::Text(line.strip_suffix('\r').unwrap_or(line).to_owned()))
            }
        }
    }
}
