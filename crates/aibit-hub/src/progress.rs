/// Receives the progress of a long operation: a download, or the passes over a checkpoint.
pub trait Progress: Sync {
    /// A piece of work of `bytes` (0 if unknown) begins: a file's name, or what is done. Called again for the
    /// same file when its transfer starts over or goes on after a failure; what a partial file already holds
    /// follows as one `advance`.
    fn start(&self, what: &str, bytes: u64);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// The piece is complete.
    fn finish(&self);
}

/// Ignores it.
impl Progress for () {
    fn start(&self, _what: &str, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
}
