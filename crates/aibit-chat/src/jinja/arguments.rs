//! Arguments of a call, bound to parameters as Python binds them.

use super::budget::{Budget, Outcome, refuse};
use super::printing;
use super::text::Text;
use super::value::Value;

/// Positional arguments, then those with names, in the order of the call.
#[derive(Clone, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Value>,
    pub named: Vec<(String, Value)>,
}

impl Arguments {
    /// Takes the first positional argument out.
    pub(super) fn pop_first(&mut self) -> Option<Value> {
        (!self.positional.is_empty()).then(|| self.positional.remove(0))
    }

    /// One argument for each parameter of `names`, of which the first `required` must be given. A parameter that
    /// has no name is positional only.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
        required: usize,
    ) -> Outcome<Bound<N>> {
        if self.positional.len() > N {
            return refuse!("`{function}` takes at most {N} arguments, {} are given", self.positional.len());
        }
        let mut values = [const { None }; N];
        for (value, given) in values.iter_mut().zip(self.positional) {
            *value = Some(given);
        }
        for (name, given) in self.named {
            match names.iter().position(|n| *n == name) {
                Some(at) if values[at].is_none() => values[at] = Some(given),
                Some(_) => return refuse!("`{function}` gets two values for `{name}`"),
                None => return refuse!("`{function}` has no argument `{name}`"),
            }
        }
        if let Some(at) = values[..required].iter().position(Option::is_none) {
            return refuse!("`{function}` lacks its argument {}", at + 1);
        }
        Ok(Bound { function: function.to_owned(), values })
    }

    /// For what takes no arguments.
    pub(super) fn none(self, function: &str) -> Outcome<()> {
        self.bind(function, [], 0).map(drop)
    }
}

/// Arguments in the order of their parameters.
pub(super) struct Bound<const N: usize> {
    function: String,
    values: [Option<Value>; N],
}

impl<const N: usize> Bound<N> {
    /// Whether an argument is given and is not none.
    pub(super) fn is_some(&self, at: usize) -> bool {
        !matches!(self.values[at], None | Some(Value::None))
    }

    pub(super) fn value(&self, at: usize) -> Option<&Value> {
        self.values[at].as_ref()
    }

    pub(super) fn take(&mut self, at: usize) -> Option<Value> {
        self.values[at].take()
    }

    /// An integer; a boolean is one.
    pub(super) fn int(&self, at: usize, default: i64) -> Outcome<i64> {
        match &self.values[at] {
            None => Ok(default),
            Some(Value::Undefined(what)) => refuse!("{what}"),
            Some(value) => match value.as_int() {
                // What no list or string reaches is as good as the largest.
                Some(value) => Ok(value.clamp(i64::MIN.into(), i64::MAX.into()) as i64),
                None => self.wrong(at, "an integer", value),
            },
        }
    }

    /// An integer, where the argument is given and is not none.
    pub(super) fn optional_int(&self, at: usize) -> Outcome<Option<i64>> {
        if self.is_some(at) { self.int(at, 0).map(Some) } else { Ok(None) }
    }

    /// A string, where the argument is given and is not none.
    pub(super) fn optional_text(&self, at: usize) -> Outcome<Option<Text>> {
        match &self.values[at] {
            None | Some(Value::None) => Ok(None),
            Some(_) => self.text(at).map(Some),
        }
    }

    /// A string.
    pub(super) fn text(&self, at: usize) -> Outcome<Text> {
        match &self.values[at] {
            Some(Value::Text(text)) => Ok(text.clone()),
            Some(Value::Undefined(what)) => refuse!("{what}"),
            Some(value) => self.wrong(at, "a string", value),
            None => refuse!("`{}` lacks its argument {}", self.function, at + 1),
        }
    }

    /// Anything, as `str` prints it.
    pub(super) fn printed(&self, budget: &Budget, at: usize, default: &str) -> Outcome<Text> {
        self.values[at].as_ref().map_or(Ok(default.into()), |value| printing::str(budget, value))
    }

    pub(super) fn is_true(&self, at: usize) -> bool {
        self.values[at].as_ref().is_some_and(Value::is_true)
    }

    fn wrong<T>(&self, at: usize, expected: &str, found: &Value) -> Outcome<T> {
        refuse!("argument {} of `{}` must be {expected}, not '{}'", at + 1, self.function, found.kind())
    }
}
