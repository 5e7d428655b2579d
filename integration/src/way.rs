//! One direction of the bytes between two sites: a bottleneck with a bounded queue, first in, first out, that all their connections share.
//!
//! So connections compete as on a real link: what one puts into the queue delays the others, by at most the queue's length. Where the queue is
//! full, a connection waits for room, in turn: a chunk waits for one chunk of each other connection at most.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug, Default)]
pub struct Way {
    state: Mutex<State>,
    next_turn: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// When the bytes so far will have gone through at the link's rate.
    free_at: Option<Instant>,
    /// Turns that were given out, and those that are over.
    given: u64,
    over: u64,
}

impl Way {
    /// Waits until the queue has room for `len` bytes and puts them in; when they will have gone through.
    ///
    /// Without a rate that is now. A chunk that is longer than the queue waits until that is empty.
    pub fn enter(&self, len: usize, bytes_per_second: Option<u64>, queue_bytes: u64) -> Instant {
        let Some(rate) = bytes_per_second else { return Instant::now() };
        let takes = |bytes: u64| Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let room = takes(queue_bytes.saturating_sub(len as u64));
        let mut state = self.lock();
        let turn = state.given;
        state.given += 1;
        while state.over != turn {
            state = self.next_turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // Nobody else changes it before this turn is over.
        let free_at = state.free_at;
        drop(state);
        let now = Instant::now();
        thread::sleep(free_at.unwrap_or(now).saturating_duration_since(now).saturating_sub(room));
        let mut state = self.lock();
        let through = free_at.unwrap_or(now).max(Instant::now()) + takes(len as u64);
        state.free_at = Some(through);
        state.over += 1;
        self.next_turn.notify_all();
        through
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_rate_holds_over_all_and_the_queue_is_bounded() {
        let way = Way::default();
        let (rate, chunk, queue) = (Some(1 << 20), 1 << 10, 8 << 10);
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..32 {
                        let through = way.enter(chunk, rate, queue);
                        let queued = through.saturating_duration_since(Instant::now());
                        assert!(queued <= Duration::from_micros(7813), "{queued:?} in a queue of 7.8125 ms");
                    }
                });
            }
        });
        // 128 KiB at 1 MiB/s, but for what is still in the queue.
        assert!(start.elapsed() >= Duration::from_millis(116), "{:?}", start.elapsed());
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let way = Way::default();
        assert!(way.enter(1 << 30, None, 1) <= Instant::now());
    }
}
