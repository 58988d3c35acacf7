//! The filters of jinja2, with its results: all of those that give the same for the same input.

use std::cmp::Ordering;

use super::arguments::{Arguments, Bound};
use super::attributes;
use super::budget::{Budget, Outcome, Problem, refuse};
use super::text::{Char, Text, is_space, lines, push, strip, to_string};
use super::value::{Value, ViewKind, equal, order, text_like};
use super::{casing, format, json, methods, operators, predicates, printing};

#[rustfmt::skip] // a list of words
const NAMES: [&str; 49] = [
    "abs", "attr", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape",
    "filesizeformat", "first", "float", "forceescape", "format", "groupby", "indent", "int", "items", "join", "last",
    "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe",
    "select", "selectattr", "slice", "sort", "string", "striptags", "sum", "title", "tojson", "trim", "truncate",
    "unique", "upper", "urlencode", "wordcount",
];
/// Filters of jinja2 that this build knows by name, or in part.
const OTHERS: [&str; 5] = ["wordwrap", "xmlattr", "pprint", "random", "urlize"];

/// Whether jinja2 has a filter of that name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name) || OTHERS.contains(&name)
}

/// Lists longer than this are not sorted: each comparison may cost much.
const MAX_SORTED: usize = 100_000;

/// `value | name(arguments)`.
pub(super) fn apply(budget: &Budget, name: &str, value: &Value, arguments: Arguments) -> Outcome<Value> {
    let text = || printing::str(budget, value);
    let made = |chars: Vec<Char>| Ok(Value::Text(chars.into()));
    match name {
        "abs" => {
            arguments.none(name)?;
            match value {
                Value::Float(value) => Ok(Value::Float(value.abs())),
                Value::Undefined(what) => refuse!("{what}"),
                _ => match value.as_int().map(i128::checked_abs) {
                    Some(Some(value)) => Ok(Value::Int(value)),
                    _ => refuse!("bad operand type for abs(): '{}'", value.kind()),
                },
            }
        }
        "attr" => {
            let name = arguments.bind(name, ["name"], 1)?.printed(budget, 0, "")?;
            attributes::attr(value, &name.to_string())
        }
        "batch" => {
            let bound = arguments.bind(name, ["linecount", "fill_with"], 1)?;
            let count = bound.int(0, 0)?;
            let items = value.iterate(budget)?;
            let mut batches = Vec::new();
            // A count below 1 is never reached, but for the first item.
            let size = usize::try_from(count).unwrap_or(0);
            let chunks: Vec<&[Value]> = match size {
                0 if items.is_empty() => Vec::new(),
                0 if count == 0 => return refuse!("`batch` of 0 items is not supported"),
                0 => vec![&items[..]],
                _ => items.chunks(size).collect(),
            };
            for chunk in chunks {
                let mut batch = chunk.to_vec();
                if bound.is_some(1)
                    && let Some(fill) = bound.value(1)
                {
                    budget.items(size.saturating_sub(batch.len()))?;
                    batch.resize(size.max(batch.len()), fill.clone());
                }
                batches.push(Value::list(budget, batch)?);
            }
            Value::generator(budget, batches)
        }
        "slice" => {
            let bound = arguments.bind(name, ["slices", "fill_with"], 1)?;
            let items = value.iterate(budget)?;
            let count = match bound.int(0, 0)? {
                0 => return refuse!("integer division or modulo by zero"),
                count => usize::try_from(count).unwrap_or(0),
            };
            budget.items(count)?;
            let mut slices = Vec::new();
            let each = items.len().checked_div(count).unwrap_or(0);
            let longer = items.len().checked_rem(count).unwrap_or(0);
            let mut start = 0;
            for number in 0..count {
                let end = start + each + usize::from(number < longer);
                let mut slice = items[start..end].to_vec();
                start = end;
                if number >= longer
                    && bound.is_some(1)
                    && let Some(fill) = bound.value(1)
                {
                    slice.push(fill.clone());
                }
                slices.push(Value::list(budget, slice)?);
            }
            Value::generator(budget, slices)
        }
        "capitalize" | "lower" | "upper" => {
            arguments.none(name)?;
            let text = text()?;
            budget.characters(3 * text.len())?;
            Ok(text_like(
                value,
                match name {
                    "capitalize" => casing::capitalize(&text),
                    "lower" => casing::lower(&text),
                    _ => casing::upper(&text),
                },
            ))
        }
        "title" => {
            arguments.none(name)?;
            let text = text()?;
            budget.characters(3 * text.len())?;
            // Words begin behind white space, hyphens and opening brackets.
            let is_between = |c: &Char| is_space(*c) || matches!(c.get(), '-' | '(' | '{' | '[' | '<');
            let words = text.chunk_by(|a, b| is_between(a) == is_between(b));
            made(
                words
                    .flat_map(|word| [casing::upper(&word[..1]), casing::lower(&word[1..])].concat())
                    .collect(),
            )
        }
        "center" => {
            let width = arguments.bind(name, ["width"], 0)?.int(0, 80)?;
            let width = usize::try_from(width).unwrap_or(0);
            methods::justify(budget, &text()?, width, Char::own(' '), name).map(Value::Text)
        }
        "count" | "length" => {
            arguments.none(name)?;
            match value.len() {
                Some(len) => Ok(Value::Int(len as i128)),
                None => refuse!("object of type '{}' has no len()", value.kind()),
            }
        }
        "d" | "default" => {
            let mut bound = arguments.bind(name, ["default_value", "boolean"], 0)?;
            if value.is_undefined() || (bound.is_true(1) && !value.is_true()) {
                return Ok(bound.take(0).unwrap_or_else(|| Value::text("")));
            }
            Ok(value.clone())
        }
        "dictsort" => {
            let bound = arguments.bind(name, ["case_sensitive", "by", "reverse"], 0)?;
            let Value::Dict(dict) = value else {
                return refuse!("`dictsort` sorts maps, not '{}'", value.kind());
            };
            let by_value = match bound.optional_text(1)? {
                None => false,
                Some(by) if by.is("key") => false,
                Some(by) if by.is("value") => true,
                Some(_) => return refuse!("You can only sort by either \"key\" or \"value\""),
            };
            let keyed = |(key, value): &(Value, Value)| {
                let by = if by_value { value } else { key };
                let pair = Value::tuple(budget, vec![key.clone(), value.clone()])?;
                Ok((vec![folded(budget, by.clone(), bound.is_true(0))?], pair))
            };
            let pairs = dict.entries.iter().map(keyed).collect::<Outcome<Vec<_>>>()?;
            Value::list(budget, sorted(budget, pairs, bound.is_true(2))?)
        }
        "e" | "escape" => {
            arguments.none(name)?;
            match value {
                Value::Markup(_) => Ok(value.clone()),
                _ => operators::escape(budget, &text()?).map(Value::Markup),
            }
        }
        "forceescape" => {
            arguments.none(name)?;
            operators::escape(budget, &text()?).map(Value::Markup)
        }
        "safe" => arguments.none(name).and_then(|()| text()).map(Value::Markup),
        "string" => {
            arguments.none(name)?;
            match value {
                Value::Markup(_) => Ok(value.clone()),
                _ => text().map(Value::Text),
            }
        }
        "filesizeformat" => file_size(value, &arguments.bind(name, ["binary"], 0)?),
        "first" => {
            arguments.none(name)?;
            match value {
                Value::Generator(generator) => Ok(generator.rest.borrow_mut().pop_front()),
                Value::List(items) | Value::Tuple(items) => Ok(items.items.first().cloned()),
                _ => value.iterate(budget).map(|items| items.into_iter().next()),
            }
            .map(|first| first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
        }
        "last" => {
            arguments.none(name)?;
            match value {
                Value::Generator(_) => refuse!("'generator' object is not reversible"),
                Value::List(items) | Value::Tuple(items) => Ok(items.items.last().cloned()),
                _ => value.iterate(budget).map(|items| items.into_iter().next_back()),
            }
            .map(|last| last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
        }
        "float" => {
            let mut bound = arguments.bind(name, ["default"], 0)?;
            let default = |bound: &mut Bound<1>| bound.take(0).unwrap_or(Value::Float(0.0));
            Ok(match value {
                Value::Undefined(what) => return refuse!("{what}"),
                Value::Float(_) => value.clone(),
                Value::Text(text) | Value::Markup(text) => {
                    budget.characters(text.len())?;
                    parse_float(text)?.map_or_else(|| default(&mut bound), Value::Float)
                }
                _ => value.as_int().map_or_else(|| default(&mut bound), |value| Value::Float(value as f64)),
            })
        }
        "int" => {
            let mut bound = arguments.bind(name, ["default", "base"], 0)?;
            let base = bound.int(1, 10)?;
            let parsed = match value {
                Value::Undefined(what) => return refuse!("{what}"),
                Value::Float(value) if value.is_infinite() => {
                    return refuse!("cannot convert float infinity to integer");
                }
                Value::Float(value) => whole(*value)?,
                Value::Text(text) | Value::Markup(text) => {
                    budget.characters(text.len())?;
                    match parse_int(text, base)? {
                        Some(value) => Some(value),
                        // Of infinity, which is no integer either, the default is taken.
                        None => match parse_float(text)? {
                            Some(value) if value.is_finite() => whole(value)?,
                            _ => None,
                        },
                    }
                }
                _ => value.as_int(),
            };
            Ok(match parsed {
                Some(value) => Value::Int(value),
                None => bound.take(0).unwrap_or(Value::Int(0)),
            })
        }
        "format" => {
            let text = text()?;
            if matches!(value, Value::Markup(_)) {
                return refuse!("`format` of escaped text is not supported");
            }
            let Arguments { positional, named } = arguments;
            let values = match (positional.is_empty(), named.is_empty()) {
                (false, false) => {
                    return refuse!("can't handle positional and keyword arguments at the same time");
                }
                (_, true) => Value::tuple(budget, positional)?,
                _ => Value::dict(budget, named.into_iter().map(|(name, value)| (Value::text(&name), value)))?,
            };
            format::percent(budget, &text, &values).map(Value::Text)
        }
        "groupby" => {
            group_by(budget, value, &arguments.bind(name, ["attribute", "default", "case_sensitive"], 1)?)
        }
        "indent" => indent(budget, value, &arguments.bind(name, ["width", "first", "blank"], 0)?),
        "items" => {
            arguments.none(name)?;
            let items = match value {
                Value::Undefined(_) => Vec::new(),
                Value::Dict(dict) => Value::View(ViewKind::Items, dict.clone()).iterate(budget)?,
                _ => return refuse!("Can only get item pairs from a mapping."),
            };
            Value::generator(budget, items)
        }
        "join" => {
            let bound = arguments.bind(name, ["d", "attribute"], 0)?;
            let separator = bound.printed(budget, 0, "")?;
            let mut chars = Vec::new();
            for (index, item) in value.iterate(budget)?.into_iter().enumerate() {
                let item = match bound.value(1) {
                    None | Some(Value::None) => item,
                    Some(path) => follow(budget, item, &parts(budget, path)?, None)?,
                };
                let item = printing::str(budget, &item)?;
                if index > 0 {
                    budget.characters(separator.len())?;
                    chars.extend_from_slice(&separator);
                }
                budget.characters(item.len())?;
                chars.extend_from_slice(&item);
            }
            made(chars)
        }
        "list" => {
            arguments.none(name)?;
            Value::list(budget, value.iterate(budget)?)
        }
        "map" => map(budget, value, arguments),
        "max" | "min" => {
            let bound = arguments.bind(name, ["case_sensitive", "attribute"], 0)?;
            let path = parts(budget, bound.value(1).unwrap_or(&Value::None))?;
            let mut best: Option<(Value, Value)> = None;
            for item in value.iterate(budget)? {
                let key = folded(budget, follow(budget, item.clone(), &path, None)?, bound.is_true(0))?;
                let is_better = match &best {
                    None => true,
                    Some((old, _)) => {
                        let wanted = if name == "max" { Ordering::Greater } else { Ordering::Less };
                        order(budget, &key, old)? == Some(wanted)
                    }
                };
                if is_better {
                    best = Some((key, item));
                }
            }
            let empty = || Value::undefined("No aggregated item, sequence was empty.");
            Ok(best.map_or_else(empty, |(_, item)| item))
        }
        "select" | "reject" | "selectattr" | "rejectattr" => select(budget, name, value, arguments),
        "replace" => {
            let bound = arguments.bind(name, ["old", "new", "count"], 2)?;
            let (old, new) = (bound.printed(budget, 0, "")?, bound.printed(budget, 1, "")?);
            let count = bound.optional_int(2)?.unwrap_or(-1);
            let at_most = usize::try_from(count).unwrap_or(usize::MAX);
            methods::replace(budget, &text()?, &old, &new, at_most).map(Value::Text)
        }
        "reverse" => {
            arguments.none(name)?;
            if let Some(text) = value.as_text() {
                budget.characters(text.len())?;
                return Ok(text_like(value, text.iter().rev().copied().collect()));
            }
            let mut items = value.iterate(budget)?;
            items.reverse();
            match value {
                // Python has a list where it has to go through what cannot be reversed.
                Value::Generator(_) | Value::Undefined(_) => Value::list(budget, items),
                _ => Value::generator(budget, items),
            }
        }
        "round" => round(value, &arguments.bind(name, ["precision", "method"], 0)?),
        "sort" => {
            let bound = arguments.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
            let paths = match bound.value(2) {
                Some(Value::Text(paths)) => {
                    let paths = paths.to_string();
                    paths.split(',').map(|path| parts(budget, &Value::text(path))).collect::<Outcome<_>>()?
                }
                other => vec![parts(budget, other.unwrap_or(&Value::None))?],
            };
            let keyed = |item: Value| {
                let key = |path: &Vec<Value>| {
                    folded(budget, follow(budget, item.clone(), path, None)?, bound.is_true(1))
                };
                Ok((paths.iter().map(key).collect::<Outcome<Vec<_>>>()?, item))
            };
            let items = value.iterate(budget)?.into_iter().map(keyed).collect::<Outcome<Vec<_>>>()?;
            Value::list(budget, sorted(budget, items, bound.is_true(0))?)
        }
        "striptags" => {
            arguments.none(name)?;
            strip_tags(budget, &text()?)
        }
        "sum" => {
            let mut bound = arguments.bind(name, ["attribute", "start"], 0)?;
            let path = parts(budget, bound.value(0).unwrap_or(&Value::None))?;
            let mut sum = bound.take(1).unwrap_or(Value::Int(0));
            if sum.as_text().is_some() {
                return refuse!("sum() can't sum strings [use ''.join(seq) instead]");
            }
            for item in value.iterate(budget)? {
                let item = follow(budget, item, &path, None)?;
                budget.items(sum.len().unwrap_or(0))?;
                sum = operators::add(budget, &sum, &item)?;
            }
            Ok(sum)
        }
        "tojson" => json::to_json(budget, value, arguments),
        "trim" => {
            let bound = arguments.bind(name, ["chars"], 0)?;
            let (text, set) = (text()?, bound.optional_text(0)?);
            budget.characters(text.len() + set.as_ref().map_or(0, |set| set.len()))?;
            Ok(text_like(value, strip(&text, set.as_deref(), true, true).to_vec()))
        }
        "truncate" => {
            truncate(budget, value, &arguments.bind(name, ["length", "killwords", "end", "leeway"], 0)?)
        }
        "unique" => {
            let bound = arguments.bind(name, ["case_sensitive", "attribute"], 0)?;
            let path = parts(budget, bound.value(1).unwrap_or(&Value::None))?;
            let mut seen: Vec<Value> = Vec::new();
            let mut items = Vec::new();
            for item in value.iterate(budget)? {
                let key = folded(budget, follow(budget, item.clone(), &path, None)?, bound.is_true(0))?;
                key.check_hashable()?;
                let mut is_new = true;
                for other in &seen {
                    budget.bytes(1)?;
                    is_new = is_new && !equal(budget, other, &key)?;
                }
                if is_new {
                    seen.push(key);
                    items.push(item);
                }
            }
            Value::generator(budget, items)
        }
        "urlencode" => {
            arguments.none(name)?;
            url_encode(budget, value)
        }
        "wordcount" => {
            arguments.none(name)?;
            let text = text()?;
            budget.characters(text.len())?;
            let is_word = |c: &Char| c.get() == '_' || casing::is_letter_or_number(c.get());
            let words = text.chunk_by(|a, b| is_word(a) == is_word(b)).filter(|chunk| is_word(&chunk[0]));
            Ok(Value::Int(words.count() as i128))
        }
        "wordwrap" => {
            let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
            word_wrap(budget, value, &arguments.bind(name, names, 0)?)
        }
        "xmlattr" => xml_attributes(budget, value, &arguments.bind(name, ["autospace"], 0)?),
        "pprint" | "random" | "urlize" => refuse!("the filter `{name}` is not supported"),
        _ => refuse!("there is no filter `{name}`"),
    }
}

/// What a path such as `address.city` or `0` looks up, one after the other.
fn parts(budget: &Budget, path: &Value) -> Outcome<Vec<Value>> {
    match path {
        Value::None => Ok(Vec::new()),
        Value::Text(text) => {
            budget.characters(text.len())?;
            let part = |part: &str| match part.parse() {
                Ok(index) if part.bytes().all(|b| b.is_ascii_digit()) => Value::Int(index),
                _ => Value::text(part),
            };
            Ok(text.to_string().split('.').map(part).collect())
        }
        _ => Ok(vec![path.clone()]),
    }
}

fn follow(budget: &Budget, mut value: Value, path: &[Value], default: Option<&Value>) -> Outcome<Value> {
    for part in path {
        value = attributes::item(budget, &value, part)?;
        if let (true, Some(default)) = (value.is_undefined(), default) {
            value = default.clone();
        }
    }
    Ok(value)
}

/// A string in lower case, unless its case counts; anything else as it is.
fn folded(budget: &Budget, value: Value, case_sensitive: bool) -> Outcome<Value> {
    match &value {
        Value::Text(text) | Value::Markup(text) if !case_sensitive => {
            budget.characters(text.len())?;
            Ok(Value::Text(casing::lower(text).into()))
        }
        _ => Ok(value),
    }
}

/// Items by their keys, those of equal keys in the order in which they came.
fn sorted(budget: &Budget, mut items: Vec<(Vec<Value>, Value)>, reverse: bool) -> Outcome<Vec<Value>> {
    if items.len() > MAX_SORTED {
        return refuse!("a list of {} items is too long to be sorted", items.len());
    }
    let mut failure: Option<Problem> = None;
    let mut compare = |a: &[Value], b: &[Value]| {
        for (a, b) in a.iter().zip(b) {
            if failure.is_some() {
                break;
            }
            match order(budget, a, b) {
                Ok(Some(Ordering::Equal)) => {}
                Ok(Some(order)) => return order,
                Ok(None) => failure = Some(Problem::new("NaN cannot be sorted")),
                Err(problem) => failure = Some(problem),
            }
        }
        Ordering::Equal
    };
    items.sort_by(|(a, _), (b, _)| if reverse { compare(b, a) } else { compare(a, b) });
    match failure {
        Some(problem) => Err(problem),
        None => Ok(items.into_iter().map(|(_, item)| item).collect()),
    }
}

fn group_by(budget: &Budget, value: &Value, bound: &Bound<3>) -> Outcome<Value> {
    let path = parts(budget, bound.value(0).unwrap_or(&Value::None))?;
    let default = if bound.is_some(1) { bound.value(1) } else { None };
    let keyed = |item: Value| {
        let real = follow(budget, item.clone(), &path, default)?;
        let key = folded(budget, real.clone(), bound.is_true(2))?;
        Ok((vec![key.clone()], Value::tuple(budget, vec![key, real, item])?))
    };
    let items = value.iterate(budget)?.into_iter().map(keyed).collect::<Outcome<Vec<_>>>()?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for item in sorted(budget, items, false)? {
        let Value::Tuple(parts) = &item else { continue };
        let [key, real, item] = &parts.items[..] else { continue };
        match groups.last_mut() {
            Some((last, _, items)) if equal(budget, last, key)? => items.push(item.clone()),
            // The first of a group says how its key is written.
            _ => groups.push((key.clone(), real.clone(), vec![item.clone()])),
        }
    }
    let group =
        |(_, real, items)| Value::list(budget, items).and_then(|list| Value::group(budget, real, list));
    Value::list(budget, groups.into_iter().map(group).collect::<Outcome<_>>()?)
}

fn map(budget: &Budget, value: &Value, mut arguments: Arguments) -> Outcome<Value> {
    // jinja2 looks at nothing else where there is nothing to go through, be it none or 0.
    if !value.is_true() {
        return Value::generator(budget, Vec::new());
    }
    let items = value.iterate(budget)?;
    if arguments.positional.is_empty() {
        let bound = arguments.bind("map", ["attribute", "default"], 0)?;
        let Some(path) = bound.value(0) else { return refuse!("map requires a filter argument") };
        let path = parts(budget, path)?;
        let default = if bound.is_some(1) { bound.value(1) } else { None };
        let mapped = |item| follow(budget, item, &path, default);
        return Value::generator(budget, items.into_iter().map(mapped).collect::<Outcome<_>>()?);
    }
    let Some(Value::Text(name)) = arguments.pop_first() else {
        return refuse!("`map` applies a filter by its name, which is a string");
    };
    let name = name.to_string();
    let mapped = |item: Value| {
        budget.step()?;
        budget.items(arguments.positional.len() + arguments.named.len())?;
        apply(budget, &name, &item, arguments.clone())
    };
    Value::generator(budget, items.iter().cloned().map(mapped).collect::<Outcome<_>>()?)
}

fn select(budget: &Budget, name: &str, value: &Value, mut arguments: Arguments) -> Outcome<Value> {
    if !value.is_true() {
        return Value::generator(budget, Vec::new());
    }
    let path = if name.ends_with("attr") {
        let Some(path) = arguments.pop_first() else {
            return refuse!("Missing parameter for attribute name");
        };
        parts(budget, &path)?
    } else {
        Vec::new()
    };
    let test = match arguments.pop_first() {
        None => None,
        Some(Value::Text(test)) => Some(test.to_string()),
        Some(_) => return refuse!("`{name}` applies a test by its name, which is a string"),
    };
    let mut kept = Vec::new();
    for item in value.iterate(budget)? {
        budget.step()?;
        let tested = follow(budget, item.clone(), &path, None)?;
        budget.items(arguments.positional.len())?;
        let holds = match &test {
            None => tested.is_true(),
            Some(test) => predicates::holds(budget, test, &tested, arguments.clone())?,
        };
        if holds == name.starts_with("select") {
            kept.push(item);
        }
    }
    Value::generator(budget, kept)
}

fn indent(budget: &Budget, value: &Value, bound: &Bound<3>) -> Outcome<Value> {
    let Some(text) = value.as_text() else {
        return match value {
            Value::Undefined(what) => refuse!("{what}"),
            _ => refuse!("`indent` of '{}' is not possible", value.kind()),
        };
    };
    let indention: Vec<Char> = match bound.value(0) {
        Some(Value::Text(indention)) => indention.to_vec(),
        _ => {
            let width = usize::try_from(bound.int(0, 4)?).unwrap_or(0);
            budget.characters(width)?;
            vec![Char::own(' '); width]
        }
    };
    // jinja2 adds a line end, so that one at the end begins another line.
    let mut ended = text.to_vec();
    ended.push(Char::own('\n'));
    budget.characters(ended.len())?;
    let mut chars = Vec::new();
    for (index, line) in lines(&ended, false).into_iter().enumerate() {
        if index > 0 {
            push(&mut chars, "\n");
        }
        let is_indented = if index == 0 { bound.is_true(1) } else { bound.is_true(2) || !line.is_empty() };
        if is_indented {
            budget.characters(indention.len())?;
            chars.extend_from_slice(&indention);
        }
        budget.characters(line.len())?;
        chars.extend_from_slice(line);
    }
    Ok(text_like(value, chars))
}

fn truncate(budget: &Budget, value: &Value, bound: &Bound<4>) -> Outcome<Value> {
    let Value::Text(text) = value else {
        return refuse!("`truncate` of '{}' is not supported", value.kind());
    };
    let (length, leeway) = (bound.int(0, 255)?, bound.optional_int(3)?.unwrap_or(5));
    let end = match bound.value(2) {
        None => Text::from("..."),
        Some(_) => bound.text(2)?,
    };
    if length < end.len() as i64 || leeway < 0 {
        return refuse!("`truncate` to {length} characters with an end of {} is not possible", end.len());
    }
    if text.len() as i64 <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    budget.characters(text.len())?;
    let kept = &text[..length as usize - end.len()];
    let kept = match kept.iter().rposition(|c| c.get() == ' ') {
        Some(at) if !bound.is_true(1) => &kept[..at],
        _ => kept,
    };
    Ok(Value::Text([kept, &end].concat().into()))
}

/// Lines of at most `width` characters, of which a longer word is broken.
fn word_wrap(budget: &Budget, value: &Value, bound: &Bound<4>) -> Outcome<Value> {
    let Value::Text(text) = value else {
        return refuse!("`wordwrap` of '{}' is not supported", value.kind());
    };
    let Ok(width @ 1..) = usize::try_from(bound.int(0, 79)?) else {
        return refuse!("`wordwrap` needs a width above 0");
    };
    let break_long = bound.value(1).is_none_or(Value::is_true);
    if bound.value(3).is_none_or(Value::is_true) && text.iter().any(|c| matches!(c.get(), '-' | '—')) {
        return refuse!("`wordwrap` of text with hyphens needs `break_on_hyphens=false`");
    }
    let separator = bound.optional_text(2)?.unwrap_or_else(|| "\n".into());
    let mut wrapped: Vec<Vec<Char>> = Vec::new();
    budget.characters(2 * text.len())?;
    let is_blank = |c: &Char| matches!(c.get(), '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ');
    for line in lines(text, false) {
        let mut parts: Vec<Vec<Char>> = Vec::new();
        let mut current: Vec<Char> = Vec::new();
        let finish = |current: &mut Vec<Char>, parts: &mut Vec<Vec<Char>>| {
            while current.last().is_some_and(is_blank) {
                current.pop();
            }
            if !current.is_empty() {
                parts.push(std::mem::take(current));
            }
        };
        for chunk in line.chunk_by(|a, b| is_blank(a) == is_blank(b)) {
            budget.items(1)?;
            if current.len() + chunk.len() > width {
                let mut chunk = chunk;
                if chunk.len() > width && break_long && !is_blank(&chunk[0]) {
                    // The rest of a line takes the beginning of a word that no line holds.
                    let (head, tail) = chunk.split_at((width - current.len().min(width)).min(chunk.len()));
                    current.extend_from_slice(head);
                    chunk = tail;
                    finish(&mut current, &mut parts);
                    while chunk.len() > width {
                        budget.items(1)?;
                        parts.push(chunk[..width].to_vec());
                        chunk = &chunk[width..];
                    }
                } else {
                    finish(&mut current, &mut parts);
                    current.clear();
                }
                if is_blank(&chunk[0]) && parts.last().is_some() {
                    continue;
                }
                current.extend_from_slice(chunk);
            } else if !(current.is_empty() && is_blank(&chunk[0]) && !parts.is_empty()) {
                current.extend_from_slice(chunk);
            }
        }
        finish(&mut current, &mut parts);
        wrapped.push(parts.join(&separator[..]));
    }
    let made = wrapped.join(&separator[..]);
    budget.characters(made.len())?;
    Ok(Value::Text(made.into()))
}

fn round(value: &Value, bound: &Bound<2>) -> Outcome<Value> {
    let precision = bound.int(0, 0)?;
    let method = bound.optional_text(1)?.map_or_else(|| "common".to_owned(), |method| method.to_string());
    let number = match value {
        Value::Float(value) => *value,
        Value::Undefined(what) => return refuse!("{what}"),
        _ => match value.as_int() {
            Some(value) => value as f64,
            None => return refuse!("`round` of '{}' is not possible", value.kind()),
        },
    };
    match (method.as_str(), value.as_int()) {
        ("common", Some(value)) if precision >= 0 => Ok(Value::Int(value)),
        ("common", None) if precision >= 0 && number.is_finite() => {
            let digits = precision.min(400) as usize;
            Ok(Value::Float(format!("{number:.digits$}").parse().unwrap_or(number)))
        }
        ("common", None) if precision >= 0 => Ok(value.clone()),
        ("common", _) => refuse!("`round` to a negative precision is not supported"),
        ("ceil" | "floor", _) => {
            if !(0..=300).contains(&precision) || !number.is_finite() {
                return refuse!(
                    "`round` of {} to {precision} digits is not supported",
                    printing::float(number)
                );
            }
            let scale = format!("1e{precision}").parse().unwrap_or(1.0);
            let scaled = number * scale;
            let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
            Ok(Value::Float(whole / scale + 0.0))
        }
        _ => refuse!("method must be common, ceil or floor"),
    }
}

/// A float without its fraction; none for NaN.
fn whole(value: f64) -> Outcome<Option<i128>> {
    if value.abs() >= 1.7e38 {
        return refuse!("{} is too large an integer", printing::float(value));
    }
    Ok((!value.is_nan()).then_some(value as i128))
}

/// Digits with single underscores between them, or none where it is anything else.
fn without_underscores(digits: &str) -> Option<String> {
    let is_wrong = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    (!is_wrong && !digits.is_empty()).then(|| digits.replace('_', ""))
}

/// Python's `int(text, base)`.
fn parse_int(text: &[Char], base: i64) -> Outcome<Option<i128>> {
    let stripped = to_string(strip(text, None, true, true));
    if !stripped.is_ascii() {
        return match stripped.chars().any(|c| !c.is_ascii() && casing::may_be_number(c, "int")) {
            true => refuse!("digits beyond ASCII are not supported"),
            false => Ok(None),
        };
    }
    let (sign, digits) = match stripped.as_bytes().first() {
        Some(b'-') => (-1, &stripped[1..]),
        Some(b'+') => (1, &stripped[1..]),
        _ => (1, &stripped[..]),
    };
    let prefixed = digits.get(..2).map(str::to_ascii_lowercase);
    let (base, digits) = match (base, prefixed.as_deref()) {
        (0 | 16, Some("0x")) => (16, &digits[2..]),
        (0 | 8, Some("0o")) => (8, &digits[2..]),
        (0 | 2, Some("0b")) => (2, &digits[2..]),
        (0, _)
            if digits.len() > 1
                && digits.starts_with('0')
                && digits.bytes().any(|b| b != b'0' && b != b'_') =>
        {
            return Ok(None);
        }
        (0, _) => (10, digits),
        (2..=36, _) => (base as u32, digits),
        _ => return Ok(None),
    };
    // Behind the prefix of a base an underscore may stand.
    let digits =
        if prefixed.is_some() && base != 10 { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    let Some(digits) = without_underscores(digits) else { return Ok(None) };
    if !digits.chars().all(|c| c.is_digit(base)) {
        return Ok(None);
    }
    match i128::from_str_radix(&digits, base) {
        Ok(value) => Ok(Some(sign * value)),
        Err(_) => refuse!("an integer of {} digits is too large", digits.len()),
    }
}

/// Python's `float(text)`.
fn parse_float(text: &[Char]) -> Outcome<Option<f64>> {
    let stripped = to_string(strip(text, None, true, true));
    let lower = stripped.to_ascii_lowercase();
    match lower.trim_start_matches(['+', '-']) {
        "inf" | "infinity" | "nan" if lower.len() - lower.trim_start_matches(['+', '-']).len() <= 1 => {
            return Ok(lower.parse().ok());
        }
        _ => {}
    }
    if lower.chars().any(|c| !c.is_ascii() && casing::may_be_number(c, "float")) {
        return refuse!("digits beyond ASCII are not supported");
    }
    let is_number =
        lower.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'_'));
    // An underscore stands between two digits.
    let bytes = lower.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let misplaced = (0..bytes.len())
        .any(|at| bytes[at] == b'_' && !(is_digit(at.checked_sub(1)) && is_digit(Some(at + 1))));
    if !is_number || misplaced {
        return Ok(None);
    }
    Ok(lower.replace('_', "").parse().ok())
}

fn file_size(value: &Value, bound: &Bound<1>) -> Outcome<Value> {
    let bytes = match value {
        Value::Float(value) => *value,
        Value::Text(text) => match parse_float(text)? {
            Some(value) => value,
            None => return refuse!("could not convert string to float"),
        },
        Value::Undefined(what) => return refuse!("{what}"),
        _ => match value.as_int() {
            Some(value) => value as f64,
            None => return refuse!("`filesizeformat` of '{}' is not possible", value.kind()),
        },
    };
    let (base, prefixes) = if bound.is_true(0) {
        (1024f64, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"])
    } else {
        (1000f64, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
    };
    if bytes == 1.0 {
        return Ok(Value::text("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::text(&format!("{} Bytes", bytes.trunc())));
    }
    let mut unit = base;
    for (index, prefix) in prefixes.iter().enumerate() {
        unit *= base;
        if bytes < unit || index + 1 == prefixes.len() {
            return Ok(Value::text(&format!("{:.1} {prefix}", base * bytes / unit)));
        }
    }
    refuse!("`filesizeformat` of {} is not possible", printing::float(bytes))
}

fn strip_tags(budget: &Budget, text: &Text) -> Outcome<Value> {
    budget.characters(2 * text.len())?;
    let mut chars: Vec<Char> = text.to_vec();
    // Comments first, then tags; what is not closed stays.
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        let (open, close) = (Text::from(open), Text::from(close));
        let mut kept = Vec::with_capacity(chars.len());
        let mut rest = &chars[..];
        while let Some(start) = rest.windows(open.len()).position(|window| window == &open[..]) {
            let Some(end) = rest[start..].windows(close.len()).position(|window| window == &close[..]) else {
                break;
            };
            kept.extend_from_slice(&rest[..start]);
            rest = &rest[start + end + close.len()..];
        }
        kept.extend_from_slice(rest);
        chars = kept;
    }
    let mut unescaped = Vec::with_capacity(chars.len());
    let mut rest = &chars[..];
    while let Some((&c, after)) = rest.split_first() {
        rest = after;
        if c.get() != '&' {
            unescaped.push(c);
            continue;
        }
        let name: String = after.iter().take(7).map(|c| c.get()).take_while(|c| *c != ';').collect();
        let character = match name.as_str() {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" | "#34" => '"',
            "#39" => '\'',
            _ if after.first().is_none_or(|c| !(c.get().is_ascii_alphanumeric() || c.get() == '#')) => {
                unescaped.push(c);
                continue;
            }
            _ => return refuse!("`striptags` of an entity such as `&{name}` is not supported"),
        };
        if after.get(name.len()).map(|c| c.get()) != Some(';') {
            return refuse!("`striptags` of an entity without `;` is not supported");
        }
        unescaped.push(c.with(character));
        rest = &after[name.len() + 1..];
    }
    let words: Vec<&[Char]> = unescaped.split(|c| is_space(*c)).filter(|word| !word.is_empty()).collect();
    Ok(Value::Text(words.join(&Char::own(' ')).into()))
}

fn url_encode(budget: &Budget, value: &Value) -> Outcome<Value> {
    let quoted = |value: &Value, slash: &str, space: &str| {
        let text = printing::str(budget, value)?;
        budget.characters(12 * text.len())?;
        let mut chars = Vec::new();
        for &c in text.iter() {
            match c.get() {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' | '~' => chars.push(c),
                '/' => push(&mut chars, slash),
                ' ' => push(&mut chars, space),
                other => {
                    for byte in other.encode_utf8(&mut [0; 4]).bytes() {
                        chars.extend(format!("%{byte:02X}").chars().map(|e| c.with(e)));
                    }
                }
            }
        }
        Ok(chars)
    };
    let pairs = match value {
        Value::Dict(dict) => dict.entries.clone(),
        Value::Text(_) | Value::Markup(_) => return Ok(Value::Text(quoted(value, "/", "%20")?.into())),
        _ if value.is_iterable() => {
            let mut pairs = Vec::new();
            for pair in value.iterate(budget)? {
                match <[Value; 2]>::try_from(pair.iterate(budget)?) {
                    Ok([key, value]) => pairs.push((key, value)),
                    Err(_) => return refuse!("`urlencode` takes pairs of a key and a value"),
                }
            }
            pairs
        }
        _ => return Ok(Value::Text(quoted(value, "/", "%20")?.into())),
    };
    let mut chars = Vec::new();
    for (index, (key, value)) in pairs.iter().enumerate() {
        push(&mut chars, if index > 0 { "&" } else { "" });
        chars.extend(quoted(key, "%2F", "+")?);
        push(&mut chars, "=");
        chars.extend(quoted(value, "%2F", "+")?);
    }
    Ok(Value::Text(chars.into()))
}

fn xml_attributes(budget: &Budget, value: &Value, bound: &Bound<1>) -> Outcome<Value> {
    let Value::Dict(dict) = value else { return refuse!("`xmlattr` takes a map, not '{}'", value.kind()) };
    let mut chars = Vec::new();
    for (key, value) in &dict.entries {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let Value::Text(key) = key else { return refuse!("an attribute's name must be a string") };
        if key.iter().any(|c| c.get().is_ascii_whitespace() || matches!(c.get(), '\u{b}' | '/' | '>' | '=')) {
            return refuse!("Invalid character in attribute name: '{key}'");
        }
        if !chars.is_empty() || bound.value(0).is_none_or(Value::is_true) {
            push(&mut chars, " ");
        }
        chars.extend_from_slice(&operators::escape(budget, key)?);
        push(&mut chars, "=\"");
        chars.extend_from_slice(&match value {
            Value::Markup(text) => text.clone(),
            _ => operators::escape(budget, &printing::str(budget, value)?)?,
        });
        push(&mut chars, "\"");
    }
    Ok(Value::Text(chars.into()))
}
