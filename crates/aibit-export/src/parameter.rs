//! A parameter of an archive: its codes as they lie, and its values.

use aibit_format::{Archive, FormatError, Scheme, TensorRecord};
use aibit_gpt2::Gpt2Config;
use aibit_graph::{ModelDescription, Parameter};
use aibit_quant::{FOUR_BIT_BLOCK, FourBit, GROUP, NestedAbsmax, dequantize_four_bit, dequantize_int8};
use half::{bf16, f16};

use crate::ExportError;

/// An archive with what its family says of it.
pub(crate) struct Model<'a> {
    pub(crate) archive: &'a Archive,
    /// `config.json` as the archive carries it.
    pub(crate) config_json: serde_json::Map<String, serde_json::Value>,
    pub(crate) config: Gpt2Config,
    pub(crate) description: ModelDescription,
}

impl<'a> Model<'a> {
    pub(crate) fn open(archive: &'a Archive) -> Result<Self, ExportError> {
        let bytes = archive.entry(aibit_format::entry_names::CONFIG)?.data;
        let config_json = serde_json::from_slice(bytes).map_err(aibit_gpt2::ConfigError::from)?;
        let config = Gpt2Config::from_json(bytes)?;
        let description = aibit_gpt2::describe(&config);
        Ok(Self { archive, config_json, config, description })
    }

    /// Every parameter, in the family's order.
    pub(crate) fn parameters(&self) -> Result<Vec<(&Parameter, Stored<'_>)>, FormatError> {
        let found = self.description.parameters.iter().map(|parameter| {
            let stored = Stored::find(self.archive, &parameter.name)?;
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

/// A parameter and its tensors in the map.
pub(crate) struct Stored<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: Vec<usize>,
    pub(crate) record: &'a TensorRecord,
    pub(crate) data: &'a [u8],
    /// What the scheme stores beside the codes, in the order of [`Scheme::parts`].
    pub(crate) parts: Vec<&'a [u8]>,
}

impl<'a> Stored<'a> {
    pub(crate) fn find(archive: &'a Archive, name: &'a str) -> Result<Self, FormatError> {
        let missing = |name: &str| FormatError::Tensor {
            name: name.to_owned(),
            problem: "config.json calls for it, the archive does not hold it".into(),
        };
        let record = archive.manifest().tensors.get(name).ok_or_else(|| missing(name))?;
        let tensor = archive.weights().get(name).ok_or_else(|| missing(name))?;
        let shape = record.scheme.shape(&tensor.info.shape);
        let part =
            |name: &str| archive.weights().get(name).map(|part| part.data).ok_or_else(|| missing(name));
        let parts = record.scheme.parts(name, &shape);
        let parts = parts.iter().map(|p| part(&p.name)).collect::<Result<_, _>>()?;
        Ok(Self { name, shape, record, data: tensor.data, parts })
    }

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
