//! Threads that take small pieces of one kernel's work as they become free.
//!
//! A token is some fifty short parallel regions, so what counts is how fast a region begins and ends. Workers
//! watch for work a moment after each region and sleep if none comes; nobody waits at a barrier for a thread that
//! the system has put aside, unless that thread holds a piece; where that happens the others are left alone for a
//! while, so that a busy neighbour on one core costs the second thread and not both. The number of threads is that of
//! the current rayon pool, which callers already have for limiting it.
#![expect(
    unsafe_code,
    reason = "lends a closure on the caller's stack to other threads until the region ends"
)]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker watches for work before it sleeps. Longer than the serial parts between two regions of a
/// token, short enough to leave the core to others.
const WATCH: Duration = Duration::from_micros(60);

/// A wait for other threads' last pieces that is longer than this, and longer than this thread's own share took, means
/// that one of them is not running.
const STALL: Duration = Duration::from_micros(200);

/// How long this thread then works alone. Each stall soon after another doubles it, up to the second figure.
const ALONE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(80)];

/// Calls `work(0)` to `work(count - 1)`, each once, on this thread and as many others as the current rayon pool
/// has threads. Returns when all are done.
///
/// A call from inside another, or while another thread's region runs, does its work on this thread alone.
///
/// # Panics
/// If a piece panics.
pub(crate) fn for_each(count: usize, work: &(dyn Fn(usize) + Sync)) {
    let threads = rayon::current_num_threads();
    if threads > 1 && count > 1 {
        let team = TEAM.get_or_init(Team::new);
        let turn = match team.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()), // a piece panicked; the region had ended
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(mut alone) = turn {
            let start = Instant::now();
            if start >= alone.until {
                let own = team.run(count, (threads - 1).min(team.workers.len()), work);
                alone.judge(start, own);
                return;
            }
        }
    }
    (0..count).for_each(work);
}

static TEAM: OnceLock<Team> = OnceLock::new();

struct Team {
    /// Held by the thread whose region runs.
    turn: Mutex<Alone>,
    workers: Vec<Thread>,
    shared: &'static Shared,
}

/// Until when the caller does without the workers, and for how long it did so last.
struct Alone {
    until: Instant,
    last: Duration,
}

impl Alone {
    /// Looks at a region that began at `start` and in which the caller's own share took `own`.
    fn judge(&mut self, start: Instant, own: Duration) {
        let end = Instant::now();
        if end - start > own + own.max(STALL) {
            let soon = end - self.until < 2 * self.last;
            self.last = if soon { (2 * self.last).min(ALONE[1]) } else { ALONE[0] };
            self.until = end + self.last;
        }
    }
}

/// What the caller and the workers look at.
struct Shared {
    /// Changes when a region begins.
    region: AtomicU32,
    /// Whether workers may still enter the region.
    open: AtomicBool,
    /// Workers inside the region, or about to find out that it is closed.
    inside: AtomicUsize,
    /// Workers with a lower number may enter.
    limit: AtomicUsize,
    /// Each thread's share of the pieces, the caller's first.
    shares: Vec<Share>,
    panicked: AtomicBool,
    work: UnsafeCell<Option<*const (dyn Fn(usize) + Sync)>>,
    asleep: Vec<AtomicBool>,
}

/// A run of neighbouring pieces, on a cache line of its own. Neighbours lie side by side in memory, so they go to one
/// thread, which reads on where it stopped; a thread that has done its share takes from the others'.
#[derive(Default)]
#[repr(align(64))]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

// SAFETY: `work` is the only part that is not made for sharing. It is written by the holder of `turn` while the region
// is closed and nobody is inside, and read by workers that are inside an open region.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in it is only followed while the caller's region lasts.
unsafe impl Send for Shared {}

impl Team {
    fn new() -> Self {
        let others =
            thread::available_parallelism().map_or(1, usize::from).max(rayon::current_num_threads()) - 1;
        let shared: &'static Shared = Box::leak(Box::new(Shared {
            region: AtomicU32::new(0),
            open: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            shares: (0..=others).map(|_| Share::default()).collect(),
            panicked: AtomicBool::new(false),
            work: UnsafeCell::new(None),
            asleep: (0..others).map(|_| AtomicBool::new(false)).collect(),
        }));
        let spawn = |number| {
            let worker = thread::Builder::new().name(format!("aibit-{number}"));
            Some(worker.spawn(move || shared.serve(number)).ok()?.thread().clone())
        };
        // Fewer threads than hoped for are slower, not wrong.
        let alone = Alone { until: Instant::now(), last: Duration::ZERO };
        Self { turn: Mutex::new(alone), workers: (0..others).map_while(spawn).collect(), shared }
    }

    /// Returns how long the caller itself was busy.
    fn run(&self, count: usize, helpers: usize, work: &(dyn Fn(usize) + Sync)) -> Duration {
        let shared = self.shared;
        // SAFETY: only the lifetime changes. `End` below closes the region and waits until nobody is inside before this
        // function returns or unwinds, so no worker follows the pointer after that.
        let lent: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        // SAFETY: this thread holds `turn`, the last region is closed, and `End` has seen everybody leave it.
        unsafe { *shared.work.get() = Some(lent) };
        let threads = helpers + 1;
        for (i, share) in shared.shares[..threads].iter().enumerate() {
            share.next.store(i * count / threads, SeqCst);
            share.end.store((i + 1) * count / threads, SeqCst);
        }
        shared.limit.store(helpers, SeqCst);
        shared.open.store(true, SeqCst);
        shared.region.fetch_add(1, SeqCst);
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers).take(helpers.min(count - 1)) {
            if asleep.swap(false, SeqCst) {
                worker.unpark();
            }
        }
        let end = End(shared);
        let start = Instant::now();
        shared.take_pieces(0, work);
        let own = start.elapsed();
        drop(end);
        assert!(
            !shared.panicked.swap(false, SeqCst),
            "a piece of a kernel's work panicked on another thread"
        );
        own
    }
}

/// Ends a region: closes it and waits for the workers inside.
struct End(&'static Shared);

impl Drop for End {
    fn drop(&mut self) {
        self.0.open.store(false, SeqCst);
        let mut rounds = 0_u32;
        while self.0.inside.load(SeqCst) > 0 {
            rounds += 1;
            if rounds < 1000 {
                spin_loop();
            } else {
                thread::yield_now(); // a worker that holds a piece may need this core
            }
        }
    }
}

impl Shared {
    /// Does the pieces of share `own`, then what is left of the others'.
    fn take_pieces(&self, own: usize, work: &(dyn Fn(usize) + Sync)) {
        let shares = &self.shares[..=self.limit.load(SeqCst)];
        // A worker that was late may have passed the limit of the region before.
        let own = own.min(shares.len());
        for share in shares[own..].iter().chain(&shares[..own]) {
            let end = share.end.load(SeqCst);
            loop {
                let piece = share.next.fetch_add(1, SeqCst);
                if piece >= end {
                    break;
                }
                work(piece);
            }
        }
    }

    /// A worker's life.
    fn serve(&self, number: usize) {
        let mut seen = 0;
        loop {
            seen = self.await_region(number, seen);
            if number >= self.limit.load(SeqCst) {
                continue;
            }
            // Announced before looking, so that a caller that has closed the region either is seen here or sees us.
            self.inside.fetch_add(1, SeqCst);
            if self.open.load(SeqCst) {
                // SAFETY: the region was open after we announced ourselves, so its caller waits for us in `End`: the
                // closure lives, and nobody writes the cell.
                let work = unsafe { (*self.work.get()).map(|work| &*work) };
                let outcome =
                    catch_unwind(AssertUnwindSafe(|| work.map(|work| self.take_pieces(number + 1, work))));
                if outcome.is_err() {
                    self.panicked.store(true, SeqCst);
                }
            }
            self.inside.fetch_sub(1, SeqCst);
        }
    }

    /// Waits for a region that this worker has not seen, watching first and sleeping then.
    fn await_region(&self, number: usize, seen: u32) -> u32 {
        let start = Instant::now();
        let mut rounds = 0_u32;
        loop {
            let region = self.region.load(SeqCst);
            if region != seen {
                return region;
            }
            rounds = rounds.wrapping_add(1);
            if !rounds.is_multiple_of(64) || start.elapsed() < WATCH {
                spin_loop();
                continue;
            }
            self.asleep[number].store(true, SeqCst);
            if self.region.load(SeqCst) == seen {
                thread::park();
            }
            self.asleep[number].store(false, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(f)
    }

    #[test]
    fn every_piece_is_done_once_region_after_region() {
        with_threads(3, || {
            for round in 0..2000 {
                let done: Vec<AtomicUsize> = (0..round % 40).map(|_| AtomicUsize::new(0)).collect();
                for_each(done.len(), &|index| _ = done[index].fetch_add(1, SeqCst));
                assert!(done.iter().all(|count| count.load(SeqCst) == 1), "round {round}");
                if round % 500 == 499 {
                    thread::sleep(2 * WATCH); // long enough for the workers to sleep
                }
            }
        });
    }

    #[test]
    fn regions_inside_regions_and_beside_them_are_done_too() {
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    with_threads(2, || {
                        for _ in 0..50 {
                            for_each(8, &|_| for_each(5, &|_| _ = total.fetch_add(1, SeqCst)));
                        }
                    });
                });
            }
        });
        assert_eq!(total.load(SeqCst), 4 * 50 * 8 * 5);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        with_threads(2, || {
            for _ in 0..20 {
                let outcome = catch_unwind(|| for_each(64, &|index| assert!(index != 40, "piece 40")));
                assert!(outcome.is_err());
            }
            let sum = AtomicUsize::new(0);
            for_each(100, &|index| _ = sum.fetch_add(index, SeqCst));
            assert_eq!(sum.load(SeqCst), 4950);
        });
    }
}
