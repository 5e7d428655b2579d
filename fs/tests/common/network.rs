//! Carries records between sites as the replicator does, but badly: pieces of any size, twice, late, in any order of the lanes.

use std::collections::BTreeMap;

use fs::replay::ReplayError;
use fs::ship::ShipRecord;
use proto::history::Resume;
use proto::ids::{Lane, LanePoint, Seq, SiteId};
use proto::record::Op;

use super::{Rng, Site};

const LANE: Lane = Lane::Normal;

/// An acknowledgement: how far the peer has applied a lane, and how far its own had come then.
#[derive(Clone, Copy, Debug)]
struct Seen {
    point: LanePoint,
    head: Seq,
}

/// What one site knows of its peers' acknowledgements of its own lane.
#[derive(Default)]
struct Watermarks {
    acknowledged: BTreeMap<usize, LanePoint>,
    waiting: BTreeMap<usize, Seen>,
    confirmed: BTreeMap<usize, Seen>,
}

/// Receiver, origin, stable point, and where all sites' lanes must have come before it counts.
type Announced = (usize, usize, LanePoint, Vec<(usize, Seq)>);

/// All links.
pub struct Network {
    watermarks: Vec<Watermarks>,
    /// Stable points on their way.
    stable: Vec<Announced>,
    /// The bytes that a record was made with.
    pub written: BTreeMap<(SiteId, Seq), Vec<u8>>,
    /// Records waited for others.
    pub waits: u64,
    /// Why the last delivery stopped.
    pub why: String,
}

impl Network {
    pub fn new(sites: usize) -> Self {
        let watermarks = (0..sites).map(|_| Watermarks::default()).collect();
        Self { watermarks, stable: Vec::new(), written: BTreeMap::new(), waits: 0, why: String::new() }
    }

    /// The same links with more sites. Acknowledgements are made anew.
    pub fn joined(before: Network, sites: usize) -> Self {
        Self { written: before.written, ..Self::new(sites) }
    }

    /// A site's store is older than before: nothing that it knew of acknowledgements counts, and what it wrote since was another's.
    pub fn restored(&mut self, at: usize, site: &Site) {
        self.watermarks[at] = Watermarks::default();
        let head = site.volume().lane_head(LANE).appended;
        self.written.retain(|(origin, seq), _| *origin != site.id || *seq <= head);
    }

    /// The last number of the origin's journal that a site has which stands at the point.
    fn resume(&self, origin: &Site, point: LanePoint) -> Seq {
        let history = origin.volume().lane_history(LANE);
        let settled = history.settle(point);
        let next = history.openings().iter().find(|opening| opening.incarnation > settled.incarnation);
        next.map_or(settled.seq, |next| settled.seq.min(next.after))
    }

    fn has(&self, origin: &Site, peer: &Site) -> Seq {
        self.resume(origin, peer.volume().frontier(origin.id, LANE))
    }

    fn read(&self, from: &Site, after: Seq, limit_bytes: usize) -> Vec<ShipRecord> {
        let volume = from.volume();
        volume.wait_durable(volume.appended()).expect("durable");
        let records = volume
            .read_lane(LANE, after, limit_bytes)
            .unwrap_or_else(|error| panic!("lane of site {}: {error}", from.id));
        for shipped in &records {
            let Some(bytes) = self.written.get(&(from.id, shipped.record.seq)) else { continue };
            let Op::Content(_) = &shipped.record.op else { panic!("record {} is no content", shipped.record.seq) };
            let got = shipped.record.bytes().expect("bytes by value");
            assert!(
                got[..] == bytes[..],
                "record {} of site {} is not shipped as it was written",
                shipped.record.seq,
                from.id
            );
        }
        records
    }

    /// Delivers a random piece of a lane. Whether anything was applied.
    pub fn deliver(&mut self, sites: &[Site], from: usize, to: usize, rng: &mut Rng, all: bool) -> bool {
        let (origin, peer) = (&sites[from], &sites[to]);
        peer.volume().note_histories(origin.id, &origin.volume().own_histories()).expect("noted");
        let before = peer.volume().frontier(origin.id, LANE);
        let head = origin.volume().lane_head(LANE).appended;
        let resumed = origin.volume().lane_history(LANE).resume(before, head, Seq(1));
        assert!(
            matches!(resumed, Resume::After(_)),
            "site {} at {before} in the lane of {}: {resumed:?}",
            peer.id,
            origin.id
        );
        let mut after = self.resume(origin, before);
        if rng.one_in(4) && !all {
            // Sent twice, as after a lost connection, but not what the origin may have dropped.
            let known = origin.volume().acknowledged(peer.id, LANE).expect("a row");
            let known = known.map_or(Seq::ZERO, |point| self.resume(origin, point));
            after = Seq(after.0 - rng.below(4).min(after.0.saturating_sub(known.0)));
        }
        let limit = if all { 1 << 20 } else { 1 << rng.below(21) };
        let mut shipped = self.read(origin, after, limit);
        let incarnation = shipped.first().map_or(origin.volume().incarnation(), |first| first.incarnation);
        shipped.truncate(shipped.partition_point(|shipped| shipped.incarnation == incarnation));
        let mut records: Vec<_> = shipped.into_iter().map(|shipped| shipped.record).collect();
        if !all {
            records.truncate(1 + rng.below(40) as usize);
        }
        if records.is_empty() {
            return false;
        }
        let replayed = peer.volume().replay(origin.id, incarnation, LANE, &records);
        match replayed.stopped {
            None => {}
            Some(ReplayError::MissingDep(dep)) => {
                self.waits += 1;
                self.why = format!(
                    "site {} waits for {dep} with record {} of {}",
                    peer.id,
                    replayed.applied.seq.next(),
                    origin.id
                );
            }
            Some(ReplayError::Levelling) => {}
            Some(error) => panic!("site {} refuses the lane of {}: {error}", peer.id, origin.id),
        }
        assert_eq!(replayed.applied, peer.volume().frontier(origin.id, LANE));
        if all || rng.one_in(2) {
            peer.volume().wait_durable(replayed.lsn).expect("durable");
            self.acknowledge(sites, from, to, replayed.applied);
        }
        replayed.applied > before
    }

    fn acknowledge(&mut self, sites: &[Site], from: usize, to: usize, point: LanePoint) {
        let head = sites[to].volume().lane_head(LANE).appended;
        let marks = &mut self.watermarks[from];
        marks.acknowledged.insert(to, point);
        marks.waiting.insert(to, Seen { point, head });
        sites[from].volume().set_acknowledged(sites[to].id, LANE, point).expect("remembered");
    }

    /// What an origin concludes from acknowledgements, and what others conclude from that.
    pub fn conclude(&mut self, sites: &[Site], at: usize) {
        let volume = sites[at].volume();
        let acknowledged: Vec<_> = self.watermarks[at].acknowledged.values().copied().collect();
        let lowest = acknowledged.into_iter().map(|point| self.resume(&sites[at], point)).min();
        for (peer, seen) in self.watermarks[at].waiting.clone() {
            if self.has(&sites[peer], &sites[at]) >= seen.head {
                self.watermarks[at].confirmed.insert(peer, seen);
                self.watermarks[at].waiting.remove(&peer);
            }
        }
        let marks = &self.watermarks[at];
        if marks.acknowledged.len() == sites.len() - 1 {
            volume.set_watermark(LANE, lowest.expect("peers"));
        }
        if marks.confirmed.len() == sites.len() - 1 {
            let point = marks.confirmed.values().map(|seen| seen.point).min().expect("peers");
            let heads: Vec<_> = marks.confirmed.iter().map(|(peer, seen)| (*peer, seen.head)).collect();
            volume.set_stable(sites[at].id, LANE, point);
            for other in (0..sites.len()).filter(|other| *other != at) {
                self.stable.push((other, at, point, heads.clone()));
            }
        }
        let mut waiting = Vec::new();
        for (to, origin, point, heads) in std::mem::take(&mut self.stable) {
            let covered = heads.iter().all(|(site, head)| *site == to || self.has(&sites[*site], &sites[to]) >= *head);
            if to == at && covered {
                sites[to].volume().set_stable(sites[origin].id, LANE, point);
            } else {
                waiting.push((to, origin, point, heads));
            }
        }
        // A newer point of an origin stands for the older ones.
        let newest: BTreeMap<_, _> = waiting.into_iter().map(|item| ((item.0, item.1), item)).collect();
        self.stable = newest.into_values().collect();
    }

    /// Delivers until every site has everything and nothing more is made in answer.
    pub fn settle(&mut self, sites: &[Site], rng: &mut Rng) {
        let count = sites.len();
        let heads = || -> u64 { sites.iter().map(|site| site.volume().lane_head(LANE).appended.0).sum() };
        let (mut made, mut answers) = (heads(), 0);
        loop {
            let mut moved = false;
            for from in 0..count {
                for to in (0..count).filter(|to| *to != from) {
                    moved |= self.deliver(sites, from, to, rng, true);
                }
            }
            let level = (0..count).all(|from| {
                let head = sites[from].volume().lane_head(LANE).appended;
                sites.iter().all(|to| to.id == sites[from].id || self.has(&sites[from], to) == head)
            });
            if level {
                return;
            }
            assert!(moved, "a lane is stuck: {}", self.why);
            // A long backlog takes many rounds; what must end is the making of new records.
            answers += u64::from(heads() != std::mem::replace(&mut made, heads()));
            assert!(answers < 1000, "the sites answer one another without an end");
        }
    }

    /// When all is level: acknowledgements go round until nothing waits for them.
    pub fn drain(&mut self, sites: &[Site]) {
        for _ in 0..3 {
            for from in 0..sites.len() {
                for to in (0..sites.len()).filter(|to| *to != from) {
                    let point = sites[to].volume().frontier(sites[from].id, LANE);
                    self.acknowledge(sites, from, to, point);
                }
            }
            (0..sites.len()).for_each(|at| self.conclude(sites, at));
        }
    }
}
