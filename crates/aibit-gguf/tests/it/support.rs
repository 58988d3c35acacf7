//! A GGUF builder in which every field can be set wrong.

use std::time::{Duration, Instant};

use aibit_gguf::Gguf;

/// A file of the golden data.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/gguf/");
    std::fs::read(format!("{folder}{name}")).expect("golden file")
}

/// A file in parts.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// Instead of the right number.
    pub(crate) tensor_count: Option<u64>,
    /// Instead of the right number.
    pub(crate) entry_count: Option<u64>,
    pub(crate) entries: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<RawTensor>,
    /// Bytes from the start of the data on.
    pub(crate) data: Vec<u8>,
}

/// A tensor in the file's own terms.
#[derive(Debug, Clone)]
pub(crate) struct RawTensor {
    pub(crate) name: Vec<u8>,
    /// Instead of the number of dimensions.
    pub(crate) rank: Option<u32>,
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) offset: u64,
}

impl Raw {
    /// A sound file of version 3 with no entries and no tensors.
    pub(crate) fn empty() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            data: Vec::new(),
        }
    }

    /// With one entry, given as the bytes after its key.
    pub(crate) fn with_value(kind: u32, payload: &[u8]) -> Self {
        Self { entries: vec![entry("the.key", kind, payload)], ..Self::empty() }
    }

    /// With one tensor, and 1024 bytes of data.
    pub(crate) fn with_tensor(kind: u32, dims: &[u64]) -> Self {
        let mut raw = Self { data: vec![0; 1024], ..Self::empty() };
        raw.tensors.push(RawTensor::new("the.tensor", kind, dims, 0));
        raw
    }

    /// The file, with its data at a multiple of 32.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = self.magic.to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        file.extend(self.entries.concat());
        for tensor in &self.tensors {
            file.extend(string(&tensor.name));
            file.extend(tensor.rank.unwrap_or(tensor.dims.len() as u32).to_le_bytes());
            file.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend(tensor.offset.to_le_bytes());
        }
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }

    /// Checks that the file is read.
    #[track_caller]
    pub(crate) fn check_accepted(&self) -> Gguf {
        Gguf::parse(&self.bytes()).expect("a sound file")
    }

    /// Checks that the file is refused with a message that holds every fragment.
    #[track_caller]
    pub(crate) fn check_refused(&self, fragments: &[&str]) {
        check_refused(&self.bytes(), fragments);
    }
}

impl RawTensor {
    pub(crate) fn new(name: &str, kind: u32, dims: &[u64], offset: u64) -> Self {
        Self { name: name.into(), rank: None, dims: dims.to_vec(), kind, offset }
    }
}

/// Length and bytes.
pub(crate) fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// A metadata entry.
pub(crate) fn entry(key: &str, kind: u32, payload: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes()), &kind.to_le_bytes()[..], payload].concat()
}

/// An array's payload: element type, count, elements.
pub(crate) fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// Far above what any refusal takes on a busy machine, far below what a count that is believed would cost.
const OUT_OF_PROPORTION: Duration = Duration::from_secs(60);

/// Why `file` is refused.
#[track_caller]
pub(crate) fn refusal(file: &[u8]) -> String {
    let started = Instant::now();
    let message = Gguf::parse(file).expect_err("the file is broken").to_string();
    assert!(started.elapsed() < OUT_OF_PROPORTION, "{:?} for: {message}", started.elapsed());
    assert!(message.len() < 2048, "a message of {} bytes: {message:.300}", message.len());
    message
}

/// Checks that `file` is refused with a message that holds every fragment.
#[track_caller]
pub(crate) fn check_refused(file: &[u8], fragments: &[&str]) {
    let message = refusal(file);
    for fragment in fragments {
        assert!(message.contains(fragment), "`{fragment}` is not in: {message}");
    }
}
