//! What the machine is told, and what it tells.

use std::fmt;
use std::sync::Arc;

use proto::history::Histories;
use proto::ids::{Lane, LanePoint, Seq};

/// What a handshake has shown. All by the lane's number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// How far each lane of this site has come at the peer.
    pub frontiers: [LanePoint; Lane::ALL.len()],
    /// The histories of this site's lanes.
    pub histories: Arc<Histories>,
    /// The last record of each lane of this site, durable or not.
    pub heads: [Seq; Lane::ALL.len()],
    /// The oldest record that the journal still has of those that the peer lacks.
    pub oldest: [Seq; Lane::ALL.len()],
    /// Why what the peer has can't be of this store.
    pub diverged: Option<Fault>,
    /// The most bytes of a lane that the peer takes in without having acknowledged them.
    pub window_bytes: u64,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The peer is known to be up (it has just connected to this site).
    Wake,
    /// The peer answered.
    Connected(Box<Handshake>),
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
    /// Take the peer's state: it has records of this site that this site lost.
    Level,
    /// Tell the peer to take this site's state; it ends the stream then.
    TellToLevel {
        /// Why.
        fault: Fault,
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
        "it has this site's lane {lane} up to {theirs}, this site's journal ends at {ours}: the store here lost its tail, which is taken back from there"
    )]
    LostTail {
        /// The lane.
        lane: Lane,
        /// What the peer has.
        theirs: LanePoint,
        /// What this site has.
        ours: LanePoint,
    },
    /// The peer lacks what this site's journal can't give any more.
    #[error(
        "it has this site's lane {lane} up to {theirs}, and records lead from there to {ours} no more: it has to take this site's state"
    )]
    MustLevel {
        /// The lane.
        lane: Lane,
        /// What the peer has.
        theirs: LanePoint,
        /// What this site has.
        ours: LanePoint,
    },
    /// Two copies of this site's store were at work.
    #[error(
        "it has this site's lane {lane} up to {theirs}, but {why}: an older copy of this store was restored and written to before it could ask; \
         nothing is shipped and this site writes no more, so that no position is used twice; join again under another name, with an empty store"
    )]
    Diverged {
        /// The lane.
        lane: Lane,
        /// What the peer has.
        theirs: LanePoint,
        /// How that shows.
        why: Divergence,
    },
    /// The peer was told to level and did not take note.
    #[error("it was told to take this site's state, and did not answer")]
    NoAnswer,
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

/// How it shows that two copies of a site's store were at work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Divergence {
    /// Both opened an incarnation of one number.
    Incarnation,
    /// Both have another record at one position.
    Record,
    /// This site made records after it had lost some, and before it knew.
    Written,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Divergence::Incarnation => "it knows another incarnation by the number of one of this site's",
            Divergence::Record => "this site has another record there",
            Divergence::Written => "this site lost the end of its journal and has made records since",
        })
    }
}
