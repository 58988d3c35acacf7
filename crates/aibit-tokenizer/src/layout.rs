//! The bytes of a compiled tokenizer: header, sections, hashes (`docs/format.md` is the contract).

use std::ops::Range;

use super::merge::SLOT_BYTES;
use super::pretokenize::Splitting;
use crate::TokenizerError;

pub(super) const MAGIC: [u8; 8] = *b"aibitBPE";

/// Newest version, the one that is written. It rises with every change of the bytes that a `tokenizer.json` compiles to:
/// `aibit verify --run` compiles it again and compares.
pub(super) const VERSION: u32 = 2;

/// Bytes of the header, the table of sections included.
pub(super) const HEADER_BYTES: usize = 152;

/// Ids end below this; it bounds the tables, and leaves `NONE` to stand for no id.
pub(super) const MAX_IDS: u32 = 1 << 22;

/// No id, no index, an empty slot.
pub(super) const NONE: u32 = u32::MAX;

/// Slots that a search may have to look at; a table that needs more is made larger.
pub(super) const MAX_PROBES: u32 = 128;

/// Bytes of one added token: id, and the index of the longest other one that it begins with.
pub(super) const ADDED_BYTES: usize = 8;

/// Bits of the header's options; all others are zero.
const OPTION_COMPOSED: u32 = 1;
const OPTION_SEPARATED: u32 = 2;
/// Above these bits: one more than the id that stands before the text of a prompt, 0 for none.
const PREFIX_SHIFT: u32 = 8;

/// How a text becomes the pieces that are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Steps {
    /// Whether texts are brought to Unicode's normalization form C first.
    pub(super) composed: bool,
    /// The rule of splitting.
    pub(super) splitting: Splitting,
    /// Whether a byte without a token separates what stands on either side; else it is passed over.
    pub(super) separated: bool,
}

/// What the header says, in its order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// One more than the largest id.
    pub(super) id_limit: u32,
    /// Splitting and options.
    pub(super) steps: Steps,
    /// The id that stands before the text of a prompt.
    pub(super) prefix: Option<u32>,
    /// Slots to look at for a pair.
    pub(super) merge_probes: u32,
    /// Slots to look at for a piece.
    pub(super) piece_probes: u32,
    /// Bytes of the longest piece in the table.
    pub(super) longest_piece: u32,
    /// How many of the added tokens are searched for first, in the whole text.
    pub(super) added_first: u32,
}

/// Where each section lies, in file order.
#[derive(Debug, Clone)]
pub(super) struct Sections {
    /// Id of each byte's own token, [`NONE`] where a byte has none.
    pub(super) byte_ids: Range<usize>,
    /// Added tokens, in two groups, each sorted by the bytes of its tokens.
    pub(super) added: Range<usize>,
    /// Ids of special tokens, ascending.
    pub(super) special: Range<usize>,
    /// Where the bytes of each id begin, and where the last end.
    pub(super) offsets: Range<usize>,
    /// The bytes of all tokens.
    pub(super) bytes: Range<usize>,
    /// The merge table.
    pub(super) merges: Range<usize>,
    /// The table of whole pieces.
    pub(super) pieces: Range<usize>,
}

/// An error about the entry.
pub(super) fn broken(problem: impl Into<String>) -> TokenizerError {
    TokenizerError::Compiled(problem.into())
}

/// Puts header and sections together.
pub(super) fn write(header: Header, sections: [&[u8]; 7]) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEADER_BYTES + sections.iter().map(|s| s.len() + 8).sum::<usize>());
    file.extend(MAGIC);
    let Header { id_limit, steps, prefix, merge_probes, piece_probes, longest_piece, added_first } = header;
    let splitting = steps.splitting as u32;
    let options = OPTION_COMPOSED * u32::from(steps.composed)
        + OPTION_SEPARATED * u32::from(steps.separated)
        + (prefix.map_or(0, |id| id + 1) << PREFIX_SHIFT);
    let numbers =
        [VERSION, id_limit, splitting, options, merge_probes, piece_probes, longest_piece, added_first];
    file.extend(numbers.map(u32::to_le_bytes).as_flattened());
    let mut at = HEADER_BYTES;
    for section in sections {
        file.extend((at as u64).to_le_bytes());
        file.extend((section.len() as u64).to_le_bytes());
        at = (at + section.len()).next_multiple_of(8);
    }
    assert_eq!(file.len(), HEADER_BYTES, "the header");
    for section in sections {
        file.extend(section);
        file.resize(file.len().next_multiple_of(8), 0);
    }
    file
}

/// Whether this is a compiled tokenizer, but of a version that this build does not read.
pub(super) fn is_other_version(file: &[u8]) -> bool {
    let version = file.strip_prefix(&MAGIC).and_then(|rest| rest.first_chunk::<4>());
    version.is_some_and(|version| u32::from_le_bytes(*version) != VERSION)
}

/// Reads the header: what the sections hold is not looked at, but each has a length that fits the others.
pub(super) fn read(file: &[u8]) -> Result<(Header, Sections), TokenizerError> {
    if file.len() < HEADER_BYTES {
        return Err(broken(format!("{} bytes, the header alone has {HEADER_BYTES}", file.len())));
    }
    if !file.starts_with(&MAGIC) {
        return Err(broken("it does not begin with `aibitBPE`"));
    }
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
    let [version, id_limit, splitting, options, merge_probes, piece_probes, longest_piece, added_first] =
        std::array::from_fn(|i| u32_at(8 + 4 * i));
    if version != VERSION {
        return Err(broken(format!(
            "version {version}, this build reads {VERSION}; update aibit or pack the model again"
        )));
    }
    let steps = steps(splitting, options & ((1 << PREFIX_SHIFT) - 1))?;
    let prefix = (options >> PREFIX_SHIFT).checked_sub(1);
    let header = Header { id_limit, steps, prefix, merge_probes, piece_probes, longest_piece, added_first };

    let mut end = HEADER_BYTES as u64;
    let mut ranges = [const { 0..0 }; 7];
    for (index, range) in ranges.iter_mut().enumerate() {
        let (start, bytes) = (u64_at(40 + 16 * index), u64_at(48 + 16 * index));
        let limit = file.len() as u64;
        if start != end || start > limit || bytes > limit - start {
            return Err(broken(format!(
                "section {index} of {bytes} bytes begins at {start}, it must begin at {end} and end in the {limit} bytes of \
                 the file"
            )));
        }
        *range = start as usize..(start + bytes) as usize;
        end = (start + bytes).next_multiple_of(8);
    }
    if end != file.len() as u64 {
        return Err(broken(format!("{} bytes, its sections end at {end}", file.len())));
    }
    let [byte_ids, added, special, offsets, bytes, merge_table, piece_table] = ranges;
    let is_table = |bytes: usize, slot: usize, probes: u32| {
        bytes.is_multiple_of(slot)
            && (bytes / slot).is_power_of_two()
            && bytes / slot >= 2
            && probes <= MAX_PROBES
    };
    let sound = id_limit <= MAX_IDS
        && prefix.is_none_or(|id| id < id_limit)
        && byte_ids.len() == 4 * 256
        && added.len().is_multiple_of(ADDED_BYTES)
        && added_first as usize <= added.len() / ADDED_BYTES
        && special.len().is_multiple_of(4)
        && offsets.len() == 4 * (id_limit as usize + 1)
        && is_table(merge_table.len(), SLOT_BYTES, merge_probes)
        && is_table(piece_table.len(), 4, piece_probes);
    let sections =
        Sections { byte_ids, added, special, offsets, bytes, merges: merge_table, pieces: piece_table };
    if !sound {
        return Err(broken(format!("its numbers contradict each other: {header:?}, {sections:?}")));
    }
    Ok((header, sections))
}

fn steps(splitting: u32, options: u32) -> Result<Steps, TokenizerError> {
    if options & !(OPTION_COMPOSED | OPTION_SEPARATED) != 0 {
        return Err(broken(format!("its options are {options:#x}, version {VERSION} has none above 0x3")));
    }
    let Some(splitting) = Splitting::of_number(splitting) else {
        return Err(broken(format!("it splits by rule {splitting}, which version {VERSION} does not have")));
    };
    Ok(Steps {
        composed: options & OPTION_COMPOSED != 0,
        splitting,
        separated: options & OPTION_SEPARATED != 0,
    })
}

/// Where the search for a piece begins, in a table of `slots` slots, a power of two and at least two.
pub(super) fn first_piece_slot(piece: &[u8], slots: usize) -> usize {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = piece.len() as u64;
    let (words, tail) = piece.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    for word in words.iter().chain([&last]) {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        hash ^= hash >> 32;
    }
    (hash.wrapping_mul(FACTOR) >> (64 - slots.trailing_zeros())) as usize
}
