//! Stable points that other sites announce for their lanes: each is believed when everything that it requires is applied here.

use std::collections::BTreeMap;

use proto::ids::{Lane, LanePoint, SiteId};

use crate::frontiers::{Frontiers, Head};

/// What an origin announced: all sites applied its lane up to `point`, and had made nothing beyond `heads` before they did.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Announced {
    point: LanePoint,
    heads: Vec<Head>,
}

/// Announcements that wait. For each lane the first that waits is kept until it is believed, so that newer ones, which require more, can't
/// postpone it for ever; of those after it, the newest.
#[derive(Default, Debug)]
pub struct TheirStable(BTreeMap<(SiteId, Lane), (Announced, Option<Announced>)>);

impl TheirStable {
    /// An origin has announced a stable point of its lane.
    pub fn announce(&mut self, origin: SiteId, lane: Lane, point: LanePoint, heads: Vec<Head>) {
        let new = Announced { point, heads };
        match self.0.get_mut(&(origin, lane)) {
            Some((first, newest)) if point > first.point => *newest = Some(new),
            Some(_) => {}
            None => drop(self.0.insert((origin, lane), (new, None))),
        }
    }

    /// Takes out the points that can be believed now, the lowest first for each lane.
    pub fn ready(&mut self, applied: &Frontiers, own: SiteId) -> Vec<(SiteId, Lane, LanePoint)> {
        let mut ready = Vec::new();
        for ((origin, lane), (first, newest)) in std::mem::take(&mut self.0) {
            let mut waiting = Some((first, newest));
            while let Some((first, newest)) = waiting.take() {
                if applied.get(origin, lane) >= first.point && applied.cover(&first.heads, own) {
                    ready.push((origin, lane, first.point));
                    waiting = newest.map(|newest| (newest, None));
                } else {
                    self.0.insert((origin, lane), (first, newest));
                }
            }
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{Incarnation, Seq};

    use super::*;

    const LANE: Lane = Lane::Normal;

    fn head(site: u16, seq: u64) -> Head {
        Head { site: SiteId(site), lane: LANE, point: LanePoint { incarnation: Incarnation(1), seq: Seq(seq) } }
    }

    #[test]
    fn a_point_waits_for_all_that_it_requires_but_what_this_site_made() {
        let (mut stable, mut applied) = (TheirStable::default(), Frontiers::default());
        let (own, origin) = (SiteId(1), SiteId(2));
        applied.advance(head(2, 9));
        stable.announce(origin, LANE, head(2, 5).point, vec![head(1, 99), head(3, 4)]);
        // Newer announcements require more; the first is believed all the same.
        stable.announce(origin, LANE, head(2, 6).point, vec![head(3, 8)]);
        stable.announce(origin, LANE, head(2, 7).point, vec![head(3, 9)]);
        assert_eq!(stable.ready(&applied, own), []);
        applied.advance(head(3, 4));
        assert_eq!(stable.ready(&applied, own), [(origin, LANE, head(2, 5).point)]);
        applied.advance(head(3, 9));
        assert_eq!(stable.ready(&applied, own), [(origin, LANE, head(2, 7).point)]);
        assert_eq!(stable.ready(&applied, own), []);
    }

    #[test]
    fn a_point_beyond_what_is_applied_here_is_not_believed() {
        let (mut stable, mut applied) = (TheirStable::default(), Frontiers::default());
        stable.announce(SiteId(2), LANE, head(2, 5).point, vec![]);
        assert_eq!(stable.ready(&applied, SiteId(1)), []);
        applied.advance(head(2, 5));
        assert_eq!(stable.ready(&applied, SiteId(1)).len(), 1);
    }
}
