//! Memory maps of files; the only module that creates them.
#![expect(unsafe_code, reason = "a memory map aliases a file that other programs may change")]

use std::fs::{File, Metadata};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::FormatError;
#[cfg(target_os = "linux")]
use crate::block_writer::BLOCK;

/// Number of places at which a file is sampled to find out whether it is in memory.
#[cfg(target_os = "linux")]
const READ_AHEAD_SAMPLES: usize = 16;

/// A regular file, mapped read-only and shared, so that its pages are those of the page cache; cheap to clone.
///
/// Truncating the file while it is mapped causes a bus error on the next access to the lost pages; overwriting it in
/// place changes what is computed. Writers in this crate do neither: they rename.
#[derive(Debug, Clone)]
pub struct MappedFile(Arc<Mmap>);

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`FormatError::NotAFile`] for folders, devices and pipes, [`FormatError::Io`]. An empty file, which cannot be
    /// mapped on every platform, gives the latter.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let io = |action| move |source| FormatError::Io { action, path: path.to_owned(), source };
        regular_file(path)?;
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

    /// Advises the kernel to use large pages, for files that are used as a whole. Where the file system supports
    /// them, one access reads and maps two megabytes instead of some kilobytes, and the large pages stay in the page
    /// cache for later processes. Only advice, without effect on what is already in memory.
    pub(crate) fn use_large_pages(&self) {
        #[cfg(target_os = "linux")]
        let _ = self.0.advise(memmap2::Advice::HugePage);
    }

    /// Reads those of `parts` that are not in memory, in order, on a thread of its own. Returns immediately, and
    /// starts no thread if a sample of the parts is in memory. Only advice: a failure affects nothing but the time of
    /// the first access.
    ///
    /// The kernel's own readahead detects sequential access, and a kernel that works on several rows at a time does
    /// not look sequential.
    pub(crate) fn read_ahead(&self, parts: &[Range<usize>]) {
        #[cfg(target_os = "linux")]
        self.read_blocks(parts);
        #[cfg(not(target_os = "linux"))]
        let _ = parts;
    }

    #[cfg(target_os = "linux")]
    fn read_blocks(&self, parts: &[Range<usize>]) {
        let of_part = |part: &Range<usize>| part.start / BLOCK..part.end.min(self.0.len()).div_ceil(BLOCK);
        let mut blocks: Vec<usize> = parts.iter().flat_map(of_part).collect();
        blocks.dedup(); // one part may end in the block in which the next begins
        // Each query costs a microsecond.
        let every = blocks.len().div_ceil(READ_AHEAD_SAMPLES).max(1);
        if blocks.iter().step_by(every).all(|&block| is_in_memory(&self.0, block * BLOCK)) {
            return;
        }
        let map = Arc::downgrade(&self.0);
        let read = move || {
            for start in blocks.into_iter().map(|block| block * BLOCK) {
                let Some(map) = map.upgrade() else { return }; // all users have dropped the map
                if !is_in_memory(&map, start) {
                    let len = BLOCK.min(map.len() - start);
                    let _ = map.advise_range(memmap2::Advice::PopulateRead, start, len);
                }
            }
        };
        let _ = std::thread::Builder::new().name("aibit-read".to_owned()).spawn(read);
    }

    /// Drops a part's pages from memory (`MADV_DONTNEED`), so that a pass over a large file does not keep it in
    /// memory. A later access reads them again. Only advice: a failure changes nothing.
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

/// Metadata of the file at `path`, following a link. To be called before a file is opened: opening a pipe waits for a
/// writer, and a device has no end.
///
/// # Errors
/// [`FormatError::NotAFile`] for folders, devices and pipes, [`FormatError::Io`].
pub fn regular_file(path: &Path) -> Result<Metadata, FormatError> {
    let metadata = std::fs::metadata(path).map_err(|source| FormatError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    })?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(FormatError::NotAFile { path: path.to_owned(), found });
    }
    Ok(metadata)
}

/// Whether the page cache holds the page at `offset`, a multiple of [`BLOCK`] inside the map. For files that this
/// user may not write, the kernel does not reveal it, and the answer is yes.
#[cfg(target_os = "linux")]
fn is_in_memory(map: &Mmap, offset: usize) -> bool {
    assert!(offset < map.len() && offset.is_multiple_of(BLOCK), "{offset} in a map of {}", map.len());
    let mut state = 0_u8;
    // SAFETY: the address is that of a page of the map, because maps start on a page and `offset` is a multiple of any
    // page size inside it; one page gives one byte, for which `state` has room.
    let answer = unsafe { libc::mincore(map.as_ptr().add(offset).cast_mut().cast(), 1, &raw mut state) };
    answer != 0 || state & 1 == 1
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
