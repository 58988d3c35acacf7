//! The compiled tokenizer: byte-level BPE, used where its bytes lie.
//!
//! The bytes are hostile until proven otherwise. What opening does not look at, as that would take longer than a
//! short prompt, is checked where it is used: every access is bounded, and every loop ends. So broken tables give
//! wrong ids, which digests and golden ids catch, but never a panic.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};

use aibit_format::MappedBytes;
use tokenizers::NormalizedString;

use super::added_tokens::{AddedTokens, Part};
use super::byte_alphabet;
use super::layout::{self, ADDED_BYTES, Header, NONE, Sections, Steps, broken};
use super::merge::{MergeTable, Merger};
use crate::TokenizerError;

/// Bytes of a compiled tokenizer, and what keeps them in memory.
#[derive(Clone)]
pub enum CompiledBytes {
    /// A part of a mapped file.
    Mapped(MappedBytes),
    /// Memory of its own.
    Owned(Vec<u8>),
}

impl From<MappedBytes> for CompiledBytes {
    fn from(bytes: MappedBytes) -> Self {
        Self::Mapped(bytes)
    }
}

impl From<Vec<u8>> for CompiledBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl Deref for CompiledBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for CompiledBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// An opened compiled tokenizer.
#[derive(Debug)]
pub(super) struct Compiled {
    file: CompiledBytes,
    header: Header,
    sections: Sections,
    /// Which bytes an added token of the first and of the second group begins with.
    first_bytes: [[bool; 256]; 2],
}

/// The sections, found in the bytes.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    byte_ids: &'a [[u8; 4]],
    added: &'a [[u8; ADDED_BYTES]],
    special: &'a [[u8; 4]],
    offsets: &'a [[u8; 4]],
    bytes: &'a [u8],
    merges: MergeTable<'a>,
    pieces: &'a [[u8; 4]],
    piece_probes: u32,
    longest_piece: usize,
}

impl Compiled {
    /// Checks the header, that the sections fit each other, and every section but the two hash tables.
    ///
    /// # Errors
    /// [`TokenizerError::Compiled`] that says what is wrong.
    pub(super) fn open(file: CompiledBytes) -> Result<Self, TokenizerError> {
        let (header, sections) = layout::read(&file)?;
        let mut compiled = Self { file, header, sections, first_bytes: [[false; 256]; 2] };
        let mut first_bytes = [[false; 256]; 2];
        let view = compiled.view();
        view.check(header.id_limit)?;
        for index in 0..view.added.len() {
            let group = usize::from(index >= header.added_first as usize);
            first_bytes[group][usize::from(view.added_bytes(index)[0])] = true;
        }
        compiled.first_bytes = first_bytes;
        Ok(compiled)
    }

    /// What was opened.
    pub(super) fn file(&self) -> &[u8] {
        &self.file
    }

    /// The id that stands before the text of a prompt.
    pub(super) fn prefix(&self) -> Option<u32> {
        self.header.prefix
    }

    /// The ids of `text`, in which special tokens that overlap one of `plain` stay text.
    pub(super) fn encode(&self, text: &str, plain: &[Range<usize>]) -> Vec<u32> {
        let view = self.view();
        let count = view.added.len();
        let group = |Range { start: begin, end }, group: usize| AddedTokens {
            view,
            begin,
            end,
            first_bytes: &self.first_bytes[group],
        };
        let Steps { composed, splitting, separated } = self.header.steps;
        let split = self.header.added_first as usize;
        let (first, second) = (group(0..split, 0), group(split..count, 1));
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut merger = Merger::default();
        let is_text = |id: u32, plain: &[Range<usize>], place: &Range<usize>| {
            !plain.is_empty() && self.is_special(id) && overlaps(plain, place)
        };
        for part in first.parts(text, |id, place| is_text(id, plain, &place)) {
            let part = match part {
                Part::Token(id) => {
                    ids.push(id);
                    continue;
                }
                Part::Text(part) => part,
            };
            let begin = part.as_ptr() as usize - text.as_ptr() as usize;
            let text = if composed { self::composed(part) } else { Cow::Borrowed(part) };
            // Where the part has them, once it is composed.
            let place = |place: usize| match place.clamp(begin, begin + part.len()) - begin {
                at if !composed => at,
                at => self::composed(&part[..at]).len().min(text.len()),
            };
            let plain: Vec<_> = plain.iter().map(|range| place(range.start)..place(range.end)).collect();
            for part in second.parts(&text, |id, place| is_text(id, &plain, &place)) {
                let text = match part {
                    Part::Token(id) => {
                        ids.push(id);
                        continue;
                    }
                    Part::Text(text) => text,
                };
                for piece in splitting.pieces(text).map(str::as_bytes) {
                    if separated {
                        let parts = piece.split(|&byte| view.byte_id(byte) == NONE);
                        parts
                            .filter(|part| !part.is_empty())
                            .for_each(|part| view.encode_piece(part, &mut merger, &mut ids));
                    } else {
                        view.encode_piece(piece, &mut merger, &mut ids);
                    }
                }
            }
        }
        ids
    }

    /// The bytes that a token stands for; none for an unknown id.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.view().bytes(id)
    }

    /// Whether an id stands for a control token.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.view().special.binary_search_by_key(&id, |special| u32::from_le_bytes(*special)).is_ok()
    }

    /// The id of a token written as in `tokenizer.json`; looks at all of them.
    pub(super) fn token_id(&self, token: &str) -> Option<u32> {
        let view = self.view();
        let mut added = (0..view.added.len()).map(|index| view.added(index).0);
        if let Some(id) = added.clone().find(|&id| view.bytes(id) == token.as_bytes()) {
            return Some(id);
        }
        let bytes = byte_alphabet::bytes_of(token).filter(|bytes| !bytes.is_empty())?;
        (0..self.header.id_limit).find(|&id| view.bytes(id) == bytes && added.all(|added| added != id))
    }

    /// One more than the largest id.
    pub(super) fn id_limit(&self) -> usize {
        self.header.id_limit as usize
    }

    fn view(&self) -> View<'_> {
        let part = |range: &Range<usize>| &self.file[range.clone()];
        let numbers = |range| part(range).as_chunks().0;
        let sections = &self.sections;
        View {
            byte_ids: numbers(&sections.byte_ids),
            added: part(&sections.added).as_chunks().0,
            special: numbers(&sections.special),
            offsets: numbers(&sections.offsets),
            bytes: part(&sections.bytes),
            merges: MergeTable {
                slots: part(&sections.merges).as_chunks().0,
                probes: self.header.merge_probes,
                id_limit: self.header.id_limit,
            },
            pieces: numbers(&sections.pieces),
            piece_probes: self.header.piece_probes,
            longest_piece: self.header.longest_piece as usize,
        }
    }
}

impl<'a> View<'a> {
    /// The bytes of a token; none for an unknown id.
    pub(super) fn bytes(self, id: u32) -> &'a [u8] {
        let offset =
            |index: usize| self.offsets.get(index).map(|offset| u32::from_le_bytes(*offset) as usize);
        let id = id as usize;
        let range = offset(id).zip(offset(id + 1));
        range.and_then(|(begin, end)| self.bytes.get(begin..end)).unwrap_or_default()
    }

    /// The id of an added token, and the index of the longest other one that it begins with.
    pub(super) fn added(self, index: usize) -> (u32, Option<usize>) {
        let [a, b, c, d, parent @ ..] = self.added[index];
        let parent = u32::from_le_bytes(parent);
        (u32::from_le_bytes([a, b, c, d]), (parent != NONE).then_some(parent as usize))
    }

    /// The id of a byte's own token, [`NONE`] without one.
    fn byte_id(self, byte: u8) -> u32 {
        u32::from_le_bytes(self.byte_ids[usize::from(byte)])
    }

    /// The bytes of an added token.
    pub(super) fn added_bytes(self, index: usize) -> &'a [u8] {
        self.bytes(self.added(index).0)
    }

    /// Appends the ids of a piece.
    fn encode_piece(self, piece: &[u8], merger: &mut Merger, ids: &mut Vec<u32>) {
        if let Some(id) = self.whole_piece(piece) {
            ids.push(id);
            return;
        }
        let byte_ids = piece.iter().map(|&byte| self.byte_id(byte));
        merger.symbols.clear();
        merger.symbols.extend(byte_ids.filter(|&id| id != NONE)); // a byte without a token is passed over
        merger.merge(self.merges);
        ids.extend_from_slice(&merger.symbols);
    }

    /// The id of a piece that is one token.
    fn whole_piece(self, piece: &[u8]) -> Option<u32> {
        if piece.len() > self.longest_piece {
            return None;
        }
        let first = layout::first_piece_slot(piece, self.pieces.len());
        (0..self.piece_probes as usize)
            .map(|probe| u32::from_le_bytes(self.pieces[(first + probe) & (self.pieces.len() - 1)]))
            .take_while(|&id| id != NONE)
            .find(|&id| self.bytes(id) == piece)
    }

    /// Checks the small sections and the offsets.
    fn check(self, id_limit: u32) -> Result<(), TokenizerError> {
        let number = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        if let Some(id) = self.byte_ids.iter().map(number).find(|&id| id >= id_limit && id != NONE) {
            return Err(broken(format!("a byte has id {id}, ids end at {id_limit}")));
        }
        // Every pair is looked at, whatever was found before: that loop needs no branches.
        let rises =
            self.offsets.windows(2).fold(true, |rises, pair| rises & (number(&pair[0]) <= number(&pair[1])));
        let ends = self.offsets.last().map(number);
        if !rises || ends.is_none_or(|end| end as usize != self.bytes.len()) {
            return Err(broken(format!(
                "the places of the tokens must rise and end at {}, the last is {ends:?}",
                self.bytes.len()
            )));
        }
        if !self.special.is_sorted_by(|a, b| number(a) < number(b)) {
            return Err(broken("the special ids must rise"));
        }
        for index in 0..self.added.len() {
            let (id, parent) = self.added(index);
            let bytes = self.bytes(id);
            if bytes.is_empty() || std::str::from_utf8(bytes).is_err() {
                return Err(broken(format!("added token {index} has id {id}, which is no text")));
            }
            if parent.is_some_and(|parent| parent >= index) {
                return Err(broken(format!("added token {index} begins with one that comes later")));
            }
        }
        Ok(())
    }
}

/// Whether a place in a text has a character in common with one of `ranges`.
pub(super) fn overlaps(ranges: &[Range<usize>], place: &Range<usize>) -> bool {
    ranges.iter().any(|range| range.start < place.end && place.start < range.end)
}

/// A text in Unicode's normalization form C, as the library has it.
pub(super) fn composed(text: &str) -> Cow<'_, str> {
    // Characters below U+0300, whose first byte is 0xcc, neither change nor compose with each other.
    if text.bytes().all(|byte| byte < 0xcc) {
        return Cow::Borrowed(text);
    }
    let mut text = NormalizedString::from(text);
    text.nfc();
    Cow::Owned(text.get().to_owned())
}
