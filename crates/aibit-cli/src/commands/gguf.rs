//! The content of a GGUF file, for `aibit inspect`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use aibit_format::{FileKind, MappedFile};
use aibit_gguf::{Array, Gguf, Value};
use serde::Serialize;

use crate::output::{bytes, count};
use crate::visible::on_one_line;

/// Whether a file has the magic number of GGUF.
pub(crate) fn is_gguf(path: &Path) -> bool {
    matches!(FileKind::read(path), Ok(FileKind::Gguf))
}

/// The tokenizer, as a tokenizer.json.
pub(crate) fn tokenizer(path: &Path) -> anyhow::Result<Vec<u8>> {
    let map = MappedFile::open(path)?;
    Ok(aibit_gguf::tokenizer_json(Gguf::parse(&map)?.metadata())?)
}

#[derive(Serialize)]
pub(crate) struct Report {
    file: String,
    gguf_version: u32,
    file_bytes: u64,
    parameters: u64,
    /// Elements and bytes per type.
    types: BTreeMap<&'static str, (u64, u64)>,
    /// Values as text; arrays as their length.
    metadata: Vec<(String, String)>,
    tensors: Vec<TensorLine>,
    #[serde(skip)]
    list_tensors: bool,
}

#[derive(Serialize)]
struct TensorLine {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: u64,
    offset: u64,
}

impl Report {
    pub(crate) fn read(path: &Path, list_tensors: bool) -> anyhow::Result<Self> {
        let map = MappedFile::open(path)?;
        let gguf = Gguf::parse(&map)?;
        let mut types: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
        let mut tensors = Vec::new();
        for tensor in gguf.tensors() {
            let (elements, size) = types.entry(tensor.dtype.name()).or_default();
            *elements += tensor.shape.iter().product::<usize>() as u64;
            *size += tensor.range.len() as u64;
            tensors.push(TensorLine {
                name: tensor.name.clone(),
                dtype: tensor.dtype.name(),
                shape: tensor.shape.clone(),
                bytes: tensor.range.len() as u64,
                offset: tensor.range.start as u64,
            });
        }
        Ok(Self {
            file: path.display().to_string(),
            gguf_version: gguf.version(),
            file_bytes: map.len() as u64,
            parameters: types.values().map(|(elements, _)| elements).sum(),
            types,
            metadata: gguf.metadata().iter().map(|(key, value)| (key.to_owned(), shown(value))).collect(),
            tensors,
            list_tensors,
        })
    }
}

/// A value on one line.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    match value {
        Value::String(text) => {
            let line: String = text.escape_debug().take(LONGEST + 1).collect();
            match line.char_indices().nth(LONGEST) {
                Some((cut, _)) => format!("{}... ({} bytes)", &line[..cut], text.len()),
                None => line,
            }
        }
        Value::Array(array) => {
            let (length, of) = match array {
                Array::U8(v) => (v.len(), "u8"),
                Array::I8(v) => (v.len(), "i8"),
                Array::U16(v) => (v.len(), "u16"),
                Array::I16(v) => (v.len(), "i16"),
                Array::U32(v) => (v.len(), "u32"),
                Array::I32(v) => (v.len(), "i32"),
                Array::F32(v) => (v.len(), "f32"),
                Array::Bool(v) => (v.len(), "bool"),
                Array::String(v) => (v.len(), "string"),
                Array::U64(v) => (v.len(), "u64"),
                Array::I64(v) => (v.len(), "i64"),
                Array::F64(v) => (v.len(), "f64"),
            };
            format!("[{length} x {of}]")
        }
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = 8.0 * self.types.values().map(|(_, size)| size).sum::<u64>() as f64;
        writeln!(f, "{:<16} {}, {}, GGUF {}", "file", self.file, bytes(self.file_bytes), self.gguf_version)?;
        writeln!(
            f,
            "{:<16} {}, {:.2} bits per weight",
            "parameters",
            count(self.parameters),
            bits / self.parameters.max(1) as f64
        )?;
        write!(f, "\n{:<10} {:>12} {:>12}", "type", "parameters", "bytes")?;
        for (name, (elements, size)) in &self.types {
            write!(f, "\n{name:<10} {:>12} {:>12}", count(*elements), bytes(*size))?;
        }
        write!(f, "\n\n{:<44} value", "key")?;
        for (key, value) in &self.metadata {
            write!(f, "\n{:<44} {value}", on_one_line(key))?;
        }
        if self.list_tensors {
            write!(f, "\n\n{:<44} {:<6} {:>16} {:>12} {:>12}", "tensor", "type", "shape", "bytes", "offset")?;
            for t in &self.tensors {
                let shape = format!("{:?}", t.shape);
                let name = on_one_line(&t.name);
                write!(f, "\n{name:<44} {:<6} {shape:>16} {:>12} {:>12}", t.dtype, t.bytes, t.offset)?;
            }
        }
        Ok(())
    }
}
