//! What one peer is sent and when: a pure state machine, events in and commands out.
//!
//! ```text
//!             due, or Wake            Connected
//!   Waiting ───────────────▶ Dialing ───────────▶ Streaming
//!      ▲                        │ Lost                │ Lost, or a fault of the peer (Disconnect)
//!      └────────────────────────┴─────────────────────┘
//! ```
//!
//! While streaming, each lane goes round `ReadLane → SegmentRead → Send → Acked`; one read is under way at a time, for
//! the first lane (in the order of [`Lane::ALL`]) that has something to ship.
//!
//! Invariants, for each lane of one connection (`engine/tests.rs` checks them against drawn event sequences):
//! - what is sent follows without gap or repetition on the frontier that the peer named when it connected;
//! - `acknowledged ≤ sent ≤ durable`, and none of them falls;
//! - the bytes sent and not acknowledged, over all lanes, stay within the window of both sites. Beside that, each lane may always have
//!   one segment under way: a stopped lane that has filled the window can't keep the lane waiting for whose records it waits.
//!
//! Time (`now_ms`, any clock that does not run backwards) and jitter are arguments.

use std::collections::VecDeque;

use proto::ids::{Incarnation, Lane, LanePoint, Seq};

pub mod backoff;
mod messages;

use backoff::Backoff;
pub use messages::{Command, Event, Fault};

/// The bounds that the machine keeps.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The most bytes sent and not acknowledged.
    pub window_bytes: u64,
    /// The most segments sent and not acknowledged.
    pub window_segments: usize,
    /// What a segment that is being read may come to, in bytes.
    pub max_segment_bytes: u64,
    /// How long a lane rests after a read that failed, in ms.
    pub read_retry_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { window_bytes: 32 << 20, window_segments: 512, max_segment_bytes: 2 << 20, read_retry_ms: 1_000 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting { until_ms: u64 },
    Dialing,
    Streaming { since_ms: u64 },
}

#[derive(Default, Debug)]
struct LaneState {
    durable: Seq,
    sent: Seq,
    acknowledged: Seq,
    /// Last record and bytes of each segment that waits for its acknowledgement.
    in_flight: VecDeque<(Seq, u64)>,
    resting_until_ms: u64,
}

/// The machine for one peer.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    incarnation: Incarnation,
    state: State,
    backoff: Backoff,
    lanes: [LaneState; Lane::ALL.len()],
    reading: Option<(Lane, Seq)>,
    /// Of this connection: the smaller of both sites'.
    window_bytes: u64,
    in_flight_bytes: u64,
    in_flight_segments: usize,
    /// The peer has records of this site that this site lacks. That stays so, though the lane may grow past them: its positions
    /// would be used twice.
    lost_tail: Option<Fault>,
}

impl Engine {
    /// A machine that dials at the first tick.
    pub fn new(settings: Settings, incarnation: Incarnation) -> Self {
        Self {
            settings,
            incarnation,
            state: State::Waiting { until_ms: 0 },
            backoff: Backoff::default(),
            lanes: Default::default(),
            reading: None,
            window_bytes: settings.window_bytes,
            in_flight_bytes: 0,
            in_flight_segments: 0,
            lost_tail: None,
        }
    }

    /// Takes an event. `jitter` spreads the moment of the next attempt: 0 for the earliest, 1000 for the latest.
    pub fn handle(&mut self, now_ms: u64, jitter: u32, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Tick => {}
            Event::Wake => {
                if let State::Waiting { until_ms } = &mut self.state {
                    *until_ms = now_ms;
                }
            }
            Event::Connected { frontiers, window_bytes } => {
                self.window_bytes = window_bytes.min(self.settings.window_bytes);
                self.connected(now_ms, jitter, frontiers, &mut commands);
            }
            Event::Lost => self.lost(now_ms, jitter),
            Event::HeadMoved { lane, durable } => {
                let lane = &mut self.lanes[lane as usize];
                lane.durable = lane.durable.max(durable);
            }
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
            State::Waiting { until_ms } => Some(until_ms),
            State::Dialing => None,
            State::Streaming { .. } => {
                let resting = self.lanes.iter().filter(|lane| lane.sent < lane.durable && lane.resting_until_ms > 0);
                resting.map(|lane| lane.resting_until_ms).min().filter(|_| self.reading.is_none())
            }
        }
    }

    /// The last record of a lane that was sent over this connection, or that the peer had before.
    pub fn sent(&self, lane: Lane) -> Seq {
        self.lanes[lane as usize].sent
    }

    /// Bytes sent and not acknowledged.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    fn connected(&mut self, now_ms: u64, jitter: u32, frontiers: [LanePoint; 4], commands: &mut Vec<Command>) {
        if self.state != State::Dialing {
            return;
        }
        if let Some(fault) = self.lost_tail {
            return self.fault(now_ms, jitter, fault, commands);
        }
        for (lane, theirs) in Lane::ALL.into_iter().zip(frontiers) {
            let durable = self.lanes[lane as usize].durable;
            let ours = LanePoint { incarnation: self.incarnation, seq: durable };
            let fault = if theirs.seq == Seq::ZERO {
                continue;
            } else if theirs.incarnation > self.incarnation || theirs.seq > durable {
                Fault::LostTail { lane, theirs, ours }
            } else if theirs.incarnation != self.incarnation {
                Fault::OtherIncarnation { lane, theirs, ours: self.incarnation }
            } else {
                continue;
            };
            self.lost_tail = Some(fault).filter(|fault| matches!(fault, Fault::LostTail { .. }));
            return self.fault(now_ms, jitter, fault, commands);
        }
        self.state = State::Streaming { since_ms: now_ms };
        for (lane, frontier) in Lane::ALL.into_iter().zip(frontiers) {
            let state = &mut self.lanes[lane as usize];
            state.sent = frontier.seq;
            state.acknowledged = frontier.seq;
            state.resting_until_ms = 0;
            let point = LanePoint { incarnation: self.incarnation, seq: frontier.seq };
            commands.push(Command::SetAcknowledged { lane, point });
        }
    }

    fn lost(&mut self, now_ms: u64, jitter: u32) {
        let delay_ms = match self.state {
            State::Waiting { .. } => return,
            State::Dialing => self.backoff.next_ms(jitter),
            State::Streaming { since_ms } => {
                self.backoff.held(now_ms.saturating_sub(since_ms));
                self.backoff.next_ms(jitter)
            }
        };
        self.state = State::Waiting { until_ms: now_ms + delay_ms };
        self.reading = None;
        self.in_flight_bytes = 0;
        self.in_flight_segments = 0;
        for lane in &mut self.lanes {
            lane.in_flight.clear();
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
        self.in_flight_bytes += bytes;
        self.in_flight_segments += 1;
        commands.push(Command::Send { lane, first, last });
    }

    fn acked(&mut self, now_ms: u64, jitter: u32, lane: Lane, point: LanePoint, commands: &mut Vec<Command>) {
        let State::Streaming { .. } = self.state else { return };
        let state = &mut self.lanes[lane as usize];
        if point.seq > state.sent || point.incarnation != self.incarnation {
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
            self.in_flight_bytes -= bytes;
            self.in_flight_segments -= 1;
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
            State::Streaming { .. } if self.reading.is_none() => {
                let ready = |lane: &Lane| {
                    let state = &self.lanes[*lane as usize];
                    state.sent < state.durable && state.resting_until_ms <= now_ms && self.has_room(state)
                };
                if let Some(lane) = Lane::ALL.into_iter().find(ready) {
                    let after = self.lanes[lane as usize].sent;
                    self.reading = Some((lane, after));
                    commands.push(Command::ReadLane { lane, after });
                }
            }
            _ => {}
        }
    }

    fn has_room(&self, lane: &LaneState) -> bool {
        let bytes = self.in_flight_bytes + self.settings.max_segment_bytes;
        lane.in_flight.is_empty()
            || (bytes <= self.window_bytes && self.in_flight_segments < self.settings.window_segments)
    }

    fn check(&self) {
        debug_assert_eq!(
            self.in_flight_bytes,
            self.lanes.iter().flat_map(|lane| &lane.in_flight).map(|(_, bytes)| bytes).sum::<u64>()
        );
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
