//! The one place that maps files.
#![expect(unsafe_code, reason = "a memory map aliases a file that other programs may change")]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::FormatError;

/// A regular file, mapped read-only and shared, so that its pages stay the page cache's own; cheap to clone.
///
/// Whoever truncates the file while it is mapped makes the next access to the lost pages a bus error; whoever
/// overwrites it in place changes what is computed. Writers of this crate never do either: they rename.
#[derive(Debug, Clone)]
pub struct MappedFile(Arc<Mmap>);

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`FormatError::NotAFile`] for folders, devices and pipes, [`FormatError::Io`]. An empty file cannot be
    /// mapped on every platform and gives one of the latter.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let io = |action| move |source| FormatError::Io { action, path: path.to_owned(), source };
        // Looked at before opening: opening a pipe waits for a writer.
        let metadata = std::fs::metadata(path).map_err(io("open"))?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a folder" } else { "a device or pipe" };
            return Err(FormatError::NotAFile { path: path.to_owned(), found });
        }
        let file = File::open(path).map_err(io("open"))?;
        Self::of(&file).map_err(io("map"))
    }

    /// Maps an open file.
    pub(crate) fn of(file: &File) -> std::io::Result<Self> {
        // SAFETY: the bytes are only ever read, as plain integers and floats of which every bit pattern is valid, or
        // through checked parsers; all lengths come from the map itself. Concurrent modification of the file is
        // outside Rust's model for every user of memory maps; the type's documentation says what it would do.
        Ok(Self(Arc::new(unsafe { Mmap::map(file)? })))
    }

    /// Lets go of the pages of a part that has been read, so that a pass over a large file does not keep it
    /// in memory. A later access reads them again. Advice only: where it fails nothing changes.
    pub fn release(&self, part: Range<usize>) {
        #[cfg(unix)]
        self.advise_dont_need(part);
        #[cfg(not(unix))]
        let _ = part;
    }

    #[cfg(unix)]
    fn advise_dont_need(&self, part: Range<usize>) {
        let len = part.end.min(self.0.len()).saturating_sub(part.start);
        // SAFETY: the map is shared and read-only, so a dropped page is read back from the file as it was; no
        // private change can be lost.
        let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, part.start, len) };
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A part of a mapped file that keeps the map alive; cheap to clone.
#[derive(Debug, Clone)]
pub struct MappedBytes {
    map: MappedFile,
    range: Range<usize>,
}

impl MappedBytes {
    /// The bytes at `range` of `map`.
    ///
    /// # Panics
    /// If `range` is not inside the file.
    pub(crate) fn new(map: MappedFile, range: Range<usize>) -> Self {
        assert!(map.get(range.clone()).is_some(), "bytes {range:?} of a file of {}", map.len());
        Self { map, range }
    }
}

impl Deref for MappedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}
