//! Requests that wait, for the disk or for other sites, never take the last request thread.
//!
//! Up to half of the request threads wait themselves: no hand-over, no cost. Beyond, a wait goes to a pool of threads, so that
//! lookups and reads go on. A job goes only to a thread that is idle, never behind another wait: the pool grows by a thread where none is, and idle
//! threads end after a while. The number of threads is bounded; what comes then waits on the request thread after all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// More waits at once than this are not moved away from the request threads.
const THREADS_MAX: usize = 256;
/// How long an idle thread stays. A thread costs a request tens of microseconds to start, and next to nothing to keep.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// Decides who waits where.
#[derive(Debug)]
pub struct Waits {
    inline_max: usize,
    inline: AtomicUsize,
    pool: Arc<Pool>,
}

impl Waits {
    /// For this many request threads.
    pub fn new(request_threads: usize) -> Self {
        let pool = Pool { threads_max: THREADS_MAX, idle: IDLE, state: Mutex::default(), work: Condvar::new() };
        Self { inline_max: request_threads / 2, inline: AtomicUsize::new(0), pool: Arc::new(pool) }
    }

    /// Runs the job here or on a thread of the pool.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(_here) = Place::take(&self.inline, self.inline_max) {
            return job();
        }
        if let Some(job) = self.pool.take(Box::new(job)) {
            job();
        }
    }
}

impl Drop for Waits {
    /// Its threads end when they have done what they are at.
    fn drop(&mut self) {
        self.pool.state.lock().closed = true;
        self.pool.work.notify_all();
    }
}

struct Pool {
    threads_max: usize,
    idle: Duration,
    state: Mutex<State>,
    /// There is a job, or no more will come.
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Never more than idle threads.
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.state.lock().threads).finish_non_exhaustive()
    }
}

impl Pool {
    /// Has a thread do the job; gives it back if there is none to be had.
    fn take(self: &Arc<Self>, job: Job) -> Option<Job> {
        let mut state = self.state.lock();
        if state.idle > state.jobs.len() {
            state.jobs.push_back(job);
            drop(state);
            self.work.notify_one();
            return None;
        }
        if state.threads >= self.threads_max {
            return Some(job);
        }
        state.threads += 1;
        drop(state);
        // The job is kept aside, so that it can still be given back when there is no thread to be had.
        let job = Arc::new(Mutex::new(Some(job)));
        let (pool, first) = (self.clone(), job.clone());
        match thread::Builder::new().name("fuse-wait".into()).spawn(move || pool.work(&first)) {
            Ok(_) => None,
            Err(_) => {
                self.state.lock().threads -= 1;
                job.lock().take()
            }
        }
    }

    fn work(&self, first: &Mutex<Option<Job>>) {
        // Also when a job panics: the thread is then gone.
        let _counted = Counted(self);
        let mut job = first.lock().take();
        while let Some(next) = job {
            next();
            job = self.next();
        }
    }

    /// The next job; `None` after a while without one.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        state.idle += 1;
        while state.jobs.is_empty() && !state.closed {
            if self.work.wait_for(&mut state, self.idle).timed_out() {
                break;
            }
        }
        state.idle -= 1;
        state.jobs.pop_front()
    }
}

/// A thread of the pool, while it lives.
struct Counted<'a>(&'a Pool);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.state.lock().threads -= 1;
    }
}

/// One of a bounded number of places; given back on drop.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let more = |taken: usize| (taken < max).then_some(taken + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(count))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_single_wait_stays_on_its_thread() {
        let (sender, receiver) = mpsc::channel();
        Waits::new(4).run(move || sender.send(thread::current().id()).expect("received"));
        assert_eq!(receiver.recv_timeout(LIMIT).expect("ran"), thread::current().id());
    }

    #[test]
    fn half_of_the_request_threads_stay_free() {
        let waits = Arc::new(Waits::new(4));
        let (started, start) = mpsc::channel();
        let mut ends = Vec::new();
        let mut requests = Vec::new();
        for _ in 0..2 {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let (waits, started) = (waits.clone(), started.clone());
            requests.push(thread::spawn(move || {
                waits.run(move || {
                    started.send(thread::current().id()).expect("received");
                    _ = ended.recv_timeout(LIMIT);
                });
            }));
        }
        for _ in 0..2 {
            start.recv_timeout(LIMIT).expect("both wait");
        }
        let (end, ended) = mpsc::channel::<()>();
        waits.run(move || {
            started.send(thread::current().id()).expect("received");
            _ = ended.recv_timeout(LIMIT);
        });
        // The third returned while all three wait.
        assert_ne!(start.recv_timeout(LIMIT).expect("runs"), thread::current().id());
        drop((end, ends));
        for request in requests {
            request.join().expect("no panic");
        }
    }

    #[test]
    fn places_are_given_back() {
        let waits = Waits::new(2);
        for _ in 0..10 {
            waits.run(|| {});
        }
        assert_eq!(waits.inline.load(Ordering::Relaxed), 0);
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let limit = std::time::Instant::now() + LIMIT;
        while !holds() {
            assert!(std::time::Instant::now() < limit, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn pool(threads_max: usize, idle: Duration) -> Waits {
        let pool = Pool { threads_max, idle, state: Mutex::default(), work: Condvar::new() };
        Waits { inline_max: 0, inline: AtomicUsize::new(0), pool: Arc::new(pool) }
    }

    #[test]
    fn an_idle_thread_takes_the_next_job() {
        let waits = pool(8, LIMIT);
        let (sender, receiver) = mpsc::channel();
        let mut threads = HashSet::new();
        for _ in 0..20 {
            let sender = sender.clone();
            waits.run(move || sender.send(thread::current().id()).expect("received"));
            threads.insert(receiver.recv_timeout(LIMIT).expect("ran"));
            until("the thread is idle", || waits.pool.state.lock().idle == 1);
        }
        assert_eq!(threads.len(), 1);
        assert_eq!(waits.pool.state.lock().threads, 1);
    }

    #[test]
    fn no_job_waits_behind_another_and_beyond_the_bound_it_runs_here() {
        let waits = pool(3, LIMIT);
        let (started, start) = mpsc::channel();
        let mut ends = Vec::new();
        for _ in 0..3 {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let started = started.clone();
            waits.run(move || {
                started.send(thread::current().id()).expect("received");
                _ = ended.recv_timeout(LIMIT);
            });
        }
        for _ in 0..3 {
            assert_ne!(start.recv_timeout(LIMIT).expect("all run at once"), thread::current().id());
        }
        waits.run(move || started.send(thread::current().id()).expect("received"));
        assert_eq!(start.recv_timeout(LIMIT).expect("ran"), thread::current().id());
    }

    #[test]
    fn idle_threads_end_and_a_panic_takes_its_thread_only() {
        let waits = pool(3, Duration::from_millis(1));
        waits.run(|| std::panic::resume_unwind(Box::new("a job's own")));
        waits.run(|| {});
        until("no thread stays", || waits.pool.state.lock().threads == 0);
        let (sender, receiver) = mpsc::channel();
        waits.run(move || sender.send(()).expect("received"));
        receiver.recv_timeout(LIMIT).expect("a new thread");
    }

    #[test]
    fn the_threads_end_with_the_mount() {
        let waits = pool(3, Duration::from_secs(3600));
        waits.run(|| {});
        until("the thread is idle", || waits.pool.state.lock().idle == 1);
        let pool = waits.pool.clone();
        drop(waits);
        until("it ended", || pool.state.lock().threads == 0);
    }
}
