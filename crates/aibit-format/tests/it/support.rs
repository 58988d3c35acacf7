//! A small sound archive, and a ZIP builder in which every field can be set wrong.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use aibit_format::{
    Archive, ArchiveWriter, Dtype, EntryRecord, Manifest, Part, Provenance, Recipe, Scheme, Source,
    SourceFile, TensorRecord, WeightsLayout, entry_names,
};
use half::{bf16, f16};
use sha2::{Digest, Sha256};

pub(crate) const PAGE: usize = 4096;

/// A tensor to be stored, with its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

/// What an archive is made of; the manifest's list of entries is filled in when it is needed.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) entries: Vec<(String, Vec<u8>)>,
    pub(crate) manifest: Manifest,
}

impl Parts {
    /// Matrices of codes with their scales, one of an odd size; vectors and matrices of every float type; a tied
    /// head; an entry longer than a page and an empty one.
    pub(crate) fn sample() -> Self {
        Self::of(&[
            ("ln.weight", Scheme::F32, &[7]),
            ("h.0.weight", Scheme::Int8, &[16, 64]),
            ("wte.weight", Scheme::F16, &[5, 7]),
            ("h.1.weight", Scheme::Int8, &[3, 5]),
            ("wpe.weight", Scheme::F16, &[4, 8]),
            ("ln.bias", Scheme::Bf16, &[3]),
        ])
    }

    /// An archive of the given parameters, with small values that every scheme allows.
    pub(crate) fn of(parameters: &[(&str, Scheme, &[usize])]) -> Self {
        let mut manifest = manifest();
        for &(name, scheme, _) in parameters {
            manifest.tensors.insert(name.to_owned(), record(scheme));
        }
        if manifest.tensors.contains_key("wte.weight") {
            manifest.tied.insert("lm_head.weight".to_owned(), "wte.weight".to_owned());
        }
        let entries = vec![
            (entry_names::WEIGHTS.to_owned(), weights_file(&stored(parameters))),
            (entry_names::GRAPH.to_owned(), b"{\"nodes\": []}".to_vec()),
            (entry_names::TOKENIZER.to_owned(), (0..5000_u32).map(|i| (i % 251) as u8).collect()),
            ("extra/NOTICE-1.txt".to_owned(), Vec::new()),
            (entry_names::CONFIG.to_owned(), b"{\"model_type\": \"gpt2\"}\n".to_vec()),
        ];
        Self { entries, manifest }
    }

    /// The sample with another `weights.safetensors`.
    pub(crate) fn with_weights(weights: Vec<u8>) -> Self {
        let mut parts = Self::sample();
        parts.entries[0].1 = weights;
        parts
    }

    /// The manifest, listing the entries.
    pub(crate) fn full_manifest(&self) -> Manifest {
        let entries = self.entries.iter().map(|(name, data)| EntryRecord {
            name: name.clone(),
            bytes: data.len() as u64,
            sha256: Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect(),
            media_type: media_type(name).to_owned(),
        });
        Manifest { entries: entries.collect(), ..self.manifest.clone() }
    }

    /// The container, with the given bytes as `manifest.json`.
    pub(crate) fn zip_with_manifest(&self, manifest: &[u8]) -> Zip {
        let mut entries: Vec<_> = self.entries.iter().map(|(n, d)| (n.as_bytes(), d.as_slice())).collect();
        entries.push((entry_names::MANIFEST.as_bytes(), manifest));
        Zip::of(&entries)
    }

    pub(crate) fn zip(&self) -> Zip {
        self.zip_with_manifest(&self.full_manifest().to_json())
    }

    /// Writes the archive through the writer under test.
    pub(crate) fn write(&self, target: &Path) -> u64 {
        let mut writer = ArchiveWriter::create(target).expect("create");
        for (name, data) in &self.entries {
            writer.add(name, media_type(name), data).expect("add");
        }
        writer.finish(self.manifest.clone()).expect("finish")
    }
}

pub(crate) fn media_type(name: &str) -> &'static str {
    if name.ends_with(".json") { "application/json" } else { "application/octet-stream" }
}

pub(crate) fn record(scheme: Scheme) -> TensorRecord {
    TensorRecord {
        scheme,
        source_dtype: "F32".to_owned(),
        transposed: scheme == Scheme::Int8,
        joined: Vec::new(),
    }
}

/// A manifest without tensors or entries.
pub(crate) fn manifest() -> Manifest {
    Manifest {
        format: "aibit".to_owned(),
        version: aibit_format::FORMAT_VERSION,
        required_features: Vec::new(),
        architecture: "gpt2".to_owned(),
        entries: Vec::new(),
        tensors: BTreeMap::new(),
        tied: BTreeMap::new(),
        recipe: Recipe { preset: "int8".to_owned(), ..Recipe::default() },
        provenance: Provenance {
            tool: "aibit 0.1.0".to_owned(),
            source: Source {
                repository: None,
                revision: None,
                files: vec![SourceFile {
                    name: "model.safetensors".to_owned(),
                    bytes: 1,
                    sha256: "00".repeat(32),
                }],
            },
        },
    }
}

/// The tensors that the schemes of `parameters` call for.
pub(crate) fn stored(parameters: &[(&str, Scheme, &[usize])]) -> Vec<Stored> {
    let mut tensors = Vec::new();
    for &(name, scheme, shape) in parameters {
        let elements: usize = shape.iter().product();
        let value = |i: usize| (i % 19) as f32 / 8.0 - 1.0;
        let data = match scheme {
            Scheme::F32 => (0..elements).flat_map(|i| value(i).to_le_bytes()).collect(),
            Scheme::F16 => (0..elements).flat_map(|i| f16::from_f32(value(i)).to_le_bytes()).collect(),
            Scheme::Bf16 => (0..elements).flat_map(|i| bf16::from_f32(value(i)).to_le_bytes()).collect(),
            _ if scheme.dtype() == Dtype::I8 => {
                (0..elements).map(|i| ((i % 255) as i32 - 127) as i8 as u8).collect()
            }
            _ => (0..elements / 2).map(|i| i as u8).collect(),
        };
        let stored = scheme.stored_shape(shape);
        tensors.push(Stored { name: name.to_owned(), dtype: scheme.dtype(), shape: stored, data });
        for Part { name, dtype, shape } in scheme.parts(name, shape) {
            let elements: usize = shape.iter().product();
            let scale = |i: usize| 0.5 + i as f32;
            let data = match dtype {
                Dtype::F32 => (0..elements).flat_map(|i| scale(i).to_le_bytes()).collect(),
                Dtype::F16 => (0..elements).flat_map(|i| f16::from_f32(scale(i)).to_le_bytes()).collect(),
                _ => (0..elements).map(|i| i as u8).collect(),
            };
            tensors.push(Stored { name, dtype, shape, data });
        }
    }
    tensors
}

/// `weights.safetensors` as the layout under test orders it.
pub(crate) fn weights_file(tensors: &[Stored]) -> Vec<u8> {
    let list: Vec<_> = tensors.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect();
    let layout = WeightsLayout::new(&list).expect("layout");
    let mut file = layout.header().to_vec();
    for info in layout.tensors() {
        let tensor = tensors.iter().find(|t| t.name == info.name).expect("a tensor of the list");
        file.extend(&tensor.data);
    }
    assert_eq!(file.len() as u64, layout.file_bytes());
    file
}

/// A local or central header; the fields of the latter alone are ignored in the former.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) signature: u32,
    pub(crate) made_by: u16,
    pub(crate) version: u16,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    pub(crate) time: u16,
    pub(crate) date: u16,
    pub(crate) crc32: u32,
    pub(crate) compressed: u32,
    pub(crate) bytes: u32,
    pub(crate) name: Vec<u8>,
    pub(crate) extra: Vec<u8>,
    pub(crate) comment: Vec<u8>,
    pub(crate) disk: u16,
    pub(crate) internal: u16,
    pub(crate) external: u32,
    pub(crate) offset: u32,
}

impl Header {
    fn common(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for field in [self.version, self.flags, self.method, self.time, self.date] {
            out.extend(field.to_le_bytes());
        }
        for field in [self.crc32, self.compressed, self.bytes] {
            out.extend(field.to_le_bytes());
        }
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend((self.extra.len() as u16).to_le_bytes());
        out
    }

    fn local(&self) -> Vec<u8> {
        [&self.signature.to_le_bytes()[..], &self.common(), &self.name, &self.extra].concat()
    }

    pub(crate) fn central(&self) -> Vec<u8> {
        let mut out = self.signature.to_le_bytes().to_vec();
        out.extend(self.made_by.to_le_bytes());
        out.extend(self.common());
        for field in [self.comment.len() as u16, self.disk, self.internal] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.external.to_le_bytes());
        out.extend(self.offset.to_le_bytes());
        [out.as_slice(), &self.name, &self.extra, &self.comment].concat()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Bytes before the local header that belong to nothing.
    pub(crate) gap: Vec<u8>,
    pub(crate) local: Header,
    pub(crate) data: Vec<u8>,
    pub(crate) central: Header,
}

impl Item {
    pub(crate) fn headers(&mut self) -> [&mut Header; 2] {
        [&mut self.local, &mut self.central]
    }
}

#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) signature: u32,
    pub(crate) disk: u16,
    pub(crate) directory_disk: u16,
    pub(crate) entries_here: u16,
    pub(crate) entries: u16,
    pub(crate) directory_bytes: u32,
    pub(crate) directory_offset: u32,
    pub(crate) comment: Vec<u8>,
}

impl End {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.signature.to_le_bytes().to_vec();
        for field in [self.disk, self.directory_disk, self.entries_here, self.entries] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.directory_bytes.to_le_bytes());
        out.extend(self.directory_offset.to_le_bytes());
        out.extend((self.comment.len() as u16).to_le_bytes());
        [&out, self.comment.as_slice()].concat()
    }
}

/// A ZIP file by its fields. [`Zip::of`] makes them as the format wants them; a test then changes some.
#[derive(Debug, Clone)]
pub(crate) struct Zip {
    pub(crate) items: Vec<Item>,
    /// Bytes between the last entry and the directory.
    pub(crate) gap: Vec<u8>,
    /// Bytes between the directory and the end record.
    pub(crate) zip64: Vec<u8>,
    pub(crate) end: End,
}

impl Zip {
    pub(crate) fn of(entries: &[(&[u8], &[u8])]) -> Self {
        let mut items = Vec::new();
        let mut at = 0;
        for &(name, data) in entries {
            let bare = at + 30 + name.len() + 6;
            let padding = bare.next_multiple_of(PAGE) - bare;
            let mut alignment = (PAGE as u16).to_le_bytes().to_vec();
            alignment.resize(2 + padding, 0);
            let central = Header {
                signature: 0x0201_4b50,
                made_by: 3 << 8 | 45,
                version: 10,
                flags: 1 << 11,
                method: 0,
                time: 0,
                date: 1 << 5 | 1,
                crc32: crc32fast::hash(data),
                compressed: data.len() as u32,
                bytes: data.len() as u32,
                name: name.to_vec(),
                extra: Vec::new(),
                comment: Vec::new(),
                disk: 0,
                internal: 0,
                external: 0o100_644 << 16,
                offset: at as u32,
            };
            let local =
                Header { signature: 0x0403_4b50, extra: extra_field(0xd935, &alignment), ..central.clone() };
            at = bare + padding + data.len();
            items.push(Item { gap: Vec::new(), local, data: data.to_vec(), central });
        }
        let end = End {
            signature: 0x0605_4b50,
            disk: 0,
            directory_disk: 0,
            entries_here: 0,
            entries: 0,
            directory_bytes: 0,
            directory_offset: 0,
            comment: Vec::new(),
        };
        let mut zip = Self { items, gap: Vec::new(), zip64: Vec::new(), end };
        zip.relocate();
        zip
    }

    /// Sets the offsets and counts to what the parts' lengths give.
    pub(crate) fn relocate(&mut self) {
        let mut at = 0;
        for item in &mut self.items {
            at += item.gap.len();
            item.central.offset = at as u32;
            at += item.local.local().len() + item.data.len();
        }
        let directory: usize = self.items.iter().map(|item| item.central.central().len()).sum();
        self.end.entries = self.items.len() as u16;
        self.end.entries_here = self.end.entries;
        self.end.directory_offset = (at + self.gap.len()) as u32;
        self.end.directory_bytes = directory as u32;
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for item in &self.items {
            out.extend([&item.gap[..], &item.local.local(), &item.data].concat());
        }
        out.extend(&self.gap);
        for item in &self.items {
            out.extend(item.central.central());
        }
        out.extend(&self.zip64);
        out.extend(self.end.to_bytes());
        out
    }

    /// Where something ends and something else begins, the file's ends included.
    pub(crate) fn edges(&self) -> Vec<usize> {
        let mut edges = vec![0];
        let mut at = 0;
        for item in &self.items {
            let header = item.local.local().len();
            edges.extend([at + 4, at + 30, at + 30 + item.local.name.len(), at + header]);
            at += header + item.data.len();
            edges.push(at);
        }
        for item in &self.items {
            at += item.central.central().len();
            edges.push(at);
        }
        edges.push(at + self.end.to_bytes().len());
        edges
    }
}

pub(crate) fn extra_field(id: u16, data: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes(), &(data.len() as u16).to_le_bytes(), data].concat()
}

/// The sample with changed fields.
pub(crate) fn broken(edit: impl FnOnce(&mut Zip)) -> Vec<u8> {
    let mut zip = Parts::sample().zip();
    edit(&mut zip);
    zip.bytes()
}

/// Opens `bytes` as an archive.
pub(crate) fn open(bytes: &[u8]) -> Result<Archive, aibit_format::FormatError> {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(bytes).expect("write");
    Archive::open(file.path())
}

/// Far above what any refusal takes on a busy machine, far below what a count that is believed would cost.
const OUT_OF_PROPORTION: Duration = Duration::from_secs(60);

/// Opens `bytes`, which must be refused without work out of proportion. Returns the message.
#[track_caller]
pub(crate) fn refusal(bytes: &[u8]) -> String {
    let started = Instant::now();
    let message = open(bytes).expect_err("the archive is broken").to_string();
    assert!(started.elapsed() < OUT_OF_PROPORTION, "{:?} for: {message}", started.elapsed());
    assert!(message.len() < 4096, "a message of {} bytes: {message:.300}", message.len());
    message
}

/// Checks that `bytes` are refused with a message that holds every fragment.
#[track_caller]
pub(crate) fn check_refused(bytes: &[u8], fragments: &[&str]) {
    let message = refusal(bytes);
    for fragment in fragments {
        assert!(message.contains(fragment), "`{fragment}` is not in: {message}");
    }
}

/// Small deterministic random numbers (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
