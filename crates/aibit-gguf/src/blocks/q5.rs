//! Q5_0 and Q5_1: 5-bit codes, one scale for 32 elements, in Q5_1 a minimum too.
//!
//! ```text
//! Q5_0                          Q5_1
//! bytes 0..2    d       fp16    bytes 0..2    d       fp16
//! bytes 2..6    qh      u32     bytes 2..4    m       fp16
//! bytes 6..22   qs[16]  u8      bytes 4..8    qh      u32
//!                               bytes 8..24   qs[16]  u8
//! ```
//!
//! The low half of `qs[j]` has the lower 4 bits of element `j`, the high half those of element `j + 16`; the fifth bit
//! of element `i` is bit `i` of `qh`. Q5_0: `w = d * (q - 16)`. Q5_1: `w = d * q + m`.
//!
//! Source: `class Q5_0` and `class Q5_1` in llama.cpp's `gguf-py/gguf/quants.py`.

use super::{f16_at, nibble};

pub(super) fn dequantize_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = f16_at(block, 0);
    let [_, _, h0, h1, h2, h3, codes @ ..] = block;
    let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    for (index, value) in out.iter_mut().enumerate() {
        *value = scale * f32::from(code(codes, high, index) as i8 - 16);
    }
}

pub(super) fn dequantize_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
    let [_, _, _, _, h0, h1, h2, h3, codes @ ..] = block;
    let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    for (index, value) in out.iter_mut().enumerate() {
        *value = scale * f32::from(code(codes, high, index)) + min;
    }
}

fn code(codes: &[u8; 16], high: u32, index: usize) -> u8 {
    nibble(codes, index) | ((high >> index & 1) as u8) << 4
}
