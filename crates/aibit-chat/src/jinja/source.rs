//! The text of a template, made ready for the parser.

use minijinja::machinery::ast::Stmt;
use minijinja::machinery::{Token, parse as parse_syntax, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::budget::{Outcome, Problem, refuse};

/// Longest template; the longest in use have a third of it.
pub(crate) const MAX_TEMPLATE: usize = 64 << 10;
/// Tokens between two braces: the parser and the evaluation of what it gives recurse.
const MAX_TAG_TOKENS: usize = 4096;

/// As the environment of transformers has it.
fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the default delimiters are valid")
}

fn from_engine(error: &minijinja::Error) -> Problem {
    let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let problem = Problem::new(text);
    match error.line() {
        Some(line) => problem.at(line as u32),
        None => problem,
    }
}

/// The syntax tree.
pub(super) fn parse(source: &str) -> Outcome<Stmt<'_>> {
    parse_syntax(source, "template", syntax()).map_err(|e| from_engine(&e))
}

/// `source` with `\n` for each line end, and with `with` for `generation`: those blocks mark what an assistant says,
/// for training, and give their body, whose variables are its own.
///
/// # Errors
/// Tags that would cost the parser too much, and escapes that it reads otherwise than Python. Wrong syntax is nothing
/// that is found here: the parser says it better.
pub(super) fn prepared(source: &str) -> Outcome<String> {
    let source = with_raw_lines(&source.replace("\r\n", "\n").replace('\r', "\n"));
    let mut prepared = String::with_capacity(source.len());
    let mut copied = 0;
    let mut tokens = 0;
    let mut begins_block = false;
    for (token, span) in tokenize(&source, false, syntax()).map_while(Result::ok) {
        let line = u32::from(span.start_line);
        let written = source.get(span.start_offset as usize..span.end_offset as usize).unwrap_or_default();
        tokens = match token {
            Token::VariableStart | Token::BlockStart => 0,
            _ => tokens + 1,
        };
        if tokens > MAX_TAG_TOKENS {
            return refuse!("a tag has more than {MAX_TAG_TOKENS} tokens").map_err(|e| e.at(line));
        }
        match token {
            Token::Str(_) | Token::String(_) => check_escapes(written).map_err(|e| e.at(line))?,
            Token::Ident(name @ ("generation" | "endgeneration")) if begins_block => {
                prepared.push_str(&source[copied..span.start_offset as usize]);
                prepared.push_str(if name == "generation" { "with" } else { "endwith" });
                copied = span.end_offset as usize;
            }
            _ => {}
        }
        begins_block = matches!(token, Token::BlockStart);
    }
    prepared.push_str(&source[copied..]);
    Ok(prepared)
}

/// `source` with one more line end behind each `{% raw %}` that a line end follows: jinja2 keeps that one, and the
/// parser trims one as behind any block.
fn with_raw_lines(source: &str) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        kept.push_str(before);
        rest = tag;
        let name = tag.trim_start_matches(['-', '+']).trim_start();
        if let Some(end) = name.strip_prefix("raw").map(str::trim_start)
            && let Some(after) = end.strip_prefix("%}")
            && after.starts_with('\n')
        {
            kept.push_str(&tag[..tag.len() - after.len()]);
            kept.push('\n');
            rest = after;
        }
    }
    kept.push_str(rest);
    kept
}

/// Refuses escapes of a string that Python has and the parser has not, or reads otherwise.
fn check_escapes(literal: &str) -> Outcome<()> {
    let mut chars = literal.chars();
    while let Some(c) = chars.next() {
        if c == '\\'
            && let Some(escape @ ('/' | 'a' | 'v' | 'N' | 'U' | '\n')) = chars.next()
        {
            return refuse!("the escape `\\{}` in a string is not supported", escape.escape_debug());
        }
    }
    Ok(())
}
