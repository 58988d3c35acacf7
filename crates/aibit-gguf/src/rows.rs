//! The row permutation that some families have in GGUF files.
//!
//! Source: llama.cpp, `conversion/llama.py` (`permute`).

/// Permutes rows from a checkpoint's order to that of a GGUF file: in each head of `head_dim` rows, row `i` of the
/// first half and row `i` of the second half become adjacent.
///
/// # Panics
/// If `bytes` is not `rows` rows of equal length, or `rows` is not a whole number of heads.
pub fn interleave_rows(bytes: &[u8], rows: usize, head_dim: usize) -> Vec<u8> {
    reorder(bytes, rows, head_dim, |at| at / 2 + at % 2 * (head_dim / 2))
}

/// The reverse of [`interleave_rows`].
///
/// # Panics
/// As for [`interleave_rows`].
pub fn deinterleave_rows(bytes: &[u8], rows: usize, head_dim: usize) -> Vec<u8> {
    reorder(bytes, rows, head_dim, |at| at % (head_dim / 2) * 2 + at / (head_dim / 2))
}

/// Moves row `from(at)` of each head to position `at`.
fn reorder(bytes: &[u8], rows: usize, head_dim: usize, from: impl Fn(usize) -> usize) -> Vec<u8> {
    assert!(
        rows > 0
            && bytes.len().is_multiple_of(rows)
            && head_dim > 0
            && head_dim.is_multiple_of(2)
            && rows.is_multiple_of(head_dim),
        "{} bytes in {rows} rows, heads of {head_dim}",
        bytes.len()
    );
    let row_bytes = bytes.len() / rows;
    let mut out = Vec::with_capacity(bytes.len());
    for head in (0..rows).step_by(head_dim) {
        for at in 0..head_dim {
            out.extend_from_slice(&bytes[(head + from(at)) * row_bytes..][..row_bytes]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_heads_are_interleaved() {
        // Two heads of six rows of two bytes.
        let rows: Vec<u8> = (0..12).flat_map(|row| [row, row]).collect();
        let interleaved = interleave_rows(&rows, 12, 6);
        let order: Vec<u8> = interleaved.iter().step_by(2).copied().collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(deinterleave_rows(&interleaved, 12, 6), rows);
    }
}
