//! Replayed changes become visible before they are acknowledged, and no two sites wait for each other over it.
//!
//! A changed name is visible once the kernel has dropped it from its cache, for which it takes the directory's lock. A program that creates a name in a sync
//! directory holds that lock until its request is answered, and the answer waits for the other sites. If such a program at each of two
//! sites is in the same directory, and each site acknowledged only what its kernel has dropped, both would wait until they time out.
//!
//! So while a volume has sync directories the kernel is told on threads of its own ([`Visible::tell`]), and whoever acknowledges waits for them
//! ([`Visible::wait`]), but not for one that is at a directory in which a local operation waits for peers ([`Visible::waiting_in`]): the kernel drops
//! the name the moment that operation is answered. Until then programs at this site may still see in that one directory what was there before.
//!
//! The same holds for a file that the kernel caches: it keeps the pages of an O_SYNC write locked until that is answered, and drops none before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use proto::ids::FileId;

use crate::journal::Lsn;
use crate::types::Invalidation;
use crate::volume::Invalidate;

/// Threads that tell the kernel at once. More jobs than these wait in the queue: so many directories with waiting operations are rare.
const MAX_THREADS: usize = 16;
/// Jobs that wait for a thread; beyond, the replaying thread waits.
const MAX_QUEUED: usize = 256;
/// How long an idle thread stays.
const IDLE: Duration = Duration::from_secs(10);
/// No acknowledgement waits longer for the kernel than this. It stands for a request that hangs without waiting for peers.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Default)]
pub struct Visible {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is a job.
    work: Condvar,
    /// A job ended or went on to another name, or an operation began to wait.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Jobs that are not done, and the directory or file that each is at.
    jobs: HashMap<u64, (Lsn, Option<FileId>)>,
    next: u64,
    threads: usize,
    idle: usize,
    /// How many local operations wait for peers in a directory, or a file.
    waiting: HashMap<FileId, usize>,
}

struct Job {
    number: u64,
    sink: Arc<Invalidate>,
    changes: Vec<Invalidation>,
}

impl Visible {
    /// Tells the kernel of what the batch changed, on another thread.
    pub fn tell(&self, lsn: Lsn, sink: Arc<Invalidate>, changes: Vec<Invalidation>) {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        while state.queue.len() >= MAX_QUEUED && state.threads > 0 {
            shared.changed.wait(&mut state);
        }
        let number = state.next;
        state.next += 1;
        state.jobs.insert(number, (lsn, None));
        state.queue.push_back(Job { number, sink, changes });
        if state.idle >= state.queue.len() || state.threads >= MAX_THREADS {
            shared.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let theirs = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("invalidate".into()).spawn(move || theirs.run());
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread to tell the kernel of changes");
            let mut state = shared.state.lock();
            state.threads -= 1;
            if state.threads == 0 {
                // Nobody else would do it.
                drop(state);
                shared.drain();
            }
        }
    }

    /// Returns when the kernel knows of all changes up to the batch, but for directories and files in which local operations wait for peers.
    pub fn wait(&self, lsn: Lsn) {
        let deadline = Instant::now() + WAIT_LIMIT;
        let mut state = self.shared.state.lock();
        while state.blocks(lsn) {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                tracing::warn!("the kernel takes long to drop changed names; peers are answered before");
                return;
            }
        }
    }

    /// A local operation waits for peers, and the kernel may hold these directories until it is answered.
    pub fn waiting_in(&self, directories: &[FileId]) -> WaitingIn {
        let mut state = self.shared.state.lock();
        for directory in directories {
            *state.waiting.entry(*directory).or_default() += 1;
        }
        let anyone = !state.jobs.is_empty();
        drop(state);
        if anyone {
            self.shared.changed.notify_all();
        }
        WaitingIn { shared: Arc::clone(&self.shared), directories: directories.to_vec() }
    }
}

/// While it lives, an operation waits for peers.
pub struct WaitingIn {
    shared: Arc<Shared>,
    directories: Vec<FileId>,
}

impl Drop for WaitingIn {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        for directory in &self.directories {
            if let Some(count) = state.waiting.get_mut(directory) {
                *count -= 1;
                if *count == 0 {
                    state.waiting.remove(directory);
                }
            }
        }
    }
}

impl State {
    /// Whether an acknowledgement of the batch has something to wait for.
    fn blocks(&self, lsn: Lsn) -> bool {
        let held = |at: &Option<FileId>| at.is_some_and(|directory| self.waiting.contains_key(&directory));
        self.jobs.values().any(|(job, at)| *job <= lsn && !held(at))
    }
}

impl Shared {
    fn run(&self) {
        loop {
            self.drain();
            let mut state = self.state.lock();
            state.idle += 1;
            while state.queue.is_empty() {
                if self.work.wait_for(&mut state, IDLE).timed_out() && state.queue.is_empty() {
                    state.idle -= 1;
                    state.threads -= 1;
                    return;
                }
            }
            state.idle -= 1;
        }
    }

    fn drain(&self) {
        loop {
            let job = self.state.lock().queue.pop_front();
            let Some(Job { number, sink, changes }) = job else { return };
            let (names, rest): (Vec<_>, Vec<_>) =
                changes.into_iter().partition(|change| matches!(change, Invalidation::Entry { .. }));
            let (contents, attributes): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|change| matches!(change, Invalidation::Content { .. }));
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                sink(&attributes);
                for change in contents.into_iter().chain(names) {
                    if let Invalidation::Entry { parent: locked, .. } | Invalidation::Content { file: locked, .. } =
                        &change
                    {
                        self.at(number, *locked);
                    }
                    sink(&[change]);
                }
            }));
            if done.is_err() {
                tracing::error!("telling the kernel of changes panicked");
            }
            self.state.lock().jobs.remove(&number);
            self.changed.notify_all();
        }
    }

    /// The job is about to need a directory's lock, or a file's pages.
    fn at(&self, number: u64, directory: FileId) {
        let mut state = self.state.lock();
        if let Some((_, at)) = state.jobs.get_mut(&number) {
            *at = Some(directory);
        }
        let is_held = state.waiting.contains_key(&directory);
        drop(state);
        if is_held {
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proto::name::Name;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn entry(parent: u64) -> Invalidation {
        Invalidation::Entry { parent: FileId(parent), name: Name::new(b"name").expect("a name") }
    }

    /// A kernel in which directory 7 is locked until the sender is dropped or sends.
    fn locked() -> (Arc<Invalidate>, mpsc::Sender<()>, Arc<Mutex<Vec<Invalidation>>>) {
        let (unlock, unlocked) = mpsc::channel::<()>();
        let unlocked = Mutex::new(unlocked);
        let told = Arc::new(Mutex::new(Vec::new()));
        let theirs = told.clone();
        let sink = move |changes: &[Invalidation]| {
            if changes.contains(&entry(7)) {
                _ = unlocked.lock().recv_timeout(LIMIT);
            }
            theirs.lock().extend_from_slice(changes);
        };
        (Arc::new(sink), unlock, told)
    }

    fn waits(visible: &Arc<Visible>, lsn: Lsn) -> mpsc::Receiver<()> {
        let (done, is_done) = mpsc::channel();
        let visible = visible.clone();
        std::thread::spawn(move || {
            visible.wait(lsn);
            _ = done.send(());
        });
        is_done
    }

    #[test]
    fn an_acknowledgement_waits_for_the_kernel_but_not_for_who_waits_for_peers() {
        let visible = Arc::new(Visible::default());
        let (sink, unlock, told) = locked();
        visible.tell(Lsn(1), sink.clone(), vec![entry(7)]);
        visible.tell(Lsn(2), sink.clone(), vec![entry(8)]);
        // Nothing before the first batch is under way.
        visible.wait(Lsn(0));
        let done = waits(&visible, Lsn(2));
        // The other directory is not kept waiting by the locked one, and the locked one holds the acknowledgement.
        let begin = Instant::now();
        while !told.lock().contains(&entry(8)) {
            assert!(begin.elapsed() < LIMIT, "the second job waits for the first");
            std::thread::yield_now();
        }
        assert!(done.try_recv().is_err());
        let held = visible.waiting_in(&[FileId(7)]);
        done.recv_timeout(LIMIT).expect("it waits no more");
        drop(held);
        let done = waits(&visible, Lsn(2));
        unlock.send(()).expect("the job waits");
        done.recv_timeout(LIMIT).expect("the kernel knows");
        assert!(told.lock().contains(&entry(7)));
    }

    /// A job that is done with a file whose pages were locked is not taken to be there still.
    #[test]
    fn an_acknowledgement_does_not_wait_for_pages_that_a_waiting_write_holds() {
        let visible = Arc::new(Visible::default());
        let content = |file| Invalidation::Content { file: FileId(file), offset: 0, len: 1 };
        let (unlock, unlocked) = mpsc::channel::<()>();
        let unlocked = Mutex::new(unlocked);
        let sink = move |changes: &[Invalidation]| {
            if changes.contains(&content(7)) {
                _ = unlocked.lock().recv_timeout(LIMIT);
            }
        };
        let sink: Arc<Invalidate> = Arc::new(sink);
        visible.tell(Lsn(1), sink, vec![content(5), content(7), entry(8)]);
        let done = waits(&visible, Lsn(1));
        assert!(done.recv_timeout(Duration::from_millis(50)).is_err(), "the pages are not dropped yet");
        let held = visible.waiting_in(&[FileId(7)]);
        done.recv_timeout(LIMIT).expect("it waits no more");
        drop(held);
        unlock.send(()).expect("the job waits");
        visible.wait(Lsn(1));
        assert!(visible.shared.state.lock().jobs.is_empty());
    }

    #[test]
    fn an_operation_that_waits_already_is_seen_when_the_job_comes() {
        let visible = Arc::new(Visible::default());
        let (sink, unlock, _) = locked();
        let _held = visible.waiting_in(&[FileId(7), FileId(9)]);
        visible.tell(Lsn(1), sink, vec![Invalidation::Attr { file: FileId(1) }, entry(7)]);
        visible.wait(Lsn(1));
        drop(unlock);
    }

    #[test]
    fn every_job_is_done_whatever_comes() {
        let visible = Arc::new(Visible::default());
        let told = Arc::new(Mutex::new(0));
        let theirs = told.clone();
        let sink: Arc<Invalidate> = Arc::new(move |changes: &[Invalidation]| *theirs.lock() += changes.len());
        for lsn in 1..=2_000 {
            visible.tell(Lsn(lsn), sink.clone(), vec![entry(lsn), Invalidation::Attr { file: FileId(lsn) }]);
        }
        visible.wait(Lsn(2_000));
        assert_eq!(*told.lock(), 4_000);
        assert!(visible.shared.state.lock().jobs.is_empty());
    }
}
