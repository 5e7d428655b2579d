use proptest::prelude::*;
use proto::hlc::Hlc;
use proto::ids::Incarnation;

use super::*;

const SETTINGS: Settings = Settings {
    window_bytes: 1_000,
    window_segments: 4,
    max_segment_bytes: 200,
    read_retry_ms: 50,
    gather_segments: 2,
    gather_records: 10,
    weights: [8, 8, 4, 1],
    queue_bytes: u64::MAX,
    answer_ms: 5_000,
};
const LANE: Lane = Lane::Normal;

fn point(seq: u64) -> LanePoint {
    LanePoint { incarnation: Incarnation(1), seq: Seq(seq) }
}

/// A handshake with a peer whose frontier is `theirs`, of a lane that ends at `head` here.
fn handshake(theirs: LanePoint, head: u64) -> Handshake {
    let mut frontiers = [LanePoint::START; 4];
    frontiers[LANE as usize] = theirs;
    let mut heads = [Seq::ZERO; 4];
    heads[LANE as usize] = Seq(head);
    Handshake {
        frontiers,
        histories: Arc::default(),
        heads,
        oldest: [Seq(1); 4],
        diverged: None,
        window_bytes: u64::MAX,
    }
}

fn connected(theirs: LanePoint, head: u64) -> Event {
    Event::Connected(Box::new(handshake(theirs, head)))
}

/// The world around one machine: a lane that grows, a peer that applies in order, a link that may fail.
struct World {
    engine: Engine,
    now_ms: u64,
    durable: u64,
    /// What the peer has applied, over all connections.
    applied: u64,
    /// Segments under way to the peer.
    wire: VecDeque<(u64, u64)>,
    /// The last record sent in this connection.
    sent: u64,
    acknowledged: u64,
    read: Option<u64>,
    dialled: bool,
    connected: bool,
}

impl World {
    fn new() -> Self {
        Self {
            engine: Engine::new(SETTINGS, &[Lane::High, LANE, Lane::Bulk]),
            now_ms: 0,
            durable: 0,
            applied: 0,
            wire: VecDeque::new(),
            sent: 0,
            acknowledged: 0,
            read: None,
            dialled: false,
            connected: false,
        }
    }

    fn feed(&mut self, event: Event) {
        for command in self.engine.handle(self.now_ms, 500, event) {
            match command {
                Command::Dial => {
                    assert!(!self.dialled && !self.connected, "dialled twice");
                    self.dialled = true;
                }
                Command::ReadLane { lane, after } => {
                    assert_eq!((lane, after.0), (LANE, self.sent), "a read that does not follow what is sent");
                    assert!(self.connected && self.read.is_none());
                    self.read = Some(after.0);
                }
                Command::Send { first, last, .. } => {
                    assert_eq!(first.0, self.sent + 1, "a gap or a repetition");
                    assert!(last.0 <= self.durable);
                    self.sent = last.0;
                    self.wire.push_back((first.0, last.0));
                    assert!(self.engine.in_flight_bytes(LANE) <= SETTINGS.window_bytes);
                    assert!(self.engine.lanes[LANE as usize].in_flight.len() <= SETTINGS.window_segments);
                }
                Command::SetAcknowledged { lane, point } if lane == LANE => {
                    assert!(point.seq.0 >= self.acknowledged, "an acknowledgement went back");
                    self.acknowledged = point.seq.0;
                }
                Command::SetAcknowledged { .. } => {}
                Command::Level | Command::TellToLevel { .. } => {
                    panic!("an honest peer is taken for one that is not level")
                }
                Command::Disconnect { fault } => panic!("an honest peer was given up: {fault}"),
            }
        }
    }

    fn step(&mut self, choice: u8, amount: u64) {
        match choice {
            0 => {
                self.durable += amount;
                self.feed(Event::HeadMoved { lane: LANE, durable: Seq(self.durable) });
            }
            1 if self.dialled => {
                self.dialled = false;
                self.connected = true;
                self.sent = self.applied;
                self.feed(connected(point(self.applied), self.durable));
            }
            2 if self.dialled || self.connected => {
                self.dialled = false;
                self.connected = false;
                self.read = None;
                self.wire.clear();
                self.feed(Event::Lost);
            }
            3 => {
                if let Some(after) = self.read.take() {
                    let last = (after + amount).min(self.durable);
                    let bytes = amount * 10;
                    self.feed(Event::SegmentRead { lane: LANE, first: Seq(after + 1), last: Seq(last), bytes });
                }
            }
            4 => {
                if let Some((first, last)) = self.wire.pop_front() {
                    assert_eq!(first, self.applied + 1, "the peer got a gap or a repetition");
                    self.applied = last;
                    self.feed(Event::Acked { lane: LANE, point: point(last) });
                }
            }
            5 if self.read.is_some() => {
                self.read = None;
                self.feed(Event::ReadFailed { lane: LANE });
            }
            // A segment that was read for a connection that is gone.
            6 if self.read.is_none() => {
                self.feed(Event::SegmentRead { lane: LANE, first: Seq(amount), last: Seq(amount), bytes: 1 });
            }
            7 => self.feed(Event::Wake),
            _ => {
                self.now_ms += amount * 20;
                self.feed(Event::Tick);
            }
        }
    }

    /// No more faults: everything arrives.
    fn heal(&mut self) {
        for _ in 0..10_000 {
            if self.connected && self.applied == self.durable && self.acknowledged == self.durable {
                return;
            }
            self.step(1, 1);
            self.step(3, 20);
            self.step(4, 1);
            self.now_ms = self.engine.next_tick_ms().unwrap_or(self.now_ms).max(self.now_ms);
            self.feed(Event::Tick);
        }
        panic!("stuck at {} of {}: {:?}", self.applied, self.durable, self.engine);
    }
}

proptest! {
    #[test]
    fn everything_arrives_once_and_in_order_whatever_happens(
        steps in proptest::collection::vec((0u8..10, 1u64..20), 1..400)
    ) {
        let mut world = World::new();
        for (choice, amount) in steps {
            world.step(choice, amount);
        }
        world.heal();
    }
}

fn streaming(durable: u64, frontier: u64) -> (Engine, Vec<Command>) {
    let mut engine = Engine::new(SETTINGS, &[Lane::High, LANE, Lane::Bulk]);
    assert_eq!(engine.handle(0, 0, Event::Tick), [Command::Dial]);
    engine.handle(0, 0, Event::HeadMoved { lane: LANE, durable: Seq(durable) });
    let commands = engine.handle(0, 0, connected(point(frontier), durable));
    (engine, commands)
}

#[test]
fn shipping_resumes_at_the_peers_frontier() {
    let (_, commands) = streaming(9, 4);
    assert_eq!(commands.last(), Some(&Command::ReadLane { lane: LANE, after: Seq(4) }));
    let (_, commands) = streaming(9, 9);
    assert!(commands.iter().all(|command| matches!(command, Command::SetAcknowledged { .. })));
}

#[test]
fn a_lost_tail_is_taken_back_and_nothing_is_shipped_before() {
    let (mut engine, commands) = streaming(4, 9);
    let fault = Fault::LostTail { lane: LANE, theirs: point(9), ours: point(4) };
    assert_eq!(commands, [Command::Level, Command::Disconnect { fault }]);
    assert!(engine.is_refused());
    // The lane grows past what the peer has.
    assert_eq!(engine.handle(1, 0, Event::HeadMoved { lane: LANE, durable: Seq(20) }), []);
    assert_eq!(engine.handle(60_000, 0, Event::Tick), [Command::Dial]);
    let mut histories = Histories::default();
    histories[LANE as usize].open(Incarnation(2), Hlc(1), Seq(4), &[point(9)]);
    let again = Handshake { histories: Arc::new(histories), ..handshake(point(9), 20) };
    let commands = engine.handle(60_001, 0, Event::Connected(Box::new(again)));
    let settled = LanePoint { incarnation: Incarnation(2), seq: Seq(4) };
    assert!(commands.contains(&Command::SetAcknowledged { lane: LANE, point: settled }), "{commands:?}");
    assert_eq!(commands.last(), Some(&Command::ReadLane { lane: LANE, after: Seq(4) }));
    engine.handle(60_002, 0, Event::SegmentRead { lane: LANE, first: Seq(5), last: Seq(6), bytes: 1 });
    let acked = LanePoint { incarnation: Incarnation(2), seq: Seq(6) };
    let commands = engine.handle(60_003, 0, Event::Acked { lane: LANE, point: acked });
    assert!(commands.contains(&Command::SetAcknowledged { lane: LANE, point: acked }), "{commands:?}");
}

#[test]
fn a_peer_that_records_can_not_bring_level_is_told_and_dialled_again() {
    let (mut engine, _) = streaming(9, 9);
    engine.handle(0, 0, Event::Lost);
    engine.handle(1_000, 0, Event::Tick);
    let behind = Handshake { oldest: [Seq(8); 4], ..handshake(point(3), 9) };
    let fault = Fault::MustLevel { lane: LANE, theirs: point(3), ours: point(9) };
    let commands = engine.handle(1_000, 0, Event::Connected(Box::new(behind.clone())));
    assert_eq!(commands, [Command::TellToLevel { fault }]);
    assert_eq!(engine.handle(1_001, 0, Event::HeadMoved { lane: LANE, durable: Seq(12) }), [], "nothing is shipped");
    assert_eq!(engine.next_tick_ms(), Some(6_000));
    engine.handle(2_000, 0, Event::Lost);
    assert_eq!(engine.handle(9_000, 0, Event::Tick), [Command::Dial]);
    // One that does not hang up.
    engine.handle(9_000, 0, Event::Connected(Box::new(behind)));
    let commands = engine.handle(14_000, 0, Event::Tick);
    assert_eq!(commands, [Command::Disconnect { fault: Fault::NoAnswer }]);
}

#[test]
fn a_copy_that_diverged_is_never_resumed() {
    let (mut engine, _) = streaming(9, 9);
    engine.handle(0, 0, Event::Lost);
    engine.handle(1_000, 0, Event::Tick);
    let fault = Fault::Diverged { lane: LANE, theirs: point(9), why: Divergence::Record };
    let shown = Handshake { diverged: Some(fault), ..handshake(point(9), 9) };
    assert_eq!(engine.handle(1_000, 0, Event::Connected(Box::new(shown))), [Command::Disconnect { fault }]);
    assert!(engine.next_tick_ms() >= Some(3_500), "tried again at once");
    engine.handle(60_000, 0, Event::Tick);
    let commands = engine.handle(60_000, 0, connected(point(9), 9));
    assert_eq!(commands, [Command::Disconnect { fault }], "though it does not show any more");
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_ends_the_connection() {
    let (mut engine, _) = streaming(9, 4);
    let commands = engine.handle(0, 0, Event::Acked { lane: LANE, point: point(5) });
    let fault = Fault::AckBeyondSent { lane: LANE, point: point(5), sent: Seq(4) };
    assert_eq!(commands, [Command::Disconnect { fault }]);
}

#[test]
fn an_acknowledgement_that_goes_back_ends_the_connection() {
    let (mut engine, _) = streaming(9, 4);
    let commands = engine.handle(0, 0, Event::Acked { lane: LANE, point: point(3) });
    let fault = Fault::AckBackwards { lane: LANE, point: point(3), before: Seq(4) };
    assert_eq!(commands, [Command::Disconnect { fault }]);
}

#[test]
fn of_lanes_that_have_had_the_same_the_higher_goes_first_and_one_of_another_channel_never() {
    let (mut engine, _) = streaming(9, 4);
    engine.handle(0, 0, Event::HeadMoved { lane: Lane::Bulk, durable: Seq(7) });
    engine.handle(0, 0, Event::HeadMoved { lane: Lane::High, durable: Seq(2) });
    engine.handle(0, 0, Event::HeadMoved { lane: Lane::Sync, durable: Seq(2) });
    let read = Event::SegmentRead { lane: LANE, first: Seq(5), last: Seq(6), bytes: 10 };
    let commands = engine.handle(0, 0, read);
    assert_eq!(commands.last(), Some(&Command::ReadLane { lane: Lane::High, after: Seq::ZERO }));
}

#[test]
fn a_failed_read_rests_only_its_lane() {
    let (mut engine, _) = streaming(9, 4);
    engine.handle(0, 0, Event::HeadMoved { lane: Lane::Bulk, durable: Seq(7) });
    let commands = engine.handle(0, 0, Event::ReadFailed { lane: LANE });
    assert_eq!(commands, [Command::ReadLane { lane: Lane::Bulk, after: Seq::ZERO }]);
    engine.handle(0, 0, Event::ReadFailed { lane: Lane::Bulk });
    assert_eq!(engine.next_tick_ms(), Some(50));
    assert_eq!(engine.handle(50, 0, Event::Tick), [Command::ReadLane { lane: LANE, after: Seq(4) }]);
}

#[test]
fn a_lane_that_has_filled_its_window_takes_nothing_from_another() {
    let (mut engine, _) = streaming(99, 0);
    for seq in 1..=4 {
        engine.handle(0, 0, Event::SegmentRead { lane: LANE, first: Seq(seq), last: Seq(seq), bytes: 200 });
    }
    assert_eq!(engine.handle(0, 0, Event::Tick), [], "its window is full");
    let mut commands = engine.handle(0, 0, Event::HeadMoved { lane: Lane::Bulk, durable: Seq(9) });
    for seq in 1..=4 {
        let after = Seq(seq - 1);
        assert_eq!(commands.last(), Some(&Command::ReadLane { lane: Lane::Bulk, after }));
        let read = Event::SegmentRead { lane: Lane::Bulk, first: Seq(seq), last: Seq(seq), bytes: 200 };
        commands = engine.handle(0, 0, read);
    }
    assert_eq!(commands.len(), 1, "now this one is full, too: {commands:?}");
    let commands = engine.handle(0, 0, Event::Acked { lane: LANE, point: point(1) });
    assert_eq!(commands.last(), Some(&Command::ReadLane { lane: LANE, after: Seq(4) }));
}

#[test]
fn a_paused_lane_keeps_its_backlog_and_a_limited_one_goes_on_when_it_may() {
    let (mut engine, _) = streaming(0, 0);
    engine.set_open_at_ms([0, u64::MAX, 70, 0]);
    engine.handle(0, 0, Event::HeadMoved { lane: Lane::High, durable: Seq(5) });
    assert_eq!(engine.next_tick_ms(), None, "nobody knows when a pause ends");
    assert_eq!(engine.handle(0, 0, Event::HeadMoved { lane: LANE, durable: Seq(5) }), []);
    assert_eq!(engine.next_tick_ms(), Some(70));
    assert_eq!(engine.handle(70, 0, Event::Tick), [Command::ReadLane { lane: LANE, after: Seq(0) }]);
    engine.handle(70, 0, Event::SegmentRead { lane: LANE, first: Seq(1), last: Seq(5), bytes: 9 });
    engine.set_open_at_ms([0; 4]);
    assert_eq!(engine.handle(80, 0, Event::Tick), [Command::ReadLane { lane: Lane::High, after: Seq(0) }]);
}

#[test]
fn records_of_many_writers_gather_while_two_segments_are_under_way() {
    let lane = Lane::Sync;
    let mut engine = Engine::new(SETTINGS, &[Lane::Sync]);
    engine.handle(5, 0, Event::Tick);
    engine.handle(5, 0, connected(LanePoint::START, 0));
    let append =
        |engine: &mut Engine, now_ms, seq| engine.handle(now_ms, 0, Event::HeadMoved { lane, durable: Seq(seq) });
    let read = |seq| Event::SegmentRead { lane, first: Seq(seq), last: Seq(seq), bytes: 9 };
    for seq in 1..=2 {
        let commands = append(&mut engine, 5, seq);
        assert_eq!(commands, [Command::ReadLane { lane, after: Seq(seq - 1) }], "a lone writer never waits");
        engine.handle(5, 0, read(seq));
    }
    assert_eq!(append(&mut engine, 5, 4), []);
    assert_eq!(engine.next_tick_ms(), Some(6));
    let acked = engine.clone().handle(5, 0, Event::Acked { lane, point: point(1) });
    assert_eq!(acked.last(), Some(&Command::ReadLane { lane, after: Seq(2) }), "until an acknowledgement");
    assert_eq!(engine.clone().handle(6, 0, Event::Tick), [Command::ReadLane { lane, after: Seq(2) }], "or a moment");
    assert_eq!(append(&mut engine, 5, 12), [Command::ReadLane { lane, after: Seq(2) }], "or until there are many");
}

#[test]
fn a_lane_of_which_enough_is_queued_lets_others_be_read() {
    let (mut engine, _) = streaming(0, 0);
    engine.handle(0, 0, Event::HeadMoved { lane: LANE, durable: Seq(5) });
    engine.set_queued(LANE, SETTINGS.queue_bytes);
    engine.handle(0, 0, Event::ReadFailed { lane: LANE });
    engine.handle(100, 0, Event::HeadMoved { lane: Lane::Bulk, durable: Seq(5) });
    assert_eq!(engine.reading, Some((Lane::Bulk, Seq::ZERO)));
    assert_eq!(engine.next_tick_ms(), None);
}

proptest! {
    /// Each lane has more than enough, and the peer acknowledges at once: what is sent is shared by weight.
    #[test]
    fn backlogged_lanes_share_by_weight(bytes in proptest::collection::vec(1u64..=200, 10..600)) {
        let (mut engine, _) = streaming(0, 0);
        let mut commands = Vec::new();
        for lane in [Lane::Bulk, LANE, Lane::High] {
            commands.extend(engine.handle(0, 0, Event::HeadMoved { lane, durable: Seq(10_000) }));
        }
        let mut sent = [0u64; Lane::ALL.len()];
        for bytes in bytes {
            let Some(Command::ReadLane { lane, after }) = commands.last().copied() else { panic!("{commands:?}") };
            let first = after.next();
            engine.handle(0, 0, Event::SegmentRead { lane, first, last: first, bytes });
            commands = engine.handle(0, 0, Event::Acked { lane, point: point(first.0) });
            commands.push(Command::ReadLane { lane: engine.reading.expect("a read").0, after: engine.reading.expect("a read").1 });
            sent[lane as usize] += bytes;
            let share = |lane: Lane| sent[lane as usize] as f64 / f64::from(SETTINGS.weights[lane as usize]);
            let segment = |lane: Lane| 200.0 / f64::from(SETTINGS.weights[lane as usize]);
            for (a, b) in [(Lane::High, LANE), (Lane::High, Lane::Bulk), (LANE, Lane::Bulk)] {
                prop_assert!((share(a) - share(b)).abs() <= segment(a) + segment(b) + 1.0, "{sent:?}");
            }
        }
    }
}

#[test]
fn the_peers_window_counts_if_it_is_the_smaller() {
    let mut engine = Engine::new(SETTINGS, &[Lane::High, LANE, Lane::Bulk]);
    engine.handle(0, 0, Event::Tick);
    engine.handle(0, 0, Event::HeadMoved { lane: LANE, durable: Seq(9) });
    engine.handle(0, 0, Event::Connected(Box::new(Handshake { window_bytes: 300, ..handshake(point(0), 9) })));
    let commands = engine.handle(0, 0, Event::SegmentRead { lane: LANE, first: Seq(1), last: Seq(1), bytes: 200 });
    assert_eq!(commands, [Command::Send { lane: LANE, first: Seq(1), last: Seq(1) }]);
}
