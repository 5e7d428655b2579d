//! Carries records between sites as the replicator does, but badly: pieces of any size, twice, late, in any order of the lanes.

use std::collections::BTreeMap;

use fs::replay::ReplayError;
use fs::ship::{Copies, ShipRecord};
use fs::volume::Volume;
use proto::history::Resume;
use proto::ids::{Lane, LanePoint, Seq, SiteId};
use proto::record::{ContentHash, Op};

use super::work::Written;
use super::{Rng, Site};

/// How far all lanes of a site have come.
pub type Heads = [Seq; Lane::ALL.len()];

/// How far all lanes of a site have come there.
pub fn heads(volume: &Volume) -> Heads {
    Lane::ALL.map(|lane| volume.lane_head(lane).appended)
}

/// An acknowledgement: how far the peer has applied a lane, and how far its own had come then.
#[derive(Clone, Copy, Debug)]
struct Seen {
    point: LanePoint,
    heads: Heads,
}

/// What one site knows of its peers' acknowledgements of one of its lanes.
#[derive(Default)]
struct Watermarks {
    acknowledged: BTreeMap<usize, LanePoint>,
    waiting: BTreeMap<usize, Seen>,
    confirmed: BTreeMap<usize, Seen>,
}

/// A stable point of an origin's lane on its way to a receiver, and where all sites' lanes must have come there before it counts.
struct Announced {
    to: usize,
    origin: usize,
    lane: Lane,
    point: LanePoint,
    heads: Vec<(usize, Heads)>,
}

/// All links.
pub struct Network {
    /// For each site and lane.
    watermarks: Vec<[Watermarks; Lane::ALL.len()]>,
    /// Stable points on their way.
    stable: Vec<Announced>,
    /// The bytes that a record was made with.
    written: BTreeMap<(SiteId, Lane, Seq), Vec<u8>>,
    /// Records waited for others.
    pub waits: u64,
    /// Records that were read at the peer instead of shipped.
    pub copied: u64,
    /// Records whose bytes had to be asked for.
    pub asked: u64,
    /// Why the last delivery stopped.
    pub why: String,
}

impl Network {
    pub fn new(sites: usize) -> Self {
        let watermarks = (0..sites).map(|_| Default::default()).collect();
        Self {
            watermarks,
            stable: Vec::new(),
            written: BTreeMap::new(),
            waits: 0,
            copied: 0,
            asked: 0,
            why: String::new(),
        }
    }

    /// The same links with more sites. Acknowledgements are made anew.
    pub fn joined(before: Network, sites: usize) -> Self {
        Self { written: before.written, ..Self::new(sites) }
    }

    /// Remembers what a record must be shipped with.
    pub fn note(&mut self, site: SiteId, written: Option<Written>) {
        if let Some(Written { lane, seq, bytes }) = written {
            self.written.insert((site, lane, seq), bytes);
        }
    }

    /// A site's store is older than before: nothing that it knew of acknowledgements counts, and what it wrote since was another's.
    pub fn restored(&mut self, at: usize, site: &Site) {
        self.watermarks[at] = Default::default();
        let heads = heads(site.volume());
        self.written.retain(|(origin, lane, seq), _| *origin != site.id || *seq <= heads[*lane as usize]);
    }

    /// The last number of the origin's journal that a site has which stands at the point.
    fn resume(&self, origin: &Site, lane: Lane, point: LanePoint) -> Seq {
        let history = origin.volume().lane_history(lane);
        let settled = history.settle(point);
        let next = history.openings().iter().find(|opening| opening.incarnation > settled.incarnation);
        next.map_or(settled.seq, |next| settled.seq.min(next.after))
    }

    /// Whether the peer has all of the origin's lanes up to `heads`.
    fn has(&self, origin: &Site, peer: &Site, heads: &Heads) -> bool {
        let has = |lane| self.resume(origin, lane, peer.volume().frontier(origin.id, lane));
        Lane::ALL.into_iter().zip(heads).all(|(lane, head)| has(lane) >= *head)
    }

    fn read(&self, from: &Site, lane: Lane, after: Seq, limit_bytes: usize, copies: Copies) -> Vec<ShipRecord> {
        let volume = from.volume();
        volume.wait_durable(volume.appended()).expect("durable");
        let records = volume
            .read_lane(lane, after, limit_bytes, copies)
            .unwrap_or_else(|error| panic!("lane {lane} of site {}: {error}", from.id));
        for shipped in &records {
            let Some(bytes) = self.written.get(&(from.id, lane, shipped.record.seq)) else { continue };
            let Op::Content(_) = &shipped.record.op else { panic!("record {} is no content", shipped.record.seq) };
            let as_written = match shipped.record.copied() {
                Some(range) => copies == Copies::ByReference && range.hash == ContentHash::of(bytes),
                None => shipped.record.bytes().expect("bytes by value")[..] == bytes[..],
            };
            assert!(
                as_written,
                "record {} of lane {lane} of site {} is not shipped as it was written",
                shipped.record.seq, from.id
            );
        }
        records
    }

    /// Delivers a random piece of a lane, or what there is of all lanes, in any order. Whether anything was applied.
    pub fn deliver(&mut self, sites: &[Site], from: usize, to: usize, rng: &mut Rng, all: bool) -> bool {
        let (origin, peer) = (&sites[from], &sites[to]);
        if rng.one_in(8) {
            // What a site knows of its links decides in which lane a record goes, and nothing else.
            origin.volume().peer_connected(peer.id, !rng.one_in(3));
        }
        let mut lanes = Lane::ALL.to_vec();
        if !all {
            let heads = heads(origin.volume());
            let has = |lane| self.resume(origin, lane, peer.volume().frontier(origin.id, lane));
            let waits = |lane: &Lane| has(*lane) < heads[*lane as usize];
            let waiting: Vec<_> = lanes.iter().copied().filter(waits).collect();
            lanes = vec![*rng.pick(&waiting).or(rng.pick(&lanes)).expect("lanes")];
        }
        let mut applied = false;
        while !lanes.is_empty() {
            let lane = lanes.swap_remove(rng.below(lanes.len() as u64) as usize);
            applied |= self.deliver_lane(sites, (from, to), lane, rng, all);
        }
        applied
    }

    /// As [`deliver`](Self::deliver), of one lane.
    pub fn deliver_lane(
        &mut self,
        sites: &[Site],
        (from, to): (usize, usize),
        lane: Lane,
        rng: &mut Rng,
        all: bool,
    ) -> bool {
        let (origin, peer) = (&sites[from], &sites[to]);
        peer.volume().note_histories(origin.id, &origin.volume().own_histories()).expect("noted");
        let before = peer.volume().frontier(origin.id, lane);
        let head = origin.volume().lane_head(lane).appended;
        let resumed = origin.volume().lane_history(lane).resume(before, head, Seq(1));
        assert!(
            matches!(resumed, Resume::After(_)),
            "site {} at {before} in lane {lane} of {}: {resumed:?}",
            peer.id,
            origin.id
        );
        let mut after = self.resume(origin, lane, before);
        if rng.one_in(4) && !all {
            // Sent twice, as after a lost connection, but not what the origin may have dropped.
            let known = origin.volume().acknowledged(peer.id, lane).expect("a row");
            let known = known.map_or(Seq::ZERO, |point| self.resume(origin, lane, point));
            after = Seq(after.0 - rng.below(4).min(after.0.saturating_sub(known.0)));
        }
        let limit = if all { 1 << 20 } else { 1 << rng.below(21) };
        // As when an earlier connection had asked for bytes.
        let copies = if rng.one_in(8) { Copies::ByValue } else { Copies::ByReference };
        let mut shipped = self.read(origin, lane, after, limit, copies);
        let incarnation = shipped.first().map_or(origin.volume().incarnation(), |first| first.incarnation);
        shipped.truncate(shipped.partition_point(|shipped| shipped.incarnation == incarnation));
        let mut records: Vec<_> = shipped.into_iter().map(|shipped| shipped.record).collect();
        if !all {
            records.truncate(1 + rng.below(40) as usize);
        }
        if records.is_empty() {
            return false;
        }
        let mut replayed = peer.volume().replay(origin.id, incarnation, lane, &records);
        if let Some(ReplayError::NeedsBytes { seq }) = replayed.stopped {
            // Nothing of that record, all of those before it.
            assert_eq!(replayed.applied, peer.volume().frontier(origin.id, lane));
            assert!(copies == Copies::ByReference && seq > after);
            self.asked += 1;
            let at = Seq(seq.0 - 1);
            let whole = self.read(origin, lane, at, limit, Copies::ByValue);
            let last = records.last().map_or(seq, |record| record.seq);
            records = whole.into_iter().map(|shipped| shipped.record).collect();
            records.truncate(records.partition_point(|record| record.seq <= last));
            let before = replayed.applied;
            replayed = peer.volume().replay(origin.id, incarnation, lane, &records);
            let went_on = replayed.applied > before || matches!(replayed.stopped, Some(ReplayError::MissingDep(_)));
            assert!(went_on, "{:?} although record {seq} came whole", replayed.stopped);
        }
        let applied = records.iter().filter(|record| record.seq <= replayed.applied.seq);
        self.copied += applied.filter(|record| record.copied().is_some()).count() as u64;
        match replayed.stopped {
            None => {}
            Some(ReplayError::MissingDep(dep)) => {
                self.waits += 1;
                let record = replayed.applied.seq.next();
                self.why = format!("site {} waits for {dep} with record {record} of {lane} of {}", peer.id, origin.id);
            }
            Some(ReplayError::Levelling) => {}
            Some(error) => panic!("site {} refuses lane {lane} of {}: {error}", peer.id, origin.id),
        }
        assert_eq!(replayed.applied, peer.volume().frontier(origin.id, lane));
        if all || rng.one_in(2) {
            peer.volume().wait_durable(replayed.lsn).expect("durable");
            self.acknowledge(sites, (from, to), lane, replayed.applied);
        }
        replayed.applied > before
    }

    fn acknowledge(&mut self, sites: &[Site], (from, to): (usize, usize), lane: Lane, point: LanePoint) {
        let heads = heads(sites[to].volume());
        let marks = &mut self.watermarks[from][lane as usize];
        marks.acknowledged.insert(to, point);
        marks.waiting.insert(to, Seen { point, heads });
        sites[from].volume().set_acknowledged(sites[to].id, lane, point).expect("remembered");
        sites[from].volume().peer_acknowledged(sites[to].id, lane, point);
    }

    /// What an origin concludes from acknowledgements, and what others conclude from that.
    pub fn conclude(&mut self, sites: &[Site], at: usize) {
        let volume = sites[at].volume();
        for lane in Lane::ALL {
            let marks = &self.watermarks[at][lane as usize];
            let covered = |(peer, seen): &(&usize, &Seen)| self.has(&sites[**peer], &sites[at], &seen.heads);
            let confirmed: Vec<_> = marks.waiting.iter().filter(covered).map(|(peer, seen)| (*peer, *seen)).collect();
            let lowest = marks.acknowledged.values().map(|point| self.resume(&sites[at], lane, *point)).min();
            let marks = &mut self.watermarks[at][lane as usize];
            for (peer, seen) in confirmed {
                marks.confirmed.insert(peer, seen);
                marks.waiting.remove(&peer);
            }
            if marks.acknowledged.len() == sites.len() - 1 {
                volume.set_watermark(lane, lowest.expect("peers"));
            }
            if marks.confirmed.len() == sites.len() - 1 {
                let point = marks.confirmed.values().map(|seen| seen.point).min().expect("peers");
                let mut required: Vec<_> = marks.confirmed.iter().map(|(peer, seen)| (*peer, seen.heads)).collect();
                // Also what the origin itself made in other lanes before.
                required.push((at, heads(volume)));
                volume.set_stable(sites[at].id, lane, point);
                for to in (0..sites.len()).filter(|to| *to != at) {
                    self.stable.push(Announced { to, origin: at, lane, point, heads: required.clone() });
                }
            }
        }
        let mut waiting = BTreeMap::new();
        for stable in std::mem::take(&mut self.stable) {
            let Announced { to, origin, lane, point, heads } = &stable;
            let here = &sites[*to];
            let covered = heads.iter().all(|(site, heads)| site == to || self.has(&sites[*site], here, heads));
            if *to == at && covered {
                here.volume().set_stable(sites[*origin].id, *lane, *point);
            } else {
                // A newer point of an origin stands for the older ones.
                waiting.insert((*to, *origin, *lane), stable);
            }
        }
        self.stable = waiting.into_values().collect();
    }

    /// Delivers until every site has everything and nothing more is made in answer.
    pub fn settle(&mut self, sites: &[Site], rng: &mut Rng) {
        let count = sites.len();
        let all_heads = || -> u64 { sites.iter().flat_map(|site| heads(site.volume())).map(|seq| seq.0).sum() };
        let (mut made, mut answers) = (all_heads(), 0);
        loop {
            let mut moved = false;
            for from in 0..count {
                for to in (0..count).filter(|to| *to != from) {
                    moved |= self.deliver(sites, from, to, rng, true);
                }
            }
            let level = sites.iter().all(|from| {
                let heads = heads(from.volume());
                sites.iter().all(|to| to.id == from.id || self.has(from, to, &heads))
            });
            if level {
                return;
            }
            assert!(moved, "a lane is stuck: {}", self.why);
            // A long backlog takes many rounds; what must end is the making of new records.
            answers += u64::from(all_heads() != std::mem::replace(&mut made, all_heads()));
            assert!(answers < 1000, "the sites answer one another without an end");
        }
    }

    /// When all is level: acknowledgements go round until nothing waits for them.
    pub fn drain(&mut self, sites: &[Site]) {
        for _ in 0..3 {
            for from in 0..sites.len() {
                for to in (0..sites.len()).filter(|to| *to != from) {
                    for lane in Lane::ALL {
                        let point = sites[to].volume().frontier(sites[from].id, lane);
                        self.acknowledge(sites, (from, to), lane, point);
                    }
                }
            }
            (0..sites.len()).for_each(|at| self.conclude(sites, at));
        }
    }
}
