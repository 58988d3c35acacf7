//! `a.b` and `a[b]`, as jinja2's sandbox looks them up: methods and attributes first for the one, items first for the
//! other, and what is missing is undefined.

use std::rc::Rc;

use super::budget::{Budget, Outcome, refuse};
use super::printing;
use super::text::Text;
use super::value::Value;

#[rustfmt::skip] // a list of words
const STR: [&str; 47] = [
    "capitalize", "casefold", "center", "count", "encode", "endswith", "expandtabs", "find", "format", "format_map",
    "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric",
    "isprintable", "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "maketrans", "partition",
    "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split",
    "splitlines", "startswith", "strip", "swapcase", "title", "translate", "upper", "zfill",
];
const LIST: [&str; 3] = ["copy", "count", "index"];
const TUPLE: [&str; 2] = ["count", "index"];
const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
/// Methods that change a list or dict, which the sandbox forbids.
#[rustfmt::skip] // a list of words
const CHANGING: [&str; 12] = [
    "append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update",
    "discard",
];
const INT: [&str; 4] = ["bit_length", "bit_count", "conjugate", "is_integer"];
const FLOAT: [&str; 2] = ["is_integer", "conjugate"];
/// Attributes of numbers, ranges and views that Python has and this build does not.
#[rustfmt::skip] // a list of words
const UNSUPPORTED: [&str; 17] = [
    "as_integer_ratio", "denominator", "from_bytes", "fromhex", "hex", "imag", "isdisjoint", "mapping", "numerator",
    "real", "start", "step", "stop", "to_bytes", "throw", "send", "close",
];

/// Whether Python's type of `value` has the method.
pub(super) fn has_method(value: &Value, name: &str) -> bool {
    match value {
        Value::Text(_) => STR.contains(&name),
        Value::List(_) => LIST.contains(&name),
        Value::Tuple(_) => TUPLE.contains(&name),
        Value::Dict(_) => DICT.contains(&name),
        Value::Int(_) | Value::Bool(_) => INT.contains(&name),
        Value::Float(_) => FLOAT.contains(&name),
        Value::Range(_) => TUPLE.contains(&name),
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        Value::Cycler(_) => matches!(name, "next" | "reset"),
        _ => false,
    }
}

/// The attribute itself, without a look at items.
fn own_attribute(value: &Value, name: &str) -> Outcome<Option<Value>> {
    if has_method(value, name) {
        return Ok(Some(Value::Method(Rc::new((value.clone(), name.into())))));
    }
    if let Value::Undefined(what) = value {
        return refuse!("{what}");
    }
    if name.starts_with('_') && !matches!(value, Value::Namespace(_)) {
        return Ok(Some(Value::undefined(format!("access to attribute '{name}' is unsafe"))));
    }
    let number = |n: usize| Some(Value::Int(n as i128));
    Ok(match value {
        Value::Namespace(entries) => {
            entries.borrow().iter().find(|(key, _)| key.is(name)).map(|(_, value)| value.clone())
        }
        Value::Loop(state) => {
            let index0 = state.index0.get();
            let len = state.items.len();
            match name {
                "index0" => number(index0),
                "index" => number(index0 + 1),
                "revindex0" => number(len - index0 - 1),
                "revindex" => number(len - index0),
                "length" => number(len),
                "first" => Some(Value::Bool(index0 == 0)),
                "last" => Some(Value::Bool(index0 + 1 == len)),
                "depth0" => number(state.depth0),
                "depth" => number(state.depth0 + 1),
                "previtem" => Some(match index0.checked_sub(1) {
                    Some(previous) => state.items[previous].clone(),
                    None => Value::undefined("there is no previous item"),
                }),
                "nextitem" => Some(match state.items.get(index0 + 1) {
                    Some(next) => next.clone(),
                    None => Value::undefined("there is no next item"),
                }),
                _ => None,
            }
        }
        Value::Tuple(items) if items.is_group => match name {
            "grouper" => Some(items.items[0].clone()),
            "list" => Some(items.items[1].clone()),
            _ => None,
        },
        Value::Cycler(cycler) => match name {
            "current" => Some(cycler.items[cycler.position.get()].clone()),
            "items" | "pos" => return refuse!("the attribute `{name}` of a cycler is not supported"),
            _ => None,
        },
        Value::List(_) | Value::Dict(_) if CHANGING.contains(&name) => Some(Value::undefined(format!(
            "the sandbox forbids the method `{name}`: it changes a {}",
            value.kind()
        ))),
        Value::Macro(_) | Value::Function(_) | Value::Method(_) | Value::Markup(_) | Value::Joiner(_) => {
            return refuse!("the attribute `{name}` of a {} is not supported", value.kind());
        }
        Value::Int(_)
        | Value::Bool(_)
        | Value::Float(_)
        | Value::Range(_)
        | Value::View(..)
        | Value::Generator(_)
            if UNSUPPORTED.contains(&name) =>
        {
            return refuse!("the attribute `{name}` of a {} is not supported", value.kind());
        }
        _ => None,
    })
}

/// `value[key]` as Python has it; none where Python raises an error that jinja2 takes for absence.
fn own_item(budget: &Budget, value: &Value, key: &Value) -> Outcome<Option<Value>> {
    Ok(match value {
        Value::Undefined(what) => return refuse!("{what}"),
        Value::Dict(dict) => match key.check_hashable() {
            Ok(()) => dict.get(budget, key)?.cloned(),
            Err(_) => None,
        },
        _ => {
            let Some(len) = value.len() else { return Ok(None) };
            let Some(index) = key.as_int() else { return Ok(None) };
            let index = if index < 0 { index + len as i128 } else { index };
            let Some(index) = usize::try_from(index).ok().filter(|index| *index < len) else {
                return Ok(None);
            };
            match value {
                Value::Text(text) => Some(Value::Text(Text::from(&text[index..=index]))),
                Value::Markup(text) => Some(Value::Markup(Text::from(&text[index..=index]))),
                Value::List(items) | Value::Tuple(items) => Some(items.items[index].clone()),
                Value::Range(range) => Some(range.get(index)),
                _ => None,
            }
        }
    })
}

fn missing(value: &Value, what: &str) -> Value {
    let of = match value {
        Value::None => "none".to_owned(),
        _ => format!("a {}", value.kind()),
    };
    Value::undefined(format!("undefined value: {of} has no {what}"))
}

/// `value.name`.
pub(super) fn attribute(budget: &Budget, value: &Value, name: &str) -> Outcome<Value> {
    if let Some(found) = own_attribute(value, name)? {
        return Ok(found);
    }
    Ok(match own_item(budget, value, &Value::text(name))? {
        Some(found) => found,
        None => missing(value, &format!("attribute '{name}'")),
    })
}

/// `value[key]`.
pub(super) fn item(budget: &Budget, value: &Value, key: &Value) -> Outcome<Value> {
    if let Some(found) = own_item(budget, value, key)? {
        return Ok(found);
    }
    if let Value::Text(name) = key
        && let Some(found) = own_attribute(value, &name.to_string())?
    {
        return Ok(found);
    }
    let key = match key {
        Value::Text(_) | Value::Int(_) => printing::repr(budget, key)?.to_string(),
        _ => key.kind().to_owned(),
    };
    Ok(missing(value, &format!("element {key}")))
}

/// The filter `attr`: an attribute, and never an item.
pub(super) fn attr(value: &Value, name: &str) -> Outcome<Value> {
    Ok(own_attribute(value, name)?.unwrap_or_else(|| missing(value, &format!("attribute '{name}'"))))
}

/// Whether a method of that name changes lists or maps.
pub(super) fn is_changing(name: &str) -> bool {
    CHANGING.contains(&name)
}
