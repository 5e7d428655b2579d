//! The journal: what this site did, in order, in preallocated files that are reused in turn.
//!
//! # The life of a batch
//!
//! [`Journal::append`] gives it a number and writes it behind the last one (`writer`); it survives the process. A flush makes it
//! durable (`commit`); from then on readers of its lane see it (`reader`). The store folds it in and says so
//! ([`Journal::set_checkpoint`]), the peers acknowledge it ([`Journal::set_watermark`]), and its file is used again (`recycle`, `upkeep`).
//! After a crash [`Journal::open`] finds the intact end and hands over what was not folded in (`recovery`, `recovered`).
//!
//! # Invariants
//!
//! - Batches form one run of numbers without gaps; what a crash leaves is a prefix of it that has at least all that was durable.
//! - Nothing that was durable is dropped in silence: where it cannot be read, opening or reading fails and names the place.
//! - No byte of an earlier use of a file, or of a torn end that was cut, is ever taken for a batch (`format`).
//! - After a failed write or flush nothing is appended and nothing becomes durable.
//!
//! The body of a batch is opaque here.
//!
//! | module | concept |
//! |---|---|
//! | `lsn` | numbers of batches, heads of lanes |
//! | `format`, `footer` | the layout of files, batches, footers |
//! | `file` | a file on the disk and its life |
//! | `scan` | batches of one file in order |
//! | `writer`, `commit` | append, flush |
//! | `reader`, `cursors`, `recent` | reading back |
//! | `recovery`, `recovered` | the intact end after a crash |
//! | `recycle`, `upkeep` | the truncation rule, the thread that obeys it |
//! | `stages` | the order of stages |

mod commit;
mod cursors;
mod error;
mod file;
mod footer;
mod format;
mod lsn;
mod reader;
mod recent;
mod recovered;
mod recovery;
mod recycle;
mod scan;
mod shared;
mod stages;
mod upkeep;
mod writer;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod crash_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod journal_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use proto::ids::{Lane, Seq};

pub use self::commit::BeforeFlush;
pub use self::error::{JournalError, ReadError};
pub use self::format::{BatchHeader, BatchKind};
pub use self::lsn::{Heads, LaneHead, Lsn};
pub use self::reader::{OwnBatch, OwnedBatch, ReadEnd};
pub use self::recovered::{Cut, Recovered};
pub use self::writer::{Appended, Batch, Location, MAX_BATCH_BYTES};

use self::commit::Commit;
use self::file::{JournalFile, least_file_bytes};
use self::shared::Shared;
use self::writer::{AppendFailure, Sums, live_header};

/// How the journal is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalOptions {
    /// Size of each file.
    pub file_bytes: u64,
    /// Tells this store's files from another's.
    pub store_tag: u64,
    /// At most one background flush begins per interval.
    pub flush_interval: Duration,
}

impl JournalOptions {
    /// The defaults, for a store.
    pub fn new(store_tag: u64) -> Self {
        Self { file_bytes: 64 << 20, store_tag, flush_interval: Duration::from_millis(20) }
    }
}

/// What a file of the journal is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileUse {
    /// Full.
    Sealed,
    /// The one that is written.
    Active,
    /// Ready to be the next.
    Spare,
}

/// A file of the journal, for status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileStatus {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// What it is used for.
    pub used: FileUse,
    /// Its batches, first and last; `None` when it has none.
    pub lsns: Option<(Lsn, Lsn)>,
}

/// One site's open journal.
///
/// Dropping it stops its threads without flushing, as a crash would; [`Journal::close`] flushes first.
pub struct Journal {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Journal {
    /// Makes an empty journal, durably, in a directory that is made if it isn't there. Open it afterwards.
    pub fn create(dir: &Path, options: JournalOptions) -> Result<(), JournalError> {
        check_options(&options)?;
        fs::create_dir_all(dir).map_err(JournalError::io("create", dir))?;
        if recovery::is_journal(dir, &options)? {
            return Err(JournalError::Exists { dir: dir.to_owned() });
        }
        let first = JournalFile::make(dir, 1, options.file_bytes, options.store_tag)?;
        let header = live_header(&first, options.store_tag, 1, 0, Lsn(1), Lsn::ZERO, Heads::START);
        first.write_header(&header)?;
        first.sync()?;
        dir.parent().map_or(Ok(()), file::sync_dir)
    }

    /// Opens the journal and finds its intact end. All up to `checkpoint` was folded in; the rest comes as [`Recovered`].
    ///
    /// Only the checkpoint counts as durable until [`Journal::start`].
    pub fn open(dir: &Path, options: JournalOptions, checkpoint: Lsn) -> Result<(Journal, Recovered), JournalError> {
        check_options(&options)?;
        let found = recovery::recover(dir, &options, checkpoint)?;
        let commit = Commit::new(checkpoint, found.checkpoint_heads);
        let shared = Arc::new(Shared::new(dir.to_owned(), options, found.writer, commit));
        Ok((Journal { shared, threads: Mutex::default() }, found.recovered))
    }

    /// Starts the threads. `before_flush` is called before the journal's files are flushed and flushes the objects to which
    /// appended records refer by extent; so call this when the recovered records' objects are known to it. It runs on the thread that flushes, a waiter's or
    /// the background one, once at a time. A second call changes nothing.
    pub fn start(&self, before_flush: BeforeFlush) -> Result<(), JournalError> {
        if self.shared.before_flush.set(before_flush).is_err() {
            return Ok(());
        }
        let mut threads = self.threads.lock();
        for (name, run) in
            [("journal-flush", Shared::run_flusher as fn(&Shared)), ("journal-upkeep", Shared::run_upkeep)]
        {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared));
            threads.push(thread.map_err(JournalError::io("start a thread for", &self.shared.dir))?);
        }
        Ok(())
    }

    /// Appends a batch. When this returns it survives the process, not yet the power.
    pub fn append(&self, batch: &Batch<'_>) -> Result<Appended, JournalError> {
        let shared = &*self.shared;
        let sums = Sums::of(batch);
        let result = {
            let mut writer = shared.writer.lock();
            shared.check_sound()?;
            if shared.closed.load(Ordering::SeqCst) {
                return Err(JournalError::Closed);
            }
            let result = writer.append(&shared.dir, batch, &sums, shared.durable());
            if let Err(AppendFailure::Fatal(error)) = &result {
                // Under the lock: no other batch may be put behind this one.
                shared.poison(error);
            }
            shared.appended.store(writer.appended.0, Ordering::SeqCst);
            if writer.ready.is_empty() {
                shared.upkeep.ask();
            }
            result
        };
        match result {
            Ok(appended) => {
                shared.wake_flusher();
                Ok(appended)
            }
            Err(AppendFailure::Refused(error)) => Err(error),
            Err(AppendFailure::Fatal(error)) => {
                shared.tell_progress();
                Err(error)
            }
        }
    }

    /// Returns when all batches up to `lsn`, and the objects that they refer to, are durable. Doesn't wait for the interval, only for the disk.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), JournalError> {
        self.shared.wait_durable(lsn)
    }

    /// The last batch.
    pub fn appended(&self) -> Lsn {
        self.shared.appended()
    }

    /// The last durable batch.
    pub fn durable(&self) -> Lsn {
        self.shared.durable()
    }

    /// The last own record of a lane.
    pub fn lane_head(&self, lane: Lane) -> LaneHead {
        self.shared.writer.lock().heads.get(lane)
    }

    /// The last durable own record of a lane.
    pub fn durable_lane_head(&self, lane: Lane) -> LaneHead {
        self.shared.commit.state.lock().heads.get(lane)
    }

    /// Bytes of the lane's own records up to and with `seq`, since the site began; when `seq` is inside a batch, up to
    /// the batch before.
    pub fn lane_bytes_at(&self, lane: Lane, seq: Seq) -> Result<u64, ReadError> {
        self.shared.lane_bytes_at(lane, seq)
    }

    /// The batch at a place, durable or not.
    pub fn read_at(&self, location: Location) -> Result<OwnedBatch, ReadError> {
        self.shared.read_at(location)
    }

    /// Own batches of the lane that hold records after `after`, in order, up to `end`; at least one if there is one, and no more
    /// once they have `limit_bytes` of records.
    pub fn read_lane(
        &self,
        lane: Lane,
        after: Seq,
        limit_bytes: usize,
        end: ReadEnd,
    ) -> Result<Vec<OwnBatch>, ReadError> {
        self.shared.read_lane(lane, after, limit_bytes, end)
    }

    /// All batches up to `lsn` are folded in durably and the objects that they wrote are flushed. They must be durable here.
    pub fn set_checkpoint(&self, lsn: Lsn) {
        stages::check_checkpoint(self.durable(), lsn);
        {
            let mut writer = self.shared.writer.lock();
            writer.checkpoint = writer.checkpoint.max(lsn);
        }
        self.shared.upkeep.ask();
    }

    /// Every peer that must have them has the lane's records up to `seq`. Starts at zero whenever the journal is opened.
    pub fn set_watermark(&self, lane: Lane, seq: Seq) {
        {
            let mut writer = self.shared.writer.lock();
            let watermark = &mut writer.watermarks[lane as usize];
            *watermark = seq.max(*watermark);
        }
        self.shared.upkeep.ask();
    }

    /// What [`Journal::set_watermark`] has said of each lane.
    pub fn watermarks(&self) -> [Seq; Lane::ALL.len()] {
        self.shared.writer.lock().watermarks
    }

    /// The last own record of every lane.
    pub fn heads(&self) -> Heads {
        self.shared.writer.lock().heads
    }

    /// Sets who is told, at once and on the thread that made it, when more is durable, or the journal has failed. It must not block. Nobody is told of
    /// an append but by [`Journal::tell_progress`]: most lanes ship what is durable, and waking a thread for each record costs more than the record.
    pub fn on_progress(&self, listener: Box<dyn Fn() + Send + Sync>) {
        self.shared.set_listener(listener.into());
    }

    /// Tells whoever listens to look again.
    pub fn tell_progress(&self) {
        self.shared.tell_progress();
    }

    /// What the files take on the disk, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files().iter().map(|file| file.file_bytes).sum()
    }

    /// The files: the journal's in order, then the spare ones.
    pub fn files(&self) -> Vec<FileStatus> {
        let writer = self.shared.writer.lock();
        let status = |file: &JournalFile, used, first: Lsn, last: Lsn| FileStatus {
            path: file.path.clone(),
            file_bytes: file.file_bytes,
            used,
            lsns: (first <= last).then_some((first, last)),
        };
        let sealed = writer
            .sealed
            .iter()
            .map(|sealed| status(&sealed.live.on_disk, FileUse::Sealed, sealed.live.header.first_lsn, sealed.last_lsn));
        let live = &writer.active.live;
        let active = status(&live.on_disk, FileUse::Active, live.header.first_lsn, writer.appended);
        let spare = writer.ready.iter().map(|file| status(file, FileUse::Spare, Lsn(1), Lsn::ZERO));
        sealed.chain([active]).chain(spare).collect()
    }

    /// Flushes, says on the disk that all is durable, and stops the threads. Appending fails afterwards. Idempotent.
    pub fn close(&self) -> Result<(), JournalError> {
        let shared = &*self.shared;
        shared.check_sound()?;
        let last = {
            let _writer = shared.writer.lock();
            if shared.closed.swap(true, Ordering::SeqCst) {
                return Ok(());
            }
            shared.appended()
        };
        let result = shared.wait_durable(last);
        self.stop();
        if result.is_ok() {
            shared.write_mark(&mut shared.commit.state.lock());
        }
        result.and_then(|()| shared.check_sound())
    }

    fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Under the lock, so that the thread doesn't miss it between its look and its sleep.
        drop(self.shared.commit.state.lock());
        self.shared.commit.work.notify_all();
        self.shared.commit.flushed.notify_all();
        self.shared.upkeep.ask();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal panicked");
            }
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop();
    }
}

fn check_options(options: &JournalOptions) -> Result<(), JournalError> {
    let least = least_file_bytes();
    if options.file_bytes < least {
        return Err(JournalError::FileTooSmall { file_bytes: options.file_bytes, least });
    }
    Ok(())
}
