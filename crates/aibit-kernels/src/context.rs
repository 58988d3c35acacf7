//! What a kernel runs on.

use crate::{Isa, Threads};

/// The instruction set and the threads of a kernel. Neither changes a bit of what it computes.
#[derive(Debug, Clone)]
pub struct Context {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub threads: Threads,
}

impl Context {
    /// The threads for work that is `worth_sharing`, else the caller's alone.
    pub(crate) fn threads_if(&self, worth_sharing: bool) -> &Threads {
        const CALLER: &Threads = &Threads::caller();
        if worth_sharing { &self.threads } else { CALLER }
    }
}

impl From<Isa> for Context {
    /// `isa` on the calling thread alone.
    fn from(isa: Isa) -> Self {
        Self { isa, threads: Threads::caller() }
    }
}
