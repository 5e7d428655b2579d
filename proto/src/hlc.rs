//! The hybrid logical clock (Kulkarni et al., 2014): wall time that never runs backwards and
//! never falls behind a reading that has been seen.

use std::fmt;
use std::time::Duration;

use crate::ids::{Position, SiteId};

/// A clock reading: 48 bits of milliseconds since the Unix epoch above a 16-bit counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    const COUNTER_BITS: u32 = 16;
    const MS_MAX: u64 = (1 << 48) - 1;

    /// The first reading of a millisecond.
    pub fn from_ms(ms: u64) -> Self {
        Self(ms.min(Self::MS_MAX) << Self::COUNTER_BITS)
    }

    /// Milliseconds since the Unix epoch.
    pub fn ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.0 & 0xffff)
    }
}

/// What last changed a thing. Ordered by (clock, site, lane, sequence): the order in which the last writer
/// wins, the same at every site.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// The clock reading of the record that made the change.
    pub hlc: Hlc,
    /// The position of that record.
    pub position: Position,
}

impl Stamp {
    fn key(&self) -> (Hlc, SiteId, Position) {
        (self.hlc, self.position.site, self.position)
    }
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// A peer's clock is too far ahead to be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the clock reading is {ahead_ms} ms ahead of this site's, more than the {limit_ms} ms allowed; set the clocks of both hosts by NTP"
)]
pub struct Drift {
    /// How far ahead, in ms.
    pub ahead_ms: u64,
    /// What is allowed, in ms.
    pub limit_ms: u64,
}

/// A site's clock. Pure: wall time comes in as an argument.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    last: Hlc,
    max_drift_ms: u64,
}

impl Clock {
    /// How far a peer may be ahead if nothing else is configured.
    pub const DEFAULT_MAX_DRIFT: Duration = Duration::from_secs(60);

    /// A clock that goes on after `last`, the highest reading known.
    pub fn new(last: Hlc, max_drift: Duration) -> Self {
        Self { last, max_drift_ms: max_drift.as_millis() as u64 }
    }

    /// The highest reading given or seen.
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// A new reading, higher than all before. A counter that overflows carries into the milliseconds.
    pub fn tick(&mut self, now_ms: u64) -> Hlc {
        self.last = Hlc::from_ms(now_ms).max(Hlc(self.last.0 + 1));
        self.last
    }

    /// Takes note of a peer's reading, so that every later reading here is higher.
    ///
    /// # Errors
    /// [`Drift`] when it is further ahead of `now_ms` than allowed; the clock is then unchanged.
    pub fn observe(&mut self, seen: Hlc, now_ms: u64) -> Result<(), Drift> {
        let ahead_ms = seen.ms().saturating_sub(now_ms);
        if ahead_ms > self.max_drift_ms {
            return Err(Drift { ahead_ms, limit_ms: self.max_drift_ms });
        }
        self.last = self.last.max(seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn readings_always_rise(steps in proptest::collection::vec((any::<bool>(), 0u64..1_000), 1..200)) {
            let mut clock = Clock::new(Hlc::default(), Duration::from_millis(100));
            let mut highest = Hlc::default();
            for (local, now_ms) in steps {
                if local {
                    let reading = clock.tick(now_ms);
                    prop_assert!(reading > highest);
                    highest = reading;
                } else if clock.observe(Hlc::from_ms(now_ms + 50), now_ms).is_ok() {
                    highest = highest.max(Hlc::from_ms(now_ms + 50));
                }
            }
        }
    }

    #[test]
    fn a_peer_far_ahead_is_refused_and_not_followed() {
        let mut clock = Clock::new(Hlc::from_ms(1_000), Clock::DEFAULT_MAX_DRIFT);
        let refused = clock.observe(Hlc::from_ms(62_000), 1_000);
        assert_eq!(refused, Err(Drift { ahead_ms: 61_000, limit_ms: 60_000 }));
        assert_eq!(clock.last(), Hlc::from_ms(1_000));
    }

    #[test]
    fn a_counter_overflow_carries_into_the_milliseconds() {
        let mut clock = Clock::new(Hlc((7 << 16) | 0xffff), Clock::DEFAULT_MAX_DRIFT);
        assert_eq!(clock.tick(7), Hlc::from_ms(8));
    }
}
