//! The later stages of receiving: each lane's opener opens segments, its worker replays them, one acknowledger makes durable and
//! answers.
//!
//! A record that can't be applied stops its lane, visibly, and is tried again: when another lane has moved, if it waits
//! for a record of that, and from time to time in any case. It is never skipped. Other lanes go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fs::journal::Lsn;
use fs::replay::{ReplayError, Replayed};
use parking_lot::Mutex;
use proto::grpc::{self, AckFrame, ack_frame};
use proto::ids::{Incarnation, Lane, LanePoint, Seq, SiteId};
use proto::record::Record;
use proto::seal::Opener;
use proto::segment::OpenError;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, mpsc, watch};
use tokio::time::sleep;

use crate::channel::Channel;
use crate::frames;
use crate::frontiers::Head;
use crate::hello;
use crate::hub::{Hub, LANES, Place};
use crate::store::Store;

/// How many opened segments wait for a lane's worker.
pub const OPENED_SEGMENTS: usize = 8;
/// How much content is replayed at once, in bytes, if more is queued.
const GROUP_BYTES: u64 = 8 << 20;
/// How many records are replayed at once.
const GROUP_RECORDS: usize = 16 << 10;
/// What a record without content counts as, in the work that it is.
const RECORD_BYTES: u64 = 1 << 10;
/// The longest pause between two attempts at a record that fails.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How long to wait before what was replayed is made durable again, after it failed.
const DURABLE_RETRY: Duration = Duration::from_millis(500);

/// True once the stream ends.
pub type Closing = watch::Receiver<bool>;

/// A segment as it came, and the room that it takes until it is replayed.
pub struct Arrived {
    pub sealed: Bytes,
    pub room: OwnedSemaphorePermit,
}

/// An opened segment.
pub struct Batch {
    incarnation: Incarnation,
    records: Vec<Record>,
    room: OwnedSemaphorePermit,
}

/// Why an opener or a worker ended.
pub enum Ended {
    /// A segment is not one.
    Open(OpenError),
    /// A record has to come with its bytes, which is noted.
    NeedsBytes { lane: Lane, seq: Seq },
    /// The stream ends, or can't go on.
    Replay(String),
}

impl Ended {
    fn with_the_stream() -> Self {
        Ended::Replay("the stream ends".to_string())
    }
}

/// Opens one lane's segments, a few ahead of its worker.
pub async fn open<S: Store>(
    hub: Arc<Hub<S>>,
    channel: Channel,
    mut arrived: mpsc::UnboundedReceiver<Arrived>,
    opened: mpsc::Sender<Batch>,
    mut closing: Closing,
) -> Ended {
    let opener = Arc::new(Mutex::new(Opener::new(hub.local.identity.volume_key(), hub.local.volume)));
    let open = async {
        while let Some(Arrived { sealed, room }) = arrived.recv().await {
            // One after the other: the lock is never waited for.
            let opener = opener.clone();
            let segment =
                hub.calling(Place::of(channel, sealed.len() as u64), move |_| opener.lock().open(&sealed)).await;
            match segment {
                Ok(segment) => drop(
                    opened.send(Batch { incarnation: segment.run.incarnation, records: segment.records, room }).await,
                ),
                Err(error) => return Ended::Open(error),
            }
        }
        // The stream's reader is gone; its end will be told.
        std::future::pending().await
    };
    tokio::select! {
        biased;
        _ = closing.wait_for(|closing| *closing) => Ended::with_the_stream(),
        ended = open => ended,
    }
}

/// What a worker tells the acknowledger.
pub enum Outcome {
    /// Applied up to the point; durable with the batch.
    Applied { lane: Lane, point: LanePoint, lsn: Lsn },
    /// The lane waits behind the point.
    Stopped { lane: Lane, point: LanePoint, reason: String },
}

/// Replays one lane of one origin.
pub struct Worker<S> {
    pub hub: Arc<Hub<S>>,
    pub origin: SiteId,
    pub lane: Lane,
    /// Up to where the origin was asked for the bytes of copies.
    pub whole: Seq,
    pub outcomes: mpsc::Sender<Outcome>,
    pub closing: Closing,
}

impl<S: Store> Worker<S> {
    /// Runs until the stream ends; says why.
    pub async fn run(mut self, mut batches: mpsc::Receiver<Batch>) -> Ended {
        // Of a later incarnation than those before it.
        let mut next = None;
        loop {
            let mut closing = self.closing.clone();
            let batch = tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return Ended::with_the_stream(),
                batch = async { if next.is_some() { next.take() } else { batches.recv().await } } => batch,
            };
            let Some(Batch { incarnation, mut records, room }) = batch else {
                // The opener has ended, and with it the stream.
                let _ = closing.wait_for(|closing| *closing).await;
                return Ended::with_the_stream();
            };
            let mut rooms = vec![room];
            let bytes = |records: &[Record]| records.iter().map(Record::data_len).sum::<u64>();
            let mut content = bytes(&records);
            while content < GROUP_BYTES && records.len() < GROUP_RECORDS {
                let Ok(more) = batches.try_recv() else { break };
                if more.incarnation != incarnation {
                    next = Some(more);
                    break;
                }
                content += bytes(&more.records);
                records.extend(more.records);
                rooms.push(more.room);
            }
            if let Err(ended) = self.replay(incarnation, records).await {
                return ended;
            }
        }
    }

    /// Replays records until all are applied.
    async fn replay(&mut self, incarnation: Incarnation, mut records: Vec<Record>) -> Result<(), Ended> {
        let mut applied_here = self.hub.applied.subscribe();
        let mut shown: Option<String> = None;
        let mut failures = 0u32;
        while !records.is_empty() {
            // What is applied from here on wakes a wait below.
            applied_here.mark_unchanged();
            let (origin, lane) = (self.origin, self.lane);
            let bytes = records.iter().map(|record| record.data_len() + RECORD_BYTES).sum();
            let call = move |hub: &Hub<S>| (hub.store.replay(origin, incarnation, lane, &records), records);
            let (replayed, returned) = self.hub.calling(Place::of(Channel::of(lane), bytes), call).await;
            records = returned;
            let Replayed { applied, lsn, stopped } = replayed;
            let done = records.partition_point(|record| LanePoint { incarnation, seq: record.seq } <= applied);
            if done > 0 {
                records.drain(..done);
                failures = 0;
                self.hub.note_applied(Head { site: origin, lane, point: applied });
                self.tell(Outcome::Applied { lane, point: applied, lsn }).await?;
            }
            let reason = match &stopped {
                None if records.is_empty() => break,
                None => "the store applied only a part and did not say why".to_string(),
                Some(ReplayError::Gap { .. }) => {
                    return Err(Ended::Replay(stopped.map(|error| error.to_string()).unwrap_or_default()));
                }
                // If that is what it got for having asked, the lane waits, visibly, as for any other fault.
                Some(ReplayError::NeedsBytes { seq }) if *seq > self.whole => {
                    self.hub.origin(origin, |progress| progress.needed[lane as usize] = *seq);
                    return Err(Ended::NeedsBytes { lane, seq: *seq });
                }
                Some(error) => error.to_string(),
            };
            if shown.as_ref() != Some(&reason) {
                let next = records.first().map_or(Seq::ZERO, |record| record.seq);
                tracing::warn!(origin = self.hub.name_of(origin), lane = lane.name(), record = %next, "the lane waits: {reason}");
                self.hub.origin(origin, |progress| progress.stopped[lane as usize] = Some(reason.clone()));
                self.tell(Outcome::Stopped { lane, point: applied, reason: reason.clone() }).await?;
                shown = Some(reason);
            }
            let waits_for_another = matches!(stopped, Some(ReplayError::MissingDep(_)));
            let pause = self.hub.config.replay_retry * (1 << failures.min(5));
            failures += u32::from(!waits_for_another);
            let mut closing = self.closing.clone();
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return Err(Ended::with_the_stream()),
                Ok(()) = applied_here.changed(), if waits_for_another => {}
                () = sleep(pause.min(LONGEST_RETRY)) => {}
            }
        }
        if shown.is_some() {
            let (origin, lane) = (self.origin, self.lane);
            tracing::info!(origin = self.hub.name_of(origin), lane = lane.name(), "the lane goes on");
            self.hub.origin(origin, |progress| progress.stopped[lane as usize] = None);
        }
        Ok(())
    }

    async fn tell(&self, outcome: Outcome) -> Result<(), Ended> {
        self.outcomes.send(outcome).await.map_err(|_| Ended::Replay("the acknowledger ended".to_string()))
    }
}

/// Makes durable what the workers replayed, and tells the origin.
pub struct Acknowledger<S> {
    pub hub: Arc<Hub<S>>,
    pub origin: SiteId,
    pub channel: Channel,
    pub acks: mpsc::Sender<AckFrame>,
    pub closing: Closing,
    /// The version of the members that the origin was told.
    pub members_told: u64,
    /// The stream's turn, and up to where replayed records may not be durable yet.
    pub undurable: OwnedMutexGuard<Option<Lsn>>,
}

impl<S: Store> Acknowledger<S> {
    /// Runs until all workers have ended.
    pub async fn run(mut self, mut outcomes: mpsc::Receiver<Outcome>) {
        let mut members = self.hub.members_changed.subscribe();
        loop {
            let outcome = tokio::select! {
                outcome = outcomes.recv() => outcome,
                Ok(()) = members.changed() => {
                    self.tell_members().await;
                    continue;
                }
            };
            let Some(outcome) = outcome else { break };
            let mut applied = [None; LANES];
            let mut stopped = [const { None }; LANES];
            let mut next = Some(outcome);
            while let Some(outcome) = next {
                match outcome {
                    Outcome::Applied { lane, point, lsn } => {
                        applied[lane as usize] = Some(point);
                        stopped[lane as usize] = None;
                        *self.undurable = self.undurable.max(Some(lsn));
                    }
                    Outcome::Stopped { lane, point, reason } => stopped[lane as usize] = Some((point, reason)),
                }
                next = outcomes.try_recv().ok();
            }
            if let Some(lsn) = *self.undurable
                && self.make_durable(lsn, &applied).await
            {
                *self.undurable = None;
                self.tell_applied(&applied).await;
            }
            // After what was applied: an acknowledgement means that the lane goes on.
            for (lane, stopped) in Lane::ALL.into_iter().zip(stopped) {
                if let Some((point, reason)) = stopped {
                    self.tell_stopped(lane, point, reason).await;
                }
            }
        }
    }

    /// False if the stream ends before.
    async fn make_durable(&mut self, lsn: Lsn, applied: &[Option<LanePoint>; LANES]) -> bool {
        let mut told = false;
        loop {
            // The heads are read when the records are applied and durable: see `Ack` in the protocol.
            let call = move |hub: &Hub<S>| hub.store.wait_durable(lsn).map(|()| hub.refresh_heads());
            let flushed = self.hub.calling(Place::waiting(self.channel), call).await;
            let Err(error) = flushed else { return true };
            let reason = format!("it is applied, but can't be made durable: {error}");
            if !told {
                tracing::error!(origin = self.hub.name_of(self.origin), "{reason}");
            }
            for (lane, point) in Lane::ALL.into_iter().zip(applied) {
                if let Some(point) = point.filter(|_| !told) {
                    self.tell_stopped(lane, point, reason.clone()).await;
                }
            }
            told = true;
            let mut closing = self.closing.clone();
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return false,
                () = sleep(DURABLE_RETRY) => {}
            }
        }
    }

    async fn tell_applied(&mut self, applied: &[Option<LanePoint>; LANES]) {
        // Whoever hears the acknowledgement must know the members that were known here when the records were applied.
        self.tell_members().await;
        let heads = hello::own_heads(&self.hub);
        for (lane, point) in Lane::ALL.into_iter().zip(applied) {
            let Some(point) = *point else { continue };
            let point = frames::put_head(Head { site: self.origin, lane, point });
            self.tell(ack_frame::Frame::Ack(grpc::Ack { point: Some(point), heads: heads.clone() })).await;
        }
    }

    async fn tell_members(&mut self) {
        let (members, version) = {
            let state = self.hub.state();
            (state.membership.all(), state.membership.version())
        };
        if version > self.members_told {
            self.members_told = version;
            self.tell(ack_frame::Frame::Members(frames::put_members(&members))).await;
        }
    }

    async fn tell_stopped(&mut self, lane: Lane, point: LanePoint, reason: String) {
        let point = frames::put_head(Head { site: self.origin, lane, point });
        self.tell(ack_frame::Frame::Stopped(grpc::Stopped { point: Some(point), reason })).await;
    }

    /// The origin may not read; then it ends with the stream.
    async fn tell(&mut self, frame: ack_frame::Frame) {
        let mut closing = self.closing.clone();
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => {}
            _ = self.acks.send(AckFrame { frame: Some(frame) }) => {}
        }
    }
}
