//! Safetensors files written piece by piece: a few megabytes in memory for any size.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;

use anyhow::Context;
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::Options;
use super::dimensions::{Dimensions, Kind};
use super::normal::Normal;
use super::tensors::{self, Contents, Product, Tensor};

/// Larger models are split into files of about this size, as on the hub.
const SHARD_BYTES: usize = 2_000_000_000;

/// Elements that a thread makes before they are written: a multiple of the generator's four.
const PIECE: usize = 1 << 20;

const ELEMENT_BYTES: usize = 2;

/// Sixteen bits of which kind.
#[derive(Clone, Copy)]
enum Dtype {
    F16,
    Bf16,
}

/// Writes `model.safetensors`, or its shards and their index.
pub(super) fn write(folder: &Path, dimensions: &Dimensions, options: &Options) -> anyhow::Result<()> {
    let shards = shards(tensors::all(dimensions, options));
    let count = shards.len();
    let writer = Writer {
        normal: Normal::new(),
        dimensions,
        options,
        // numpy, by which the scripts of other engines read GPT-2's, has no bfloat16.
        dtype: if dimensions.kind == Kind::Gpt2 { Dtype::F16 } else { Dtype::Bf16 },
    };
    let mut places = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        writer.write_shard(&folder.join(&name), shard)?;
        if count > 1 {
            eprintln!("{} is written", folder.join(&name).display());
        }
        places.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone().into())));
    }
    if count > 1 {
        let elements: usize = shards.iter().flatten().map(Tensor::elements).sum();
        let index = json!({ "metadata": { "total_size": ELEMENT_BYTES * elements }, "weight_map": Value::Object(places) });
        fs::write(folder.join("model.safetensors.index.json"), serde_json::to_vec_pretty(&index)?)?;
    }
    Ok(())
}

/// Tensors in their order, cut where a file would grow beyond its size.
fn shards(tensors: Vec<Tensor>) -> Vec<Vec<Tensor>> {
    let mut shards: Vec<Vec<Tensor>> = Vec::new();
    let mut bytes = SHARD_BYTES;
    for tensor in tensors {
        let more = ELEMENT_BYTES * tensor.elements();
        if bytes + more > SHARD_BYTES {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

struct Writer<'a> {
    normal: Normal,
    dimensions: &'a Dimensions,
    options: &'a Options,
    dtype: Dtype,
}

impl Writer<'_> {
    fn write_shard(&self, path: &Path, tensors: &[Tensor]) -> anyhow::Result<()> {
        let dtype = match self.dtype {
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
        };
        let mut header = Map::new();
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + ELEMENT_BYTES * tensor.elements();
            let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end] });
            header.insert(tensor.name.clone(), entry);
            offset = end;
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = File::create(path).with_context(|| path.display().to_string())?;
        let full = || format!("{}: is the disk full? the shard needs {offset} bytes", path.display());
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for tensor in tensors {
            match tensor.contents(&self.normal, self.dimensions, self.options) {
                Contents::Vector(values) => {
                    let bytes: Vec<u8> = values.iter().flat_map(|&value| self.dtype.encode(value)).collect();
                    file.write_all(&bytes).with_context(full)?;
                }
                Contents::Matrix(product) => self.write_matrix(&mut file, &product).with_context(full)?,
            }
        }
        Ok(())
    }

    /// One round of pieces after the other, each piece on a thread of its own.
    fn write_matrix(&self, file: &mut File, product: &Product) -> std::io::Result<()> {
        let elements = product.rows.len() * product.columns.len();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut buffer = vec![0; ELEMENT_BYTES * elements.min(threads * PIECE)];
        for start in (0..elements).step_by(threads * PIECE) {
            let length = ELEMENT_BYTES * (elements - start).min(threads * PIECE);
            let buffer = &mut buffer[..length];
            thread::scope(|scope| {
                for (index, piece) in buffer.chunks_mut(ELEMENT_BYTES * PIECE).enumerate() {
                    scope.spawn(move || self.fill(piece, start + index * PIECE, product));
                }
            });
            file.write_all(buffer)?;
        }
        Ok(())
    }

    /// Elements from `first` on, which a group of four begins.
    fn fill(&self, bytes: &mut [u8], first: usize, product: &Product) {
        let Product { key, rows, columns } = product;
        let width = columns.len();
        let (groups, rest) = bytes.as_chunks_mut::<{ 4 * ELEMENT_BYTES }>();
        assert!(rest.is_empty() && width.is_multiple_of(4) && first.is_multiple_of(4), "groups of four");
        let (mut row, mut column) = (first / width, first % width);
        for (index, group) in groups.iter_mut().enumerate() {
            let values = self.normal.four(*key, (first / 4 + index) as u64);
            let factors = &columns[column..column + 4];
            for ((bytes, value), factor) in
                group.as_chunks_mut::<ELEMENT_BYTES>().0.iter_mut().zip(values).zip(factors)
            {
                *bytes = self.dtype.encode(value * rows[row] * factor);
            }
            column += 4;
            if column == width {
                (row, column) = (row + 1, 0);
            }
        }
    }
}

impl Dtype {
    fn encode(self, value: f32) -> [u8; ELEMENT_BYTES] {
        match self {
            Self::F16 => f16::from_f32(value).to_le_bytes(),
            Self::Bf16 => bf16::from_f32(value).to_le_bytes(),
        }
    }
}
