//! What a sync directory knows of one peer: a state machine, pure, with time as an argument.
//!
//! ```text
//!                          gone for the timeout, or a wait for it ran out
//!   ┌────────┐ ────────────────────────────────────────────────────────────────▶ ┌──────────┐
//!   │ InSync │                                                                   │ Degraded │
//!   └────────┘                                                                   └──────────┘
//!     │    ▲                                                                       │      ▲
//!     │    │ it is connected and                             its connection stands │      │ gone for the timeout,
//!     │    │ has acknowledged                                again, or it answers  │      │ or a wait for it
//!     │    │ all that it owes                                after a wait ran out  │      │ ran out
//!     │    │                       ┌────────────┐                                  │      │
//!     │    └────────────────────── │            │ ◀────────────────────────────────┘      │
//!     │                            │ CatchingUp │                                         │
//!     └──────────────────────────▶ │            │ ────────────────────────────────────────┘
//!       a caller went on without   └────────────┘
//!       it (enough others had           ▲
//!       acknowledged)                   └─ begin: the directory became sync, the site started, the peer joined
//! ```
//!
//! A peer *owes* (its debt) what callers were told is done and it had not acknowledged by then; in the beginning all that this site has made so far.
//!
//! While a peer catches up after an absence, callers don't wait for it, or a long backlog would stop them: until it has reached its *target*, what it
//! owed when its connection stood again. From then on they do (`degrade`; with `fail` they always wait), so the debt grows no more, and it is in sync
//! after finitely many acknowledgements, whatever the load. A peer that only was slower than others (acks `majority` or a number) has no target.
//!
//! **Invariant**: no peer is `InSync` that lacks a change of which a caller was told that it is done. For a caller is told only after the peer's
//! acknowledgement, or after [`Event::WentOn`], in one step under the board's lock, and this state is left by that.

use std::time::{Duration, Instant};

use super::points::Points;

/// Where a peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It has all that callers were told is done.
    InSync,
    /// It does not have all, and is getting it.
    CatchingUp {
        /// Callers don't wait for it before it has reached this.
        target: Option<Points>,
    },
    /// It is away, or does not answer in time. Callers don't wait for it.
    Degraded,
}

impl Phase {
    /// As it is called in the state attribute, the status, metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::InSync => "in sync",
            Phase::CatchingUp { .. } => "catching up",
            Phase::Degraded => "degraded",
        }
    }
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Its connection is gone.
    Lost,
    /// Its connection stands.
    Connected,
    /// It has acknowledged more.
    Acknowledged,
    /// A caller is told that changes up to here are done (or will be) though the peer has not acknowledged them.
    WentOn(Points),
    /// A caller waited for it as long as it may.
    WaitRanOut,
    /// Time has passed.
    Tick,
}

/// The state of one peer for one sync directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerState {
    phase: Phase,
    /// Since when it has been in this phase.
    since: Instant,
    /// What it owes.
    debt: Points,
    /// Since when its connection has been gone.
    lost_at: Option<Instant>,
}

impl PeerState {
    /// In the beginning. `made` is all that this site has made.
    pub fn begin(made: Points, lost_at: Option<Instant>, acknowledged: &Points, now: Instant) -> Self {
        let mut state = Self { phase: Phase::CatchingUp { target: Some(made) }, since: now, debt: made, lost_at };
        state.advance(acknowledged, now);
        state
    }

    /// Takes an event. `acknowledged` is what the peer has acknowledged by now; after `timeout` without a connection it is given up.
    pub fn step(&mut self, event: Event, acknowledged: &Points, timeout: Duration, now: Instant) {
        match event {
            Event::Lost => _ = self.lost_at.get_or_insert(now),
            Event::Connected => {
                self.lost_at = None;
                self.resume(acknowledged, now);
            }
            Event::Acknowledged if self.lost_at.is_none() => self.resume(acknowledged, now),
            // Late, from a connection that is gone: it may complete what was owed, but is no sign of life.
            Event::Acknowledged => self.advance(acknowledged, now),
            Event::WentOn(points) if !acknowledged.covers(&points) => {
                self.debt.raise_all(&points);
                if self.phase == Phase::InSync {
                    self.enter(Phase::CatchingUp { target: None }, now);
                }
            }
            Event::WaitRanOut => self.enter(Phase::Degraded, now),
            Event::WentOn(_) | Event::Tick => {}
        }
        if self.gives_up_at(timeout).is_some_and(|at| at <= now) {
            self.enter(Phase::Degraded, now);
        }
    }

    /// When it will be given up if its connection does not stand again.
    pub fn gives_up_at(&self, timeout: Duration) -> Option<Instant> {
        self.lost_at.filter(|_| self.phase != Phase::Degraded).and_then(|lost_at| lost_at.checked_add(timeout))
    }

    /// Whether callers wait for it, where a loss degrades.
    pub fn is_waited_for(&self) -> bool {
        matches!(self.phase, Phase::InSync | Phase::CatchingUp { target: None })
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Since when it has been there.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// What it owes, or owed last.
    pub fn debt(&self) -> &Points {
        &self.debt
    }

    /// There is a sign of life.
    fn resume(&mut self, acknowledged: &Points, now: Instant) {
        if self.phase == Phase::Degraded {
            self.enter(Phase::CatchingUp { target: Some(self.debt) }, now);
        }
        self.advance(acknowledged, now);
    }

    /// It may have reached its target, or all.
    fn advance(&mut self, acknowledged: &Points, now: Instant) {
        let Phase::CatchingUp { target } = &mut self.phase else { return };
        if self.lost_at.is_some() {
            return;
        }
        if target.is_some_and(|target| acknowledged.covers(&target)) {
            *target = None;
        }
        if acknowledged.covers(&self.debt) {
            self.enter(Phase::InSync, now);
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        if std::mem::discriminant(&self.phase) != std::mem::discriminant(&phase) {
            self.since = now;
        }
        self.phase = phase;
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
