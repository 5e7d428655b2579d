//! Takes one origin's stream in: greets, checks order, opens segments, hands them to the lanes' workers.
//!
//! ```text
//!          order checked           a few at a time           replay               wait_durable
//!   frames ──────────────▶ opener ──────────────────▶ worker ────────▶ acknowledger ────────────▶ Ack
//!             a queue for each lane
//! ```
//!
//! Each stage runs while the others do; [`replay`](crate::replay) has those after the queue. The queue of a lane has room for
//! all that the origin may send without an acknowledgement, so a lane that is stopped doesn't hold up the others; an origin that
//! sends more waits. At most one stream of a channel of an origin is past its greeting: a newer one ends it and starts when everything that it
//! had replayed is durable, so that the frontier in the welcome is as good as an acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fs::error::FsError;
use fs::peers::Frontier;
use proto::grpc::{self, AckFrame, ShipFrame, ack_frame, ship_frame};
use proto::history::Histories;
use proto::hlc::{Drift, Hlc};
use proto::ids::{Incarnation, Lane, LanePoint, Seq, SiteId};
use proto::segment::{Header, MAX_SEALED_BYTES, OpenError};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::channel::Channel;
use crate::clock;
use crate::frames::{self, FrameError};
use crate::frontiers::Head;
use crate::hello::{self, HelloError, SOFTWARE_VERSION};
use crate::hub::{Hub, LANES, LearnError, Turn};
use crate::replay::{self, Arrived, Ended};
use crate::store::Store;
use crate::transport::{Frames, LinkError};

/// Frames to the origin that wait to be sent.
pub const ACK_FRAMES: usize = 64;
/// How long a stream waits for the one before it to end.
const TURN_LIMIT: Duration = Duration::from_secs(8);
/// Queues are counted in these.
const PERMIT_BYTES: u64 = 1 << 10;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection broke.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Nothing came for too long.
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    /// The greeting was refused.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The members were refused.
    #[error("your members can't be taken in: {0}")]
    Members(#[from] LearnError),
    /// A newer stream took over, or the one before does not end.
    #[error("the connection before this one has not ended yet")]
    Busy,
    /// Earlier records can't be made durable.
    #[error("what was received before can't be made durable: {0}")]
    NotDurable(FsError),
    /// A frame that makes no sense here.
    #[error("you sent {0}")]
    Unexpected(&'static str),
    /// A frame that no site sends.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A segment that is not one.
    #[error("a segment is refused: {0}")]
    Open(#[from] OpenError),
    /// A segment of another site.
    #[error("a segment is refused: it is of site {site}, the stream is not")]
    OtherOrigin {
        /// The segment's origin.
        site: SiteId,
    },
    /// A segment of an incarnation that does not begin where the lane stands.
    #[error("a segment is refused: it is of incarnation {} of lane {lane}, which does not go on from {at}", incarnation.0)]
    Incarnation {
        /// The lane.
        lane: Lane,
        /// Where it stands.
        at: LanePoint,
        /// The segment's.
        incarnation: Incarnation,
    },
    /// What this site knows of the origin's incarnations can't be stored.
    #[error("the histories of your lanes can't be stored: {0}")]
    Histories(FsError),
    /// Records can't bring this site level.
    #[error("this site takes your state: {0}")]
    Level(String),
    /// A segment of a lane that another stream carries.
    #[error("a segment is refused: this stream does not carry lane number {number}")]
    OtherLane {
        /// The lane's number.
        number: u32,
    },
    /// A segment that does not follow on the one before.
    #[error("a segment is refused: it begins with record {found} of lane {lane}, {expected} comes next")]
    Order {
        /// The lane.
        lane: Lane,
        /// What comes next.
        expected: Seq,
        /// What came.
        found: Seq,
    },
    /// The origin's clock is too far ahead.
    #[error("your clock is wrong: {0}")]
    Clock(#[from] Drift),
    /// A record copies bytes that are others here.
    #[error("record {seq} of lane {lane} copies what is not the same here: it has to come with its bytes")]
    NeedsBytes {
        /// The lane.
        lane: Lane,
        /// The record.
        seq: Seq,
    },
    /// The store saw another order than this stream: it begins anew at the frontier.
    #[error("the replay ended: {0}")]
    Replay(String),
}

/// Serves one stream from the site that proved to be `origin`, until it ends.
pub async fn serve<S: Store>(
    hub: Arc<Hub<S>>,
    origin: SiteId,
    mut frames: Frames<ShipFrame>,
    acks: mpsc::Sender<AckFrame>,
) {
    let mut stop = hub.stop.subscribe();
    let greeted = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => return,
        greeted = greet(&hub, origin, &mut frames) => greeted,
    };
    // A stream that was refused before it said what it carries counts as the main one.
    let channel = greeted.as_ref().map_or(Channel::Async, |greeted| greeted.channel);
    let result = match greeted {
        Ok(greeted) => receive(&hub, origin, &mut frames, &acks, greeted).await,
        Err(error) => Err(error),
    };
    let Err(error) = result else { return };
    let text = error.to_string();
    let known = {
        let mut state = hub.state();
        let progress = &mut state.origins.entry(origin).or_default().streams[channel as usize];
        let known = progress.last_error.replace((clock::wall_ms(), text.clone()));
        known.is_some_and(|(_, known)| known == text)
    };
    let name = hub.name_of(origin);
    let again = matches!(error, ReceiveError::NeedsBytes { .. });
    match error {
        _ if known => tracing::debug!(origin = name, "the stream ended: {text}"),
        ReceiveError::Link(_) | ReceiveError::NeedsBytes { .. } => {
            tracing::info!(origin = name, "the stream ended: {text}")
        }
        _ => tracing::warn!(origin = name, "the stream was ended: {text}"),
    }
    let refused = AckFrame { frame: Some(ack_frame::Frame::Refused(grpc::Refused { reason: text, again })) };
    let _ = timeout(Duration::from_secs(1), acks.send(refused)).await;
}

struct Greeted {
    channel: Channel,
    turn: Turn,
    histories: Histories,
    /// The first frontiers, by lane.
    frontiers: [LanePoint; LANES],
    /// Up to where the records come with the bytes of copies.
    whole: [Seq; LANES],
    welcome: grpc::Welcome,
    members_told: u64,
}

async fn greet<S: Store>(
    hub: &Arc<Hub<S>>,
    origin: SiteId,
    frames: &mut Frames<ShipFrame>,
) -> Result<Greeted, ReceiveError> {
    let limit = hub.config.connect_limit;
    let first = timeout(limit, frames.next()).await.map_err(|_| ReceiveError::Silent(limit))??;
    let Some(ShipFrame { frame: Some(ship_frame::Frame::Hello(hello)) }) = first else {
        return Err(ReceiveError::Unexpected("something else than a greeting"));
    };
    let greeting = hello::check(hub, origin, &hello)?;
    let channel = greeting.channel;
    hub.learn(&greeting.members, Some(origin)).await?;
    let mut turn = hub.take_turn(origin, greeting.channel, TURN_LIMIT).await.ok_or(ReceiveError::Busy)?;
    if let Some(lsn) = *turn.undurable {
        let durable = hub.blocking(move |hub| hub.store.wait_durable(lsn)).await;
        durable.map_err(ReceiveError::NotDurable)?;
        *turn.undurable = None;
    }
    let histories = greeting.histories.clone();
    let known = hub.blocking(move |hub| note_histories(hub, origin, &histories)).await;
    let (known, clocks) = known.map_err(ReceiveError::Histories)?;
    // First the frontiers, then this site's heads: see `Welcome` in the protocol.
    let frontiers = Lane::ALL.map(|lane| hub.state().frontiers.get(origin, lane));
    hub.blocking(|hub| hub.refresh_heads()).await;
    let (members, members_told) = {
        let state = hub.state();
        (state.membership.all(), state.membership.version())
    };
    let whole = take_needed(hub, origin, channel, &frontiers, &greeting.heads);
    let place = |(lane, point)| frames::put_head(Head { site: origin, lane, point });
    let welcome = grpc::Welcome {
        protocol_version: grpc::PROTOCOL_VERSION,
        site: hub.local.site.0.into(),
        frontiers: channel.lanes().iter().map(|lane| place((*lane, frontiers[*lane as usize]))).collect(),
        members: Some(frames::put_members(&members)),
        heads: hello::own_heads(hub),
        software_version: SOFTWARE_VERSION.to_string(),
        window_bytes: hub.config.window_bytes,
        clocks: channel.lanes().iter().map(|lane| clock_at(&clocks, *lane, frontiers[*lane as usize])).collect(),
        histories: frames::put_histories(&known),
        whole: channel.lanes().iter().filter_map(|lane| whole_head(origin, *lane, &whole, &frontiers)).collect(),
    };
    note_heads(hub, origin, &greeting.heads);
    Ok(Greeted { channel, turn, histories: greeting.histories, frontiers, whole, welcome, members_told })
}

async fn receive<S: Store>(
    hub: &Arc<Hub<S>>,
    origin: SiteId,
    frames: &mut Frames<ShipFrame>,
    acks: &mpsc::Sender<AckFrame>,
    greeted: Greeted,
) -> Result<(), ReceiveError> {
    let Greeted { channel, turn, histories, frontiers, whole, welcome, members_told } = greeted;
    let Turn { undurable, mut replaced } = turn;
    let welcome = AckFrame { frame: Some(ack_frame::Frame::Welcome(welcome)) };
    if acks.send(welcome).await.is_err() {
        return Ok(());
    }
    hub.origin(origin, |progress| {
        progress.streams[channel as usize].connected_since_ms = Some(clock::wall_ms());
        channel.lanes().iter().for_each(|lane| progress.stopped[*lane as usize] = None);
    });
    // It is up: whatever this site's shipper to it waits for.
    hub.peer(origin, |progress| progress.streams[channel as usize].wake.notify_one());

    let closing = watch::Sender::new(false);
    let (outcomes, to_acknowledge) = mpsc::channel(ACK_FRAMES);
    let acknowledger = replay::Acknowledger {
        hub: hub.clone(),
        origin,
        channel,
        acks: acks.clone(),
        closing: closing.subscribe(),
        members_told,
        undurable,
    };
    let acknowledger = tokio::spawn(acknowledger.run(to_acknowledge));
    let mut workers = JoinSet::new();
    let mut lanes = Vec::new();
    for lane in channel.lanes().iter().copied() {
        let frontier = frontiers[lane as usize];
        let (queue, arrived) = mpsc::unbounded_channel();
        let (opened, batches) = mpsc::channel(replay::OPENED_SEGMENTS);
        let worker = replay::Worker {
            hub: hub.clone(),
            origin,
            lane,
            whole: whole[lane as usize],
            outcomes: outcomes.clone(),
            closing: closing.subscribe(),
        };
        workers.spawn(replay::open(hub.clone(), channel, arrived, opened, closing.subscribe()));
        workers.spawn(worker.run(batches));
        let room = Arc::new(Semaphore::new(permits(hub.config.window_bytes + MAX_SEALED_BYTES as u64) as usize));
        lanes.push(LaneQueue { lane, at: frontier, pieces: BytesMut::new(), queue, room });
    }
    drop(outcomes);
    let mut stream = Stream { hub, origin, channel, histories, lanes, acks, received_bytes: 0 };
    let mut stop = hub.stop.subscribe();
    let result = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        _ = replaced.changed() => Err(ReceiveError::Busy),
        Some(ended) = workers.join_next() => Err(match ended {
            Ok(Ended::Open(error)) => error.into(),
            Ok(Ended::NeedsBytes { lane, seq }) => ReceiveError::NeedsBytes { lane, seq },
            Ok(Ended::Replay(reason)) => ReceiveError::Replay(reason),
            Err(error) => ReceiveError::Replay(error.to_string()),
        }),
        result = stream.read(frames) => result,
    };
    drop(stream);
    closing.send_replace(true);
    while workers.join_next().await.is_some() {}
    // With it the turn ends.
    let ended = acknowledger.await;
    hub.origin(origin, |progress| progress.streams[channel as usize].connected_since_ms = None);
    ended.map_err(|error| ReceiveError::Replay(error.to_string()))?;
    result
}

struct LaneQueue {
    lane: Lane,
    /// Up to where it has arrived.
    at: LanePoint,
    /// The segment that is arriving.
    pieces: BytesMut,
    /// Bounded by `room`.
    queue: mpsc::UnboundedSender<Arrived>,
    room: Arc<Semaphore>,
}

struct Stream<'a, S> {
    hub: &'a Arc<Hub<S>>,
    origin: SiteId,
    channel: Channel,
    histories: Histories,
    lanes: Vec<LaneQueue>,
    acks: &'a mpsc::Sender<AckFrame>,
    received_bytes: u64,
}

impl<S: Store> Stream<'_, S> {
    async fn read(&mut self, frames: &mut Frames<ShipFrame>) -> Result<(), ReceiveError> {
        let limit = self.hub.config.silence_limit;
        loop {
            let frame = timeout(limit, frames.next()).await.map_err(|_| ReceiveError::Silent(limit))??;
            let Some(frame) = frame else { return Ok(()) };
            self.hub.origin(self.origin, |progress| progress.last_received_ms = Some(clock::wall_ms()));
            match frame.frame {
                Some(ship_frame::Frame::Segment(piece)) => self.piece(piece).await?,
                Some(ship_frame::Frame::Stable(stable)) => self.stable(&stable)?,
                Some(ship_frame::Frame::Heartbeat(heartbeat)) => {
                    self.hub.check_clock(Hlc(heartbeat.clock))?;
                    note_heads(self.hub, self.origin, &frames::heads_of(self.origin, &heartbeat.heads)?);
                }
                Some(ship_frame::Frame::Members(members)) => {
                    self.hub.learn(&frames::members(Some(&members))?, Some(self.origin)).await?;
                }
                Some(ship_frame::Frame::LevelNeeded(needed)) => {
                    let reason: String = needed.reason.chars().take(500).collect();
                    self.hub.level.ask(self.origin, None);
                    return Err(ReceiveError::Level(reason));
                }
                Some(ship_frame::Frame::Hello(_)) => return Err(ReceiveError::Unexpected("a second greeting")),
                None => return Err(ReceiveError::Unexpected("a frame that this version does not know")),
            }
        }
    }

    /// Puts the pieces of a lane's segment together, and says at once that they are here.
    async fn piece(&mut self, piece: grpc::Segment) -> Result<(), ReceiveError> {
        self.received_bytes += piece.sealed.len() as u64;
        match self.channel {
            Channel::Sync => {
                self.hub.peer(self.origin, |progress| progress.sync_at_ms = clock::steady_ms());
            }
            Channel::Async => {
                let received = grpc::Received { bytes: self.received_bytes };
                // When nobody takes it the stream has ended, which its reader is told.
                let _ = self.acks.send(AckFrame { frame: Some(ack_frame::Frame::Received(received)) }).await;
            }
        }
        let number = piece.lane;
        let lane = u8::try_from(number).ok().and_then(Lane::from_u8);
        let lane = lane.and_then(|lane| self.lanes.iter_mut().find(|each| each.lane == lane));
        let pieces = &mut lane.ok_or(ReceiveError::OtherLane { number })?.pieces;
        if pieces.is_empty() && !piece.more {
            return self.segment(piece.sealed).await;
        }
        let bytes = pieces.len() + piece.sealed.len();
        if bytes > MAX_SEALED_BYTES {
            return Err(OpenError::TooLong { bytes }.into());
        }
        pieces.extend_from_slice(&piece.sealed);
        if piece.more {
            return Ok(());
        }
        let sealed = std::mem::take(pieces).freeze();
        self.segment(sealed).await
    }

    /// Hands a segment to its lane if it comes next there. What its header says is believed only so far: opening it proves it.
    async fn segment(&mut self, sealed: Bytes) -> Result<(), ReceiveError> {
        let run = Header::decode(&sealed)?.run;
        if run.origin != self.origin {
            return Err(ReceiveError::OtherOrigin { site: run.origin });
        }
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.lane == run.lane) else {
            return Err(ReceiveError::OtherLane { number: run.lane as u32 });
        };
        let (at, incarnation) = (lane.at, run.incarnation);
        let entered = self.histories[run.lane as usize].enter(at, incarnation);
        let at = entered.ok_or(ReceiveError::Incarnation { lane: run.lane, at, incarnation })?;
        if run.first != at.seq.next() {
            return Err(ReceiveError::Order { lane: run.lane, expected: at.seq.next(), found: run.first });
        }
        lane.at = LanePoint { incarnation, seq: run.last };
        let permits = permits(sealed.len() as u64);
        let Ok(room) = lane.room.clone().acquire_many_owned(permits).await else { return Ok(()) };
        // The opener ends only with an error, which ends this stream too.
        let _ = lane.queue.send(Arrived { sealed, room });
        Ok(())
    }

    fn stable(&mut self, stable: &grpc::Stable) -> Result<(), ReceiveError> {
        let head = frames::required_head(stable.point.as_ref())?;
        if head.site != self.origin {
            return Err(ReceiveError::Unexpected("another site's stable point"));
        }
        let heads = frames::heads(&stable.heads)?;
        self.hub.state().their_stable.announce(self.origin, head.lane, head.point, heads);
        self.hub.applied.send_modify(|version| *version += 1);
        Ok(())
    }
}

/// Up to where the lanes' records have to come with the bytes of copies. Where one did not find them, that is also true of what the origin has made
/// since: to ask for each anew would cost a connection each.
fn take_needed<S: Store>(
    hub: &Hub<S>,
    origin: SiteId,
    channel: Channel,
    frontiers: &[LanePoint; LANES],
    heads: &[Head],
) -> [Seq; LANES] {
    let mut whole = [Seq::ZERO; LANES];
    hub.origin(origin, |progress| {
        for lane in channel.lanes().iter().copied() {
            let needed = &mut progress.needed[lane as usize];
            if *needed <= frontiers[lane as usize].seq {
                *needed = Seq::ZERO;
                continue;
            }
            let head = heads.iter().find(|head| head.lane == lane).map_or(Seq::ZERO, |head| head.point.seq);
            whole[lane as usize] = head.max(*needed);
        }
    });
    whole
}

fn whole_head(origin: SiteId, lane: Lane, whole: &[Seq; LANES], frontiers: &[LanePoint; LANES]) -> Option<grpc::Head> {
    let (seq, at) = (whole[lane as usize], frontiers[lane as usize]);
    let point = LanePoint { incarnation: at.incarnation, seq };
    (seq > Seq::ZERO).then(|| frames::put_head(Head { site: origin, lane, point }))
}

/// Takes in what the origin says of its incarnations, while none of its records is replayed on this stream. Gives what is known then, and the
/// frontiers with the clock readings of their records. Blocks.
fn note_histories<S: Store>(
    hub: &Hub<S>,
    origin: SiteId,
    told: &Histories,
) -> Result<(Histories, Vec<Frontier>), FsError> {
    hub.store.note_histories(origin, told)?;
    hub.refresh_frontiers()?;
    let frontiers = hub.store.frontiers()?;
    let of_origin = frontiers.into_iter().filter(|frontier| frontier.origin == origin);
    Ok((Lane::ALL.map(|lane| hub.store.history_of(origin, lane)), of_origin.collect()))
}

/// The clock reading of the record at a frontier; 0 if it is not known.
fn clock_at(frontiers: &[Frontier], lane: Lane, point: LanePoint) -> u64 {
    frontiers
        .iter()
        .find(|frontier| (frontier.lane, frontier.point) == (lane, point))
        .map_or(0, |frontier| frontier.hlc.0)
}

fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX >> 3)
}

fn note_heads<S: Store>(hub: &Hub<S>, origin: SiteId, heads: &[Head]) {
    hub.origin(origin, |progress| {
        for head in heads {
            progress.heads[head.lane as usize] = Some(head.point);
        }
    });
}
