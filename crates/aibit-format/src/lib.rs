#![doc = include_str!("../README.md")]
//! # In detail
//!
//! The `.aibit` archive: bytes, names, shapes and digests. No arithmetic on weights happens here.
//!
//! Version 1 is a restricted form of ZIP, specified in `docs/format.md`: every entry is stored uncompressed and
//! starts on a page, every header has exactly one valid encoding, and every byte belongs to an entry or a header. Any
//! unzip tool can open an archive, weights are used in place in a memory map, and a reader can compare headers
//! instead of interpreting them.
//!
//! - [`Archive`] opens a file, treating it as hostile, and gives access to entries and tensors in the map.
//! - [`ArchiveWriter`] streams entries into a partial file and renames it when it is complete.
//! - [`OutputTarget`], [`OutputFile`] and [`OutputFolder`] write every kind of output, not only archives.
//! - [`Manifest`] describes the contents: digests, tensor schemes, recipe, provenance.
//! - [`WeightsIndex`] is the header of `weights.safetensors`: the offset of each tensor.

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
