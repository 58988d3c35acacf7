//! `tojson`, as transformers defines it: `json.dumps` of Python, without HTML's escapes.

use super::arguments::Arguments;
use super::budget::{Budget, Outcome, refuse};
use super::printing;
use super::text::{Char, Text, push};
use super::value::{Value, order};

pub(super) fn to_json(budget: &Budget, value: &Value, arguments: Arguments) -> Outcome<Value> {
    let bound = arguments.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"], 0)?;
    let indent: Option<Text> = match bound.value(1) {
        None | Some(Value::None) => None,
        Some(Value::Text(indent)) => Some(indent.clone()),
        Some(_) => {
            let width = usize::try_from(bound.int(1, 0)?).unwrap_or(0);
            budget.characters(width)?;
            Some(vec![Char::own(' '); width].into())
        }
    };
    let (item, key) = match bound.value(2) {
        None | Some(Value::None) => ((if indent.is_some() { "," } else { ", " }).into(), ": ".into()),
        Some(separators) => match separators.iterate(budget)?.as_slice() {
            [Value::Text(item), Value::Text(key)] => (item.clone(), key.clone()),
            _ => return refuse!("`separators` of `tojson` are two strings"),
        },
    };
    let mut writer = Writer {
        budget,
        out: Vec::new(),
        indent,
        item,
        key,
        ensure_ascii: bound.is_true(0),
        sort_keys: bound.is_true(3),
    };
    writer.value(value, 1)?;
    Ok(Value::Text(writer.out.into()))
}

struct Writer<'a> {
    budget: &'a Budget,
    out: Vec<Char>,
    indent: Option<Text>,
    item: Text,
    key: Text,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, nesting: usize) -> Outcome<()> {
        self.budget.items(1)?;
        match value {
            Value::None => push(&mut self.out, "null"),
            Value::Bool(value) => push(&mut self.out, if *value { "true" } else { "false" }),
            Value::Int(value) => push(&mut self.out, &value.to_string()),
            Value::Float(value) => push(&mut self.out, &number(*value)),
            Value::Text(text) | Value::Markup(text) => self.string(text)?,
            Value::List(items) | Value::Tuple(items) => {
                push(&mut self.out, "[");
                for (index, item) in items.items.iter().enumerate() {
                    self.begin_item(index == 0, nesting)?;
                    self.value(item, nesting + 1)?;
                }
                self.end("]", items.items.is_empty(), nesting)?;
            }
            Value::Dict(dict) => {
                push(&mut self.out, "{");
                let mut entries: Vec<&(Value, Value)> = dict.entries.iter().collect();
                if self.sort_keys {
                    let mut failure = None;
                    entries.sort_by(|(a, _), (b, _)| {
                        order(self.budget, a, b)
                            .unwrap_or_else(|problem| {
                                failure = Some(problem);
                                None
                            })
                            .unwrap_or(std::cmp::Ordering::Equal)
                    });
                    if let Some(problem) = failure {
                        return Err(problem);
                    }
                }
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    self.begin_item(index == 0, nesting)?;
                    match key {
                        Value::Text(key) | Value::Markup(key) => self.string(key)?,
                        Value::None => push(&mut self.out, "\"null\""),
                        Value::Bool(key) => {
                            push(&mut self.out, if *key { "\"true\"" } else { "\"false\"" });
                        }
                        Value::Int(key) => push(&mut self.out, &format!("\"{key}\"")),
                        Value::Float(key) => push(&mut self.out, &format!("\"{}\"", number(*key))),
                        _ => return refuse!("a key of JSON cannot be a '{}'", key.kind()),
                    }
                    self.budget.characters(self.key.len())?;
                    self.out.extend_from_slice(&self.key);
                    self.value(value, nesting + 1)?;
                }
                self.end("}", dict.entries.is_empty(), nesting)?;
            }
            _ => return refuse!("Object of type {} is not JSON serializable", value.kind()),
        }
        Ok(())
    }

    fn begin_item(&mut self, is_first: bool, nesting: usize) -> Outcome<()> {
        if !is_first {
            self.budget.characters(self.item.len())?;
            self.out.extend_from_slice(&self.item);
        }
        self.new_line(nesting)
    }

    fn end(&mut self, bracket: &str, is_empty: bool, nesting: usize) -> Outcome<()> {
        if !is_empty {
            self.new_line(nesting - 1)?;
        }
        push(&mut self.out, bracket);
        Ok(())
    }

    fn new_line(&mut self, nesting: usize) -> Outcome<()> {
        if let Some(indent) = &self.indent {
            self.budget.characters(1 + indent.len().saturating_mul(nesting))?;
            push(&mut self.out, "\n");
            for _ in 0..nesting {
                self.out.extend_from_slice(indent);
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &[Char]) -> Outcome<()> {
        self.budget.characters(text.len())?;
        push(&mut self.out, "\"");
        for &c in text {
            let escaped = match c.get() {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '\u{8}' => "\\b",
                '\u{c}' => "\\f",
                other if other < ' ' || (self.ensure_ascii && !other.is_ascii()) => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        let escaped = format!("\\u{unit:04x}");
                        self.budget.characters(escaped.len())?;
                        self.out.extend(escaped.chars().map(|e| c.with(e)));
                    }
                    continue;
                }
                _ => {
                    self.out.push(c);
                    continue;
                }
            };
            self.out.extend(escaped.chars().map(|e| c.with(e)));
        }
        push(&mut self.out, "\"");
        Ok(())
    }
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.into()
    } else {
        printing::float(value)
    }
}
