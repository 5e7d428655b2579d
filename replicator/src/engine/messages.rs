//! What the machine is told, and what it tells.

use proto::ids::{Incarnation, Lane, LanePoint, Seq};

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The peer is known to be up (it has just connected to this site).
    Wake,
    /// The peer answered with how far each lane of this site has come there, by the lane's number.
    Connected {
        /// The frontiers.
        frontiers: [LanePoint; Lane::ALL.len()],
        /// The most bytes of a lane that it takes in without having acknowledged them.
        window_bytes: u64,
    },
    /// The peer could not be reached, or the connection ended.
    Lost,
    /// More of a lane may be shipped: of the sync lane what is appended, of others what is durable here.
    HeadMoved {
        /// The lane.
        lane: Lane,
        /// The last record that may be shipped.
        durable: Seq,
    },
    /// A segment asked for by [`Command::ReadLane`] is there.
    SegmentRead {
        /// The lane.
        lane: Lane,
        /// Its first record.
        first: Seq,
        /// Its last record.
        last: Seq,
        /// Its length when sealed.
        bytes: u64,
    },
    /// The read found nothing or failed.
    ReadFailed {
        /// The lane.
        lane: Lane,
    },
    /// The peer has applied and made durable all of a lane up to the point.
    Acked {
        /// The lane.
        lane: Lane,
        /// How far.
        point: LanePoint,
    },
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Connect to the peer; answer with `Connected` or `Lost`.
    Dial,
    /// Read and seal the records after `after`; answer with `SegmentRead` or `ReadFailed`.
    ReadLane {
        /// The lane.
        lane: Lane,
        /// The last record that is sent already.
        after: Seq,
    },
    /// Send the segment that was just read.
    Send {
        /// The lane.
        lane: Lane,
        /// Its first record.
        first: Seq,
        /// Its last record.
        last: Seq,
    },
    /// Give up the connection.
    Disconnect {
        /// Why.
        fault: Fault,
    },
    /// The peer's acknowledgement has moved.
    SetAcknowledged {
        /// The lane.
        lane: Lane,
        /// How far.
        point: LanePoint,
    },
}

/// Why a connection can't go on: the peer's word contradicts what this site knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The peer has records of this site that this site does not have.
    #[error(
        "it has this site's lane {lane} up to {theirs}, this site's journal ends at {ours}: the store here lost its tail (an older copy was restored?); \
         nothing is shipped and this site writes no more, so that no position is used twice; join again under another name, with an empty store"
    )]
    LostTail {
        /// The lane.
        lane: Lane,
        /// What the peer has.
        theirs: LanePoint,
        /// What this site has.
        ours: LanePoint,
    },
    /// The peer stands in another incarnation of this site.
    #[error("it has this site's lane {lane} up to {theirs}, this site is in incarnation {}: it can't be resumed from there", ours.0)]
    OtherIncarnation {
        /// The lane.
        lane: Lane,
        /// What the peer has.
        theirs: LanePoint,
        /// This site's incarnation.
        ours: Incarnation,
    },
    /// An acknowledgement of something never sent.
    #[error("it acknowledged {point} of lane {lane}, but was sent only up to {sent}")]
    AckBeyondSent {
        /// The lane.
        lane: Lane,
        /// What it acknowledged.
        point: LanePoint,
        /// What it was sent.
        sent: Seq,
    },
    /// An acknowledgement below an earlier one.
    #[error("it acknowledged {point} of lane {lane} after it had acknowledged {before}")]
    AckBackwards {
        /// The lane.
        lane: Lane,
        /// What it acknowledged.
        point: LanePoint,
        /// What it had acknowledged.
        before: Seq,
    },
}
