//! The incarnations of one lane of one site: where each began, and what of the ones before its peers gave back.
//!
//! A store may come back older than its peers know it: it lost the end of its journal. Then the positions behind its head are in use
//! elsewhere. So the site opens a new *incarnation*: sequence numbers go on counting in its own journal, but no position is ever used twice.
//!
//! ```text
//! own journal   1.1 … 1.10 │ 2.11 2.12 …                       incarnation 2 begins after 10
//! a peer        1.1 … 1.10   1.11 … 1.15                       the lost tail
//! ```
//!
//! The lost records come back as *state*, not as records: the site levels from the peer that has them, and opens an incarnation whose
//! opening says what was recovered: 1.15. A site may also open one before it knows whether anything is lost; then nothing is recovered, and
//! peers pass that opening by records.
//!
//! What follows for a peer that stands at a point of an earlier incarnation:
//! - 1.10, and nothing was recovered in 2: it goes on with 2.11;
//! - 1.12, and the site never had it back: the site *levels from the peer*, and opens another incarnation;
//! - 1.12, and 1.15 is recovered: the peer *levels from the site*: no records lead there;
//! - 1.15, and just that is recovered: it has all that the site has, and goes on. If the site made records in between, it levels.
//!
//! **Why nothing is missed.** A point of an incarnation stands for one set of changes: what the site had when it opened it, and the incarnation's
//! records up to the point. A peer reaches it by levelling from the site, or from the end of the incarnation before where
//! nothing was recovered. So who levels from a peer at a point has that whole set, and needs to remember only the highest point of each
//! incarnation that it had back.
//!
//! What an honest site keeps to:
//! - an incarnation's number is higher than all that the site, or a peer that it has met, knows of;
//! - a history is as old as the state that it belongs to: both come back together when a store is restored;
//! - a peer's state and the opening that says so count together: nobody levels from the site between them.
//!
//! Pure.

use crate::codec::{self, DecodeError, Reader};
use crate::hlc::Hlc;
use crate::ids::{Incarnation, Lane, LanePoint, Seq};

/// Older openings are forgotten. A peer that was away for all of them levels.
pub const MAX_OPENINGS: usize = 256;

/// The histories of a site's lanes, by the lane's number.
pub type Histories = [LaneHistory; Lane::ALL.len()];

/// The begin of an incarnation in one lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    /// Its number.
    pub incarnation: Incarnation,
    /// The site's clock then. Two openings of one number with different readings are of two copies of one store.
    pub opened: Hlc,
    /// The incarnation before it in this store.
    pub before: Incarnation,
    /// The last record of the site's own journal before it.
    pub after: Seq,
    /// What peers had beyond the own journal, and gave back as state: the highest point of each incarnation.
    pub recovered: Vec<LanePoint>,
}

impl Opening {
    /// Where it begins: before its first record.
    pub fn start(&self) -> LanePoint {
        LanePoint { incarnation: self.incarnation, seq: self.after }
    }

    /// The last of the own journal before it.
    fn end_before(&self) -> LanePoint {
        LanePoint { incarnation: self.before, seq: self.after }
    }

    /// Whether records lead from `at` over it.
    fn follows(&self, at: LanePoint) -> bool {
        self.recovered.is_empty() && at == self.end_before()
    }
}

/// How a site goes on with a peer, by how far its lane has come there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resume {
    /// The journal has what the peer lacks. The point is where it stands, in terms of the own journal.
    After(LanePoint),
    /// The peer must take this site's state: records can't bring it level.
    Level,
    /// The peer has records of this site that this site lacks.
    LostTail,
}

/// The openings of one lane in one store, the oldest first. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaneHistory {
    openings: Vec<Opening>,
}

impl Default for LaneHistory {
    /// A lane that was never lost.
    fn default() -> Self {
        let first = Opening {
            incarnation: Incarnation(1),
            opened: Hlc(0),
            before: Incarnation(0),
            after: Seq::ZERO,
            recovered: Vec::new(),
        };
        Self { openings: vec![first] }
    }
}

impl LaneHistory {
    /// The openings that are remembered, the oldest first.
    pub fn openings(&self) -> &[Opening] {
        &self.openings
    }

    /// The incarnation that is open.
    pub fn current(&self) -> Incarnation {
        self.openings.last().map_or(Incarnation(1), |opening| opening.incarnation)
    }

    /// The incarnation that made a record of the own journal; `None` when that is forgotten.
    pub fn incarnation_of(&self, seq: Seq) -> Option<Incarnation> {
        self.openings.iter().rev().find(|opening| opening.after < seq).map(|opening| opening.incarnation)
    }

    /// The lowest point that stands for all of the own journal up to `head` and all that was recovered.
    pub fn point(&self, head: Seq) -> LanePoint {
        let empty = |opening: &&Opening| opening.after == head && opening.recovered.is_empty();
        let mut point = LanePoint { incarnation: self.current(), seq: head };
        for opening in self.openings.iter().rev().take_while(empty) {
            point.incarnation = opening.before.max(Incarnation(1));
        }
        point
    }

    /// Whether what is at the point is not here, though the own journal goes up to `head` and all that was recovered is here.
    pub fn lacks(&self, point: LanePoint, head: Seq) -> bool {
        !self.covers(LanePoint { incarnation: self.current(), seq: head }, point)
    }

    /// Whether who stands at `at` has what is at the point.
    pub fn covers(&self, at: LanePoint, point: LanePoint) -> bool {
        if point.incarnation >= at.incarnation {
            return point <= at;
        }
        let Some(place) = self.openings.iter().position(|opening| opening.incarnation == at.incarnation) else {
            // Nothing is known of it but the order.
            return true;
        };
        let passed = &self.openings[..=place];
        let had = passed.iter().flat_map(|opening| opening.recovered.iter().copied().chain([opening.end_before()]));
        let highest = had.filter(|had| had.incarnation == point.incarnation).map(|had| had.seq).max();
        // What is forgotten was had.
        point.incarnation < self.openings[0].before || highest.is_some_and(|highest| point.seq <= highest)
    }

    /// The same place as `at`, in the newest incarnation that has it.
    pub fn settle(&self, at: LanePoint) -> LanePoint {
        let later = self.openings.partition_point(|opening| opening.incarnation <= at.incarnation);
        let later = &self.openings[later..];
        // It has just what was recovered, and nothing was made meanwhile.
        let own = self.openings.iter().any(|opening| opening.incarnation == at.incarnation);
        let quiet = later.iter().take_while(|opening| opening.after == later[0].after);
        let before = quiet.clone().take_while(|opening| opening.recovered.is_empty()).count();
        let back = quiet.clone().nth(before).filter(|opening| own && opening.recovered == [at]);
        let (from, rest) = back.map_or((at, later), |opening| (opening.start(), &later[before + 1..]));
        let followed =
            rest.iter().try_fold(from, |at, opening| if opening.follows(at) { Ok(opening.start()) } else { Err(at) });
        followed.unwrap_or_else(|at| at)
    }

    /// Where a receiver at `at` stands when the first record of `incarnation` comes, if nothing is missing between.
    pub fn enter(&self, at: LanePoint, incarnation: Incarnation) -> Option<LanePoint> {
        let between = |opening: &&Opening| at.incarnation < opening.incarnation && opening.incarnation <= incarnation;
        let enter = |at: LanePoint, opening: &Opening| opening.follows(at).then(|| opening.start());
        let entered = self.openings.iter().filter(between).try_fold(at, enter);
        entered.filter(|at| at.incarnation == incarnation)
    }

    /// How to go on with a peer that has come as far as `theirs`. The own journal ends with `head`; the oldest record that it still has
    /// is `oldest`, beyond `head` when it has none.
    pub fn resume(&self, theirs: LanePoint, head: Seq, oldest: Seq) -> Resume {
        if self.lacks(theirs, head) {
            return Resume::LostTail;
        }
        let settled = self.settle(theirs);
        let Some(place) = self.openings.iter().position(|opening| opening.incarnation == settled.incarnation) else {
            // Of another copy of this store, or forgotten.
            return Resume::Level;
        };
        let runs_on = |pair: &[Opening]| pair[1].recovered.is_empty() && pair[1].before == pair[0].incarnation;
        let last = self.openings.get(place + 1).map_or(head, |next| next.after);
        let is_point = self.openings[place].after <= settled.seq && settled.seq <= last;
        let in_journal = settled.seq >= head || settled.seq.next() >= oldest;
        if is_point && in_journal && self.openings[place..].windows(2).all(runs_on) {
            Resume::After(settled)
        } else {
            Resume::Level
        }
    }

    /// Opens an incarnation, higher than all before, in a lane whose journal ends with `head`. What is recovered, and this site
    /// lacked, is part of its state now.
    pub fn open(&mut self, incarnation: Incarnation, opened: Hlc, head: Seq, recovered: &[LanePoint]) {
        let lacked = recovered.iter().copied().filter(|point| self.lacks(*point, head));
        let recovered = highest(lacked);
        let before = self.current();
        self.openings.push(Opening { incarnation, opened, before, after: head, recovered });
        let forgotten = self.openings.len().saturating_sub(MAX_OPENINGS);
        self.openings.drain(..forgotten);
    }

    /// All that a peer at `at` has, if this is the history that it knows: the highest point of each incarnation.
    pub fn had_at(&self, at: LanePoint) -> Vec<LanePoint> {
        let passed = self.openings.iter().filter(|opening| opening.incarnation <= at.incarnation);
        highest(passed.flat_map(|opening| opening.recovered.iter().copied().chain([opening.end_before()])).chain([at]))
    }

    /// Whether both are of one store: the incarnations that both know are the same.
    pub fn agrees(&self, other: &LaneHistory) -> bool {
        self.openings.iter().all(|ours| {
            let same = other.openings.iter().find(|theirs| theirs.incarnation == ours.incarnation);
            same.is_none_or(|theirs| (theirs.opened, theirs.after) == (ours.opened, ours.after))
        })
    }

    /// ```text
    /// history := count:uint { incarnation:uint opened:uint before:uint after:uint list(recovered) }*count
    /// list    := count:uint { incarnation:uint seq:uint }*count
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        codec::put_u64(&mut out, self.openings.len() as u64);
        for opening in &self.openings {
            codec::put_u64(&mut out, u64::from(opening.incarnation.0));
            codec::put_u64(&mut out, opening.opened.0);
            codec::put_u64(&mut out, u64::from(opening.before.0));
            codec::put_u64(&mut out, opening.after.0);
            codec::put_u64(&mut out, opening.recovered.len() as u64);
            for point in &opening.recovered {
                codec::put_u64(&mut out, u64::from(point.incarnation.0));
                codec::put_u64(&mut out, point.seq.0);
            }
        }
        out
    }

    /// Reads a history: not empty, not too long, its incarnations rising and its journal growing.
    pub fn decode(bytes: bytes::Bytes) -> Result<Self, DecodeError> {
        const WHAT: &str = "a lane's history";
        const INVALID: DecodeError = DecodeError::Invalid { what: WHAT };
        let mut reader = Reader::new(bytes);
        let mut openings: Vec<Opening> = Vec::new();
        for _ in 0..count(&mut reader, WHAT)?.max(1) {
            let incarnation = Incarnation(reader.uint(WHAT)?);
            let opened = Hlc(reader.u64(WHAT)?);
            let before = Incarnation(reader.uint(WHAT)?);
            let after = Seq(reader.u64(WHAT)?);
            let point = |reader: &mut Reader| {
                Ok(LanePoint { incarnation: Incarnation(reader.uint(WHAT)?), seq: Seq(reader.u64(WHAT)?) })
            };
            let recovered = (0..count(&mut reader, WHAT)?).map(|_| point(&mut reader)).collect::<Result<_, _>>()?;
            let rises = openings.last().is_none_or(|last| last.incarnation == before && last.after <= after);
            if !rises || before >= incarnation || after.0 == u64::MAX {
                return Err(INVALID);
            }
            openings.push(Opening { incarnation, opened, before, after, recovered });
        }
        reader.finish(WHAT)?;
        Ok(Self { openings })
    }
}

fn count(reader: &mut Reader, what: &'static str) -> Result<usize, DecodeError> {
    let count: usize = reader.uint(what)?;
    if count > MAX_OPENINGS { Err(DecodeError::Invalid { what }) } else { Ok(count) }
}

/// The highest point of each incarnation; of the newest, if they are too many.
fn highest(points: impl Iterator<Item = LanePoint>) -> Vec<LanePoint> {
    let mut points: Vec<LanePoint> = points.filter(|point| point.incarnation.0 > 0).collect();
    points.sort_unstable_by(|a, b| b.cmp(a));
    points.dedup_by_key(|point| point.incarnation);
    points.truncate(MAX_OPENINGS);
    points
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
