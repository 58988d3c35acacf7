//! What threads are made of: the standard library, or `loom` where the team's hand-over is model-checked
//! (`RUSTFLAGS="--cfg loom" cargo test -p aibit-kernels --lib --release models`).

#[cfg(not(loom))]
mod std_sync {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, fence};
    pub(crate) use std::sync::{Arc, Mutex};
    pub(crate) use std::thread::{self, JoinHandle};

    /// `std`'s cell with the interface of `loom`'s.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(loom)]
mod loom_sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, fence};
    pub(crate) use loom::sync::{Arc, Mutex};
    pub(crate) use loom::thread::{self, JoinHandle};
}

#[cfg(loom)]
pub(crate) use loom_sync::*;
#[cfg(not(loom))]
pub(crate) use std_sync::*;
