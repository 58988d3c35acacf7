//! The functions that transformers gives to templates.

use std::cell::Cell;
use std::rc::Rc;

use super::arguments::Arguments;
use super::budget::{Budget, Outcome, Problem, refuse};
use super::text::Text;
use super::value::{Joiner, Value};
use super::{operators, printing};
use crate::time::LocalTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    RaiseException,
    StrftimeNow,
    /// Random words, which no prompt can depend on.
    Lipsum,
}

/// Every function, by its name.
pub(super) const FUNCTIONS: [(&str, Function); 8] = [
    ("range", Function::Range),
    ("dict", Function::Dict),
    ("namespace", Function::Namespace),
    ("cycler", Function::Cycler),
    ("joiner", Function::Joiner),
    ("raise_exception", Function::RaiseException),
    ("strftime_now", Function::StrftimeNow),
    ("lipsum", Function::Lipsum),
];

pub(super) fn call(
    budget: &Budget,
    function: Function,
    arguments: Arguments,
    now: &LocalTime,
) -> Outcome<Value> {
    match function {
        Function::Range => {
            let given = arguments.positional.len();
            let bound = arguments.bind("range", ["", "", ""], 1)?;
            let (first, second) = (bound.int(0, 0)?, bound.int(1, 0)?);
            let (start, stop) = if given == 1 { (0, first) } else { (first, second) };
            operators::range(start, stop, bound.int(2, 1)?)
        }
        Function::Dict => Value::dict(budget, entries(budget, "dict", arguments)?),
        Function::Namespace => {
            let mut attributes: Vec<(Text, Value)> = Vec::new();
            for (key, value) in entries(budget, "namespace", arguments)? {
                let Value::Text(key) = key else {
                    return refuse!("an attribute of a namespace must be a string, not '{}'", key.kind());
                };
                check_attribute(&key)?;
                match attributes.iter_mut().find(|(other, _)| *other == key) {
                    Some((_, old)) => *old = value,
                    None => attributes.push((key, value)),
                }
            }
            Value::namespace(attributes)
        }
        Function::Cycler => {
            if arguments.positional.is_empty() || !arguments.named.is_empty() {
                return refuse!("a cycler takes items, at least one");
            }
            Value::cycler(arguments.positional)
        }
        Function::Joiner => {
            let mut bound = arguments.bind("joiner", ["sep"], 0)?;
            let separator = bound.take(0).unwrap_or_else(|| Value::text(", "));
            separator.depth()?;
            Ok(Value::Joiner(Rc::new(Joiner { separator, is_used: Cell::new(false) })))
        }
        Function::RaiseException => {
            let mut bound = arguments.bind("raise_exception", ["message"], 1)?;
            let message = bound.take(0).unwrap_or(Value::None);
            let text = format!("the template refuses the conversation: {}", printing::str(budget, &message)?);
            Err(Problem { raised: true, ..Problem::new(text) })
        }
        Function::StrftimeNow => {
            let format = arguments.bind("strftime_now", ["format"], 1)?.text(0)?;
            budget.characters(format.len())?;
            match now.strftime(&format.to_string()) {
                Ok(text) => Ok(Value::text(&text)),
                Err(problem) => refuse!("{problem}"),
            }
        }
        Function::Lipsum => refuse!("`lipsum` is not supported: it gives random text"),
    }
}

/// What `dict` makes entries of: a map or a list of pairs, then arguments with names.
fn entries(budget: &Budget, function: &str, arguments: Arguments) -> Outcome<Vec<(Value, Value)>> {
    let Arguments { mut positional, named } = arguments;
    if positional.len() > 1 {
        return refuse!("`{function}` takes at most one argument without a name");
    }
    let mut entries = match positional.pop() {
        None => Vec::new(),
        Some(Value::Dict(dict)) => {
            budget.items(dict.entries.len())?;
            dict.entries.clone()
        }
        Some(pairs) => {
            let mut entries = Vec::new();
            for pair in pairs.iterate(budget)? {
                let [key, value] = <[Value; 2]>::try_from(pair.iterate(budget)?).map_err(|items| {
                    Problem::new(format!(
                        "an entry of a map needs a key and a value, not {} items",
                        items.len()
                    ))
                })?;
                entries.push((key, value));
            }
            entries
        }
    };
    entries.extend(named.into_iter().map(|(name, value)| (Value::text(&name), value)));
    Ok(entries)
}

/// Refuses what transformers refuses as an attribute of a namespace.
pub(super) fn check_attribute(name: &Text) -> Outcome<()> {
    if name.first().is_some_and(|c| c.get() == '_') {
        return refuse!("a namespace cannot have the attribute `{name}`: it begins with an underscore");
    }
    Ok(())
}
