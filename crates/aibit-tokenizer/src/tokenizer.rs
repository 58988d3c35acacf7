use std::ops::Range;

use aibit_format::{Archive, entry_names};
use tracing::info_span;

use crate::compiled::Compiled;
use crate::library::Library;
use crate::{CompiledBytes, TokenizerError, compile, layout};

/// Text to ids and back, by the package's tokenizer.
///
/// A package has the source's own `tokenizer.json` and, where that can be compiled, the compiled form beside it, which is
/// used from the map: nothing is parsed, no table is built. Both give the same ids for every text.
#[derive(Debug)]
pub struct Tokenizer {
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Compiled(Box<Compiled>),
    Library(Box<Library>),
}

/// Whether a tokenizer is the one that a `tokenizer.json` describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// Whether it is.
    pub ok: bool,
    /// What was compared, or the first difference.
    pub detail: String,
}

impl Tokenizer {
    /// Returns the tokenizer of an open archive: the compiled form if there is one in a version that this build reads,
    /// else `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::from_compiled`] or [`Tokenizer::from_json`]; [`TokenizerError::Format`] where the archive
    /// has none.
    pub fn load(archive: &Archive) -> Result<Self, TokenizerError> {
        let _span = info_span!("tokenizer").entered();
        match archive.entry_bytes(entry_names::TOKENIZER_COMPILED) {
            // Another version is not an error: `tokenizer.json` is the same tokenizer, only slower.
            Ok(bytes) if !layout::is_other_version(&bytes) => Self::from_compiled(bytes),
            _ => Self::from_json(archive.entry(entry_names::TOKENIZER)?.data),
        }
    }

    /// Returns a tokenizer on the bytes that [`compile`] made.
    ///
    /// Takes the same time for any number of merges, a few tens of microseconds for 50,000 tokens. Bytes whose digest has
    /// not been verified may give wrong ids, but never a panic.
    ///
    /// # Errors
    /// [`TokenizerError::Compiled`] for another version, and for sections that do not match the header.
    pub fn from_compiled(bytes: impl Into<CompiledBytes>) -> Result<Self, TokenizerError> {
        Ok(Self { engine: Engine::Compiled(Box::new(Compiled::open(bytes.into())?)) })
    }

    /// Returns a tokenizer for the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError::Json`] for a malformed file, and for a component that is not supported or exceeds its bounds
    /// (`docs/interop.md` lists them).
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        Ok(Self { engine: Engine::Library(Box::new(Library::from_json(json)?)) })
    }

    /// Whether this is the compiled form.
    pub fn is_compiled(&self) -> bool {
        matches!(self.engine, Engine::Compiled(_))
    }

    /// Returns the ids of `text`. Special tokens that are written out in it are recognized; none are added.
    ///
    /// # Errors
    /// [`TokenizerError::Json`] if the text cannot be expressed, which byte-level vocabularies never cause.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match &self.engine {
            Engine::Compiled(compiled) => Ok(compiled.encode(text, &[])),
            Engine::Library(library) => library.encode(text),
        }
    }

    /// Returns the ids of `text` without recognizing special tokens: user input is text. Added tokens that are not
    /// special are recognized as in [`Tokenizer::encode`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_partly_plain(text, std::slice::from_ref(&(0..text.len())))
    }

    /// Returns the ids of `text`, treating the byte ranges in `plain` (at character boundaries) as
    /// [`Tokenizer::encode_plain`] does: a special token that overlaps one of them is text, all others are recognized. So
    /// a chat template's own special tokens count and those in messages do not; a text without special tokens has the ids
    /// of [`Tokenizer::encode`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    ///
    /// # Panics
    /// If a range ends inside a character or outside of `text`.
    pub fn encode_partly_plain(
        &self,
        text: &str,
        plain: &[Range<usize>],
    ) -> Result<Vec<u32>, TokenizerError> {
        let is_part = |range: &Range<usize>| text.get(range.clone()).is_some();
        assert!(plain.iter().all(is_part), "parts of {} bytes: {plain:?}", text.len());
        match &self.engine {
            Engine::Compiled(compiled) => Ok(compiled.encode(text, plain)),
            Engine::Library(library) => library.encode_partly_plain(text, plain),
        }
    }

    /// Returns the ids of a prompt: those of [`Tokenizer::encode`], after the tokens that the tokenizer puts before every
    /// text, such as a beginning-of-text token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = match &self.engine {
            Engine::Compiled(compiled) => compiled.prefix().into_iter().collect(),
            Engine::Library(library) => library.prefix().to_vec(),
        };
        ids.extend(self.encode(text)?);
        Ok(ids)
    }

    /// Returns the text of `ids` without special tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> =
            ids.iter().filter(|&&id| !self.is_special(id)).flat_map(|&id| self.bytes(id)).collect();
        match &self.engine {
            Engine::Compiled(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Engine::Library(library) => library.text_of(&bytes),
        }
    }

    /// Returns the bytes of a token; none for an unknown id.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        match &self.engine {
            Engine::Compiled(compiled) => compiled.bytes(id).to_vec(),
            Engine::Library(library) => library.bytes(id),
        }
    }

    /// Returns whether a token is special: a control token, no text.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.engine {
            Engine::Compiled(compiled) => compiled.is_special(id),
            Engine::Library(library) => library.added.get(&id).is_some_and(|token| token.special),
        }
    }

    /// Returns the id of a token, spelled as in `tokenizer.json`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.engine {
            Engine::Compiled(compiled) => compiled.token_id(token),
            Engine::Library(library) => library.tokenizer.token_to_id(token),
        }
    }

    /// Returns one more than the largest id.
    pub fn id_limit(&self) -> usize {
        match &self.engine {
            Engine::Compiled(compiled) => compiled.id_limit(),
            Engine::Library(library) => library.id_limit,
        }
    }

    /// Returns the ids of tokens from `vocabulary` on: a model with that many embedding rows has no row for them.
    pub fn ids_beyond(&self, vocabulary: usize) -> impl Iterator<Item = u32> {
        let ids = (vocabulary..self.id_limit()).map_while(|id| u32::try_from(id).ok());
        ids.filter(|&id| !self.bytes(id).is_empty())
    }

    /// Checks that a model with `vocabulary` embedding rows has a row for each of `ids`.
    ///
    /// # Errors
    /// [`TokenizerError::TokenBeyond`] for the first id without a row.
    pub fn check_ids(&self, ids: &[u32], vocabulary: usize) -> Result<(), TokenizerError> {
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            None => Ok(()),
            Some(&id) => {
                let token = String::from_utf8_lossy(&self.bytes(id)).into_owned();
                Err(TokenizerError::TokenBeyond { token, id, vocabulary })
            }
        }
    }

    /// Compares this tokenizer with the one that `json` describes: first whether `json` compiles to these very bytes,
    /// which proves equality for all texts; then the bytes and kind of every id, and the ids of every token's text, alone
    /// and joined with its neighbours, as the library encodes them.
    ///
    /// # Errors
    /// As [`Tokenizer::from_json`] and [`Tokenizer::encode`]; a difference is not an error, but an
    /// [`Agreement`] that is not `ok`.
    pub fn agrees_with_json(&self, json: &[u8]) -> Result<Agreement, TokenizerError> {
        let detail = match &self.engine {
            Engine::Library(_) => format!("{} ids, not compiled", self.id_limit()),
            Engine::Compiled(compiled) => {
                let problem = match compile(json)? {
                    None => "cannot be compiled",
                    Some(bytes) if bytes != compiled.file() => "does not compile to these bytes",
                    Some(_) => "",
                };
                if !problem.is_empty() {
                    return Ok(Agreement { ok: false, detail: format!("tokenizer.json {problem}") });
                }
                format!("{} ids as in tokenizer.json, which compiles to these bytes", self.id_limit())
            }
        };
        let difference = self.difference(&Self::from_json(json)?)?;
        Ok(Agreement { ok: difference.is_none(), detail: difference.unwrap_or(detail) })
    }

    /// The first difference to `other`, in words.
    fn difference(&self, other: &Self) -> Result<Option<String>, TokenizerError> {
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
