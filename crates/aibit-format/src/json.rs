//! JSON from an archive: error messages of bounded length, maps that reject duplicate keys (ordinary ones silently
//! keep the last), and bounded memory for values that are not used.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The message and position of a JSON error, truncated, since `serde_json` may quote any amount of the text.
pub(crate) fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(300) {
        None => text,
        Some((end, _)) => format!("{}... at line {} column {}", &text[..end], error.line(), error.column()),
    }
}

/// For `#[serde(deserialize_with = "...")]` on a `BTreeMap` field of at most `MAX` keys.
pub(crate) fn unique_keys<'de, D, V, const MAX: usize>(
    deserializer: D,
) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    deserializer.deserialize_map(UniqueKeys::<V, MAX>(PhantomData))
}

struct UniqueKeys<V, const MAX: usize>(PhantomData<V>);

impl<'de, V: Deserialize<'de>, const MAX: usize> Visitor<'de> for UniqueKeys<V, MAX> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.len() == MAX {
                return Err(A::Error::custom(format!("more than {MAX} keys in one object")));
            }
            match map.entry(key) {
                Entry::Occupied(entry) => {
                    return Err(A::Error::custom(format!("key `{:.80}` is given twice", entry.key())));
                }
                Entry::Vacant(entry) => _ = entry.insert(access.next_value()?),
            }
        }
        Ok(map)
    }
}

/// The first element of an array of strings; of the others only the type is checked.
#[derive(Default)]
pub(crate) struct FirstString(pub(crate) Option<String>);

impl<'de> Deserialize<'de> for FirstString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FirstStringVisitor)
    }
}

struct FirstStringVisitor;

impl<'de> Visitor<'de> for FirstStringVisitor {
    type Value = FirstString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<FirstString, A::Error> {
        let mut first = FirstString(None);
        while let Some(string) = access.next_element::<String>()? {
            first.0.get_or_insert(string);
        }
        Ok(first)
    }
}
