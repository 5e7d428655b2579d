//! What is open, and through which backing id the kernel reaches it.
//!
//! A mapping of an object outlives its handle. As long as there may be one, the inode stays passed through: pages cached beside it
//! would not show its stores, and written back would take them away.
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
use std::num::NonZeroU32;
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
    /// The object may be mapped, also when all opens are gone: counted as one more open.
    mapped: bool,
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

    /// Whether an open may have to register its object: fetch it beforehand.
    pub fn may_register(&self, access: Access) -> bool {
        self.passthrough() && access != Access::ReadWrite
    }

    /// Counts one more open, by `how`. `register` is called if this open is the first that passes through. A release must follow.
    pub fn admit(&self, file: FileId, how: How, register: impl FnOnce() -> io::Result<B>) -> Admitted<B> {
        let How { access, .. } = how;
        let mut inodes = self.inodes.lock();
        let inode = inodes.entry(file).or_insert(OpenInode { mode: OpenMode::Idle, backing: None, mapped: false });
        if inode.mode == OpenMode::Idle && self.may_register(access) {
            inode.backing = register().map(Arc::new).map_err(|error| self.refused(file, &error)).ok();
        }
        let mode = inode.mode.open(access, inode.backing.is_some());
        let unseen_writes = mode == IoMode::DirectPassthrough { unseen_writes: true };
        if unseen_writes && !inode.mapped {
            inode.mapped = true;
            inode.mode.open(access, true);
        }
        let backing = match mode {
            IoMode::Cached => None,
            IoMode::Passthrough | IoMode::DirectPassthrough { .. } => inode.backing.clone(),
        };
        Admitted { flags: fopen_flags(how, mode), backing, unseen_writes }
    }

    /// Counts one open less.
    pub fn release(&self, file: FileId) {
        let mut inodes = self.inodes.lock();
        let Some(inode) = inodes.get_mut(&file) else {
            debug_assert!(false, "release of {file}, which is not open");
            return;
        };
        inode.mode.release();
        if inode.mode == OpenMode::Idle {
            let last = inodes.remove(&file);
            drop(inodes);
            drop(last);
        }
    }

    /// The object is not mapped any more, unless there are opens that can still map it: their last release says so again.
    pub fn unmapped(&self, file: FileId) {
        let mut inodes = self.inodes.lock();
        let only_mapped = OpenMode::Passthrough(NonZeroU32::MIN);
        if inodes.get(&file).is_some_and(|inode| inode.mapped && inode.mode == only_mapped) {
            let last = inodes.remove(&file);
            drop(inodes);
            drop(last);
        }
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
