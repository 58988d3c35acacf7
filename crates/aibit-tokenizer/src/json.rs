//! A strict reader of `tokenizer.json`: no duplicate or unknown fields, and bounds on the parameters of components.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File<'a> {
    #[serde(default, rename = "version")]
    _version: IgnoredAny,
    #[serde(default, rename = "truncation")]
    _truncation: IgnoredAny,
    #[serde(default, rename = "padding")]
    _padding: IgnoredAny,
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default, deserialize_with = "component")]
    pub(super) normalizer: Option<Value>,
    #[serde(default, deserialize_with = "component")]
    pub(super) pre_tokenizer: Option<Value>,
    #[serde(default, deserialize_with = "component")]
    pub(super) post_processor: Option<Value>,
    #[serde(default, deserialize_with = "component")]
    pub(super) decoder: Option<Value>,
    #[serde(borrow)]
    pub(super) model: Model<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(rename = "single_word")]
    _single_word: bool,
    #[serde(rename = "lstrip")]
    _lstrip: bool,
    #[serde(rename = "rstrip")]
    _rstrip: bool,
    #[serde(rename = "normalized")]
    _normalized: bool,
    #[serde(rename = "special")]
    _special: bool,
}

/// The parameters of every model that files may name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model<'a> {
    #[serde(rename = "type", borrow, default)]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) vocab: Vocabulary<'a>,
    #[serde(borrow, default, deserialize_with = "merges")]
    pub(super) merges: Option<Merges<'a>>,
    pub(super) dropout: Option<f64>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    pub(super) unk_id: Option<u64>,
    #[serde(rename = "unk_token")]
    _unk_token: Option<String>,
    #[serde(rename = "fuse_unk")]
    _fuse_unk: Option<bool>,
    #[serde(rename = "byte_fallback")]
    _byte_fallback: Option<bool>,
    #[serde(rename = "ignore_merges")]
    _ignore_merges: Option<bool>,
    #[serde(rename = "max_input_chars_per_word")]
    _max_input_chars_per_word: Option<u64>,
}

/// A model's tokens: with their ids, or with their scores in the order of the ids.
pub(super) enum Vocabulary<'a> {
    Ids(Vec<(Cow<'a, str>, u32)>),
    Scores(Vec<(Cow<'a, str>, f64)>),
}

impl Vocabulary<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Ids(tokens) => tokens.len(),
            Self::Scores(pieces) => pieces.len(),
        }
    }
}

/// The two parts of each merge.
pub(super) type Merges<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// A text that is not copied where the file has it without escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Vocabulary<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids, or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tokens = Vec::new();
                while let Some((Text(token), id)) = map.next_entry()? {
                    tokens.push((token, id));
                }
                Ok(Vocabulary::Ids(tokens))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut pieces = Vec::new();
                while let Some((Text(piece), score)) = list.next_element()? {
                    pieces.push((piece, score));
                }
                Ok(Vocabulary::Scores(pieces))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// Merges as lists of two tokens, or as lines with a space between the two.
fn merges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Merges<'de>>, D::Error> {
    enum Merge<'a> {
        Version,
        Pair(Cow<'a, str>, Cow<'a, str>),
    }
    struct Read;
    impl<'de> Visitor<'de> for Read {
        type Value = Merge<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("two tokens, as a list or with a space between")
        }

        fn visit_borrowed_str<E: Error>(self, line: &'de str) -> Result<Self::Value, E> {
            if line.starts_with("#version") {
                return Ok(Merge::Version);
            }
            let pair = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
            let (left, right) =
                pair.ok_or_else(|| E::custom(format_args!("the merge {line:?} is not two tokens")))?;
            Ok(Merge::Pair(left.into(), right.into()))
        }

        fn visit_str<E: Error>(self, line: &str) -> Result<Self::Value, E> {
            match Read.visit_borrowed_str(line)? {
                Merge::Version => Ok(Merge::Version),
                Merge::Pair(left, right) => {
                    Ok(Merge::Pair(left.into_owned().into(), right.into_owned().into()))
                }
            }
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let wrong = || A::Error::custom("a merge is not two tokens");
            let Text(left) = list.next_element()?.ok_or_else(wrong)?;
            let Text(right) = list.next_element()?.ok_or_else(wrong)?;
            if list.next_element::<IgnoredAny>()?.is_some() {
                return Err(wrong());
            }
            Ok(Merge::Pair(left, right))
        }
    }
    impl<'de> Deserialize<'de> for Merge<'de> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Read)
        }
    }
    let merges: Option<Vec<Merge<'de>>> = Option::deserialize(deserializer)?;
    let pair = |merge| match merge {
        Merge::Version => None,
        Merge::Pair(left, right) => Some((left, right)),
    };
    Ok(merges.map(|merges| merges.into_iter().filter_map(pair).collect()))
}

/// A component with its parameters, none for null.
fn component<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    /// Values and bytes of texts; the tables of SentencePiece's normalizations have some 300,000.
    const MAX_COST: usize = 1 << 21;
    let value = Bounded(&Cell::new(MAX_COST)).deserialize(deserializer)?;
    Ok(Some(value).filter(|value| !value.is_null()))
}

/// Reads a value that is no larger than a budget and has no name twice.
#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

/// What a value costs beside its texts; about what it takes in memory.
const VALUE_COST: usize = 64;

impl Bounded<'_> {
    fn pay<E: Error>(self, cost: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(cost).ok_or_else(|| E::custom("a component is too large"))?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.pay(VALUE_COST)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a component")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.pay(value.len())?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            self.pay(name.len())?;
            let value = map.next_value_seed(self)?;
            if values.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            values.insert(name, value);
        }
        Ok(values.into())
    }
}
