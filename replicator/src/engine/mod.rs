//! What one peer is sent over one channel and when: a pure state machine, events in and commands out.
//!
//! ```text
//!             due, or Wake            Connected
//!   Waiting ───────────────▶ Dialing ───────────▶ Streaming
//!      ▲                      │ │ Lost                │ Lost, or a fault of the peer (Disconnect)
//!      ├──────────────────────┼─┴─────────────────────┘
//!      │   Lost, or no answer │ Connected, and no records lead on from where the peer is (TellToLevel)
//!      ├───────── Telling ◀───┤
//!      └──────────────────────┘ Connected, and the peer has what this site lost (Level), or it is of another copy (Disconnect)
//! ```
//!
//! How to go on with a peer is for [`LaneHistory::resume`](proto::history::LaneHistory::resume) to say. A peer that was told to level ends the
//! stream and takes this site's state; when this site has to level, it drops the connection and does so. Either way it dials again
//! afterwards as always. Two copies of one store ([`Fault::Diverged`]) are never resumed.
//!
//! While streaming, each lane goes round `ReadLane → SegmentRead → Send → Acked`; one read is under way at a time, for
//! the lane whose turn it is by its weight ([`shares`]) among those that have something to ship and may.
//!
//! Invariants, for each lane of one connection (`engine/tests.rs` checks them against drawn event sequences):
//! - what is sent follows without gap or repetition on the frontier that the peer named when it connected;
//! - `acknowledged ≤ sent ≤ durable`, and none of them falls;
//! - the bytes sent and not acknowledged of each lane stay within the window of both sites; one segment may always be under way. Each lane
//!   has a window of its own: a stopped lane that has filled it takes nothing from others, not from the one for whose records it waits either.
//!
//! Time (`now_ms`, any clock that does not run backwards) and jitter are arguments.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::history::{Histories, Resume};
use proto::ids::{Lane, LanePoint, Seq};

pub mod backoff;
mod messages;
pub mod outbox;
pub mod shares;
pub mod window;

use backoff::Backoff;
pub use messages::{Command, Divergence, Event, Fault, Handshake};
use shares::Shares;

/// The bounds that the machine keeps.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The most bytes of a lane sent and not acknowledged.
    pub window_bytes: u64,
    /// The most segments of a lane sent and not acknowledged.
    pub window_segments: usize,
    /// What a segment that is being read may come to, in bytes.
    pub max_segment_bytes: u64,
    /// How long a lane rests after a read that failed, in ms.
    pub read_retry_ms: u64,
    /// The sync lane's records gather into one segment while so many are under way: until an acknowledgement, for a millisecond at most, or until
    /// there are [`gather_records`](Self::gather_records). A lone writer never waits; many share the cost of a segment, however long the link.
    pub gather_segments: usize,
    /// So many records are not held back.
    pub gather_records: u64,
    /// How lanes share the link, by the lane's number.
    pub weights: [u32; Lane::ALL.len()],
    /// How many bytes of a lane wait to be sent before no more is read.
    pub queue_bytes: u64,
    /// How long a peer may take to hear that it must level, in ms.
    pub answer_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window_bytes: 32 << 20,
            window_segments: 512,
            max_segment_bytes: 2 << 20,
            read_retry_ms: 1_000,
            gather_segments: 2,
            gather_records: 64,
            weights: [8, 8, 4, 1],
            queue_bytes: 1 << 20,
            answer_ms: 5_000,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting { until_ms: u64 },
    Dialing,
    Streaming { since_ms: u64 },
    Telling { until_ms: u64 },
}

#[derive(Clone, Default, Debug)]
struct LaneState {
    durable: Seq,
    sent: Seq,
    acknowledged: Seq,
    /// Last record and bytes of each segment that waits for its acknowledgement.
    in_flight: VecDeque<(Seq, u64)>,
    resting_until_ms: u64,
    in_flight_bytes: u64,
    /// What the connection has not taken yet.
    queued_bytes: u64,
    /// From when on it may be sent, by its limits.
    open_at_ms: u64,
    last_send_ms: u64,
}

impl LaneState {
    /// After a failed read, or by its limits.
    fn waits_until_ms(&self) -> u64 {
        self.resting_until_ms.max(self.open_at_ms)
    }

    fn gathers(&self, lane: Lane, settings: &Settings, now_ms: u64) -> bool {
        lane == Lane::Sync
            && self.sent < self.durable
            && self.in_flight.len() >= settings.gather_segments
            && self.durable.0 - self.sent.0 < settings.gather_records
            && now_ms <= self.last_send_ms
    }

    fn has_room(&self, settings: &Settings, window_bytes: u64) -> bool {
        let bytes = self.in_flight_bytes + settings.max_segment_bytes;
        self.in_flight.is_empty() || (bytes <= window_bytes && self.in_flight.len() < settings.window_segments)
    }
}

/// The machine for one channel to one peer.
#[derive(Clone, Debug)]
pub struct Engine {
    settings: Settings,
    /// Of this connection.
    histories: Arc<Histories>,
    state: State,
    backoff: Backoff,
    /// The lanes of the channel.
    carried: &'static [Lane],
    /// By the lane's number.
    lanes: [LaneState; Lane::ALL.len()],
    shares: Shares,
    reading: Option<(Lane, Seq)>,
    /// Of this connection: the smaller of both sites'.
    window_bytes: u64,
    /// Two copies of this store were at work. That stays so.
    diverged: Option<Fault>,
    /// At the last event.
    now_ms: u64,
}

impl Engine {
    /// A machine for the lanes of a channel, that dials at the first tick.
    pub fn new(settings: Settings, carried: &'static [Lane]) -> Self {
        Self {
            settings,
            histories: Arc::default(),
            state: State::Waiting { until_ms: 0 },
            backoff: Backoff::default(),
            carried,
            lanes: Default::default(),
            shares: Shares::new(settings.weights),
            reading: None,
            window_bytes: settings.window_bytes,
            diverged: None,
            now_ms: 0,
        }
    }

    /// Takes an event. `jitter` spreads the moment of the next attempt: 0 for the earliest, 1000 for the latest.
    pub fn handle(&mut self, now_ms: u64, jitter: u32, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        self.now_ms = now_ms;
        match event {
            Event::Tick => {}
            Event::Wake => {
                if let State::Waiting { until_ms } = &mut self.state {
                    *until_ms = now_ms;
                }
            }
            Event::Connected(handshake) => self.connected(now_ms, jitter, *handshake, &mut commands),
            Event::Lost => self.lost(now_ms, jitter),
            Event::HeadMoved { lane, durable } if self.carried.contains(&lane) => {
                let lane = &mut self.lanes[lane as usize];
                lane.durable = lane.durable.max(durable);
            }
            Event::HeadMoved { .. } => {}
            Event::SegmentRead { lane, first, last, bytes } => {
                self.segment_read(lane, first, last, bytes, &mut commands);
            }
            Event::ReadFailed { lane } => {
                self.reading = None;
                self.lanes[lane as usize].resting_until_ms = now_ms + self.settings.read_retry_ms;
            }
            Event::Acked { lane, point } => self.acked(now_ms, jitter, lane, point, &mut commands),
        }
        self.go_on(now_ms, &mut commands);
        self.check();
        commands
    }

    /// When the next [`Event::Tick`] is needed, if nothing else happens before.
    pub fn next_tick_ms(&self) -> Option<u64> {
        match self.state {
            State::Waiting { until_ms } | State::Telling { until_ms } => Some(until_ms),
            State::Dialing => None,
            State::Streaming { .. } => {
                let behind = self.lanes.iter().filter(|lane| lane.sent < lane.durable);
                let gathers = self.lanes[Lane::Sync as usize].gathers(Lane::Sync, &self.settings, self.now_ms);
                let waits = behind.map(LaneState::waits_until_ms).chain(gathers.then_some(self.now_ms + 1));
                let waits = waits.filter(|until| (self.now_ms + 1..u64::MAX).contains(until));
                waits.min().filter(|_| self.reading.is_none())
            }
        }
    }

    /// The last record of a lane that was sent over this connection, or that the peer had before.
    pub fn sent(&self, lane: Lane) -> Seq {
        self.lanes[lane as usize].sent
    }

    /// Whether records are shipped.
    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming { .. })
    }

    /// Whether the last handshake showed that this site can't go on with the peer: it lost records, or is another copy.
    pub fn is_refused(&self) -> bool {
        !matches!(self.state, State::Streaming { .. } | State::Telling { .. })
    }

    /// Bytes of a lane sent and not acknowledged.
    pub fn in_flight_bytes(&self, lane: Lane) -> u64 {
        self.lanes[lane as usize].in_flight_bytes
    }

    /// How many bytes of a lane wait for the connection. Lanes that have enough are not read on; the next event reads those that have not.
    pub fn set_queued(&mut self, lane: Lane, bytes: u64) {
        self.lanes[lane as usize].queued_bytes = bytes;
    }

    /// From when on each lane may be sent, in ms; `u64::MAX` is a pause. The next event heeds it.
    pub fn set_open_at_ms(&mut self, open_at_ms: [u64; Lane::ALL.len()]) {
        for (lane, open_at_ms) in self.lanes.iter_mut().zip(open_at_ms) {
            lane.open_at_ms = open_at_ms;
        }
    }

    fn connected(&mut self, now_ms: u64, jitter: u32, handshake: Handshake, commands: &mut Vec<Command>) {
        if self.state != State::Dialing {
            return;
        }
        let Handshake { frontiers, histories, heads, oldest, diverged, window_bytes } = handshake;
        self.window_bytes = window_bytes.min(self.settings.window_bytes);
        self.diverged = self.diverged.or(diverged);
        if let Some(fault) = self.diverged {
            return self.fault(now_ms, jitter, fault, commands);
        }
        let mut starts = Vec::new();
        let (mut lost_tail, mut must_level) = (None, None);
        for lane in self.carried.iter().copied() {
            let (theirs, head) = (frontiers[lane as usize], heads[lane as usize]);
            let ours = histories[lane as usize].point(head);
            match histories[lane as usize].resume(theirs, head, oldest[lane as usize]) {
                Resume::After(start) => starts.push((lane, start)),
                Resume::LostTail => lost_tail = Some(Fault::LostTail { lane, theirs, ours }),
                Resume::Level => must_level = Some(Fault::MustLevel { lane, theirs, ours }),
            }
        }
        self.histories = histories;
        if let Some(fault) = lost_tail {
            // What the peer lacks comes after: both may lack something of the other.
            commands.extend([Command::Level, Command::Disconnect { fault }]);
            return self.lost(now_ms, jitter);
        }
        if let Some(fault) = must_level {
            commands.push(Command::TellToLevel { fault });
            self.state = State::Telling { until_ms: now_ms + self.settings.answer_ms };
            return;
        }
        self.state = State::Streaming { since_ms: now_ms };
        for (lane, start) in starts {
            let state = &mut self.lanes[lane as usize];
            state.sent = start.seq;
            state.acknowledged = start.seq;
            state.durable = state.durable.max(start.seq);
            state.resting_until_ms = 0;
            commands.push(Command::SetAcknowledged { lane, point: start });
        }
    }

    fn lost(&mut self, now_ms: u64, jitter: u32) {
        let delay_ms = match self.state {
            State::Waiting { .. } => return,
            State::Dialing | State::Telling { .. } => self.backoff.next_ms(jitter),
            State::Streaming { since_ms } => {
                self.backoff.held(now_ms.saturating_sub(since_ms));
                self.backoff.next_ms(jitter)
            }
        };
        self.state = State::Waiting { until_ms: now_ms + delay_ms };
        self.reading = None;
        for lane in &mut self.lanes {
            lane.in_flight.clear();
            lane.in_flight_bytes = 0;
            lane.queued_bytes = 0;
        }
    }

    fn fault(&mut self, now_ms: u64, jitter: u32, fault: Fault, commands: &mut Vec<Command>) {
        commands.push(Command::Disconnect { fault });
        self.backoff.at_most();
        self.lost(now_ms, jitter);
    }

    fn segment_read(&mut self, lane: Lane, first: Seq, last: Seq, bytes: u64, commands: &mut Vec<Command>) {
        let State::Streaming { .. } = self.state else { return };
        let state = &mut self.lanes[lane as usize];
        // A segment that was read for an earlier connection does not fit and is dropped.
        if self.reading != Some((lane, state.sent)) || first != state.sent.next() || last < first {
            return;
        }
        self.reading = None;
        state.sent = last;
        state.durable = state.durable.max(last);
        state.in_flight.push_back((last, bytes));
        state.last_send_ms = self.now_ms;
        state.in_flight_bytes += bytes;
        state.queued_bytes += bytes;
        self.shares.charge(lane, bytes);
        commands.push(Command::Send { lane, first, last });
    }

    fn acked(&mut self, now_ms: u64, jitter: u32, lane: Lane, point: LanePoint, commands: &mut Vec<Command>) {
        let State::Streaming { .. } = self.state else { return };
        let state = &mut self.lanes[lane as usize];
        let made = self.histories[lane as usize].incarnation_of(point.seq);
        if point.seq > state.sent || (point.seq > state.acknowledged && made != Some(point.incarnation)) {
            let fault = Fault::AckBeyondSent { lane, point, sent: state.sent };
            return self.fault(now_ms, jitter, fault, commands);
        }
        if point.seq < state.acknowledged {
            let fault = Fault::AckBackwards { lane, point, before: state.acknowledged };
            return self.fault(now_ms, jitter, fault, commands);
        }
        while let Some((last, bytes)) = state.in_flight.front().copied() {
            if last > point.seq {
                break;
            }
            state.in_flight.pop_front();
            state.in_flight_bytes -= bytes;
        }
        if point.seq > state.acknowledged {
            state.acknowledged = point.seq;
            self.backoff.progressed();
        }
        commands.push(Command::SetAcknowledged { lane, point });
    }

    /// Whatever the event was: dial if it is time, read if there is something to ship and room for it.
    fn go_on(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        match self.state {
            State::Waiting { until_ms } if until_ms <= now_ms => {
                self.state = State::Dialing;
                commands.push(Command::Dial);
            }
            State::Telling { until_ms } if until_ms <= now_ms => {
                commands.push(Command::Disconnect { fault: Fault::NoAnswer });
                self.lost(now_ms, 0);
            }
            State::Streaming { .. } if self.reading.is_none() => {
                let (settings, window_bytes) = (self.settings, self.window_bytes);
                let ready = |lane: Lane| {
                    let state = &self.lanes[lane as usize];
                    state.sent < state.durable
                        && state.waits_until_ms() <= now_ms
                        && !state.gathers(lane, &settings, now_ms)
                        && state.queued_bytes < settings.queue_bytes
                        && state.has_room(&settings, window_bytes)
                };
                if let Some(lane) = self.shares.next(ready) {
                    let after = self.lanes[lane as usize].sent;
                    self.reading = Some((lane, after));
                    commands.push(Command::ReadLane { lane, after });
                }
            }
            _ => {}
        }
    }

    fn check(&self) {
        for lane in &self.lanes {
            let in_flight: u64 = lane.in_flight.iter().map(|(_, bytes)| bytes).sum();
            debug_assert_eq!(lane.in_flight_bytes, in_flight);
        }
        if let State::Streaming { .. } = self.state {
            for lane in &self.lanes {
                debug_assert!(lane.acknowledged <= lane.sent && lane.sent <= lane.durable, "{lane:?}");
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
