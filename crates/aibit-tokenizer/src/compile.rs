//! From `tokenizer.json` to the compiled form.

use std::collections::{BTreeSet, HashMap};

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior,
};

use super::byte_alphabet;
use super::compiled::composed;
use super::components::Checked;
use super::layout::{self, Header, MAX_IDS, MAX_PROBES, NONE, Steps};
use super::library;
use super::merge::{EMPTY_SLOT, MergeTable, Merger, SLOT_BYTES, first_slot};
use super::pretokenize::Splitting;
use crate::TokenizerError;

/// Compiles `tokenizer.json` into a form that is used where it lies, the same bytes for the same tokenizer.
///
/// `None` for what the form cannot express: anything but byte-level BPE with one of the pre-tokenizations that are
/// known, without normalizer or with NFC, and with added tokens that are searched for as they are written.
///
/// # Errors
/// As [`Tokenizer::from_json`](crate::Tokenizer::from_json), but for the decoder's kind.
pub fn compile(tokenizer_json: &[u8]) -> Result<Option<Vec<u8>>, TokenizerError> {
    let checked = Checked::new(tokenizer_json)?;
    let library = checked.library()?;
    Ok(Vocabulary::of(&library, &checked).and_then(|vocabulary| vocabulary.compile()))
}

/// What is compiled.
struct Vocabulary {
    /// Stands before the text of a prompt.
    prefix: Option<u32>,
    steps: Steps,
    /// The bytes of every id up to the largest; `None` where there is no token.
    tokens: Vec<Option<Vec<u8>>>,
    byte_ids: [u32; 256],
    /// Left id, right id, merged id, by rank.
    merges: Vec<[u32; 3]>,
    /// Added tokens that are searched for in the whole text, by their bytes.
    added_first: Vec<u32>,
    /// Those that are searched for in what is left, by their bytes.
    added_second: Vec<u32>,
    /// Ascending.
    special: Vec<u32>,
    /// The tokens that a piece can be before anything is merged, by id; `None` if pieces are always merged.
    whole: Option<Vec<usize>>,
}

impl Vocabulary {
    fn of(library: &tokenizers::Tokenizer, checked: &Checked<'_>) -> Option<Self> {
        let ModelWrapper::BPE(bpe) = library.get_model() else { return None };
        let texts = library.get_vocab(true);
        let id_limit = texts.values().max().map_or(0, |&last| u64::from(last) + 1);
        if !is_expressible(library, bpe) || id_limit > u64::from(MAX_IDS) {
            return None;
        }
        let added = library.get_added_tokens_decoder();
        let mut tokens = vec![None; id_limit as usize];
        for (text, &id) in &texts {
            let bytes = match added.get(&id) {
                Some(_) => text.clone().into_bytes(),
                None => byte_alphabet::bytes_of(text).filter(|bytes| !bytes.is_empty())?,
            };
            tokens[id as usize] = Some(bytes);
        }

        let vocabulary = bpe.get_vocab();
        let characters = byte_alphabet::characters();
        let byte_ids = characters.map(|c| vocabulary.get(&c.to_string()).copied().unwrap_or(NONE));
        let steps = steps(library, &removal(characters, byte_ids))?;
        if (bpe.unk_token.is_some() || bpe.byte_fallback) && byte_ids.contains(&NONE) {
            return None;
        }

        let group = |normalized: bool| {
            let members = added.iter().filter(|(_, token)| token.normalized == normalized);
            let mut members: Vec<(&str, u32)> =
                members.map(|(&id, token)| (token.content.as_str(), id)).collect();
            members.sort_unstable();
            members.into_iter().map(|(_, id)| id).collect()
        };
        let mut special: Vec<u32> = added.iter().filter(|(_, t)| t.special).map(|(&id, _)| id).collect();
        special.sort_unstable();
        let is_composed =
            |&id: &u32| added.get(&id).is_none_or(|t| composed(&t.content) == t.content.as_str());
        let added_second: Vec<u32> = group(true);
        if steps.composed && !added_second.iter().all(is_composed) {
            return None;
        }
        let prefix = match library::prefix(library).ok()?.as_slice() {
            [] => None,
            [id] => Some(*id),
            _ => return None,
        };
        let whole = if bpe.ignore_merges { Some(whole_tokens(&vocabulary, &tokens)?) } else { None };
        let merges = merges(checked, &vocabulary)?;
        Some(Self {
            steps,
            prefix,
            tokens,
            byte_ids,
            merges,
            added_first: group(false),
            added_second,
            special,
            whole,
        })
    }

    fn compile(&self) -> Option<Vec<u8>> {
        let id_limit = self.tokens.len() as u32;
        let mut bytes = Vec::new();
        let mut offsets = vec![0];
        for token in &self.tokens {
            bytes.extend_from_slice(token.as_deref().unwrap_or_default());
            offsets.push(u32::try_from(bytes.len()).ok()?);
        }

        let pairs: Vec<usize> = (0..self.merges.len()).collect();
        let place = |slots, rank: usize| first_slot(self.merges[rank][0], self.merges[rank][1], slots);
        let (slots, merge_probes) = hash_table(&pairs, place)?;
        let merge_slots: Vec<[u8; SLOT_BYTES]> = slots
            .into_iter()
            .map(|rank| match rank {
                None => EMPTY_SLOT,
                Some(rank) => {
                    let [left, right, id] = self.merges[rank];
                    let mut slot = EMPTY_SLOT;
                    let fields = [left, right, rank as u32, id].map(u32::to_le_bytes);
                    slot.copy_from_slice(fields.as_flattened());
                    slot
                }
            })
            .collect();

        let table = MergeTable { slots: &merge_slots, probes: merge_probes, id_limit };
        let pieces = self.whole.clone().unwrap_or_else(|| self.whole_pieces(table));
        let token = |id: usize| self.tokens[id].as_deref().unwrap_or_default();
        let place = |slots, id: usize| layout::first_piece_slot(token(id), slots);
        let (piece_slots, piece_probes) = hash_table(&pieces, place)?;
        let piece_slots = piece_slots.into_iter().map(|id| id.map_or(NONE, |id| id as u32));

        let mut added = self.added_group(&self.added_first, 0);
        added.extend(self.added_group(&self.added_second, self.added_first.len()));
        let header = Header {
            id_limit,
            steps: self.steps,
            prefix: self.prefix,
            merge_probes,
            piece_probes,
            longest_piece: pieces.iter().map(|&id| token(id).len()).max().unwrap_or(0) as u32,
            added_first: self.added_first.len() as u32,
        };
        let sections: [&[u8]; 7] = [
            &numbers(self.byte_ids),
            &numbers(added),
            &numbers(self.special.iter().copied()),
            &numbers(offsets),
            &bytes,
            merge_slots.as_flattened(),
            &numbers(piece_slots),
        ];
        Some(layout::write(header, sections))
    }

    /// The tokens that their own bytes merge into, as ids.
    fn whole_pieces(&self, table: MergeTable<'_>) -> Vec<usize> {
        let mut merger = Merger::default();
        let mut is_whole = |id: usize, bytes: &[u8]| {
            let byte_ids = bytes.iter().map(|&byte| self.byte_ids[usize::from(byte)]);
            merger.symbols.clear();
            merger.symbols.extend(byte_ids.filter(|&id| id != NONE));
            merger.merge(table);
            merger.symbols == [id as u32]
        };
        let tokens = self.tokens.iter().enumerate();
        tokens.filter_map(|(id, token)| is_whole(id, token.as_deref()?).then_some(id)).collect()
    }

    /// The records of a group of added tokens, whose first has index `first`.
    fn added_group(&self, group: &[u32], first: usize) -> Vec<u32> {
        let token = |index: usize| self.tokens[group[index] as usize].as_deref().unwrap_or_default();
        let mut parents: Vec<Option<usize>> = Vec::new();
        for index in 0..group.len() {
            // What a token begins with sorts before it, and the one just before begins with that too.
            let mut parent = index.checked_sub(1);
            while let Some(other) = parent
                && !token(index).starts_with(token(other))
            {
                parent = parents[other];
            }
            parents.push(parent);
        }
        let record = |(&id, parent): (&u32, Option<usize>)| [id, parent.map_or(NONE, |p| (first + p) as u32)];
        group.iter().zip(parents).flat_map(record).collect()
    }
}

/// Whether the compiled form has a place for all that the library would do.
fn is_expressible(library: &tokenizers::Tokenizer, bpe: &BPE) -> bool {
    let is_empty = |affix: &Option<String>| affix.as_deref().unwrap_or_default().is_empty();
    let is_literal = |token: &AddedToken| !token.single_word && !token.lstrip && !token.rstrip;
    library.get_post_processor().is_none_or(keeps_ids)
        && matches!(library.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
        && bpe.dropout.is_none_or(|probability| probability == 0.0)
        && is_empty(&bpe.continuing_subword_prefix)
        && is_empty(&bpe.end_of_word_suffix)
        && library.get_added_tokens_decoder().values().all(is_literal)
}

/// Whether a post-processor leaves the ids of a text alone when no special tokens are to be added.
fn keeps_ids(post_processor: &PostProcessorWrapper) -> bool {
    match post_processor {
        PostProcessorWrapper::ByteLevel(_) => true,
        PostProcessorWrapper::Sequence(steps) => steps.as_ref().iter().all(keeps_ids),
        PostProcessorWrapper::Template(template) => {
            let single = serde_json::to_value(&template.single).unwrap_or_default();
            let mut texts = single.as_array().into_iter().flatten().filter_map(|piece| piece.get("Sequence"));
            texts.next().is_some_and(|text| text["id"] == "A") && texts.next().is_none()
        }
        _ => false,
    }
}

/// What is done to a text before merging; `None` for steps that the form does not have. `removal` is the expression
/// of a step that takes out the bytes without a token.
fn steps(library: &tokenizers::Tokenizer, removal: &str) -> Option<Steps> {
    let composed = match library.get_normalizer() {
        None => false,
        Some(NormalizerWrapper::NFC(_)) => true,
        Some(_) => return None,
    };
    let mut steps = Vec::new();
    flatten(library.get_pre_tokenizer()?, &mut steps);
    let separated = match steps.last()? {
        PreTokenizerWrapper::Split(split) => {
            let is_removal = split.behavior == SplitDelimiterBehavior::Removed
                && !split.invert
                && matches!(&split.pattern, SplitPattern::Regex(regex) if regex == removal);
            if !is_removal {
                return None;
            }
            steps.pop();
            true
        }
        _ => false,
    };
    let splitting = match steps.as_slice() {
        [PreTokenizerWrapper::ByteLevel(bytes)] if !bytes.add_prefix_space && bytes.use_regex => {
            Splitting::Words
        }
        [PreTokenizerWrapper::Digits(digits), PreTokenizerWrapper::ByteLevel(bytes)]
            if digits.individual_digits && !bytes.add_prefix_space && bytes.use_regex =>
        {
            Splitting::WordsBetweenDigits
        }
        [PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)]
            if split.behavior == SplitDelimiterBehavior::Isolated
                && !split.invert
                && !bytes.add_prefix_space
                && !bytes.use_regex =>
        {
            let SplitPattern::Regex(expression) = &split.pattern else { return None };
            Splitting::of_expression(expression)?
        }
        _ => return None,
    };
    Some(Steps { composed, splitting, separated })
}

fn flatten<'a>(step: &'a PreTokenizerWrapper, steps: &mut Vec<&'a PreTokenizerWrapper>) {
    match step {
        PreTokenizerWrapper::Sequence(parts) => parts.as_ref().iter().for_each(|part| flatten(part, steps)),
        step => steps.push(step),
    }
}

/// The expression that matches the bytes that texts can have but no token is, in the byte alphabet.
fn removal(characters: [char; 256], byte_ids: [u32; 256]) -> String {
    let in_utf8 = |byte: usize| !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
    let missing = (0..256).filter(|&byte| in_utf8(byte) && byte_ids[byte] == NONE);
    let codes: String = missing.map(|byte| format!(r"\x{{{:x}}}", u32::from(characters[byte]))).collect();
    format!("[{codes}]")
}

/// The tokens that a piece can be; `None` if one of them is written in the byte alphabet but stands for other bytes.
fn whole_tokens(vocabulary: &HashMap<String, u32>, tokens: &[Option<Vec<u8>>]) -> Option<Vec<usize>> {
    let mut whole = Vec::new();
    for (text, &id) in vocabulary {
        // An added token stands for its own characters; a piece can never be one that the alphabet lacks.
        let Some(bytes) = byte_alphabet::bytes_of(text) else { continue };
        if tokens.get(id as usize)?.as_ref() != Some(&bytes) {
            return None;
        }
        whole.push(id as usize);
    }
    whole.sort_unstable();
    Some(whole)
}

/// The merges of a `tokenizer.json`; of two with the same pair the last counts.
fn merges(checked: &Checked<'_>, vocabulary: &HashMap<String, u32>) -> Option<Vec<[u32; 3]>> {
    let mut seen = BTreeSet::new();
    let mut merges = Vec::new();
    for (left, right) in checked.merges.iter().rev() {
        let id = |text: &str| vocabulary.get(text).copied();
        let merge = [id(left)?, id(right)?, id(&format!("{left}{right}"))?];
        if seen.insert([merge[0], merge[1]]) {
            merges.push(merge);
        }
    }
    merges.reverse();
    Some(merges)
}

/// An open-addressing table of `items`, at most half full, and how many slots a search has to look at.
fn hash_table(items: &[usize], place: impl Fn(usize, usize) -> usize) -> Option<(Vec<Option<usize>>, u32)> {
    let smallest = (2 * items.len()).next_power_of_two().max(2);
    // Items that no table of eight times the size keeps apart are made to collide.
    [1, 2, 4, 8].into_iter().find_map(|factor| hash_table_of(factor * smallest, items, &place))
}

/// The table with a given number of slots; `None` if a search in it would be too long.
fn hash_table_of(
    size: usize,
    items: &[usize],
    place: impl Fn(usize, usize) -> usize,
) -> Option<(Vec<Option<usize>>, u32)> {
    let mut slots = vec![None; size];
    let mut probes = 1;
    for &item in items {
        let first = place(size, item);
        let slot = |distance: u32| (first + distance as usize) & (size - 1);
        let distance = (0..MAX_PROBES).find(|&distance| slots[slot(distance)].is_none())?;
        slots[slot(distance)] = Some(item);
        probes = probes.max(distance + 1);
    }
    Some((slots, probes))
}

fn numbers(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}
