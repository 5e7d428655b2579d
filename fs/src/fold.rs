//! Folds the rows in front into redb, in the background, and moves the journal's checkpoint.
//!
//! The order, each step needed by the next:
//! 1. freeze the rows of all batches up to an LSN (under the writer's lock: no batch is half in);
//! 2. flush the journal up to it: redb must never be ahead of the durable journal, or own records would be lost to the peers though their rows stand;
//! 3. flush all objects: after the checkpoint recovery does not write their bytes again;
//!    and remove the objects of files that are gone: recovery will not hear of them again;
//! 4. commit the rows and the checkpoint, at once;
//! 5. let readers go to redb for these rows; let the journal reuse its files up to the checkpoint.
//!
//! A crash before 4 leaves the old checkpoint: recovery reads the batches again. After a failure the site stops writing; nothing is lost, the journal
//! has every batch.

use std::sync::Weak;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::FsError;
use crate::meta;
use crate::volume::Volume;

/// Rows in front are folded when they take this much memory,
const FOLD_BYTES: usize = 16 << 20;
/// or the journal has grown by this much since the checkpoint,
const FOLD_JOURNAL_BYTES: u64 = 64 << 20;
/// or the oldest has waited this long.
const FOLD_AFTER: Duration = Duration::from_secs(5);
/// Writers wait for the fold when the rows in front take this much.
const FULL_BYTES: usize = 256 << 20;
/// This long at most.
const FULL_WAIT: Duration = Duration::from_secs(1);
/// How often is looked whether objects may be removed, while some wait for that.
const REMOVE_EVERY: Duration = Duration::from_millis(50);

/// Tells the folding thread what to do.
#[derive(Default)]
pub struct FoldSignal {
    state: Mutex<State>,
    wake: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    /// Journal bytes appended since the last fold began.
    journal_bytes: u64,
    /// Memory that the rows in front take.
    front_bytes: usize,
    oldest: Option<Instant>,
    /// Objects wait to be removed.
    removals: bool,
    folds: u64,
}

/// What the thread has to do.
enum Due {
    Fold,
    Remove,
    Stop,
}

impl State {
    fn is_full(&self) -> bool {
        self.journal_bytes >= FOLD_JOURNAL_BYTES || self.front_bytes >= FOLD_BYTES
    }
}

impl FoldSignal {
    /// A batch was appended.
    pub fn appended(&self, bytes: u64, front_bytes: usize) {
        let mut state = self.state.lock();
        state.journal_bytes += bytes;
        state.front_bytes = front_bytes;
        if state.oldest.is_none() || state.is_full() {
            state.oldest.get_or_insert_with(Instant::now);
            self.wake.notify_one();
        }
    }

    /// Objects wait to be removed, until a batch is durable.
    pub(crate) fn removals_wait(&self) {
        self.state.lock().removals = true;
        self.wake.notify_one();
    }

    /// Waits until something is due.
    fn wait(&self) -> Due {
        let mut state = self.state.lock();
        let mut remove = None;
        loop {
            if state.stop {
                return Due::Stop;
            }
            let fold = state.oldest.map(|oldest| oldest + FOLD_AFTER);
            if fold.is_some_and(|due| state.is_full() || Instant::now() >= due) {
                return Due::Fold;
            }
            if state.removals {
                let due = *remove.get_or_insert_with(|| Instant::now() + REMOVE_EVERY);
                if Instant::now() >= due {
                    state.removals = false;
                    return Due::Remove;
                }
            }
            match fold.into_iter().chain(remove).min() {
                None => self.wake.wait(&mut state),
                Some(due) => drop(self.wake.wait_until(&mut state, due)),
            }
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.wake.notify_one();
        self.done.notify_all();
    }
}

/// The folding thread. It ends when it is told to, or when the volume is gone.
pub(crate) fn run(signal: &FoldSignal, volume: &Weak<Volume>) {
    loop {
        let due = signal.wait();
        if matches!(due, Due::Stop) {
            return;
        }
        let Some(volume) = volume.upgrade() else { return };
        if matches!(due, Due::Remove) {
            volume.remove_due_objects();
            if !volume.removals.is_empty() {
                signal.removals_wait();
            }
            continue;
        }
        if let Err(error) = volume.fold_now() {
            volume.stop_writing("folding rows into meta.redb failed", std::io::Error::other(error.to_string()));
            return;
        }
        if let Err(error) = volume.unmark_idle() {
            tracing::warn!(%error, "marks of active objects stay");
        }
    }
}

impl Volume {
    /// Folds everything up to now.
    pub(crate) fn fold_now(&self) -> Result<(), FsError> {
        let _one = self.folding.lock();
        let (frozen, lsn, hlc, next_file) = {
            let writer = self.writer.lock();
            {
                let mut state = self.fold.state.lock();
                state.journal_bytes = 0;
                state.front_bytes = 0;
                state.oldest = None;
            }
            (self.rows.freeze(), self.journal.appended(), writer.clock.last(), writer.next_file)
        };
        self.wait_durable(lsn)?;
        self.remove_due_objects();
        self.dirty.flush_all().map_err(|source| FsError::Disk { what: "flushing objects", source })?;
        let extra = [
            meta::number(meta::CHECKPOINT, lsn.0),
            meta::number(meta::HLC, hlc.0),
            meta::number(meta::NEXT_FILE, next_file),
        ];
        self.db.commit(&frozen, &extra)?;
        self.rows.folded(self.db.snapshot()?);
        self.journal.set_checkpoint(lsn);
        self.staged.passed(lsn);
        let mut state = self.fold.state.lock();
        state.folds += 1;
        self.fold.done.notify_all();
        tracing::debug!(checkpoint = lsn.0, "folded");
        Ok(())
    }

    /// Keeps memory bounded: a writer waits here while far more rows are in front than a fold takes. Not for ever: the folding thread may
    /// itself wait for a lock that the writer holds.
    pub(crate) fn wait_for_fold(&self) {
        if self.rows.bytes() < FULL_BYTES {
            return;
        }
        let mut state = self.fold.state.lock();
        let folds = state.folds;
        let until = Instant::now() + FULL_WAIT;
        while state.folds == folds && !state.stop {
            if self.fold.done.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }
}
