//! How fast each peer gets each lane: limits, pauses and schedules. Pure; time is an argument.
//!
//! There is a limit for everyone and one for each peer that was named, for each lane and over all lanes of a peer. The last word wins: what is
//! said of everyone replaces what was said of single peers before. A [`Schedule`] holds beside these: the lower rate counts, and a lane goes
//! on when neither a pause nor a schedule stops it. The backlog of a paused lane stays in the journal.

pub mod bucket;
pub mod pacer;
pub mod schedule;

use std::collections::BTreeMap;

use proto::ids::Lane;
use serde::Serialize;

use crate::config::LimitRule;
use schedule::{Action, LocalTime, Schedule};

const LANES: usize = Lane::ALL.len();

/// Why a limit was not set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LimitError {
    /// No such peer.
    #[error("the volume has no other site named {name:?}; it has: {known}")]
    NoSuchPeer {
        /// The name.
        name: String,
        /// All names.
        known: String,
    },
    /// Nothing would ever pass.
    #[error("a limit of 0 bytes per second would ship nothing; pause the lane instead")]
    Zero,
}

/// What is in force for one peer and lane, or for a peer over all lanes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LimitStatus {
    /// The peer's name.
    pub peer: String,
    /// The lane's name; `None` over all lanes.
    pub lane: Option<&'static str>,
    /// The most bytes a second; `None` is unlimited.
    pub bytes_per_second: Option<u64>,
    /// Whether it rests.
    pub paused: bool,
    /// Whether a schedule has set the rate or the pause.
    pub scheduled: bool,
}

/// What is in force for one lane toward one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LaneLimit {
    /// The most bytes a second.
    pub bytes_per_second: Option<u64>,
    /// Whether it rests.
    pub paused: bool,
    /// Whether a schedule has set the rate or the pause.
    pub scheduled: bool,
}

/// What is in force for one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerLimits {
    /// The most bytes a second over all lanes.
    pub overall: Option<u64>,
    /// By the lane's number.
    pub lanes: [LaneLimit; LANES],
}

impl PeerLimits {
    /// Whether nothing is held back.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

/// What was said of everyone, or of one peer.
#[derive(Clone, Default, Debug)]
struct Said<T> {
    overall: T,
    lanes: [T; LANES],
}

impl<T> Said<T> {
    fn slots(&mut self, lane: Option<Lane>) -> &mut T {
        match lane {
            Some(lane) => &mut self.lanes[lane as usize],
            None => &mut self.overall,
        }
    }
}

#[derive(Clone, Default, Debug)]
struct Named {
    rates: Said<Option<Option<u64>>>,
    paused: [Option<bool>; LANES],
}

/// All limits, pauses and schedules of a site.
#[derive(Clone, Default, Debug)]
pub struct Limits {
    rates: Said<Option<u64>>,
    paused: [bool; LANES],
    named: BTreeMap<String, Named>,
    schedules: Vec<Schedule>,
    in_use: bool,
}

impl Limits {
    /// Those of a configuration, where a rule that names a peer goes before one that doesn't, whatever their order.
    pub fn new(rules: &[LimitRule], schedules: &[Schedule]) -> Self {
        let in_use = !schedules.is_empty();
        let mut limits = Self { schedules: schedules.to_vec(), in_use, ..Self::default() };
        let (general, named): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.peer.is_none());
        for rule in general.into_iter().chain(named) {
            limits.set(rule.peer.as_deref(), rule.lane, rule.bytes_per_second);
        }
        limits
    }

    /// False while nothing was ever limited or paused, as at most sites.
    pub fn in_use(&self) -> bool {
        self.in_use
    }

    /// Sets the rate of a lane, or over all lanes, for a peer or for everyone. `None` is unlimited.
    pub fn set(&mut self, peer: Option<&str>, lane: Option<Lane>, bytes_per_second: Option<u64>) {
        self.in_use = true;
        match peer {
            Some(name) => {
                *self.named.entry(name.to_string()).or_default().rates.slots(lane) = Some(bytes_per_second);
            }
            None => {
                *self.rates.slots(lane) = bytes_per_second;
                self.named.values_mut().for_each(|named| *named.rates.slots(lane) = None);
            }
        }
    }

    /// Pauses a lane, or all lanes, toward a peer or everyone; or lets it go on.
    pub fn pause(&mut self, peer: Option<&str>, lane: Option<Lane>, paused: bool) {
        self.in_use = true;
        for lane in Lane::ALL.into_iter().filter(|each| lane.is_none_or(|lane| lane == *each)) {
            match peer {
                Some(name) => {
                    self.named.entry(name.to_string()).or_default().paused[lane as usize] = Some(paused);
                }
                None => {
                    self.paused[lane as usize] = paused;
                    self.named.values_mut().for_each(|named| named.paused[lane as usize] = None);
                }
            }
        }
    }

    /// What is in force for a peer at a time.
    pub fn in_force(&self, peer: &str, now: LocalTime) -> PeerLimits {
        let named = self.named.get(peer);
        let mut limits = PeerLimits {
            overall: named.and_then(|named| named.rates.overall).unwrap_or(self.rates.overall),
            ..PeerLimits::default()
        };
        for (lane, limit) in limits.lanes.iter_mut().enumerate() {
            limit.bytes_per_second = named.and_then(|named| named.rates.lanes[lane]).unwrap_or(self.rates.lanes[lane]);
            limit.paused = named.and_then(|named| named.paused[lane]).unwrap_or(self.paused[lane]);
        }
        for schedule in self.schedules.iter().filter(|schedule| schedule.holds(now)) {
            let limit = &mut limits.lanes[schedule.lane as usize];
            match schedule.action {
                Action::Pause => {
                    limit.scheduled |= !limit.paused;
                    limit.paused = true;
                }
                Action::Limit { bytes_per_second } => {
                    if limit.bytes_per_second.is_none_or(|rate| bytes_per_second < rate) {
                        limit.bytes_per_second = Some(bytes_per_second);
                        limit.scheduled = true;
                    }
                }
            }
        }
        limits
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
