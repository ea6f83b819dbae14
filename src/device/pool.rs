//! A pool of threads for kernels: a launch costs about a microsecond, because idle workers spin for a while.
//!
//! rayon is the better pool for everything else; a decode step makes some two hundred short launches, and
//! waking a sleeping thread for each costs more than the work.

use std::{
    cell::UnsafeCell,
    hint, mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::*},
    },
    thread,
};

/// How often a thread looks again before it offers its core to others between looks; about 20 µs.
const SPINS: u32 = 2_000;
/// How often a worker then looks for the next launch before it sleeps.
const YIELDS: u32 = 200;

type Job = *const (dyn Fn(usize) + Sync);

/// Threads that run the tasks of one launch at a time; the caller is one of them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the thread whose launch is running.
    launch: Mutex<()>,
    workers: Vec<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// `epoch << 32 | open << 31 | joined`: a launch is open while workers may join it.
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    tasks: AtomicUsize,
    next: AtomicUsize,
    sleeping: AtomicUsize,
    /// The core that launched last.
    core: AtomicI32,
    panicked: AtomicBool,
    stop: AtomicBool,
}

const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;

// SAFETY: `job` is written only while the state is closed with nobody joined (by the holder of `launch`), and
// read only by workers that joined an open launch; joining and closing are compare-and-swaps on `state`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Pool {
    /// A pool of `threads` (at least 1), the caller included.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            tasks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            sleeping: AtomicUsize::new(0),
            core: AtomicI32::new(cores::NONE),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let workers = (1..threads)
            .map(|i| {
                let shared = Arc::clone(&shared);
                let worker = move || shared.work();
                thread::Builder::new().name(format!("lathe-{i}")).spawn(worker).expect("spawn a thread")
            })
            .collect();
        Self { shared, launch: Mutex::new(()), workers }
    }

    /// The number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(0) … f(tasks - 1)`, each once, on all threads, and returns when all are done.
    ///
    /// A launch from within a task, or while another thread's launch is running, runs on the caller alone.
    /// Panics if a task does.
    pub fn run(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let guard = self.launch.try_lock();
        let (Ok(_guard), true) = (guard, tasks > 1 && !self.workers.is_empty()) else {
            return (0..tasks).for_each(f);
        };
        let s = &*self.shared;
        // SAFETY: the launch is closed and this thread holds `launch`, so nobody reads `job` now; the
        // lifetime is erased, and this function does not return or unwind before the launch is closed again.
        unsafe { *s.job.get() = Some(mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(f)) };
        s.core.store(cores::current(), Relaxed);
        s.tasks.store(tasks, Relaxed);
        s.next.store(0, Relaxed);
        let epoch = (s.state.load(Relaxed) >> 32) + 1;
        s.state.store(epoch << 32 | OPEN, SeqCst);
        if s.sleeping.load(SeqCst) > 0 {
            self.workers.iter().for_each(|w| w.thread().unpark());
        }
        s.drain(f);
        // Every task is claimed; wait for those that are still at theirs, and let nobody else in.
        let mut idle = 0;
        while s.state.compare_exchange(epoch << 32 | OPEN, epoch << 32, AcqRel, Relaxed).is_err() {
            relax(&mut idle);
        }
        assert!(!s.panicked.swap(false, Relaxed), "a task of a kernel launch panicked");
    }

    /// Splits `data` into rows of `row` elements and runs `f(index, row)` for each, `grain` rows a task.
    pub fn rows<T: Send>(
        &self,
        data: &mut [T],
        row: usize,
        grain: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let rows = data.len() / row.max(1);
        let base = SendPtr(data.as_mut_ptr());
        self.run(rows.div_ceil(grain.max(1)), &|task| {
            for i in task * grain..((task + 1) * grain).min(rows) {
                // SAFETY: row `i` lies inside `data` and belongs to this task alone.
                f(i, unsafe { std::slice::from_raw_parts_mut(base.get().add(i * row), row) });
            }
        });
    }
}

/// A pointer that tasks of one launch may share; each uses a part of its own.
struct SendPtr<T>(*mut T);
impl<T> SendPtr<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}
// SAFETY: `Pool::rows` hands each task rows that no other has; `T: Send` is asked for there.
unsafe impl<T> Sync for SendPtr<T> {}

/// Waits a little; longer and longer waits are worth a system call, should the other thread lack a core.
fn relax(idle: &mut u32) {
    *idle += 1;
    if *idle < SPINS { hint::spin_loop() } else { thread::yield_now() }
}

/// Which core a thread runs on. The system's scheduler may wake a worker on the core of the launch that it is meant
/// to help, and then lets the two take turns for milliseconds while the other cores idle.
mod cores {
    /// No core.
    pub const NONE: i32 = -1;

    /// The core of the caller.
    pub fn current() -> i32 {
        #[cfg(target_os = "linux")]
        // SAFETY: no arguments; fails with -1.
        return unsafe { libc::sched_getcpu() };
        #[cfg(not(target_os = "linux"))]
        NONE
    }

    /// Moves the caller to another core if it runs on `core` and may run elsewhere.
    pub fn leave(core: i32) {
        #[cfg(target_os = "linux")]
        if core != NONE && current() == core {
            let size = size_of::<libc::cpu_set_t>();
            // SAFETY: the sets are valid and of the size said; zero is the calling thread. The first change moves
            // the thread at once, the second allows all cores again.
            unsafe {
                let mut all: libc::cpu_set_t = std::mem::zeroed();
                if libc::sched_getaffinity(0, size, &mut all) != 0 {
                    return;
                }
                let mut others = all;
                libc::CPU_CLR(core as usize, &mut others);
                if libc::CPU_COUNT(&others) > 0 {
                    libc::sched_setaffinity(0, size, &others);
                    libc::sched_setaffinity(0, size, &all);
                }
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = core;
    }
}

impl Shared {
    fn drain(&self, f: &(dyn Fn(usize) + Sync)) {
        let tasks = self.tasks.load(Relaxed);
        loop {
            let task = self.next.fetch_add(1, Relaxed);
            if task >= tasks {
                return;
            }
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(task))).is_err() {
                self.panicked.store(true, Relaxed);
            }
        }
    }

    fn work(&self) {
        let (mut done, mut idle) = (0, 0);
        while !self.stop.load(Relaxed) {
            let state = self.state.load(Acquire);
            if state & OPEN != 0 && state >> 32 != done {
                cores::leave(self.core.load(Relaxed));
                if self.state.compare_exchange(state, state + 1, AcqRel, Relaxed).is_ok() {
                    done = state >> 32;
                    // SAFETY: this worker joined an open launch, so its `job` is set and stays alive until
                    // `joined` is zero again, which is after the line below.
                    let job = unsafe { (*self.job.get()).map(|job| &*job) };
                    job.into_iter().for_each(|job| self.drain(job));
                    debug_assert!(self.state.load(Relaxed) & JOINED > 0);
                    self.state.fetch_sub(1, AcqRel);
                }
                idle = 0;
            } else if idle < SPINS + YIELDS {
                relax(&mut idle);
            } else {
                self.sleeping.fetch_add(1, SeqCst);
                // A launch that opened before `sleeping` was counted is seen here; a later one unparks.
                let state = self.state.load(SeqCst);
                if (state & OPEN == 0 || state >> 32 == done) && !self.stop.load(SeqCst) {
                    thread::park();
                }
                self.sleeping.fetch_sub(1, SeqCst);
                idle = 0;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for w in self.workers.drain(..) {
            w.thread().unpark();
            // A worker's panic was already reported by the launch that it belonged to.
            let _ = w.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let pool = Pool::new(4);
        for tasks in [0, 1, 2, 3, 7, 100, 1000] {
            for _ in 0..200 {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Relaxed) == 1));
            }
        }
    }

    #[test]
    fn nested_and_concurrent_launches_finish() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..100 {
                        pool.run(8, &|_| {
                            pool.run(5, &|i| {
                                sum.fetch_add(i, Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(Relaxed), 3 * 100 * 8 * 10);
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(2);
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(5));
            // The second task runs only after the first began: both threads must take part.
            let met = std::sync::Barrier::new(2);
            pool.run(2, &|_| {
                met.wait();
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let caught =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.run(4, &|i| assert!(i != 2))));
        assert!(caught.is_err());
        let mut data = [0; 10];
        pool.rows(&mut data, 3, 1, |i, row| row.fill(i));
        assert_eq!(data, [0, 0, 0, 1, 1, 1, 2, 2, 2, 0]);
    }
}
