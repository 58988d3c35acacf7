//! The tests of jinja2: what follows `is`, and what `select` and its relatives apply.

use std::cmp::Ordering;

use super::arguments::Arguments;
use super::budget::{Budget, Outcome, refuse};
use super::value::{Value, contains, equal, is_same, order};
use super::{casing, filters, printing};

/// Whether there is a test of that name.
pub(super) fn exists(name: &str) -> bool {
    #[rustfmt::skip] // a list of words
    const NAMES: [&str; 39] = [
        "!=", "<", "<=", "==", ">", ">=", "boolean", "callable", "defined", "divisibleby", "eq", "equalto", "escaped",
        "even", "false", "filter", "float", "ge", "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan",
        "lower", "lt", "mapping", "ne", "none", "number", "odd", "sameas", "sequence", "string", "test", "true",
        "undefined", "upper",
    ];
    NAMES.contains(&name)
}

/// `value is name(arguments)`.
pub(super) fn holds(budget: &Budget, name: &str, value: &Value, arguments: Arguments) -> Outcome<bool> {
    let compared = |arguments: Arguments| {
        let mut bound = arguments.bind(name, [""], 1)?;
        Ok(bound.take(0).unwrap_or(Value::None))
    };
    let ordered = |arguments: Arguments, wanted: fn(Ordering) -> bool| {
        Ok(order(budget, value, &compared(arguments)?)?.is_some_and(wanted))
    };
    let integer = |value: &Value| match (value, value.as_int()) {
        (Value::Undefined(what), _) => refuse!("{what}"),
        (_, Some(value)) => Ok(value),
        (Value::Float(value), _) if value.fract() == 0.0 && value.abs() < 1e38 => Ok(*value as i128),
        _ => refuse!("the test `{name}` of '{}' is not supported", value.kind()),
    };
    let is_true = match name {
        "==" | "eq" | "equalto" => equal(budget, value, &compared(arguments)?)?,
        "!=" | "ne" => !equal(budget, value, &compared(arguments)?)?,
        "<" | "lt" | "lessthan" => ordered(arguments, Ordering::is_lt)?,
        "<=" | "le" => ordered(arguments, Ordering::is_le)?,
        ">" | "gt" | "greaterthan" => ordered(arguments, Ordering::is_gt)?,
        ">=" | "ge" => ordered(arguments, Ordering::is_ge)?,
        "in" => contains(budget, &compared(arguments)?, value)?,
        "sameas" => same(budget, value, &compared(arguments)?)?,
        "divisibleby" => {
            let by = integer(&compared(arguments)?)?;
            if by == 0 {
                return refuse!("integer modulo by zero");
            }
            integer(value)?.checked_rem(by).unwrap_or(0) == 0
        }
        _ => {
            arguments.none(name)?;
            match name {
                "boolean" => matches!(value, Value::Bool(_)),
                "callable" => match value {
                    // jinja2's class of undefined values can be called, and raises an error then.
                    Value::Undefined(_) | Value::Macro(_) | Value::Function(_) | Value::Method(_) => true,
                    Value::Joiner(_) | Value::Loop(_) => true,
                    _ => false,
                },
                "defined" => !value.is_undefined(),
                "undefined" => value.is_undefined(),
                "none" => matches!(value, Value::None),
                "true" => matches!(value, Value::Bool(true)),
                "false" => matches!(value, Value::Bool(false)),
                "integer" => matches!(value, Value::Int(_)),
                "float" => matches!(value, Value::Float(_)),
                "number" => matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_)),
                "string" => value.as_text().is_some(),
                "escaped" => matches!(value, Value::Markup(_)),
                "mapping" => matches!(value, Value::Dict(_)),
                "iterable" => value.is_iterable(),
                // What has a length and items.
                "sequence" => matches!(
                    value,
                    Value::Undefined(_)
                        | Value::Text(_)
                        | Value::Markup(_)
                        | Value::List(_)
                        | Value::Tuple(_)
                        | Value::Dict(_)
                        | Value::Range(_)
                ),
                "odd" => integer(value)?.rem_euclid(2) == 1,
                "even" => integer(value)?.rem_euclid(2) == 0,
                "lower" | "upper" => {
                    let text = printing::str(budget, value)?;
                    casing::is_all(&text, name == "upper")
                }
                "filter" | "test" if matches!(value, Value::List(_) | Value::Dict(_) | Value::View(..)) => {
                    return refuse!("unhashable type: '{}'", value.kind());
                }
                "filter" => value.as_text().is_some_and(|name| filters::exists(&name.to_string())),
                "test" => value.as_text().is_some_and(|name| exists(&name.to_string())),
                _ => return refuse!("there is no test `{name}`"),
            }
        }
    };
    Ok(is_true)
}

/// Whether both are one object. Python keeps one of each small integer and of none, true and false; of others that
/// are equal nobody can say.
fn same(budget: &Budget, left: &Value, right: &Value) -> Outcome<bool> {
    let small = -5..=256;
    Ok(match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) if a == b && small.contains(a) => true,
        (Value::Macro(a), Value::Macro(b)) => a == b,
        (Value::Function(a), Value::Function(b)) => a == b,
        _ if is_same(left, right) => true,
        _ if left.kind() == right.kind() && equal(budget, left, right)? => {
            return refuse!("`sameas` between two equal values of type '{}' is not supported", left.kind());
        }
        _ => false,
    })
}
