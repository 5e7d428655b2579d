//! Group commit: one flush makes durable all that was appended before it began, for all who wait.
//!
//! ```text
//! wait_durable ─┬─ nobody flushes: flush here, then tell everybody
//!               └─ somebody does: wait for the end; it may have begun too early for us: again
//! ```
//!
//! A thread flushes in the background what nobody waits for: at once when it was idle, otherwise one flush begins per interval.
//! A flush takes its target first, then flushes the objects to which records refer, then the journal's files: so what is
//! durable in the journal refers to nothing that is not. After a failed flush the kernel may have dropped the bytes and would
//! say "done" the next time; so there is no next time.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::error::JournalError;
use super::lsn::{Heads, Lsn};
use super::shared::Shared;
use super::stages;

/// Flushes the objects to which appended records refer by extent.
pub type BeforeFlush = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// When nothing was appended for so long, it is noted on the disk that everything was durable, so that damage to the
/// last batches is not taken for a torn end.
const MARK_AFTER: Duration = Duration::from_secs(1);

/// Who flushes, and what is durable.
pub struct Commit {
    pub state: Mutex<CommitState>,
    /// A flush ended.
    pub flushed: Condvar,
    /// There is something for the background thread.
    pub work: Condvar,
}

/// What the commit's lock protects.
pub struct CommitState {
    /// The last durable batch.
    pub durable: Lsn,
    /// The own lanes' heads after it.
    pub heads: Heads,
    flushing: bool,
    marked: Lsn,
    mark_slot: usize,
}

impl Commit {
    /// When `durable` is durable and the lanes stand at `heads` there.
    pub fn new(durable: Lsn, heads: Heads) -> Self {
        let state = CommitState { durable, heads, flushing: false, marked: Lsn::ZERO, mark_slot: 0 };
        Self { state: Mutex::new(state), flushed: Condvar::new(), work: Condvar::new() }
    }
}

impl Shared {
    /// Returns when all batches up to `lsn` are durable.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), JournalError> {
        if self.durable() >= lsn {
            return Ok(());
        }
        if lsn > self.appended() {
            return Err(JournalError::NotAppended { lsn, appended: self.appended() });
        }
        let mut state = self.commit.state.lock();
        let mut result = Ok(());
        let mut flushed = false;
        while state.durable < lsn && result.is_ok() {
            if let Err(error) = self.check_sound() {
                result = Err(error);
            } else if state.flushing {
                self.commit.flushed.wait(&mut state);
            } else {
                result = self.lead_flush(&mut state);
                flushed = true;
            }
        }
        drop(state);
        if flushed {
            self.tell_progress();
        }
        result
    }

    /// The background thread.
    pub fn run_flusher(&self) {
        let mut last_start: Option<Instant> = None;
        let mut state = self.commit.state.lock();
        while !self.stopping() && self.check_sound().is_ok() {
            if self.appended() <= state.durable {
                self.flusher_idle.store(true, Ordering::SeqCst);
                if self.appended() <= state.durable {
                    let unmarked = state.marked < state.durable;
                    let timed_out = self.commit.work.wait_for(&mut state, MARK_AFTER).timed_out();
                    if timed_out && unmarked && !state.flushing && self.appended() <= state.durable {
                        self.write_mark(&mut state);
                    }
                }
                self.flusher_idle.store(false, Ordering::SeqCst);
            } else if state.flushing {
                self.commit.flushed.wait(&mut state);
            } else if let Some(due) = last_start.map(|start| start + self.options.flush_interval)
                && Instant::now() < due
            {
                self.commit.work.wait_until(&mut state, due);
            } else {
                last_start = Some(Instant::now());
                if let Err(error) = self.lead_flush(&mut state) {
                    tracing::error!(%error, "the journal's background flush failed");
                }
                MutexGuard::unlocked(&mut state, || self.tell_progress());
            }
        }
        drop(state);
        self.tell_failure();
    }

    /// Wakes the background thread after an append, if it sleeps.
    pub fn wake_flusher(&self) {
        if self.flusher_idle.load(Ordering::SeqCst) && self.flusher_idle.swap(false, Ordering::SeqCst) {
            // The lock makes sure that the thread is asleep and not about to be.
            drop(self.commit.state.lock());
            self.commit.work.notify_one();
        }
    }

    /// Says on the disk that all appended batches are durable, as they are. Nobody else may flush.
    pub fn write_mark(&self, state: &mut MutexGuard<'_, CommitState>) {
        let (durable, slot) = (state.durable, state.mark_slot);
        let live = {
            let writer = self.writer.lock();
            if writer.appended != durable {
                return;
            }
            writer.active.live.clone()
        };
        state.flushing = true;
        let result = MutexGuard::unlocked(state, || {
            live.write_mark(slot, durable)?;
            live.on_disk.sync()
        });
        state.flushing = false;
        match result {
            Ok(()) => (state.marked, state.mark_slot) = (durable, slot + 1),
            Err(error) => {
                // The sync may have dropped batches that were appended meanwhile.
                tracing::error!(%error, "cannot mark the end of the journal");
                self.poison(&error);
            }
        }
        self.commit.flushed.notify_all();
    }

    /// Flushes with the lock released; nobody else does meanwhile.
    fn lead_flush(&self, state: &mut MutexGuard<'_, CommitState>) -> Result<(), JournalError> {
        let Some(before_flush) = self.before_flush.get() else { return Err(JournalError::NotStarted) };
        state.flushing = true;
        let result = MutexGuard::unlocked(state, || {
            catch_unwind(AssertUnwindSafe(|| self.flush(before_flush)))
                .unwrap_or_else(|_| Err(JournalError::Poisoned { why: "a flush panicked".to_owned() }))
        });
        state.flushing = false;
        let result = match result {
            Ok((lsn, heads, sealed)) => {
                stages::check_durable(self.appended(), lsn, state.durable);
                let next_file = (state.durable..lsn).contains(&sealed);
                (state.durable, state.heads) = (lsn, heads);
                self.durable.store(lsn.0, Ordering::SeqCst);
                if next_file {
                    // The files before it may have waited for that.
                    self.upkeep.ask();
                }
                Ok(())
            }
            Err(error) => {
                self.poison(&error);
                Err(error)
            }
        };
        self.commit.flushed.notify_all();
        result
    }

    /// Returns what is durable then, and the last batch before the file that is being written.
    fn flush(&self, before_flush: &BeforeFlush) -> Result<(Lsn, Heads, Lsn), JournalError> {
        let (lsn, heads, sealed, files, dir_dirty) = {
            let mut writer = self.writer.lock();
            let mut files = std::mem::take(&mut writer.dirty);
            files.push(writer.active.live.on_disk.clone());
            let sealed = writer.active.live.header.first_lsn.previous();
            (writer.appended, writer.heads, sealed, files, std::mem::take(&mut writer.dir_dirty))
        };
        before_flush().map_err(JournalError::io("flush the objects of", &self.dir))?;
        for file in files {
            file.sync()?;
        }
        if dir_dirty {
            super::file::sync_dir(&self.dir)?;
        }
        Ok((lsn, heads, sealed))
    }
}
