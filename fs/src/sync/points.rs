//! A position in each of this site's own lanes.

use proto::ids::{Lane, LanePoint};

/// How far each lane has come, or must have come; [`LanePoint::START`] where that is nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Points([LanePoint; Lane::ALL.len()]);

impl Points {
    /// Nowhere, in every lane.
    pub const START: Points = Points([LanePoint::START; Lane::ALL.len()]);

    /// One point.
    pub fn of(lane: Lane, point: LanePoint) -> Self {
        let mut points = Self::START;
        points.raise(lane, point);
        points
    }

    /// The lane's.
    pub fn get(&self, lane: Lane) -> LanePoint {
        self.0[lane as usize]
    }

    /// Puts one lane's there.
    pub fn set(&mut self, lane: Lane, point: LanePoint) {
        self.0[lane as usize] = point;
    }

    /// Moves one lane's on; it never goes back.
    pub fn raise(&mut self, lane: Lane, point: LanePoint) {
        let old = &mut self.0[lane as usize];
        *old = point.max(*old);
    }

    /// Moves each lane's on to the other's, where that is beyond.
    pub fn raise_all(&mut self, other: &Points) {
        for lane in Lane::ALL {
            self.raise(lane, other.get(lane));
        }
    }

    /// Whether no lane is short of the other's.
    pub fn covers(&self, other: &Points) -> bool {
        Lane::ALL.into_iter().all(|lane| self.get(lane) >= other.get(lane))
    }

    /// The lanes that are short of the other's, and how far those have come there.
    pub fn lacks(self, other: &Points) -> impl Iterator<Item = (Lane, LanePoint)> {
        Lane::ALL
            .into_iter()
            .map(move |lane| (lane, other.get(lane)))
            .filter(move |(lane, point)| *point > self.get(*lane))
    }

    /// Records between here and the other, over all lanes. The numbers of a lane go on over incarnations.
    pub fn records_to(&self, other: &Points) -> u64 {
        self.lacks(other).map(|(lane, point)| point.seq.0.saturating_sub(self.get(lane).seq.0)).sum()
    }
}

impl Default for Points {
    fn default() -> Self {
        Self::START
    }
}
