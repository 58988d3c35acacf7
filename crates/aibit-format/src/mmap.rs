//! The one place that maps files.
#![expect(unsafe_code, reason = "a memory map aliases a file that other programs may change")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::FormatError;

/// Maps a regular file read-only and shared, so that its pages stay the page cache's own.
///
/// Whoever truncates the file while it is mapped makes the next access to the lost pages a bus error; whoever
/// overwrites it in place changes what is computed. Writers of this crate never do either: they rename.
pub(crate) fn map(path: &Path) -> Result<Arc<Mmap>, FormatError> {
    let io = |action| move |source| FormatError::Io { action, path: path.to_owned(), source };
    // Looked at before opening: opening a pipe waits for a writer.
    let metadata = std::fs::metadata(path).map_err(io("open"))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(FormatError::NotAFile { path: path.to_owned(), found });
    }
    let file = File::open(path).map_err(io("open"))?;
    map_file(&file).map_err(io("map"))
}

/// Maps an open file; see [`map`].
pub(crate) fn map_file(file: &File) -> std::io::Result<Arc<Mmap>> {
    // SAFETY: the bytes are only ever read, as plain integers and floats of which every bit pattern is valid, or
    // through checked parsers; all lengths come from the map itself. Concurrent modification of the file is outside
    // Rust's model for every mmap user; the module documentation says what it would do.
    Ok(Arc::new(unsafe { Mmap::map(file)? }))
}
