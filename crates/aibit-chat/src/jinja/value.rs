//! Python's values, as far as templates meet them, with Python's equality, order, truth and iteration.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;

use super::budget::{Budget, Outcome, refuse};
use super::functions::Function;
use super::text::{Char, Text, occurrences};

/// Lists in lists at most.
const MAX_NESTING: u32 = 32;

#[derive(Clone)]
pub(super) enum Value {
    /// With what an error says of it.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    /// Python's integers have no bound; what exceeds these is refused.
    Int(i128),
    Float(f64),
    Text(Text),
    /// What `escape` and `safe` give: text that is not escaped again.
    Markup(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    /// What the methods `keys`, `values` and `items` give.
    View(ViewKind, Rc<Dict>),
    Range(Range),
    /// What can be iterated over once.
    Generator(Rc<Generator>),
    Namespace(Rc<RefCell<Vec<(Text, Value)>>>),
    Cycler(Rc<Cycler>),
    Joiner(Rc<Joiner>),
    Loop(Rc<Loop>),
    /// Its number in the rendering.
    Macro(usize),
    Function(Function),
    /// A method that has not been called.
    Method(Rc<(Value, Text)>),
}

/// The items of a list or tuple.
pub(super) struct Items {
    pub items: Vec<Value>,
    depth: u32,
    /// Whether `groupby` made it, whose tuples have the names `grouper` and `list`.
    pub is_group: bool,
}

/// Keys and values, in the order in which the keys came.
pub(super) struct Dict {
    pub entries: Vec<(Value, Value)>,
    depth: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ViewKind {
    Keys,
    Values,
    Items,
}

#[derive(Clone, Copy)]
pub(super) struct Range {
    pub start: i64,
    pub step: i64,
    pub len: usize,
    /// As it was written, for printing.
    pub stop: i64,
}

pub(super) struct Generator {
    pub rest: RefCell<VecDeque<Value>>,
    depth: u32,
}

pub(super) struct Cycler {
    pub items: Vec<Value>,
    pub position: Cell<usize>,
    depth: u32,
}

pub(super) struct Joiner {
    pub separator: Value,
    pub is_used: Cell<bool>,
}

/// The variable `loop`.
pub(super) struct Loop {
    pub items: Vec<Value>,
    pub index0: Cell<usize>,
    pub depth0: usize,
    /// What `changed` was last called with.
    pub last_changed: RefCell<Option<Vec<Value>>>,
    /// Number of the loop in the rendering, where it may call itself.
    pub recursion: Option<usize>,
}

impl Range {
    pub(super) fn get(&self, index: usize) -> Value {
        Value::Int(i128::from(self.start) + i128::from(self.step) * index as i128)
    }
}

fn depth_of<'a>(values: impl IntoIterator<Item = &'a Value>) -> Outcome<u32> {
    let mut deepest = 0;
    for value in values {
        deepest = deepest.max(value.depth()?);
    }
    if deepest >= MAX_NESTING {
        return refuse!("lists and maps are nested more than {MAX_NESTING} deep");
    }
    Ok(deepest + 1)
}

impl Value {
    pub(super) fn text(string: &str) -> Self {
        Self::Text(string.into())
    }

    pub(super) fn undefined(what: impl Into<Rc<str>>) -> Self {
        Self::Undefined(what.into())
    }

    pub(super) fn list(budget: &Budget, items: Vec<Self>) -> Outcome<Self> {
        budget.items(items.len())?;
        Ok(Self::List(Rc::new(Items { depth: depth_of(&items)?, items, is_group: false })))
    }

    pub(super) fn tuple(budget: &Budget, items: Vec<Self>) -> Outcome<Self> {
        budget.items(items.len())?;
        Ok(Self::Tuple(Rc::new(Items { depth: depth_of(&items)?, items, is_group: false })))
    }

    pub(super) fn group(budget: &Budget, grouper: Self, list: Self) -> Outcome<Self> {
        let items = vec![grouper, list];
        budget.items(items.len())?;
        Ok(Self::Tuple(Rc::new(Items { depth: depth_of(&items)?, items, is_group: true })))
    }

    /// A map of `entries`, of which the last counts where a key comes again.
    pub(super) fn dict(budget: &Budget, entries: impl IntoIterator<Item = (Self, Self)>) -> Outcome<Self> {
        let mut unique: Vec<(Self, Self)> = Vec::new();
        for (key, value) in entries {
            key.check_hashable()?;
            budget.items(2)?;
            match find_key(budget, &unique, &key)? {
                Some(at) => unique[at].1 = value,
                None => unique.push((key, value)),
            }
        }
        let depth = depth_of(unique.iter().flat_map(|(key, value)| [key, value]))?;
        Ok(Self::Dict(Rc::new(Dict { entries: unique, depth })))
    }

    pub(super) fn generator(budget: &Budget, items: Vec<Self>) -> Outcome<Self> {
        budget.items(items.len())?;
        let depth = depth_of(&items)?;
        Ok(Self::Generator(Rc::new(Generator { rest: RefCell::new(items.into()), depth })))
    }

    pub(super) fn cycler(items: Vec<Self>) -> Outcome<Self> {
        Ok(Self::Cycler(Rc::new(Cycler { depth: depth_of(&items)?, items, position: Cell::new(0) })))
    }

    pub(super) fn namespace(entries: Vec<(Text, Self)>) -> Outcome<Self> {
        depth_of(entries.iter().map(|(_, value)| value))?;
        Ok(Self::Namespace(Rc::new(RefCell::new(entries))))
    }

    /// How deep lists and maps are nested in it.
    ///
    /// # Errors
    /// Namespaces and loops change: inside another value they could make it endless.
    pub(super) fn depth(&self) -> Outcome<u32> {
        Ok(match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            Self::Generator(generator) => generator.depth,
            Self::Cycler(cycler) => cycler.depth,
            Self::Method(method) => method.0.depth()? + 1,
            Self::Joiner(joiner) => joiner.separator.depth()? + 1,
            Self::Namespace(_) | Self::Loop(_) => {
                return refuse!("a namespace or `loop` inside another value is not supported");
            }
            _ => 0,
        })
    }

    /// Python's name of its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(ViewKind::Keys, _) => "dict_keys",
            Self::View(ViewKind::Values, _) => "dict_values",
            Self::View(ViewKind::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Generator(_) => "generator",
            Self::Namespace(_) => "namespace",
            Self::Cycler(_) => "cycler",
            Self::Joiner(_) => "joiner",
            Self::Loop(_) => "loop",
            Self::Macro(_) => "macro",
            Self::Function(_) => "function",
            Self::Method(_) => "method",
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// The characters of a string.
    pub(super) fn as_text(&self) -> Option<&Text> {
        match self {
            Self::Text(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// An integer or boolean.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) | Self::Markup(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.entries.is_empty(),
            Self::Range(range) => range.len > 0,
            _ => true,
        }
    }

    /// Python's `len`, where the type has one.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Self::Undefined(_) => 0,
            Self::Text(text) | Self::Markup(text) => text.len(),
            Self::List(items) | Self::Tuple(items) => items.items.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.entries.len(),
            Self::Range(range) => range.len,
            Self::Loop(state) => state.items.len(),
            _ => return None,
        })
    }

    pub(super) fn is_iterable(&self) -> bool {
        matches!(
            self,
            Self::Undefined(_)
                | Self::Text(_)
                | Self::Markup(_)
                | Self::List(_)
                | Self::Tuple(_)
                | Self::Dict(_)
                | Self::View(..)
                | Self::Range(_)
                | Self::Generator(_)
                | Self::Loop(_)
        )
    }

    /// What a loop over it takes, in order; a generator is empty afterwards.
    pub(super) fn iterate(&self, budget: &Budget) -> Outcome<Vec<Self>> {
        if let Some(len) = self.len() {
            budget.items(len)?;
        }
        Ok(match self {
            Self::Undefined(_) => Vec::new(),
            Self::Text(text) | Self::Markup(text) => {
                text.iter().map(|c| Self::Text(Text::from(&[*c][..]))).collect()
            }
            Self::List(items) | Self::Tuple(items) => items.items.clone(),
            Self::Dict(dict) | Self::View(ViewKind::Keys, dict) => {
                dict.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            Self::View(ViewKind::Values, dict) => {
                dict.entries.iter().map(|(_, value)| value.clone()).collect()
            }
            Self::View(ViewKind::Items, dict) => {
                let pair =
                    |(key, value): &(Self, Self)| Self::tuple(budget, vec![key.clone(), value.clone()]);
                dict.entries.iter().map(pair).collect::<Outcome<_>>()?
            }
            Self::Range(range) => (0..range.len).map(|index| range.get(index)).collect(),
            Self::Generator(generator) => {
                let items = std::mem::take(&mut *generator.rest.borrow_mut());
                budget.items(items.len())?;
                items.into()
            }
            Self::Loop(_) => return refuse!("a loop over `loop` is not supported"),
            _ => return refuse!("'{}' object is not iterable", self.kind()),
        })
    }

    /// Whether it can be a key.
    pub(super) fn check_hashable(&self) -> Outcome<()> {
        match self {
            Self::List(_) | Self::Dict(_) | Self::View(..) => refuse!("unhashable type: '{}'", self.kind()),
            Self::Tuple(items) => items.items.iter().try_for_each(Self::check_hashable),
            Self::Undefined(_)
            | Self::None
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Text(_)
            | Self::Markup(_) => Ok(()),
            _ => refuse!("a {} as a key is not supported", self.kind()),
        }
    }
}

impl Dict {
    pub(super) fn get(&self, budget: &Budget, key: &Value) -> Outcome<Option<&Value>> {
        Ok(find_key(budget, &self.entries, key)?.map(|at| &self.entries[at].1))
    }
}

fn find_key(budget: &Budget, entries: &[(Value, Value)], key: &Value) -> Outcome<Option<usize>> {
    budget.bytes(entries.len() as u64)?;
    for (at, (other, _)) in entries.iter().enumerate() {
        if equal(budget, other, key)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Compares an integer with a float exactly, as Python does.
fn compare_int_float(int: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // 2^127 and beyond: no `i128` reaches them, and a conversion would saturate.
    if float >= 1.7e38 {
        return Some(Ordering::Less);
    }
    if float <= -1.7e38 {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    Some(int.cmp(&(whole as i128)).then_with(|| {
        if float > whole {
            Ordering::Less
        } else if float < whole {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    }))
}

fn compare_numbers(left: &Value, right: &Value) -> Option<Option<Ordering>> {
    Some(match (left, right) {
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Float(a), b) => compare_int_float(b.as_int()?, *a).map(Ordering::reverse),
        (a, Value::Float(b)) => compare_int_float(a.as_int()?, *b),
        (a, b) => Some(a.as_int()?.cmp(&b.as_int()?)),
    })
}

/// Python's `==`.
pub(super) fn equal(budget: &Budget, left: &Value, right: &Value) -> Outcome<bool> {
    if let Some(order) = compare_numbers(left, right) {
        return Ok(order == Some(Ordering::Equal));
    }
    if let (Some(a), Some(b)) = (left.as_text(), right.as_text()) {
        budget.characters(if a.len() == b.len() { a.len() } else { 0 })?;
        return Ok(a == b);
    }
    Ok(match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            budget.items(a.items.len())?;
            for (a, b) in a.items.iter().zip(&b.items) {
                if !same_or_equal(budget, a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                match b.get(budget, key)? {
                    Some(other) if same_or_equal(budget, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(a), Value::Range(b)) => {
            a.len == b.len && (a.len == 0 || (a.start == b.start && (a.len == 1 || a.step == b.step)))
        }
        (Value::Macro(a), Value::Macro(b)) => a == b,
        (Value::Function(a), Value::Function(b)) => a == b,
        (Value::View(..) | Value::Method(_), Value::View(..) | Value::Method(_)) => {
            return refuse!("a comparison of '{}' and '{}' is not supported", left.kind(), right.kind());
        }
        _ => is_same(left, right),
    })
}

/// How containers compare what they hold: what is the same object is equal, whatever it says itself.
fn same_or_equal(budget: &Budget, left: &Value, right: &Value) -> Outcome<bool> {
    let are_nan = |a: &Value, b: &Value| matches!((a, b), (Value::Float(a), Value::Float(b)) if a.is_nan() && b.is_nan());
    if are_nan(left, right) {
        return refuse!("a comparison of lists with NaN is not supported");
    }
    equal(budget, left, right)
}

/// Whether both are one object, as far as that can be said of what is shared.
pub(super) fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Generator(a), Value::Generator(b)) => Rc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Cycler(a), Value::Cycler(b)) => Rc::ptr_eq(a, b),
        (Value::Joiner(a), Value::Joiner(b)) => Rc::ptr_eq(a, b),
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        _ => false,
    }
}

/// Python's order, for `<` and for sorting; `None` where neither comes first, as with NaN.
///
/// # Errors
/// Types that have no order.
pub(super) fn order(budget: &Budget, left: &Value, right: &Value) -> Outcome<Option<Ordering>> {
    if let Some(order) = compare_numbers(left, right) {
        return Ok(order);
    }
    if let (Some(a), Some(b)) = (left.as_text(), right.as_text()) {
        budget.characters(a.len().min(b.len()))?;
        return Ok(Some(a.cmp(b)));
    }
    match (left, right) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            budget.items(a.items.len().min(b.items.len()))?;
            for (a, b) in a.items.iter().zip(&b.items) {
                if !same_or_equal(budget, a, b)? {
                    return order(budget, a, b);
                }
            }
            Ok(Some(a.items.len().cmp(&b.items.len())))
        }
        (Value::Undefined(what), _) | (_, Value::Undefined(what)) => refuse!("{what}"),
        _ => refuse!("'<' not supported between instances of '{}' and '{}'", left.kind(), right.kind()),
    }
}

/// Python's `in`.
pub(super) fn contains(budget: &Budget, container: &Value, item: &Value) -> Outcome<bool> {
    match container {
        Value::Text(text) | Value::Markup(text) => {
            let Some(part) = item.as_text() else {
                return refuse!("'in <string>' requires string as left operand, not {}", item.kind());
            };
            budget.characters(text.len() + part.len())?;
            Ok(!occurrences(text, part, 1).is_empty())
        }
        Value::Dict(dict) | Value::View(ViewKind::Keys, dict) => {
            item.check_hashable()?;
            Ok(dict.get(budget, item)?.is_some())
        }
        Value::Namespace(_) | Value::Macro(_) | Value::Function(_) | Value::Method(_) => {
            refuse!("argument of type '{}' is not iterable", container.kind())
        }
        Value::Generator(generator) => loop {
            // It is used up to the item that was found.
            let Some(next) = generator.rest.borrow_mut().pop_front() else { return Ok(false) };
            if equal(budget, &next, item)? {
                return Ok(true);
            }
        },
        _ => {
            for other in container.iterate(budget)? {
                if equal(budget, &other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// A string of one type or the other.
pub(super) fn text_like(original: &Value, chars: Vec<Char>) -> Value {
    match original {
        Value::Markup(_) => Value::Markup(chars.into()),
        _ => Value::Text(chars.into()),
    }
}
