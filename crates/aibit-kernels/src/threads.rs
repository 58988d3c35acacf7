//! Threads as a value: a team of the crate's own that takes small pieces of one kernel's work, a rayon pool of the
//! caller's, or the calling thread alone.
//!
//! A token is some fifty short parallel regions, so what counts is how fast a region begins and ends. A team's workers
//! watch for work a moment after each region and sleep if none comes; there is no barrier at which all wait for a thread
//! that the system has descheduled, unless that thread holds a piece; where that happens the caller works alone for a
//! while, so that a busy neighbour on one core costs the second thread and not both.
#![expect(
    unsafe_code,
    reason = "lends a closure on the caller's stack to other threads until the region ends"
)]

mod sync;

use std::fmt;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::sync::TryLockError;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use self::sync::{
    Arc, AtomicBool, AtomicU32, AtomicUsize, JoinHandle, Mutex, UnsafeCell, fence, spin_loop, thread,
};

/// How long an idle worker watches for work before it sleeps. Longer than the serial parts between two regions of a
/// token, short enough to leave the core to others.
const WATCH: Duration = Duration::from_micros(60);

/// A wait for other threads' last pieces that is longer than this, and longer than this thread's own share took, means
/// that one of them is not running.
const STALL: Duration = Duration::from_micros(200);

/// How long this thread then works alone. Each stall soon after another doubles it, up to the second figure.
const ALONE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(80)];

/// The threads that kernels may use. Cloning shares them; the last clone ends a team.
#[derive(Clone, Default)]
pub struct Threads(Kind);

#[derive(Clone, Default)]
enum Kind {
    #[default]
    Caller,
    Team(Arc<Team>),
    Pool(std::sync::Arc<rayon::ThreadPool>),
}

impl Threads {
    /// The calling thread alone.
    pub const fn caller() -> Self {
        Self(Kind::Caller)
    }

    /// `count` threads: the calling one, and `count - 1` of a team that is started here. While one thread's kernel runs on
    /// the team, those of other threads run on these alone.
    ///
    /// Where the system refuses a thread there are fewer, which is slower and changes nothing else.
    pub fn team(count: usize) -> Self {
        if count <= 1 { Self::caller() } else { Self(Kind::Team(Arc::new(Team::new(count - 1)))) }
    }

    /// The threads of a rayon pool, which a program may have for other work. A region begins and ends more slowly there
    /// than in a team.
    pub fn pool(pool: std::sync::Arc<rayon::ThreadPool>) -> Self {
        Self(Kind::Pool(pool))
    }

    /// How many threads there are, the calling one included.
    pub fn count(&self) -> usize {
        match &self.0 {
            Kind::Caller => 1,
            Kind::Team(team) => team.workers.len() + 1,
            Kind::Pool(pool) => pool.current_num_threads(),
        }
    }

    /// Calls `work(0)` to `work(count - 1)`, each once. Returns when all are done.
    ///
    /// A call from inside another, or while another thread's region runs on the same team, does its work on this thread
    /// alone.
    ///
    /// # Panics
    /// If a piece panics.
    pub(crate) fn for_each(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        match &self.0 {
            Kind::Team(team) if count > 1 => team.for_each(count, work),
            Kind::Pool(pool) if count > 1 => {
                pool.install(|| (0..count).into_par_iter().with_max_len(1).for_each(work));
            }
            Kind::Caller | Kind::Team(_) | Kind::Pool(_) => (0..count).for_each(work),
        }
    }
}

// A piece's panic ends its region as any end does: a team is as good after it as before.
impl UnwindSafe for Threads {}
impl RefUnwindSafe for Threads {}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Caller => "caller",
            Kind::Team(_) => "team",
            Kind::Pool(_) => "pool",
        };
        write!(f, "Threads({kind}, {})", self.count())
    }
}

struct Team {
    /// Held by the thread whose region runs.
    turn: Mutex<Alone>,
    workers: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
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
    /// Whether the workers are to end.
    ended: AtomicBool,
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
    fn new(others: usize) -> Self {
        let shared = Arc::new(Shared {
            region: AtomicU32::new(0),
            open: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            shares: (0..=others).map(|_| Share::default()).collect(),
            panicked: AtomicBool::new(false),
            work: UnsafeCell::new(None),
            asleep: (0..others).map(|_| AtomicBool::new(false)).collect(),
        });
        let spawn = |number| {
            let shared = Arc::clone(&shared);
            let worker = thread::Builder::new().name(format!("aibit-{number}"));
            worker.spawn(move || shared.serve(number)).ok()
        };
        let alone = Alone { until: Instant::now(), last: Duration::ZERO };
        Self { turn: Mutex::new(alone), workers: (0..others).map_while(spawn).collect(), shared }
    }

    fn for_each(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        let turn = match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()), // a piece panicked; the region had ended
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(mut alone) = turn {
            let start = Instant::now();
            if start >= alone.until {
                let own = self.run(count, work);
                alone.judge(start, own);
                return;
            }
        }
        (0..count).for_each(work);
    }

    /// Returns how long the caller itself was busy.
    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) -> Duration {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. `End` below closes the region and waits until nobody is inside before this
        // function returns or unwinds, so no worker follows the pointer after that.
        let lent: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        // SAFETY: this thread holds `turn`, the last region is closed, and `End` has seen everybody leave it.
        shared.work.with_mut(|work| unsafe { *work = Some(lent) });
        let threads = shared.shares.len();
        for (i, share) in shared.shares.iter().enumerate() {
            share.next.store(i * count / threads, SeqCst);
            share.end.store((i + 1) * count / threads, SeqCst);
        }
        shared.open.store(true, SeqCst);
        shared.region.fetch_add(1, SeqCst);
        self.wake(count.saturating_sub(1));
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

    /// Wakes those of the first `count` workers that sleep.
    fn wake(&self, count: usize) {
        fence(SeqCst); // a worker that has not seen the new region is seen to sleep
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers).take(count) {
            if asleep.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        self.shared.region.fetch_add(1, SeqCst);
        self.wake(self.workers.len());
        for worker in self.workers.drain(..) {
            // A piece's panic was caught; a worker has nothing else that could.
            _ = worker.join();
        }
    }
}

/// Ends a region: closes it and waits for the workers inside.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.open.store(false, SeqCst);
        fence(SeqCst); // pairs with the one in `serve`
        let mut rounds = 0_u32;
        while self.0.inside.load(SeqCst) > 0 {
            rounds += 1;
            if rounds < 1000 && !cfg!(loom) {
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
        for share in self.shares[own..].iter().chain(&self.shares[..own]) {
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
            if self.ended.load(SeqCst) {
                return;
            }
            // Announced before looking, so that a caller that has closed the region either is seen here or sees us.
            self.inside.fetch_add(1, SeqCst);
            fence(SeqCst);
            if self.open.load(SeqCst) {
                // SAFETY: the region was open after we announced ourselves, so its caller waits for us in `End`: the
                // closure lives, and nobody writes the cell.
                let work = self.work.with(|work| unsafe { (*work).map(|work| &*work) });
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
            // A model checker has no clock: there, workers sleep at once.
            if !cfg!(loom) && (!rounds.is_multiple_of(64) || start.elapsed() < WATCH) {
                spin_loop();
                continue;
            }
            self.asleep[number].swap(true, SeqCst);
            fence(SeqCst); // pairs with the one in `wake`
            if self.region.load(SeqCst) == seen {
                thread::park();
            }
            self.asleep[number].swap(false, SeqCst);
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;

    /// Every order in which two regions and the end of a team can happen, as far as two preemptions go.
    #[test]
    fn every_piece_is_done_once_and_the_team_ends() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let team = Team::new(1);
            for _ in 0..2 {
                let done: [AtomicUsize; 2] = Default::default();
                team.run(2, &|piece| _ = done[piece].fetch_add(1, SeqCst));
                assert!(done.iter().all(|count| count.load(SeqCst) == 1));
            }
        });
    }

    /// A caller whose region ends without its workers frees what it lent before any of them could look.
    #[test]
    fn a_worker_that_is_late_does_nothing() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let team = Team::new(1);
            let done = AtomicUsize::new(0);
            team.run(1, &|_| _ = done.fetch_add(1, SeqCst));
            assert_eq!(done.load(SeqCst), 1);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_region_after_region() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
        for threads in [Threads::caller(), Threads::team(3), Threads::pool(Arc::new(pool))] {
            for round in 0..2000 {
                let done: Vec<AtomicUsize> = (0..round % 40).map(|_| AtomicUsize::new(0)).collect();
                threads.for_each(done.len(), &|index| _ = done[index].fetch_add(1, SeqCst));
                assert!(done.iter().all(|count| count.load(SeqCst) == 1), "{threads:?}, round {round}");
                if round % 500 == 499 {
                    thread::sleep(2 * WATCH); // long enough for the workers to sleep
                }
            }
        }
    }

    #[test]
    fn regions_inside_regions_and_beside_them_are_done_too() {
        let total = AtomicUsize::new(0);
        let teams = [Threads::team(2), Threads::team(2)];
        thread::scope(|scope| {
            for caller in 0..4 {
                let (threads, total) = (&teams[caller % 2], &total);
                scope.spawn(move || {
                    for _ in 0..50 {
                        threads.for_each(8, &|_| threads.for_each(5, &|_| _ = total.fetch_add(1, SeqCst)));
                    }
                });
            }
        });
        assert_eq!(total.load(SeqCst), 4 * 50 * 8 * 5);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        let threads = Threads::team(2);
        for _ in 0..20 {
            let outcome = catch_unwind(|| threads.for_each(64, &|index| assert!(index != 40, "piece 40")));
            assert!(outcome.is_err());
        }
        let sum = AtomicUsize::new(0);
        threads.for_each(100, &|index| _ = sum.fetch_add(index, SeqCst));
        assert_eq!(sum.load(SeqCst), 4950);
    }

    #[test]
    fn the_last_clone_ends_the_team() {
        let threads = Threads::team(4);
        assert_eq!((threads.count(), Threads::team(1).count(), Threads::team(0).count()), (4, 1, 1));
        let Kind::Team(team) = &threads.0 else { panic!("a team of four") };
        let shared = Arc::downgrade(&team.shared);
        drop(threads.clone());
        assert!(shared.upgrade().is_some());
        drop(threads);
        // Each worker holds a reference as long as it lives.
        assert!(shared.upgrade().is_none());
    }
}
