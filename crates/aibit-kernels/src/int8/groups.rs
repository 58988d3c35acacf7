//! The order in which rows of weights are read that are used once.

use crate::read::RUNS;

/// Rows of weights that are multiplied side by side.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "scalar code takes rows one by one"))]
pub(super) struct Group {
    /// Run and row in it; those from `count` on repeat the first.
    pub(super) rows: [(usize, usize); 4],
    pub(super) count: usize,
}

/// All rows of some runs with so many rows, in groups that take the same number from each of the first `runs`; what is left
/// then comes four by four.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "scalar code takes rows one by one"))]
pub(super) fn groups(counts: [usize; RUNS], runs: usize) -> impl Iterator<Item = Group> {
    let side = 4 / runs;
    let whole = counts[..runs].iter().min().map_or(0, |count| count / side);
    // Once, since a division takes as long as the product of a short row.
    let lanes: [(usize, usize); 4] = std::array::from_fn(|i| (i / side, i % side));
    let together = (0..whole)
        .map(move |group| Group { rows: lanes.map(|(run, offset)| (run, group * side + offset)), count: 4 });
    let mut rest = (0..RUNS).flat_map(move |run| {
        let first = if run < runs { whole * side } else { 0 };
        (first..counts[run]).map(move |row| (run, row))
    });
    together.chain(std::iter::from_fn(move || {
        let mut group = Group { rows: [rest.next()?; 4], count: 1 };
        while group.count < 4
            && let Some(row) = rest.next()
        {
            group.rows[group.count] = row;
            group.count += 1;
        }
        Some(group)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_comes_once() {
        for counts in [[0; 4], [5, 5, 5, 5], [5, 5, 4, 0], [7, 0, 0, 0], [9, 8, 0, 0], [1, 0, 0, 0]] {
            for runs in [1, 2, 4] {
                let mut seen: Vec<_> = groups(counts, runs)
                    .flat_map(|Group { rows, count }| rows.into_iter().take(count))
                    .collect();
                seen.sort_unstable();
                let all: Vec<_> =
                    (0..4).flat_map(|run| (0..counts[run]).map(move |row| (run, row))).collect();
                assert_eq!(seen, all, "{counts:?}, {runs} runs");
            }
        }
    }

    #[test]
    fn groups_take_adjacent_rows_of_each_run() {
        let first = groups([8, 8, 0, 0], 2).nth(1).unwrap();
        assert_eq!((first.rows, first.count), ([(0, 2), (0, 3), (1, 2), (1, 3)], 4));
    }
}
