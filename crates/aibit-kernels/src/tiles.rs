//! Cuts an output matrix into disjoint tiles and gives each to one thread.

use std::{marker::PhantomData, ops::Range};

use crate::team;

/// One rectangle of a row-major matrix, borrowed for writing.
pub(crate) struct Tile<'a, T> {
    first: *mut T,
    stride: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> Tile<'_, T> {
    /// The rows of the matrix that the tile covers.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The columns of the matrix that the tile covers.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The tile's part of matrix row `row`.
    #[inline(always)]
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(self.rows.contains(&row), "row {row} is outside the tile's rows {:?}", self.rows);
        #[expect(unsafe_code, reason = "the rows of a tile are strided, which no slice can express")]
        // SAFETY: `for_each_tile` keeps rows and columns inside the matrix and gives this rectangle to
        // nobody else while the tile lives; `&mut self` makes the returned row the only one borrowed.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.first.add(row * self.stride + self.columns.start),
                self.columns.len(),
            )
        }
    }
}

/// The start of the matrix, shared by the threads that each build their own tile from it.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

#[expect(unsafe_code, reason = "lets the threads build their tiles")]
// SAFETY: only `for_each_tile` uses the pointer, and no two of its tiles overlap.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn first(&self) -> *mut T {
        self.0
    }
}

/// Calls `work` once for each tile of at most `row_block` by `column_block` of `y[m, n]`; threads take
/// tiles dynamically if `parallel`, else the tiles come in order on this thread.
pub(crate) fn for_each_tile<T: Send>(
    y: &mut [T],
    n: usize,
    row_block: usize,
    column_block: usize,
    parallel: bool,
    work: impl Fn(&mut Tile<'_, T>) + Sync,
) {
    if y.is_empty() {
        return;
    }
    assert!(n > 0 && y.len().is_multiple_of(n), "y has {} elements in rows of {n}", y.len());
    assert!(row_block > 0 && column_block > 0, "tiles are {row_block} by {column_block}");
    let m = y.len() / n;
    let across = n.div_ceil(column_block);
    let count = m.div_ceil(row_block) * across;
    let shared = Shared(y.as_mut_ptr());
    let run = |index: usize| {
        let (row, column) = (index / across * row_block, index % across * column_block);
        let mut tile = Tile {
            first: shared.first(),
            stride: n,
            rows: row..m.min(row + row_block),
            columns: column..n.min(column + column_block),
            borrow: PhantomData,
        };
        work(&mut tile);
    };
    if parallel && count > 1 {
        team::for_each(count, &run);
    } else {
        (0..count).for_each(run);
    }
}

/// Calls `work` once for each piece of at most `length` elements of `y`, with the index of the piece; threads take
/// pieces dynamically if there are several.
pub(crate) fn for_each_piece<T: Send>(y: &mut [T], length: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let n = y.len();
    for_each_tile(y, n.max(1), 1, length, true, |tile| {
        let index = tile.columns().start / length;
        work(index, tile.row_mut(0));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_element_once() {
        for (m, n) in [(1, 1), (1, 7), (5, 1), (5, 7), (8, 8)] {
            let mut y = vec![0; m * n];
            for_each_tile(&mut y, n, 2, 3, true, |tile| {
                for row in tile.rows() {
                    let columns = tile.columns();
                    for (y, column) in tile.row_mut(row).iter_mut().zip(columns) {
                        *y += 1 + row * n + column;
                    }
                }
            });
            assert_eq!(y, (1..=m * n).collect::<Vec<_>>());
        }
    }
}
