//! Models split into several files by `llama-gguf-split`: each part is a GGUF file, the first has the model's
//! metadata, and all have their number and the number of parts.
//!
//! Source: llama.cpp, `src/llama-model-loader.cpp` and `tools/gguf-split/gguf-split.cpp`.

use crate::{Gguf, GgufError, GgufTensor, Metadata};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Maximum bytes of a tensor from which a configuration is derived; rotary frequency factors have some hundred.
const MAX_CONSTANT: usize = 1 << 20;

/// Which part a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Number of the file, from 0.
    pub number: u64,
    /// Number of parts, at least 2.
    pub count: u64,
}

impl Split {
    /// The part that a file with these metadata is; `None` for a file that is not split.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] for contradicting keys.
    pub fn of(metadata: &Metadata) -> Result<Option<Self>, GgufError> {
        let count = metadata.integer(COUNT)?.unwrap_or(0);
        if count <= 1 {
            return Ok(None);
        }
        let number = metadata
            .integer(NUMBER)?
            .ok_or_else(|| GgufError::metadata(NUMBER, format!("is missing, {COUNT} is {count}")))?;
        if number >= count {
            return Err(GgufError::metadata(NUMBER, format!("is {number}, {COUNT} is {count}")));
        }
        Ok(Some(Self { number, count }))
    }

    /// The name of part `number`, derived from the name of this part; `None` if `name` is not a name of this part.
    pub fn part_name(self, name: &str, number: u64) -> Option<String> {
        let ending = |number: u64| format!("-{:05}-of-{:05}.gguf", number + 1, self.count);
        let stem = name.strip_suffix(&ending(self.number))?;
        Some(format!("{stem}{}", ending(number)))
    }
}

/// The combined structure of all parts, and a file with the data of those tensors from which a configuration is
/// derived: small vectors outside blocks. The other tensors have no data in it. `parts` are the files in order, with
/// their content.
///
/// # Errors
/// [`GgufError::Metadata`] unless the parts are all those of one model, in order, and [`GgufError::Tensor`] for a
/// tensor in two parts.
pub fn join_parts(parts: &[(Gguf, &[u8])]) -> Result<(Gguf, Vec<u8>), GgufError> {
    let (first, _) = parts.first().expect("a model has a part");
    let mut joined = first.clone();
    joined.tensors.clear();
    joined.by_name.clear();
    let mut constants = Vec::new();
    for (index, (part, file)) in parts.iter().enumerate() {
        let expected = Split { number: index as u64, count: parts.len() as u64 };
        let found = Split::of(part.metadata())?;
        if found != Some(expected) {
            let found =
                found.map_or_else(|| "whole".to_owned(), |s| format!("part {} of {}", s.number + 1, s.count));
            let problem =
                format!("makes the file {found}, by its name it is part {} of {}", index + 1, parts.len());
            return Err(GgufError::metadata(NUMBER, problem));
        }
        for tensor in part.tensors() {
            let begin = constants.len();
            if tensor.shape.len() == 1
                && !tensor.name.starts_with("blk.")
                && tensor.range.len() <= MAX_CONSTANT
            {
                constants.extend_from_slice(tensor.bytes(file));
            }
            let tensor = GgufTensor { range: begin..constants.len(), ..tensor.clone() };
            if joined.by_name.insert(tensor.name.clone(), joined.tensors.len()).is_some() {
                return Err(GgufError::tensor(&tensor.name, "is in more than one part"));
            }
            joined.tensors.push(tensor);
        }
    }
    let (count, found) = (first.metadata().integer(TENSORS)?, joined.tensors.len() as u64);
    match count.filter(|count| *count != found) {
        Some(count) => Err(GgufError::metadata(TENSORS, format!("is {count}, the parts hold {found}"))),
        None => Ok((joined, constants)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    #[test]
    fn parts_are_told_by_their_keys_and_found_by_their_names() {
        let of = |entries: &[(&str, Value)]| {
            let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
            Split::of(&Metadata::from_entries(entries))
        };
        // The types that llama.cpp writes, and others.
        let split = of(&[(NUMBER, Value::U16(1)), (COUNT, Value::U16(12))]);
        assert_eq!(split.ok(), Some(Some(Split { number: 1, count: 12 })));
        assert_eq!(of(&[(NUMBER, Value::U16(0)), (COUNT, Value::I32(1))]).ok(), Some(None));
        assert_eq!(of(&[(NUMBER, Value::U16(0)), (COUNT, Value::U32(0))]).ok(), Some(None));
        assert_eq!(of(&[]).ok(), Some(None));
        assert!(of(&[(COUNT, Value::U16(2))]).is_err());
        assert!(of(&[(NUMBER, Value::U16(2)), (COUNT, Value::U16(2))]).is_err());
        let split = Split { number: 1, count: 12 };
        assert_eq!(
            split.part_name("a-q8-00002-of-00012.gguf", 11).as_deref(),
            Some("a-q8-00012-of-00012.gguf")
        );
        for name in ["a.gguf", "a-00001-of-00012.gguf", "a-00002-of-00011.gguf", "a-2-of-12.gguf"] {
            assert_eq!(split.part_name(name, 0), None, "{name}");
        }
    }
}
