//! The package's tokenizer, and the bytes behind each id.
//!
//! A package has the source's own `tokenizer.json`, and where that can be expressed a compiled form beside it,
//! which is used where it lies: no parsing, no table to fill. Both give the same ids for every text.

mod added_tokens;
mod byte_alphabet;
mod char_classes;
mod charsmap;
mod compile;
mod compiled;
mod components;
mod expression;
mod json;
mod layout;
mod library;
mod merge;
mod pretokenize;

use std::ops::Range;

use aibit_format::{Archive, entry_names};
use tracing::info_span;

use self::compiled::Compiled;
use self::library::Library;
use crate::{Check, RuntimeError};

pub(crate) use self::pretokenize::{Class as CharacterClass, class_of as character_class};

pub use self::compile::compile;
pub use self::compiled::CompiledBytes;
pub use self::components::check_components;

/// Text to ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Compiled(Box<Compiled>),
    Library(Box<Library>),
}

impl Tokenizer {
    /// The tokenizer of an open archive: compiled, where it has that in a version that this build reads.
    ///
    /// # Errors
    /// As [`Tokenizer::from_compiled`] or [`Tokenizer::from_json`]; [`RuntimeError::Format`] where the archive
    /// has none.
    pub fn load(archive: &Archive) -> Result<Self, RuntimeError> {
        let _span = info_span!("tokenizer").entered();
        match archive.entry_bytes(entry_names::TOKENIZER_COMPILED) {
            // Another version is not an error: `tokenizer.json` says the same, only slower.
            Ok(bytes) if !layout::is_other_version(&bytes) => Self::from_compiled(bytes),
            _ => Self::from_json(archive.entry(entry_names::TOKENIZER)?.data),
        }
    }

    /// A tokenizer from the bytes that [`compile`] made.
    ///
    /// Costs the same for any number of merges: a few tens of microseconds for 50 000 tokens. Bytes that nobody
    /// checked the digest of may give wrong ids, but never a panic.
    ///
    /// # Errors
    /// [`RuntimeError::Settings`] for another version, and for sections that are not what the header says.
    pub fn from_compiled(bytes: impl Into<CompiledBytes>) -> Result<Self, RuntimeError> {
        Ok(Self { engine: Engine::Compiled(Box::new(Compiled::open(bytes.into())?)) })
    }

    /// A tokenizer from the bytes of `tokenizer.json`.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] for a malformed file, and for a component that is not in the list of those that are
    /// supported, or beyond its bounds (`docs/interop.md` has the list).
    pub fn from_json(json: &[u8]) -> Result<Self, RuntimeError> {
        Ok(Self { engine: Engine::Library(Box::new(Library::from_json(json)?)) })
    }

    /// Whether this is the compiled form.
    pub fn is_compiled(&self) -> bool {
        matches!(self.engine, Engine::Compiled(_))
    }

    /// The ids of `text`. Special tokens are recognised where they are written out; none are added.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] if the text cannot be expressed, which byte-level vocabularies never cause.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        match &self.engine {
            Engine::Compiled(compiled) => Ok(compiled.encode(text, &[])),
            Engine::Library(library) => library.encode(text),
        }
    }

    /// The ids of `text` as those of [`Tokenizer::encode`], but that special tokens are not recognised: what somebody
    /// has typed is text. Tokens that are added and not special count as ever.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        self.encode_partly_plain(text, std::slice::from_ref(&(0..text.len())))
    }

    /// The ids of `text`, of which the parts in `plain` (byte ranges at the ends of characters) are as
    /// [`Tokenizer::encode_plain`] has them: a special token that shares a character with one of them is text, all
    /// others are recognised. So a chat template's own tokens count and those in the messages do not, and a text
    /// without such tokens has the ids of [`Tokenizer::encode`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    ///
    /// # Panics
    /// If a range ends within a character or outside of `text`.
    pub fn encode_partly_plain(&self, text: &str, plain: &[Range<usize>]) -> Result<Vec<u32>, RuntimeError> {
        let is_part = |range: &Range<usize>| text.get(range.clone()).is_some();
        assert!(plain.iter().all(is_part), "parts of {} bytes: {plain:?}", text.len());
        match &self.engine {
            Engine::Compiled(compiled) => Ok(compiled.encode(text, plain)),
            Engine::Library(library) => library.encode_partly_plain(text, plain),
        }
    }

    /// The ids of a text that a model is to continue: those of [`Tokenizer::encode`] behind what the tokenizer puts
    /// before every text, such as the token that begins one.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        let mut ids = match &self.engine {
            Engine::Compiled(compiled) => compiled.prefix().into_iter().collect(),
            Engine::Library(library) => library.prefix().to_vec(),
        };
        ids.extend(self.encode(text)?);
        Ok(ids)
    }

    /// The text of `ids`, special tokens left out; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> =
            ids.iter().filter(|&&id| !self.is_special(id)).flat_map(|&id| self.bytes(id)).collect();
        match &self.engine {
            Engine::Compiled(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Engine::Library(library) => library.text_of(&bytes),
        }
    }

    /// The bytes that a token stands for; none for an unknown id.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        match &self.engine {
            Engine::Compiled(compiled) => compiled.bytes(id).to_vec(),
            Engine::Library(library) => library.bytes(id),
        }
    }

    /// Whether an id stands for a control token and not for text.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.engine {
            Engine::Compiled(compiled) => compiled.is_special(id),
            Engine::Library(library) => library.added.get(&id).is_some_and(|token| token.special),
        }
    }

    /// The id of a token written as in `tokenizer.json`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.engine {
            Engine::Compiled(compiled) => compiled.token_id(token),
            Engine::Library(library) => library.tokenizer.token_to_id(token),
        }
    }

    /// One more than the largest id.
    pub fn id_limit(&self) -> usize {
        match &self.engine {
            Engine::Compiled(compiled) => compiled.id_limit(),
            Engine::Library(library) => library.id_limit,
        }
    }

    /// The ids from `vocabulary` on that stand for tokens: a model of that many rows has none for them.
    pub fn ids_beyond(&self, vocabulary: usize) -> impl Iterator<Item = u32> {
        let ids = (vocabulary..self.id_limit()).map_while(|id| u32::try_from(id).ok());
        ids.filter(|&id| !self.bytes(id).is_empty())
    }

    /// Checks that a model with `vocabulary` rows has one for each of `ids`.
    ///
    /// # Errors
    /// [`RuntimeError::TokenBeyond`] for the first that it has none for.
    pub fn check_ids(&self, ids: &[u32], vocabulary: usize) -> Result<(), RuntimeError> {
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            None => Ok(()),
            Some(&id) => {
                let token = String::from_utf8_lossy(&self.bytes(id)).into_owned();
                Err(RuntimeError::TokenBeyond { token, id, vocabulary })
            }
        }
    }

    /// Compares this tokenizer with the one that `json` describes: whether `json` compiles to these very bytes, which
    /// settles it for all texts; then every id's bytes and kind, and the ids of every token's text, alone and among
    /// its neighbours, in the library's way and in this one.
    ///
    /// # Errors
    /// As [`Tokenizer::from_json`] and [`Tokenizer::encode`]; a difference is not an error but a failed check.
    pub fn agrees_with_json(&self, json: &[u8]) -> Result<Check, RuntimeError> {
        let name = "tokenizer, compiled and not".to_owned();
        let detail = match &self.engine {
            Engine::Library(_) => format!("{} ids, not compiled", self.id_limit()),
            Engine::Compiled(compiled) => {
                let problem = match compile(json)? {
                    None => "cannot be compiled",
                    Some(bytes) if bytes != compiled.file() => "does not compile to these bytes",
                    Some(_) => "",
                };
                if !problem.is_empty() {
                    return Ok(Check { name, ok: false, detail: format!("tokenizer.json {problem}") });
                }
                format!("{} ids as in tokenizer.json, which compiles to these bytes", self.id_limit())
            }
        };
        let difference = self.difference(&Self::from_json(json)?)?;
        Ok(Check { name, ok: difference.is_none(), detail: difference.unwrap_or(detail) })
    }

    /// The first difference to `other`, in words.
    fn difference(&self, other: &Self) -> Result<Option<String>, RuntimeError> {
        /// How many neighbours are encoded together.
        const WINDOW: usize = 8;
        if self.id_limit() != other.id_limit() {
            return Ok(Some(format!("ids end at {}, not at {}", self.id_limit(), other.id_limit())));
        }
        if self.encode_prompt("a")? != other.encode_prompt("a")? {
            return Ok(Some("another token stands before a prompt".into()));
        }
        let mut texts = Vec::new();
        for id in 0..other.id_limit() as u32 {
            let bytes = other.bytes(id);
            if self.bytes(id) != bytes || self.is_special(id) != other.is_special(id) {
                return Ok(Some(format!("id {id} is {:?}, not {bytes:?}", self.bytes(id))));
            }
            texts.push(bytes);
        }
        let among_neighbours: Vec<Vec<u8>> = texts.chunks(WINDOW).map(<[Vec<u8>]>::concat).collect();
        for bytes in texts.iter().chain(&among_neighbours) {
            let text = String::from_utf8_lossy(bytes);
            let (found, expected) = (self.encode(&text)?, other.encode(&text)?);
            if found != expected {
                return Ok(Some(format!("{text:?} has the ids {found:?}, not {expected:?}")));
            }
        }
        Ok(None)
    }
}
