//! Where the latest own batches of each lane begin, in memory: so a reader at the end of a lane finds the next batch at once, whatever other lanes
//! have put in between. Older places are found by points and cursors.

use std::collections::VecDeque;

use proto::ids::{Lane, Seq};

use super::lsn::{LaneHead, Lsn};
use super::writer::Location;

/// Batches remembered of each lane; the oldest is forgotten.
const BATCHES: usize = 512;

/// An own batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin {
    /// The lane's last record before it.
    pub before: Seq,
    /// Bytes of the lane's records before it.
    pub lane_bytes: u64,
    /// Where it begins.
    pub location: Location,
    /// Its number.
    pub lsn: Lsn,
}

/// The latest batches of each lane, in order.
#[derive(Default)]
pub struct Recent([VecDeque<Begin>; Lane::ALL.len()]);

impl Recent {
    /// An own batch of the lane was appended behind `head`.
    pub fn note(&mut self, lane: Lane, head: LaneHead, location: Location, lsn: Lsn) {
        let batches = &mut self.0[lane as usize];
        if batches.len() == BATCHES {
            batches.pop_front();
        }
        batches.push_back(Begin { before: head.seq, lane_bytes: head.lane_bytes, location, lsn });
    }

    /// The last batch before which the lane has no record after `after`; `None` when it may be one that is not remembered.
    pub fn find(&self, lane: Lane, after: Seq) -> Option<Begin> {
        let batches = &self.0[lane as usize];
        let behind = batches.partition_point(|batch| batch.before <= after);
        behind.checked_sub(1).and_then(|index| batches.get(index)).copied()
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::Incarnation;

    use super::*;

    #[test]
    fn the_batch_that_goes_on_is_found_among_the_latest() {
        let mut recent = Recent::default();
        assert_eq!(recent.find(Lane::Sync, Seq(9)), None);
        // Batches of two records each: 1-2, 3-4 and so on.
        for batch in 0..BATCHES as u64 + 10 {
            let head = LaneHead { incarnation: Incarnation(1), seq: Seq(batch * 2), lane_bytes: batch * 100 };
            recent.note(Lane::Sync, head, Location { generation: 1, offset: batch * 4096 }, Lsn(batch + 1));
        }
        assert_eq!(recent.find(Lane::Sync, Seq(19)), None, "forgotten");
        for after in 20..(BATCHES as u64 + 10) * 2 {
            let found = recent.find(Lane::Sync, Seq(after)).expect("remembered");
            assert_eq!(found.before, Seq(after / 2 * 2), "after {after}");
            assert_eq!((found.lane_bytes, found.lsn), (after / 2 * 100, Lsn(after / 2 + 1)));
        }
        assert_eq!(recent.find(Lane::Bulk, Seq(30)), None);
    }
}
