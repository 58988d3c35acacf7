//! A JSON file of settings, read as Python's loaders read it: `null` is absence, of a key that is given twice the last
//! value counts, and a whole number may be written as a float.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::RuntimeError;

/// The fields of one file; none where there is no file.
#[derive(Debug)]
pub(crate) struct SettingsFile {
    name: &'static str,
    fields: Map<String, Value>,
}

/// The last value of one field of an object.
struct OneField(&'static str);

impl<'de> DeserializeSeed<'de> for OneField {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneField {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut value = None;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match key == self.0 {
                true => value = Some(map.next_value()?),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(value)
    }
}

impl SettingsFile {
    /// Reads the file `name`.
    ///
    /// # Errors
    /// [`RuntimeError::Settings`] for JSON that is malformed or no object.
    pub(crate) fn parse(name: &'static str, json: Option<&[u8]>) -> Result<Self, RuntimeError> {
        let error = |problem: String| RuntimeError::Settings { file: name, problem };
        let fields = match json.map(serde_json::from_slice) {
            None => Map::new(),
            Some(Ok(Value::Object(fields))) => fields,
            Some(Ok(other)) => return Err(error(format!("{} where an object should be", shown(&other)))),
            Some(Err(e)) => return Err(error(e.to_string())),
        };
        Ok(Self { name, fields })
    }

    /// Reads one field of the file `name`, which may list 100,000 tokens besides.
    ///
    /// # Errors
    /// As [`SettingsFile::parse`].
    pub(crate) fn parse_field(
        name: &'static str,
        json: Option<&[u8]>,
        field: &'static str,
    ) -> Result<Self, RuntimeError> {
        let mut fields = Map::new();
        if let Some(json) = json {
            let mut deserializer = serde_json::Deserializer::from_slice(json);
            let read = OneField(field).deserialize(&mut deserializer).and_then(|value| {
                deserializer.end()?;
                Ok(value)
            });
            let value = read.map_err(|e| RuntimeError::Settings { file: name, problem: e.to_string() })?;
            fields.extend(value.map(|value| (field.to_owned(), value)));
        }
        Ok(Self { name, fields })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The names of all fields that are set.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    /// A field that is set.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// The error that a field's value is not what it must be.
    pub(crate) fn refusal(&self, field: &str, must_be: &str) -> RuntimeError {
        let value = self.fields.get(field).map_or_else(String::new, shown);
        RuntimeError::Settings { file: self.name, problem: format!("`{field}` is {value}; {must_be}") }
    }

    /// A field that is on or off.
    pub(crate) fn flag(&self, field: &str) -> Result<bool, RuntimeError> {
        match self.get(field) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => Err(self.refusal(field, "it must be true or false")),
        }
    }

    /// A number for which `holds` is true.
    pub(crate) fn number(
        &self,
        field: &str,
        range: &str,
        holds: impl FnOnce(f64) -> bool,
    ) -> Result<Option<f32>, RuntimeError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if holds(number) => Ok(Some(number as f32)),
            _ => Err(self.refusal(field, &format!("it must be a number {range}"))),
        }
    }

    /// A whole number from 0; one that no `usize` holds becomes the largest. -1 is absence.
    pub(crate) fn count(&self, field: &str) -> Result<Option<usize>, RuntimeError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_number().and_then(whole) {
            Some(-1) => Ok(None),
            Some(count @ 0..) => Ok(Some(usize::try_from(count).unwrap_or(usize::MAX))),
            _ => Err(self.refusal(field, "it must be a whole number from 0, or -1 for none")),
        }
    }

    /// Token ids, one or a list; `None` where there is neither. `null` and -1 in a list are no ids.
    pub(crate) fn ids(&self, field: &str) -> Result<Option<Vec<u64>>, RuntimeError> {
        let refusal = || self.refusal(field, "it must be a token id or a list of token ids");
        let id = |value: &Value| match value.as_number().and_then(whole) {
            Some(-1) => Ok(None),
            Some(id @ 0..) => Ok(Some(u64::try_from(id).unwrap_or(u64::MAX))),
            _ => Err(refusal()),
        };
        match self.get(field) {
            None => Ok(None),
            Some(Value::Array(ids)) => {
                let set: Vec<&Value> = ids.iter().filter(|id| !id.is_null()).collect();
                if set.is_empty() && !ids.is_empty() {
                    return Ok(None);
                }
                set.into_iter().filter_map(|value| id(value).transpose()).collect::<Result<_, _>>().map(Some)
            }
            Some(one) => Ok(Some(id(one)?.into_iter().collect())),
        }
    }

    /// Lists of token ids, none of them empty.
    pub(crate) fn sequences(&self, field: &str) -> Result<Vec<Vec<u64>>, RuntimeError> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let lists = value.as_array().and_then(|lists| lists.iter().map(sequence).collect());
        lists
            .ok_or_else(|| self.refusal(field, "it must be a list of lists of token ids, none of them empty"))
    }

    /// A special token: its text, or an object with that. `false` and the empty text are absence.
    pub(crate) fn special_token(&self, field: &str) -> Result<Option<&str>, RuntimeError> {
        match self.get(field) {
            None | Some(Value::Bool(false)) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(value) => match value.get("content").and_then(Value::as_str) {
                Some(text) => Ok(Some(text)),
                None => Err(self.refusal(field, "it must be a token or an object with its `content`")),
            },
        }
    }
}

/// A list of token ids that is not empty.
pub(crate) fn sequence(value: &Value) -> Option<Vec<u64>> {
    let ids = value.as_array().filter(|ids| !ids.is_empty())?;
    ids.iter().map(|id| id.as_number().and_then(whole).and_then(|id| u64::try_from(id).ok())).collect()
}

/// The value of a whole number, however it is written.
fn whole(number: &Number) -> Option<i128> {
    let float = || number.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i128);
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)).or_else(float)
}

/// A value as it is written, shortened.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "settings.json";

    fn file(json: &str) -> SettingsFile {
        SettingsFile::parse(NAME, Some(json.as_bytes())).expect("an object")
    }

    #[track_caller]
    fn refuses<T: std::fmt::Debug>(result: Result<T, RuntimeError>, message: &str) {
        assert_eq!(result.expect_err("refused").to_string(), message);
    }

    #[test]
    fn null_is_absence_and_the_last_of_equal_keys_counts() {
        let file = file(r#"{"a": null, "b": 1, "b": 2, "c": 3, "c": null}"#);
        assert_eq!(file.names().collect::<Vec<_>>(), ["b"]);
        assert_eq!((file.count("a").unwrap(), file.count("b").unwrap()), (None, Some(2)));
        assert_eq!(SettingsFile::parse(NAME, None).unwrap().names().count(), 0);
        refuses(SettingsFile::parse(NAME, Some(b"[1]")), "settings.json: [1] where an object should be");
        refuses(
            SettingsFile::parse(NAME, Some(b"")),
            "settings.json: EOF while parsing a value at line 1 column 0",
        );
    }

    #[test]
    fn counts_are_whole_however_they_are_written() {
        for (value, count) in [
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("7e2", Some(700)),
            ("0", Some(0)),
            ("-0.0", Some(0)),
            ("-1", None),
        ] {
            assert_eq!(file(&format!(r#"{{"n": {value}}}"#)).count("n").unwrap(), count, "{value}");
        }
        for large in ["18446744073709551615", "1e300"] {
            assert_eq!(file(&format!(r#"{{"n": {large}}}"#)).count("n").unwrap(), Some(usize::MAX));
        }
        refuses(
            file(r#"{"n": 0.5}"#).count("n"),
            "settings.json: `n` is 0.5; it must be a whole number from 0, or -1 for none",
        );
        for value in ["-2", "-1.5", "true", r#""7""#, "[7]", "{}"] {
            assert!(file(&format!(r#"{{"n": {value}}}"#)).count("n").is_err(), "{value}");
        }
    }

    #[test]
    fn ids_are_one_or_a_list() {
        for (value, ids) in [
            ("5", Some(vec![5])),
            ("5.0", Some(vec![5])),
            ("-1", Some(vec![])),
            ("[]", Some(vec![])),
            ("[3, null, 1.0, -1, 18446744073709551615]", Some(vec![3, 1, u64::MAX])),
            ("[null]", None),
            ("null", None),
        ] {
            assert_eq!(file(&format!(r#"{{"id": {value}}}"#)).ids("id").unwrap(), ids, "{value}");
        }
        for value in ["-2", "[0.5]", r#""5""#, "[[5]]", "false", r#"{"a": 1}"#] {
            assert!(file(&format!(r#"{{"id": {value}}}"#)).ids("id").is_err(), "{value}");
        }
    }

    #[test]
    fn special_tokens_are_texts_or_objects() {
        for (value, token) in [
            (r#""</s>""#, Some("</s>")),
            (r#"{"content": "</s>", "lstrip": false}"#, Some("</s>")),
            ("false", None),
            (r#""""#, None),
            ("null", None),
        ] {
            assert_eq!(file(&format!(r#"{{"t": {value}}}"#)).special_token("t").unwrap(), token, "{value}");
        }
        for value in ["true", "2", r#"["</s>"]"#, r#"{"content": 2}"#, "{}"] {
            assert!(file(&format!(r#"{{"t": {value}}}"#)).special_token("t").is_err(), "{value}");
        }
    }

    #[test]
    fn long_values_are_shortened_in_errors() {
        let long = format!(r#"{{"n": "{}"}}"#, "é".repeat(1000));
        let message = file(&long).count("n").expect_err("refused").to_string();
        assert!(message.len() < 250 && message.contains('…'), "{message}");
    }
}
