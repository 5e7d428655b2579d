//! How far this site's own lanes have come at each peer, in memory: what an operation looks at before it chooses its lane.
//!
//! Fed by the replicator, read under the writer's lock: each call holds the lock for a few comparisons. What a peer said last counts, also where it
//! is less than before: a peer may have come back older.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use proto::ids::{Lane, LanePoint, SiteId};

/// What the peers have, as far as they have said since this site started.
#[derive(Default)]
pub struct Acknowledged {
    peers: Mutex<BTreeMap<SiteId, Peer>>,
}

/// One peer.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its connections stand.
    pub connected: bool,
    /// What it has applied and made durable of each lane.
    pub acked: [LanePoint; Lane::ALL.len()],
}

impl Default for Peer {
    fn default() -> Self {
        Self { connected: false, acked: [LanePoint::START; Lane::ALL.len()] }
    }
}

impl Acknowledged {
    /// The peer has the lane up to `point`.
    pub fn set(&self, peer: SiteId, lane: Lane, point: LanePoint) {
        self.peers.lock().entry(peer).or_default().acked[lane as usize] = point;
    }

    /// The connections to the peer stand, or one of them is gone.
    pub fn connected(&self, peer: SiteId, connected: bool) {
        self.peers.lock().entry(peer).or_default().connected = connected;
    }

    /// Up to where every connected peer has the lane; `None` while no peer is connected.
    pub fn least_of_connected(&self, lane: Lane) -> Option<LanePoint> {
        let peers = self.peers.lock();
        peers.values().filter(|peer| peer.connected).map(|peer| peer.acked[lane as usize]).min()
    }

    /// A site that is no peer any more.
    pub fn forget(&self, peer: SiteId) {
        self.peers.lock().remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{Incarnation, Seq};

    use super::*;

    fn point(seq: u64) -> LanePoint {
        LanePoint { incarnation: Incarnation(1), seq: Seq(seq) }
    }

    #[test]
    fn the_least_is_of_those_that_are_connected_in_that_lane() {
        let known = Acknowledged::default();
        assert_eq!(known.least_of_connected(Lane::Bulk), None);
        known.set(SiteId(2), Lane::Bulk, point(5));
        assert_eq!(known.least_of_connected(Lane::Bulk), None, "said, but not connected");
        known.connected(SiteId(2), true);
        assert_eq!(known.least_of_connected(Lane::Bulk), Some(point(5)));
        assert_eq!(known.least_of_connected(Lane::Sync), Some(LanePoint::START), "nothing said of that lane");
        known.connected(SiteId(3), true);
        assert_eq!(known.least_of_connected(Lane::Bulk), Some(LanePoint::START), "the other has nothing");
        known.set(SiteId(3), Lane::Bulk, point(9));
        assert_eq!(known.least_of_connected(Lane::Bulk), Some(point(5)));
        known.connected(SiteId(2), false);
        assert_eq!(known.least_of_connected(Lane::Bulk), Some(point(9)));
        known.set(SiteId(3), Lane::Bulk, point(7));
        assert_eq!(known.least_of_connected(Lane::Bulk), Some(point(7)), "a peer that came back older");
        known.forget(SiteId(3));
        assert_eq!(known.least_of_connected(Lane::Bulk), None);
    }
}
