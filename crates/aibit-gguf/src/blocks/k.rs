//! Q4_K, Q5_K and Q6_K: blocks of 256 elements, whose parts have integer scales of their own.
//!
//! ```text
//! Q4_K                           Q5_K                           Q6_K
//! bytes 0..2     d        fp16   bytes 0..2     d        fp16   bytes 0..128    ql[128]  u8
//! bytes 2..4     dmin     fp16   bytes 2..4     dmin     fp16   bytes 128..192  qh[64]   u8
//! bytes 4..16    sc[12]   u8     bytes 4..16    sc[12]   u8     bytes 192..208  sc[16]   i8
//! bytes 16..144  qs[128]  u8     bytes 16..48   qh[32]   u8     bytes 208..210  d        fp16
//!                                bytes 48..176  qs[128]  u8
//! ```
//!
//! Q4_K and Q5_K have 8 parts of 32 elements, each with a scale `S` and a minimum `M` of 6 bits:
//! `w = (d * S) * q - (dmin * M)`. Parts `2c` and `2c + 1` are the low and the high halves of 32 bytes of `qs`; the
//! fifth bit of element `j` of part `p` is bit `p` of `qh[j]`.
//!
//! Q6_K has 16 parts of 16 elements, `w = (d * S) * (q - 32)`. Each half of 128 elements has 64 bytes of `ql` and 32
//! of `qh`. Its four runs of 32 elements are the low halves of the first and of the second 32 bytes of `ql`, then the
//! high halves; run `r` has its upper bits in bits `2r` and `2r + 1` of `qh`.
//!
//! Source: `class Q4_K`, `class Q5_K` and `class Q6_K` in llama.cpp's `gguf-py/gguf/quants.py`.

use super::f16_at;

pub(super) fn dequantize_q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let codes = &block[16..];
    for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(block, part);
        for (index, value) in out.iter_mut().enumerate() {
            let code = half(codes[part / 2 * 32 + index], part % 2);
            *value = scale * f32::from(code) - min;
        }
    }
}

pub(super) fn dequantize_q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (high, codes) = (&block[16..48], &block[48..]);
    for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(block, part);
        for (index, value) in out.iter_mut().enumerate() {
            let code = half(codes[part / 2 * 32 + index], part % 2) | (high[index] >> part & 1) << 4;
            *value = scale * f32::from(code) - min;
        }
    }
}

pub(super) fn dequantize_q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = f16_at(block, 208);
    for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half_of_block, run_in_half) = (run / 4, run % 4);
        let low = &low[half_of_block * 64 + run_in_half % 2 * 32..][..32];
        let high = &high[half_of_block * 32..][..32];
        for (index, value) in out.iter_mut().enumerate() {
            let code = half(low[index], run_in_half / 2) | (high[index] >> (2 * run_in_half) & 3) << 4;
            let scale = d * f32::from(scales[run * 2 + index / 16] as i8);
            *value = scale * f32::from(code as i8 - 32);
        }
    }
}

/// The low half of a byte, or the high one.
fn half(byte: u8, which: usize) -> u8 {
    byte >> (4 * which) & 15
}

/// `d * S` and `dmin * M` of a part. The 6 bits of the first four parts are in one byte; the others have their lower
/// 4 bits in the last four bytes and their upper 2 in the unused bits of the first four parts' bytes.
fn scale_and_min(block: &[u8], part: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, min) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        let lower = packed[part + 4];
        ((lower & 15) | (packed[part - 4] >> 6) << 4, (lower >> 4) | (packed[part] >> 6) << 4)
    };
    (f16_at(block, 0) * f32::from(scale), f16_at(block, 2) * f32::from(min))
}
