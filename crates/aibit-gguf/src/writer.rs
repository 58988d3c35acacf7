//! Layout of a GGUF file to be written: the header, and the tensors' locations.

use std::collections::HashSet;

use crate::reader::{MAGIC, MAX_KEY};
use crate::{Array, GgmlType, GgufError, GgufTensor, Metadata, Value, tensor};

const VERSION: u32 = 3;
/// ggml's limit; the format allows one byte more.
const MAX_NAME: usize = 63;

/// A GGUF file to be written, without the tensors' bytes.
#[derive(Debug, Clone)]
pub struct GgufLayout {
    header: Vec<u8>,
    tensors: Vec<GgufTensor>,
    file_bytes: usize,
}

impl GgufLayout {
    /// Plans a file of version 3 for tensors of the given names, types and row-major shapes, in this order. The
    /// alignment is `general.alignment` if `metadata` has it, else 32.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for a key or an alignment that the format does not allow, [`GgufError::Tensor`] for
    /// such a name, rank or shape, and for a duplicate name.
    pub fn new(metadata: &Metadata, tensors: &[(String, GgmlType, Vec<usize>)]) -> Result<Self, GgufError> {
        let alignment = metadata.alignment()?;
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.iter().count() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            if !(1..=MAX_KEY).contains(&key.len()) {
                let problem = format!("has a name of {} bytes, allowed are 1 to {MAX_KEY}", key.len());
                return Err(GgufError::metadata(key, problem));
            }
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut names = HashSet::with_capacity(tensors.len());
        let mut offset = 0;
        let mut places = Vec::with_capacity(tensors.len());
        for (name, dtype, shape) in tensors {
            tensor::check_name(name, MAX_NAME)?;
            if !names.insert(name) {
                return Err(GgufError::tensor(name, "is given twice"));
            }
            let end = tensor::data_bytes(name, *dtype, shape)?.checked_add(offset);
            let Some((end, padded)) =
                end.and_then(|end| Some((end, end.checked_next_multiple_of(alignment)?)))
            else {
                let problem = format!("starts {offset} bytes into the data, ends where no file does");
                return Err(GgufError::tensor(name, problem));
            };
            put_tensor(&mut header, name, *dtype, shape, offset);
            places.push(offset..end);
            offset = padded;
        }
        header.resize(header.len().next_multiple_of(alignment), 0);
        let start = header.len();
        let Some(file_bytes) = offset.checked_add(start) else {
            let name = tensors.last().map_or("", |(name, ..)| name);
            return Err(GgufError::tensor(
                name,
                format!("ends {offset} bytes into the data, where no file does"),
            ));
        };
        let tensors = tensors.iter().zip(places).map(|((name, dtype, shape), place)| GgufTensor {
            name: name.clone(),
            dtype: *dtype,
            shape: shape.clone(),
            range: start + place.start..start + place.end,
        });
        Ok(Self { header, tensors: tensors.collect(), file_bytes })
    }

    /// The start of the file, up to the first tensor.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The tensors in the order given. The bytes of each are followed by zeros up to the start of the next, those of
    /// the last by zeros up to [`Self::file_bytes`].
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// Length of the whole file.
    pub fn file_bytes(&self) -> usize {
        self.file_bytes
    }
}

fn put_tensor(out: &mut Vec<u8>, name: &str, dtype: GgmlType, shape: &[usize], offset: usize) {
    put_string(out, name);
    out.extend((shape.len() as u32).to_le_bytes());
    for &dim in shape.iter().rev() {
        out.extend((dim as u64).to_le_bytes());
    }
    out.extend(dtype.id().to_le_bytes());
    out.extend((offset as u64).to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut number = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(v) => number(0, &v.to_le_bytes()),
        Value::I8(v) => number(1, &v.to_le_bytes()),
        Value::U16(v) => number(2, &v.to_le_bytes()),
        Value::I16(v) => number(3, &v.to_le_bytes()),
        Value::U32(v) => number(4, &v.to_le_bytes()),
        Value::I32(v) => number(5, &v.to_le_bytes()),
        Value::F32(v) => number(6, &v.to_le_bytes()),
        Value::Bool(v) => number(7, &[u8::from(*v)]),
        Value::String(text) => {
            number(8, &[]);
            put_string(out, text);
        }
        Value::Array(array) => {
            number(9, &[]);
            put_array(out, array);
        }
        Value::U64(v) => number(10, &v.to_le_bytes()),
        Value::I64(v) => number(11, &v.to_le_bytes()),
        Value::F64(v) => number(12, &v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(v) => put_numbers(out, 0, v, u8::to_le_bytes),
        Array::I8(v) => put_numbers(out, 1, v, i8::to_le_bytes),
        Array::U16(v) => put_numbers(out, 2, v, u16::to_le_bytes),
        Array::I16(v) => put_numbers(out, 3, v, i16::to_le_bytes),
        Array::U32(v) => put_numbers(out, 4, v, u32::to_le_bytes),
        Array::I32(v) => put_numbers(out, 5, v, i32::to_le_bytes),
        Array::F32(v) => put_numbers(out, 6, v, f32::to_le_bytes),
        Array::Bool(v) => put_numbers(out, 7, v, |truth| [u8::from(truth)]),
        Array::String(v) => {
            put_array_start(out, 8, v.len());
            v.iter().for_each(|text| put_string(out, text));
        }
        Array::U64(v) => put_numbers(out, 10, v, u64::to_le_bytes),
        Array::I64(v) => put_numbers(out, 11, v, i64::to_le_bytes),
        Array::F64(v) => put_numbers(out, 12, v, f64::to_le_bytes),
    }
}

fn put_array_start(out: &mut Vec<u8>, kind: u32, count: usize) {
    out.extend(kind.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}

fn put_numbers<const N: usize, T: Copy>(
    out: &mut Vec<u8>,
    kind: u32,
    values: &[T],
    encode: impl Fn(T) -> [u8; N],
) {
    put_array_start(out, kind, values.len());
    out.extend(values.iter().flat_map(|&value| encode(value)));
}
