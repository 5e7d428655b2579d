//! What this site has taken out of each directory, in memory.
//!
//! Whoever removes a directory has seen it empty: its removal must not arrive before the removals and moves that emptied it, which may be in other
//! lanes. Of what other sites took out the frontiers tell. Of its own work this site knows it more precisely, or a directory removed in a sync
//! directory would wait for a whole bulk backlog: per directory and lane the last record that took something out.
//!
//! What is not remembered any more, or is from before the start, is below the *floor*: that holds for every directory. So an answer
//! may name a later record than needed, never an earlier one.

use std::collections::HashMap;

use parking_lot::Mutex;
use proto::ids::{FileId, Lane, LanePoint, SiteId};
use proto::ids::{Position, Seq};

/// One point for each lane; [`LanePoint::START`] where there is none.
pub type Points = [LanePoint; Lane::ALL.len()];

/// Directories remembered before the floor is raised.
const DIRECTORIES: usize = 1 << 14;

/// See the module.
pub struct Departures(Mutex<State>);

struct State {
    floor: Points,
    directories: HashMap<FileId, Points>,
}

impl Departures {
    /// `heads` is where the own lanes stand now, at the start.
    pub fn new(heads: Points) -> Self {
        Self(Mutex::new(State { floor: heads, directories: HashMap::new() }))
    }

    /// The record at `position` takes something out of the directory.
    ///
    /// To make room, what every peer has is forgotten, by `watermarks`; where that is not enough, the floor rises to this record.
    pub fn note(&self, directory: FileId, position: Position, watermarks: impl FnOnce() -> [Seq; Lane::ALL.len()]) {
        let mut state = self.0.lock();
        let State { floor, directories } = &mut *state;
        if directories.len() >= DIRECTORIES && !directories.contains_key(&directory) {
            let watermarks = watermarks();
            directories.retain(|_, points| points.iter().zip(watermarks).any(|(point, mark)| point.seq > mark));
            if directories.len() > DIRECTORIES / 2 {
                for points in directories.drain().map(|(_, points)| points) {
                    floor.iter_mut().zip(points).for_each(|(floor, point)| *floor = point.max(*floor));
                }
            }
        }
        let point =
            &mut directories.entry(directory).or_insert([LanePoint::START; Lane::ALL.len()])[position.lane as usize];
        *point = position.point().max(*point);
    }

    /// What is remembered of this directory alone, if it is: never too late a record, but what is below the floor is not told.
    pub fn remembered(&self, directory: FileId) -> Option<Points> {
        self.0.lock().directories.get(&directory).copied()
    }

    /// For each lane the last of this site's records that may have taken something out of the directory.
    pub fn of(&self, directory: FileId, site: SiteId) -> impl Iterator<Item = Position> + use<> {
        let state = self.0.lock();
        let mut points = state.floor;
        if let Some(known) = state.directories.get(&directory) {
            points.iter_mut().zip(known).for_each(|(point, known)| *point = (*known).max(*point));
        }
        drop(state);
        Lane::ALL
            .into_iter()
            .zip(points)
            .filter(|(_, point)| point.seq > Seq::ZERO)
            .map(move |(lane, LanePoint { incarnation, seq })| Position { site, incarnation, lane, seq })
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::Incarnation;

    use super::*;

    const SITE: SiteId = SiteId(4);

    fn position(lane: Lane, seq: u64) -> Position {
        Position { site: SITE, incarnation: Incarnation(1), lane, seq: Seq(seq) }
    }

    fn of(departures: &Departures, directory: u64) -> Vec<(Lane, u64)> {
        departures.of(FileId(directory), SITE).map(|position| (position.lane, position.seq.0)).collect()
    }

    #[test]
    fn each_directory_has_its_own_last_departures_but_for_what_was_before_the_start() {
        let mut heads = [LanePoint::START; 4];
        heads[Lane::High as usize] = position(Lane::High, 7).point();
        let departures = Departures::new(heads);
        departures.note(FileId(2), position(Lane::Bulk, 3), || [Seq::ZERO; 4]);
        departures.note(FileId(2), position(Lane::Bulk, 5), || [Seq::ZERO; 4]);
        departures.note(FileId(2), position(Lane::Sync, 1), || [Seq::ZERO; 4]);
        departures.note(FileId(3), position(Lane::High, 9), || [Seq::ZERO; 4]);
        assert_eq!(of(&departures, 2), [(Lane::Sync, 1), (Lane::High, 7), (Lane::Bulk, 5)]);
        assert_eq!(of(&departures, 3), [(Lane::High, 9)]);
        assert_eq!(of(&departures, 4), [(Lane::High, 7)]);
        assert_eq!(departures.remembered(FileId(3)).map(|points| points[Lane::High as usize].seq), Some(Seq(9)));
        assert_eq!(departures.remembered(FileId(4)), None);
    }

    #[test]
    fn what_is_forgotten_is_acknowledged_or_below_the_floor() {
        let departures = Departures::new([LanePoint::START; 4]);
        let all = DIRECTORIES as u64;
        (1..=all).for_each(|at| departures.note(FileId(at), position(Lane::Bulk, at), || unreachable!("not full")));
        // All but a quarter is acknowledged.
        departures.note(FileId(all + 1), position(Lane::Bulk, all + 1), || {
            let mut watermarks = [Seq::ZERO; 4];
            watermarks[Lane::Bulk as usize] = Seq(all * 3 / 4);
            watermarks
        });
        assert_eq!(of(&departures, all), [(Lane::Bulk, all)]);
        assert_eq!(of(&departures, 1), []);
        let mut last = all + 1;
        while departures.0.lock().directories.len() < DIRECTORIES {
            last += 1;
            departures.note(FileId(last), position(Lane::Bulk, last), || unreachable!("not full"));
        }
        // Nothing more is acknowledged: now every directory may have lost something up to the last that was known.
        departures.note(FileId(last + 1), position(Lane::Sync, 1), || [Seq::ZERO; 4]);
        assert_eq!(of(&departures, 1), [(Lane::Bulk, last)]);
        assert_eq!(of(&departures, last + 1), [(Lane::Sync, 1), (Lane::Bulk, last)]);
    }
}
