use proptest::prelude::*;
use proto::ids::{Incarnation, Lane, LanePoint, Seq};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

fn at(seq: u64) -> Points {
    Points::of(Lane::Sync, LanePoint { incarnation: Incarnation(1), seq: Seq(seq) })
}

/// A peer, its acknowledgements and the time.
struct Peer {
    state: PeerState,
    acknowledged: Points,
    now: Instant,
}

impl Peer {
    fn new(made: u64, connected: bool) -> Self {
        let (now, acknowledged) = (Instant::now(), Points::START);
        Self { state: PeerState::begin(at(made), (!connected).then_some(now), &acknowledged, now), acknowledged, now }
    }

    fn in_sync() -> Self {
        let peer = Self::new(0, true);
        assert_eq!(peer.state.phase(), Phase::InSync);
        peer
    }

    fn on(&mut self, event: Event) -> Phase {
        self.state.step(event, &self.acknowledged, TIMEOUT, self.now);
        self.state.phase()
    }

    fn acknowledges(&mut self, seq: u64) -> Phase {
        self.acknowledged = at(seq);
        self.on(Event::Acknowledged)
    }

    fn passes(&mut self, time: Duration) -> Phase {
        self.now += time;
        self.on(Event::Tick)
    }
}

#[test]
fn begins_catching_up_with_all_that_was_made() {
    let mut peer = Peer::new(5, true);
    assert_eq!(peer.state.phase(), Phase::CatchingUp { target: Some(at(5)) });
    assert!(!peer.state.is_waited_for());
    assert_eq!(peer.acknowledges(4), Phase::CatchingUp { target: Some(at(5)) });
    assert_eq!(peer.acknowledges(5), Phase::InSync);
    assert!(peer.state.is_waited_for());
}

#[test]
fn begins_catching_up_also_level_until_it_is_connected() {
    let mut peer = Peer::new(0, false);
    assert!(!peer.state.is_waited_for());
    assert_eq!(peer.on(Event::Connected), Phase::InSync);
}

#[test]
fn in_sync_to_degraded_when_it_is_gone_for_the_timeout() {
    let mut peer = Peer::in_sync();
    assert_eq!(peer.on(Event::Lost), Phase::InSync);
    assert_eq!(peer.passes(TIMEOUT - Duration::from_millis(1)), Phase::InSync);
    assert_eq!(peer.state.gives_up_at(TIMEOUT), Some(peer.now + Duration::from_millis(1)));
    assert_eq!(peer.passes(Duration::from_millis(1)), Phase::Degraded);
    assert_eq!(peer.state.gives_up_at(TIMEOUT), None);
}

#[test]
fn a_short_absence_changes_nothing() {
    let mut peer = Peer::in_sync();
    peer.on(Event::Lost);
    peer.passes(TIMEOUT / 2);
    assert_eq!(peer.on(Event::Connected), Phase::InSync);
    assert_eq!(peer.passes(TIMEOUT * 2), Phase::InSync);
}

#[test]
fn in_sync_to_degraded_when_a_wait_runs_out() {
    let mut peer = Peer::in_sync();
    assert_eq!(peer.on(Event::WaitRanOut), Phase::Degraded);
    assert!(!peer.state.is_waited_for());
}

#[test]
fn in_sync_to_catching_up_when_others_were_enough_and_it_is_waited_for_still() {
    let mut peer = Peer::in_sync();
    assert_eq!(peer.on(Event::WentOn(at(1))), Phase::CatchingUp { target: None });
    assert!(peer.state.is_waited_for());
    assert_eq!(peer.acknowledges(1), Phase::InSync);
    assert_eq!(peer.on(Event::WentOn(at(1))), Phase::InSync, "it has that");
}

#[test]
fn degraded_to_catching_up_when_it_is_back_and_in_sync_past_what_callers_were_told_meanwhile() {
    let mut peer = Peer::in_sync();
    peer.on(Event::Lost);
    peer.passes(TIMEOUT);
    assert_eq!(peer.on(Event::WentOn(at(7))), Phase::Degraded);
    assert_eq!(peer.on(Event::Connected), Phase::CatchingUp { target: Some(at(7)) });
    peer.on(Event::WentOn(at(9)));
    assert_eq!(peer.acknowledges(7), Phase::CatchingUp { target: None });
    assert!(peer.state.is_waited_for());
    assert_eq!(peer.acknowledges(9), Phase::InSync);
}

#[test]
fn degraded_to_catching_up_when_it_answers_after_a_wait_ran_out() {
    let mut peer = Peer::in_sync();
    peer.on(Event::WaitRanOut);
    peer.on(Event::WentOn(at(3)));
    assert_eq!(peer.acknowledges(1), Phase::CatchingUp { target: Some(at(3)) });
    assert_eq!(peer.acknowledges(3), Phase::InSync);
}

#[test]
fn catching_up_to_degraded_when_it_is_gone_again_or_a_wait_runs_out() {
    let mut peer = Peer::new(5, true);
    peer.on(Event::Lost);
    assert_eq!(peer.passes(TIMEOUT), Phase::Degraded);
    peer.on(Event::Connected);
    assert_eq!(peer.on(Event::WaitRanOut), Phase::Degraded);
}

#[test]
fn an_acknowledgement_of_a_connection_that_is_gone_is_no_sign_of_life() {
    let mut peer = Peer::new(5, true);
    peer.on(Event::Lost);
    peer.passes(TIMEOUT);
    assert_eq!(peer.acknowledges(5), Phase::Degraded);
    assert_eq!(peer.on(Event::Connected), Phase::InSync);
}

#[derive(Clone, Copy, Debug)]
enum Act {
    /// A caller changes something; it is told at once if nobody waits for the peer, else when the peer has it or the wait runs out.
    Call,
    /// As with a majority, where others were enough.
    CallOthersEnough,
    Acknowledge(u64),
    OldestRunsOut,
    Lose,
    Connect,
    Pass(u64),
    /// The peer came back older.
    FallBack(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Call),
        1 => Just(Act::CallOthersEnough),
        4 => (1u64..4).prop_map(Act::Acknowledge),
        1 => Just(Act::OldestRunsOut),
        1 => Just(Act::Lose),
        2 => Just(Act::Connect),
        1 => (0u64..12_000).prop_map(Act::Pass),
        1 => (0u64..3).prop_map(Act::FallBack),
    ]
}

/// What callers know.
struct Callers {
    peer: Peer,
    made: u64,
    acknowledged: u64,
    waiting: Vec<u64>,
    told: u64,
}

impl Callers {
    fn call(&mut self) {
        self.made += 1;
        if self.peer.state.is_waited_for() { self.waiting.push(self.made) } else { self.go_on(self.made) }
    }

    fn go_on(&mut self, seq: u64) {
        self.peer.on(Event::WentOn(at(seq)));
        self.told = self.told.max(seq);
    }

    fn acknowledge(&mut self, upto: u64) {
        self.acknowledged = upto;
        self.peer.acknowledges(upto);
        let (done, waiting) = self.waiting.drain(..).partition(|seq| *seq <= upto);
        self.waiting = waiting;
        let done: Vec<u64> = done;
        self.told = done.into_iter().fold(self.told, u64::max);
    }

    /// As the ledger does: who is no longer waited for, is waited for by nobody.
    fn let_go(&mut self) {
        if !self.peer.state.is_waited_for() {
            std::mem::take(&mut self.waiting).into_iter().for_each(|seq| self.go_on(seq));
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Call => self.call(),
            Act::CallOthersEnough => {
                self.made += 1;
                self.go_on(self.made);
            }
            Act::Acknowledge(more) => self.acknowledge((self.acknowledged + more).min(self.made)),
            Act::OldestRunsOut if !self.waiting.is_empty() => {
                let seq = self.waiting.remove(0);
                self.peer.on(Event::WaitRanOut);
                self.go_on(seq);
            }
            Act::OldestRunsOut => {}
            Act::Lose => _ = self.peer.on(Event::Lost),
            Act::Connect => _ = self.peer.on(Event::Connected),
            Act::Pass(ms) => _ = self.peer.passes(Duration::from_millis(ms)),
            Act::FallBack(less) => {
                let had = at(self.acknowledged);
                self.acknowledged = self.acknowledged.saturating_sub(less);
                self.peer.acknowledged = at(self.acknowledged);
                self.peer.on(Event::WentOn(had));
            }
        }
        self.let_go();
    }
}

proptest! {
    #[test]
    fn is_in_sync_only_with_all_that_callers_were_told_and_comes_back_under_load(
        made in 0u64..5,
        connected: bool,
        acts in proptest::collection::vec(act(), 0..200),
    ) {
        let mut callers = Callers { peer: Peer::new(made, connected), made, acknowledged: 0, waiting: vec![], told: made };
        for act in acts {
            callers.act(act);
            if callers.peer.state.phase() == Phase::InSync {
                prop_assert!(callers.acknowledged >= callers.told, "after {act:?}: {} of {}", callers.acknowledged, callers.told);
            }
            prop_assert!(callers.waiting.is_empty() || callers.peer.state.is_waited_for());
        }
        // The connection stands, and the peer is faster than the callers, if only a little.
        callers.act(Act::Connect);
        let owed = callers.made - callers.acknowledged;
        for round in 0.. {
            callers.act(Act::Call);
            callers.act(Act::Acknowledge(2));
            if callers.peer.state.phase() == Phase::InSync {
                break;
            }
            prop_assert!(round <= owed + 2, "not in sync after {round} rounds");
        }
    }
}
