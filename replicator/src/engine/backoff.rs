//! How long to wait before the next attempt to reach a peer: doubling from 100 ms to 5 s, with jitter.

/// The first delay, in ms.
pub const FIRST_MS: u64 = 100;
/// The longest delay, in ms.
pub const LONGEST_MS: u64 = 5_000;
/// A connection that held this long was a good one, even if nothing had to be shipped.
const GOOD_MS: u64 = 10_000;

/// Counts the attempts that led to nothing.
///
/// A connection alone doesn't reset it: a peer that takes the connection and refuses the first segment is not dialled ten times a second.
#[derive(Clone, Copy, Default, Debug)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next delay; `jitter` from 0 to 1000 takes it from half of the full delay to all of it.
    pub fn next_ms(&mut self, jitter: u32) -> u64 {
        let full = (FIRST_MS << self.attempts.min(10)).min(LONGEST_MS);
        self.attempts = self.attempts.saturating_add(1);
        full / 2 + full / 2 * u64::from(jitter.min(1000)) / 1000
    }

    /// The peer acknowledged something new.
    pub fn progressed(&mut self) {
        self.attempts = 0;
    }

    /// A connection ended that had held this long.
    pub fn held(&mut self, connected_ms: u64) {
        if connected_ms >= GOOD_MS {
            self.attempts = 0;
        }
    }

    /// The next delay is the longest: trying again soon can't help.
    pub fn at_most(&mut self) {
        self.attempts = u32::MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_progress() {
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..8).map(|_| backoff.next_ms(1000)).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.held(GOOD_MS - 1);
        assert_eq!(backoff.next_ms(0), 2500);
        backoff.progressed();
        assert_eq!(backoff.next_ms(0), 50);
    }
}
