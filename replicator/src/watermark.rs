//! How far this site's lanes need not be kept, and from where on removed things may be reclaimed.
//!
//! *Watermark* of a lane: the lowest acknowledgement of all other members. Each bound and its reason:
//! - a peer's acknowledgement: it has to get what is above from this site's journal;
//! - a member whose acknowledgement is not known (just learnt of, or never connected): the watermark stays where it is. A joining
//!   site's copy has at least what its inviter had acknowledged when it invited, and the inviter names the new member before it
//!   acknowledges more. So nothing that the new site lacks is below;
//! - no other member: all that is durable; nobody needs the journal.
//!
//! *Stable point* of a lane: all sites have applied the lane up to it, and all that they had made before they did is applied here. A
//! site says with each acknowledgement how far its own lanes had come; the acknowledgement counts when this site has applied
//! that. Nothing can arrive any more that was made without knowledge of a stable record.
//!
//! Pure. Neither ever falls.

use std::collections::BTreeMap;

use proto::ids::{Lane, LanePoint, Seq, SiteId};

use crate::frontiers::{Frontiers, Head};

/// What holds a watermark where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// No other site: the end of what is durable.
    Alone,
    /// The peer has acknowledged no more.
    Acknowledged(SiteId),
    /// It is not known what the peer has.
    Unknown(SiteId),
}

/// All sites have applied the lane up to `point`; and here is applied everything up to `heads`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StablePoint {
    /// How far.
    pub point: LanePoint,
    /// Where the other sites' lanes stood when they had applied it.
    pub heads: Vec<Head>,
}

/// An acknowledgement, with the heads of the acknowledging site's own lanes at that time.
#[derive(Clone, Debug)]
struct Seen {
    point: LanePoint,
    heads: Vec<Head>,
}

#[derive(Clone, Default, Debug)]
struct PeerLane {
    acknowledged: Option<LanePoint>,
    /// The newest acknowledgement whose heads are applied here.
    confirmed: Option<Seen>,
    /// One whose heads are not applied here yet. It stays until it is confirmed, so that a busy peer can't postpone it for ever.
    waiting: Option<Seen>,
    /// The newest after `waiting`.
    newest: Option<Seen>,
}

/// The acknowledgements of all other members.
#[derive(Clone, Default, Debug)]
pub struct Watermarks {
    peers: BTreeMap<SiteId, [PeerLane; Lane::ALL.len()]>,
    watermarks: [Seq; Lane::ALL.len()],
    stable: [Option<LanePoint>; Lane::ALL.len()],
}

impl Watermarks {
    /// Takes a member in, with what it is known to have acknowledged. It holds the watermarks from now on.
    pub fn add(&mut self, peer: SiteId, acknowledged: [Option<LanePoint>; Lane::ALL.len()]) {
        self.peers
            .entry(peer)
            .or_insert_with(|| acknowledged.map(|acknowledged| PeerLane { acknowledged, ..PeerLane::default() }));
    }

    /// What the peer has acknowledged, if it is known.
    pub fn acknowledged(&self, peer: SiteId, lane: Lane) -> Option<LanePoint> {
        self.peers.get(&peer).and_then(|lanes| lanes[lane as usize].acknowledged)
    }

    /// The peer has applied and made durable the lane up to `point`, when its own lanes stood at `heads`.
    ///
    /// A lower point than before is taken as it is: the peer lost something and must get it again.
    pub fn acknowledge(&mut self, peer: SiteId, lane: Lane, point: LanePoint, heads: &[Head], applied: &Frontiers) {
        let Some(lanes) = self.peers.get_mut(&peer) else { return };
        let state = &mut lanes[lane as usize];
        if state.acknowledged.is_some_and(|before| before > point) {
            *state = PeerLane::default();
        }
        state.acknowledged = Some(point);
        state.newest = Some(Seen { point, heads: heads.to_vec() });
        state.confirm(peer, applied);
    }

    /// More of other sites' lanes is applied here.
    pub fn applied(&mut self, applied: &Frontiers) {
        for (peer, lanes) in &mut self.peers {
            lanes.iter_mut().for_each(|lane| lane.confirm(*peer, applied));
        }
    }

    /// The watermark of a lane that is durable here up to `durable`, and what holds it.
    pub fn watermark(&mut self, lane: Lane, durable: Seq) -> (Seq, Bound) {
        let held = &mut self.watermarks[lane as usize];
        let mut lowest = (durable, Bound::Alone);
        for (peer, lanes) in &self.peers {
            let bound = match lanes[lane as usize].acknowledged {
                Some(point) => (point.seq, Bound::Acknowledged(*peer)),
                None => (*held, Bound::Unknown(*peer)),
            };
            if lowest.1 == Bound::Alone || bound.0 < lowest.0 {
                lowest = bound;
            }
        }
        // Of the sync lane, peers may have more than is durable here; this site still needs that in its journal.
        *held = lowest.0.min(durable).max(*held);
        (*held, lowest.1)
    }

    /// The stable point of a lane whose head is `durable`, if it has moved since it was last asked for.
    pub fn stable(&mut self, lane: Lane, durable: LanePoint) -> Option<StablePoint> {
        let mut lowest = durable;
        let mut heads = Vec::new();
        for lanes in self.peers.values() {
            let confirmed = lanes[lane as usize].confirmed.as_ref()?;
            lowest = lowest.min(confirmed.point);
            heads.extend_from_slice(&confirmed.heads);
        }
        let before = &mut self.stable[lane as usize];
        if lowest.seq == Seq::ZERO || before.is_some_and(|before| before >= lowest) {
            return None;
        }
        *before = Some(lowest);
        Some(StablePoint { point: lowest, heads })
    }
}

impl PeerLane {
    fn confirm(&mut self, peer: SiteId, applied: &Frontiers) {
        // A peer speaks for its own lanes only.
        let covered =
            |seen: &Seen| seen.heads.iter().all(|head| head.site == peer && applied.cover(&[*head], SiteId(0)));
        loop {
            if self.waiting.is_none() {
                self.waiting = self.newest.take();
            }
            match self.waiting.take() {
                Some(seen) if covered(&seen) => self.confirmed = Some(seen),
                waiting => {
                    self.waiting = waiting;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "watermark_tests.rs"]
mod tests;
