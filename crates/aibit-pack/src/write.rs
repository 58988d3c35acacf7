//! Writes the weights: tensors are read, encoded and written a few blocks of rows at a time.

use std::collections::{BTreeSet, HashMap};

use aibit_format::{ArchiveWriter, EntryWriter, Scheme, WeightsLayout, entry_names};
use aibit_quant::{
    FourBit, Int8Rowwise, NestedAbsmax, QuantError, quantize_four_bit, quantize_int4_groups,
    quantize_int8_groups,
};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::encoding::{Block, le_bytes, nested_tables};
use crate::plan::{Matched, Planned};
use crate::{PackError, Progress};

/// Elements quantized by one task: large enough to be worth a task, small enough that a few fit in cache.
const BLOCK_ELEMENTS: usize = 1 << 19;

/// Streams every tensor in the layout's order. What a scheme stores beside the codes is kept from the pass over them, or
/// computed by a pass of its own where the layout has it first. Returns notes on values that a scheme could not hold.
pub(crate) fn write_weights(
    archive: &mut ArchiveWriter,
    checkpoint: &Checkpoint,
    plan: &[Planned<'_>],
    layout: &WeightsLayout,
    progress: &dyn Progress,
) -> Result<Vec<String>, PackError> {
    let mut by_name: HashMap<String, &Planned<'_>> = HashMap::new();
    for planned in plan {
        by_name.insert(planned.name().to_owned(), planned);
        let parts = planned.scheme.parts(planned.name(), &planned.parameter.shape);
        by_name.extend(parts.into_iter().map(|part| (part.name, planned)));
    }
    let mut kept: HashMap<String, Vec<u8>> = HashMap::new();
    let mut notes = BTreeSet::new();

    progress.start("quantizing", layout.file_bytes());
    let mut entry =
        archive.start_entry(entry_names::WEIGHTS, "application/vnd.safetensors", layout.file_bytes())?;
    entry.write_all(layout.header())?;
    for info in layout.tensors() {
        let planned = by_name[&info.name];
        if info.name == planned.name() {
            kept.extend(write_parameter(Some(&mut entry), checkpoint, planned, &mut notes)?);
        } else {
            if !kept.contains_key(&info.name) {
                kept.extend(write_parameter(None, checkpoint, planned, &mut notes)?);
            }
            entry.write_all(&kept.remove(&info.name).expect("a part of its scheme"))?;
        }
        progress.advance(info.bytes() as u64);
    }
    entry.finish()?;
    progress.finish();
    Ok(notes.into_iter().collect())
}

/// Encodes a parameter block by block, in parallel, and writes the blocks in order; returns what its scheme stores beside
/// them, by name.
fn write_parameter(
    mut entry: Option<&mut EntryWriter<'_>>,
    checkpoint: &Checkpoint,
    planned: &Planned<'_>,
    notes: &mut BTreeSet<String>,
) -> Result<Vec<(String, Vec<u8>)>, PackError> {
    let names = planned.scheme.parts(planned.name(), &planned.parameter.shape);
    let mut parts = vec![Vec::new(); names.len()];
    let mut is_kept = true;
    for source in &planned.sources {
        let [rows, columns] = source.matrix_shape();
        let elements = source.elements(checkpoint)?;
        is_kept = source.encoding.is_quantized() && source.encoding.scheme(columns) == Some(planned.scheme);
        let block_rows = (BLOCK_ELEMENTS / columns).max(1);
        let starts: Vec<_> = (0..rows).step_by(block_rows).collect();
        let mut lost = 0;
        for batch in starts.chunks(2 * rayon::current_num_threads()) {
            let blocks: Vec<_> = batch
                .par_iter()
                .map(|&start| {
                    let wanted = start..(start + block_rows).min(rows);
                    if is_kept {
                        return Ok((elements.codes(wanted), 0));
                    }
                    let values = elements.values(wanted);
                    let block = encode(source, planned.scheme, start, &values)?;
                    let lost = vanished(planned.scheme, &values, &block);
                    Ok((block, lost))
                })
                .collect::<Result<_, PackError>>()?;
            for (block, count) in blocks {
                lost += count;
                if let Some(entry) = entry.as_deref_mut() {
                    entry.write_all(&block.data)?;
                }
                parts.iter_mut().zip(block.parts).for_each(|(part, bytes)| part.extend(bytes));
            }
        }
        drop(elements);
        if lost > 0 {
            let (name, scheme) = (&source.parameter.name, planned.scheme);
            let unit = if scheme.block() > 1 { "blocks of 32 values" } else { "rows" };
            notes.insert(format!(
                "tensor `{name}`: {lost} {unit} hold only values too small for {scheme} and become zeros; keep it in \
                 bf16 or f32 (--tensor-type {name}=bf16)"
            ));
        }
        if let Some(tensor) = source.tensor {
            checkpoint.release(tensor);
        }
    }
    if !is_kept && planned.scheme.has_nested_scales() {
        let absmax: Vec<f32> = parts[0].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let nested = NestedAbsmax::quantize(&absmax);
        let tables = nested_tables(&nested);
        parts = [vec![nested.codes], tables.into()].concat();
    }
    Ok(names.into_iter().map(|part| part.name).zip(parts).collect())
}

/// Encodes some rows of a parameter, the first of which is row `start`. A scheme with double quantization gets its absmax
/// as it is: that needs all rows.
fn encode(
    source: &Matched<'_>,
    scheme: Scheme,
    start: usize,
    values: &ndarray::Array2<f32>,
) -> Result<Block, PackError> {
    let name = &source.parameter.name;
    let columns = source.matrix_shape()[1];
    let place = |index: usize| match *source.parameter.shape {
        [_, columns] => format!("row {}, column {}", start + index / columns, index % columns),
        _ => format!("element {index}"),
    };
    if let Some((index, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        let problem = format!("{} holds {value}; check the source checkpoint", place(index));
        return Err(PackError::Tensor { name: name.to_owned(), problem });
    }
    let narrow = |bytes_of: &dyn Fn(f32) -> ([u8; 2], bool)| {
        let mut data = Vec::with_capacity(2 * values.len());
        for (index, &value) in values.iter().enumerate() {
            let (bytes, is_finite) = bytes_of(value);
            if !is_finite {
                let problem = format!(
                    "{} holds {value}, which {} rounds to infinity; keep this tensor in f32",
                    place(index),
                    scheme
                );
                return Err(PackError::Tensor { name: name.to_owned(), problem });
            }
            data.extend(bytes);
        }
        Ok(Block { data, parts: Vec::new() })
    };
    // Positions in messages are those of the whole parameter.
    let failed = |source: QuantError| {
        let source = match source {
            QuantError::NotFinite { row, column, value } => {
                let at = row * columns + column;
                QuantError::NotFinite { row: start + at / columns, column: at % columns, value }
            }
            QuantError::BeyondF16 { row, column, value } => {
                let at = row * columns + column;
                QuantError::BeyondF16 { row: start + at / columns, column: at % columns, value }
            }
            other => other,
        };
        PackError::Quant { name: name.to_owned(), source }
    };
    let flat = values.as_slice().expect("rows side by side");
    let halves = |scales: &[f16]| scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    match scheme {
        Scheme::F32 => Ok(Block { data: le_bytes(flat), parts: Vec::new() }),
        Scheme::F16 => narrow(&|v| (f16::from_f32(v).to_le_bytes(), f16::from_f32(v).is_finite())),
        Scheme::Bf16 => narrow(&|v| (bf16::from_f32(v).to_le_bytes(), bf16::from_f32(v).is_finite())),
        Scheme::Int8 => {
            let quantized = Int8Rowwise::from_checkpoint_rows(values.view()).map_err(failed)?;
            let data = quantized.codes.iter().map(|&code| code as u8).collect();
            Ok(Block { data, parts: vec![le_bytes(&quantized.absmax.to_vec())] })
        }
        Scheme::Int8G32 => {
            let quantized = quantize_int8_groups(flat).map_err(failed)?;
            let data = quantized.codes.iter().map(|&code| code as u8).collect();
            Ok(Block { data, parts: vec![halves(&quantized.scales)] })
        }
        Scheme::Int4G32 => {
            let quantized = quantize_int4_groups(flat).map_err(failed)?;
            Ok(Block { data: quantized.codes, parts: vec![halves(&quantized.scales)] })
        }
        Scheme::Nf4 | Scheme::Nf4Dq | Scheme::Fp4 | Scheme::Fp4Dq => {
            let is_nf4 = matches!(scheme, Scheme::Nf4 | Scheme::Nf4Dq);
            let kind = if is_nf4 { FourBit::Nf4 } else { FourBit::Fp4 };
            let quantized = quantize_four_bit(flat, kind).map_err(failed)?;
            Ok(Block { data: quantized.codes, parts: vec![le_bytes(&quantized.absmax)] })
        }
    }
}

/// How many rows, or blocks with a scale of their own, hold values other than zero and become zeros: F16, which such schemes
/// use for values or scales, ends at 3e-8.
fn vanished(scheme: Scheme, values: &ndarray::Array2<f32>, block: &Block) -> usize {
    let has_value = |value: &f32| *value != 0.0;
    match scheme {
        Scheme::F16 | Scheme::Int8 => {
            let is_zero = |value: &f32| f16::from_f32(*value).to_f32() == 0.0;
            let rows = values.rows().into_iter();
            rows.filter(|row| row.iter().all(is_zero) && row.iter().any(has_value)).count()
        }
        Scheme::Int8G32 | Scheme::Int4G32 => {
            let blocks = values.as_slice().expect("rows side by side").chunks(scheme.block());
            let scales = block.parts[0].as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes));
            blocks
                .zip(scales)
                .filter(|(values, scale)| scale.to_f32() == 0.0 && values.iter().any(has_value))
                .count()
        }
        Scheme::F32 | Scheme::Bf16 | Scheme::Nf4 | Scheme::Nf4Dq | Scheme::Fp4 | Scheme::Fp4Dq => 0,
    }
}
