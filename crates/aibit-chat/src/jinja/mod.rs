//! Renders Jinja templates as jinja2 does in the environment of transformers: its sandbox, with blocks trimmed.
//!
//! `minijinja` reads the syntax. What it means is evaluated here, on Python's values: equality, printing, scopes and
//! the methods of strings decide which prompt a model gets, and another answer is another prompt with no error.
//! Whatever is not as in jinja2 is refused by name.
//!
//! A template is a program that nobody trusts: it reads no files and no clock, and has bounded time, memory and stack
//! whatever it says. [`budget`] charges each step and all that is made; the syntax is kept small before it is read.

mod arguments;
mod attributes;
mod budget;
mod casing;
mod evaluate;
mod filters;
mod format;
mod functions;
mod json;
mod mentions;
mod methods;
mod operators;
mod predicates;
mod printing;
mod source;
mod text;
mod value;

use std::ops::Range;
use std::thread;

use minijinja::machinery::ast::Stmt;

use self::budget::{Budget, MAX_OUTPUT, Outcome, Problem, refuse};
use self::text::Text;
use self::value::Value;
use super::time::LocalTime;

pub(super) use self::source::MAX_TEMPLATE;

/// Characters of an error; one may quote what the template has made.
const MAX_PROBLEM: usize = 1000;
/// Enough for the deepest template of the greatest length; pages that are not touched cost nothing.
const STACK: usize = 64 << 20;

/// What a template is given under a name.
#[derive(Debug, Clone)]
pub(super) enum Variable {
    None,
    Flag(bool),
    /// A special token.
    Token(String),
    /// Maps, each of names and strings.
    Messages(Vec<Vec<(&'static str, Content)>>),
}

/// A string of a message.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub text: String,
    /// Whether somebody has written it, as opposed to a role.
    pub is_typed: bool,
}

/// What a template makes of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rendered {
    pub text: String,
    /// Where `text` comes from contents of messages, in bytes, in order.
    pub typed: Vec<Range<usize>>,
}

/// Returns what the template `source` makes of `variables`.
///
/// # Errors
/// What is wrong, with the line of the template where that is known.
pub(super) fn render(
    source: &str,
    variables: &[(&str, Variable)],
    now: LocalTime,
) -> Result<Rendered, RenderError> {
    on_own_stack(|| {
        with_template(source, |template| {
            let budget = Budget::default();
            let mut values = Vec::new();
            for (name, variable) in variables {
                values.push((*name, value_of(&budget, variable)?));
            }
            rendered(&evaluate::evaluate(template, budget, values, now)?)
        })
    })
}

/// Refuses a template that no conversation can be rendered with.
///
/// # Errors
/// Wrong syntax, and statements that are not supported.
pub(super) fn check(source: &str) -> Result<(), RenderError> {
    on_own_stack(|| with_template(source, mentions::check))
}

/// Why there is no text.
#[derive(Debug, Clone)]
pub(super) struct RenderError {
    pub problem: String,
    /// Whether the template itself refuses the conversation.
    pub raised: bool,
}

/// Runs `work` on a stack of its own: the parser, the evaluation and the destructors of trees recurse.
fn on_own_stack<T: Send>(work: impl FnOnce() -> Outcome<T> + Send) -> Result<T, RenderError> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("chat template".into()).stack_size(STACK);
        match builder.spawn_scoped(scope, || work().map_err(describe)) {
            // A panic would be a bug of the engine, and still no reason to end the program.
            Ok(handle) => handle.join().unwrap_or_else(|_| {
                let problem = "the template engine failed on it; please report this".into();
                Err(RenderError { problem, raised: false })
            }),
            Err(e) => {
                let problem = format!("no thread with a stack of {STACK} bytes to render it on: {e}");
                Err(RenderError { problem, raised: false })
            }
        }
    })
}

fn describe(problem: Problem) -> RenderError {
    let Problem { line, text, raised } = problem;
    let line = line.filter(|_| !raised).map_or(String::new(), |line| format!("line {line}: "));
    let text = match text.char_indices().nth(MAX_PROBLEM) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    };
    RenderError { problem: format!("{line}{text}"), raised }
}

fn with_template<T>(source: &str, work: impl FnOnce(&Stmt<'_>) -> Outcome<T>) -> Outcome<T> {
    let source = source::prepared(source)?;
    let template = source::parse(&source)?;
    work(&template)
}

fn value_of(budget: &Budget, variable: &Variable) -> Outcome<Value> {
    match variable {
        Variable::None => Ok(Value::None),
        Variable::Flag(flag) => Ok(Value::Bool(*flag)),
        Variable::Token(token) => Ok(Value::text(token)),
        Variable::Messages(messages) => {
            let message = |entries: &Vec<(&'static str, Content)>| {
                let entry = |(name, content): &(&str, Content)| {
                    (Value::text(name), Value::Text(Text::new(&content.text, content.is_typed)))
                };
                Value::dict(budget, entries.iter().map(entry))
            };
            Value::list(budget, messages.iter().map(message).collect::<Outcome<_>>()?)
        }
    }
}

fn rendered(chars: &[text::Char]) -> Outcome<Rendered> {
    let mut rendered = Rendered { text: String::new(), typed: Vec::new() };
    for run in chars.chunk_by(|a, b| a.is_typed() == b.is_typed()) {
        let start = rendered.text.len();
        rendered.text.extend(run.iter().map(|c| c.get()));
        if run[0].is_typed() {
            rendered.typed.push(start..rendered.text.len());
        }
    }
    if rendered.text.len() > MAX_OUTPUT {
        return refuse!("it gives {} bytes of text, allowed are {MAX_OUTPUT}", rendered.text.len());
    }
    Ok(rendered)
}
