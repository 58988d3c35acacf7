//! The buffer plan: one arena for all values, allocated by liveness.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{Graph, GraphError, ValueId};

/// The location of each value in the arena, in elements per token: for `m` tokens, value `v` is `arena[offsets[v] * m
/// ..][.. width[v] * m]`, and the arena has `width * m` elements.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BufferPlan {
    /// One offset per value.
    pub offsets: Vec<usize>,
    /// Size of the arena.
    pub width: usize,
}

/// Offsets are multiples of this many f32, one cache line.
const ALIGNMENT: usize = 16;

impl Graph {
    /// Assigns each value an offset: first fit among the values alive at the same time; an element-wise op reuses the
    /// range of an input that is not read later.
    ///
    /// The graph must be well-formed (see [`Graph::validate`]), as an architecture crate emits it.
    pub fn plan_buffers(&mut self) {
        let last_use = self.last_uses();
        let mut plan = BufferPlan { offsets: vec![0; self.values.len()], width: 0 };
        let mut live: Vec<ValueId> = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(output) = node.output() {
                let width = self.values[output].width;
                let taken_over = node
                    .in_place_input()
                    .filter(|&input| last_use[input] == at && self.values[input].width == width);
                plan.offsets[output] = match taken_over {
                    Some(input) => plan.offsets[input],
                    None => self.first_gap(&plan, &live, width),
                };
                plan.width = plan.width.max(plan.offsets[output] + width);
                live.push(output);
            }
            live.retain(|&value| last_use[value] > at);
        }
        self.plan = plan;
    }

    /// The lowest aligned offset at which `width` elements touch no live value.
    fn first_gap(&self, plan: &BufferPlan, live: &[ValueId], width: usize) -> usize {
        let mut taken: Vec<_> = live.iter().map(|&v| (plan.offsets[v], self.values[v].width)).collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, taken_width) in taken {
            if offset + width <= start {
                break;
            }
            offset = offset.max((start + taken_width).next_multiple_of(ALIGNMENT));
        }
        offset
    }

    /// Index of the last node that reads each value, or of its writer if none does.
    fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.values.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for value in node.inputs().chain(node.output()) {
                last[value] = at;
            }
        }
        last
    }

    /// Checks a stored plan: sizes, bounds, and that no node overwrites a value that a later node reads. Assumes that
    /// value indices have been checked.
    pub(crate) fn validate_plan(&self) -> Result<(), GraphError> {
        let plan = &self.plan;
        if plan.offsets.len() != self.values.len() {
            return Err(GraphError::Plan(format!(
                "{} offsets for {} values",
                plan.offsets.len(),
                self.values.len()
            )));
        }
        let end = |v: ValueId| plan.offsets[v].checked_add(self.values[v].width);
        for (v, value) in self.values.iter().enumerate() {
            if end(v).is_none_or(|end| end > plan.width) {
                return Err(GraphError::Plan(format!(
                    "value {v} (`{:.80}`) of width {} at offset {} exceeds the arena's width {}",
                    value.name, value.width, plan.offsets[v], plan.width
                )));
            }
        }
        let needed = (0..self.values.len()).filter_map(end).max().unwrap_or(0);
        if plan.width != needed {
            return Err(GraphError::Plan(format!(
                "the arena's width is {}, the values take {needed}",
                plan.width
            )));
        }
        let last_use = self.last_uses();
        let end = |v: ValueId| plan.offsets[v] + self.values[v].width; // checked above
        let mut live: BTreeMap<usize, ValueId> = BTreeMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(output) = node.output() {
                let start = plan.offsets[output];
                for other in overlapping(&live, start..end(output), end) {
                    let in_place = node.in_place_input() == Some(other)
                        && last_use[other] == at
                        && plan.offsets[other] == start
                        && self.values[other].width == self.values[output].width
                        && node.inputs().filter(|&v| v == other).count() == 1;
                    if !in_place {
                        return Err(GraphError::Plan(format!(
                            "node {at} ({}) writes value {output} over value {other}, which is still needed",
                            node.name()
                        )));
                    }
                }
            }
            for input in node.inputs().filter(|&v| last_use[v] == at) {
                live.remove(&plan.offsets[input]);
            }
            if let Some(output) = node.output().filter(|&v| last_use[v] > at) {
                live.insert(plan.offsets[output], output);
            }
        }
        Ok(())
    }
}

/// The `live` values, by offset, that overlap `range`; `end` gives the end of a value. Live values never overlap each
/// other, so those in a range are adjacent in the map: a hostile graph with thousands of them does not need quadratic
/// time.
fn overlapping(
    live: &BTreeMap<usize, ValueId>,
    range: Range<usize>,
    end: impl Fn(ValueId) -> usize,
) -> impl Iterator<Item = ValueId> {
    let below = live.range(..range.end).rev().map(|(_, &value)| value);
    below.take_while(move |&value| end(value) > range.start)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn only_neighbours_are_compared() {
        let live: BTreeMap<usize, ValueId> = (0..1 << 15).map(|value| (10 * value, value)).collect();
        for (range, expected) in
            [(5000..5001, vec![500]), (5009..5011, vec![501, 500]), (5000..5021, vec![502, 501, 500])]
        {
            let compared = Cell::new(0);
            let end = |value| {
                compared.set(compared.get() + 1);
                10 * value + 10
            };
            assert_eq!(overlapping(&live, range, end).collect::<Vec<_>>(), expected);
            assert_eq!(compared.get(), expected.len() + 1);
        }
    }
}
