//! The tokens of a `tokenizer.json`, and tokens that other files add.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Object;

/// An added token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Token {
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

impl Token {
    /// The token that transformers creates from a text.
    pub(super) fn new(content: &str, special: bool) -> Self {
        Self {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: !special,
            special,
        }
    }

    /// The token in a field, given as a text or as an object; `None` for anything else and for an empty text.
    pub(super) fn of(value: &Value, special_by_default: bool) -> Option<Self> {
        #[derive(Deserialize)]
        struct Fields {
            content: String,
            #[serde(default)]
            single_word: bool,
            #[serde(default)]
            lstrip: bool,
            #[serde(default)]
            rstrip: bool,
            normalized: Option<bool>,
            special: Option<bool>,
        }
        let token = match value {
            Value::String(content) => Self::new(content, special_by_default),
            _ => {
                let Fields { content, single_word, lstrip, rstrip, normalized, special } =
                    Fields::deserialize(value).ok()?;
                let special = special.unwrap_or(special_by_default);
                let normalized = normalized.unwrap_or(!special);
                Self { content, single_word, lstrip, rstrip, normalized, special }
            }
        };
        Some(token).filter(|token| !token.content.is_empty())
    }
}

/// The tokens of a file, by content and id.
pub(super) struct Tokens {
    /// The model's vocabulary.
    vocabulary: HashMap<String, u32>,
    /// In the order of addition.
    added: Vec<(u32, Token)>,
    /// Indices of `added`.
    places: HashMap<String, usize>,
    by_id: HashMap<u32, String>,
    is_unigram: bool,
}

impl Tokens {
    /// The tokens of a `tokenizer.json`.
    ///
    /// # Errors
    /// Why its vocabulary or its list of tokens is invalid.
    pub(super) fn of(file: &Object) -> Result<Self, String> {
        let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let vocabulary: Option<HashMap<String, u32>> =
            match file.get("model").and_then(|model| model.get("vocab")) {
                Some(Value::Object(tokens)) => {
                    tokens.iter().map(|(token, id)| Some((token.clone(), number(id)?))).collect()
                }
                Some(Value::Array(pieces)) => {
                    let piece = |(piece, id): (&Value, u32)| Some((piece.get(0)?.as_str()?.to_owned(), id));
                    pieces.iter().zip(0..).map(piece).collect()
                }
                _ => None,
            };
        let vocabulary = vocabulary.ok_or("the model has no vocabulary of tokens and ids")?;
        let is_unigram = file.get("model").is_some_and(|model| model["vocab"].is_array());
        let by_id = vocabulary.iter().map(|(token, id)| (*id, token.clone())).collect();
        let mut tokens = Self { vocabulary, added: Vec::new(), places: HashMap::new(), by_id, is_unigram };
        for entry in file.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let token = Token::of(entry, false).zip(entry.get("id").and_then(number));
            let (token, id) =
                token.ok_or_else(|| format!("the added token {entry} is not a token with an id"))?;
            tokens.add(token, Some(id))?;
        }
        Ok(tokens)
    }

    /// The id of a token.
    pub(super) fn id(&self, content: &str) -> Option<u32> {
        let added = self.places.get(content).map(|&place| self.added[place].0);
        added.or_else(|| self.vocabulary.get(content).copied())
    }

    /// Adds a token unless an earlier file has it.
    ///
    /// # Errors
    /// As for [`Self::add`].
    pub(super) fn add_missing(&mut self, token: Token, id: Option<u32>) -> Result<(), String> {
        match self.places.get(&token.content).map(|&place| self.added[place].0) {
            Some(known) if id.is_none_or(|id| id == known) => Ok(()),
            _ => self.add(token, id),
        }
    }

    /// Adds a token with the given or the next free id; an existing token gets the new options.
    ///
    /// # Errors
    /// One token with two ids, or two tokens with one id.
    pub(super) fn add(&mut self, token: Token, id: Option<u32>) -> Result<(), String> {
        let content = token.content.as_str();
        let known = self.id(content);
        let id = match (known, id) {
            (Some(known), Some(id)) if known != id => {
                return Err(format!(
                    "the token {content:?} has the id {id} here and the id {known} elsewhere"
                ));
            }
            (Some(known), _) => known,
            (None, Some(id)) => match self.by_id.get(&id) {
                Some(other) => {
                    return Err(format!("the token {content:?} has the id {id}, which is that of {other:?}"));
                }
                None => id,
            },
            (None, None) => self.next_id(),
        };
        if let Some(&place) = self.places.get(content) {
            self.added[place].1 = token;
            return Ok(());
        }
        self.by_id.insert(id, content.to_owned());
        self.places.insert(content.to_owned(), self.added.len());
        self.added.push((id, token));
        Ok(())
    }

    /// The first id after those of the vocabulary and of all added tokens.
    fn next_id(&self) -> u32 {
        let behind = self.added.iter().map(|(id, _)| id.saturating_add(1)).max().unwrap_or(0);
        let mut id = behind.max(self.vocabulary.len() as u32);
        while self.by_id.contains_key(&id) {
            id += 1;
        }
        id
    }

    /// Writes the added tokens to a file, by id. If the library would number them differently, they are also added to
    /// the vocabulary.
    ///
    /// # Errors
    /// A token that cannot be added to a vocabulary of pieces with scores.
    pub(super) fn write(mut self, file: &mut Object) -> Result<(), String> {
        self.added.sort_by_key(|(id, _)| *id);
        let new = self.added.iter().filter(|(_, token)| !self.vocabulary.contains_key(&token.content));
        let gap = new.zip(self.vocabulary.len() as u32..).find(|((id, _), next)| id != next);
        if let Some(((id, token), next)) = gap {
            let vocabulary = file.get_mut("model").and_then(|model| model.get_mut("vocab"));
            let Some(vocabulary) = vocabulary.filter(|_| !self.is_unigram).and_then(Value::as_object_mut)
            else {
                return Err(format!(
                    "the token {:?} has the id {id}, but the next free id is {next}",
                    token.content
                ));
            };
            vocabulary.extend(self.added.iter().map(|(id, token)| (token.content.clone(), (*id).into())));
        }
        let entry = |(id, token): &(u32, Token)| {
            let mut fields = serde_json::to_value(token).unwrap_or_default();
            fields["id"] = (*id).into();
            fields
        };
        file.insert("added_tokens".into(), self.added.iter().map(entry).collect());
        Ok(())
    }
}
