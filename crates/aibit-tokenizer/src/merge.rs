//! Byte pair encoding: repeatedly joins the adjacent pair of lowest rank, the leftmost of equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Longest word, in symbols, for which looking at all pairs again beats keeping them in a heap.
const SHORT: usize = 64;

/// Rank of a pair that does not merge.
const NEVER: u32 = u32::MAX;

/// Marks a symbol that has become part of the one before it.
const GONE: u32 = u32::MAX;

/// Bytes of one slot of the merge table: left id, right id, rank, merged id, each a u32.
pub(super) const SLOT_BYTES: usize = 16;

/// A slot of the merge table that holds nothing.
pub(super) const EMPTY_SLOT: [u8; SLOT_BYTES] = [0xff; SLOT_BYTES];

/// The merge table: open addressing, linear probing, a power of two of slots.
#[derive(Clone, Copy)]
pub(super) struct MergeTable<'a> {
    /// At least two, a power of two.
    pub(super) slots: &'a [[u8; SLOT_BYTES]],
    /// Slots that are looked at before a pair is given up.
    pub(super) probes: u32,
    /// Merges whose result is not below are ignored.
    pub(super) id_limit: u32,
}

/// What a pair becomes.
#[derive(Debug, Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

/// The buffers of the algorithm, for any number of words.
#[derive(Default)]
pub(super) struct Merger {
    /// The symbols of the word, before [`merge`](Self::merge) those of its bytes.
    pub(super) symbols: Vec<u32>,
    /// For every symbol but the last, what it and the next become.
    merges: Vec<Merge>,
    /// Of long words, the neighbours of each symbol; the number of symbols where there is none.
    previous: Vec<usize>,
    next: Vec<usize>,
    /// Of long words, the pairs that merge or once did: rank, then position.
    heap: BinaryHeap<Reverse<(u32, usize)>>,
}

/// Where the search for a pair begins, in a table of `slots` slots.
pub(super) fn first_slot(left: u32, right: u32, slots: usize) -> usize {
    let key = u64::from(left) << 32 | u64::from(right);
    // The high bits of the product depend on all bits of the key.
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - slots.trailing_zeros())) as usize
}

impl MergeTable<'_> {
    fn get(&self, left: u32, right: u32) -> Merge {
        let mask = self.slots.len() - 1;
        let first = first_slot(left, right, self.slots.len());
        for probe in 0..self.probes as usize {
            let slot = &self.slots[(first + probe) & mask];
            let field = |i: usize| u32::from_le_bytes([slot[i], slot[i + 1], slot[i + 2], slot[i + 3]]);
            if (field(0), field(4)) == (left, right) {
                let id = field(12);
                return Merge { rank: if id < self.id_limit { field(8) } else { NEVER }, id };
            }
            if *slot == EMPTY_SLOT {
                break;
            }
        }
        Merge { rank: NEVER, id: GONE }
    }
}

impl Merger {
    /// Turns the symbols of a word's bytes into those of its tokens.
    pub(super) fn merge(&mut self, table: MergeTable<'_>) {
        self.merges.clear();
        self.merges.extend(self.symbols.windows(2).map(|pair| table.get(pair[0], pair[1])));
        if self.symbols.len() <= SHORT { self.merge_short(table) } else { self.merge_long(table) }
    }

    /// Quadratic, but without a heap's overhead.
    fn merge_short(&mut self, table: MergeTable<'_>) {
        let (symbols, merges) = (&mut self.symbols, &mut self.merges);
        while let Some((at, &merge)) = merges.iter().enumerate().min_by_key(|(_, merge)| merge.rank) {
            if merge.rank == NEVER {
                break;
            }
            symbols[at] = merge.id;
            symbols.remove(at + 1);
            merges.remove(at);
            if at < merges.len() {
                merges[at] = table.get(symbols[at], symbols[at + 1]);
            }
            if at > 0 {
                merges[at - 1] = table.get(symbols[at - 1], symbols[at]);
            }
        }
    }

    /// In n log n, whatever the word.
    fn merge_long(&mut self, table: MergeTable<'_>) {
        let n = self.symbols.len();
        self.merges.push(Merge { rank: NEVER, id: GONE }); // of the last symbol
        self.previous.clear();
        self.previous.extend((0..n).map(|at| if at == 0 { n } else { at - 1 }));
        self.next.clear();
        self.next.extend(1..=n);
        let mut heap = std::mem::take(&mut self.heap).into_vec();
        heap.clear();
        heap.extend(
            self.merges
                .iter()
                .enumerate()
                .filter(|(_, m)| m.rank != NEVER)
                .map(|(at, m)| Reverse((m.rank, at))),
        );
        self.heap = BinaryHeap::from(heap);
        while let Some(Reverse((rank, at))) = self.heap.pop() {
            // A symbol only grows, so a pair at the same place with the same rank is the same pair.
            if self.merges[at].rank != rank {
                continue;
            }
            let right = self.next[at];
            self.symbols[at] = self.merges[at].id;
            self.symbols[right] = GONE;
            self.merges[right].rank = NEVER;
            let after = self.next[right];
            self.next[at] = after;
            if after < n {
                self.previous[after] = at;
            }
            self.look_up(at, table);
            if self.previous[at] < n {
                self.look_up(self.previous[at], table);
            }
        }
        self.symbols.retain(|&symbol| symbol != GONE);
    }

    /// Finds anew what a symbol of a long word and the next become.
    fn look_up(&mut self, at: usize, table: MergeTable<'_>) {
        let next = self.next[at];
        self.merges[at] = match self.symbols.get(next) {
            Some(&right) => table.get(self.symbols[at], right),
            None => Merge { rank: NEVER, id: GONE },
        };
        if self.merges[at].rank != NEVER {
            self.heap.push(Reverse((self.merges[at].rank, at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn long_words_merge_as_short_ones(
            rules in prop::collection::vec((0..12_u32, 0..12_u32, 0..12_u32), 0..40),
            word in prop::collection::vec(0..6_u32, 0..80),
        ) {
            let mut slots = vec![EMPTY_SLOT; 128];
            for (rank, (left, right, id)) in rules.into_iter().enumerate() {
                let mut at = first_slot(left, right, slots.len());
                while slots[at % 128] != EMPTY_SLOT {
                    at += 1;
                }
                let fields = [left, right, rank as u32, id].map(u32::to_le_bytes);
                slots[at % 128].copy_from_slice(fields.as_flattened());
            }
            let table = MergeTable { slots: &slots, probes: 128, id_limit: 12 };
            let run = |merge: fn(&mut Merger, MergeTable<'_>)| {
                let mut merger = Merger { symbols: word.clone(), ..Merger::default() };
                merger.merges.extend(word.windows(2).map(|pair| table.get(pair[0], pair[1])));
                merge(&mut merger, table);
                merger.symbols
            };
            prop_assert_eq!(run(Merger::merge_short), run(Merger::merge_long));
        }
    }
}
