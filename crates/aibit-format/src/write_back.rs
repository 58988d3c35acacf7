//! Syncs a file to disk while more of it is being written.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Number of written bytes between syncs.
const STEP: u64 = 64 << 20;

/// Syncs a file every [`STEP`] bytes on a separate thread. Otherwise the kernel keeps gigabytes of dirty pages, and
/// the final sync waits for all of them.
#[derive(Debug)]
pub(crate) struct WriteBack {
    file: File,
    pending: u64,
    thread: Option<SyncThread>,
}

#[derive(Debug)]
struct SyncThread {
    /// Dropping it ends the thread.
    requests: SyncSender<()>,
    handle: JoinHandle<io::Result<()>>,
}

impl WriteBack {
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        Ok(Self { file: file.try_clone()?, pending: 0, thread: None })
    }

    /// Counts bytes that were written.
    ///
    /// # Errors
    /// An error from starting the thread.
    pub(crate) fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        self.pending += bytes;
        if self.pending >= STEP {
            self.pending = 0;
            if self.thread.is_none() {
                self.thread = Some(SyncThread::start(self.file.try_clone()?)?);
            }
            // Fails if a request is already pending, which will cover these bytes too, or if a sync has failed.
            let _ = self.thread.as_ref().map(|thread| thread.requests.try_send(()));
        }
        Ok(())
    }

    /// Waits for the last sync.
    ///
    /// # Errors
    /// The first failed sync: the kernel reports a disk error once, so a later sync would succeed.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let Some(SyncThread { requests, handle }) = self.thread.take() else { return Ok(()) };
        drop(requests);
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl SyncThread {
    fn start(file: File) -> io::Result<Self> {
        let (requests, received) = sync_channel(1);
        let sync = move || received.into_iter().try_for_each(|()| file.sync_data());
        let handle = thread::Builder::new().name("aibit-sync".to_owned()).spawn(sync)?;
        Ok(Self { requests, handle })
    }
}
