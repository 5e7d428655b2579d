//! What answers the kernel, and how answers come about.
//!
//! An inode that an answer names is counted (`remember`) before the answer is sent, since the kernel may forget it at once.

use std::sync::Arc;

use fuser::{Errno, FileHandle, INodeNo, LockOwner, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry};
use proto::ids::FileId;

use super::answer::{answer_empty, refusal};
use super::convert::{GENERATION, OpenHandle, TTL, file, file_attr};
use super::directory::{Listing, OpenDirectories};
use super::open_file::Opener;
use super::opening::{Admitted, OpenFiles};
use super::waits::Waits;
use crate::error::FsError;
use crate::types::{Attr, HandleId};
use crate::volume::Volume;

/// What answers the kernel.
pub struct Adapter {
    pub(super) volume: Arc<Volume>,
    pub(super) opener: Opener,
    pub(super) directories: OpenDirectories,
    pub(super) waits: Waits,
}

impl Adapter {
    /// Answers from `volume`, on so many threads.
    pub fn new(volume: Arc<Volume>, files: Arc<OpenFiles>, request_threads: usize) -> Self {
        let directories = OpenDirectories::default();
        let opener = Opener { volume: volume.clone(), files };
        Self { volume, opener, directories, waits: Waits::new(request_threads) }
    }

    /// Does what waits for other sites if one of `places`, the directories and files that it touches, is sync: then where waiting takes nothing from
    /// other requests, else here.
    pub fn perform<const N: usize>(&self, places: [INodeNo; N], job: impl FnOnce(&Opener) + Send + 'static) {
        if places.into_iter().any(|place| self.volume.waits_for_peers(file(place))) {
            let opener = self.opener.clone();
            self.waits.run(move || job(&opener));
        } else {
            job(&self.opener);
        }
    }

    /// As [`perform`](Self::perform), answering with success or the error.
    pub fn change<const N: usize>(
        &self,
        places: [INodeNo; N],
        reply: ReplyEmpty,
        job: impl FnOnce(&Volume) -> Result<(), FsError> + Send + 'static,
    ) {
        self.perform(places, move |on| answer_empty(job(&on.volume), reply));
    }

    /// As [`perform`](Self::perform), in a directory, answering with the entry that is there then.
    pub fn make(
        &self,
        parent: INodeNo,
        reply: ReplyEntry,
        job: impl FnOnce(&Volume) -> Result<Attr, FsError> + Send + 'static,
    ) {
        self.perform([parent], move |on| answer_entry(&on.volume, job(&on.volume), reply));
    }

    /// Answers when `job` is done, which waits at least for the disk.
    pub fn answer_later(&self, reply: ReplyEmpty, job: impl FnOnce(&Volume) -> Result<(), FsError> + Send + 'static) {
        let volume = self.volume.clone();
        self.waits.run(move || answer_empty(job(&volume), reply));
    }

    /// Who reads for a program names its `owner`; what the kernel reads for itself it keeps.
    pub fn read_for(
        &self,
        owner: Option<LockOwner>,
        file: FileId,
        handle: HandleId,
        offset: u64,
        len: u32,
        reply: ReplyData,
    ) {
        if owner.is_none() {
            self.volume.drop_unseen_pages(file, offset, len);
        }
        match self.volume.read(handle, offset, len) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(refusal(&error)),
        }
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

/// The entry, counted.
pub fn answer_entry(volume: &Volume, result: Result<Attr, FsError>, reply: ReplyEntry) {
    match result {
        Ok(attr) => {
            volume.remember(attr.file);
            reply.entry(&TTL, &file_attr(&attr), GENERATION);
        }
        Err(error) => reply.error(refusal(&error)),
    }
}

/// The entry of a new file, counted, with its handle.
pub fn answer_created(
    volume: &Volume,
    made: Result<(Attr, OpenHandle, Admitted), FsError>,
    exclusive: bool,
    reply: ReplyCreate,
) {
    match made {
        Ok((attr, open, admitted)) => {
            volume.remember(attr.file);
            let attr = file_attr(&attr);
            match &admitted.backing {
                Some(backing) => {
                    reply.created_passthrough(&TTL, &attr, GENERATION, open.encode(), admitted.flags, backing);
                }
                None => reply.created(&TTL, &attr, GENERATION, open.encode(), admitted.flags),
            }
        }
        // The name came by replay after the kernel saw that it was missing. ESTALE makes the kernel look again and open
        // what is there, by its permissions; an open from here would go past them. It is kept for that.
        Err(FsError::Exists) if !exclusive => reply.error(Errno::ESTALE),
        Err(error) => reply.error(refusal(&error)),
    }
}
