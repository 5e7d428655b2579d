//! Requests that wait (for the disk, later for other sites) never take the last request thread.
//!
//! Up to half of the request threads wait themselves: no hand-over, no cost. Beyond, each wait gets a thread of its own, so that
//! lookups and reads go on. Their number is bounded; what comes then waits on the request thread after all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// More waits at once than this are not moved away from the request threads.
const MOVED_MAX: usize = 256;

/// Counts who waits where.
#[derive(Debug)]
pub struct Waits {
    inline_max: usize,
    inline: AtomicUsize,
    moved: Arc<AtomicUsize>,
}

impl Waits {
    /// For this many request threads.
    pub fn new(request_threads: usize) -> Self {
        Self { inline_max: request_threads / 2, inline: AtomicUsize::new(0), moved: Arc::default() }
    }

    /// Runs the job here or on a thread of its own.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(_here) = Place::take(&self.inline, self.inline_max) {
            job();
            return;
        }
        let Some(place) = Place::take(self.moved.clone(), MOVED_MAX) else { return job() };
        // The job is kept aside, so that it can still run here when there is no thread to be had.
        let job = Arc::new(parking_lot::Mutex::new(Some(job)));
        let moved_job = job.clone();
        let moved = thread::Builder::new().name("fuse-wait".into()).spawn(move || {
            let _place = place;
            run_once(&moved_job);
        });
        if moved.is_err() {
            run_once(&job);
        }
    }
}

fn run_once(job: &parking_lot::Mutex<Option<impl FnOnce()>>) {
    let job = job.lock().take();
    if let Some(job) = job {
        job();
    }
}

/// One of a bounded number of places; given back on drop.
struct Place<C: std::ops::Deref<Target = AtomicUsize>>(C);

impl<C: std::ops::Deref<Target = AtomicUsize>> Place<C> {
    fn take(count: C, max: usize) -> Option<Self> {
        let more = |taken: usize| (taken < max).then_some(taken + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(count))
    }
}

impl<C: std::ops::Deref<Target = AtomicUsize>> Drop for Place<C> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
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
}
