//! Peers' records: applying them, answering them, and clearing up after removals.

mod ahead;
mod copied;
mod group;
mod reclaim;
mod repair;

use proto::ids::{LanePoint, Position, Seq};

use crate::error::FsError;
use crate::journal::Lsn;

/// Why replay of a lane stopped. Records before it are applied; it is never skipped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A record is missing before this one.
    #[error("expected record {expected} of the lane, got {got}")]
    Gap {
        /// What comes next here.
        expected: Seq,
        /// What came.
        got: Seq,
    },
    /// The record was made upon one that is not applied here yet.
    #[error("waits for {0}")]
    MissingDep(Position),
    /// A peer's state that has the record is being taken in: it comes with that.
    #[error("waits until the state of another site is taken in")]
    Levelling,
    /// The origin's clock is too far ahead.
    #[error(transparent)]
    Drift(#[from] proto::hlc::Drift),
    /// The record breaks a rule that every honest site keeps.
    #[error("record {seq} is refused: {why}")]
    Refused {
        /// The record.
        seq: Seq,
        /// The rule.
        why: String,
    },
    /// The record's bytes were copied at its origin, and others stand here where they were copied from: it has to come with them.
    #[error("record {seq} copies what is not the same here: it has to come with its bytes")]
    NeedsBytes {
        /// The record.
        seq: Seq,
    },
    /// The store failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// What a call of replay did.
#[derive(Debug)]
pub struct Replayed {
    /// The lane's frontier now.
    pub applied: LanePoint,
    /// It is durable when this batch is.
    pub lsn: Lsn,
    /// Why not all records were applied.
    pub stopped: Option<ReplayError>,
}
