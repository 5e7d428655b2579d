//! What the replicator needs of a site's store. `fs::volume::Volume` has it; so has the store in memory that the protocol is
//! tested with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fs::error::FsError;
use fs::journal::Lsn;
use fs::level::{Level, Levelled};
use fs::peers::{Frontier, Member};
use fs::replay::Replayed;
use fs::ship::{Backlog, Copies, LaneHead, ReadLaneError, ShipRecord};
use fs::volume::{OpenError, Volume, VolumeOptions};
use proto::history::{Histories, LaneHistory};
use proto::hlc::Hlc;
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Seq, SiteId, VolumeId};
use proto::record::{Perms, Record};

/// A snapshot's chunks, in order.
pub type Chunks = Box<dyn Iterator<Item = Result<Bytes, FsError>> + Send>;

/// A site's store. Methods may block: they are called from threads that may, never from a task; but what peers have acknowledged and whether
/// they are connected is told from tasks, and returns at once.
///
/// What each method means is said at the method of `Volume` that has its name.
#[allow(missing_docs)]
pub trait Store: Send + Sync + 'static {
    fn volume_id(&self) -> VolumeId;
    fn site(&self) -> SiteId;
    fn incarnation(&self) -> Incarnation;
    /// Its directory, if it is on a disk.
    fn store_path(&self) -> Option<PathBuf>;
    /// The listener returns at once, and may be called from any thread.
    fn on_progress(&self, listener: Box<dyn Fn() + Send + Sync>);
    fn lane_head(&self, lane: Lane) -> LaneHead;
    fn read_lane(
        &self,
        lane: Lane,
        after: Seq,
        limit_bytes: usize,
        copies: Copies,
    ) -> Result<Vec<ShipRecord>, ReadLaneError>;
    fn backlog(&self, lane: Lane, acknowledged: Seq) -> Result<Backlog, ReadLaneError>;
    fn frontiers(&self) -> Result<Vec<Frontier>, FsError>;
    fn replay(&self, origin: SiteId, incarnation: Incarnation, lane: Lane, records: &[Record]) -> Replayed;
    /// Of replayed batches: durable, and seen by programs here.
    fn wait_durable(&self, lsn: Lsn) -> Result<(), FsError>;
    fn set_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint) -> Result<(), FsError>;
    fn acknowledged(&self, peer: SiteId, lane: Lane) -> Result<Option<LanePoint>, FsError>;
    fn peer_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint);
    fn peer_connected(&self, peer: SiteId, connected: bool);
    fn set_watermark(&self, lane: Lane, seq: Seq);
    fn set_stable(&self, origin: SiteId, lane: Lane, point: LanePoint);
    fn members(&self) -> Result<Vec<Member>, FsError>;
    fn put_member(&self, member: &Member) -> Result<(), FsError>;
    fn stop_writing(&self, why: &str);
    fn own_histories(&self) -> Arc<Histories>;
    fn history_of(&self, origin: SiteId, lane: Lane) -> LaneHistory;
    fn known_histories(&self) -> Vec<(SiteId, Lane, LaneHistory)>;
    fn note_histories(&self, origin: SiteId, told: &Histories) -> Result<(), FsError>;
    fn begin_incarnation(
        &self,
        above: Incarnation,
        recovered: &[Vec<LanePoint>; Lane::ALL.len()],
    ) -> Result<Incarnation, FsError>;
    fn record_clock(&self, lane: Lane, seq: Seq) -> Result<Option<Hlc>, FsError>;
    fn state(self: Arc<Self>) -> Result<Chunks, FsError>;
    fn content(self: Arc<Self>, file: FileId) -> Result<Chunks, FsError>;
    fn begin_level(self: Arc<Self>, from: SiteId) -> Result<Box<dyn TakesState>, FsError>;
    fn snapshot(self: Arc<Self>) -> Result<Chunks, FsError>;
}

/// A peer's state being taken in: see [`fs::level::Level`], whose methods these are.
#[allow(missing_docs)]
pub trait TakesState: Send {
    fn take(&mut self, chunk: &Bytes) -> Result<(), FsError>;
    fn wanted(&mut self) -> Result<Vec<FileId>, FsError>;
    fn take_content(&mut self, chunk: &Bytes) -> Result<(), FsError>;
    fn finish(self: Box<Self>) -> Result<Levelled, FsError>;
}

/// An empty store at a joining site, to be filled by a snapshot.
pub trait NewStore: Send + 'static {
    /// Makes it in `dir`, which is absent or empty.
    fn create(dir: &Path, volume: VolumeId, site: SiteId) -> Result<Self, OpenError>
    where
        Self: Sized;
    /// Takes the next chunk.
    fn load(&mut self, chunk: &Bytes) -> Result<(), FsError>;
    /// The last chunk was taken: adds the members, makes all of it durable and closes the store.
    fn finish(self, members: &[Member]) -> Result<(), FsError>;
    /// The join failed: stops using the directory, which is then removed.
    fn abandon(self);
}

impl Store for Volume {
    fn volume_id(&self) -> VolumeId {
        self.volume_id()
    }
    fn site(&self) -> SiteId {
        self.site()
    }
    fn incarnation(&self) -> Incarnation {
        self.incarnation()
    }
    fn store_path(&self) -> Option<PathBuf> {
        Some(self.store_path().to_owned())
    }
    fn on_progress(&self, listener: Box<dyn Fn() + Send + Sync>) {
        self.on_progress(listener);
    }
    fn lane_head(&self, lane: Lane) -> LaneHead {
        self.lane_head(lane)
    }
    fn read_lane(
        &self,
        lane: Lane,
        after: Seq,
        limit_bytes: usize,
        copies: Copies,
    ) -> Result<Vec<ShipRecord>, ReadLaneError> {
        self.read_lane(lane, after, limit_bytes, copies)
    }
    fn backlog(&self, lane: Lane, acknowledged: Seq) -> Result<Backlog, ReadLaneError> {
        self.backlog(lane, acknowledged)
    }
    fn frontiers(&self) -> Result<Vec<Frontier>, FsError> {
        self.frontiers()
    }
    fn replay(&self, origin: SiteId, incarnation: Incarnation, lane: Lane, records: &[Record]) -> Replayed {
        self.replay(origin, incarnation, lane, records)
    }
    fn wait_durable(&self, lsn: Lsn) -> Result<(), FsError> {
        self.wait_replayed(lsn)
    }
    fn set_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint) -> Result<(), FsError> {
        self.set_acknowledged(peer, lane, point)
    }
    fn acknowledged(&self, peer: SiteId, lane: Lane) -> Result<Option<LanePoint>, FsError> {
        self.acknowledged(peer, lane)
    }
    fn peer_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint) {
        self.peer_acknowledged(peer, lane, point);
    }
    fn peer_connected(&self, peer: SiteId, connected: bool) {
        self.peer_connected(peer, connected);
    }
    fn set_watermark(&self, lane: Lane, seq: Seq) {
        self.set_watermark(lane, seq);
    }
    fn set_stable(&self, origin: SiteId, lane: Lane, point: LanePoint) {
        self.set_stable(origin, lane, point);
    }
    fn members(&self) -> Result<Vec<Member>, FsError> {
        self.members()
    }
    fn put_member(&self, member: &Member) -> Result<(), FsError> {
        self.put_member(member)
    }
    fn stop_writing(&self, why: &str) {
        self.refuse_writing(why);
    }
    fn own_histories(&self) -> Arc<Histories> {
        self.own_histories()
    }
    fn history_of(&self, origin: SiteId, lane: Lane) -> LaneHistory {
        self.history_of(origin, lane)
    }
    fn known_histories(&self) -> Vec<(SiteId, Lane, LaneHistory)> {
        self.known_histories()
    }
    fn note_histories(&self, origin: SiteId, told: &Histories) -> Result<(), FsError> {
        self.note_histories(origin, told)
    }
    fn begin_incarnation(
        &self,
        above: Incarnation,
        recovered: &[Vec<LanePoint>; Lane::ALL.len()],
    ) -> Result<Incarnation, FsError> {
        self.begin_incarnation(above, recovered)
    }
    fn record_clock(&self, lane: Lane, seq: Seq) -> Result<Option<Hlc>, FsError> {
        self.record_clock(lane, seq)
    }
    fn state(self: Arc<Self>) -> Result<Chunks, FsError> {
        Volume::state(&self)
    }
    fn content(self: Arc<Self>, file: FileId) -> Result<Chunks, FsError> {
        Volume::content(&self, file)
    }
    fn begin_level(self: Arc<Self>, from: SiteId) -> Result<Box<dyn TakesState>, FsError> {
        Ok(Box::new(Volume::begin_level(&self, from)?))
    }
    fn snapshot(self: Arc<Self>) -> Result<Chunks, FsError> {
        Ok(Box::new(Volume::snapshot(&self)?))
    }
}

impl TakesState for Level {
    fn take(&mut self, chunk: &Bytes) -> Result<(), FsError> {
        self.take(chunk)
    }
    fn wanted(&mut self) -> Result<Vec<FileId>, FsError> {
        self.wanted()
    }
    fn take_content(&mut self, chunk: &Bytes) -> Result<(), FsError> {
        self.take_content(chunk)
    }
    fn finish(self: Box<Self>) -> Result<Levelled, FsError> {
        Level::finish(*self)
    }
}

impl NewStore for Arc<Volume> {
    fn create(dir: &Path, volume: VolumeId, site: SiteId) -> Result<Self, OpenError> {
        // The root's real permissions come with the snapshot.
        Volume::format(dir, volume, site, Perms { mode: 0o755, uid: 0, gid: 0 })?;
        let store = Volume::start(dir, VolumeOptions::default())?;
        store.begin_snapshot()?;
        Ok(store)
    }
    fn load(&mut self, chunk: &Bytes) -> Result<(), FsError> {
        self.load_snapshot(chunk)
    }
    fn finish(self, members: &[Member]) -> Result<(), FsError> {
        members.iter().try_for_each(|member| self.put_member(member))?;
        self.finish_snapshot()?;
        self.close()
    }
    fn abandon(self) {
        if let Err(error) = self.close() {
            tracing::debug!("closing a store that is given up: {error}");
        }
    }
}
