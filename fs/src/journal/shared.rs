//! What the journal's callers and its threads share.
//!
//! Locks, in the order in which they may be taken: commit state → writer. Readers' cursors and the listeners' list are taken alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::JournalOptions;
use super::commit::{BeforeFlush, Commit};
use super::cursors::Cursors;
use super::error::JournalError;
use super::lsn::Lsn;
use super::upkeep::Upkeep;
use super::writer::Writer;

/// Told of progress.
pub type Listener = Arc<dyn Fn() + Send + Sync>;

/// The state behind a `Journal`.
pub struct Shared {
    pub dir: PathBuf,
    pub options: JournalOptions,
    pub writer: Mutex<Writer>,
    pub commit: Commit,
    pub upkeep: Upkeep,
    pub cursors: Mutex<Cursors>,
    pub before_flush: OnceLock<BeforeFlush>,
    /// The background flusher sleeps until something is appended.
    pub flusher_idle: AtomicBool,
    /// A copy of the commit's, to be read without its lock.
    pub durable: AtomicU64,
    /// A copy of the writer's, to be read without its lock.
    pub appended: AtomicU64,
    pub closed: AtomicBool,
    pub stop: AtomicBool,
    failure: OnceLock<String>,
    listener: RwLock<Option<Listener>>,
}

impl Shared {
    /// Ready, but without threads.
    pub fn new(dir: PathBuf, options: JournalOptions, writer: Writer, commit: Commit) -> Self {
        let durable = commit.state.lock().durable;
        Self {
            dir,
            options,
            durable: AtomicU64::new(durable.0),
            appended: AtomicU64::new(writer.appended.0),
            writer: Mutex::new(writer),
            commit,
            upkeep: Upkeep::default(),
            cursors: Mutex::default(),
            before_flush: OnceLock::new(),
            flusher_idle: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            failure: OnceLock::new(),
            listener: RwLock::new(None),
        }
    }

    /// The last batch.
    pub fn appended(&self) -> Lsn {
        Lsn(self.appended.load(Ordering::SeqCst))
    }

    /// The last durable batch.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::SeqCst))
    }

    /// Whether the threads are to end.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// An error once something failed that may have spoilt the journal.
    pub fn check_sound(&self) -> Result<(), JournalError> {
        match self.failure.get() {
            Some(why) => Err(JournalError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// From now on nothing is appended and nothing becomes durable.
    pub fn poison(&self, error: &JournalError) {
        // The first failure is the one that explains the others.
        let _ = self.failure.set(error.to_string());
    }

    /// At the end of a thread that may have found a failure.
    pub fn tell_failure(&self) {
        if self.check_sound().is_err() {
            self.tell_progress();
        }
    }

    /// Sets who is told of progress, instead of whoever was.
    pub fn set_listener(&self, listener: Listener) {
        *self.listener.write() = Some(listener);
    }

    /// Tells that more is appended or durable, or that the journal failed.
    pub fn tell_progress(&self) {
        let listener = self.listener.read().clone();
        if let Some(listener) = listener {
            listener();
        }
    }
}
