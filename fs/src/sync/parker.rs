//! One thread that waits to be told how its wait ended.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::ledger::Outcome;

/// Each wait has its own, so that an acknowledgement wakes those whose waits it ends, and nobody else.
#[derive(Default)]
pub struct Parker {
    outcome: Mutex<Option<Outcome>>,
    told: Condvar,
}

impl Parker {
    /// Tells how it ended.
    pub fn tell(&self, outcome: Outcome) {
        *self.outcome.lock() = Some(outcome);
        self.told.notify_one();
    }

    /// Sleeps until told; `None` if not until then. Without a time: a wait that has ended is told at once, by whoever ended it.
    pub fn sleep(&self, until: Option<Instant>) -> Option<Outcome> {
        let mut outcome = self.outcome.lock();
        while outcome.is_none() {
            match until {
                None => self.told.wait(&mut outcome),
                Some(until) if self.told.wait_until(&mut outcome, until).timed_out() => break,
                Some(_) => {}
            }
        }
        outcome.take()
    }
}
