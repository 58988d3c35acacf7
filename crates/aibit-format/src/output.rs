//! Output files and folders: what may be replaced, and how an output appears complete or not at all.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::partial::{PartialFile, PartialFolder, is_partial_name};
use crate::{Archive, FormatError};

/// What an output may replace. A path that does not exist, an empty file and an empty folder may always be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Nothing.
    Nothing,
    /// An archive, which can be made again from its source.
    Archive,
    /// Any regular file, and any folder that contains the files of a model and no other folders.
    Any,
}

/// Why a path is not overwritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputRefusal {
    /// A device, pipe or socket.
    #[error("it is a {found}, which must not be replaced; give the name of a file")]
    Special {
        /// What it is.
        found: &'static str,
    },
    /// A folder instead of a file.
    #[error("it is a folder; give the name of a file")]
    Folder,
    /// A file instead of a folder.
    #[error("it is a file; give the name of a folder")]
    File,
    /// Existing content would be lost.
    #[error("it exists and is {found}; give another name, or use --force to replace it")]
    Exists {
        /// What it is.
        found: &'static str,
    },
    /// A folder that contains more than a model.
    #[error(
        "it contains {found}, and --force replaces only folders that contain nothing but a model; give another name"
    )]
    NotOnlyAModel {
        /// The other content.
        found: String,
    },
    /// A file that is a source of the output.
    #[error("it is the same file as the source {}; give another name", .source_file.display())]
    Source {
        /// The file, as the source names it.
        source_file: PathBuf,
    },
    /// A folder that contains a source of the output.
    #[error("it contains the source {}; give another name", .source_file.display())]
    HoldsSource {
        /// The file, as the source names it.
        source_file: PathBuf,
    },
}

/// A file that marks a folder as a model; it is the last to appear.
const MODEL_FILE: &str = "config.json";

/// A path that has been checked and may be written.
///
/// A symbolic link is followed: the output replaces the file that the link points to, and the link stays.
#[derive(Debug)]
pub struct OutputTarget {
    path: PathBuf,
    /// The path with links resolved.
    real: PathBuf,
    existing: Option<Metadata>,
    is_archive: bool,
    /// Files of the folder to be replaced.
    files: Vec<PathBuf>,
}

impl OutputTarget {
    /// A file target. Reads only metadata, and with [`Replace::Archive`] the structure of an existing file.
    ///
    /// # Errors
    /// [`FormatError::Output`] for a device, pipe, socket or folder, and for a file that may not be replaced;
    /// [`FormatError::Io`] for a name that the system does not accept.
    pub fn file(path: &Path, replace: Replace) -> Result<Self, FormatError> {
        let mut target = Self::look_at(path)?;
        let Some(existing) = &target.existing else { return Ok(target) };
        if existing.is_dir() {
            return Err(target.refused(OutputRefusal::Folder));
        }
        let is_empty = existing.len() == 0;
        target.is_archive = replace == Replace::Archive && Archive::open(&target.real).is_ok();
        if !is_empty && replace != Replace::Any && !target.is_archive {
            let found = if replace == Replace::Archive { "no archive" } else { "not empty" };
            return Err(target.refused(OutputRefusal::Exists { found }));
        }
        Ok(target)
    }

    /// A folder target.
    ///
    /// # Errors
    /// As [`OutputTarget::file`].
    pub fn folder(path: &Path, replace: Replace) -> Result<Self, FormatError> {
        let mut target = Self::look_at(path)?;
        let Some(existing) = &target.existing else { return Ok(target) };
        if !existing.is_dir() {
            return Err(target.refused(OutputRefusal::File));
        }
        let io = |source| FormatError::Io { action: "read", path: target.path.clone(), source };
        for entry in fs::read_dir(&target.real).map_err(io)? {
            let entry = entry.map_err(io)?;
            let (path, name) = (entry.path(), entry.file_name());
            if is_partial_name(&name.to_string_lossy()) {
                continue;
            }
            if replace != Replace::Any {
                return Err(target.refused(OutputRefusal::Exists { found: "not empty" }));
            }
            if !entry.file_type().map_err(io)?.is_file() {
                let found = format!("`{}`, which is no regular file", name.display());
                return Err(target.refused(OutputRefusal::NotOnlyAModel { found }));
            }
            target.files.push(path);
        }
        if !target.files.is_empty() && !target.files.iter().any(|path| path.ends_with(MODEL_FILE)) {
            let found = format!("files but no {MODEL_FILE}");
            return Err(target.refused(OutputRefusal::NotOnlyAModel { found }));
        }
        Ok(target)
    }

    fn look_at(path: &Path) -> Result<Self, FormatError> {
        let io = |source| FormatError::Io { action: "write", path: path.to_owned(), source };
        let existing = match fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io(e)),
        };
        let real = follow_links(path).map_err(io)?;
        let target = Self { path: path.to_owned(), real, existing, is_archive: false, files: Vec::new() };
        match target.existing.as_ref().and_then(special) {
            Some(found) => Err(target.refused(OutputRefusal::Special { found })),
            None => Ok(target),
        }
    }

    /// The path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it replaces an archive.
    pub fn is_archive(&self) -> bool {
        self.is_archive
    }

    /// Checks that none of `sources` is this file or is in this folder, under any name or link. Sources that do not
    /// exist are skipped.
    ///
    /// # Errors
    /// [`FormatError::Output`] with the source.
    pub fn check_apart_from(
        &self,
        sources: impl IntoIterator<Item = impl AsRef<Path>>,
    ) -> Result<(), FormatError> {
        let Some(existing) = &self.existing else { return Ok(()) };
        let is_folder = existing.is_dir();
        let replaced = if is_folder { self.files.as_slice() } else { std::slice::from_ref(&self.real) };
        let replaced: Vec<_> = replaced.iter().filter_map(|path| file_id(path)).collect();
        for source in sources {
            let source = source.as_ref();
            if file_id(source).is_some_and(|id| replaced.contains(&id)) {
                let source_file = source.to_owned();
                return Err(self.refused(match is_folder {
                    true => OutputRefusal::HoldsSource { source_file },
                    false => OutputRefusal::Source { source_file },
                }));
            }
        }
        Ok(())
    }

    fn refused(&self, reason: OutputRefusal) -> FormatError {
        FormatError::Output { path: self.path.clone(), reason }
    }

    /// The name of its partial file and the folder to create it in.
    fn place(&self) -> (&Path, String) {
        let folder = match self.real.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = self.real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (folder, name)
    }

    fn io(&self, action: &'static str) -> impl Fn(io::Error) -> FormatError {
        let path = self.path.clone();
        move |source| FormatError::Io { action, path: path.clone(), source }
    }
}

/// The path that symbolic links point to, whether or not it exists.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                let to = fs::read_link(&path)?;
                path = path.parent().map_or_else(|| to.clone(), |parent| parent.join(&to));
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// The kind of something that is neither a file nor a folder.
fn special(metadata: &Metadata) -> Option<&'static str> {
    if metadata.is_file() || metadata.is_dir() {
        return None;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_fifo() {
            return Some("pipe");
        }
        if kind.is_socket() {
            return Some("socket");
        }
    }
    Some("device")
}

/// The identity of a file, independent of its name.
#[cfg(unix)]
fn file_id(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn file_id(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// A file that appears under its name when it is complete. Dropping it removes the partial file.
#[derive(Debug)]
pub struct OutputFile {
    target: OutputTarget,
    partial: PartialFile,
}

impl OutputFile {
    /// Creates the partial file in the target's folder, so that it can be renamed. It has the permissions of the file
    /// that it will replace, or those given by the umask.
    ///
    /// # Errors
    /// [`FormatError::Io`] if the folder is missing or not writable.
    pub fn create(target: OutputTarget) -> Result<Self, FormatError> {
        let (folder, name) = target.place();
        let failed = |source| FormatError::Io { action: "create a file in", path: folder.to_owned(), source };
        let partial = PartialFile::create(folder, &name).map_err(failed)?;
        if let Some(existing) = &target.existing {
            partial.file().set_permissions(plain_permissions(existing)).map_err(failed)?;
        }
        Ok(Self { target, partial })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        self.partial.file()
    }

    /// The path of the partial file.
    pub fn partial_path(&self) -> &Path {
        self.partial.path()
    }

    /// The final path, as given.
    pub fn path(&self) -> &Path {
        self.target.path()
    }

    /// Syncs the file and renames it to its final name, replacing an existing file. Returns its length.
    ///
    /// # Errors
    /// [`FormatError::Io`]; the target is then unchanged.
    pub fn finish(self) -> Result<u64, FormatError> {
        let Self { target, partial } = self;
        // Something else may have been created there meanwhile.
        let now = fs::symlink_metadata(&target.real).ok();
        if let Some(found) = now.as_ref().filter(|now| !now.is_symlink()).and_then(special) {
            return Err(target.refused(OutputRefusal::Special { found }));
        }
        let write_error = target.io("write");
        partial.file().sync_all().map_err(&write_error)?;
        let length = partial.file().metadata().map_err(&write_error)?.len();
        partial.rename(&target.real).map_err(&write_error)?;
        sync_folder(target.place().0).map_err(&write_error)?;
        Ok(length)
    }
}

/// The permissions of an existing file without the set-user-ID, set-group-ID and sticky bits.
fn plain_permissions(existing: &Metadata) -> fs::Permissions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::Permissions::from_mode(existing.permissions().mode() & 0o777)
    }
    #[cfg(not(unix))]
    existing.permissions()
}

/// A folder whose files appear when all of them are complete. Dropping it removes the partial folder.
#[derive(Debug)]
pub struct OutputFolder {
    target: OutputTarget,
    partial: PartialFolder,
}

impl OutputFolder {
    /// Creates the partial folder: next to a target that does not exist, which then appears in one step, or inside an
    /// existing one, which may be a mount point or have a parent that this process cannot write to.
    ///
    /// # Errors
    /// [`FormatError::Io`] if it cannot be created.
    pub fn create(target: OutputTarget) -> Result<Self, FormatError> {
        let (mut folder, name) = target.place();
        if target.existing.is_some() {
            folder = &target.real;
        }
        let failed =
            |source| FormatError::Io { action: "create a folder in", path: folder.to_owned(), source };
        let partial = PartialFolder::create(folder, &name).map_err(failed)?;
        Ok(Self { target, partial })
    }

    /// The path of the partial folder.
    pub fn partial_path(&self) -> &Path {
        self.partial.path()
    }

    /// Creates a file in it.
    ///
    /// # Errors
    /// [`FormatError::Io`].
    pub fn create_file(&self, name: &str) -> Result<File, FormatError> {
        let failed = |source| FormatError::Io { action: "create", path: self.target.path.join(name), source };
        self.partial.create_file(name).map_err(failed)
    }

    /// Syncs the files and renames the folder, or moves the files into an existing folder, whose own files are
    /// removed.
    ///
    /// # Errors
    /// [`FormatError::Io`].
    pub fn finish(self) -> Result<(), FormatError> {
        let Self { target, partial } = self;
        let write_error = target.io("write");
        sync_files(partial.path()).map_err(&write_error)?;
        if target.existing.is_some() {
            partial.move_up(&target.files, MODEL_FILE).map_err(&write_error)?;
            sync_folder(&target.real).map_err(&write_error)
        } else {
            partial.rename(&target.real).map_err(&write_error)?;
            sync_folder(target.place().0).map_err(&write_error)
        }
    }
}

fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_files(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

/// Syncs a folder's entries.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}
