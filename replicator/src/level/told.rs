//! What a peer's welcome says of this site's lanes, judged by this site's journal.

use fs::error::FsError;
use fs::ship::ReadLaneError;
use proto::history::Histories;
use proto::hlc::Hlc;
use proto::ids::{Incarnation, Lane, LanePoint, Seq};

use crate::engine::{Divergence, Fault, Handshake};
use crate::hub::{Hub, LANES};
use crate::store::Store;

/// By the lane's number. Of lanes that the stream does not carry: nothing.
#[derive(Clone, Debug)]
pub struct Told {
    /// How far this site's lanes have come there.
    pub frontiers: [LanePoint; LANES],
    /// The clock readings of the records there; 0 if the peer doesn't know.
    pub clocks: [Hlc; LANES],
    /// What it knows of this site's incarnations.
    pub histories: Histories,
    /// The most bytes of a lane that it takes in without having acknowledged them.
    pub window_bytes: u64,
}

impl Told {
    /// The highest incarnation of this site that the peer knows.
    pub fn known(&self) -> Incarnation {
        let at = self.frontiers.iter().map(|point| point.incarnation);
        at.chain(self.histories.iter().map(|history| history.current())).max().unwrap_or(Incarnation(1))
    }

    /// What the engine needs to know, of these lanes. Blocks.
    pub fn judge<S: Store>(&self, hub: &Hub<S>, lanes: &[Lane]) -> Result<Handshake, FsError> {
        let histories = hub.store.own_histories();
        let heads = hub.refresh_heads().map(|head| head.appended);
        let mut oldest = [Seq::ZERO; LANES];
        let mut diverged = None;
        for lane in lanes.iter().copied() {
            let theirs = self.frontiers[lane as usize];
            let (history, head) = (&histories[lane as usize], heads[lane as usize]);
            let settled = history.settle(theirs);
            let holds = |seq| !matches!(hub.store.backlog(lane, seq), Err(ReadLaneError::Truncated { .. }));
            let held = settled.seq < head && holds(settled.seq);
            oldest[lane as usize] = if held { settled.seq.next() } else { head.next() };
            if let (None, Some(why)) = (diverged, self.divergence(hub, &histories, &heads, lane)?) {
                diverged = Some(Fault::Diverged { lane, theirs, why });
            }
        }
        let (frontiers, window_bytes) = (self.frontiers, self.window_bytes);
        Ok(Handshake { frontiers, histories, heads, oldest, diverged, window_bytes })
    }

    /// How it shows, if it does, that the peer knows another copy of this store.
    ///
    /// Records are made in the order of the clock over all lanes, and a journal is lost from its end. So every record that was here before a
    /// loss has a lower reading than each of those that were lost; one with a higher was made since. It may have the position of a lost one, or the
    /// file that it creates may have the id of one of theirs. What was made in an incarnation that the peer does not know has neither.
    fn divergence<S: Store>(
        &self,
        hub: &Hub<S>,
        histories: &Histories,
        heads: &[Seq; LANES],
        lane: Lane,
    ) -> Result<Option<Divergence>, FsError> {
        let (theirs, clock) = (self.frontiers[lane as usize], self.clocks[lane as usize]);
        let history = &histories[lane as usize];
        if !history.agrees(&self.histories[lane as usize]) {
            return Ok(Some(Divergence::Incarnation));
        }
        if clock == Hlc(0) {
            return Ok(None);
        }
        if history.lacks(theirs, heads[lane as usize]) {
            for lane in Lane::ALL {
                let later = histories[lane as usize].openings().iter();
                let next = later.clone().find(|opening| opening.incarnation > theirs.incarnation);
                let last = next.map_or(heads[lane as usize], |next| next.after);
                if hub.store.record_clock(lane, last)?.is_some_and(|made| made > clock) {
                    return Ok(Some(Divergence::Written));
                }
            }
            return Ok(None);
        }
        let begins = history.openings().iter().any(|opening| opening.start() == theirs);
        let is_own = begins || history.incarnation_of(theirs.seq) == Some(theirs.incarnation);
        let made = if is_own { hub.store.record_clock(lane, theirs.seq)? } else { None };
        Ok(made.filter(|made| *made != clock).map(|_| Divergence::Record))
    }
}
