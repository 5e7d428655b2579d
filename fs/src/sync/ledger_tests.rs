use std::time::Duration;

use proptest::prelude::*;
use proto::ids::{Incarnation, Seq};

use super::*;
use crate::policy::Acks;
use crate::sync::root::Standing;

const ROOT: FileId = FileId(7);
const TIMEOUT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

fn point(seq: u64) -> LanePoint {
    LanePoint { incarnation: Incarnation(1), seq: Seq(seq) }
}

fn terms(acks: Acks, on_loss: OnLoss) -> Terms {
    Terms { acks, on_loss, timeout: TIMEOUT }
}

/// A directory whose peers are connected and level.
struct Case {
    ledger: Ledger,
    terms: Terms,
    now: Instant,
}

impl Case {
    fn new(peers: u16, acks: Acks, on_loss: OnLoss) -> Self {
        let mut case = Self { ledger: Ledger::default(), terms: terms(acks, on_loss), now: Instant::now() };
        case.set_members(peers, 0);
        case.set_roots(&[ROOT], 0);
        (0..peers).for_each(|peer| case.connected(peer, true));
        case
    }

    fn set_members(&mut self, peers: u16, made: u64) {
        let member = |n| MemberPeer { site: SiteId(2 + n), name: format!("s{}", 2 + n), acknowledged: Points::START };
        self.ledger.set_members((0..peers).map(member).collect(), &Points::of(Lane::Sync, point(made)), self.now);
    }

    fn set_roots(&mut self, roots: &[FileId], made: u64) {
        let root = |file: &FileId| SyncRoot { file: *file, path: "/d".into(), terms: self.terms };
        let roots = roots.iter().map(root).collect();
        self.ledger.set_roots(roots, &Points::of(Lane::Sync, point(made)), self.now);
    }

    fn connected(&mut self, peer: u16, connected: bool) {
        self.ledger.connected(SiteId(2 + peer), connected, self.now);
    }

    fn acks(&mut self, peer: u16, seq: u64) {
        self.ledger.acknowledged(SiteId(2 + peer), Lane::Sync, point(seq), self.now);
    }

    fn begin(&mut self, points: Points) -> (Arc<Parker>, Option<(WaitId, Instant)>) {
        let parker = Arc::new(Parker::default());
        let needs = vec![Need { root: ROOT, terms: self.terms }];
        let begun = self.ledger.begin(Wait { points, needs, started: self.now, parker: parker.clone() }, self.now);
        (parker, begun)
    }

    fn call(&mut self, seq: u64) -> (Arc<Parker>, Option<(WaitId, Instant)>) {
        self.begin(Points::of(Lane::Sync, point(seq)))
    }

    /// How a wait ended, if it has.
    fn outcome(&mut self, parker: &Arc<Parker>) -> Option<Outcome> {
        for (parker, outcome) in self.ledger.take_outbox().outcomes {
            parker.tell(outcome);
        }
        parker.sleep(Some(Instant::now()))
    }

    fn standing(&self) -> Standing {
        self.ledger.roots[&ROOT].standing(self.ledger.members())
    }

    fn phase(&self, peer: u16) -> Phase {
        self.ledger.roots[&ROOT].state(SiteId(2 + peer)).expect("a state").phase()
    }

    fn refusal(&self) -> Option<String> {
        self.ledger.refusal(&[Need { root: ROOT, terms: self.terms }], self.now)
    }
}

#[test]
fn all_waits_for_each_and_wakes_with_the_last() {
    let mut case = Case::new(2, Acks::All, OnLoss::Degrade);
    let (parker, begun) = case.call(1);
    assert_eq!(begun.map(|(_, until)| until), Some(case.now + TIMEOUT));
    case.acks(0, 1);
    assert_eq!(case.outcome(&parker), None);
    case.acks(1, 1);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
    assert_eq!(case.standing(), Standing::InSync);
    assert!(case.ledger.waits.is_empty());
}

#[test]
fn what_is_acknowledged_already_does_not_wait() {
    let mut case = Case::new(1, Acks::All, OnLoss::Fail);
    case.acks(0, 4);
    let (parker, begun) = case.call(4);
    assert!(begun.is_none());
    assert_eq!(case.outcome(&parker), Some(Ok(())));
}

#[test]
fn a_wait_for_two_lanes_ends_with_both() {
    let mut case = Case::new(1, Acks::All, OnLoss::Degrade);
    let mut points = Points::of(Lane::Sync, point(1));
    points.raise(Lane::Bulk, point(5));
    let (parker, _) = case.begin(points);
    case.acks(0, 9);
    assert_eq!(case.outcome(&parker), None);
    case.ledger.acknowledged(SiteId(2), Lane::Bulk, point(5), case.now);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
}

#[test]
fn a_majority_is_enough_and_the_other_is_catching_up_until_it_has_it() {
    let mut case = Case::new(2, Acks::Majority, OnLoss::Degrade);
    let (parker, _) = case.call(1);
    case.acks(1, 1);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
    assert_eq!((case.phase(0), case.phase(1)), (Phase::CatchingUp { target: None }, Phase::InSync));
    assert_eq!(case.standing(), Standing::InSync, "as many as it demands have it");
    case.acks(0, 1);
    assert_eq!(case.phase(0), Phase::InSync);
    assert!(case.ledger.take_outbox().news.is_empty(), "not worth a line in the log");
}

#[test]
fn degrade_goes_on_after_the_timeout_and_does_not_wait_again_until_it_has_caught_up() {
    let mut case = Case::new(1, Acks::All, OnLoss::Degrade);
    let (parker, begun) = case.call(1);
    let (id, until) = begun.expect("waits");
    case.now = until;
    assert_eq!(case.ledger.expired(id, case.now), None);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
    assert_eq!((case.phase(0), case.standing()), (Phase::Degraded, Standing::Degraded));
    let (parker, begun) = case.call(2);
    assert!(begun.is_none());
    assert_eq!(case.outcome(&parker), Some(Ok(())));
    case.acks(0, 1);
    assert_eq!(case.phase(0), Phase::CatchingUp { target: Some(Points::of(Lane::Sync, point(2))) });
    assert_eq!(case.standing(), Standing::CatchingUp);
    case.acks(0, 2);
    assert_eq!((case.phase(0), case.standing()), (Phase::InSync, Standing::InSync));
    assert!(case.call(3).1.is_some());
}

#[test]
fn who_was_lost_before_is_waited_for_from_then_on_and_frees_all_who_wait() {
    let mut case = Case::new(1, Acks::All, OnLoss::Degrade);
    let (early, _) = case.call(1);
    case.now += SECOND;
    case.connected(0, false);
    let given_up = case.now + TIMEOUT;
    case.now += SECOND;
    let (late, begun) = case.call(2);
    assert_eq!(begun.map(|(_, until)| until), Some(given_up), "not the timeout again");
    assert_eq!(case.ledger.tick(case.now), Some(given_up));
    case.now = given_up;
    assert_eq!(case.ledger.tick(case.now), None);
    assert_eq!((case.outcome(&early), case.outcome(&late)), (Some(Ok(())), Some(Ok(()))));
    assert_eq!(case.standing(), Standing::Degraded);
}

#[test]
fn who_comes_back_while_somebody_waits_gets_the_whole_time() {
    let mut case = Case::new(1, Acks::All, OnLoss::Degrade);
    case.connected(0, false);
    case.now += TIMEOUT / 2;
    let (_, begun) = case.call(1);
    let (id, until) = begun.expect("waits");
    case.connected(0, true);
    let started = case.now;
    case.now = until;
    assert_eq!(case.ledger.expired(id, case.now), Some(started + TIMEOUT));
}

#[test]
fn fail_fails_within_the_timeout_and_refuses_until_it_is_back() {
    let mut case = Case::new(1, Acks::All, OnLoss::Fail);
    assert_eq!(case.refusal(), None);
    let (parker, begun) = case.call(1);
    let (id, until) = begun.expect("waits");
    case.connected(0, false);
    case.now = until;
    assert_eq!(case.ledger.expired(id, case.now), None);
    let why = case.outcome(&parker).expect("ended").expect_err("it is not there");
    assert!(why.contains("/d") && why.contains("s2") && why.contains("on-loss"), "{why}");
    let why = case.refusal().expect("refused");
    assert!(why.contains("Nothing was changed"), "{why}");
    case.connected(0, true);
    assert_eq!(case.refusal(), None);
    assert_eq!(case.phase(0), Phase::CatchingUp { target: Some(Points::of(Lane::Sync, point(1))) }, "it owes that");
    let (parker, begun) = case.call(2);
    assert!(begun.is_some(), "with fail, also who is catching up is waited for");
    case.acks(0, 2);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
    assert_eq!(case.standing(), Standing::InSync);
}

#[test]
fn fail_with_a_majority_goes_on_without_a_minority() {
    let mut case = Case::new(2, Acks::Majority, OnLoss::Fail);
    case.connected(0, false);
    case.now += TIMEOUT;
    assert_eq!(case.ledger.tick(case.now), None);
    assert_eq!(case.refusal(), None);
    let (parker, _) = case.call(1);
    case.acks(1, 1);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
    case.connected(1, false);
    case.now += TIMEOUT;
    case.ledger.tick(case.now);
    assert!(case.refusal().is_some());
}

#[test]
fn more_peers_than_there_are_satisfy_nothing() {
    let mut case = Case::new(1, Acks::Peers(2), OnLoss::Degrade);
    let (parker, _) = case.call(1);
    case.acks(0, 1);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
    assert_eq!(case.standing(), Standing::Degraded);
    let mut case = Case::new(1, Acks::Peers(2), OnLoss::Fail);
    assert!(case.refusal().expect("refused").contains("only 1"));
    let (parker, _) = case.call(1);
    assert!(case.outcome(&parker).expect("at once").is_err());
}

#[test]
fn without_peers_all_is_satisfied() {
    let mut case = Case::new(0, Acks::All, OnLoss::Fail);
    let (parker, _) = case.call(1);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
    assert_eq!((case.standing(), case.refusal()), (Standing::InSync, None));
}

#[test]
fn a_wait_ends_when_its_directory_is_sync_no_more() {
    let mut case = Case::new(1, Acks::All, OnLoss::Fail);
    let (parker, _) = case.call(1);
    case.set_roots(&[], 1);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
}

#[test]
fn a_peer_that_joins_is_waited_for_where_it_must_be_and_one_that_leaves_is_not() {
    let mut case = Case::new(1, Acks::All, OnLoss::Fail);
    let (parker, _) = case.call(1);
    case.set_members(2, 1);
    case.acks(0, 1);
    assert_eq!(case.outcome(&parker), None);
    case.connected(1, true);
    case.acks(1, 1);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
    let (parker, _) = case.call(2);
    case.acks(0, 2);
    case.set_members(1, 2);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
}

#[test]
fn a_peer_that_came_back_older_owes_what_it_had() {
    let mut case = Case::new(1, Acks::All, OnLoss::Degrade);
    let (parker, _) = case.call(5);
    case.acks(0, 4);
    case.acks(0, 2);
    assert_eq!(case.phase(0), Phase::CatchingUp { target: None });
    case.acks(0, 4);
    assert_eq!(case.phase(0), Phase::InSync);
    case.acks(0, 5);
    assert_eq!(case.outcome(&parker), Some(Ok(())));
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Call,
    Acknowledge { peer: u16, more: u64 },
    Connect { peer: u16, connected: bool },
    Pass { ms: u64 },
    Members { peers: u16 },
    Sync(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => Just(Act::Call),
        6 => (0u16..3, 1u64..4).prop_map(|(peer, more)| Act::Acknowledge { peer, more }),
        2 => (0u16..3, prop::bool::weighted(0.7)).prop_map(|(peer, connected)| Act::Connect { peer, connected }),
        2 => (0u64..9000).prop_map(|ms| Act::Pass { ms }),
        1 => (1u16..4).prop_map(|peers| Act::Members { peers }),
        1 => any::<bool>().prop_map(Act::Sync),
    ]
}

fn demand() -> impl Strategy<Value = (Acks, OnLoss)> {
    let acks = prop_oneof![Just(Acks::All), Just(Acks::Majority), (0u16..4).prop_map(Acks::Peers)];
    (acks, prop_oneof![Just(OnLoss::Degrade), Just(OnLoss::Fail)])
}

struct Open {
    seq: u64,
    parker: Arc<Parker>,
    id: WaitId,
    until: Instant,
    limit: Instant,
}

proptest! {
    /// Whatever happens: with `fail` a caller is told "done" only when enough peers have it; nobody waits beyond the timeout; a peer is in sync only with
    /// all that callers were told; the directory is in sync only if as many peers as it demands have all that.
    #[test]
    fn promises_hold_whatever_happens(demand in demand(), acts in proptest::collection::vec(act(), 0..120)) {
        let (acks, on_loss) = demand;
        let mut case = Case::new(2, acks, on_loss);
        let (mut peers, mut made, mut told, mut is_sync) = (2u16, 0u64, 0u64, true);
        let mut has = [0u64; 3];
        let mut open: Vec<Open> = Vec::new();
        for act in acts {
            match act {
                Act::Call => {
                    made += 1;
                    if is_sync {
                        let (parker, begun) = case.call(made);
                        let limit = case.now + TIMEOUT;
                        match begun {
                            Some((id, until)) => open.push(Open { seq: made, parker, id, until, limit }),
                            None => {
                                let outcome = case.outcome(&parker).expect("ended");
                                let enough = has[..usize::from(peers)].iter().filter(|has| **has >= made).count();
                                let enough = enough >= case.terms.needed(usize::from(peers));
                                prop_assert!(enough || on_loss == OnLoss::Degrade || outcome.is_err());
                                told = made;
                            }
                        }
                    }
                }
                Act::Acknowledge { peer, more } => {
                    let seq = (has[usize::from(peer)] + more).min(made);
                    has[usize::from(peer)] = seq;
                    case.acks(peer, seq);
                }
                Act::Connect { peer, connected } => case.connected(peer, connected),
                Act::Pass { ms } => {
                    let end = case.now + Duration::from_millis(ms);
                    // Whoever waits looks again when its time has come, and so does the thread that watches the time.
                    loop {
                        let timer = case.ledger.tick(case.now);
                        let next = open.iter().map(|open| open.until).chain(timer).min();
                        let Some(next) = next.filter(|next| *next <= end) else { break };
                        case.now = next.max(case.now);
                        let now = case.now;
                        case.ledger.tick(now);
                        for wait in open.iter_mut().filter(|wait| wait.until <= now) {
                            wait.until = case.ledger.expired(wait.id, now).unwrap_or(end + SECOND);
                        }
                    }
                    case.now = end;
                }
                Act::Members { peers: now } => {
                    peers = now;
                    case.set_members(peers, made);
                }
                Act::Sync(on) => {
                    is_sync = on;
                    case.set_roots(if on { &[ROOT] } else { &[] }, made);
                }
            }
            for (parker, outcome) in case.ledger.take_outbox().outcomes {
                parker.tell(outcome);
            }
            let needed = case.terms.needed(usize::from(peers));
            let members = usize::from(peers);
            let enough = |seq: u64| has[..members].iter().filter(|has| **has >= seq).count() >= needed;
            let mut still = Vec::new();
            for wait in open {
                match wait.parker.sleep(Some(Instant::now())) {
                    None => still.push(wait),
                    Some(outcome) => {
                        let refused = on_loss == OnLoss::Fail && is_sync && !enough(wait.seq);
                        prop_assert_eq!(outcome.is_err(), refused, "after {:?}", act);
                        told = told.max(wait.seq);
                    }
                }
            }
            open = still;
            prop_assert!(open.iter().all(|wait| wait.limit >= case.now), "somebody waits too long after {:?}", act);
            if is_sync {
                for (peer, has) in has.iter().enumerate().take(members) {
                    let in_sync = case.phase(peer as u16) == Phase::InSync;
                    prop_assert!(!in_sync || *has >= told, "peer {peer} is in sync with {has} of {told} after {act:?}");
                }
                prop_assert!(case.standing() != Standing::InSync || enough(told), "{told} after {act:?}");
            }
        }
        // All are back and have everything: in sync, unless it demands more than there are.
        case.set_members(peers, made);
        case.set_roots(&[ROOT], made);
        (0..peers).for_each(|peer| case.connected(peer, true));
        (0..peers).for_each(|peer| case.acks(peer, made));
        let can = case.terms.needed(usize::from(peers)) <= usize::from(peers);
        prop_assert_eq!(case.standing(), if can { Standing::InSync } else { Standing::Degraded });
        prop_assert!((0..peers).all(|peer| case.phase(peer) == Phase::InSync));
        case.set_roots(&[], made);
        prop_assert!(case.ledger.waits.is_empty());
        prop_assert!(case.ledger.peers.values().all(|peer| peer.waiting.iter().all(BTreeSet::is_empty)), "nothing is left");
    }
}
