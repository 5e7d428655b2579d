//! The number of a batch in the journal, and how far this site's own lanes have come.

use std::fmt;

use proto::ids::{Incarnation, Lane, LanePoint, Seq};

/// A batch's number in this site's journal, over all lanes, counted from 1 without gaps. 0 stands before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first batch.
    pub const ZERO: Lsn = Lsn(0);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }

    /// The number before this one; zero stays.
    #[must_use]
    pub fn previous(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How far one of this site's own lanes has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneHead {
    /// The incarnation of the last record; 0 before the first.
    pub incarnation: Incarnation,
    /// The last record's number.
    pub seq: Seq,
    /// Bytes of all records of the lane up to it, since the site began.
    pub lane_bytes: u64,
}

impl LaneHead {
    /// The position of the last record, as a point of the lane.
    pub fn point(&self) -> LanePoint {
        LanePoint { incarnation: self.incarnation, seq: self.seq }
    }

    /// Before the first record.
    pub const START: LaneHead = LaneHead { incarnation: Incarnation(0), seq: Seq::ZERO, lane_bytes: 0 };
}

/// The heads of all own lanes at one place in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heads(pub [LaneHead; Lane::ALL.len()]);

impl Heads {
    /// Before the first batch.
    pub const START: Heads = Heads([LaneHead::START; Lane::ALL.len()]);

    /// One lane's head.
    pub fn get(&self, lane: Lane) -> LaneHead {
        self.0[lane as usize]
    }

    /// Moves one lane's head.
    pub fn set(&mut self, lane: Lane, head: LaneHead) {
        self.0[lane as usize] = head;
    }
}
