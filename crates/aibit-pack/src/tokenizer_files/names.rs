//! The order of names in JSON files, which determines how tokens are numbered.

use std::collections::HashMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::Object;

/// The names in some files, at any depth, by first occurrence.
#[derive(Default)]
pub(super) struct Names(HashMap<String, usize>);

impl Names {
    /// Adds the names in a file.
    ///
    /// # Errors
    /// Why it is not valid JSON.
    pub(super) fn read(&mut self, json: &[u8]) -> Result<(), String> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        Collect(&mut self.0).deserialize(&mut deserializer).map_err(|e| e.to_string())
    }

    /// The names of an object, in file order.
    pub(super) fn in_order<'o>(&self, object: &'o Object) -> Vec<&'o str> {
        let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
        names.sort_by_key(|name| self.0.get(*name).copied().unwrap_or(usize::MAX));
        names
    }
}

/// Collects the names of one value.
struct Collect<'a>(&'a mut HashMap<String, usize>);

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Collect(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let place = self.0.len();
            self.0.entry(name).or_insert(place);
            map.next_value_seed(Collect(self.0))?;
        }
        Ok(())
    }
}
