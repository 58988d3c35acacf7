#![doc = include_str!("../README.md")]
//! # In detail
//!
//! The `.aibit` archive: bytes, names, shapes and digests. No arithmetic on weights happens here.
//!
//! Version 1 is a ZIP file with a discipline (`docs/format.md` is the contract): every entry is stored
//! uncompressed and starts on a page, every header has exactly one possible encoding, and every byte
//! belongs to an entry or a header. So any unzip tool opens an archive, a memory map serves its weights in
//! place, and a reader can compare headers instead of interpreting them.
//!
//! - [`Archive`] opens a file, treating it as hostile, and hands out entries and tensors from the map.
//! - [`ArchiveWriter`] streams entries into a partial file and renames it when all is written.
//! - [`OutputTarget`], [`OutputFile`] and [`OutputFolder`] are the way of every result to the disk, archive or not.
//! - [`Manifest`] says what is inside: digests, tensor schemes, recipe, provenance.
//! - [`WeightsIndex`] is the header of `weights.safetensors`: where each tensor lies.

mod archive;
mod block_writer;
mod dtype;
mod error;
mod json;
mod manifest;
mod mmap;
mod output;
mod partial;
mod sniff;
mod verify;
mod weights;
mod write_back;
mod writer;
mod zip;

pub use archive::{Archive, Entry, Tensor, Weights, hex};
pub use dtype::{Dtype, Part, Scheme};
pub use error::FormatError;
pub use manifest::{
    EntryRecord, FORMAT_VERSION, JoinedRows, Manifest, Override, Provenance, Recipe, Source, SourceFile,
    TensorRecord, entry_names,
};
pub use mmap::{MappedBytes, MappedFile, regular_file};
pub use output::{OutputFile, OutputFolder, OutputRefusal, OutputTarget, Replace};
pub use partial::{PartialFile, PartialFolder, remove_partials_for_exit};
pub use sniff::FileKind;
pub use verify::check_values;
pub use weights::{TensorInfo, WeightsIndex, WeightsLayout};
pub use writer::{ArchiveWriter, EntryWriter, copy_archive};
