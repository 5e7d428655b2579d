//! A store in memory that keeps what a real one promises, and notes all that it is asked to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fs::error::FsError;
use fs::journal::Lsn;
use fs::peers::{Frontier, Member};
use fs::policy::Compress;
use fs::replay::{ReplayError, Replayed};
use fs::ship::{Backlog, LaneHead, ReadLaneError, ShipRecord};
use fs::volume::OpenError;
use parking_lot::{Condvar, Mutex};
use proto::codec::Reader;
use proto::hlc::Hlc;
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Position, Seq, SiteId, VolumeId};
use proto::record::{Op, Record, Time};

use crate::clock;
use crate::store::{Chunks, NewStore, Store};

type Key = (SiteId, Lane);

/// Frontiers, and the log of each lane.
type Applied = (BTreeMap<Key, LanePoint>, BTreeMap<Key, Vec<u64>>);

#[derive(Clone, Default)]
struct Inner {
    own: BTreeMap<Lane, Vec<Record>>,
    own_durable: BTreeMap<Lane, u64>,
    applied: BTreeMap<Key, LanePoint>,
    /// Every record that was applied, in order.
    log: BTreeMap<Key, Vec<u64>>,
    /// How many batches there are.
    lsn: u64,
    durable_lsn: u64,
    acknowledged: BTreeMap<Key, LanePoint>,
    /// At once, by [`Store::peer_acknowledged`].
    told_acknowledged: BTreeMap<Key, LanePoint>,
    connected: BTreeMap<SiteId, bool>,
    watermark: BTreeMap<Lane, Seq>,
    stable: BTreeMap<Key, LanePoint>,
    members: BTreeMap<SiteId, Member>,
    /// Replay fails.
    broken: bool,
    flush_blocked: bool,
    snapshot_fails_after: Option<usize>,
    stopped: Option<String>,
}

pub struct MemoryStore {
    volume: VolumeId,
    site: SiteId,
    dir: PathBuf,
    inner: Mutex<Inner>,
    /// What a crash leaves of the other sites' lanes.
    durable: Mutex<Applied>,
    flush: Condvar,
    listener: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
}

impl MemoryStore {
    pub fn new(dir: &Path, volume: VolumeId, site: SiteId) -> Self {
        Self {
            volume,
            site,
            dir: dir.to_owned(),
            inner: Mutex::default(),
            durable: Mutex::default(),
            flush: Condvar::new(),
            listener: Mutex::default(),
        }
    }

    /// Makes `count` durable records of `bytes` bytes each.
    pub fn write(&self, lane: Lane, count: u64, bytes: usize) -> Seq {
        let last = (0..count).map(|_| self.write_after(lane, bytes, vec![])).last();
        last.unwrap_or(Seq::ZERO)
    }

    /// Makes a durable record that requires others.
    pub fn write_after(&self, lane: Lane, bytes: usize, deps: Vec<Position>) -> Seq {
        let seq = {
            let mut inner = self.inner.lock();
            let records = inner.own.entry(lane).or_default();
            let seq = Seq(records.len() as u64 + 1);
            let value = Some(noise(seq.0, bytes));
            let op =
                Op::SetXattr { file: FileId::ROOT, name: Bytes::from_static(b"user.x"), value, time: Time::default() };
            records.push(Record { seq, hlc: Hlc::from_ms(clock::wall_ms()), deps, op });
            inner.own_durable.insert(lane, seq.0);
            seq
        };
        if let Some(listener) = &*self.listener.lock() {
            listener();
        }
        seq
    }

    pub fn position(&self, lane: Lane, seq: Seq) -> Position {
        Position { site: self.site, incarnation: Incarnation(1), lane, seq }
    }

    /// Whether the peer is known to be connected.
    pub fn is_connected(&self, peer: SiteId) -> bool {
        self.inner.lock().connected.get(&peer).copied().unwrap_or(false)
    }

    /// What a writer that waits for the peer has been told.
    pub fn told_acknowledged(&self, peer: SiteId, lane: Lane) -> Seq {
        self.inner.lock().told_acknowledged.get(&(peer, lane)).map(|point| point.seq).unwrap_or_default()
    }

    /// As after a restart.
    pub fn forget_acknowledgements(&self) {
        self.inner.lock().told_acknowledged.clear();
    }

    /// Why it writes no more.
    pub fn stopped(&self) -> Option<String> {
        self.inner.lock().stopped.clone()
    }

    /// The records of an origin's lane as they were applied here.
    pub fn log(&self, origin: SiteId, lane: Lane) -> Vec<u64> {
        self.inner.lock().log.get(&(origin, lane)).cloned().unwrap_or_default()
    }

    pub fn watermark(&self, lane: Lane) -> Seq {
        self.inner.lock().watermark.get(&lane).copied().unwrap_or_default()
    }

    pub fn stable(&self, origin: SiteId, lane: Lane) -> Seq {
        self.inner.lock().stable.get(&(origin, lane)).map(|point| point.seq).unwrap_or_default()
    }

    pub fn block_flush(&self, blocked: bool) {
        self.inner.lock().flush_blocked = blocked;
        self.flush.notify_all();
    }

    pub fn break_replay(&self, broken: bool) {
        self.inner.lock().broken = broken;
    }

    pub fn fail_snapshot_after(&self, chunks: Option<usize>) {
        self.inner.lock().snapshot_fails_after = chunks;
    }

    /// Loses what is replayed but not durable, as a power cut does.
    pub fn crash(&self) {
        let mut inner = self.inner.lock();
        (inner.applied, inner.log) = self.durable.lock().clone();
        inner.durable_lsn = inner.lsn;
        inner.flush_blocked = false;
    }

    /// Forgets the end of the own lane, as an old image of the disk does.
    pub fn lose_tail(&self, lane: Lane, keep: u64) {
        let mut inner = self.inner.lock();
        inner.own.entry(lane).or_default().truncate(keep as usize);
        inner.own_durable.insert(lane, keep);
        inner.watermark.remove(&lane);
    }
}

/// Bytes that don't shrink.
fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(step).collect()
}

impl Store for MemoryStore {
    fn volume_id(&self) -> VolumeId {
        self.volume
    }
    fn site(&self) -> SiteId {
        self.site
    }
    fn incarnation(&self) -> Incarnation {
        Incarnation(1)
    }
    fn store_path(&self) -> Option<PathBuf> {
        Some(self.dir.clone())
    }
    fn on_progress(&self, listener: Box<dyn Fn() + Send + Sync>) {
        *self.listener.lock() = Some(listener);
    }
    fn lane_head(&self, lane: Lane) -> LaneHead {
        let inner = self.inner.lock();
        let appended = inner.own.get(&lane).map_or(0, |records| records.len() as u64);
        let durable = inner.own_durable.get(&lane).copied().unwrap_or(0);
        LaneHead { appended: Seq(appended), durable: Seq(durable), lane_bytes: appended }
    }
    fn read_lane(&self, lane: Lane, after: Seq, limit_bytes: usize) -> Result<Vec<ShipRecord>, ReadLaneError> {
        let inner = self.inner.lock();
        if inner.watermark.get(&lane).is_some_and(|watermark| after < *watermark) {
            return Err(ReadLaneError::Truncated { lane, after });
        }
        let mut bytes = 0;
        let mut read = Vec::new();
        for record in inner.own.get(&lane).map(|records| &records[after.0 as usize..]).unwrap_or_default() {
            let mut encoded = Vec::new();
            record.encode(&mut encoded);
            bytes += encoded.len();
            if bytes > limit_bytes && !read.is_empty() {
                break;
            }
            read.push(ShipRecord {
                record: record.clone(),
                incarnation: self.incarnation(),
                lane_bytes: record.seq.0,
                compress: Compress::Auto,
            });
        }
        Ok(read)
    }
    fn backlog(&self, lane: Lane, acknowledged: Seq) -> Result<Backlog, ReadLaneError> {
        let inner = self.inner.lock();
        let records = inner.own.get(&lane).map(|records| &records[acknowledged.0 as usize..]).unwrap_or_default();
        let oldest = records.first().map(|record| record.hlc);
        Ok(Backlog { records: records.len() as u64, bytes: records.len() as u64, oldest })
    }
    fn frontiers(&self) -> Result<Vec<Frontier>, FsError> {
        let inner = self.inner.lock();
        let applied = inner.applied.iter();
        Ok(applied.map(|((origin, lane), point)| Frontier { origin: *origin, lane: *lane, point: *point }).collect())
    }
    fn replay(&self, origin: SiteId, incarnation: Incarnation, lane: Lane, records: &[Record]) -> Replayed {
        let mut inner = self.inner.lock();
        let mut applied = inner.applied.get(&(origin, lane)).copied().unwrap_or(LanePoint::START);
        let mut stopped = None;
        for record in records {
            if record.seq <= applied.seq {
                // What the protocol must never do; the log shows it.
                inner.log.entry((origin, lane)).or_default().push(record.seq.0);
                continue;
            }
            if record.seq != applied.seq.next() {
                stopped = Some(ReplayError::Gap { expected: applied.seq.next(), got: record.seq });
                break;
            }
            if inner.broken {
                stopped = Some(ReplayError::Fs(FsError::Invalid("a test breaks it")));
                break;
            }
            let lacks = |dep: &&Position| {
                dep.site != self.site
                    && inner.applied.get(&(dep.site, dep.lane)).is_none_or(|point| *point < dep.point())
            };
            if let Some(dep) = record.deps.iter().find(lacks) {
                stopped = Some(ReplayError::MissingDep(*dep));
                break;
            }
            applied = LanePoint { incarnation, seq: record.seq };
            inner.applied.insert((origin, lane), applied);
            inner.log.entry((origin, lane)).or_default().push(record.seq.0);
        }
        inner.lsn += 1;
        Replayed { applied, lsn: Lsn(inner.lsn), stopped }
    }
    fn wait_durable(&self, lsn: Lsn) -> Result<(), FsError> {
        let mut inner = self.inner.lock();
        while inner.flush_blocked {
            if self.flush.wait_for(&mut inner, Duration::from_millis(100)).timed_out() && inner.flush_blocked {
                return Err(FsError::Invalid("a test blocks the flush"));
            }
        }
        if inner.durable_lsn < lsn.0 {
            *self.durable.lock() = (inner.applied.clone(), inner.log.clone());
            inner.durable_lsn = inner.lsn;
        }
        Ok(())
    }
    fn set_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint) -> Result<(), FsError> {
        self.inner.lock().acknowledged.insert((peer, lane), point);
        Ok(())
    }
    fn acknowledged(&self, peer: SiteId, lane: Lane) -> Result<Option<LanePoint>, FsError> {
        Ok(self.inner.lock().acknowledged.get(&(peer, lane)).copied())
    }
    fn peer_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint) {
        self.inner.lock().told_acknowledged.insert((peer, lane), point);
    }
    fn peer_connected(&self, peer: SiteId, connected: bool) {
        self.inner.lock().connected.insert(peer, connected);
    }
    fn set_watermark(&self, lane: Lane, seq: Seq) {
        let mut inner = self.inner.lock();
        let before = inner.watermark.insert(lane, seq).unwrap_or_default();
        assert!(before <= seq, "the watermark fell");
    }
    fn set_stable(&self, origin: SiteId, lane: Lane, point: LanePoint) {
        let mut inner = self.inner.lock();
        let applied = inner.applied.get(&(origin, lane)).copied().unwrap_or(LanePoint::START);
        assert!(origin == self.site || applied >= point, "stable before it is applied");
        inner.stable.insert((origin, lane), point);
    }
    fn members(&self) -> Result<Vec<Member>, FsError> {
        Ok(self.inner.lock().members.values().cloned().collect())
    }
    fn stop_writing(&self, why: &str) {
        self.inner.lock().stopped.get_or_insert_with(|| why.to_owned());
    }
    fn put_member(&self, member: &Member) -> Result<(), FsError> {
        self.inner.lock().members.insert(member.site, member.clone());
        Ok(())
    }
    fn snapshot(self: Arc<Self>) -> Result<Chunks, FsError> {
        // A chunk for each lane: site, lane, sequence number.
        let inner = self.inner.lock();
        let mut chunks = Vec::new();
        let own = inner.own_durable.iter().map(|(lane, seq)| ((self.site, *lane), *seq));
        for ((site, lane), seq) in own.chain(inner.applied.iter().map(|(key, point)| (*key, point.seq.0))) {
            let mut chunk = Vec::new();
            for value in [u64::from(site.0), lane as u64, seq] {
                proto::codec::put_u64(&mut chunk, value);
            }
            chunks.push(Ok(Bytes::from(chunk)));
        }
        if let Some(count) = inner.snapshot_fails_after {
            chunks.truncate(count);
            chunks.push(Err(FsError::Invalid("a test breaks the snapshot")));
        }
        Ok(Box::new(chunks.into_iter()))
    }
}

/// A store that a join fills; where it ends is found by its directory.
pub struct Joining(Arc<MemoryStore>);

static JOINED: Mutex<BTreeMap<PathBuf, Arc<MemoryStore>>> = Mutex::new(BTreeMap::new());

impl Joining {
    /// The store that a join made in the directory.
    pub fn take(dir: &Path) -> Option<Arc<MemoryStore>> {
        JOINED.lock().remove(dir)
    }
}

impl NewStore for Joining {
    fn create(dir: &Path, volume: VolumeId, site: SiteId) -> Result<Self, OpenError> {
        std::fs::create_dir_all(dir).expect("a directory");
        std::fs::write(dir.join("meta"), b"partial").expect("a file");
        Ok(Self(Arc::new(MemoryStore::new(dir, volume, site))))
    }
    fn load(&mut self, chunk: &Bytes) -> Result<(), FsError> {
        let mut reader = Reader::new(chunk.clone());
        let damaged = |error: proto::codec::DecodeError| FsError::Damaged(error.to_string());
        let site = SiteId(reader.uint("a site").map_err(damaged)?);
        let lane = Lane::from_u8(reader.uint("a lane").map_err(damaged)?).ok_or(FsError::Invalid("a lane"))?;
        let seq = reader.u64("a number").map_err(damaged)?;
        let mut inner = self.0.inner.lock();
        inner.applied.insert((site, lane), LanePoint { incarnation: Incarnation(1), seq: Seq(seq) });
        inner.log.insert((site, lane), (1..=seq).collect());
        *self.0.durable.lock() = (inner.applied.clone(), inner.log.clone());
        Ok(())
    }
    fn finish(self, members: &[Member]) -> Result<(), FsError> {
        members.iter().try_for_each(|member| self.0.put_member(member))?;
        JOINED.lock().insert(self.0.dir.clone(), self.0);
        Ok(())
    }
    fn abandon(self) {}
}
