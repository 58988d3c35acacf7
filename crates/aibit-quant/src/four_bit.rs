//! NF4 and FP4 in blocks of 64, as bitsandbytes computes them, with and without double quantization.
//!
//! Source: QLoRA, Dettmers et al. 2023 (arXiv:2305.14314), §3; order of operations as in bitsandbytes' CPU path, see
//! `docs/quantization.md`.

use crate::{QuantError, first_not_finite, round};

/// Elements that share one absmax.
pub const FOUR_BIT_BLOCK: usize = 64;

/// Values of absmax that share one absmax of their own.
pub const NESTED_BLOCK: usize = 256;

/// Which sixteen values four bits stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FourBit {
    /// Sixteen quantiles of the normal distribution.
    Nf4,
    /// A sign, and eight magnitudes that grow like floating-point numbers.
    Fp4,
}

impl FourBit {
    /// What each code stands for, relative to the block's absmax.
    pub const fn table(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// The codes by rising value; of FP4's two zeros the first is 0.
    const fn ascending(self) -> &'static [u8; 16] {
        match self {
            Self::Nf4 => &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            Self::Fp4 => &[11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
        }
    }

    /// The values at which one code gives way to the next.
    fn midpoints(self) -> [f32; 15] {
        let (table, order) = (self.table(), self.ascending());
        std::array::from_fn(|i| (table[usize::from(order[i])] + table[usize::from(order[i + 1])]) / 2.0)
    }
}

#[rustfmt::skip]
static NF4: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

#[rustfmt::skip]
static FP4: [f32; 16] = [
    0.0, 0.005_208_333_5, 0.666_666_7, 1.0, 0.333_333_34, 0.5, 0.166_666_67, 0.25,
    0.0, -0.005_208_333_5, -0.666_666_7, -1.0, -0.333_333_34, -0.5, -0.166_666_67, -0.25,
];

/// Values in four bits each: `w[i] ≈ table[code[i]] * absmax[i / 64]`.
#[derive(Debug, Clone, PartialEq)]
pub struct FourBitBlocks {
    /// Two codes a byte, the first in the high bits; an odd end is filled up with the code of 0.
    pub codes: Vec<u8>,
    /// The largest magnitude of each block of 64.
    pub absmax: Vec<f32>,
}

/// Quantizes `values`, a whole tensor flattened row by row, in blocks of 64.
///
/// A code is the number of midpoints below `clamp(fl(x * fl(1 / max(absmax, 1e-38))), -1, 1)`, so a value on a midpoint
/// takes the lower code. A last block of fewer than 64 values is divided by its absmax instead, and an all-zero one
/// gets absmax `1e-38`, as in the reference.
///
/// # Errors
/// [`QuantError::NotFinite`] with the position of the first NaN or infinity, the tensor taken as one row.
///
/// Source: Dettmers et al. 2023 (arXiv:2305.14314), §3; bitsandbytes `quantize_4bit`.
pub fn quantize_four_bit(values: &[f32], kind: FourBit) -> Result<FourBitBlocks, QuantError> {
    if let Some(column) = first_not_finite(values) {
        return Err(QuantError::NotFinite { row: 0, column, value: values[column] });
    }
    const SMALLEST: f32 = 1e-38;
    let (midpoints, order) = (kind.midpoints(), kind.ascending());
    let mut absmax = Vec::with_capacity(values.len().div_ceil(FOUR_BIT_BLOCK));
    let mut codes = Vec::with_capacity(values.len().next_multiple_of(2));
    let mut scaled = [0.0; FOUR_BIT_BLOCK];
    for block in values.chunks(FOUR_BIT_BLOCK) {
        let largest = round::absmax(block);
        if block.len() == FOUR_BIT_BLOCK {
            let inverse = 1.0 / largest.max(SMALLEST);
            scaled.iter_mut().zip(block).for_each(|(scaled, value)| *scaled = value * inverse);
            absmax.push(largest);
        } else {
            let largest = largest.max(SMALLEST);
            scaled.fill(0.0);
            scaled.iter_mut().zip(block).for_each(|(scaled, value)| *scaled = value / largest);
            absmax.push(largest);
        }
        let below = midpoints_below(&midpoints, &scaled);
        let length = block.len().next_multiple_of(2); // the zero after an odd end has a code too
        codes.extend(below[..length].iter().map(|below| order[*below as usize]));
    }
    Ok(FourBitBlocks {
        codes: codes.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect(),
        absmax,
    })
}

/// How many midpoints are below each value, clamped to -1 to 1.
fn midpoints_below(midpoints: &[f32; 15], scaled: &[f32; FOUR_BIT_BLOCK]) -> [u32; FOUR_BIT_BLOCK] {
    let mut below = [0; FOUR_BIT_BLOCK];
    // One midpoint with all values, not the other way round: as many comparisons at a time as a vector has elements.
    for midpoint in midpoints {
        for (below, scaled) in below.iter_mut().zip(scaled) {
            *below += u32::from(*midpoint < scaled.clamp(-1.0, 1.0));
        }
    }
    below
}

/// The value of a code: `fl(table[code] * absmax)`. The code is the low four bits of `code`.
pub fn dequantize_four_bit(kind: FourBit, code: u8, absmax: f32) -> f32 {
    kind.table()[usize::from(code & 15)] * absmax
}

/// Values of absmax in a byte each: `absmax[i] ≈ map[code[i]] * nested_absmax[i / 256] + offset`.
#[derive(Debug, Clone, PartialEq)]
pub struct NestedAbsmax {
    /// One code per value.
    pub codes: Vec<u8>,
    /// The largest distance from `offset` in each block of 256.
    pub absmax: Vec<f32>,
    /// What each code stands for.
    pub map: [f32; 256],
    /// The mean of all values.
    pub offset: f32,
}

impl NestedAbsmax {
    /// Quantizes the absmax values of a tensor a second time.
    ///
    /// The mean is summed in f64, where the reference sums in an order of its library's choice: `offset` can differ from
    /// its in the last bits, and codes by one with it. Which code is nearest is decided by the reference's table of
    /// 65,536 entries, which takes a neighbour about once in 650.
    ///
    /// Source: Dettmers et al. 2023 (arXiv:2305.14314), §3, "double quantization"; bitsandbytes `quantize_blockwise`.
    pub fn quantize(values: &[f32]) -> Self {
        let map = dynamic_map();
        let offset = (values.iter().copied().map(f64::from).sum::<f64>() / values.len().max(1) as f64) as f32;
        let nearest = nearest_table(&map);
        let (mut codes, mut absmax) = (Vec::with_capacity(values.len()), Vec::new());
        for block in values.chunks(NESTED_BLOCK) {
            let largest = block.iter().fold(0.0_f32, |max, v| max.max((v - offset).abs()));
            let inverse = 1.0 / largest.max(1e-38);
            let full = block.len() == NESTED_BLOCK;
            codes.extend(block.iter().map(|value| {
                let distance = value - offset;
                let scaled = if full { distance * inverse } else { distance / largest.max(1e-38) };
                let scaled = scaled.clamp(-1.0, 1.0);
                nearest[((scaled + 1.0) * 0.5).mul_add(65_535.0, 0.5) as usize]
            }));
            absmax.push(largest);
        }
        Self { codes, absmax, map, offset }
    }

    /// The value at `index`: `fl(fl(map[code] * absmax) + offset)`.
    ///
    /// # Panics
    /// If there is no such value.
    pub fn value(&self, index: usize) -> f32 {
        self.map[usize::from(self.codes[index])] * self.absmax[index / NESTED_BLOCK] + self.offset
    }
}

/// The signed "dynamic" code of eight bits: seven decades, each with twice the values of the one below it, both signs, 0
/// and 1, ascending. Each value is rounded once; the reference's last bits depend on the vector unit that made them, so a
/// package keeps the map that it came with.
///
/// Source: 8-bit Optimizers, Dettmers et al. 2022 (arXiv:2110.02861), §2.2; bitsandbytes `create_dynamic_map`.
pub fn dynamic_map() -> [f32; 256] {
    let mut values = vec![0.0_f32, 1.0];
    for decade in 0..7_i32 {
        let steps = 1 << decade;
        for i in 0..steps {
            // The middles of equal parts of 0.1 to 1.
            let middle = 0.1 + 0.9 * (f64::from(i) + 0.5) / f64::from(steps);
            let value = (10.0_f64.powi(decade - 6) * middle) as f32;
            values.extend([value, -value]);
        }
    }
    values.sort_by(f32::total_cmp);
    values.try_into().expect("2 + 2 · (1 + 2 + ... + 64) = 256 values")
}

/// For each of 65,536 points from -1 to 1 the number of midpoints of `map` below it.
fn nearest_table(map: &[f32; 256]) -> Vec<u8> {
    let midpoints: Vec<f32> = map.windows(2).map(|pair| (pair[0] + pair[1]) * 0.5).collect();
    let mut code = 0;
    (0..65_536)
        .map(|i| {
            let point = -1.0 + 2.0 * i as f32 / 65_535.0;
            while code < midpoints.len() && midpoints[code] < point {
                code += 1;
            }
            code as u8
        })
        .collect()
}
