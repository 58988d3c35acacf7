//! Archives: what is written is read back, and nothing else is.

mod containers;
mod files;
mod flips;
mod manifests;
mod random;
mod round_trip;
mod support;
mod values;
mod weights_headers;
mod writing;
