//! Python's operators.

use super::budget::{Budget, Outcome, refuse};
use super::format;
use super::printing;
use super::text::{Char, Text};
use super::value::{Range, Value};

#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Float(value) => Some(Self::Float(*value)),
            _ => value.as_int().map(Self::Int),
        }
    }

    fn as_float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// The operands, if both are numbers.
fn numbers(left: &Value, right: &Value) -> Option<(Number, Number)> {
    Some((Number::of(left)?, Number::of(right)?))
}

fn unsupported<T>(operator: &str, left: &Value, right: &Value) -> Outcome<T> {
    match (left, right) {
        (Value::Undefined(what), _) | (_, Value::Undefined(what)) => refuse!("{what}"),
        _ => {
            refuse!("unsupported operand type(s) for {operator}: '{}' and '{}'", left.kind(), right.kind())
        }
    }
}

fn too_large<T>(operator: &str) -> Outcome<T> {
    refuse!("the result of `{operator}` is too large an integer")
}

fn concatenated(budget: &Budget, parts: [&[Char]; 2]) -> Outcome<Text> {
    budget.characters(parts[0].len() + parts[1].len())?;
    Ok(parts.concat().into())
}

pub(super) fn add(budget: &Budget, left: &Value, right: &Value) -> Outcome<Value> {
    if let Some(operands) = numbers(left, right) {
        return match operands {
            (Number::Int(a), Number::Int(b)) => {
                a.checked_add(b).map_or_else(|| too_large("+"), |n| Ok(Value::Int(n)))
            }
            (a, b) => Ok(Value::Float(a.as_float() + b.as_float())),
        };
    }
    match (left, right) {
        (Value::Text(a), Value::Text(b)) => concatenated(budget, [a, b]).map(Value::Text),
        // What is marked as safe escapes what is not.
        (Value::Markup(a), Value::Markup(b)) => concatenated(budget, [a, b]).map(Value::Markup),
        (Value::Markup(a), Value::Text(b)) => {
            concatenated(budget, [a, &escape(budget, b)?]).map(Value::Markup)
        }
        (Value::Text(a), Value::Markup(b)) => {
            concatenated(budget, [&escape(budget, a)?, b]).map(Value::Markup)
        }
        (Value::List(a), Value::List(b)) => {
            budget.items(a.items.len() + b.items.len())?;
            Value::list(budget, [a.items.as_slice(), b.items.as_slice()].concat())
        }
        (Value::Tuple(a), Value::Tuple(b)) => {
            budget.items(a.items.len() + b.items.len())?;
            Value::tuple(budget, [a.items.as_slice(), b.items.as_slice()].concat())
        }
        _ => unsupported("+", left, right),
    }
}

pub(super) fn subtract(left: &Value, right: &Value) -> Outcome<Value> {
    match numbers(left, right) {
        Some((Number::Int(a), Number::Int(b))) => {
            a.checked_sub(b).map_or_else(|| too_large("-"), |n| Ok(Value::Int(n)))
        }
        Some((a, b)) => Ok(Value::Float(a.as_float() - b.as_float())),
        None => unsupported("-", left, right),
    }
}

pub(super) fn multiply(budget: &Budget, left: &Value, right: &Value) -> Outcome<Value> {
    if let Some(operands) = numbers(left, right) {
        return match operands {
            (Number::Int(a), Number::Int(b)) => {
                a.checked_mul(b).map_or_else(|| too_large("*"), |n| Ok(Value::Int(n)))
            }
            (a, b) => Ok(Value::Float(a.as_float() * b.as_float())),
        };
    }
    for (sequence, count) in [(left, right), (right, left)] {
        let Some(count) = count.as_int() else { continue };
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        match sequence {
            Value::Text(text) | Value::Markup(text) => {
                budget.characters(text.len().saturating_mul(count))?;
                let chars = if text.is_empty() { Vec::new() } else { text.repeat(count) };
                return Ok(super::value::text_like(sequence, chars));
            }
            Value::List(items) | Value::Tuple(items) => {
                budget.items(items.items.len().saturating_mul(count))?;
                let empty = items.items.is_empty() || count == 0;
                let repeated = if empty {
                    Vec::new()
                } else {
                    items.items.iter().cycle().take(items.items.len() * count).cloned().collect()
                };
                return match sequence {
                    Value::List(_) => Value::list(budget, repeated),
                    _ => Value::tuple(budget, repeated),
                };
            }
            _ => {}
        }
    }
    unsupported("*", left, right)
}

pub(super) fn divide(left: &Value, right: &Value) -> Outcome<Value> {
    /// Integers up to here are floats.
    const EXACT: i128 = 1 << 53;
    match numbers(left, right) {
        Some((_, Number::Int(0))) => refuse!("division by zero"),
        Some((_, Number::Float(0.0))) => refuse!("float division by zero"),
        Some((Number::Int(a), Number::Int(b))) if a.abs() > EXACT || b.abs() > EXACT => too_large("/"),
        Some((a, b)) => Ok(Value::Float(a.as_float() / b.as_float())),
        None => unsupported("/", left, right),
    }
}

/// Python's `divmod` of floats.
fn float_divmod(a: f64, b: f64) -> (f64, f64) {
    let mut remainder = a % b;
    let mut quotient = (a - remainder) / b;
    if remainder == 0.0 {
        remainder = 0f64.copysign(b);
    } else if (b < 0.0) != (remainder < 0.0) {
        remainder += b;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0f64.copysign(a / b), remainder);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, remainder)
}

pub(super) fn floor_divide(left: &Value, right: &Value) -> Outcome<Value> {
    match numbers(left, right) {
        Some((_, Number::Int(0))) => refuse!("integer division or modulo by zero"),
        Some((_, Number::Float(0.0))) => refuse!("float floor division by zero"),
        Some((Number::Int(a), Number::Int(b))) => {
            let Some(truncated) = a.checked_div(b) else { return too_large("//") };
            let is_rounded_up = a % b != 0 && (a < 0) != (b < 0);
            Ok(Value::Int(truncated - i128::from(is_rounded_up)))
        }
        Some((a, b)) => Ok(Value::Float(float_divmod(a.as_float(), b.as_float()).0)),
        None => unsupported("//", left, right),
    }
}

/// Python's `%`, of strings too.
pub(super) fn remainder(budget: &Budget, left: &Value, right: &Value) -> Outcome<Value> {
    match left {
        Value::Text(format) => return format::percent(budget, format, right).map(Value::Text),
        Value::Markup(_) => return refuse!("`%` of escaped text is not supported"),
        _ => {}
    }
    match numbers(left, right) {
        Some((_, Number::Int(0))) => refuse!("integer modulo by zero"),
        Some((_, Number::Float(0.0))) => refuse!("float modulo"),
        Some((Number::Int(a), Number::Int(b))) => {
            let Some(rest) = a.checked_rem(b) else { return Ok(Value::Int(0)) };
            Ok(Value::Int(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }))
        }
        Some((a, b)) => Ok(Value::Float(float_divmod(a.as_float(), b.as_float()).1)),
        None => unsupported("%", left, right),
    }
}

pub(super) fn power(left: &Value, right: &Value) -> Outcome<Value> {
    let Some((base, exponent)) = numbers(left, right) else { return unsupported("**", left, right) };
    if let (Number::Int(base), Number::Int(exponent @ 0..)) = (base, exponent) {
        let exponent = match base {
            // Of these any power is small.
            -1..=1 => (exponent % 2 + if exponent > 1 { 2 } else { 0 }) as u32,
            _ => u32::try_from(exponent).unwrap_or(u32::MAX),
        };
        return base.checked_pow(exponent).map_or_else(|| too_large("**"), |n| Ok(Value::Int(n)));
    }
    let (base, exponent) = (base.as_float(), exponent.as_float());
    if base == 0.0 && exponent < 0.0 {
        return refuse!("0.0 cannot be raised to a negative power");
    }
    if base < 0.0 && exponent.fract() != 0.0 {
        return refuse!("a complex number is not supported");
    }
    let power = base.powf(exponent);
    if power.is_infinite() && base.is_finite() && exponent.is_finite() {
        return refuse!("the result of `**` is too large a float");
    }
    Ok(Value::Float(power))
}

pub(super) fn negate(value: &Value) -> Outcome<Value> {
    match Number::of(value) {
        Some(Number::Int(value)) => value.checked_neg().map_or_else(|| too_large("-"), |n| Ok(Value::Int(n))),
        Some(Number::Float(value)) => Ok(Value::Float(-value)),
        None => match value {
            Value::Undefined(what) => refuse!("{what}"),
            _ => refuse!("bad operand type for unary -: '{}'", value.kind()),
        },
    }
}

/// `~`.
pub(super) fn concatenate(budget: &Budget, left: &Value, right: &Value) -> Outcome<Value> {
    concatenated(budget, [&printing::str(budget, left)?, &printing::str(budget, right)?]).map(Value::Text)
}

/// Escapes for HTML, as the filter `escape` does.
pub(super) fn escape(budget: &Budget, text: &[Char]) -> Outcome<Text> {
    budget.characters(5 * text.len())?;
    let mut chars = Vec::with_capacity(text.len());
    for &c in text {
        let escaped = match c.get() {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\'' => "&#39;",
            '"' => "&#34;",
            _ => {
                chars.push(c);
                continue;
            }
        };
        chars.extend(escaped.chars().map(|e| c.with(e)));
    }
    Ok(chars.into())
}

/// Python's slices.
pub(super) fn slice(
    budget: &Budget,
    value: &Value,
    start: Option<&Value>,
    stop: Option<&Value>,
    step: Option<&Value>,
) -> Outcome<Value> {
    let bound = |bound: Option<&Value>| match bound {
        None | Some(Value::None) => Ok(None),
        Some(Value::Undefined(what)) => refuse!("{what}"),
        Some(value) => match value.as_int() {
            Some(value) => Ok(Some(value.clamp(-i128::from(i64::MAX), i64::MAX.into()) as i64)),
            None => refuse!("slice indices must be integers or none, not '{}'", value.kind()),
        },
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return refuse!("the step of a slice is 0");
    }
    match value {
        Value::Text(text) | Value::Markup(text) => {
            let (first, count) = positions(text.len(), start, stop, step);
            budget.characters(count)?;
            Ok(super::value::text_like(value, steps(first, step, count).map(|at| text[at]).collect()))
        }
        Value::List(items) | Value::Tuple(items) => {
            let (first, count) = positions(items.items.len(), start, stop, step);
            budget.items(count)?;
            let taken = steps(first, step, count).map(|at| items.items[at].clone()).collect();
            match value {
                Value::List(_) => Value::list(budget, taken),
                _ => Value::tuple(budget, taken),
            }
        }
        Value::Range(range) => {
            let (first, count) = positions(range.len, start, stop, step);
            let start = range.start + range.step * first;
            let step = range.step.saturating_mul(step);
            let Some(stop) = step.checked_mul(count as i64).and_then(|span| span.checked_add(start)) else {
                return refuse!("a slice of a range with a step of {step} is not supported");
            };
            if count == 0 || range.step != 1 || step != 1 {
                return refuse!("a slice of a range with steps, or of nothing, is not supported");
            }
            Ok(Value::Range(Range { start, stop, step, len: count }))
        }
        Value::Undefined(what) => refuse!("{what}"),
        _ => refuse!("a slice of '{}' is not supported", value.kind()),
    }
}

/// The first position that a slice of `len` items takes, and how many it takes.
fn positions(len: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> (i64, usize) {
    let len = len as i64;
    let position = |bound: i64| if bound < 0 { bound.saturating_add(len) } else { bound };
    let (start, span) = if step > 0 {
        let start = start.map_or(0, position).clamp(0, len);
        let stop = stop.map_or(len, position).clamp(0, len);
        (start, stop - start)
    } else {
        let start = start.map_or(len - 1, position).clamp(-1, len - 1);
        let stop = stop.map_or(-1, position).clamp(-1, len - 1);
        (start, start - stop)
    };
    (start, if span > 0 { (span as u64).div_ceil(step.unsigned_abs()) as usize } else { 0 })
}

fn steps(first: i64, step: i64, count: usize) -> impl Iterator<Item = usize> {
    (0..count as i64).map(move |index| (first + index * step) as usize)
}

/// How a loop of `step` steps from `start` to before `stop` goes.
pub(super) fn range(start: i64, stop: i64, step: i64) -> Outcome<Value> {
    /// As in the sandbox of jinja2.
    const MAX_RANGE: u128 = 100_000;
    if step == 0 {
        return refuse!("the step of a range is 0");
    }
    let span =
        if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
    let len = if span > 0 { span.unsigned_abs().div_ceil(u128::from(step.unsigned_abs())) } else { 0 };
    if len > MAX_RANGE {
        return refuse!("the range has too many elements: {len}, allowed are {MAX_RANGE}");
    }
    Ok(Value::Range(Range { start, step, stop, len: len as usize }))
}
