//! JSON maps in which a repeated key is an error; plain maps would keep the last one silently.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// What is wrong with a JSON text, and where; cut, since it may repeat any amount of the text.
pub(crate) fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(300) {
        None => text,
        Some((end, _)) => format!("{}... at line {} column {}", &text[..end], error.line(), error.column()),
    }
}

/// For `#[serde(deserialize_with = "...")]` on a `BTreeMap` field.
pub(crate) fn unique_keys<'de, D, V>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    let mut map = BTreeMap::new();
    for (key, value) in deserializer.deserialize_map(PairsVisitor(PhantomData))? {
        if map.insert(key.clone(), value).is_some() {
            return Err(D::Error::custom(format!("key `{key:.80}` stands twice")));
        }
    }
    Ok(map)
}

struct PairsVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
    type Value = Vec<(String, V)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = access.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}
