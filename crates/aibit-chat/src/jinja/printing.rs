//! Python's `str` and `repr`.

use super::budget::{Budget, Outcome, refuse};
use super::text::{Char, Text, push};
use super::value::{Value, ViewKind};

/// `str(value)`: what is printed of it.
pub(super) fn str(budget: &Budget, value: &Value) -> Outcome<Text> {
    match value {
        Value::Text(text) | Value::Markup(text) => Ok(text.clone()),
        Value::Undefined(_) => Ok("".into()),
        _ => repr(budget, value),
    }
}

/// `repr(value)`: how it is printed inside a list.
pub(super) fn repr(budget: &Budget, value: &Value) -> Outcome<Text> {
    let mut chars = Vec::new();
    write_repr(budget, value, &mut chars)?;
    Ok(chars.into())
}

fn write_repr(budget: &Budget, value: &Value, out: &mut Vec<Char>) -> Outcome<()> {
    let before = out.len();
    match value {
        Value::Undefined(_) => push(out, "Undefined"),
        Value::None => push(out, "None"),
        Value::Bool(true) => push(out, "True"),
        Value::Bool(false) => push(out, "False"),
        Value::Int(value) => push(out, &value.to_string()),
        Value::Float(value) => push(out, &float(*value)),
        Value::Text(text) => {
            budget.characters(4 * text.len())?;
            write_quoted(text, out);
        }
        Value::Markup(text) => {
            budget.characters(4 * text.len())?;
            push(out, "Markup(");
            write_quoted(text, out);
            push(out, ")");
        }
        Value::List(list) => write_items(budget, "[", &list.items, "]", out)?,
        Value::Tuple(tuple) => {
            write_items(budget, "(", &tuple.items, if tuple.items.len() == 1 { ",)" } else { ")" }, out)?;
        }
        Value::Dict(dict) => {
            push(out, "{");
            for (index, (key, value)) in dict.entries.iter().enumerate() {
                push(out, if index > 0 { ", " } else { "" });
                write_repr(budget, key, out)?;
                push(out, ": ");
                write_repr(budget, value, out)?;
            }
            push(out, "}");
        }
        Value::View(kind, _) => {
            push(
                out,
                match kind {
                    ViewKind::Keys => "dict_keys(",
                    ViewKind::Values => "dict_values(",
                    ViewKind::Items => "dict_items(",
                },
            );
            write_items(budget, "[", &value.iterate(budget)?, "])", out)?;
        }
        Value::Range(range) if range.step == 1 => {
            push(out, &format!("range({}, {})", range.start, range.stop));
        }
        Value::Range(range) => {
            push(out, &format!("range({}, {}, {})", range.start, range.stop, range.step));
        }
        Value::Namespace(entries) => {
            push(out, "<Namespace {");
            for (index, (key, value)) in entries.borrow().iter().enumerate() {
                push(out, if index > 0 { ", " } else { "" });
                write_quoted(key, out);
                push(out, ": ");
                write_repr(budget, value, out)?;
            }
            push(out, "}>");
        }
        Value::Loop(state) => {
            push(out, &format!("<LoopContext {}/{}>", state.index0.get() + 1, state.items.len()));
        }
        // Their texts hold addresses.
        _ => return refuse!("a {} cannot be printed", value.kind()),
    }
    budget.characters(out.len() - before)
}

fn write_items(
    budget: &Budget,
    open: &str,
    items: &[Value],
    close: &str,
    out: &mut Vec<Char>,
) -> Outcome<()> {
    push(out, open);
    for (index, item) in items.iter().enumerate() {
        push(out, if index > 0 { ", " } else { "" });
        write_repr(budget, item, out)?;
    }
    push(out, close);
    Ok(())
}

fn write_quoted(text: &[Char], out: &mut Vec<Char>) {
    let has = |quote: char| text.iter().any(|c| c.get() == quote);
    let quote = if has('\'') && !has('"') { '"' } else { '\'' };
    out.push(Char::own(quote));
    for &c in text {
        let escaped = match c.get() {
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            other if other == quote => format!("\\{quote}"),
            other if is_printable(other) => other.to_string(),
            other => match u32::from(other) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            },
        };
        out.extend(escaped.chars().map(|e| c.with(e)));
    }
    out.push(Char::own(quote));
}

/// Python's `isprintable`: no control, format, private, unassigned or separating character but the space. `Debug` of
/// a string escapes the same, in front of a letter also what would combine with it.
pub(super) fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        ..='\u{a0}' | '\u{ad}' => false,
        _ => format!("{:?}", format!("a{c}")) == format!("\"a{c}\""),
    }
}

/// `repr` of a float: the shortest digits that give it again, with an exponent below 1e-4 and from 1e16.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}
