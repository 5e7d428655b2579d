//! What is open, and through which backing id the kernel reaches it.
//!
//! All passed-through opens of an inode share one backing id (the kernel refuses a second with EIO). It is stored before
//! the reply that names it is sent, and given back with the last release. Its registration happens under the lock, so
//! that two opens at once cannot make two; it is one ioctl that waits for nothing.
//!
//! **FLUSH.** `close` waits for a request only where it has a reason to. A read-only open has none. A write-only open
//! has none in an asynchronous directory: it cannot be mapped, so all that it wrote arrived in write requests, and a write's
//! error was its own answer. An open for both keeps FLUSH: it is when the kernel writes pages back that a mapping made
//! dirty, and when the volume looks for unseen writes. A write-only handle is therefore only told RELEASE. In a sync
//! directory `close` waits for the peers, so FLUSH comes for all that write. It is decided by the open: a write-only handle
//! opened while the directory was asynchronous does not wait at `close`, but at `fsync`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, FopenFlags};
use parking_lot::Mutex;
use proto::ids::FileId;
use rustix::io::Errno;

use super::open_mode::{Access, IoMode, OpenMode};

/// All open regular files. `B` is what keeps an object registered with the kernel until it is dropped.
#[derive(Debug)]
pub struct OpenFiles<B = BackingId> {
    inodes: Mutex<HashMap<FileId, OpenInode<B>>>,
    passthrough: AtomicBool,
}

#[derive(Debug)]
struct OpenInode<B> {
    mode: OpenMode,
    backing: Option<Arc<B>>,
    /// Opens since it was idle that may have been mapped unseen.
    watched: u32,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct How {
    /// For reading, writing or both.
    pub access: Access,
    /// The directory is sync.
    pub waits_at_close: bool,
}

/// How one open is answered.
#[derive(Debug)]
pub struct Admitted<B = BackingId> {
    /// For the reply; without FOPEN_PASSTHROUGH, which fuser adds.
    pub flags: FopenFlags,
    /// What the kernel shall pass through to.
    pub backing: Option<Arc<B>>,
    /// The open can be mapped such that its writes go to the object unseen.
    pub unseen_writes: bool,
}

impl<B> OpenFiles<B> {
    /// Nothing is open. `passthrough`: whether the kernel may be asked to pass opens through.
    pub fn new(passthrough: bool) -> Self {
        Self { inodes: Mutex::default(), passthrough: AtomicBool::new(passthrough) }
    }

    /// Whether objects are passed through; once refused by the kernel, no more.
    pub fn passthrough(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    /// Ends passing through for opens to come.
    pub fn disable_passthrough(&self) {
        self.passthrough.store(false, Ordering::Relaxed);
    }

    /// Counts one more open, by `how`. `register` is called if this open is the first that passes through. A release must follow.
    pub fn admit(&self, file: FileId, how: How, register: impl FnOnce() -> io::Result<B>) -> Admitted<B> {
        let How { access, .. } = how;
        let mut inodes = self.inodes.lock();
        let inode = inodes.entry(file).or_insert_with(OpenInode::idle);
        let first = match inode.mode {
            OpenMode::Idle => access != Access::ReadWrite,
            OpenMode::Mapped => true,
            OpenMode::Passthrough(_) | OpenMode::Cached(_) => false,
        };
        if first && self.passthrough() {
            inode.backing = register().map(Arc::new).map_err(|error| self.refused(file, &error)).ok();
        }
        let mode = inode.mode.open(access, inode.backing.is_some());
        let backing = match mode {
            IoMode::Cached => None,
            IoMode::Passthrough | IoMode::DirectPassthrough { .. } => inode.backing.clone(),
        };
        Admitted {
            flags: fopen_flags(how, mode),
            backing,
            unseen_writes: mode == IoMode::DirectPassthrough { unseen_writes: true },
        }
    }

    /// The volume watches the file for one of its opens, which has no release yet.
    pub fn watched(&self, file: FileId) {
        if let Some(inode) = self.inodes.lock().get_mut(&file) {
            inode.watched += 1;
        }
    }

    /// As if the file had been mapped through opens that are gone, so many of which the volume watches: by a program that a daemon before this one served,
    /// or that stored what is not journalled yet.
    pub fn assume_mapped(&self, file: FileId, watched: u32) {
        let mapped = || OpenInode { mode: OpenMode::Mapped, ..OpenInode::idle() };
        self.inodes.lock().entry(file).or_insert_with(mapped).watched += watched;
    }

    /// Whether the next open for both may have to be watched, for which the file is read.
    pub fn is_passed_through(&self, file: FileId) -> bool {
        let inodes = self.inodes.lock();
        inodes.get(&file).is_some_and(|inode| matches!(inode.mode, OpenMode::Passthrough(_) | OpenMode::Mapped))
    }

    /// Whether the kernel has pages of the file for itself, which mappings may have changed.
    pub fn is_cached(&self, file: FileId) -> bool {
        self.inodes.lock().get(&file).is_some_and(|inode| matches!(inode.mode, OpenMode::Cached(_)))
    }

    /// Files that are not open, and may be mapped.
    pub fn mapped(&self) -> Vec<FileId> {
        let inodes = self.inodes.lock();
        inodes.iter().filter(|(_, inode)| inode.mode == OpenMode::Mapped).map(|(file, _)| *file).collect()
    }

    /// Ends it for a file that is not mapped any more. For how many opens the volume watched it. `is_unmapped` is asked while nobody can open the file.
    pub fn end_mapped(&self, file: FileId, is_unmapped: impl FnOnce() -> bool) -> Option<u32> {
        let mut inodes = self.inodes.lock();
        let inode = inodes.get(&file).filter(|inode| inode.mode == OpenMode::Mapped)?;
        let watched = inode.watched;
        is_unmapped().then(|| {
            inodes.remove(&file);
            watched
        })
    }

    /// Counts one open less.
    pub fn release(&self, file: FileId) {
        let mut inodes = self.inodes.lock();
        let Some(inode) = inodes.get_mut(&file) else {
            debug_assert!(false, "release of {file}, which is not open");
            return;
        };
        inode.mode.release(inode.watched > 0);
        // A mapping has a file of its own below: the backing is not needed for it, and would look like one.
        let last = match inode.mode {
            OpenMode::Idle => inodes.remove(&file).and_then(|inode| inode.backing),
            OpenMode::Mapped => inode.backing.take(),
            OpenMode::Passthrough(_) | OpenMode::Cached(_) => None,
        };
        drop((inodes, last));
    }

    /// The kernel did not take the object: this inode is cached instead. What will not change disables all further attempts.
    fn refused(&self, file: FileId, error: &io::Error) {
        let lasting = [Errno::PERM, Errno::LOOP, Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTTY, Errno::INVAL]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
        if !lasting {
            tracing::debug!("file {file} is read through the page cache of the mount: {error}");
        } else if self.passthrough.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                "the kernel does not pass reads through to the store ({error}): they go through the daemon and are slower; it needs \
                 Linux 6.9, CAP_SYS_ADMIN and a store on a local file system"
            );
        }
    }
}

impl<B> OpenInode<B> {
    fn idle() -> Self {
        Self { mode: OpenMode::Idle, backing: None, watched: 0 }
    }
}

fn fopen_flags(how: How, mode: IoMode) -> FopenFlags {
    let flags = match mode {
        IoMode::Passthrough => FopenFlags::empty(),
        IoMode::DirectPassthrough { .. } => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        IoMode::Cached => FopenFlags::FOPEN_KEEP_CACHE,
    };
    match how {
        How { access: Access::Read, .. } | How { access: Access::Write, waits_at_close: false } => {
            flags | FopenFlags::FOPEN_NOFLUSH
        }
        _ => flags,
    }
}

#[cfg(test)]
#[path = "opening_tests.rs"]
mod tests;
