//! Remembers where sequential readers stand, so that each goes on without a search.

use std::collections::VecDeque;

use proto::ids::{Lane, Seq};

use super::lsn::Lsn;
use super::writer::Location;

/// Readers remembered: lanes times peers that are served, with room to spare. The longest unused is forgotten.
const CURSORS: usize = 64;

/// A reader has read a lane up to `seq`; the next batch of any kind begins at `location`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub lane: Lane,
    pub seq: Seq,
    pub lane_bytes: u64,
    pub location: Location,
    pub lsn: Lsn,
}

/// The remembered readers, the latest used last.
#[derive(Default)]
pub struct Cursors(VecDeque<Cursor>);

impl Cursors {
    /// Where a reader stands that has read the lane up to `seq`.
    pub fn find(&mut self, lane: Lane, seq: Seq) -> Option<Cursor> {
        let index = self.0.iter().rposition(|cursor| cursor.lane == lane && cursor.seq == seq)?;
        let cursor = self.0.remove(index)?;
        self.0.push_back(cursor);
        Some(cursor)
    }

    /// Remembers a reader. Of two at one place, the one further on in the journal is kept.
    pub fn put(&mut self, cursor: Cursor) {
        if let Some(known) = self.find(cursor.lane, cursor.seq) {
            self.0.pop_back();
            self.0.push_back(if known.lsn > cursor.lsn { known } else { cursor });
            return;
        }
        if self.0.len() == CURSORS {
            self.0.pop_front();
        }
        self.0.push_back(cursor);
    }
}
