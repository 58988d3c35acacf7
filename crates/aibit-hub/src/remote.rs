//! A file as the hub announces it, and what is accepted of it.

use crate::files::max_file_bytes;
use crate::{HubError, PinnedFile};

/// A file as the hub announces it.
pub(crate) struct Remote {
    pub(crate) file: String,
    pub(crate) url: String,
    /// Content address: names the blob.
    pub(crate) etag: String,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<String>,
}

impl Remote {
    /// Narrows what is accepted to `pin`, or finds before any transfer that it cannot match.
    pub(crate) fn pin(&mut self, pin: &PinnedFile<'_>) -> Result<(), HubError> {
        if let (Some(expected), Some(found)) = (pin.bytes, self.size) {
            self.check_size(expected, found)?;
        }
        if let (Some(expected), Some(found)) = (pin.sha256, self.sha256.as_deref()) {
            self.check_digest(expected, found)?;
        }
        self.size = pin.bytes.or(self.size);
        self.sha256 = pin.sha256.map(str::to_owned).or_else(|| self.sha256.take());
        Ok(())
    }

    pub(crate) fn check_size(&self, expected: u64, found: u64) -> Result<(), HubError> {
        if expected == found {
            return Ok(());
        }
        Err(HubError::Size { file: self.file.clone(), url: self.url.clone(), expected, found })
    }

    /// The longest that a file of this name may be. Weights have no limit of their own, but must say how long they are.
    fn limit(&self) -> u64 {
        let is_weights = [".safetensors", ".bin"].iter().any(|ending| self.file.ends_with(ending));
        if is_weights { self.size.unwrap_or(0) } else { max_file_bytes(&self.file) }
    }

    /// Checks that `length` bytes of it, with more to come or not, are not too many.
    pub(crate) fn check_limit(&self, length: u64, found: impl FnOnce() -> String) -> Result<(), HubError> {
        let limit = self.limit();
        if length <= limit {
            return Ok(());
        }
        Err(HubError::TooLong { file: self.file.clone(), url: self.url.clone(), limit, found: found() })
    }

    pub(crate) fn check_digest(&self, expected: &str, found: &str) -> Result<(), HubError> {
        if expected.eq_ignore_ascii_case(found) {
            return Ok(());
        }
        Err(HubError::Digest {
            file: self.file.clone(),
            url: self.url.clone(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        })
    }
}
