//! Python's three ways of formatting: `%`, `str.format` and what both say of numbers.

use super::arguments::Arguments;
use super::attributes;
use super::budget::{Budget, Outcome, refuse};
use super::printing;
use super::text::{Char, Text, push, to_string};
use super::value::Value;

/// Widest field and longest fraction: every text beyond is refused.
const MAX_WIDTH: usize = 1 << 22;
const MAX_PRECISION: usize = 1000;

/// `format % value`.
pub(super) fn percent(budget: &Budget, format: &Text, value: &Value) -> Outcome<Text> {
    let mut out = Vec::new();
    let positional: Vec<Value> = match value {
        Value::Tuple(items) => items.items.clone(),
        _ => vec![value.clone()],
    };
    let mut next = positional.iter();
    let mut take = || match next.next() {
        Some(value) => Ok(value.clone()),
        None => refuse!("not enough arguments for format string"),
    };
    let mut is_named = false;
    let mut rest = &format[..];
    budget.characters(rest.len())?;
    while let Some((&c, after)) = rest.split_first() {
        rest = after;
        if c.get() != '%' {
            out.push(c);
            continue;
        }
        let peek = |rest: &[Char]| rest.first().map(|c| c.get());
        let mut named = None;
        if peek(rest) == Some('(') {
            let mut depth = 0;
            let Some(end) = rest.iter().position(|c| {
                depth += match c.get() {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                depth == 0
            }) else {
                return refuse!("incomplete format key");
            };
            let Value::Dict(dict) = value else { return refuse!("format requires a mapping") };
            let key = Value::Text(rest[1..end].into());
            let Some(found) = dict.get(budget, &key)? else {
                return refuse!("the format's key `{}` is not in the map", to_string(&rest[1..end]));
            };
            (named, is_named) = (Some(found.clone()), true);
            rest = &rest[end + 1..];
        }
        let mut spec = Spec::default();
        while let Some(flag) = peek(rest) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = '+',
                ' ' if spec.sign != '+' => spec.sign = ' ',
                ' ' => {}
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                _ => break,
            }
            rest = &rest[1..];
        }
        if peek(rest) == Some('*') {
            return refuse!("`*` in a format is not supported");
        }
        spec.width = number(&mut rest, MAX_WIDTH)?.unwrap_or(0);
        if peek(rest) == Some('.') {
            rest = &rest[1..];
            if peek(rest) == Some('*') {
                return refuse!("`*` in a format is not supported");
            }
            spec.precision = Some(number(&mut rest, MAX_WIDTH)?.unwrap_or(0));
        }
        while matches!(peek(rest), Some('h' | 'l' | 'L')) {
            rest = &rest[1..];
        }
        let Some((&kind, after)) = rest.split_first() else { return refuse!("incomplete format") };
        rest = after;
        if kind.get() == '%' {
            push(&mut out, "%");
            continue;
        }
        let value = named.map_or_else(&mut take, Ok)?;
        let (prefix, body) = percent_field(budget, &mut spec, kind.get(), &value)?;
        pad(budget, &spec, '>', &prefix, &body, &mut out)?;
    }
    let leftover = match value {
        Value::Tuple(_) => next.next().is_some(),
        // A map, and what can be indexed as one, may be more than is used.
        Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_) => false,
        _ => next.next().is_some() && !is_named,
    };
    if leftover {
        return refuse!("not all arguments converted during string formatting");
    }
    budget.characters(out.len())?;
    Ok(out.into())
}

/// Sign and digits, or characters, of one field of `%`.
fn percent_field(
    budget: &Budget,
    spec: &mut Spec,
    kind: char,
    value: &Value,
) -> Outcome<(String, Vec<Char>)> {
    if matches!(value, Value::Markup(_)) {
        return refuse!("a format of escaped text is not supported");
    }
    match kind {
        's' | 'r' => {
            let text =
                if kind == 's' { printing::str(budget, value)? } else { printing::repr(budget, value)? };
            let shown = spec.precision.map_or(text.len(), |precision| precision.min(text.len()));
            spec.zero = false;
            return Ok((String::new(), text[..shown].to_vec()));
        }
        'c' => {
            let c = match (value.as_text(), value.as_int()) {
                (Some(text), _) if text.len() == 1 => text[0],
                (None, Some(code)) => match u32::try_from(code).ok().and_then(char::from_u32) {
                    Some(c) => Char::own(c),
                    None => return refuse!("%c arg not in range(0x110000)"),
                },
                _ => return refuse!("%c requires int or char"),
            };
            spec.zero = false;
            return Ok((String::new(), vec![c]));
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let value = match value {
                Value::Float(float) if matches!(kind, 'd' | 'i' | 'u') => integral(*float)?,
                Value::Undefined(what) => return refuse!("{what}"),
                _ => match value.as_int() {
                    Some(value) => value,
                    None => {
                        return refuse!("%{kind} format: a real number is required, not {}", value.kind());
                    }
                },
            };
            let (radix, digits) = integer_digits(value, kind);
            let zeros = spec.precision.unwrap_or(0).saturating_sub(digits.len());
            budget.characters(zeros)?;
            let prefix = if spec.alternate { radix } else { "" };
            let body = format!("{}{digits}", "0".repeat(zeros));
            return Ok((sign(value < 0, spec) + prefix, body.chars().map(Char::own).collect()));
        }
        'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
            let value = match value {
                Value::Float(value) => *value,
                Value::Undefined(what) => return refuse!("{what}"),
                _ => match value.as_int() {
                    Some(value) => value as f64,
                    None => return refuse!("must be real number, not {}", value.kind()),
                },
            };
            let digits = float_digits(value, kind, spec.precision, spec.alternate)?;
            spec.zero &= value.is_finite();
            let negative = value.is_sign_negative() && !value.is_nan();
            return Ok((sign(negative, spec), digits.chars().map(Char::own).collect()));
        }
        _ => {}
    }
    refuse!("unsupported format character '{kind}'")
}

fn integral(value: f64) -> Outcome<i128> {
    if !value.is_finite() || value.abs() >= 1.7e38 {
        return refuse!("cannot convert {} to an integer", printing::float(value));
    }
    Ok(value.trunc() as i128)
}

fn sign(is_negative: bool, spec: &Spec) -> String {
    match (is_negative, spec.sign) {
        (true, _) => "-".into(),
        (false, '+') => "+".into(),
        (false, ' ') => " ".into(),
        _ => String::new(),
    }
}

/// The prefix of the radix, and the digits without a sign.
fn integer_digits(value: i128, kind: char) -> (&'static str, String) {
    let value = value.unsigned_abs();
    match kind {
        'x' => ("0x", format!("{value:x}")),
        'X' => ("0X", format!("{value:X}")),
        'o' => ("0o", format!("{value:o}")),
        'b' => ("0b", format!("{value:b}")),
        _ => ("", value.to_string()),
    }
}

/// Digits without a sign, by C's rules.
fn float_digits(value: f64, kind: char, precision: Option<usize>, alternate: bool) -> Outcome<String> {
    let precision = precision.unwrap_or(6);
    if precision > MAX_PRECISION {
        return refuse!("a format with {precision} digits of a fraction is not supported");
    }
    let value = value.abs();
    let digits = if value.is_nan() {
        "nan".into()
    } else if value.is_infinite() {
        "inf".into()
    } else {
        let point = if alternate && precision == 0 { "." } else { "" };
        match kind {
            'f' | 'F' => format!("{value:.precision$}{point}"),
            'e' | 'E' => c_exponent(&format!("{value:.precision$e}"), point),
            _ => {
                let significant = precision.max(1);
                let scientific = format!("{value:.*e}", significant - 1);
                let exponent: i32 =
                    scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
                let plain = (-4..significant as i32).contains(&exponent);
                let (number, exponent) = if plain {
                    (format!("{value:.*}", (significant as i32 - 1 - exponent) as usize), String::new())
                } else {
                    let formatted = c_exponent(&scientific, "");
                    let (number, exponent) = formatted.split_once('e').unwrap_or((&formatted, ""));
                    (number.to_owned(), format!("e{exponent}"))
                };
                let trimmed = if number.contains('.') && !alternate {
                    number.trim_end_matches('0').trim_end_matches('.').to_owned()
                } else {
                    number
                };
                trimmed + &exponent
            }
        }
    };
    Ok(if kind.is_ascii_uppercase() { digits.to_uppercase() } else { digits })
}

/// An exponent with a sign and at least two digits.
fn c_exponent(scientific: &str, point: &str) -> String {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}{point}e{sign}{exponent:0>2}")
}

/// Takes a number off the front.
fn number(rest: &mut &[Char], limit: usize) -> Outcome<Option<usize>> {
    let digits = rest.iter().take_while(|c| c.get().is_ascii_digit()).count();
    let (number, after) = rest.split_at(digits);
    *rest = after;
    match to_string(number).parse() {
        Ok(number) if number <= limit => Ok(Some(number)),
        Err(_) if digits == 0 => Ok(None),
        _ => refuse!("a width or precision of more than {limit} in a format is not supported"),
    }
}

/// What stands between `%` or `:` and the kind.
#[derive(Default)]
struct Spec {
    fill: Option<Char>,
    align: Option<char>,
    /// `+`, a space, or anything else for the minus alone.
    sign: char,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
}

fn pad(
    budget: &Budget,
    spec: &Spec,
    default_align: char,
    prefix: &str,
    body: &[Char],
    out: &mut Vec<Char>,
) -> Outcome<()> {
    let missing = spec.width.saturating_sub(prefix.len() + body.len());
    budget.characters(prefix.len() + body.len() + missing)?;
    let fill = |count| std::iter::repeat_n(spec.fill.unwrap_or(Char::own(' ')), count);
    let align = spec.align.unwrap_or(if spec.zero { '=' } else { default_align });
    let zero_filled = spec.zero && spec.fill.is_none();
    let before = match align {
        '<' => 0,
        '^' => missing / 2,
        '=' => {
            push(out, prefix);
            let inner = if zero_filled { Char::own('0') } else { spec.fill.unwrap_or(Char::own(' ')) };
            out.extend(std::iter::repeat_n(inner, missing));
            out.extend_from_slice(body);
            return Ok(());
        }
        _ => missing,
    };
    out.extend(fill(before));
    push(out, prefix);
    out.extend_from_slice(body);
    out.extend(fill(missing - before));
    Ok(())
}

/// `format.format(…)`.
pub(super) fn format(budget: &Budget, format: &Text, arguments: &Arguments) -> Outcome<Text> {
    let mut out = Vec::new();
    let mut automatic = Some(0);
    write_format(budget, format, arguments, &mut automatic, 2, &mut out)?;
    Ok(out.into())
}

/// `automatic` is the number of the next field without a name; none where fields have numbers.
fn write_format(
    budget: &Budget,
    format: &[Char],
    arguments: &Arguments,
    automatic: &mut Option<usize>,
    levels: u32,
    out: &mut Vec<Char>,
) -> Outcome<()> {
    budget.characters(format.len())?;
    let mut rest = format;
    while let Some((&c, after)) = rest.split_first() {
        rest = after;
        match (c.get(), rest.first().map(|c| c.get())) {
            ('{', Some('{')) | ('}', Some('}')) => {
                out.push(c);
                rest = &rest[1..];
            }
            ('{', _) => {
                if levels == 0 {
                    return refuse!("fields of a format are nested too deep");
                }
                let mut depth = 1;
                let Some(end) = rest.iter().position(|c| {
                    depth += match c.get() {
                        '{' => 1,
                        '}' => -1,
                        _ => 0,
                    };
                    depth == 0
                }) else {
                    return refuse!("expected '}}' before end of string");
                };
                write_field(budget, &rest[..end], arguments, automatic, levels, out)?;
                rest = &rest[end + 1..];
            }
            ('}', _) => return refuse!("Single '}}' encountered in format string"),
            _ => out.push(c),
        }
    }
    Ok(())
}

fn write_field(
    budget: &Budget,
    field: &[Char],
    arguments: &Arguments,
    automatic: &mut Option<usize>,
    levels: u32,
    out: &mut Vec<Char>,
) -> Outcome<()> {
    let end = field.iter().position(|c| matches!(c.get(), '!' | ':')).unwrap_or(field.len());
    let (name, mut rest) = field.split_at(end);
    let mut value = field_value(budget, &to_string(name), arguments, automatic)?;
    if let [mark, conversion, after @ ..] = rest
        && mark.get() == '!'
    {
        value = match conversion.get() {
            's' => Value::Text(printing::str(budget, &value)?),
            'r' => Value::Text(printing::repr(budget, &value)?),
            other => return refuse!("the conversion `!{other}` of a format is not supported"),
        };
        rest = after;
    }
    let mut spec = Vec::new();
    match rest {
        [] => {}
        [colon, after @ ..] if colon.get() == ':' => {
            write_format(budget, after, arguments, automatic, levels - 1, &mut spec)?;
        }
        _ => return refuse!("expected ':' after conversion specifier"),
    }
    write_value(budget, &value, &spec, out)
}

fn field_value(
    budget: &Budget,
    name: &str,
    arguments: &Arguments,
    automatic: &mut Option<usize>,
) -> Outcome<Value> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut path) = name.split_at(end);
    let mut value = if first.is_empty() || first.bytes().all(|b| b.is_ascii_digit()) {
        let index = match (first.parse::<usize>(), &automatic) {
            (Ok(index), Some(0) | None) => {
                *automatic = None;
                index
            }
            (Err(_), Some(next)) if first.is_empty() => {
                let index = *next;
                *automatic = Some(index + 1);
                index
            }
            _ => return refuse!("cannot switch between numbered and automatic fields of a format"),
        };
        match arguments.positional.get(index) {
            Some(value) => value.clone(),
            None => return refuse!("Replacement index {index} out of range for positional args tuple"),
        }
    } else {
        match arguments.named.iter().find(|(given, _)| given == first) {
            Some((_, value)) => value.clone(),
            None => return refuse!("the format's field `{first}` is not given"),
        }
    };
    while !path.is_empty() {
        if let Some(after) = path.strip_prefix('[') {
            let Some((key, after)) = after.split_once(']') else {
                return refuse!("Missing ']' in format string");
            };
            let key = key.parse().map_or_else(|_| Value::text(key), Value::Int);
            value = attributes::item(budget, &value, &key)?;
            path = after;
        } else {
            let after = path.strip_prefix('.').unwrap_or(path);
            let end = after.find(['.', '[']).unwrap_or(after.len());
            value = attributes::attribute(budget, &value, &after[..end])?;
            path = &after[end..];
        }
        if let Value::Undefined(what) = &value {
            return refuse!("{what}");
        }
    }
    Ok(value)
}

/// `format(value, spec)`.
fn write_value(budget: &Budget, value: &Value, spec: &[Char], out: &mut Vec<Char>) -> Outcome<()> {
    if spec.is_empty() {
        let text = printing::str(budget, value)?;
        budget.characters(text.len())?;
        out.extend_from_slice(&text);
        return Ok(());
    }
    let (mut spec, kind) = parse_spec(spec)?;
    match value {
        Value::Text(text) => {
            if !matches!(kind, None | Some('s')) {
                return refuse!("Unknown format code '{}' for object of type 'str'", kind.unwrap_or(' '));
            }
            if spec.sign != '\0' || spec.alternate || spec.grouping.is_some() || spec.align == Some('=') {
                return refuse!("a sign, `=`, `#` or `,` in the format of a string is not allowed");
            }
            if spec.zero {
                spec.fill = spec.fill.or(Some(Char::own('0')));
                spec.align = spec.align.or(Some('<'));
            }
            let shown = spec.precision.map_or(text.len(), |precision| precision.min(text.len()));
            pad(budget, &spec, '<', "", &text[..shown], out)
        }
        Value::Int(_) | Value::Bool(_) | Value::Float(_) => write_number(budget, value, spec, kind, out),
        Value::Undefined(what) => refuse!("{what}"),
        _ => refuse!("unsupported format string passed to {}", value.kind()),
    }
}

fn write_number(
    budget: &Budget,
    value: &Value,
    spec: Spec,
    kind: Option<char>,
    out: &mut Vec<Char>,
) -> Outcome<()> {
    let is_float = |kind| matches!(kind, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%'));
    let (negative, mut prefix, digits) = match value.as_int() {
        Some(int) if !is_float(kind) => {
            if spec.precision.is_some() {
                return refuse!("Precision not allowed in integer format specifier");
            }
            let Some(kind) = [None, Some('d'), Some('x'), Some('X'), Some('o'), Some('b')]
                .contains(&kind)
                .then_some(kind.unwrap_or('d'))
            else {
                return refuse!("the format `{}` of an integer is not supported", kind.unwrap_or(' '));
            };
            if matches!(value, Value::Bool(_)) && spec.width > 0 && kind != 'd' {
                return refuse!("the format `{kind}` of a boolean is not supported");
            }
            let (radix, digits) = integer_digits(int, kind);
            (int < 0, if spec.alternate { radix } else { "" }.to_owned(), digits)
        }
        int => {
            let float = match (value, int) {
                (Value::Float(float), _) => *float,
                (_, int) => int.unwrap_or(0) as f64,
            };
            let negative = float.is_sign_negative() && !float.is_nan();
            let digits = match kind {
                Some('%') => {
                    let percent = float_digits(float * 100.0, 'f', spec.precision, spec.alternate)?;
                    format!("{percent}%")
                }
                Some(kind) if is_float(Some(kind)) => {
                    float_digits(float, kind, spec.precision, spec.alternate)?
                }
                None if spec.precision.is_none() && !spec.alternate => printing::float(float.abs()),
                _ => return refuse!("this format of a float is not supported; give it `f`, `e` or `g`"),
            };
            (negative, String::new(), digits)
        }
    };
    let digits = match spec.grouping {
        None => digits,
        Some(_) if spec.zero => return refuse!("`,` with filling zeros in a format is not supported"),
        Some(separator) => grouped(&digits, separator),
    };
    prefix = sign(negative, &spec) + &prefix;
    let body: Vec<Char> = digits.chars().map(Char::own).collect();
    pad(budget, &spec, '>', &prefix, &body, out)
}

/// Digits before the point in threes.
fn grouped(digits: &str, separator: char) -> String {
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let mut text = String::new();
    for (index, digit) in digits[..end].chars().enumerate() {
        if index > 0 && (end - index).is_multiple_of(3) {
            text.push(separator);
        }
        text.push(digit);
    }
    text + &digits[end..]
}

fn parse_spec(spec: &[Char]) -> Outcome<(Spec, Option<char>)> {
    let is_align = |c: char| matches!(c, '<' | '>' | '^' | '=');
    let mut parsed = Spec { sign: '\0', ..Spec::default() };
    let mut rest = spec;
    if let [fill, align, after @ ..] = rest
        && is_align(align.get())
    {
        (parsed.fill, parsed.align, rest) = (Some(*fill), Some(align.get()), after);
    } else if let [align, after @ ..] = rest
        && is_align(align.get())
    {
        (parsed.align, rest) = (Some(align.get()), after);
    }
    let take = |wanted: &[char], rest: &mut &[Char]| {
        let found = rest.first().map(|c| c.get()).filter(|c| wanted.contains(c));
        *rest = if found.is_some() { &rest[1..] } else { rest };
        found
    };
    parsed.sign = take(&['+', '-', ' '], &mut rest).unwrap_or('\0');
    parsed.alternate = take(&['#'], &mut rest).is_some();
    parsed.zero = take(&['0'], &mut rest).is_some();
    parsed.width = number(&mut rest, MAX_WIDTH)?.unwrap_or(0);
    parsed.grouping = take(&[',', '_'], &mut rest);
    if take(&['.'], &mut rest).is_some() {
        let Some(precision) = number(&mut rest, MAX_WIDTH)? else {
            return refuse!("Format specifier missing precision");
        };
        parsed.precision = Some(precision);
    }
    match rest {
        [] => Ok((parsed, None)),
        [kind] => Ok((parsed, Some(kind.get()))),
        _ => refuse!("Invalid format specifier '{}'", to_string(spec)),
    }
}
