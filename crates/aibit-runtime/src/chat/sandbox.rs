//! Renders a template that nobody trusts: no files, no clock, no code but the template's own, and bounded time,
//! memory and stack whatever it says.
//!
//! The engine's own limits are instructions, nesting and the length of a `range`. What an instruction may cost
//! beyond that is charged to a [`Budget`], by the filters that [`guard`] puts before them and by the
//! functions here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use minijinja::machinery::{CodeGenerator, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, functions};
use minijinja_contrib::pycompat;

use super::guard;

/// Longest template; the longest in use have a third of it.
pub(super) const MAX_TEMPLATE: usize = 64 << 10;
/// Longest text that a template may give.
pub(super) const MAX_OUTPUT: usize = 4 << 20;
/// Instructions of the engine; a message takes a few hundred.
const MAX_INSTRUCTIONS: u64 = 2_000_000;
/// Bytes that a template may read and make, all operations together.
const MAX_WORK: u64 = 64 << 20;
/// What an item of a list costs, in the bytes that it takes.
const ITEM: u64 = 32;
/// Lists in lists at most.
const MAX_NESTING: usize = 32;
/// Characters of an error; one may quote what the template has made.
const MAX_PROBLEM: usize = 1000;
/// Enough for the deepest template of the greatest length; pages that are not touched cost nothing.
const STACK: usize = 64 << 20;

/// Returns what the template `source` makes of `variables`.
///
/// # Errors
/// What is wrong, with the line of the template where that is known.
pub(super) fn render(source: &str, variables: Value) -> Result<String, String> {
    // On a stack of its own: the engine and the destructors of its trees recurse.
    thread::scope(|scope| {
        let handle = thread::Builder::new()
            .name("chat template".into())
            .stack_size(STACK)
            .spawn_scoped(scope, || render_here(source, variables))
            .map_err(|e| format!("no thread with a stack of {STACK} bytes to render it on: {e}"))?;
        // A panic would be a bug of the engine, and still no reason to end the program.
        handle.join().unwrap_or_else(|_| Err("the template engine failed on it; please report this".into()))
    })
    .map_err(|problem| match problem.char_indices().nth(MAX_PROBLEM) {
        Some((end, _)) => format!("{} ...", &problem[..end]),
        None => problem,
    })
}

fn render_here(source: &str, variables: Value) -> Result<String, String> {
    let budget = Arc::new(Budget::default());
    let env = environment(&budget);
    let describe = |error: Error| {
        if let Some(message) = budget.raised.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return format!("the template refuses the conversation: {message}");
        }
        let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
        match (error.kind(), error.detail()) {
            (ErrorKind::OutOfFuel, _) => {
                format!("{line}it takes more than {MAX_INSTRUCTIONS} instructions for this conversation")
            }
            (_, Some(detail)) => format!("{line}{detail}"),
            (kind, None) => format!("{line}{kind}"),
        }
    };
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the default delimiters are valid");
    guard::check_tokens(source, syntax.clone())?;
    let template = parse(source, "template", syntax).map_err(describe)?;
    let mut generator = CodeGenerator::new("template", source);
    generator.compile_stmt(&template);
    let (program, _) = generator.finish();
    let (program, blocks) = (guard::guard(&program)?, BTreeMap::new());
    let mut text = String::new();
    let mut output = make_string_output(&mut text);
    eval(&env, &program, variables, &blocks, &mut output, AutoEscape::None).map_err(describe)?;
    drop(output);
    if text.len() > MAX_OUTPUT {
        return Err(format!("it gives {} bytes of text, allowed are {MAX_OUTPUT}", text.len()));
    }
    Ok(text)
}

/// What a rendering has cost, and what its template had to say.
#[derive(Default)]
struct Budget {
    spent: AtomicU64,
    raised: Mutex<Option<String>>,
}

impl Budget {
    fn charge(&self, cost: u64) -> Result<(), Error> {
        // A single cost above the limit must not wrap the sum around.
        let spent = self.spent.fetch_add(cost.min(MAX_WORK), Ordering::Relaxed);
        if spent.saturating_add(cost) > MAX_WORK {
            let problem = format!("it reads and makes more than {MAX_WORK} bytes for this conversation");
            return Err(refusal(problem));
        }
        Ok(())
    }

    /// Charges all that `value` holds, strings as often as they occur.
    fn charge_deep(&self, value: &Value, nesting: usize) -> Result<(), Error> {
        if nesting > MAX_NESTING {
            return Err(refusal(format!("lists and maps are nested more than {MAX_NESTING} deep")));
        }
        // These can be changed later: inside another value they could make it endless.
        let is_variable = value
            .as_object()
            .is_some_and(|object| ["::Namespace", "::Loop"].iter().any(|n| object.type_name().ends_with(n)));
        if nesting > 0 && is_variable {
            return Err(refusal("a namespace or `loop` inside another value is not supported"));
        }
        match value.kind() {
            ValueKind::String => self.charge(1 + value.as_str().map_or(0, str::len) as u64),
            ValueKind::Seq | ValueKind::Iterable => {
                self.charge(ITEM)?;
                for item in value.try_iter()?.checked() {
                    self.charge(ITEM)?;
                    self.charge_deep(&item?, nesting + 1)?;
                }
                Ok(())
            }
            ValueKind::Map => {
                self.charge(ITEM)?;
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    self.charge(2 * ITEM)?;
                    self.charge_deep(&key, nesting + 1)?;
                    self.charge_deep(&value.get_item(&key)?, nesting + 1)?;
                }
                Ok(())
            }
            _ => self.charge(1),
        }
    }

    fn charge_shallow(&self, value: &Value) -> Result<(), Error> {
        self.charge(1 + value.as_str().map_or_else(|| value.len().unwrap_or(0), str::len) as u64)
    }

    /// Charges what a split of `text` into `parts` takes.
    fn charge_parts(&self, text: &str, parts: usize) -> Result<(), Error> {
        self.charge(text.len() as u64 + ITEM * parts as u64)
    }
}

fn refusal(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// Filters and tests of the engine that look at their operand and no further.
#[rustfmt::skip] // a list of words
const SHALLOW: [&str; 26] = [
    "bool", "boolean", "count", "d", "default", "defined", "divisibleby", "even", "false", "first",
    "float", "integer", "iterable", "last", "length", "mapping", "none", "number", "odd", "round", "safe",
    "sequence", "string", "true", "undefined", "items",
];
/// Filters of the engine that give a list of what they are given, or look through it.
#[rustfmt::skip] // a list of words
const LISTING: [&str; 12] = [
    "dictsort", "lines", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "select",
    "selectattr", "sort",
];
/// Filters of the engine that cost what their operands hold.
#[rustfmt::skip] // a list of words
const DEEP: [&str; 8] = [
    "abs", "capitalize", "int", "lower", "title", "trim", "unique", "upper",
];
/// Tests of the engine that compare.
#[rustfmt::skip] // a list of words
const COMPARING: [&str; 15] = [
    "!=", "==", "endingwith", "eq", "equalto", "ge", "gt", "in", "le", "lower", "lt", "ne", "sameas",
    "startingwith", "upper",
];
/// Filters that `map` may apply, and tests that `select` and its relatives may: they cost what the items hold.
#[rustfmt::skip] // a list of words
const APPLIED: [&str; 29] = [
    "!=", "==", "boolean", "capitalize", "defined", "eq", "equalto", "even", "false", "first", "float",
    "int", "integer", "iterable", "last", "length", "lower", "mapping", "ne", "none", "number", "odd",
    "sequence", "string", "title", "trim", "true", "undefined", "upper",
];

/// What templates may use, and nothing else: the engine's own filters and tests, charged, and functions that
/// transformers adds.
fn environment(budget: &Arc<Budget>) -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(MAX_INSTRUCTIONS));
    let b = Arc::clone(budget);
    env.set_formatter(move |output, _, value| {
        b.charge_deep(value, 0)?;
        write!(output, "{value}").map_err(Error::from)
    });
    let b = Arc::clone(budget);
    env.set_unknown_method_callback(move |state, value, method, args| {
        call_method(&b, state, value, method, args)
    });
    add_guards(&mut env, budget);
    add_filters_and_tests(&mut env, budget);
    add_functions(&mut env, budget);
    env
}

/// What [`guard`] puts in.
fn add_guards(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    let b = Arc::clone(budget);
    env.add_filter(guard::DEEP, move |value: Value| b.charge_deep(&value, 0).map(|()| value));
    let b = Arc::clone(budget);
    env.add_filter(guard::STORED, move |value: Value| b.charge_deep(&value, 1).map(|()| value));
    let b = Arc::clone(budget);
    env.add_filter(guard::SHALLOW, move |value: Value| b.charge_shallow(&value).map(|()| value));
    let b = Arc::clone(budget);
    env.add_filter(guard::LOOP, move |value: Value| match value.as_str() {
        Some(text) => b.charge_parts(text, text.len()).map(|()| value.clone()),
        None => b.charge_shallow(&value).map(|()| value),
    });
    let b = Arc::clone(budget);
    env.add_filter(guard::ADD, move |left: &Value, right: &Value| add(&b, left, right));
    let b = Arc::clone(budget);
    env.add_filter(guard::CONCATENATE, move |left: &Value, right: &Value| {
        b.charge_deep(left, 0)?;
        b.charge_deep(right, 0)?;
        Ok::<_, Error>(Value::from(format!("{left}{right}")))
    });
    let b = Arc::clone(budget);
    env.add_filter(guard::MULTIPLY, move |left: &Value, right: &Value| multiply(&b, left, right));
    let b = Arc::clone(budget);
    env.add_filter(
        guard::SLICE,
        move |value: &Value, start: Option<i64>, stop: Option<i64>, step: Option<i64>| {
            slice(&b, value, start, stop, step.unwrap_or(1))
        },
    );
}

fn add_filters_and_tests(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    // The engine's own, in an environment in which they can do no more than they do.
    let engine = Arc::new(Environment::new());
    for name in SHALLOW.into_iter().chain(LISTING).chain(DEEP).chain(COMPARING) {
        let (b, plain) = (Arc::clone(budget), Arc::clone(&engine));
        let charge = move |args: &[Value]| {
            for (index, arg) in args.iter().enumerate() {
                match arg.as_str() {
                    Some(text) if LISTING.contains(&name) => b.charge_parts(text, text.len())?,
                    _ if SHALLOW.contains(&name) && index == 0 => b.charge_shallow(arg)?,
                    _ => b.charge_deep(arg, 0)?,
                }
            }
            Ok::<_, Error>(())
        };
        let charge_test = charge.clone();
        // Some are both; of a name that is not the engine says so.
        env.add_filter(name, move |args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            charge(&args)?;
            check_applied(name, &args)?;
            plain.empty_state().apply_filter(name, &args)
        });
        let plain = Arc::clone(&engine);
        env.add_test(name, move |args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            charge_test(&args)?;
            plain.empty_state().perform_test(name, &args)
        });
    }
    let b = Arc::clone(budget);
    env.add_filter("string", move |value: &Value| {
        b.charge_deep(value, 0)?;
        Ok::<_, Error>(Value::from(value.to_string()))
    });
    for name in ["replace", "split"] {
        let b = Arc::clone(budget);
        env.add_filter(name, move |state: &mut State<'_, '_>, text: &str, args: Rest<Value>| {
            call_method(&b, state, &Value::from(text), name, &args)
        });
    }
    let b = Arc::clone(budget);
    env.add_filter("join", move |items: &Value, separator: Option<&str>, options: Kwargs| {
        let attribute: Option<Value> = options.get("attribute")?;
        options.assert_all_used()?;
        join(&b, separator.unwrap_or_default(), items, attribute.as_ref())
    });
    let b = Arc::clone(budget);
    env.add_filter("tojson", move |value: &Value, options: Kwargs| to_json(&b, value, &options));
}

/// Refuses filters and tests that cost more for each item than the item holds.
fn check_applied(name: &str, args: &[Value]) -> Result<(), Error> {
    let position = match name {
        "map" | "select" | "reject" => 1,
        "selectattr" | "rejectattr" => 2,
        _ => return Ok(()),
    };
    match args.get(position) {
        Some(arg) if !arg.is_kwargs() && !arg.as_str().is_some_and(|arg| APPLIED.contains(&arg)) => {
            Err(refusal(format!("`{name}` may apply {}", APPLIED.join(", "))))
        }
        _ => Ok(()),
    }
}

fn add_functions(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    let b = Arc::clone(budget);
    env.add_function("tojson", move |value: &Value, options: Kwargs| to_json(&b, value, &options));
    let b = Arc::clone(budget);
    env.add_function("raise_exception", move |message: &Value| {
        b.charge_deep(message, 0)?;
        let message = message.to_string();
        *b.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.clone());
        Err::<Value, _>(refusal(message))
    });
    // Bounds far from where the engine's arithmetic would overflow.
    env.add_function("range", |lower: i32, upper: Option<i32>, step: Option<i32>| {
        functions::range(lower as isize, upper.map(|n| n as isize), step.map(|n| n as isize))
    });
    let b = Arc::clone(budget);
    env.add_function("namespace", move |defaults: Option<ValueOrKwargs>| {
        defaults.iter().try_for_each(|values| b.charge_deep(values, 0))?;
        functions::namespace(defaults)
    });
    let b = Arc::clone(budget);
    env.add_function("dict", move |value: Option<Value>, update: Kwargs| {
        value.iter().try_for_each(|value| b.charge_deep(value, 0))?;
        let dict = functions::dict(value, update)?;
        b.charge_deep(&dict, 0)?;
        Ok::<_, Error>(dict)
    });
}

/// Python's methods of strings, lists and maps, charged.
fn call_method(
    budget: &Budget,
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if value.kind() != ValueKind::Map {
        budget.charge_deep(value, 0)?;
    }
    args.iter().try_for_each(|arg| budget.charge_deep(arg, 0))?;
    if let Some(text) = value.as_str() {
        let argument = |index: usize| args.get(index).and_then(Value::as_str);
        match method {
            "replace" => {
                let (old, new) = (argument(0).unwrap_or_default(), argument(1).unwrap_or_default());
                budget.charge(text.matches(old).count() as u64 * new.len() as u64)?;
            }
            "split" => {
                let parts = match argument(0) {
                    Some(separator) => text.matches(separator).count() + 1,
                    None => text.split_whitespace().count(),
                };
                budget.charge_parts(text, parts)?;
            }
            "splitlines" => budget.charge_parts(text, text.matches('\n').count() + 1)?,
            "join" => {
                let items = args.first().ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
                return join(budget, text, items, None);
            }
            // A width in the format would make a string of any length.
            "format" => return Err(refusal("the method `format` is not supported")),
            _ => {}
        }
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

fn join(budget: &Budget, separator: &str, items: &Value, attribute: Option<&Value>) -> Result<Value, Error> {
    let mut text = String::new();
    for (index, item) in items.try_iter()?.checked().enumerate() {
        let item = item?;
        let item = match attribute {
            Some(name) => item.get_item(name)?,
            None => item,
        };
        budget.charge_deep(&item, 0)?;
        if index > 0 {
            budget.charge(separator.len() as u64)?;
            text.push_str(separator);
        }
        write!(text, "{item}")?;
    }
    Ok(Value::from(text))
}

fn add(budget: &Budget, left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        budget.charge((left.len() + right.len()) as u64)?;
        return Ok(Value::from([left, right].concat()));
    }
    let is_list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    if is_list(left) && is_list(right) {
        budget.charge_deep(left, 0)?;
        budget.charge_deep(right, 0)?;
        let items = left.try_iter()?.checked().chain(right.try_iter()?.checked());
        return Ok(Value::from(items.collect::<Result<Vec<Value>, Error>>()?));
    }
    arithmetic("+", left, right, i64::checked_add, |a, b| a + b)
}

fn multiply(budget: &Budget, left: &Value, right: &Value) -> Result<Value, Error> {
    for (text, count) in [(left, right), (right, left)] {
        if let (Some(text), true) = (text.as_str(), count.is_integer()) {
            let count = u64::try_from(count.clone()).unwrap_or(0); // as in Python, less than once is not at all
            budget.charge(count.saturating_mul(text.len() as u64))?;
            // An empty string times anything is free, and empty.
            return Ok(Value::from(if text.is_empty() {
                String::new()
            } else {
                text.repeat(count as usize)
            }));
        }
    }
    arithmetic("*", left, right, i64::checked_mul, |a, b| a * b)
}

/// Python's slices.
fn slice(
    budget: &Budget,
    value: &Value,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> Result<Value, Error> {
    if step == 0 {
        return Err(refusal("the step of a slice is 0"));
    }
    if let Some(text) = value.as_str() {
        budget.charge(size_of::<char>() as u64 * text.len() as u64)?;
        let chars: Vec<char> = text.chars().collect();
        let text: String = positions(chars.len(), start, stop, step).map(|at| chars[at]).collect();
        return Ok(Value::from(text));
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Err(refusal(format!("a slice of {} is not possible", value.kind())));
    }
    budget.charge(ITEM * value.len().unwrap_or(0) as u64)?;
    let items = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
    Ok(positions(items.len(), start, stop, step).map(|at| items[at].clone()).collect())
}

/// The positions that a slice of `len` items takes.
fn positions(
    len: usize,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> Box<dyn Iterator<Item = usize>> {
    let len = len as i64;
    let position = |bound: i64| if bound < 0 { bound.saturating_add(len) } else { bound };
    let every = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
    if step > 0 {
        let start = start.map_or(0, position).clamp(0, len);
        let stop = stop.map_or(len, position).clamp(0, len);
        Box::new((start..stop).step_by(every).map(|at| at as usize))
    } else {
        let start = start.map_or(len - 1, position).clamp(-1, len - 1);
        let stop = stop.map_or(-1, position).clamp(-1, len - 1);
        Box::new((stop + 1..=start).rev().step_by(every).map(|at| at as usize))
    }
}

fn arithmetic(
    operator: &str,
    left: &Value,
    right: &Value,
    of_integers: fn(i64, i64) -> Option<i64>,
    of_floats: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let are_numbers = [left, right].iter().all(|v| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    if !are_numbers {
        let (left, right) = (left.kind(), right.kind());
        return Err(refusal(format!("`{operator}` between {left} and {right} is not supported")));
    }
    if let (Ok(a), Ok(b)) = (i64::try_from(left.clone()), i64::try_from(right.clone()))
        && left.kind() == right.kind()
        && left.is_integer()
        && right.is_integer()
    {
        let result = of_integers(a, b);
        return result.map(Value::from).ok_or_else(|| refusal(format!("{a} {operator} {b} is too large")));
    }
    Ok(Value::from(of_floats(f64::try_from(left.clone())?, f64::try_from(right.clone())?)))
}

/// As `json.dumps` in Python with `ensure_ascii=False`, which is what templates expect: no HTML escapes.
fn to_json(budget: &Budget, value: &Value, options: &Kwargs) -> Result<Value, Error> {
    budget.charge_deep(value, 0)?;
    let indent: Option<u32> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(refusal("`separators` of `tojson` are two strings")),
    };
    let mut writer = JsonWriter {
        budget,
        text: String::new(),
        indent,
        item,
        key,
        ensure_ascii: ensure_ascii.unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
    };
    writer.value(value, 1)?;
    Ok(Value::from(writer.text))
}

struct JsonWriter<'a> {
    budget: &'a Budget,
    text: String,
    indent: Option<u32>,
    item: &'a str,
    key: &'a str,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, nesting: u32) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => write!(self.text, "{value}")?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                self.text.push('[');
                let mut is_empty = true;
                for item in value.try_iter()?.checked() {
                    self.begin_item(is_empty, nesting)?;
                    is_empty = false;
                    self.value(&item?, nesting + 1)?;
                }
                self.end(']', is_empty, nesting)?;
            }
            ValueKind::Map => {
                self.text.push('{');
                let mut keys = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                if self.sort_keys {
                    keys.sort();
                }
                let is_empty = keys.is_empty();
                for (index, key) in keys.iter().enumerate() {
                    self.begin_item(index == 0, nesting)?;
                    self.string(&key.to_string())?;
                    self.budget.charge(self.key.len() as u64)?;
                    self.text.push_str(self.key);
                    self.value(&value.get_item(key)?, nesting + 1)?;
                }
                self.end('}', is_empty, nesting)?;
            }
            kind => return Err(refusal(format!("`tojson` of {kind} is not possible"))),
        }
        Ok(())
    }

    fn begin_item(&mut self, is_first: bool, nesting: u32) -> Result<(), Error> {
        if !is_first {
            self.budget.charge(self.item.len() as u64)?;
            self.text.push_str(self.item);
        }
        self.new_line(nesting)
    }

    fn end(&mut self, bracket: char, is_empty: bool, nesting: u32) -> Result<(), Error> {
        if !is_empty {
            self.new_line(nesting - 1)?;
        }
        self.text.push(bracket);
        Ok(())
    }

    fn new_line(&mut self, nesting: u32) -> Result<(), Error> {
        if let Some(indent) = self.indent {
            let width = u64::from(indent) * u64::from(nesting);
            self.budget.charge(width + 1)?;
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', width as usize));
        }
        Ok(())
    }

    fn string(&mut self, string: &str) -> Result<(), Error> {
        self.budget.charge(6 * string.len() as u64)?; // six bytes for one in the worst case
        self.text.push('"');
        for c in string.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.text, "\\u{unit:04x}")?;
                    }
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
        Ok(())
    }
}
