//! Rows of an embedding matrix, picked by token id.

use aibit_quant::dequantize_int8;

use crate::{float::FloatMatrix, int8::Int8Rowwise};

/// Copies row `ids[i]` of `w[n, k]` to row `i` of `y[m, k]`, dequantized the way bitsandbytes does:
/// `fl(fl(code · absmax) · fl(1/127))`.
///
/// # Panics
/// If `y` is not `ids.len() · k` long, or an id is not below `n`.
pub fn embed_int8(w: &Int8Rowwise<'_>, ids: &[u32], y: &mut [f32]) {
    let (n, k) = (w.n(), w.k());
    check(ids, n, k, y);
    for (i, id) in ids.iter().enumerate() {
        let absmax = w.absmax()[*id as usize];
        for (y, code) in y[i * k..][..k].iter_mut().zip(&w.codes()[*id as usize * k..][..k]) {
            *y = dequantize_int8(*code, absmax);
        }
    }
}

/// Copies row `ids[i]` of `w[n, k]` to row `i` of `y[m, k]`; 16-bit elements are widened, exactly.
///
/// # Panics
/// If `w` is not `n · k` long, `y` is not `ids.len() · k` long, or an id is not below `n`.
pub fn embed_float(w: FloatMatrix<'_>, n: usize, k: usize, ids: &[u32], y: &mut [f32]) {
    assert_eq!(w.len(), n * k, "embed_float: elements of w, n · k with n = {n}, k = {k}");
    check(ids, n, k, y);
    for (i, id) in ids.iter().enumerate() {
        let (y, at) = (&mut y[i * k..][..k], *id as usize * k);
        match w {
            FloatMatrix::F32(w) => y.copy_from_slice(&w[at..][..k]),
            FloatMatrix::F16(w) => y.iter_mut().zip(&w[at..][..k]).for_each(|(y, w)| *y = w.to_f32()),
            FloatMatrix::Bf16(w) => y.iter_mut().zip(&w[at..][..k]).for_each(|(y, w)| *y = w.to_f32()),
        }
    }
}

pub(crate) fn check(ids: &[u32], n: usize, k: usize, y: &[f32]) {
    assert_eq!(y.len(), ids.len() * k, "embed: elements of y, m · k with m = {}, k = {k}", ids.len());
    if let Some(id) = ids.iter().find(|id| **id as usize >= n) {
        panic!("embed: token id {id} in a table of {n} rows");
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn rows_are_picked_and_dequantized() {
        let codes = [1, -2, 127, 0];
        let w = Int8Rowwise::new(&codes, &[0.5, 2.0], 2, 2);
        let mut y = [0.0; 6];
        embed_int8(&w, &[1, 0, 1], &mut y);
        let inverse = 1.0_f32 / 127.0;
        assert_eq!(y, [254.0 * inverse, 0.0, 0.5 * inverse, -inverse, 254.0 * inverse, 0.0]);
    }

    #[test]
    fn sixteen_bit_rows_are_widened() {
        let rows = [1.5_f32, -2.0, 0.25, 8.0];
        let (halves, brains) = (rows.map(f16::from_f32), rows.map(bf16::from_f32));
        for w in [FloatMatrix::F32(&rows), FloatMatrix::F16(&halves), FloatMatrix::Bf16(&brains)] {
            let mut y = [0.0; 4];
            embed_float(w, 2, 2, &[1, 0], &mut y);
            assert_eq!(y, [0.25, 8.0, 1.5, -2.0]);
        }
    }

    #[test]
    #[should_panic(expected = "token id 2 in a table of 2 rows")]
    fn an_id_beyond_the_table_panics() {
        embed_float(FloatMatrix::F32(&[0.0; 4]), 2, 2, &[2], &mut [0.0; 2]);
    }
}
