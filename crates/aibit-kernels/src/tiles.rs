//! Cuts an output matrix into disjoint tiles and gives each to one thread.

use std::{marker::PhantomData, ops::Range};

use crate::{Threads, read::RUNS};

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
        // SAFETY: `tiles` and `for_each_stripe` keep rows and columns inside the matrix and give this
        // rectangle to nobody else while the tile lives; `&mut self` makes the returned row the only one borrowed.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.first.add(row * self.stride + self.columns.start),
                self.columns.len(),
            )
        }
    }
}

impl<T> Tile<'_, T> {
    /// Of each row of the tile, in order, the elements from `start` on, at most `length` of them.
    pub(crate) fn parts_mut(&mut self, start: usize, length: usize) -> impl Iterator<Item = &mut [T]> {
        let columns = self.columns.len();
        assert!(start <= columns, "elements from {start} on of {columns}");
        let length = length.min(columns - start);
        let (first, stride, column) = (self.first, self.stride, self.columns.start + start);
        self.rows.clone().map(move |row| {
            #[expect(unsafe_code, reason = "the rows of a tile are strided, which no slice can express")]
            // SAFETY: as in `row_mut`, with which `column..column + length` lies inside the tile's columns; every row is
            // given once, and the iterator borrows the tile.
            unsafe {
                std::slice::from_raw_parts_mut(first.add(row * stride + column), length)
            }
        })
    }
}

/// The start of the matrix, shared by the threads that each build their own tile from it.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

#[expect(unsafe_code, reason = "lets the threads build their tiles")]
// SAFETY: only `tiles` and `for_each_stripe` use the pointer, and no two tiles of a call overlap.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn first(&self) -> *mut T {
        self.0
    }
}

/// Calls `work` once for each tile of at most `row_block` by `column_block` of `y[m, n]`; `threads` take tiles
/// dynamically.
pub(crate) fn for_each_tile<T: Send>(
    threads: &Threads,
    y: &mut [T],
    n: usize,
    row_block: usize,
    column_block: usize,
    work: impl Fn(&mut Tile<'_, T>) + Sync,
) {
    if y.is_empty() {
        return;
    }
    let m = rows_of(y, n);
    assert!(row_block > 0, "tiles of no rows");
    let blocks = |index: usize| index * row_block..m.min((index + 1) * row_block);
    tiles(threads, y, n, m.div_ceil(row_block), blocks, column_block, |_, tile| work(tile));
}

/// [`for_each_tile`] with `row_blocks` that need not be alike; `work` gets the index of the tile's.
///
/// # Panics
/// If the blocks overlap, are not in order, or leave `y`.
pub(crate) fn for_each_tile_of<T: Send>(
    threads: &Threads,
    y: &mut [T],
    n: usize,
    row_blocks: &[Range<usize>],
    column_block: usize,
    work: impl Fn(usize, &mut Tile<'_, T>) + Sync,
) {
    if y.is_empty() {
        return;
    }
    let mut end = 0;
    for block in row_blocks {
        assert!(end <= block.start && block.start <= block.end, "blocks of rows overlap: {row_blocks:?}");
        end = block.end;
    }
    assert!(end <= rows_of(y, n), "rows up to {end} of {}", rows_of(y, n));
    tiles(threads, y, n, row_blocks.len(), |index| row_blocks[index].clone(), column_block, work);
}

/// The tiles of `count` blocks of rows, which must lie within the matrix and not overlap.
fn tiles<T: Send>(
    threads: &Threads,
    y: &mut [T],
    n: usize,
    count: usize,
    rows: impl Fn(usize) -> Range<usize> + Sync,
    column_block: usize,
    work: impl Fn(usize, &mut Tile<'_, T>) + Sync,
) {
    assert!(column_block > 0, "tiles of no columns");
    let across = n.div_ceil(column_block);
    let shared = Shared(y.as_mut_ptr());
    threads.for_each(count * across, &|index: usize| {
        let (block, column) = (index / across, index % across * column_block);
        let columns = column..n.min(column + column_block);
        let mut tile =
            Tile { first: shared.first(), stride: n, rows: rows(block), columns, borrow: PhantomData };
        work(block, &mut tile);
    });
}

/// Cuts the columns of `y[m, n]` into `runs` parts and calls `work` once for each group of tiles, one of all rows and
/// at most `width` columns from the same place in each part; `threads` take groups dynamically. Where `n`
/// is no multiple, the tiles of the last parts are narrower or empty, and there are none from `runs` on.
///
/// One group after another reads on in as many places of the weights at once, each far from the others.
///
/// # Panics
/// If `width` is zero or `runs` not in `1..=RUNS`.
pub(crate) fn for_each_stripe<T: Send>(
    threads: &Threads,
    y: &mut [T],
    n: usize,
    runs: usize,
    width: usize,
    work: impl Fn([Tile<'_, T>; RUNS]) + Sync,
) {
    if y.is_empty() {
        return;
    }
    let m = rows_of(y, n);
    assert!(width > 0 && (1..=RUNS).contains(&runs), "stripes of {runs} runs are {width} wide");
    // Parts begin at whole cache lines of a row.
    let part = n.div_ceil(runs).next_multiple_of(16);
    let count = part.min(n).div_ceil(width);
    let shared = Shared(y.as_mut_ptr());
    let run = |index: usize| {
        work(std::array::from_fn(|run| {
            let first = if run < runs { run * part } else { n };
            let columns = first + index * width..first + ((index + 1) * width).min(part);
            let columns = columns.start.min(n)..columns.end.min(n);
            Tile { first: shared.first(), stride: n, rows: 0..m, columns, borrow: PhantomData }
        }));
    };
    threads.for_each(count, &run);
}

fn rows_of<T>(y: &[T], n: usize) -> usize {
    assert!(n > 0 && y.len().is_multiple_of(n), "y has {} elements in rows of {n}", y.len());
    y.len() / n
}

/// Calls `work` once for each piece of at most `length` elements of `y`, with the index of the piece; `threads` take
/// pieces dynamically.
pub(crate) fn for_each_piece<T: Send>(
    threads: &Threads,
    y: &mut [T],
    length: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let n = y.len();
    for_each_tile(threads, y, n.max(1), 1, length, |tile| {
        let index = tile.columns().start / length;
        work(index, tile.row_mut(0));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_element_once() {
        let threads = Threads::team(2);
        for (m, n) in [(1, 1), (1, 7), (5, 1), (5, 7), (8, 8)] {
            let mut y = vec![0; m * n];
            for_each_tile(&threads, &mut y, n, 2, 3, |tile| {
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

    #[test]
    fn stripes_cover_every_element_once() {
        let threads = Threads::team(2);
        let shapes = [(1, 1, 8), (1, 7, 8), (5, 64, 16), (2, 65, 8), (1, 129, 16), (3, 500, 24)];
        for ((m, n, width), runs) in shapes.into_iter().flat_map(|shape| [1, 2, 4].map(|runs| (shape, runs)))
        {
            let mut y = vec![0; m * n];
            for_each_stripe(&threads, &mut y, n, runs, width, |tiles| {
                for mut tile in tiles {
                    assert!(tile.columns().len() <= width);
                    for row in tile.rows() {
                        let columns = tile.columns();
                        for (y, column) in tile.row_mut(row).iter_mut().zip(columns) {
                            *y += 1 + row * n + column;
                        }
                    }
                }
            });
            assert_eq!(y, (1..=m * n).collect::<Vec<_>>());
        }
    }
}
