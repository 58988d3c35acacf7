//! What a template may cost: every step and every byte that it reads or makes is charged before it is spent.

use std::cell::Cell;

use super::text::Char;

/// Longest text that a template may give, in bytes.
pub(crate) const MAX_OUTPUT: usize = 4 << 20;
/// Nodes of the template that may be evaluated; a message takes a few hundred.
const MAX_STEPS: u64 = 2_000_000;
/// Bytes that a template may read and make, all operations together.
const MAX_WORK: u64 = 64 << 20;
/// What an item of a list costs, in the bytes that it takes.
const ITEM: u64 = 32;
/// What a character costs, in the bytes that it takes.
const CHARACTER: u64 = size_of::<Char>() as u64;

/// Why a template cannot be rendered.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// Line of the template, from 1.
    pub line: Option<u32>,
    pub text: String,
    /// Whether the template itself refuses the conversation, with `raise_exception`.
    pub raised: bool,
}

pub(super) type Outcome<T> = Result<T, Problem>;

impl Problem {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { line: None, text: text.into(), raised: false }
    }

    /// The same at `line`, unless an inner line is known.
    pub(super) fn at(self, line: u32) -> Self {
        Self { line: self.line.or(Some(line)), ..self }
    }
}

/// An `Err` with a formatted text.
macro_rules! refuse {
    ($($argument:tt)*) => { Err($crate::jinja::budget::Problem::new(format!($($argument)*))) };
}
pub(super) use refuse;

#[derive(Default)]
pub(super) struct Budget {
    steps: Cell<u64>,
    work: Cell<u64>,
}

impl Budget {
    /// Charges the evaluation of one node.
    pub(super) fn step(&self) -> Outcome<()> {
        self.steps.set(self.steps.get() + 1);
        if self.steps.get() > MAX_STEPS {
            return refuse!("it takes more than {MAX_STEPS} instructions for this conversation");
        }
        Ok(())
    }

    pub(super) fn bytes(&self, count: u64) -> Outcome<()> {
        self.work.set(self.work.get().saturating_add(count));
        if self.work.get() > MAX_WORK {
            return refuse!("it reads and makes more than {MAX_WORK} bytes for this conversation");
        }
        Ok(())
    }

    pub(super) fn characters(&self, count: usize) -> Outcome<()> {
        self.bytes(CHARACTER.saturating_mul(count as u64).saturating_add(1))
    }

    pub(super) fn items(&self, count: usize) -> Outcome<()> {
        self.bytes(ITEM.saturating_mul(count as u64).saturating_add(1))
    }
}
