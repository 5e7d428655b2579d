//! One site's open store.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::hlc::Hlc;
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Position, Seq, SiteId, VolumeId};
use proto::record::{Kind, Perms, Record};

use crate::error::FsError;
use crate::types::*;

pub struct Volume {}

#[derive(Clone, Debug)]
pub struct VolumeOptions {
    pub journal_file_bytes: u64,
    pub flush_interval: Duration,
    pub max_clock_drift: Duration,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            journal_file_bytes: 64 << 20,
            flush_interval: Duration::from_millis(20),
            max_clock_drift: Duration::from_secs(60),
        }
    }
}

pub use crate::journal::Lsn;

// -- life --
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("sketch")]
    Sketch,
}

impl Volume {
    /// Makes an empty store (creates `store` if absent; refuses if not empty).
    pub fn format(store: &Path, volume: VolumeId, site: SiteId, root: Perms) -> Result<(), OpenError> {
        unimplemented!()
    }
    /// Opens and recovers.
    pub fn start(store: &Path, options: VolumeOptions) -> Result<Arc<Volume>, OpenError> {
        unimplemented!()
    }
    /// Flushes, folds, marks the end as clean. Operations afterwards fail. Idempotent.
    pub fn close(&self) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn volume_id(&self) -> VolumeId {
        unimplemented!()
    }
    pub fn site(&self) -> SiteId {
        unimplemented!()
    }
    pub fn incarnation(&self) -> Incarnation {
        unimplemented!()
    }
    pub fn store_path(&self) -> PathBuf {
        unimplemented!()
    }
}

// -- operations, for fuse/ (and tests without a mount) --
impl Volume {
    pub fn lookup(&self, parent: FileId, name: &[u8]) -> Result<Attr, FsError> {
        unimplemented!()
    }
    /// The kernel holds one more reference on the inode (after an entry reply).
    pub fn remember(&self, file: FileId) {
        unimplemented!()
    }
    pub fn forget(&self, file: FileId, count: u64) {
        unimplemented!()
    }
    pub fn getattr(&self, file: FileId) -> Result<Attr, FsError> {
        unimplemented!()
    }
    pub fn setattr(&self, caller: Caller, file: FileId, set: SetAttr) -> Result<Attr, FsError> {
        unimplemented!()
    }
    pub fn readlink(&self, file: FileId) -> Result<Bytes, FsError> {
        unimplemented!()
    }
    /// mknod, mkdir, symlink: by kind. `mode`: permission bits, umask applied. Handles setgid directories.
    pub fn create(&self, caller: Caller, parent: FileId, name: &[u8], kind: Kind, mode: u32) -> Result<Attr, FsError> {
        unimplemented!()
    }
    /// open(O_CREAT): creates a regular file and opens it. EEXIST if there.
    pub fn create_open(
        &self,
        caller: Caller,
        parent: FileId,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Attr, HandleId), FsError> {
        unimplemented!()
    }
    pub fn unlink(&self, parent: FileId, name: &[u8]) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn rmdir(&self, parent: FileId, name: &[u8]) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn rename(
        &self,
        parent: FileId,
        name: &[u8],
        new_parent: FileId,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn link(&self, file: FileId, new_parent: FileId, new_name: &[u8]) -> Result<Attr, FsError> {
        unimplemented!()
    }
    pub fn open(&self, file: FileId, flags: OpenFlags) -> Result<HandleId, FsError> {
        unimplemented!()
    }
    /// The object behind the handle, opened read-write, for passthrough.
    pub fn backing_file(&self, handle: HandleId) -> Result<Arc<File>, FsError> {
        unimplemented!()
    }
    /// From now on shared mappings may change the object unseen (a passthrough open for reading and writing).
    pub fn expect_unseen_writes(&self, handle: HandleId) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn read(&self, handle: HandleId, offset: u64, len: u32) -> Result<Vec<u8>, FsError> {
        unimplemented!()
    }
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8], kill_suid: bool) -> Result<u32, FsError> {
        unimplemented!()
    }
    pub fn flush(&self, handle: HandleId) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn fsync(&self, handle: HandleId) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn fsyncdir(&self, dir: FileId) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn release(&self, handle: HandleId) -> Result<(), FsError> {
        unimplemented!()
    }
    /// All entries, without "." and "..", as of now.
    pub fn list(&self, dir: FileId) -> Result<Vec<DirEntry>, FsError> {
        unimplemented!()
    }
    /// The directory that holds `dir` (the root holds itself), for "..".
    pub fn parent(&self, dir: FileId) -> Result<FileId, FsError> {
        unimplemented!()
    }
    pub fn statfs(&self) -> Result<StatFs, FsError> {
        unimplemented!()
    }
    pub fn setxattr(&self, file: FileId, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn getxattr(&self, file: FileId, name: &[u8]) -> Result<Bytes, FsError> {
        unimplemented!()
    }
    pub fn listxattr(&self, file: FileId) -> Result<Vec<Bytes>, FsError> {
        unimplemented!()
    }
    pub fn removexattr(&self, file: FileId, name: &[u8]) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn fallocate(&self, handle: HandleId, offset: u64, len: u64, how: Allocate) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn seek(&self, handle: HandleId, offset: u64, whence: Whence) -> Result<u64, FsError> {
        unimplemented!()
    }
    pub fn copy_range(
        &self,
        from: HandleId,
        from_offset: u64,
        to: HandleId,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        unimplemented!()
    }
    /// Called with what the kernel must forget, after each replay, by a thread that holds no lock. May block.
    pub fn on_invalidate(&self, sink: Box<dyn Fn(&[Invalidation]) + Send + Sync>) {
        unimplemented!()
    }
}

// -- replication, for replicator. All blocking (threads and locks): call from spawn_blocking or own threads. --

/// A record ready to ship: all bytes by value.
#[derive(Clone, Debug)]
pub struct ShipRecord {
    pub record: Record,
    /// Bytes of records in this lane up to and with this one, since the site began. For bytes behind.
    pub lane_bytes: u64,
}

/// How far a lane has come here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneHead {
    pub appended: Seq,
    pub durable: Seq,
    pub lane_bytes: u64,
}

/// What a peer that has acknowledged up to some record lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backlog {
    pub records: u64,
    pub bytes: u64,
    /** clock of the oldest */
    pub oldest: Option<Hlc>,
}

/// One lane of one origin, and the last position applied here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontier {
    pub origin: SiteId,
    pub lane: Lane,
    pub point: LanePoint,
}

/// Another site of the volume, as stored (table `members`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub site: SiteId,
    pub name: String,
    /** host:port */
    pub address: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadLaneError {
    #[error("the records after {after} of lane {lane} are no longer in the journal")]
    Truncated { lane: Lane, after: Seq },
    #[error(transparent)]
    Fs(#[from] FsError),
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("expected record {expected} of the lane, got {got}")]
    Gap { expected: Seq, got: Seq },
    /// Not applied; try again when that position may have been applied here.
    #[error("waits for {0}")]
    MissingDep(Position),
    #[error(transparent)]
    Drift(#[from] proto::hlc::Drift),
    #[error("record {seq} is refused: {why}")]
    Refused { seq: Seq, why: String },
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// What a call of `replay` did. Records before the one in `stopped` are applied.
#[derive(Debug)]
pub struct Replayed {
    pub applied: LanePoint,
    /** durable when `Volume::wait_durable(lsn)` returns */
    pub lsn: Lsn,
    pub stopped: Option<ReplayError>,
}

impl Volume {
    /// Called whenever more is appended or durable here; must return at once (e.g. `Notify::notify_waiters`).
    pub fn on_progress(&self, listener: Box<dyn Fn() + Send + Sync>) {
        unimplemented!()
    }
    pub fn lane_head(&self, lane: Lane) -> LaneHead {
        unimplemented!()
    }
    /// Durable records after `after`, in order, at least one if there is one, about `limit_bytes` at most.
    pub fn read_lane(&self, lane: Lane, after: Seq, limit_bytes: usize) -> Result<Vec<ShipRecord>, ReadLaneError> {
        unimplemented!()
    }
    pub fn backlog(&self, lane: Lane, acknowledged: Seq) -> Result<Backlog, ReadLaneError> {
        unimplemented!()
    }
    /// Every frontier of every other origin.
    pub fn frontiers(&self) -> Vec<Frontier> {
        unimplemented!()
    }
    pub fn frontier(&self, origin: SiteId, lane: Lane) -> LanePoint {
        unimplemented!()
    }
    /// Applies consecutive records of a peer's lane. Records at or below the frontier are skipped (the peer sent them twice).
    pub fn replay(&self, origin: SiteId, incarnation: Incarnation, lane: Lane, records: &[Record]) -> Replayed {
        unimplemented!()
    }
    /// Makes durable all up to the batch (and the objects that it refers to).
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), FsError> {
        unimplemented!()
    }
    /// Remembers what a peer acknowledged of our lane, across restarts.
    pub fn set_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn acknowledged(&self, peer: SiteId, lane: Lane) -> Option<LanePoint> {
        unimplemented!()
    }
    /// Every peer that must have them has all records up to here: the journal may drop them.
    pub fn set_watermark(&self, lane: Lane, seq: Seq) {
        unimplemented!()
    }
    /// All sites applied all of `origin`'s lane up to here, and what they had made before that is applied here:
    /// removed things of before may be reclaimed. (For the own site too.)
    pub fn set_stable(&self, origin: SiteId, lane: Lane, point: LanePoint) {
        unimplemented!()
    }
    pub fn members(&self) -> Vec<Member> {
        unimplemented!()
    }
    pub fn put_member(&self, member: &Member) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn remove_member(&self, site: SiteId) -> Result<(), FsError> {
        unimplemented!()
    }
    /// A consistent copy of this site's state, for a joining site: opaque chunks (each < 2 MiB) in order, that `load_snapshot` takes.
    pub fn snapshot(self: &Arc<Self>) -> Result<Box<dyn Iterator<Item = Result<Bytes, FsError>> + Send>, FsError> {
        unimplemented!()
    }
    /// Takes a snapshot's chunk; the last one is followed by `finish_snapshot`. Only into an empty volume. A crash before `finish_snapshot` leaves
    /// a store that `open` refuses (join again into an empty directory).
    pub fn load_snapshot(&self, chunk: &Bytes) -> Result<(), FsError> {
        unimplemented!()
    }
    pub fn finish_snapshot(&self) -> Result<(), FsError> {
        unimplemented!()
    }
}
