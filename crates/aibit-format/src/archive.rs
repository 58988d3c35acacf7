//! Opening an archive and accessing its entries and tensors.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tracing::info_span;

use crate::zip::{self, Record};
use crate::{
    EntryRecord, FormatError, Manifest, MappedBytes, MappedFile, TensorInfo, WeightsIndex, entry_names, sniff,
};

/// An open archive: mapped, with its structure checked but not its digests.
///
/// [`Archive::open`] reads only headers, manifest and tensor index, so it takes as long for a model of any size.
/// [`Archive::verify_entry`] compares an entry with its digest.
#[derive(Debug, Clone)]
pub struct Archive {
    path: PathBuf,
    map: MappedFile,
    records: Vec<Record>,
    manifest: Manifest,
    weights: Weights,
}

/// One entry of an open archive.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Name in the container.
    pub name: &'a str,
    /// Offset of its data in the file.
    pub offset: u64,
    /// Its data, in the map.
    pub data: &'a [u8],
}

/// The tensors of an archive, in the map; cheap to clone.
#[derive(Debug, Clone)]
pub struct Weights {
    map: MappedFile,
    index: Arc<WeightsIndex>,
    /// Offset of the safetensors file's data in the map.
    data_start: usize,
}

/// A tensor in the map.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Name, type and shape.
    pub info: &'a TensorInfo,
    /// Its elements, row-major, little-endian.
    pub data: &'a [u8],
}

impl Archive {
    /// Maps the archive at `path` and checks its structure: container, manifest and tensor index, and that they are
    /// consistent. Digests are not computed here; see [`Archive::verify_entry`].
    ///
    /// # Errors
    /// Any [`FormatError`], with the section of the file and the numbers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let _span = info_span!("open").entered();
        let path = path.as_ref().to_owned();
        let not_archive =
            |bytes: &[u8]| FormatError::NotAnArchive { path: path.clone(), found: sniff::describe(bytes) };
        let length = std::fs::metadata(&path).map(|m| if m.is_file() { m.len() } else { 1 });
        if matches!(length, Ok(0)) {
            return Err(not_archive(&[])); // an empty file cannot be mapped
        }
        let map = info_span!("map").in_scope(|| MappedFile::open(&path))?;
        map.use_large_pages();
        if !map.starts_with(b"PK\x03\x04") || map.len() < 22 {
            return Err(not_archive(&map));
        }
        let records = info_span!("directory").in_scope(|| zip::read_records(&map))?;
        records.iter().try_for_each(|record| check_length(&record.name, record.bytes))?;
        let manifest = info_span!("manifest").in_scope(|| read_manifest(&map, &records))?;
        let index_span = info_span!("tensor index").entered();
        let weights_record = find(&records, entry_names::WEIGHTS)?;
        let weights = Weights::new(map.clone(), weights_record)?;
        weights.index.check_schemes(&manifest)?;
        drop(index_span);
        Ok(Self { path, map, records, manifest, weights })
    }

    /// The path that the archive was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The tensors.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Every entry in file order, the manifest last.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.records.iter().map(|record| self.entry_of(record))
    }

    /// The entry called `name`.
    ///
    /// # Errors
    /// [`FormatError::MissingEntry`] with the names of those present.
    pub fn entry(&self, name: &str) -> Result<Entry<'_>, FormatError> {
        find(&self.records, name).map(|record| self.entry_of(record))
    }

    /// The data of the entry called `name` together with the map, so that it can outlive the archive.
    ///
    /// # Errors
    /// [`FormatError::MissingEntry`] with the names of those present.
    pub fn entry_bytes(&self, name: &str) -> Result<MappedBytes, FormatError> {
        let record = find(&self.records, name)?;
        let range = record.data_offset() as usize..record.data_end() as usize;
        Ok(MappedBytes::new(self.map.clone(), range))
    }

    /// Compares an entry's bytes with its checksum and its digest.
    ///
    /// # Errors
    /// [`FormatError::Digest`] with both values. The manifest cannot contain its own digest and has only a checksum.
    pub fn verify_entry(&self, name: &str) -> Result<(), FormatError> {
        let record = find(&self.records, name)?;
        let data = self.entry_of(record).data;
        check_crc32(record, data)?;
        if let Some(EntryRecord { sha256, .. }) = self.manifest.entries.iter().find(|e| e.name == name) {
            let found = hex(&Sha256::digest(data));
            if found != *sha256 {
                let (entry, expected) = (name.to_owned(), sha256.clone());
                return Err(FormatError::Digest { entry, what: "SHA-256", found, expected });
            }
        }
        Ok(())
    }

    fn entry_of<'a>(&'a self, record: &'a Record) -> Entry<'a> {
        let data = &self.map[record.data_offset() as usize..record.data_end() as usize];
        Entry { name: &record.name, offset: record.data_offset(), data }
    }
}

impl Weights {
    /// Reads the index of the safetensors file that `record` describes.
    pub(crate) fn new(map: MappedFile, record: &Record) -> Result<Self, FormatError> {
        let (start, end) = (record.data_offset() as usize, record.data_end() as usize);
        let index = WeightsIndex::parse(&map[start..end])?;
        let data_start = start + index.data_start();
        Ok(Self { map, index: Arc::new(index), data_start })
    }

    /// The index: names, types, shapes and offsets.
    pub fn index(&self) -> &WeightsIndex {
        &self.index
    }

    /// The tensor called `name`, in the map.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        let info = self.index.get(name)?;
        Some(Tensor { info, data: self.data(info.begin..info.end) })
    }

    /// The bytes at `range`, counted from the start of the data part: `begin..end` of a [`TensorInfo`] is a tensor's data,
    /// without a look-up of its name.
    ///
    /// # Panics
    /// If the range passes the end of the file.
    pub fn data(&self, range: Range<usize>) -> &[u8] {
        &self.map[self.data_start..][range]
    }

    /// Starts reading the named tensors, in this order, if they are not in memory. Returns immediately; unknown names
    /// are skipped. No effect except on Linux.
    pub fn read_ahead<'n>(&self, names: impl Iterator<Item = &'n str>) {
        let parts: Vec<_> = names
            .filter_map(|name| self.index.get(name))
            .map(|info| self.data_start + info.begin..self.data_start + info.end)
            .collect();
        self.map.read_ahead(&parts);
    }

    /// Offset of a tensor in the archive file.
    pub fn file_offset(&self, info: &TensorInfo) -> u64 {
        (self.data_start + info.begin) as u64
    }
}

fn find<'r>(records: &'r [Record], name: &str) -> Result<&'r Record, FormatError> {
    records.iter().find(|r| r.name == name).ok_or_else(|| FormatError::MissingEntry {
        entry: name.to_owned(),
        present: records.iter().take(16).map(|r| r.name.as_str()).collect::<Vec<_>>().join(", "),
    })
}

/// Reads the manifest and checks that it lists exactly the entries of the container.
fn read_manifest(map: &[u8], records: &[Record]) -> Result<Manifest, FormatError> {
    let record = find(records, entry_names::MANIFEST)?;
    if let Some(last) = records.last().filter(|last| last.name != record.name) {
        return Err(FormatError::Manifest(format!("it must be the last entry, which is `{}`", last.name)));
    }
    let json = &map[record.data_offset() as usize..record.data_end() as usize];
    check_crc32(record, json)?;
    let manifest = Manifest::from_json(json)?;
    let in_container: Vec<_> = records
        .iter()
        .filter(|r| r.name != entry_names::MANIFEST)
        .map(|r| (r.name.as_str(), r.bytes))
        .collect();
    let listed: Vec<_> = manifest.entries.iter().map(|e| (e.name.as_str(), e.bytes)).collect();
    if listed != in_container {
        let difference = listed.iter().zip(&in_container).find(|(a, b)| a != b);
        return Err(FormatError::Manifest(match difference {
            Some(((name, bytes), (found, found_bytes))) => format!(
                "entry `{name:.80}` of {bytes} bytes is listed where the container has `{found}` of {found_bytes}"
            ),
            None => {
                format!("{} entries are listed, the container holds {}", listed.len(), in_container.len())
            }
        }));
    }
    Ok(manifest)
}

/// Checks that an entry is not longer than its kind may be.
pub(crate) fn check_length(name: &str, bytes: u64) -> Result<(), FormatError> {
    match entry_names::max_bytes(name) {
        Some(allowed) if bytes > allowed => {
            Err(FormatError::EntryTooLong { entry: name.to_owned(), bytes, allowed })
        }
        _ => Ok(()),
    }
}

fn check_crc32(record: &Record, data: &[u8]) -> Result<(), FormatError> {
    let found = crc32fast::hash(data);
    if found != record.crc32 {
        return Err(FormatError::Digest {
            entry: record.name.clone(),
            what: "CRC-32",
            found: format!("{found:08x}"),
            expected: format!("{:08x}", record.crc32),
        });
    }
    Ok(())
}

/// Lower-case hexadecimal, the form of all digests in an archive.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a string takes any text");
        out
    })
}
