#![doc = include_str!("../README.md")]
//! # In detail
//!
//! [`fetch`] downloads a model into the shared cache, [`fetch_pinned`] downloads files with known digests into a folder.
//!
//! In the cache `blobs/<etag>` holds contents, `snapshots/<commit>/<file>` points at them, and `refs/<revision>` names a
//! commit, as `hf-hub` lays it out. The transfer is ours, because that of `hf-hub` 0.5 checks neither length nor digest
//! before it renames, appends a whole file to its prefix when a server ignores `Range`, cannot finish a partial
//! file that is already complete, has no timeouts, and sends the token on to the storage host.
//!
//! What must stay true here: a final name appears by a rename, after the length (and the SHA-256, where
//! one is known) was checked; and nothing a server sends becomes part of a path unless it is a plain name.

mod cache;
mod client;
mod disk;
mod download;
mod error;
mod fetch;
mod files;
mod options;
mod progress;
mod remote;
mod repository;

pub use error::HubError;
pub use fetch::{HubModel, PinnedFile, fetch, fetch_pinned, is_intact};
pub use files::max_file_bytes;
pub use options::HubOptions;
pub use progress::Progress;
pub use repository::looks_like_repository;
