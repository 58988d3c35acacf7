//! The transfer of one file, which goes on where it broke and ends with a rename.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ureq::Body;
use ureq::http::{HeaderMap, StatusCode};

use crate::client::{Client, Failure, Wanted, answer, check_status, text, transport};
use crate::disk::{beside, create_folder, file_sha256, io_error, lock, remove_if_there};
use crate::remote::Remote;
use crate::{HubError, Progress};

impl Client {
    /// Brings `remote` to `path`, unless a file of its length is there.
    pub(crate) fn download(
        &self,
        remote: &Remote,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        create_folder(path.parent().unwrap_or(Path::new(".")))?;
        let _lock = lock(path)?;
        // Looked at under the lock: somebody else may have brought the file while we waited for it.
        if fs::metadata(path).is_ok_and(|held| remote.size.is_none_or(|size| size == held.len())) {
            return Ok(());
        }
        match remote.size {
            Some(size) => remote.check_limit(size, || format!("{size}"))?,
            None => remote.check_limit(1, || "an unknown number of them".to_owned())?,
        }
        let part = beside(path, "part");
        if remote.sha256.is_none() {
            // Nothing would tell that a prefix from an earlier run belongs to another version.
            remove_if_there(&part)?;
        }
        let result = self.retry(
            || fs::metadata(&part).map_or(0, |part| part.len()),
            || self.transfer(remote, &part, progress),
        );
        let result = result.and_then(|()| match &remote.sha256 {
            Some(expected) => remote.check_digest(expected, &file_sha256(&part)?),
            None => Ok(()),
        });
        if let Err(error) = result {
            if !matches!(error, HubError::Transport { .. } | HubError::Status { .. } | HubError::Io { .. }) {
                remove_if_there(&part)?;
            }
            return Err(error);
        }
        fs::rename(&part, path).map_err(io_error("write", path))?;
        progress.finish();
        Ok(())
    }

    /// One attempt to complete `part`, from where it ends.
    fn transfer(&self, remote: &Remote, part: &Path, progress: &dyn Progress) -> Result<(), Failure> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let mut file = options.open(part).map_err(io_error("write", part))?;
        let held = file.metadata().map_err(io_error("read", part))?.len();
        let mut start = match remote.size {
            Some(size) if held <= size => held,
            _ => 0,
        };
        progress.start(&remote.file, remote.size.unwrap_or(0));
        if remote.size != Some(start) {
            let response = self.send(&remote.url, Wanted::Content { from: start })?;
            let status = response.status();
            if status == StatusCode::RANGE_NOT_SATISFIABLE {
                // Only a file that ends before `start` cannot go on from there.
                remote.check_size(remote.size.unwrap_or(0), total(response.headers()).unwrap_or(start))?;
            }
            check_status(&remote.url, status)?;
            if status != StatusCode::PARTIAL_CONTENT {
                start = 0; // the server sends the whole file, asked for or not
            } else if !text(response.headers(), "content-range")
                .is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
            {
                return Err(answer(&remote.url, format!("not the range from byte {start}")).into());
            }
            let whole = match status {
                StatusCode::PARTIAL_CONTENT => total(response.headers()),
                _ => text(response.headers(), "content-length").and_then(|length| length.parse().ok()),
            };
            if let (Some(expected), Some(found)) = (remote.size, whole) {
                remote.check_size(expected, found)?;
            }
            file.set_len(start).map_err(io_error("write", part))?;
            file.seek(SeekFrom::Start(start)).map_err(io_error("write", part))?;
            progress.advance(start);
            copy(remote, response.into_body(), &mut file, start, part, progress)?;
        } else {
            progress.advance(start);
        }
        // Before the rename: a name must not reach the disk ahead of its content.
        file.sync_data().map_err(io_error("write", part))?;
        Ok(())
    }
}

/// Appends `body` to `file`, which holds `length` bytes, and checks where it ends.
fn copy(
    remote: &Remote,
    body: Body,
    file: &mut File,
    mut length: u64,
    part: &Path,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let mut reader = body.into_reader();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = reader.read(&mut buffer).map_err(|error| transport(&remote.url, error.into()))?;
        if read == 0 {
            break;
        }
        length += read as u64;
        if let Some(size) = remote.size.filter(|&size| length > size) {
            remote.check_size(size, length)?;
        }
        remote.check_limit(length, || "more".to_owned())?;
        file.write_all(&buffer[..read]).map_err(io_error("write", part))?;
        progress.advance(read as u64);
    }
    if remote.size.is_some_and(|size| length < size) {
        // An answer without a length ended early. Only the next attempt tells a cut from a short file.
        return Err(transport(&remote.url, io::Error::from(io::ErrorKind::UnexpectedEof).into()));
    }
    Ok(())
}

/// The length after the slash of `Content-Range`.
fn total(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-range")?.rsplit_once('/')?.1.parse().ok()
}
