//! The methods of Python's strings, lists and maps.

use super::arguments::Arguments;
use super::budget::{Budget, Outcome, refuse};
use super::casing;
use super::format;
use super::printing::is_printable;
use super::text::{Char, Text, is_space, lines, occurrences, occurrences_from_right, strip};
use super::value::{Value, ViewKind, equal};

/// `receiver.name(arguments)`, where the receiver has that method.
pub(super) fn call(budget: &Budget, receiver: &Value, name: &str, arguments: Arguments) -> Outcome<Value> {
    match receiver {
        Value::Text(text) => of_text(budget, text, name, arguments),
        Value::List(items) | Value::Tuple(items) => of_items(budget, receiver, &items.items, name, arguments),
        Value::Range(_) => of_items(budget, receiver, &receiver.iterate(budget)?, name, arguments),
        Value::Dict(dict) => match name {
            "get" => {
                let mut bound = arguments.bind("get", ["", ""], 1)?;
                let key = bound.take(0).unwrap_or(Value::None);
                key.check_hashable()?;
                Ok(match dict.get(budget, &key)? {
                    Some(value) => value.clone(),
                    None => bound.take(1).unwrap_or(Value::None),
                })
            }
            "keys" | "values" | "items" => {
                arguments.none(name)?;
                let kind = match name {
                    "keys" => ViewKind::Keys,
                    "values" => ViewKind::Values,
                    _ => ViewKind::Items,
                };
                Ok(Value::View(kind, dict.clone()))
            }
            "copy" => arguments.none(name).map(|()| receiver.clone()),
            _ => refuse!("the method `{name}` of a map is not supported"),
        },
        Value::Float(value) if name == "is_integer" => {
            arguments.none(name)?;
            Ok(Value::Bool(value.is_finite() && value.fract() == 0.0))
        }
        Value::Int(value) if name == "bit_length" => {
            arguments.none(name)?;
            Ok(Value::Int((u128::BITS - value.unsigned_abs().leading_zeros()).into()))
        }
        Value::Loop(state) if name == "cycle" => match arguments.positional.len() {
            0 => refuse!("no items for cycling given"),
            len => Ok(arguments.positional[state.index0.get() % len].clone()),
        },
        Value::Loop(state) if name == "changed" => {
            arguments.positional.iter().try_for_each(|value| value.depth().map(drop))?;
            let mut last = state.last_changed.borrow_mut();
            let same = match &*last {
                Some(last) if last.len() == arguments.positional.len() => {
                    let mut same = true;
                    for (a, b) in last.iter().zip(&arguments.positional) {
                        same = same && equal(budget, a, b)?;
                    }
                    same
                }
                _ => false,
            };
            if !same {
                *last = Some(arguments.positional);
            }
            Ok(Value::Bool(!same))
        }
        Value::Cycler(cycler) => {
            arguments.none(name)?;
            let position = cycler.position.get();
            if name == "reset" {
                cycler.position.set(0);
                return Ok(Value::None);
            }
            cycler.position.set((position + 1) % cycler.items.len());
            Ok(cycler.items[position].clone())
        }
        _ => refuse!("the method `{name}` of a {} is not supported", receiver.kind()),
    }
}

fn of_items(
    budget: &Budget,
    receiver: &Value,
    items: &[Value],
    name: &str,
    arguments: Arguments,
) -> Outcome<Value> {
    match name {
        "copy" => arguments.none(name).map(|()| receiver.clone()),
        "count" => {
            let mut bound = arguments.bind(name, [""], 1)?;
            let wanted = bound.take(0).unwrap_or(Value::None);
            budget.items(items.len())?;
            let mut count = 0;
            for item in items {
                count += i128::from(equal(budget, item, &wanted)?);
            }
            Ok(Value::Int(count))
        }
        _ => {
            let mut bound = arguments.bind(name, ["", "", ""], 1)?;
            let wanted = bound.take(0).unwrap_or(Value::None);
            let (start, end) = bounds(items.len(), bound.optional_int(1)?, bound.optional_int(2)?);
            budget.items(items.len())?;
            for (index, item) in items.iter().enumerate().take(end).skip(start) {
                if equal(budget, item, &wanted)? {
                    return Ok(Value::Int(index as i128));
                }
            }
            refuse!("the list does not hold the value whose index is asked for")
        }
    }
}

/// Where `[start:end]` of `len` items begins and ends.
fn bounds(len: usize, start: Option<i64>, end: Option<i64>) -> (usize, usize) {
    let position = |bound: i64| {
        let bound = if bound < 0 { bound.saturating_add(len as i64) } else { bound };
        bound.clamp(0, len as i64) as usize
    };
    (start.map_or(0, position), end.map_or(len, position))
}

fn texts(budget: &Budget, parts: impl IntoIterator<Item = Text>) -> Outcome<Value> {
    Value::list(budget, parts.into_iter().map(Value::Text).collect())
}

/// At most so many splits or replacements; a negative number is no limit.
fn limit(count: i64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn of_text(budget: &Budget, text: &Text, name: &str, arguments: Arguments) -> Outcome<Value> {
    // Each of them reads all of it once or twice.
    budget.characters(text.len())?;
    for argument in &arguments.positional {
        budget.characters(argument.as_text().map_or(0, |text| text.len()))?;
    }
    let integer = |value: usize| Ok(Value::Int(value as i128));
    let all = |test: fn(Char) -> bool| Ok(Value::Bool(!text.is_empty() && text.iter().all(|&c| test(c))));
    let made = |chars: Vec<Char>| Ok(Value::Text(chars.into()));
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let set = arguments.bind(name, [""], 0)?.optional_text(0)?;
            let set = set.as_deref();
            Ok(Value::Text(strip(text, set, name != "rstrip", name != "lstrip").into()))
        }
        "split" | "rsplit" => {
            let bound = arguments.bind(name, ["sep", "maxsplit"], 0)?;
            let separator = bound.optional_text(0)?;
            split(budget, text, separator.as_deref(), limit(bound.int(1, -1)?), name == "rsplit")
        }
        "splitlines" => {
            let bound = arguments.bind(name, ["keepends"], 0)?;
            texts(budget, lines(text, bound.is_true(0)).into_iter().map(Text::from))
        }
        "startswith" | "endswith" => {
            let bound = arguments.bind(name, ["", "", ""], 1)?;
            let (start, end) = (bound.optional_int(1)?, bound.optional_int(2)?);
            // Behind the end there is not even an empty string.
            let is_behind = start.is_some_and(|start| start > text.len() as i64);
            let (start, end) = bounds(text.len(), start, end);
            let part = if start <= end && !is_behind { Some(&text[start..end]) } else { None };
            let affixes = match bound.value(0) {
                Some(Value::Tuple(items)) => items.items.clone(),
                _ => vec![Value::Text(bound.text(0)?)],
            };
            let mut found = false;
            for affix in affixes {
                let Value::Text(affix) = affix else {
                    return refuse!("a tuple for `{name}` must hold strings, not '{}'", affix.kind());
                };
                budget.characters(affix.len())?;
                found |= part.is_some_and(|part| {
                    if name == "startswith" { part.starts_with(&affix) } else { part.ends_with(&affix) }
                });
            }
            Ok(Value::Bool(found))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let bound = arguments.bind(name, ["", "", ""], 1)?;
            let part = bound.text(0)?;
            let (start, end) = (bound.optional_int(1)?, bound.optional_int(2)?);
            let is_behind = start.is_some_and(|start| start > text.len() as i64);
            let (start, end) = bounds(text.len(), start, end);
            let inside = if start <= end && !is_behind { Some(&text[start..end]) } else { None };
            let found = match (name, inside) {
                ("count", inside) => {
                    return integer(inside.map_or(0, |inside| occurrences(inside, &part, usize::MAX).len()));
                }
                (_, None) => None,
                ("find" | "index", Some(inside)) => occurrences(inside, &part, 1).first().copied(),
                (_, Some(inside)) => occurrences_from_right(inside, &part, 1).first().copied(),
            };
            match found {
                Some(at) => integer(start + at),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => refuse!("`{name}`: the substring is not found"),
            }
        }
        "replace" => {
            let bound = arguments.bind(name, ["", "", ""], 2)?;
            replace(budget, text, &bound.text(0)?, &bound.text(1)?, limit(bound.int(2, -1)?)).map(Value::Text)
        }
        "partition" | "rpartition" => {
            let separator = arguments.bind(name, [""], 1)?.text(0)?;
            if separator.is_empty() {
                return refuse!("the separator of `{name}` is empty");
            }
            let from_left = name == "partition";
            let found = if from_left {
                occurrences(text, &separator, 1)
            } else {
                occurrences_from_right(text, &separator, 1)
            };
            let parts: [&[Char]; 3] = match found.first() {
                Some(&at) => {
                    let end = at + separator.len();
                    [&text[..at], &text[at..end], &text[end..]]
                }
                None if from_left => [&text[..], &[], &[]],
                None => [&[], &[], &text[..]],
            };
            Value::tuple(budget, parts.map(|part| Value::Text(part.into())).to_vec())
        }
        "removeprefix" | "removesuffix" => {
            let affix = arguments.bind(name, [""], 1)?.text(0)?;
            let rest = if name == "removeprefix" {
                text.strip_prefix(&affix[..])
            } else {
                text.strip_suffix(&affix[..])
            };
            Ok(rest.map_or_else(|| Value::Text(text.clone()), |rest| Value::Text(rest.into())))
        }
        "join" => {
            let mut bound = arguments.bind(name, [""], 1)?;
            let items = bound.take(0).unwrap_or(Value::None).iterate(budget)?;
            let mut chars = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let Value::Text(item) = item else {
                    return refuse!("`join`: item {index} is no string but '{}'", item.kind());
                };
                if index > 0 {
                    budget.characters(text.len())?;
                    chars.extend_from_slice(text);
                }
                budget.characters(item.len())?;
                chars.extend_from_slice(item);
            }
            made(chars)
        }
        "format" => format::format(budget, text, &arguments).map(Value::Text),
        "format_map" => {
            let mut bound = arguments.bind(name, [""], 1)?;
            let Some(Value::Dict(dict)) = bound.take(0) else { return refuse!("`format_map` takes a map") };
            let mut named = Arguments::default();
            for (key, value) in &dict.entries {
                if let Value::Text(key) = key {
                    named.named.push((key.to_string(), value.clone()));
                }
            }
            format::format(budget, text, &named).map(Value::Text)
        }
        "center" | "ljust" | "rjust" => {
            let bound = arguments.bind(name, ["", ""], 1)?;
            let fill = match bound.optional_text(1)? {
                None => Char::own(' '),
                Some(fill) if fill.len() == 1 => fill[0],
                Some(_) => return refuse!("the fill character of `{name}` must be exactly one character"),
            };
            let width = limit(bound.int(0, 0)?.max(0));
            justify(budget, text, width, fill, name).map(Value::Text)
        }
        "zfill" => {
            let width = limit(arguments.bind(name, [""], 1)?.int(0, 0)?.max(0));
            let zeros = width.saturating_sub(text.len());
            budget.characters(zeros)?;
            let signs = usize::from(text.first().is_some_and(|c| matches!(c.get(), '+' | '-')));
            let (sign, digits) = text.split_at(signs);
            made([sign, &vec![Char::own('0'); zeros], digits].concat())
        }
        "expandtabs" => {
            let width = limit(arguments.bind(name, ["tabsize"], 0)?.int(0, 8)?.max(0));
            let mut column = 0;
            let mut chars = Vec::new();
            for &c in text.iter() {
                match c.get() {
                    '\t' => {
                        let spaces = if width > 0 { width - column % width } else { 0 };
                        budget.characters(spaces)?;
                        chars.extend(std::iter::repeat_n(Char::own(' '), spaces));
                        column += spaces;
                    }
                    other => {
                        chars.push(c);
                        column = if matches!(other, '\n' | '\r') { 0 } else { column + 1 };
                    }
                }
            }
            made(chars)
        }
        "upper" | "lower" | "title" | "capitalize" | "swapcase" | "casefold" => {
            arguments.none(name)?;
            budget.characters(3 * text.len())?;
            made(match name {
                "upper" => casing::upper(text),
                "lower" => casing::lower(text),
                "title" => casing::title(text),
                "capitalize" => casing::capitalize(text),
                "swapcase" => casing::swapcase(text),
                _ => casing::casefold(text)?,
            })
        }
        "isspace" => arguments.none(name).and_then(|()| all(is_space)),
        "isascii" => {
            arguments.none(name)?;
            Ok(Value::Bool(text.iter().all(|c| c.get().is_ascii())))
        }
        "isprintable" => {
            arguments.none(name)?;
            Ok(Value::Bool(text.iter().all(|c| is_printable(c.get()))))
        }
        "isalpha" => arguments.none(name).and_then(|()| all(|c| casing::is_letter(c.get()))),
        "isalnum" => arguments.none(name).and_then(|()| all(|c| casing::is_letter_or_number(c.get()))),
        "isdigit" | "isdecimal" | "isnumeric" => {
            arguments.none(name)?;
            if text.iter().any(|c| !c.get().is_ascii() && casing::may_be_number(c.get(), name)) {
                return refuse!("`{name}` of numbers beyond ASCII is not supported");
            }
            all(|c| c.get().is_ascii_digit())
        }
        "isupper" | "islower" => {
            arguments.none(name)?;
            Ok(Value::Bool(casing::is_all(text, name == "isupper")))
        }
        "istitle" => {
            arguments.none(name)?;
            let (mut is_inside, mut is_cased) = (false, false);
            for c in text.iter().map(|c| c.get()) {
                let upper = c.is_uppercase() || casing::is_title_case(c);
                if (upper && is_inside) || (c.is_lowercase() && !is_inside) {
                    return Ok(Value::Bool(false));
                }
                is_inside = upper || c.is_lowercase();
                is_cased |= is_inside;
            }
            Ok(Value::Bool(is_cased))
        }
        _ => refuse!("the method `{name}` of a string is not supported"),
    }
}

/// `text` in the middle or at one end of `width` characters.
pub(super) fn justify(budget: &Budget, text: &Text, width: usize, fill: Char, how: &str) -> Outcome<Text> {
    let missing = width.saturating_sub(text.len());
    budget.characters(width.max(text.len()))?;
    let before = match how {
        "ljust" => 0,
        "rjust" => missing,
        _ => missing / 2 + (missing & width & 1),
    };
    let mut chars = vec![fill; before];
    chars.extend_from_slice(text);
    chars.resize(text.len() + missing, fill);
    Ok(chars.into())
}

/// Python's `str.replace`.
pub(super) fn replace(
    budget: &Budget,
    text: &[Char],
    old: &[Char],
    new: &[Char],
    at_most: usize,
) -> Outcome<Text> {
    budget.characters(text.len() + old.len())?;
    if old.is_empty() && at_most > 0 {
        budget.items(text.len())?;
    }
    let found = occurrences(text, old, at_most);
    budget.characters(text.len().saturating_add(found.len().saturating_mul(new.len())))?;
    let mut chars = Vec::new();
    let mut rest = 0;
    for at in found {
        chars.extend_from_slice(&text[rest..at]);
        chars.extend_from_slice(new);
        rest = at + old.len();
    }
    chars.extend_from_slice(&text[rest..]);
    Ok(chars.into())
}

fn split(
    budget: &Budget,
    text: &[Char],
    separator: Option<&[Char]>,
    at_most: usize,
    from_right: bool,
) -> Outcome<Value> {
    let mut parts: Vec<&[Char]> = Vec::new();
    match separator {
        Some([]) => return refuse!("empty separator"),
        Some(separator) => {
            let mut found = if from_right {
                occurrences_from_right(text, separator, at_most)
            } else {
                occurrences(text, separator, at_most)
            };
            budget.items(found.len())?;
            found.sort_unstable();
            let mut start = 0;
            for at in found {
                parts.push(&text[start..at]);
                start = at + separator.len();
            }
            parts.push(&text[start..]);
        }
        None if from_right => {
            let mut rest = strip(text, None, false, true);
            while !rest.is_empty() {
                let word = rest.iter().rev().take_while(|c| !is_space(**c)).count();
                let word = if parts.len() == at_most { rest.len() } else { word };
                budget.items(1)?;
                // What is left over keeps its white space in front.
                parts.push(&rest[rest.len() - word..]);
                rest = strip(&rest[..rest.len() - word], None, false, true);
            }
            parts.reverse();
        }
        None => {
            let mut rest = strip(text, None, true, false);
            while !rest.is_empty() {
                let word = rest.iter().take_while(|c| !is_space(**c)).count();
                let word = if parts.len() == at_most { rest.len() } else { word };
                budget.items(1)?;
                parts.push(&rest[..word]);
                rest = strip(&rest[word..], None, true, false);
            }
        }
    }
    texts(budget, parts.into_iter().map(Text::from))
}
