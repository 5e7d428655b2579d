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
use fs::ship::{Backlog, Copies, LaneHead, ReadLaneError, ShipRecord};
use parking_lot::{Condvar, Mutex};
use proto::history::{Histories, LaneHistory};
use proto::hlc::{Hlc, Stamp};
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Position, Seq, SiteId, VolumeId};
use proto::record::{ContentChange, ContentHash, CopiedRange, Data, Edit, Op, Record, Time};

use crate::clock;
use crate::store::{Chunks, Store, TakesState};
use crate::testing::level;

pub type Key = (SiteId, Lane);
/// Every change that is part of the state: the position of its record, and its clock.
pub type Seen = BTreeMap<(SiteId, Lane, LanePoint), Hlc>;

/// What is applied of the other sites' lanes.
#[derive(Clone, Default)]
pub struct Applied {
    pub frontiers: BTreeMap<Key, (LanePoint, Hlc)>,
    /// Every record that was applied, in order.
    pub log: BTreeMap<Key, Vec<u64>>,
    pub seen: Seen,
    pub histories: BTreeMap<SiteId, Histories>,
}

#[derive(Clone, Default)]
pub struct Inner {
    own: BTreeMap<Lane, Vec<(Incarnation, Record)>>,
    own_durable: BTreeMap<Lane, u64>,
    pub histories: Histories,
    clock: Hlc,
    pub applied: Applied,
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
    /// Nothing is found where it was copied from.
    lacks_sources: bool,
    /// The own store ships copies as such, whoever asks.
    keeps_copies: bool,
    /// Records that came as copies, and with the bytes of one.
    pub came: (u64, u64),
    level_fails_after: Option<u32>,
    flush_blocked: bool,
    snapshot_fails_after: Option<usize>,
    stopped: Option<String>,
}

pub struct MemoryStore {
    volume: VolumeId,
    pub site: SiteId,
    pub dir: PathBuf,
    pub inner: Mutex<Inner>,
    /// What a crash leaves of the other sites' lanes.
    pub durable: Mutex<Applied>,
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

    /// Makes `count` durable records that copy `bytes` bytes each.
    pub fn write_copies(&self, lane: Lane, count: u64, bytes: usize) -> Seq {
        let file = FileId::ROOT;
        let last = (0..count).map(|_| {
            self.add(lane, vec![], |position, hlc| {
                let hash = ContentHash::of(&noise(position.seq.0, bytes));
                let data = Data::Copy(CopiedRange { from: file, offset: 0, len: bytes as u32, hash });
                let base = Stamp { hlc, position };
                let edit = Edit::Write { offset: 0, data };
                Op::Content(ContentChange { file, base, edit, mtime: None, mode: None, time: Time::default() })
            })
        });
        last.last().unwrap_or(Seq::ZERO)
    }

    /// Makes a durable record that requires others.
    pub fn write_after(&self, lane: Lane, bytes: usize, deps: Vec<Position>) -> Seq {
        self.add(lane, deps, |position, _| {
            let value = Some(noise(position.seq.0, bytes));
            Op::SetXattr { file: FileId::ROOT, name: Bytes::from_static(b"user.x"), value, time: Time::default() }
        })
    }

    fn add(&self, lane: Lane, deps: Vec<Position>, op: impl FnOnce(Position, Hlc) -> Op) -> Seq {
        let seq = {
            let mut inner = self.inner.lock();
            let seq = inner.head(lane).next();
            inner.clock = Hlc(inner.clock.0 + 1).max(Hlc::from_ms(clock::wall_ms()));
            let (hlc, incarnation) = (inner.clock, inner.histories[lane as usize].current());
            let op = op(Position { site: self.site, incarnation, lane, seq }, hlc);
            let record = Record { seq, hlc, deps, op };
            inner.own.entry(lane).or_default().push((incarnation, record));
            inner.own_durable.insert(lane, seq.0);
            inner.see(self.site, lane, LanePoint { incarnation, seq }, hlc);
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
        self.inner.lock().applied.log.get(&(origin, lane)).cloned().unwrap_or_default()
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

    /// Whether copies have to come with their bytes.
    pub fn lack_sources(&self, lacks: bool) {
        self.inner.lock().lacks_sources = lacks;
    }

    /// It ships copies as such, whoever asks, as no site should.
    pub fn keep_copies(&self, keeps: bool) {
        self.inner.lock().keeps_copies = keeps;
    }

    /// How many records came as copies, and how many with the bytes of one.
    pub fn came(&self) -> (u64, u64) {
        self.inner.lock().came
    }

    pub fn fail_snapshot_after(&self, chunks: Option<usize>) {
        self.inner.lock().snapshot_fails_after = chunks;
    }

    /// Loses what is replayed but not durable, as a power cut does.
    pub fn crash(&self) {
        let mut inner = self.inner.lock();
        inner.applied = self.durable.lock().clone();
        inner.durable_lsn = inner.lsn;
        inner.flush_blocked = false;
    }

    /// A copy of all that it has.
    pub fn copy(&self) -> Inner {
        self.inner.lock().clone()
    }

    /// Puts a copy in its place, as an old image of the disk does.
    pub fn restore(&self, copy: &Inner) {
        // Told anew after each start, as to a journal.
        *self.inner.lock() = Inner { watermark: BTreeMap::new(), ..copy.clone() };
        *self.durable.lock() = copy.applied.clone();
    }

    /// All changes that are part of its state.
    pub fn seen(&self) -> Seen {
        self.inner.lock().applied.seen.clone()
    }

    /// Taking in a peer's state breaks off after so many chunks, once.
    pub fn fail_level_after(&self, chunks: u32) {
        self.inner.lock().level_fails_after = Some(chunks);
    }

    pub fn level_will_fail(&self) -> bool {
        self.inner.lock().level_fails_after.is_some()
    }
}

impl Inner {
    pub fn head(&self, lane: Lane) -> Seq {
        Seq(self.own.get(&lane).map_or(0, |records| records.len() as u64))
    }

    /// A change becomes part of the state.
    pub fn see(&mut self, site: SiteId, lane: Lane, point: LanePoint, hlc: Hlc) {
        let before = self.applied.seen.insert((site, lane, point), hlc);
        assert!(before.is_none_or(|before| before == hlc), "{site}/{lane}/{point} is two records");
    }

    pub fn frontier(&self, key: Key) -> LanePoint {
        self.applied.frontiers.get(&key).map_or(LanePoint::START, |(point, _)| *point)
    }

    /// Counts one more batch.
    pub fn add_batch(&mut self) -> u64 {
        self.lsn += 1;
        self.lsn
    }

    /// Whether taking in fails here.
    pub fn level_breaks(&mut self) -> bool {
        match &mut self.level_fails_after {
            Some(0) => {
                self.level_fails_after = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn covers(&self, own: SiteId, dep: Position) -> bool {
        if dep.site == own {
            return !self.histories[dep.lane as usize].lacks(dep.point(), self.head(dep.lane));
        }
        let at = self.frontier((dep.site, dep.lane));
        match self.applied.histories.get(&dep.site) {
            Some(histories) => histories[dep.lane as usize].covers(at, dep.point()),
            None => dep.point() <= at,
        }
    }
}

fn with_bytes(record: &mut Record) {
    let seq = record.seq.0;
    if let Op::Content(ContentChange { edit: Edit::Write { data, .. }, .. }) = &mut record.op
        && let Data::Copy(range) = data
    {
        *data = Data::Bytes(noise(seq, range.len as usize));
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
        self.inner.lock().histories[0].current()
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
    fn read_lane(
        &self,
        lane: Lane,
        after: Seq,
        limit_bytes: usize,
        copies: Copies,
    ) -> Result<Vec<ShipRecord>, ReadLaneError> {
        let inner = self.inner.lock();
        if inner.watermark.get(&lane).is_some_and(|watermark| after < *watermark) {
            return Err(ReadLaneError::Truncated { lane, after });
        }
        let mut bytes = 0;
        let mut read = Vec::new();
        for (incarnation, record) in
            inner.own.get(&lane).map(|records| &records[after.0 as usize..]).unwrap_or_default()
        {
            let mut record = record.clone();
            if copies == Copies::ByValue && !inner.keeps_copies {
                with_bytes(&mut record);
            }
            let mut encoded = Vec::new();
            record.encode(&mut encoded);
            bytes += encoded.len();
            if bytes > limit_bytes && !read.is_empty() {
                break;
            }
            let lane_bytes = record.seq.0;
            read.push(ShipRecord { record, incarnation: *incarnation, lane_bytes, compress: Compress::Auto });
        }
        Ok(read)
    }
    fn backlog(&self, lane: Lane, acknowledged: Seq) -> Result<Backlog, ReadLaneError> {
        let inner = self.inner.lock();
        if inner.watermark.get(&lane).is_some_and(|watermark| acknowledged < *watermark) {
            return Err(ReadLaneError::Truncated { lane, after: acknowledged });
        }
        let records = inner.own.get(&lane).map(|records| &records[acknowledged.0 as usize..]).unwrap_or_default();
        let oldest = records.first().map(|(_, record)| record.hlc);
        Ok(Backlog { records: records.len() as u64, bytes: records.len() as u64, oldest })
    }
    fn frontiers(&self) -> Result<Vec<Frontier>, FsError> {
        let inner = self.inner.lock();
        let frontier = |((origin, lane), (point, hlc)): (&Key, &(LanePoint, Hlc))| Frontier {
            origin: *origin,
            lane: *lane,
            point: *point,
            hlc: *hlc,
        };
        Ok(inner.applied.frontiers.iter().map(frontier).collect())
    }
    fn replay(&self, origin: SiteId, incarnation: Incarnation, lane: Lane, records: &[Record]) -> Replayed {
        let mut inner = self.inner.lock();
        let mut applied = inner.frontier((origin, lane));
        let mut stopped = None;
        for record in records {
            let point = LanePoint { incarnation, seq: record.seq };
            if point <= applied {
                // What the protocol must never do; the log shows it.
                inner.applied.log.entry((origin, lane)).or_default().push(record.seq.0);
                continue;
            }
            if incarnation == applied.incarnation && record.seq != applied.seq.next() {
                stopped = Some(ReplayError::Gap { expected: applied.seq.next(), got: record.seq });
                break;
            }
            if inner.broken {
                stopped = Some(ReplayError::Fs(FsError::Invalid("a test breaks it")));
                break;
            }
            if let Some(dep) = record.deps.iter().find(|dep| !inner.covers(self.site, **dep)) {
                stopped = Some(ReplayError::MissingDep(*dep));
                break;
            }
            if record.copied().is_some() && inner.lacks_sources {
                stopped = Some(ReplayError::NeedsBytes { seq: record.seq });
                break;
            }
            inner.came.0 += u64::from(record.copied().is_some());
            inner.came.1 += u64::from(record.bytes().is_some());
            applied = point;
            inner.applied.frontiers.insert((origin, lane), (applied, record.hlc));
            inner.applied.log.entry((origin, lane)).or_default().push(record.seq.0);
            inner.see(origin, lane, applied, record.hlc);
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
            *self.durable.lock() = inner.applied.clone();
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
        let applied = inner.frontier((origin, lane));
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
    fn own_histories(&self) -> Arc<Histories> {
        Arc::new(self.inner.lock().histories.clone())
    }
    fn history_of(&self, origin: SiteId, lane: Lane) -> LaneHistory {
        let inner = self.inner.lock();
        inner.applied.histories.get(&origin).map(|histories| histories[lane as usize].clone()).unwrap_or_default()
    }
    fn known_histories(&self) -> Vec<(SiteId, Lane, LaneHistory)> {
        let inner = self.inner.lock();
        let all = inner.applied.histories.iter().map(|(site, histories)| (*site, histories));
        let of = |(site, histories): (SiteId, &Histories)| {
            Lane::ALL.map(|lane| (site, lane, histories[lane as usize].clone()))
        };
        all.chain([(self.site, &inner.histories)]).flat_map(of).collect()
    }
    fn note_histories(&self, origin: SiteId, told: &Histories) -> Result<(), FsError> {
        let mut inner = self.inner.lock();
        for lane in Lane::ALL {
            let known = &mut inner.applied.histories.entry(origin).or_default()[lane as usize];
            let told = &told[lane as usize];
            if told.current() > known.current() && told.agrees(known) {
                *known = told.clone();
                if let Some((point, hlc)) = inner.applied.frontiers.get_mut(&(origin, lane)) {
                    let settled = told.settle(*point);
                    *hlc = if settled.seq == point.seq { *hlc } else { Hlc(0) };
                    *point = settled;
                }
            }
        }
        Ok(())
    }
    fn begin_incarnation(
        &self,
        above: Incarnation,
        recovered: &[Vec<LanePoint>; Lane::ALL.len()],
    ) -> Result<Incarnation, FsError> {
        let mut inner = self.inner.lock();
        inner.clock = Hlc(inner.clock.0 + 1).max(Hlc::from_ms(clock::wall_ms()));
        let incarnation = Incarnation(inner.histories[0].current().max(above).0 + 1);
        for lane in Lane::ALL {
            let (opened, head) = (inner.clock, inner.head(lane));
            inner.histories[lane as usize].open(incarnation, opened, head, &recovered[lane as usize]);
        }
        Ok(incarnation)
    }
    fn record_clock(&self, lane: Lane, seq: Seq) -> Result<Option<Hlc>, FsError> {
        let inner = self.inner.lock();
        let records = inner.own.get(&lane).map(Vec::as_slice).unwrap_or_default();
        Ok(seq.0.checked_sub(1).and_then(|index| records.get(index as usize)).map(|(_, record)| record.hlc))
    }
    fn state(self: Arc<Self>) -> Result<Chunks, FsError> {
        Ok(level::state(&self))
    }
    fn content(self: Arc<Self>, file: FileId) -> Result<Chunks, FsError> {
        Ok(level::content(file))
    }
    fn begin_level(self: Arc<Self>, _from: SiteId) -> Result<Box<dyn TakesState>, FsError> {
        Ok(Box::new(level::Taking::new(self)))
    }
    fn snapshot(self: Arc<Self>) -> Result<Chunks, FsError> {
        // A chunk for each lane: site, lane, sequence number.
        let inner = self.inner.lock();
        let mut chunks = Vec::new();
        let own = inner.own_durable.iter().map(|(lane, seq)| ((self.site, *lane), *seq));
        for ((site, lane), seq) in
            own.chain(inner.applied.frontiers.iter().map(|(key, (point, _))| (*key, point.seq.0)))
        {
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
