//! Typed access to the fields of a model's configuration.

use serde_json::{Map, Value};

use crate::ConfigError;

/// The fields of a `config.json`, or of an object inside it.
///
/// A null field counts as absent, except for [`is_null`](Self::is_null). The last of duplicate keys wins, as in
/// Python.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConfigFields {
    /// Prefix of field names in errors.
    prefix: String,
    fields: Map<String, Value>,
}

impl ConfigFields {
    /// The fields of the JSON object in `json`.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] unless it is a JSON object.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        Ok(Self { prefix: String::new(), fields: serde_json::from_slice(json)? })
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Every field that is not null.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Whether a field is present and null, which a few classes distinguish from an absent field.
    pub fn is_null(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(Value::is_null)
    }

    /// The full path of a field: `rope_scaling.factor`.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A non-negative integer.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`], as for all following functions.
    pub fn integer(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        let read = |value: &Value| value.as_u64().and_then(|integer| usize::try_from(integer).ok());
        self.typed(name, "a non-negative integer", read)
    }

    /// A number.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`].
    pub fn number(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        self.typed(name, "a number", Value::as_f64)
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`].
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(name, "a boolean", Value::as_bool)
    }

    /// A string.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`].
    pub fn string(&self, name: &str) -> Result<Option<String>, ConfigError> {
        self.typed(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`].
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        self.typed(name, "a list of numbers", |value| value.as_array()?.iter().map(Value::as_f64).collect())
    }

    /// A list of strings.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`].
    pub fn strings(&self, name: &str) -> Result<Option<Vec<String>>, ConfigError> {
        self.typed(name, "a list of strings", |value| {
            value.as_array()?.iter().map(|value| value.as_str().map(str::to_owned)).collect()
        })
    }

    /// The fields of a nested object.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`].
    pub fn object(&self, name: &str) -> Result<Option<Self>, ConfigError> {
        let prefix = format!("{}.", self.path(name));
        self.typed(name, "an object", |value| {
            Some(Self { prefix: prefix.clone(), fields: value.as_object()?.clone() })
        })
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let value = read(value).ok_or_else(|| ConfigError::WrongType {
            field: self.path(name),
            expected,
            found: ConfigError::shortened(value),
        })?;
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_absence_and_the_last_of_two_counts() {
        let fields = ConfigFields::from_json(br#"{"a": 1, "a": 2, "b": null}"#).expect("an object");
        assert_eq!(fields.integer("a").expect("an integer"), Some(2));
        assert_eq!(fields.boolean("b").expect("absence"), None);
        assert!(fields.is_null("b") && !fields.is_null("c"));
        assert_eq!(fields.iter().count(), 1);
    }

    #[test]
    fn a_wrong_type_is_named_with_its_field() {
        let json = br#"{"n": -1, "x": {"f": "2", "l": [1, "a"]}, "s": 3, "o": [], "i": 1.5}"#;
        let fields = ConfigFields::from_json(json).expect("an object");
        let inside = fields.object("x").expect("an object").expect("there");
        for (error, want) in [
            (fields.integer("n").map(|_| ()), "config.json: n is -1, expected a non-negative integer"),
            (fields.integer("i").map(|_| ()), "config.json: i is 1.5, expected a non-negative integer"),
            (fields.string("s").map(|_| ()), "config.json: s is 3, expected a string"),
            (fields.boolean("s").map(|_| ()), "config.json: s is 3, expected a boolean"),
            (fields.object("o").map(|_| ()), "config.json: o is [], expected an object"),
            (fields.strings("s").map(|_| ()), "config.json: s is 3, expected a list of strings"),
            (inside.number("f").map(|_| ()), "config.json: x.f is \"2\", expected a number"),
            (inside.numbers("l").map(|_| ()), "config.json: x.l is [1,\"a\"], expected a list of numbers"),
        ] {
            assert_eq!(error.expect_err("another type").to_string(), want);
        }
    }
}
