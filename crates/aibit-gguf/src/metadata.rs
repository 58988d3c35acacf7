//! The metadata of a GGUF file.

use crate::GgufError;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8, UTF-8.
    String(String),
    /// Type 9.
    Array(Array),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
}

/// An array; all elements have one type. Arrays of arrays are refused: no model uses them.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "one variant per element type, named like those of `Value`")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Keys and values in file order; keys are unique.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u32 = 32;
/// Above any page size in use, so that a file with one byte of data does not need gigabytes of padding.
const MAX_ALIGNMENT: u32 = 1 << 20;

impl Metadata {
    /// Entries with distinct keys, which the caller has checked.
    pub(crate) fn from_entries(entries: Vec<(String, Value)>) -> Self {
        Self { entries }
    }

    /// The alignment of the data and of every tensor's offset.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for a type that ggml does not accept, or a number that cannot be an alignment.
    pub(crate) fn alignment(&self) -> Result<usize, GgufError> {
        let alignment = self.typed(ALIGNMENT_KEY, "of type u32", |value| match *value {
            Value::U32(v) => Some(v),
            _ => None,
        })?;
        let alignment = alignment.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
            let problem = format!("is {alignment}, must be a power of two from 8 to {MAX_ALIGNMENT}");
            return Err(GgufError::metadata(ALIGNMENT_KEY, problem));
        }
        Ok(alignment as usize)
    }

    /// Every key with its value, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// Appends a key, or replaces its value.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
    }

    /// A string, if the key is present.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A non-negative integer of any width, if the key is present.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for another type or a negative number.
    pub fn integer(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a non-negative integer", |value| match *value {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        })
    }

    /// A floating-point number, if the key is present.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for another type.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a floating-point number", |value| match *value {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        })
    }

    /// A boolean, if the key is present.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for another type.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", |value| match *value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// An array of strings, if the key is present.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of 32-bit integers, if the key is present.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for another type.
    pub fn integers(&self, key: &str) -> Result<Option<&[i32]>, GgufError> {
        self.typed(key, "an array of 32-bit integers", |value| match value {
            Value::Array(Array::I32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of 32-bit floats, if the key is present.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for another type.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.typed(key, "an array of 32-bit floats", |value| match value {
            Value::Array(Array::F32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        of: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let problem = || GgufError::Metadata { key: key.to_owned(), problem: format!("must be {expected}") };
        of(value).map(Some).ok_or_else(problem)
    }
}
