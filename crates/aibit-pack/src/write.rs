//! Writes the weights: tensors are read, encoded and written a few blocks of rows at a time.

use std::collections::{BTreeSet, HashMap};

use aibit_format::{ArchiveWriter, EntryWriter, Scheme, WeightsLayout, entry_names};
use aibit_quant::{
    FourBit, Int8Rowwise, NestedAbsmax, QuantError, first_not_finite, quantize_four_bit,
    quantize_int4_groups, quantize_int8_groups,
};
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::encoding::{Block, le_bytes, le_bytes_of_halves, nested_tables};
use crate::plan::{Matched, Planned};
use crate::{PackError, Progress};

/// Elements encoded by one task: what a core works on stays in its own cache.
const BLOCK_ELEMENTS: usize = 1 << 16;

/// The same where the source has columns side by side: each of them is read in pieces as long as a task has rows.
const TRANSPOSED_ELEMENTS: usize = 1 << 19;

/// Elements that are encoded together while those before are written.
const BATCH_ELEMENTS: usize = 1 << 21;

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

    let mut entry =
        archive.start_entry(entry_names::WEIGHTS, "application/vnd.safetensors", layout.file_bytes())?;
    entry.write_all(layout.header())?;
    progress.advance(layout.header().len() as u64);
    for info in layout.tensors() {
        let planned = by_name[&info.name];
        if info.name == planned.name() {
            kept.extend(write_parameter(Some(&mut entry), checkpoint, planned, &mut notes, progress)?);
        } else {
            if !kept.contains_key(&info.name) {
                kept.extend(write_parameter(None, checkpoint, planned, &mut notes, progress)?);
            }
            entry.write_all(&kept.remove(&info.name).expect("a part of its scheme"))?;
            progress.advance(info.bytes() as u64);
        }
    }
    entry.finish()?;
    Ok(notes.into_iter().collect())
}

/// Encodes a parameter block by block, in parallel, and writes the blocks in order; returns what its scheme stores beside
/// them, by name.
fn write_parameter(
    mut entry: Option<&mut EntryWriter<'_>>,
    checkpoint: &Checkpoint,
    planned: &Planned<'_>,
    notes: &mut BTreeSet<String>,
    progress: &dyn Progress,
) -> Result<Vec<(String, Vec<u8>)>, PackError> {
    let names = planned.scheme.parts(planned.name(), &planned.parameter.shape);
    let mut parts = vec![Vec::new(); names.len()];
    let mut is_kept = true;
    for source in &planned.sources {
        let [rows, columns] = source.matrix_shape();
        let elements = source.elements(checkpoint)?;
        is_kept = source.encoding.is_quantized() && source.encoding.scheme(columns) == Some(planned.scheme);
        let block_elements = if source.is_transposed() { TRANSPOSED_ELEMENTS } else { BLOCK_ELEMENTS };
        let block_rows = (block_elements / columns).max(1);
        let starts: Vec<_> = (0..rows).step_by(block_rows).collect();
        let encoded = |start: &usize| {
            let wanted = *start..(start + block_rows).min(rows);
            if is_kept {
                return Ok((elements.codes(wanted), 0));
            }
            let values = elements.values(wanted);
            let block = encode(source, planned.scheme, *start, &values)?;
            let lost = vanished(planned.scheme, &values, &block);
            Ok((block, lost))
        };
        let mut lost = 0;
        let mut write = |blocks: Vec<Result<(Block, usize), PackError>>| {
            for block in blocks {
                let (block, count) = block?;
                lost += count;
                if let Some(entry) = entry.as_deref_mut() {
                    entry.write_all(&block.data)?;
                    progress.advance(block.data.len() as u64);
                }
                parts.iter_mut().zip(block.parts).for_each(|(part, bytes)| part.extend(bytes));
            }
            Ok::<_, PackError>(())
        };
        let mut blocks = Vec::new();
        for batch in starts.chunks((BATCH_ELEMENTS / (block_rows * columns)).max(2)) {
            let (written, next) = rayon::join(
                || write(std::mem::take(&mut blocks)),
                || batch.par_iter().map(encoded).collect::<Vec<_>>(),
            );
            written?;
            blocks = next;
        }
        write(blocks)?;
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
    let flat = values.as_slice().expect("rows side by side");
    if let Some(index) = first_not_finite(flat) {
        let problem = format!("{} holds {}; check the source checkpoint", place(index), flat[index]);
        return Err(PackError::Tensor { name: name.to_owned(), problem });
    }
    let beyond = |index: usize| {
        let problem = format!(
            "{} holds {}, which {scheme} rounds to infinity; keep this tensor in f32",
            place(index),
            flat[index]
        );
        PackError::Tensor { name: name.to_owned(), problem }
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
    match scheme {
        Scheme::F32 => Ok(Block { data: le_bytes(flat), parts: Vec::new() }),
        Scheme::F16 => {
            let halves = Vec::<f16>::from_f32_slice(flat);
            match halves.iter().position(|half| !half.is_finite()) {
                Some(index) => Err(beyond(index)),
                None => Ok(Block { data: le_bytes_of_halves(&halves), parts: Vec::new() }),
            }
        }
        Scheme::Bf16 => {
            let rounded: Vec<bf16> = flat.iter().map(|value| bf16::from_f32(*value)).collect();
            match rounded.iter().position(|value| !value.is_finite()) {
                Some(index) => Err(beyond(index)),
                None => {
                    let data = rounded.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>();
                    Ok(Block { data: data.into_flattened(), parts: Vec::new() })
                }
            }
        }
        Scheme::Int8 => {
            let quantized = Int8Rowwise::from_checkpoint_rows(values.view()).map_err(failed)?;
            let (codes, _) = quantized.codes.into_raw_vec_and_offset();
            let data = codes.into_iter().map(|code| code as u8).collect();
            let absmax = quantized.absmax.as_slice().expect("a vector");
            Ok(Block { data, parts: vec![le_bytes(absmax)] })
        }
        Scheme::Int8G32 => {
            let quantized = quantize_int8_groups(flat).map_err(failed)?;
            let data = quantized.codes.into_iter().map(|code| code as u8).collect();
            Ok(Block { data, parts: vec![le_bytes_of_halves(&quantized.scales)] })
        }
        Scheme::Int4G32 => {
            let quantized = quantize_int4_groups(flat).map_err(failed)?;
            Ok(Block { data: quantized.codes, parts: vec![le_bytes_of_halves(&quantized.scales)] })
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
    let units = |length| values.as_slice().expect("rows side by side").chunks(length);
    let columns = values.ncols();
    match scheme {
        Scheme::F16 => {
            let stored = block.data.chunks(2 * columns);
            let is_zero = |half: &[u8; 2]| f16::from_le_bytes(*half) == f16::ZERO;
            let lost = |(values, stored): (&[f32], &[u8])| {
                stored.as_chunks().0.iter().all(is_zero) && values.iter().any(has_value)
            };
            units(columns).zip(stored).filter(|row| lost(*row)).count()
        }
        Scheme::Int8 => {
            let absmax = block.parts[0].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let lost = |(values, absmax): (&[f32], f32)| absmax == 0.0 && values.iter().any(has_value);
            units(columns).zip(absmax).filter(|row| lost(*row)).count()
        }
        Scheme::Int8G32 | Scheme::Int4G32 => {
            let scales = block.parts[0].as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes));
            let lost = |(values, scale): (&[f32], f16)| scale == f16::ZERO && values.iter().any(has_value);
            units(scheme.block()).zip(scales).filter(|block| lost(*block)).count()
        }
        Scheme::F32 | Scheme::Bf16 | Scheme::Nf4 | Scheme::Nf4Dq | Scheme::Fp4 | Scheme::Fp4Dq => 0,
    }
}
