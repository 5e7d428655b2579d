use std::time::Duration;

use proto::ids::{FileId, Incarnation, Seq};

use super::*;
use crate::policy::{Acks, OnLoss};
use crate::sync::Terms;

const ROOT: FileId = FileId(7);
const PEER: SiteId = SiteId(2);
const LIMIT: Duration = Duration::from_secs(60);

fn at(seq: u64) -> LanePoint {
    LanePoint { incarnation: Incarnation(1), seq: Seq(seq) }
}

fn board(terms: Terms) -> Arc<Board> {
    let board = Arc::new(Board::default());
    let member = MemberPeer { site: PEER, name: "b".into(), acknowledged: Points::START };
    board.set_members(vec![member], &Points::START);
    let root = SyncRoot { file: ROOT, path: "/d".into(), terms };
    board.follow_policies(1, || (vec![root], Points::START));
    board.connected(PEER, true);
    board
}

fn terms(timeout: Duration) -> Terms {
    Terms { acks: Acks::All, on_loss: OnLoss::Degrade, timeout }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks without letting time pass in the ledger.
fn phase(board: &Board) -> Phase {
    let state = board.state.lock();
    let (_, root) = state.ledger.roots().next().expect("a directory");
    root.state(PEER).expect("a state").phase()
}

#[test]
fn a_lost_peer_is_given_up_though_nobody_asks_and_the_watch_ends() {
    let board = board(terms(Duration::from_millis(20)));
    for _ in 0..2 {
        assert_eq!(phase(&board), Phase::InSync);
        board.connected(PEER, false);
        until("given up", || phase(&board) == Phase::Degraded);
        until("nobody watches", || !board.state.lock().watched);
        board.connected(PEER, true);
    }
}

#[test]
fn nobody_watches_a_board_that_has_ended() {
    let board = board(terms(LIMIT * 10));
    board.connected(PEER, false);
    assert!(board.state.lock().watched);
    board.end("a test");
    until("nobody watches", || !board.state.lock().watched);
    let needs = vec![Need { root: ROOT, terms: terms(LIMIT * 10) }];
    let wait = board.wait(Points::of(Lane::Sync, at(1)), needs, Instant::now(), || ());
    assert!(matches!(wait, Err(FsError::PeersLack(why)) if why == "a test"), "no new wait begins");
}

#[test]
fn each_waiter_is_woken_by_the_acknowledgement_that_it_waits_for() {
    let board = board(terms(LIMIT));
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (1..=64)
            .map(|seq| {
                let needs = vec![Need { root: ROOT, terms: terms(LIMIT) }];
                let board = &board;
                scope.spawn(move || board.wait(Points::of(Lane::Sync, at(seq)), needs, Instant::now(), || ()))
            })
            .collect();
        for (seq, waiter) in (1..).zip(waiters) {
            assert!(!waiter.is_finished());
            board.acknowledged(PEER, Lane::Sync, at(seq));
            waiter.join().expect("no panic").expect("acknowledged");
        }
    });
    assert_eq!(phase(&board), Phase::InSync, "nobody was let go");
}
