//! How far lanes of several sites have come.

use std::collections::BTreeMap;

use proto::ids::{Lane, LanePoint, SiteId};

/// A place in one lane of one site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The site whose lane it is.
    pub site: SiteId,
    /// The lane.
    pub lane: Lane,
    /// How far.
    pub point: LanePoint,
}

/// For each lane of each other site, the last position applied here. Never falls.
#[derive(Clone, Default, Debug)]
pub struct Frontiers(BTreeMap<(SiteId, Lane), LanePoint>);

impl Frontiers {
    /// The last position of the lane that is applied.
    pub fn get(&self, site: SiteId, lane: Lane) -> LanePoint {
        self.0.get(&(site, lane)).copied().unwrap_or(LanePoint::START)
    }

    /// Takes note of progress. False when the lane had come that far already.
    pub fn advance(&mut self, head: Head) -> bool {
        let known = self.0.entry((head.site, head.lane)).or_insert(LanePoint::START);
        let moved = head.point > *known;
        *known = head.point.max(*known);
        moved
    }

    /// Whether everything up to the heads is applied here; lanes of `own`, the site itself, are.
    pub fn cover(&self, heads: &[Head], own: SiteId) -> bool {
        heads.iter().all(|head| head.site == own || self.get(head.site, head.lane) >= head.point)
    }
}
