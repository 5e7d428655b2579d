//! What answers the kernel, and how answers come about.
//!
//! An inode that an answer names is counted (`remember`) before the answer is sent, since the kernel may forget it at once.

use std::sync::Arc;

use fuser::{FileHandle, INodeNo, ReplyEmpty, ReplyEntry};

use super::answer::{answer_empty, refusal};
use super::convert::{GENERATION, TTL, file, file_attr};
use super::directory::{Listing, OpenDirectories};
use super::opening::OpenFiles;
use super::waits::Waits;
use crate::error::FsError;
use crate::types::Attr;
use crate::volume::Volume;

/// What answers the kernel.
pub struct Adapter {
    pub(super) volume: Arc<Volume>,
    pub(super) files: Arc<OpenFiles>,
    pub(super) stack_depth: u32,
    pub(super) directories: OpenDirectories,
    pub(super) waits: Waits,
}

impl Adapter {
    /// Answers from `volume`, on so many threads. `stack_depth`: over how many stacked file systems objects may be passed through.
    pub fn new(volume: Arc<Volume>, files: Arc<OpenFiles>, request_threads: usize, stack_depth: u32) -> Self {
        let directories = OpenDirectories::default();
        Self { volume, files, stack_depth, directories, waits: Waits::new(request_threads) }
    }

    /// The entry, counted.
    pub fn answer_entry(&self, result: Result<Attr, FsError>, reply: ReplyEntry) {
        match result {
            Ok(attr) => {
                self.volume.remember(attr.file);
                reply.entry(&TTL, &file_attr(&attr), GENERATION);
            }
            Err(error) => reply.error(refusal(&error)),
        }
    }

    /// Answers when `job` is done, which may take its time.
    pub fn answer_later(&self, reply: ReplyEmpty, job: impl FnOnce(&Volume) -> Result<(), FsError> + Send + 'static) {
        let volume = self.volume.clone();
        self.waits.run(move || answer_empty(job(&volume), reply));
    }

    /// What the handle lists.
    pub fn listing(&self, dir: INodeNo, handle: FileHandle, offset: u64) -> Result<Arc<Listing>, FsError> {
        let dir = file(dir);
        self.directories.listing(handle, offset, || {
            // A removed directory that is still open has no parent any more.
            let parent = self.volume.parent(dir).unwrap_or(dir);
            Ok(Listing { dir, parent, entries: self.volume.list(dir)? })
        })
    }
}
