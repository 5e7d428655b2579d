use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn point(incarnation: u32, seq: u64) -> LanePoint {
    LanePoint { incarnation: Incarnation(incarnation), seq: Seq(seq) }
}

/// Ten records, then a second incarnation; a peer had 1.15.
fn lost_and_found() -> LaneHistory {
    let mut history = LaneHistory::default();
    history.open(Incarnation(2), Hlc(7), Seq(10), &[point(1, 15)]);
    history
}

fn resume(history: &LaneHistory, theirs: LanePoint) -> Resume {
    history.resume(theirs, Seq(12), Seq(1))
}

#[test]
fn who_has_the_lost_tail_goes_on_and_who_lacks_it_levels() {
    let history = lost_and_found();
    assert_eq!(resume(&history, point(1, 15)), Resume::After(point(2, 10)));
    assert_eq!(resume(&history, point(2, 11)), Resume::After(point(2, 11)));
    for lacking in [point(1, 0), point(1, 10), point(1, 12)] {
        assert_eq!(resume(&history, lacking), Resume::Level);
    }
    for knowing in [point(1, 16), point(2, 13), point(3, 0)] {
        assert_eq!(resume(&history, knowing), Resume::LostTail);
    }
    assert_eq!(resume(&history, point(2, 9)), Resume::Level, "no site is ever there");
}

#[test]
fn an_opening_without_a_loss_is_passed_by_records() {
    let mut history = LaneHistory::default();
    history.open(Incarnation(2), Hlc(7), Seq(10), &[]);
    assert_eq!(resume(&history, point(1, 4)), Resume::After(point(1, 4)));
    assert_eq!(resume(&history, point(1, 10)), Resume::After(point(2, 10)));
    assert_eq!(resume(&history, point(1, 11)), Resume::LostTail);
    assert_eq!(history.enter(point(1, 10), Incarnation(2)), Some(point(2, 10)));
    assert_eq!(history.enter(point(1, 9), Incarnation(2)), None);
    assert_eq!((history.point(Seq(10)), history.point(Seq(11))), (point(1, 10), point(2, 11)));
    assert_eq!(LaneHistory::default().point(Seq(0)), LanePoint::START);
}

#[test]
fn a_tail_recovered_after_records_of_a_new_incarnation_levels_everyone() {
    let mut history = LaneHistory::default();
    history.open(Incarnation(2), Hlc(7), Seq(10), &[]);
    history.open(Incarnation(3), Hlc(8), Seq(12), &[point(1, 15)]);
    for before in [point(1, 10), point(1, 15), point(2, 10), point(2, 12)] {
        assert_eq!(history.resume(before, Seq(14), Seq(1)), Resume::Level);
        assert_eq!(history.settle(point(2, 12)), point(2, 12));
    }
    assert_eq!(history.resume(point(3, 12), Seq(14), Seq(1)), Resume::After(point(3, 12)));
    assert_eq!(history.resume(point(1, 16), Seq(14), Seq(1)), Resume::LostTail);
}

#[test]
fn a_tail_recovered_before_any_record_of_a_new_incarnation_costs_its_giver_nothing() {
    let mut history = LaneHistory::default();
    history.open(Incarnation(2), Hlc(7), Seq(10), &[]);
    history.open(Incarnation(3), Hlc(8), Seq(10), &[point(1, 15)]);
    assert_eq!(history.settle(point(1, 15)), point(3, 10));
    assert_eq!(resume(&history, point(1, 15)), Resume::After(point(3, 10)));
    assert_eq!(resume(&history, point(2, 10)), Resume::Level);
}

#[test]
fn what_the_journal_has_dropped_is_levelled() {
    let history = LaneHistory::default();
    assert_eq!(history.resume(point(1, 4), Seq(12), Seq(6)), Resume::Level);
    assert_eq!(history.resume(point(1, 5), Seq(12), Seq(6)), Resume::After(point(1, 5)));
    assert_eq!(history.resume(point(1, 12), Seq(12), Seq(13)), Resume::After(point(1, 12)));
}

#[test]
fn two_copies_of_one_store_are_told_apart() {
    let (ours, mut theirs) = (lost_and_found(), LaneHistory::default());
    assert!(ours.agrees(&theirs));
    theirs.open(Incarnation(2), Hlc(8), Seq(10), &[point(1, 15)]);
    assert!(!ours.agrees(&theirs));
}

#[test]
fn openings_are_bounded() {
    let mut history = LaneHistory::default();
    for incarnation in 2..2_000 {
        history.open(Incarnation(incarnation), Hlc(1), Seq(3), &[]);
    }
    assert_eq!(history.openings().len(), MAX_OPENINGS);
    assert_eq!(history.resume(point(1_999, 3), Seq(3), Seq(1)), Resume::After(point(1_999, 3)));
    assert_eq!(history.resume(point(1, 3), Seq(3), Seq(1)), Resume::Level);
}

/// A store of the origin: all of it comes back older when it is restored.
#[derive(Clone, Default, Debug)]
struct Store {
    history: LaneHistory,
    /// The own journal: what each record is.
    journal: Vec<(LanePoint, u64)>,
    /// All records whose change is part of its state.
    state: BTreeSet<u64>,
}

/// A site that follows the origin.
#[derive(Clone, Debug)]
struct Peer {
    at: LanePoint,
    state: BTreeSet<u64>,
    known: LaneHistory,
}

struct World {
    store: Store,
    peers: Vec<Peer>,
    copies: Vec<Store>,
    records: u64,
    incarnations: u32,
    /// Positions that were given.
    given: BTreeSet<LanePoint>,
}

impl World {
    fn new() -> Self {
        let peer = Peer { at: LanePoint::START, state: BTreeSet::new(), known: LaneHistory::default() };
        let store = Store::default();
        let copies = vec![store.clone()];
        Self { store, peers: vec![peer; 3], copies, records: 0, incarnations: 1, given: BTreeSet::new() }
    }

    fn head(&self) -> Seq {
        Seq(self.store.journal.len() as u64)
    }

    fn write(&mut self) {
        let at = LanePoint { incarnation: self.store.history.current(), seq: self.head().next() };
        assert!(self.given.insert(at), "{at} is used twice");
        self.records += 1;
        self.store.journal.push((at, self.records));
        self.store.state.insert(self.records);
        assert_eq!(self.store.history.incarnation_of(at.seq), Some(at.incarnation));
        let stands = self.store.history.point(at.seq);
        assert_eq!((stands, self.store.history.settle(stands)), (at, at));
    }

    fn open(&mut self, recovered: &[LanePoint]) {
        self.incarnations += 1;
        let (number, head) = (self.incarnations, self.head());
        self.store.history.open(Incarnation(number), Hlc(u64::from(number)), head, recovered);
    }

    /// The peer takes the origin's state.
    fn level_peer(&mut self, peer: usize) {
        let at = LanePoint { incarnation: self.store.history.current(), seq: self.head() };
        let peer = &mut self.peers[peer];
        peer.state.extend(&self.store.state);
        peer.at = at;
        peer.known = self.store.history.clone();
    }

    /// One handshake, and at most `limit` records.
    fn connect(&mut self, index: usize, limit: usize) {
        let head = self.head();
        let before = self.peers[index].clone();
        assert!(before.known.agrees(&self.store.history));
        match self.store.history.resume(before.at, head, Seq(1)) {
            Resume::Level => self.level_peer(index),
            Resume::LostTail => {
                self.store.state.extend(&before.state);
                self.open(&before.known.had_at(before.at));
                assert!(!self.store.history.lacks(before.at, self.head()), "it is asked for again and again");
            }
            Resume::After(from) => {
                let peer = &mut self.peers[index];
                peer.known = self.store.history.clone();
                peer.at = peer.known.settle(peer.at);
                assert_eq!((peer.at, from.seq), (from, peer.at.seq));
                for (at, record) in self.store.journal.iter().skip(from.seq.0 as usize).take(limit) {
                    if at.incarnation != peer.at.incarnation {
                        peer.at = peer.known.enter(peer.at, at.incarnation).expect("nothing is missing between");
                    }
                    assert_eq!(at.seq, peer.at.seq.next(), "a gap");
                    assert!(peer.state.insert(*record), "a record comes twice");
                    peer.at = *at;
                }
                if head.0 - from.seq.0 <= limit as u64 {
                    assert_eq!(peer.state, self.store.state, "the peer was told that it is level");
                }
            }
        }
    }

    fn step(&mut self, choice: u8, which: usize, amount: usize) {
        match choice {
            0..=2 => (0..amount).for_each(|_| self.write()),
            3..=5 => self.connect(which % 3, amount),
            6 => self.copies.push(self.store.clone()),
            // An older copy comes back. Nobody can be asked, so it opens an incarnation before it writes.
            7 => {
                self.store = self.copies[which % self.copies.len()].clone();
                self.open(&[]);
            }
            _ => self.open(&[]),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn along_any_true_history_everyone_gets_everything_once(
        steps in proptest::collection::vec((0u8..9, any::<usize>(), 1usize..6), 1..60)
    ) {
        let mut world = World::new();
        for (choice, which, amount) in steps {
            world.step(choice, which, amount);
        }
        // Everyone meets the origin again, as often as it takes.
        for _ in 0..8 {
            (0..3).for_each(|peer| world.connect(peer, usize::MAX));
        }
        let everything: BTreeSet<u64> = world.peers.iter().flat_map(|peer| peer.state.iter().copied()).collect();
        prop_assert_eq!(&everything, &world.store.state);
        for peer in &world.peers {
            prop_assert_eq!(&peer.state, &everything);
        }
    }

    #[test]
    fn histories_survive_a_round_trip(openings in proptest::collection::vec((0u64..9, 0u64..20, any::<bool>()), 0..20)) {
        let mut history = LaneHistory::default();
        let mut head = 0;
        for (index, (more, tail, lost)) in openings.into_iter().enumerate() {
            head += more;
            let recovered = LanePoint { incarnation: history.current(), seq: Seq(head + tail) };
            let recovered = if lost { vec![recovered, point(1, head)] } else { vec![] };
            history.open(Incarnation(index as u32 + 2), Hlc(head), Seq(head), &recovered);
        }
        prop_assert_eq!(LaneHistory::decode(history.encode().into()), Ok(history));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in any::<Vec<u8>>(), incarnation in any::<u32>(), seq in any::<u64>()) {
        if let Ok(history) = LaneHistory::decode(bytes.into()) {
            let at = LanePoint { incarnation: Incarnation(incarnation), seq: Seq(seq) };
            history.resume(at, Seq(5), Seq(2));
            history.settle(at);
            history.enter(at, history.current());
            history.point(Seq(5));
        }
    }
}
