//! Files and folders, changed in one step each.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::HubError;

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
    move |source| HubError::Io { action, path: path.to_owned(), source }
}

/// SHA-256 of a file, in lower-case hex.
pub(crate) fn file_sha256(path: &Path) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(io_error("read", path))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(io_error("read", path))? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Puts what `write` makes at a name of its own under `path`, in one step.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), HubError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let new = beside(path, &format!("{}-{count}.new", std::process::id()));
    remove_if_there(&new)?;
    write(&new).and_then(|()| fs::rename(&new, path)).map_err(io_error("write", path))
}

/// Waits until no other process fetches `path`. Held until the file returned is dropped.
pub(crate) fn lock(path: &Path) -> Result<File, HubError> {
    // The same file that `hf-hub` locks. It stays: deleting it could part those who wait from those who come.
    let path = beside(path, "lock");
    let file = File::create(&path).map_err(io_error("write", &path))?;
    match file.lock() {
        // A file system without locks: the rename at the end still keeps every name sound.
        Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(io_error("lock", &path)(error)),
        _ => Ok(file),
    }
}

/// `path` with `.extension` appended.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

pub(crate) fn remove_if_there(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("delete", path)(error)),
        _ => Ok(()),
    }
}

pub(crate) fn create_folder(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(io_error("create", folder))
}
