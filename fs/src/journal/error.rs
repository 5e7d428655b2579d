//! Why the journal did not do what it was asked.

use std::io;
use std::path::{Path, PathBuf};

use proto::ids::{Lane, Seq};

use super::lsn::Lsn;

/// Why the journal could not be made or opened, or takes no batch.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system below failed. Nothing was appended.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// There is a journal where one was to be made.
    #[error("{} holds a journal already; choose an empty directory", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no journal where one was to be opened.
    #[error("{} holds no journal; restore it, or join again under another name, with an empty store", dir.display())]
    Absent {
        /// The directory.
        dir: PathBuf,
    },
    /// A file belongs to another store.
    #[error("{} belongs to another store; remove it from this one", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// A file is of a format that this program does not know.
    #[error("{} is of journal format {version}; use the program that wrote it", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Both copies of a file's header are damaged.
    #[error("the header of {} is damaged; check the disk, then restore the store, or join again under another name with an empty one", file.display())]
    DamagedHeader {
        /// The file.
        file: PathBuf,
    },
    /// Durable batches are damaged or gone.
    #[error(
        "the journal is damaged at byte {offset} of {}: batch {lsn} was durable and cannot be read; check the disk, \
         then restore the store, or join again under another name with an empty one",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the damaged batch begins, in bytes.
        offset: u64,
        /// The batch.
        lsn: Lsn,
    },
    /// The options cannot work.
    #[error("journal files of {file_bytes} bytes are too small; at least {least} are needed")]
    FileTooSmall {
        /// What was asked for.
        file_bytes: u64,
        /// The least that works.
        least: u64,
    },
    /// The batch is larger than batches may be.
    #[error("a batch of {bytes} bytes is larger than {limit}; split it")]
    TooLarge {
        /// Its length in the file.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// An own batch does not follow the last one of its lane.
    #[error("record {got} cannot follow record {head} of lane {lane}")]
    Sequence {
        /// The lane.
        lane: Lane,
        /// The lane's last record.
        head: Seq,
        /// The batch's first record.
        got: Seq,
    },
    /// No such batch was appended.
    #[error("batch {lsn} was not appended; the last one is {appended}")]
    NotAppended {
        /// The batch.
        lsn: Lsn,
        /// The last one.
        appended: Lsn,
    },
    /// A write or flush failed before: what is on the disk is not known.
    #[error("the journal stopped after a failure: {why}; restart to recover")]
    Poisoned {
        /// The failure.
        why: String,
    },
    /// Nothing is flushed before `start`.
    #[error("the journal is not started")]
    NotStarted,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

impl JournalError {
    /// For `map_err`: names what was attempted, and on what.
    pub(super) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> JournalError + 'a {
        move |source| JournalError::Io { what, path: path.to_owned(), source }
    }
}

/// Why nothing was read from the journal.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The records were recycled.
    #[error("the records after {after} of lane {lane} are no longer in the journal; it begins after {floor}")]
    Truncated {
        /// The lane.
        lane: Lane,
        /// After which record was asked.
        after: Seq,
        /// After which record one may ask.
        floor: Seq,
    },
    /// The batch was recycled.
    #[error("the batch at byte {offset} of journal file generation {generation} is no longer there")]
    Gone {
        /// The file's generation.
        generation: u64,
        /// The batch's place in it, in bytes.
        offset: u64,
    },
    /// No intact batch begins there.
    #[error("no intact batch begins at byte {offset} of {}; check the disk", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The place, in bytes.
        offset: u64,
    },
    /// The disk failed or a durable batch is damaged.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
