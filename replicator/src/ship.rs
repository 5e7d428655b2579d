//! Ships this site's lanes to one peer over one channel: does what the peer's [`engine`](crate::engine) says.
//!
//! One task for each peer and channel, so that a slow peer never slows another. What is sent and not acknowledged is bounded by the
//! engine's window, and so is the queue to the connection.
//!
//! The sync lane's way is short, since writers wait: the task is woken by the append itself, reads, seals and sends without giving the work to
//! another thread, and tells the store of an acknowledgement before anything else. Records that are appended while a segment is read or sent
//! make up the next one; several are under way at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fs::ship::{Copies, LaneHead};
use proto::grpc::{self, ShipFrame, ack_frame, ship_frame};
use proto::ids::{Lane, Seq, SiteId};
use proto::segment::MAX_SEALED_BYTES;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::channel::Channel;
use crate::clock;
use crate::dial::{ShipError, Welcomed, dial};
use crate::engine::outbox::Outbox;
use crate::engine::window::{Beyond, SyncUse, Window};
use crate::engine::{Command, Engine, Event, Fault, Settings};
use crate::frames;
use crate::frontiers::Head;
use crate::hello;
use crate::hub::{Hub, LANES, Place};
use crate::level::told::Told;
use crate::limits::pacer::NEVER;
use crate::progress::Stages;
use crate::segments::{Sealed, SegmentError};
use crate::store::Store;
use crate::transport::client::ShipLink;
use crate::transport::{Frames, LinkError};

/// What a record counts as, in the work that reading it is.
const RECORD_BYTES: u64 = 4 << 10;
/// For how long after its last record the sync lane counts as in use.
const SYNC_IN_USE_MS: u64 = 5_000;
/// For how long after that it may soon be again.
const SYNC_LATELY_MS: u64 = 600_000;

/// An open connection, what it has been told, and what waits for it.
struct Connection {
    link: ShipLink,
    members_told: u64,
    stable_told: [Seq; LANES],
    /// Up to where it gets the bytes of copies.
    whole: [Seq; LANES],
    /// Something could not be queued: told again at the next heartbeat.
    next_heartbeat: Instant,
    /// Segments that it has not taken yet.
    outbox: Outbox,
    /// How much it takes; the sync lane's is not held back.
    window: Option<Window>,
    /// When a limit lets the next piece pass.
    open_at: Option<Instant>,
}

type Dialing = Pin<Box<dyn Future<Output = Result<Welcomed, ShipError>> + Send>>;
type Reading = Pin<Box<dyn Future<Output = (Lane, Result<Option<Sealed>, SegmentError>)> + Send>>;

struct Shipper<S> {
    hub: Arc<Hub<S>>,
    peer: SiteId,
    channel: Channel,
    name: String,
    engine: Engine,
    dialing: Option<Dialing>,
    reading: Option<Reading>,
    connection: Option<Connection>,
    /// Read and not sent yet.
    segment: Option<Sealed>,
    /// Up to where the sync lane has been seen.
    sync_head: Seq,
    /// Where the peer's lanes stood at the acknowledgement that is being handled.
    peer_heads: Vec<Head>,
    /// What the peer last told of this site's lanes.
    told: Option<Arc<Told>>,
    /// It was dialled again at its word, and has acknowledged nothing since: next time it has to wait as others do.
    dialled_again: bool,
}

/// Runs until the replicator shuts down.
pub async fn run<S: Store>(hub: Arc<Hub<S>>, peer: SiteId, channel: Channel) {
    let settings =
        Settings { window_bytes: hub.config.window_bytes, weights: hub.config.weights, ..Settings::default() };
    let engine = Engine::new(settings, channel.lanes());
    let name = hub.name_of(peer);
    let shipper = Shipper {
        hub,
        peer,
        channel,
        name,
        engine,
        dialing: None,
        reading: None,
        connection: None,
        segment: None,
        sync_head: Seq::ZERO,
        peer_heads: Vec::new(),
        told: None,
        dialled_again: false,
    };
    shipper.run().await;
}

/// What the task woke up for.
enum Woken {
    Stop,
    Time,
    Peer,
    Dialed(Box<Result<Welcomed, ShipError>>),
    Read(Lane, Result<Option<Sealed>, SegmentError>),
    Frame(Result<Option<grpc::AckFrame>, LinkError>),
    Incarnation,
    Heads,
    Appended,
    News,
}

impl<S: Store> Shipper<S> {
    async fn run(mut self) {
        let mut heads = self.hub.heads.subscribe();
        let mut stable = self.hub.stable.subscribe();
        let mut members = self.hub.members_changed.subscribe();
        let mut stop = self.hub.stop.subscribe();
        let mut limits = self.hub.limits_changed.subscribe();
        let mut progress = self.hub.progress.subscribe();
        let mut histories = self.hub.histories.subscribe();
        let is_sync = self.channel == Channel::Sync;
        let wake = self.hub.state().peers.entry(self.peer).or_default().streams[self.channel as usize].wake.clone();
        self.show_heads(&mut heads);
        self.feed(Event::Tick);
        loop {
            let tick = self.until_tick();
            let connection = &mut self.connection;
            let woken = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Woken::Stop,
                Ok(()) = histories.changed() => Woken::Incarnation,
                result = pending_or(&mut self.dialing) => Woken::Dialed(Box::new(result)),
                frame = next_frame(connection.as_mut().map(|connection| &mut connection.link.acks)) => Woken::Frame(frame),
                (lane, result) = pending_or(&mut self.reading) => Woken::Read(lane, result),
                Ok(()) = progress.changed(), if is_sync => Woken::Appended,
                Ok(()) = heads.changed(), if !is_sync => Woken::Heads,
                Ok(()) = stable.changed() => Woken::News,
                Ok(()) = members.changed() => Woken::News,
                Ok(()) = limits.changed() => Woken::Time,
                () = wake.notified() => Woken::Peer,
                () = sleep(tick) => Woken::Time,
            };
            match woken {
                Woken::Stop => break,
                Woken::Time => self.feed(Event::Tick),
                Woken::Peer => self.feed(Event::Wake),
                Woken::Incarnation => {
                    // The peer has to know where the next records belong.
                    if self.dialing.is_some() || self.connection.is_some() {
                        self.lost(&ShipError::Incarnation);
                    }
                    self.feed(Event::Wake);
                }
                Woken::Heads => self.show_heads(&mut heads),
                Woken::Appended => self.show_appended(),
                Woken::News => {}
                Woken::Dialed(result) => {
                    self.dialing = None;
                    match *result {
                        Ok(welcomed) => self.welcomed(welcomed, &mut heads),
                        Err(error) => self.lost(&error),
                    }
                }
                Woken::Read(lane, result) => {
                    self.reading = None;
                    self.read(lane, result);
                }
                Woken::Frame(frame) => {
                    if let Err(error) = self.frame(frame).await {
                        self.lost(&error);
                        if matches!(error, ShipError::Again(_)) && !std::mem::replace(&mut self.dialled_again, true) {
                            self.feed(Event::Wake);
                        }
                    }
                }
            }
            self.send_pieces();
            self.tell_news();
        }
        self.disconnected();
    }

    fn until_tick(&self) -> Duration {
        let engine = self.engine.next_tick_ms().map(|at| Duration::from_millis(at.saturating_sub(clock::steady_ms())));
        let heartbeat = self.connection.as_ref().map(|connection| connection.next_heartbeat - Instant::now());
        let far = Duration::from_secs(3600);
        let open = self.connection.as_ref().and_then(|connection| connection.open_at).map(|at| at - Instant::now());
        engine.unwrap_or(far).min(heartbeat.unwrap_or(far)).min(open.unwrap_or(far))
    }

    fn show_heads(&mut self, heads: &mut watch::Receiver<[LaneHead; LANES]>) {
        let heads = *heads.borrow_and_update();
        for lane in self.channel.lanes().iter().copied() {
            self.feed(Event::HeadMoved { lane, durable: heads[lane as usize].shippable(lane) });
        }
    }

    /// What was just appended to the sync lane, without the detour of the watcher.
    fn show_appended(&mut self) {
        let lane = Lane::Sync;
        let head = self.hub.store.lane_head(lane);
        self.sync_head = head.appended;
        self.feed(Event::HeadMoved { lane, durable: head.shippable(lane) });
    }

    /// Hands an event to the engine and does what it says.
    fn feed(&mut self, event: Event) {
        self.engine.set_open_at_ms(self.hub.open_at_ms(self.peer));
        let commands = self.engine.handle(clock::steady_ms(), clock::jitter(), event);
        for command in commands {
            match command {
                Command::Dial => self.dialing = Some(Box::pin(dial(self.hub.clone(), self.peer, self.channel))),
                Command::ReadLane { lane, after } => {
                    let hub = self.hub.clone();
                    let channel = self.channel;
                    let whole =
                        self.connection.as_ref().is_some_and(|connection| after < connection.whole[lane as usize]);
                    let copies = if whole { Copies::ByValue } else { Copies::ByReference };
                    let read = move |hub: &Hub<S>| hub.segments.after(lane, after, copies);
                    // A short tail is read from memory.
                    let tail = self.sync_head.0.saturating_sub(after.0) * RECORD_BYTES;
                    let read = async move { (lane, hub.calling(Place::of(channel, tail), read).await) };
                    self.reading = Some(Box::pin(read));
                }
                Command::Send { lane, last, .. } => self.send_segment(lane, last),
                Command::SetAcknowledged { lane, point } => {
                    self.check_stages(lane, point.seq);
                    self.hub.acknowledge(self.peer, lane, point, &self.peer_heads);
                }
                Command::Level => self.hub.level.ask(self.peer, self.told.clone()),
                Command::TellToLevel { fault } => {
                    let needed = grpc::LevelNeeded { reason: fault.to_string() };
                    let frame = ShipFrame { frame: Some(ship_frame::Frame::LevelNeeded(needed)) };
                    tracing::warn!(peer = self.name, channel = self.channel.name(), "{fault}");
                    if let Some(connection) = &self.connection {
                        // If it is not taken, the peer does not answer, and is told again.
                        let _ = connection.link.frames.try_send(frame);
                    }
                }
                Command::Disconnect { fault } => {
                    if matches!(fault, Fault::Diverged { .. }) {
                        self.hub.store.stop_writing(&fault.to_string());
                    }
                    self.drop_connection(&fault.into());
                }
            }
        }
    }

    /// In a connection that the engine lets stand, each stage follows on the one before.
    fn check_stages(&self, lane: Lane, acknowledged: Seq) {
        if cfg!(debug_assertions) {
            let shipped = self.engine.sent(lane);
            let head = self.hub.heads.borrow()[lane as usize];
            // The journal is read without the watcher, which may be behind.
            let (durable, appended) = (head.durable.max(shipped), head.appended.max(shipped));
            let watermark = self.hub.state().watermark[lane as usize].min(acknowledged);
            let stages = Stages { appended, durable, shipped, acknowledged, watermark };
            assert!(stages.in_order(), "{}: {stages:?}", self.name);
        }
    }

    fn welcomed(&mut self, welcomed: Welcomed, heads: &mut watch::Receiver<[LaneHead; LANES]>) {
        let Welcomed { link, handshake, whole, told, heads: peer_heads, members_told } = welcomed;
        let (frontiers, window_bytes) = (handshake.frontiers, handshake.window_bytes);
        let next_heartbeat = Instant::now() + self.hub.config.heartbeat;
        let outbox = Outbox::new(self.hub.config.weights);
        let window = (self.channel == Channel::Async).then(|| Window::new(window_bytes));
        let stable_told = [Seq::ZERO; LANES];
        let open_at = None;
        let connection = Connection { link, members_told, stable_told, whole, next_heartbeat, outbox, window, open_at };
        self.connection = Some(connection);
        self.name = self.hub.name_of(self.peer);
        self.hub.peer(self.peer, |progress| {
            progress.streams[self.channel as usize].connected_since_ms = Some(clock::wall_ms());
            for lane in self.channel.lanes().iter().map(|lane| *lane as usize) {
                progress.shipped[lane] = frontiers[lane].seq;
                progress.stopped[lane] = None;
            }
        });
        (self.peer_heads, self.told) = (peer_heads, Some(told));
        self.show_heads(heads);
        self.feed(Event::Connected(Box::new(handshake)));
        if self.engine.is_refused() {
            return;
        }
        self.hub.peer(self.peer, |progress| progress.streams[self.channel as usize].met = true);
        self.hub.met.send_modify(|version| *version += 1);
        if self.engine.is_streaming() && self.connection.is_some() {
            // The frontiers count as acknowledgements, and are told by now.
            if self.channel == Channel::Sync {
                self.hub.store.peer_connected(self.peer, true);
            }
            tracing::info!(peer = self.name, channel = self.channel.name(), "connected");
        }
    }

    fn lost(&mut self, error: &ShipError) {
        self.drop_connection(error);
        self.feed(Event::Lost);
    }

    /// Says so at once to whoever waits for the peer.
    fn disconnected(&mut self) {
        if self.channel == Channel::Sync {
            self.hub.store.peer_connected(self.peer, false);
        }
        let channel = self.channel as usize;
        self.hub.peer(self.peer, |progress| progress.streams[channel].connected_since_ms = None);
    }

    fn drop_connection(&mut self, error: &ShipError) {
        self.dialing = None;
        self.reading = None;
        self.segment = None;
        let was_connected = self.connection.take().is_some();
        self.disconnected();
        let text = error.to_string();
        let known = {
            let mut state = self.hub.state();
            let progress = &mut state.peers.entry(self.peer).or_default().streams[self.channel as usize];
            let known = progress.last_error.replace((clock::wall_ms(), text.clone()));
            known.is_some_and(|(_, known)| known == text)
        };
        self.hub.met.send_modify(|version| *version += 1);
        let channel = self.channel.name();
        // The same reason again, attempt after attempt, is said once.
        match error {
            _ if known && !was_connected => tracing::debug!(peer = self.name, channel, "not connected: {text}"),
            ShipError::Fault(_) | ShipError::Members(_) => {
                tracing::error!(peer = self.name, channel, "nothing is shipped: {text}")
            }
            ShipError::Incarnation | ShipError::Again(_) => {
                tracing::info!(peer = self.name, channel, "dialling again: {text}")
            }
            _ => tracing::warn!(peer = self.name, channel, "not connected: {text}"),
        }
    }

    fn read(&mut self, lane: Lane, result: Result<Option<Sealed>, SegmentError>) {
        match result {
            Ok(Some(sealed)) => {
                let (first, last, bytes) = (sealed.first, sealed.last, sealed.bytes.len() as u64);
                self.segment = Some(sealed);
                self.feed(Event::SegmentRead { lane, first, last, bytes });
                self.segment = None;
            }
            Ok(None) => self.feed(Event::ReadFailed { lane }),
            Err(error) => {
                let text = format!("this site can't ship lane {lane} from here on: {error}");
                let mut known = None;
                let stopped = Some(text.clone());
                self.hub.peer(self.peer, |progress| {
                    known = std::mem::replace(&mut progress.stopped[lane as usize], stopped);
                });
                // It is tried again every second, and said once.
                if known.as_ref() != Some(&text) {
                    tracing::error!(peer = self.name, "{text}");
                }
                self.feed(Event::ReadFailed { lane });
            }
        }
    }

    fn send_segment(&mut self, lane: Lane, last: Seq) {
        let (Some(connection), Some(sealed)) = (&mut self.connection, self.segment.take()) else { return };
        connection.outbox.push(lane, sealed.bytes);
        self.hub.peer(self.peer, |progress| {
            let shipped = &mut progress.shipped[lane as usize];
            *shipped = last.max(*shipped);
        });
    }

    /// Hands to the connection what window and limits let pass, and lets the engine go on where that makes room.
    fn send_pieces(&mut self) {
        while let Some(connection) = &mut self.connection {
            let (now_ms, open_at_ms) = (clock::steady_ms(), self.hub.open_at_ms(self.peer));
            let waits = |lane: &Lane| connection.outbox.queued_bytes(*lane) > 0;
            let waiting = self.channel.lanes().iter().copied().filter(waits).map(|lane| open_at_ms[lane as usize]);
            let Some(first_ms) = waiting.min() else {
                connection.open_at = None;
                return;
            };
            let later = first_ms > now_ms && first_ms < NEVER;
            connection.open_at = later.then(|| Instant::now() + Duration::from_millis(first_ms - now_ms));
            let room = connection.window.as_mut().map_or(Some(MAX_SEALED_BYTES), Window::next_piece_bytes);
            let may = |lane: Lane| open_at_ms[lane as usize] <= now_ms;
            let Some(piece) = room.and_then(|bytes| connection.outbox.next(bytes, may)) else { return };
            let (lane, bytes) = (piece.lane, piece.bytes.len());
            let segment = grpc::Segment { sealed: piece.bytes, lane: u32::from(lane as u8), more: piece.more };
            let frame = ShipFrame { frame: Some(ship_frame::Frame::Segment(segment)) };
            let queued = connection.outbox.queued_bytes(lane);
            if let Some(window) = &mut connection.window {
                window.sent(clock::steady_us(), bytes);
            }
            // What was not taken must not count as sent: the connection ends.
            if connection.link.frames.try_send(frame).is_err() {
                self.lost(&ShipError::Stuck);
                return;
            }
            self.hub.charge(self.peer, lane, bytes as u64);
            if self.channel == Channel::Sync {
                self.hub.peer(self.peer, |progress| progress.sync_at_ms = now_ms);
            }
            self.engine.set_queued(lane, queued);
            if !piece.more {
                self.feed(Event::Tick);
            }
        }
    }

    /// The peer has so many bytes of segments in its hands.
    fn received(&mut self, total: u64) -> Result<(), ShipError> {
        let sync_at_ms = self.hub.state().peers.get(&self.peer).map_or(0, |progress| progress.sync_at_ms);
        let sync_use = match clock::steady_ms().saturating_sub(sync_at_ms) {
            _ if sync_at_ms == 0 => SyncUse::None,
            since_ms if since_ms < SYNC_IN_USE_MS => SyncUse::Now,
            since_ms if since_ms < SYNC_LATELY_MS => SyncUse::Lately,
            _ => SyncUse::None,
        };
        let connection = self.connection.as_mut().ok_or(ShipError::Closed)?;
        let window = connection.window.as_mut().ok_or(ShipError::Unexpected("a receipt for the sync lane"))?;
        let noted = window.received(clock::steady_us(), total, sync_use);
        noted.map_err(|Beyond| ShipError::Unexpected("a receipt for what it was not sent"))
    }

    /// Tells the peer of members and stable points that it has not been told of, and that this site is there.
    fn tell_news(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let queue = &connection.link.frames;
        let send = |frame| queue.try_send(ShipFrame { frame: Some(frame) }).is_ok();
        let (version, members, stable) = {
            let state = self.hub.state();
            let version = state.membership.version();
            let members = (version > connection.members_told).then(|| state.membership.all());
            (version, members, state.own_stable.clone())
        };
        if members.is_some_and(|members| send(ship_frame::Frame::Members(frames::put_members(&members)))) {
            connection.members_told = version;
        }
        for (lane, stable) in Lane::ALL.into_iter().zip(stable).filter(|(lane, _)| self.channel.lanes().contains(lane))
        {
            let told = &mut connection.stable_told[lane as usize];
            let Some(stable) = stable.filter(|stable| stable.point.seq > *told) else { continue };
            let point = Head { site: self.hub.local.site, lane, point: stable.point };
            let frame = grpc::Stable { point: Some(frames::put_head(point)), heads: frames::put_heads(&stable.heads) };
            if send(ship_frame::Frame::Stable(frame)) {
                *told = stable.point.seq;
            }
        }
        if Instant::now() >= connection.next_heartbeat {
            connection.next_heartbeat = Instant::now() + self.hub.config.heartbeat;
            let heads = hello::own_heads(&self.hub);
            let clock = hello::clock_reading();
            let _ = send(ship_frame::Frame::Heartbeat(grpc::Heartbeat { clock, heads }));
        }
    }

    async fn frame(&mut self, frame: Result<Option<grpc::AckFrame>, LinkError>) -> Result<(), ShipError> {
        match frame?.ok_or(ShipError::Closed)?.frame {
            Some(ack_frame::Frame::Ack(ack)) => {
                let head = self.own_position(ack.point.as_ref())?;
                self.peer_heads = frames::heads_of(self.peer, &ack.heads)?;
                let before = self.engine.in_flight_bytes(head.lane);
                self.feed(Event::Acked { lane: head.lane, point: head.point });
                let bytes = before.saturating_sub(self.engine.in_flight_bytes(head.lane));
                self.dialled_again &= bytes == 0;
                if self.connection.is_some() {
                    self.hub
                        .peer(self.peer, |progress| progress.rate[head.lane as usize].add(clock::steady_ms(), bytes));
                }
                Ok(())
            }
            Some(ack_frame::Frame::Received(received)) => self.received(received.bytes),
            Some(ack_frame::Frame::Stopped(stopped)) => {
                let head = self.own_position(stopped.point.as_ref())?;
                let reason: String = stopped.reason.chars().take(500).collect();
                tracing::warn!(peer = self.name, lane = head.lane.name(), after = %head.point, "the peer waits: {reason}");
                self.hub.peer(self.peer, |progress| progress.stopped[head.lane as usize] = Some(reason));
                Ok(())
            }
            Some(ack_frame::Frame::Members(members)) => {
                // Before the next frame is looked at: a later acknowledgement must not count without the new member.
                Ok(self.hub.learn(&frames::members(Some(&members))?, Some(self.peer)).await?)
            }
            Some(ack_frame::Frame::Refused(grpc::Refused { reason, again })) => {
                Err(if again { ShipError::Again(reason) } else { ShipError::Refused(reason) })
            }
            Some(ack_frame::Frame::Welcome(_)) => Err(ShipError::Unexpected("a second welcome")),
            None => Err(ShipError::Unexpected("a frame that this version does not know")),
        }
    }

    fn own_position(&self, head: Option<&grpc::Head>) -> Result<Head, ShipError> {
        let head = frames::required_head(head)?;
        if head.site != self.hub.local.site {
            Err(ShipError::Unexpected("another site's position"))
        } else if Channel::of(head.lane) != self.channel {
            Err(ShipError::Unexpected("a position of a lane that the stream does not carry"))
        } else {
            Ok(head)
        }
    }
}

async fn pending_or<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn next_frame(frames: Option<&mut Frames<grpc::AckFrame>>) -> Result<Option<grpc::AckFrame>, LinkError> {
    match frames {
        Some(frames) => frames.next().await,
        None => std::future::pending().await,
    }
}
