//! A parameter of an archive: its codes as they lie, and its values.

use std::collections::BTreeMap;
use std::ops::Range;

use aibit_families::Family;
use aibit_format::{Archive, FormatError, JoinedRows, Scheme, TensorRecord};
use aibit_graph::{ConfigError, Graph, ModelDescription, Origin, Parameter};
use aibit_quant::{
    FOUR_BIT_BLOCK, FourBit, GROUP, Int8Rowwise, NestedAbsmax, dequantize_four_bit, dequantize_int8,
};
use half::{bf16, f16};
use ndarray::ArrayView2;

use crate::ExportError;

/// An archive with what its family says of it.
pub(crate) struct Model<'a> {
    pub(crate) archive: &'a Archive,
    /// `config.json` as the archive carries it.
    pub(crate) config: &'a [u8],
    pub(crate) config_json: serde_json::Map<String, serde_json::Value>,
    pub(crate) family: Family,
    pub(crate) description: ModelDescription,
}

impl<'a> Model<'a> {
    pub(crate) fn open(archive: &'a Archive) -> Result<Self, ExportError> {
        // What is exported is made of the configuration; an archive whose graph says nothing is damaged all the same.
        Graph::from_json(archive.entry(aibit_format::entry_names::GRAPH)?.data)?;
        let config = archive.entry(aibit_format::entry_names::CONFIG)?.data;
        let config_json: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(config).map_err(ConfigError::from)?;
        let model_type = config_json.get("model_type").and_then(|value| value.as_str()).unwrap_or("(none)");
        let family = Family::of(model_type)
            .ok_or_else(|| ExportError::Family { found: model_type.chars().take(60).collect() })?;
        let description = family.describe(config)?;
        Ok(Self { archive, config, config_json, family, description })
    }

    /// Every parameter that checkpoints have, in the family's order.
    pub(crate) fn parameters(&self) -> Result<Vec<(&Parameter, Stored<'_>)>, FormatError> {
        let index = StoredIndex::new(self.archive);
        let of_checkpoint =
            self.description.parameters.iter().filter(|p| !matches!(p.origin, Origin::Constant(_)));
        let found = of_checkpoint.map(|parameter| {
            let stored = index.find(&parameter.name)?;
            if stored.shape != parameter.shape {
                let (found, expected) = (&stored.shape, &parameter.shape);
                let problem = format!("has shape {found:?}, config.json calls for {expected:?}");
                return Err(FormatError::Tensor { name: parameter.name.clone(), problem });
            }
            Ok((parameter, stored))
        });
        found.collect()
    }
}

/// The parameters of an archive by the names that they have in checkpoints.
pub(crate) struct StoredIndex<'a> {
    archive: &'a Archive,
    /// The tensor that holds it, and its rows there if it has not all of them.
    places: BTreeMap<&'a str, (&'a str, Option<Range<usize>>)>,
}

impl<'a> StoredIndex<'a> {
    pub(crate) fn new(archive: &'a Archive) -> Self {
        let mut places = BTreeMap::new();
        for (name, record) in &archive.manifest().tensors {
            if record.joined.is_empty() {
                places.insert(name.as_str(), (name.as_str(), None));
            }
            let mut start = 0;
            for JoinedRows { name: part, rows } in &record.joined {
                places.insert(part, (name, Some(start..start + rows)));
                start += rows;
            }
        }
        Self { archive, places }
    }

    /// Every name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.places.keys().copied()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    pub(crate) fn find(&self, name: &str) -> Result<Stored<'a>, FormatError> {
        let missing = |name: &str| FormatError::Tensor {
            name: name.to_owned(),
            problem: "config.json calls for it, the archive does not hold it".into(),
        };
        let (&name, (holder, rows)) = self.places.get_key_value(name).ok_or_else(|| missing(name))?;
        let weights = self.archive.weights();
        let record = &self.archive.manifest().tensors[*holder];
        let tensor = weights.get(holder).ok_or_else(|| missing(holder))?;
        let mut shape = record.scheme.shape(&tensor.info.shape);
        let parts = record.scheme.parts(holder, &shape);
        let parts = parts.iter().map(|p| weights.get(&p.name).ok_or_else(|| missing(&p.name)));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        // What an archive joins has rows of equal length in every tensor, as was checked when it was opened.
        let all_rows = shape.first().copied().unwrap_or(1);
        let part_of = |data: &'a [u8]| match rows {
            Some(rows) => &data[data.len() / all_rows * rows.start..data.len() / all_rows * rows.end],
            None => data,
        };
        if let (Some(rows), Some(first)) = (rows, shape.first_mut()) {
            *first = rows.len();
        }
        let parts = parts.into_iter().map(|part| part_of(part.data)).collect();
        Ok(Stored { name, shape, record, data: part_of(tensor.data), parts })
    }
}

/// A parameter and its tensors in the map.
pub(crate) struct Stored<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: Vec<usize>,
    pub(crate) record: &'a TensorRecord,
    pub(crate) data: &'a [u8],
    /// What the scheme stores beside the codes, in the order of [`Scheme::parts`].
    pub(crate) parts: Vec<&'a [u8]>,
}

impl Stored<'_> {
    pub(crate) fn scheme(&self) -> Scheme {
        self.record.scheme
    }

    /// Rows and columns; a vector is one row.
    pub(crate) fn matrix_shape(&self) -> [usize; 2] {
        match *self.shape {
            [rows, columns] => [rows, columns],
            _ => [1, self.shape.iter().product()],
        }
    }

    /// The table of its four-bit codes.
    pub(crate) fn four_bit(&self) -> Option<FourBit> {
        match self.scheme() {
            Scheme::Nf4 | Scheme::Nf4Dq => Some(FourBit::Nf4),
            Scheme::Fp4 | Scheme::Fp4Dq => Some(FourBit::Fp4),
            _ => None,
        }
    }

    /// Its doubly quantized absmax.
    pub(crate) fn nested(&self) -> Option<NestedAbsmax> {
        let [codes, absmax, map, offset] = self.parts.as_slice() else { return None };
        Some(NestedAbsmax {
            codes: codes.to_vec(),
            absmax: floats(absmax),
            map: floats(map).try_into().expect("256 values, as was checked when the archive was opened"),
            offset: floats(offset)[0],
        })
    }

    /// Codes and row absmax of its values quantized anew as INT8.
    pub(crate) fn requantized(&self) -> Result<(Vec<u8>, Vec<u8>), ExportError> {
        let values = self.values();
        let view = ArrayView2::from_shape(self.matrix_shape(), &values).expect("whole rows");
        let quantized = Int8Rowwise::from_checkpoint_rows(view)
            .map_err(|source| ExportError::Quant { name: self.name.to_owned(), source })?;
        let codes = quantized.codes.iter().map(|code| *code as u8).collect();
        Ok((codes, f32_bytes(&quantized.absmax.to_vec())))
    }

    /// Its values, row-major, exactly as the format defines them.
    pub(crate) fn values(&self) -> Vec<f32> {
        let [_, columns] = self.matrix_shape();
        let (data, parts) = (self.data, &self.parts);
        let halves = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
        };
        match self.scheme() {
            Scheme::F32 => floats(data),
            Scheme::F16 => halves(data),
            Scheme::Bf16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Scheme::Int8 => {
                let absmax = floats(parts[0]);
                let value = |(i, code): (usize, &u8)| dequantize_int8(*code as i8, absmax[i / columns]);
                data.iter().enumerate().map(value).collect()
            }
            Scheme::Int8G32 => {
                let scales = halves(parts[0]);
                let value = |(i, code): (usize, &u8)| f32::from(*code as i8) * scales[i / GROUP];
                data.iter().enumerate().map(value).collect()
            }
            Scheme::Int4G32 => {
                let scales = halves(parts[0]);
                let mut values = Vec::with_capacity(2 * data.len());
                for (codes, scale) in data.chunks_exact(GROUP / 2).zip(scales) {
                    let value = |code: u8| (f32::from(code) - 8.0) * scale;
                    values.extend(codes.iter().map(|code| value(code & 15)));
                    values.extend(codes.iter().map(|code| value(code >> 4)));
                }
                values
            }
            Scheme::Nf4 | Scheme::Fp4 | Scheme::Nf4Dq | Scheme::Fp4Dq => {
                let kind = self.four_bit().expect("a scheme of four bits");
                let absmax: Vec<f32> = match self.nested() {
                    Some(nested) => (0..nested.codes.len()).map(|i| nested.value(i)).collect(),
                    None => floats(parts[0]),
                };
                let code = |i: usize| data[i / 2] >> (4 * (1 - i % 2));
                (0..2 * data.len())
                    .map(|i| dequantize_four_bit(kind, code(i), absmax[i / FOUR_BIT_BLOCK]))
                    .collect()
            }
        }
    }
}

/// Stored F32 as numbers.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Numbers as stored F32.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
