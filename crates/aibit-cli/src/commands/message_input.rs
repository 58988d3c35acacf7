//! Where the messages of a conversation come from: a terminal, with editing, or anything else, line by line.

use std::io::{self, BufRead, IsTerminal, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::text;
use crate::errors::Advised;

/// Begins and ends a message of several lines.
const MARK: &str = "\"\"\"";

/// Names of commands; any other line is a message, `/etc/fstab is empty` as well.
const COMMANDS: [&str; 8] = ["help", "?", "history", "system", "clear", "quit", "exit", "bye"];

/// What the user wants.
pub(crate) enum Message {
    Say(String),
    /// The name of a command, and what follows it.
    Command(String, String),
    Nothing,
    /// Something that cannot be sent, and why.
    Refused(Advised),
    End,
}

/// The source of messages.
pub(crate) enum Input {
    /// A terminal, with editing and the lines of this session.
    Terminal(Box<DefaultEditor>),
    /// Anything else, read as it is.
    Lines(io::StdinLock<'static>),
}

enum Line {
    Text(String),
    /// Bytes that are no text.
    NotText(Advised),
    /// Ctrl-C at the prompt.
    Cleared,
    End,
}

impl Input {
    pub(crate) fn open() -> anyhow::Result<Self> {
        // The editor draws on standard output, which is for answers alone where it is no terminal.
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            let editor = DefaultEditor::new().context("cannot read from the terminal")?;
            return Ok(Self::Terminal(Box::new(editor)));
        }
        Ok(Self::Lines(io::stdin().lock()))
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Waits for the next message. `interrupted` is set by Ctrl-C, and is not set afterwards.
    pub(crate) fn message(&mut self, interrupted: &AtomicBool) -> anyhow::Result<Message> {
        let mut line = self.line("> ", interrupted)?;
        if let Line::Cleared = line {
            line = self.line("> ", interrupted)?;
        }
        let mut lines = match line {
            Line::Text(line) => match first_line(&line) {
                First::Complete(message) => return Ok(message),
                First::Opened(lines) => lines,
            },
            Line::NotText(problem) => return Ok(Message::Refused(problem)),
            // Ctrl-C, twice in a row.
            Line::Cleared | Line::End => return Ok(Message::End),
        };
        let mut problem = None;
        loop {
            match self.line(". ", interrupted)? {
                Line::Text(line) => {
                    let (line, is_last) = further_line(&line);
                    lines.extend(line.map(str::to_owned));
                    if is_last {
                        return Ok(match problem {
                            Some(problem) => Message::Refused(problem),
                            None => said(&lines.join("\n")),
                        });
                    }
                }
                // The end of the message is still to be found, or what follows would be sent on its own.
                Line::NotText(found) => problem = Some(found),
                Line::Cleared => return Ok(Message::Nothing),
                Line::End => {
                    let message = "the message that \"\"\" began has no end, and was not sent";
                    return Ok(Message::Refused(
                        Advised::new("unfinished_message", message).hint("end it with \"\"\""),
                    ));
                }
            }
        }
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
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    Ok(Line::NotText(not_text("what came with it is lost as well")))
                }
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
            Self::Lines(stdin) => {
                let mut bytes = Vec::new();
                // Nothing is being answered that Ctrl-C could end, so it ends the program while this waits.
                interrupted.store(true, Ordering::Relaxed);
                let read = stdin.take(text::LONGEST_PROMPT + 1).read_until(b'\n', &mut bytes);
                interrupted.store(false, Ordering::Relaxed);
                if read.context("cannot read from standard input")? == 0 {
                    return Ok(Line::End);
                }
                if bytes.len() as u64 > text::LONGEST_PROMPT {
                    bail!(text::too_long("a line of standard input", text::LONGEST_PROMPT));
                }
                Ok(match String::from_utf8(bytes) {
                    Ok(line) => {
                        let line = line.strip_suffix('\n').unwrap_or(&line);
                        Line::Text(line.strip_suffix('\r').unwrap_or(line).to_owned())
                    }
                    Err(error) => Line::NotText(not_text(&format!(
                        "byte {} of it is {:#04x}",
                        error.utf8_error().valid_up_to(),
                        error.as_bytes()[error.utf8_error().valid_up_to()]
                    ))),
                })
            }
        }
    }
}

fn not_text(detail: &str) -> Advised {
    Advised::new("not_utf8", format!("a line is not UTF-8 text, and was not sent; {detail}"))
        .hint("convert it, for instance with `iconv -f latin1 -t utf-8`")
}

/// What the first line of a message begins, or already is.
enum First {
    Complete(Message),
    /// A message of several lines, with those that it has so far.
    Opened(Vec<String>),
}

fn first_line(line: &str) -> First {
    let trimmed = line.trim();
    if let Some(rest) = line.trim_start().strip_prefix(MARK) {
        return match rest.trim_end().strip_suffix(MARK) {
            Some(text) => First::Complete(said(text)),
            None => First::Opened(if rest.trim().is_empty() { Vec::new() } else { vec![rest.to_owned()] }),
        };
    }
    if let Some(text) = trimmed.strip_suffix(MARK)
        && !text.contains(MARK)
    {
        return First::Opened(vec![text.to_owned()]);
    }
    let is_command = |text: &str| COMMANDS.contains(&text.split(char::is_whitespace).next().unwrap_or(text));
    First::Complete(match line.strip_prefix('/') {
        Some(text) if text.strip_prefix('/').is_some_and(is_command) => said(text),
        Some(text) if is_command(text) => {
            let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            Message::Command(name.to_owned(), rest.trim().to_owned())
        }
        _ => said(line),
    })
}

/// What a line adds to a message of several lines, if it does, and whether it is the last one.
fn further_line(line: &str) -> (Option<&str>, bool) {
    let text = line.trim_end().strip_suffix(MARK).or_else(|| line.trim_start().strip_prefix(MARK));
    match text {
        Some(text) => (Some(text).filter(|text| !text.trim().is_empty()), true),
        None => (Some(line), false),
    }
}

fn said(text: &str) -> Message {
    if text.trim().is_empty() { Message::Nothing } else { Message::Say(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lines amount to, as one text.
    fn check(lines: &[&str], expected: &str) {
        let (first, further) = lines.split_first().expect("a line");
        let message = match first_line(first) {
            First::Complete(message) => {
                assert!(further.is_empty(), "{lines:?}: complete after the first");
                message
            }
            First::Opened(mut lines) => {
                for (index, line) in further.iter().enumerate() {
                    let (text, is_last) = further_line(line);
                    assert_eq!(is_last, index + 1 == further.len(), "{line}");
                    lines.extend(text.map(str::to_owned));
                }
                said(&lines.join("\n"))
            }
        };
        let found = match message {
            Message::Say(text) => format!("say {text}"),
            Message::Command(name, rest) => format!("command {name} [{rest}]"),
            Message::Nothing => "nothing".to_owned(),
            Message::Refused(_) | Message::End => "refused".to_owned(),
        };
        assert_eq!(found, expected, "{lines:?}");
    }

    #[test]
    fn commands_are_those_that_there_are() {
        check(&["/bye"], "command bye []");
        check(&["/?"], "command ? []");
        check(&["/system  Be kind. "], "command system [Be kind.]");
        check(&["/clear\tthe table"], "command clear [the table]");
        check(&["/etc/fstab"], "say /etc/fstab");
        check(&["/usr is big"], "say /usr is big");
        check(&["/helpful"], "say /helpful");
        check(&["/"], "say /");
        check(&[" /help"], "say  /help");
        check(&["//help me"], "say /help me");
        check(&["// a comment"], "say // a comment");
    }

    #[test]
    fn several_lines_begin_and_end_beside_text() {
        check(&["\"\"\"", "one", "", "  two", "\"\"\""], "say one\n\n  two");
        check(&["\"\"\"one", "two\"\"\""], "say one\ntwo");
        check(&["\"\"\"one\"\"\""], "say one");
        check(&["Explain this: \"\"\"", "/help", "\"\"\" briefly"], "say Explain this: \n/help\n briefly");
        check(&["say \"\"\"hi\"\"\" to them"], "say say \"\"\"hi\"\"\" to them");
        check(&["say \"\"\"hi\"\"\""], "say say \"\"\"hi\"\"\"");
        check(&["\"\"\"\"\"\""], "nothing");
        check(&["\"\"\"", "\"\"\""], "nothing");
        check(&["   "], "nothing");
    }
}
