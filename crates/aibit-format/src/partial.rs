//! Partial files and folders: recognisable by name, and removed if they are never completed.
//!
//! Each has a name of its own in its target's folder, `.aibit-NAME-….partial`, and is locked for the life of its
//! process. A file without a name (`O_TMPFILE`) would leave nothing behind after `kill -9`, but cannot replace a file
//! atomically, and network file systems lack it. A process that ends abruptly (`kill -9`, a power cut) therefore
//! leaves a partial file, and the next process that writes to the folder removes those that are not locked.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PREFIX: &str = ".aibit-";
const SUFFIX: &str = ".partial";

/// Maximum length of the target's name in the partial name; file systems allow names of 255 bytes.
const MAX_STEM: usize = 160;

/// Partial files and folders of this process. Locked while one is created, renamed or removed.
static PARTIALS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn partials() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    PARTIALS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every partial file and folder of this process, and blocks any thread that would create or complete
/// another. For a signal handler that then ends the process.
pub fn remove_partials_for_exit() {
    let partials = partials();
    for path in partials.iter() {
        remove(path);
    }
    std::mem::forget(partials);
}

fn remove(path: &Path) {
    // A failure cannot be reported any more.
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Whether a file name is that of a partial file or folder.
pub(crate) fn is_partial_name(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// Removes what dead processes have left in `folder`. A locked file belongs to a living process; files that cannot be
/// opened or locked are left alone.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_str().is_some_and(is_partial_name)) {
        let path = entry.path();
        // Neither a link nor a pipe, which would block on opening.
        let is_ours = fs::symlink_metadata(&path).is_ok_and(|m| m.is_file() || m.is_dir());
        let Some(file) = is_ours.then(|| File::open(&path).ok()).flatten() else { continue };
        // It may have been renamed to its final name meanwhile.
        if file.try_lock().is_ok() && is_at(&file, &path) {
            remove(&path);
        }
    }
}

/// Whether `path` refers to `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(named)) => id(file) == id(named),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// Creates a file or folder with `create` under a new name in `folder`, locks it, and registers it.
fn create_locked(
    folder: &Path,
    target_name: &str,
    create: impl Fn(&Path) -> io::Result<File>,
) -> io::Result<(PathBuf, File)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let end = (0..=target_name.len().min(MAX_STEM)).rev().find(|end| target_name.is_char_boundary(*end));
    let stem = &target_name[..end.unwrap_or(0)];
    let mut partials = partials();
    remove_abandoned(folder);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{PREFIX}{stem}-{:x}-{number}{SUFFIX}", std::process::id()));
        let file = match create(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
        };
        // Another process may have considered it abandoned before it was locked.
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => continue,
            // A file system without locks, where no process can consider it abandoned.
            Err(TryLockError::Error(_)) => {}
            Ok(()) if !is_at(&file, &path) => continue,
            Ok(()) => {}
        }
        partials.insert(path.clone());
        return Ok((path, file));
    }
}

/// A partial file; removed when it is dropped.
#[derive(Debug)]
pub struct PartialFile {
    path: PathBuf,
    file: File,
}

impl PartialFile {
    /// Creates a file in `folder`, readable and writable, with permissions given by the umask. `target_name` is the
    /// final name.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(folder: &Path, target_name: &str) -> io::Result<Self> {
        let create = |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let (path, file) = create_locked(folder, target_name, create)?;
        Ok(Self { path, file })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames it to its final name on the same file system, replacing an existing file.
    pub(crate) fn rename(self, target: &Path) -> io::Result<()> {
        let mut partials = partials();
        fs::rename(&self.path, target)?;
        partials.remove(&self.path);
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        remove_listed(&self.path);
    }
}

/// A partial folder; removed with its contents when it is dropped.
#[derive(Debug)]
pub struct PartialFolder {
    path: PathBuf,
    /// Holds the lock.
    _folder: File,
}

impl PartialFolder {
    /// Creates a folder in `parent`. `target_name` is its final name, or its purpose.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(parent: &Path, target_name: &str) -> io::Result<Self> {
        let create = |path: &Path| {
            fs::create_dir(path)?;
            File::open(path)
        };
        let (path, folder) = create_locked(parent, target_name, create)?;
        Ok(Self { path, _folder: folder })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a file in it, with permissions given by the umask.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create_file(&self, name: &str) -> io::Result<File> {
        let _partials = partials();
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        File::create_new(path)
    }

    /// Renames it to its final name, which must not exist.
    pub(crate) fn rename(self, target: &Path) -> io::Result<()> {
        let mut partials = partials();
        fs::rename(&self.path, target)?;
        partials.remove(&self.path);
        Ok(())
    }

    /// Moves its files to its parent folder, after removing `others` there; `last` is moved last.
    pub(crate) fn move_up(self, others: &[PathBuf], last: &str) -> io::Result<()> {
        let mut partials = partials();
        let parent = self.path.parent().expect("it was created in a folder");
        let names = fs::read_dir(&self.path)?.map(|e| e.map(|e| e.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort_by_key(|name| name == last);
        for other in others {
            if other.file_name().is_none_or(|name| !names.iter().any(|new| new == name)) {
                fs::remove_file(other)?;
            }
        }
        for name in names {
            fs::rename(self.path.join(&name), parent.join(&name))?;
        }
        fs::remove_dir(&self.path)?;
        partials.remove(&self.path);
        Ok(())
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        remove_listed(&self.path);
    }
}

/// Removes what has not been renamed.
fn remove_listed(path: &Path) {
    if partials().remove(path) {
        remove(path);
    }
}
