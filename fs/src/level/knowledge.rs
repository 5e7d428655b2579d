//! Which records a site has seen: the rows tell nothing of what is absent, this does.

use std::collections::BTreeMap;

use proto::ids::{Incarnation, Lane, LanePoint, Position, Seq, SiteId};

use crate::error::FsError;
use crate::store::table::{self, Table};
use crate::txn::Txn;
use crate::volume::{Volume, decode_point};

/// No site: what exists from the beginning, and what is older than every site's knowledge.
const NOBODY: SiteId = SiteId(0);

/// Where a removal is put of which only the absence at a peer is known. No record stands there.
pub(crate) const ABSENT: Position =
    Position { site: NOBODY, incarnation: Incarnation(0), lane: Lane::Bulk, seq: Seq::ZERO };

/// How far each lane has come at another site.
#[derive(Clone, Default, Debug)]
pub(crate) struct Frontiers(BTreeMap<(SiteId, Lane), LanePoint>);

impl Frontiers {
    pub fn insert(&mut self, site: SiteId, lane: Lane, point: LanePoint) {
        self.0.insert((site, lane), point);
    }

    pub fn iter(&self) -> impl Iterator<Item = (SiteId, Lane, LanePoint)> {
        self.0.iter().map(|((site, lane), point)| (*site, *lane, *point))
    }

    /// The lane's last position there.
    pub fn point(&self, site: SiteId, lane: Lane) -> LanePoint {
        self.0.get(&(site, lane)).copied().unwrap_or(LanePoint::START)
    }

    /// Whether the record at the position was applied there.
    pub fn has(&self, volume: &Volume, position: Position) -> bool {
        position.site == NOBODY || volume.covers_at(self.point(position.site, position.lane), position)
    }
}

impl Volume {
    /// How far this site's own lane has come in its own journal.
    pub(crate) fn own_point(&self, lane: Lane) -> LanePoint {
        LanePoint { incarnation: self.incarnation(), seq: self.journal.lane_head(lane).seq }
    }
}

/// Whether the record at the position is applied here. Nobody else commits while the transaction lasts, so what it finds absent then was taken
/// away here.
pub(crate) fn is_known(txn: &Txn<'_>, position: Position) -> Result<bool, FsError> {
    if position.site == NOBODY {
        return Ok(true);
    }
    if position.site == txn.volume.site() {
        return Ok(txn.volume.covers_at(txn.volume.own_point(position.lane), position));
    }
    Ok(txn.volume.covers_at(frontier(txn, position.site, position.lane)?, position))
}

/// How far the lane has come here.
pub(crate) fn frontier(txn: &Txn<'_>, site: SiteId, lane: Lane) -> Result<LanePoint, FsError> {
    let row = txn.get(Table::Frontier, &table::lane_key(site, lane))?;
    Ok(row.map(decode_point).transpose()?.unwrap_or(LanePoint::START))
}
