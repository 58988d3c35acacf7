//! Messages of a conversation: from a terminal with line editing, or line by line from anything else.

use std::io::{self, BufRead, IsTerminal, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::text;
use crate::errors::Advised;

/// Starts and ends a message of several lines.
const MARK: &str = "\"\"\"";

/// Names of commands; any other line is a message, `/etc/fstab is empty` too.
const COMMANDS: [&str; 8] = ["help", "?", "history", "system", "clear", "quit", "exit", "bye"];

/// The user's input.
pub(crate) enum Message {
    Say(String),
    /// A command's name and argument.
    Command(String, String),
    Nothing,
    /// Input that cannot be sent, and why.
    Refused(Advised),
    End,
}

/// The source of messages.
pub(crate) enum Input {
    /// A terminal, with line editing and the history of this session.
    Terminal(Box<DefaultEditor>),
    /// Anything else, read line by line.
    Lines(io::StdinLock<'static>),
}

enum Line {
    Text(String),
    /// Bytes that are not UTF-8.
    NotText(Advised),
    /// Ctrl-C at the prompt.
    Cleared,
    End,
}

impl Input {
    pub(crate) fn open() -> anyhow::Result<Self> {
        // The editor draws on standard output, which is reserved for answers if it is not a terminal.
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            let editor = DefaultEditor::new().context("cannot read from the terminal")?;
            return Ok(Self::Terminal(Box::new(editor)));
        }
        Ok(Self::Lines(io::stdin().lock()))
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Waits for the next message. `interrupted` is set by Ctrl-C and cleared here.
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
            // Ctrl-C twice in a row.
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
                // Read on to the end of the message, so that its remaining lines are not sent on their own.
                Line::NotText(found) => problem = Some(found),
                Line::Cleared => return Ok(Message::Nothing),
                Line::End => {
                    let message = "the message started by \"\"\" has no end and was not sent";
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
                    editor.add_history_entry(&line).context("cannot add to the history")?;
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Cleared),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    Ok(Line::NotText(not_text("the rest of its input is lost too")))
                }
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
            Self::Lines(stdin) => {
                let mut bytes = Vec::new();
                // No answer is being generated, so Ctrl-C ends the program while it waits here.
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
    Advised::new("not_utf8", format!("a line is not UTF-8 and was not sent; {detail}"))
        .hint("convert it, for instance with `iconv -f latin1 -t utf-8`")
}

/// The meaning of a message's first line.
enum First {
    Complete(Message),
    /// A message of several lines, with the lines so far.
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

/// The text that a line adds to a message of several lines, if any, and whether it is the last one.
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

    /// Joins what lines amount to into one text.
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
