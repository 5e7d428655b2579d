//! What an operator is shown of replication: a snapshot of the shared state, put together on request.

use std::sync::Arc;

use fs::ship::Backlog;
use proto::ids::{Lane, LanePoint, Seq, SiteId};
use serde::Serialize;

use crate::channel::Channel;
use crate::clock;
use crate::hub::Hub;
use crate::level::Progress;
use crate::progress::StreamProgress;
use crate::store::Store;
use crate::watermark::Bound;

/// How replication stands, as seen from this site.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReplicationStatus {
    /// This site's id.
    pub site: u16,
    /// Its name.
    pub name: String,
    /// The incarnation in which it makes records.
    pub incarnation: u32,
    /// From whom this site takes state that records can't bring, and how far that has come.
    pub levelling: Option<LevellingStatus>,
    /// This site's own lanes that have records.
    pub lanes: Vec<LaneStatus>,
    /// This site's records on their way to each other site.
    pub peers: Vec<PeerStatus>,
    /// Each other site's records on their way to this one.
    pub incoming: Vec<IncomingStatus>,
}

/// A peer's state that is being taken in.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LevellingStatus {
    /// The peer's name.
    pub from: String,
    /// Since when, in ms since the Unix epoch.
    pub since_ms: u64,
    /// Chunks of its state that are in.
    pub chunks: u64,
    /// Files whose content is in.
    pub files: u64,
    /// Bytes that have come.
    pub bytes: u64,
}

/// One of this site's lanes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LaneStatus {
    /// Its name.
    pub lane: &'static str,
    /// The last record journalled.
    pub appended: u64,
    /// The last durable record.
    pub durable: u64,
    /// The last record that every other site has acknowledged.
    pub watermark: u64,
    /// What holds the watermark there: a peer's name, or nothing.
    pub held_by: Option<String>,
}

/// The way to one peer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PeerStatus {
    /// Its id.
    pub site: u16,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Whether both streams to it stand.
    pub connected: bool,
    /// Since when, in ms since the Unix epoch.
    pub connected_since_ms: Option<u64>,
    /// Why the last attempt or connection of either ended.
    pub last_error: Option<String>,
    /// When, in ms since the Unix epoch.
    pub last_error_ms: Option<u64>,
    /// Acknowledged sealed bytes per second.
    pub rate_bytes_per_second: u64,
    /// The most bytes a second over all lanes; `None` is unlimited.
    pub limit_bytes_per_second: Option<u64>,
    /// When it will be level at this rate, in seconds; 0 when it is.
    pub eta_seconds: Option<u64>,
    /// The two streams.
    pub streams: Vec<StreamStatus>,
    /// The lanes that have records.
    pub lanes: Vec<PeerLaneStatus>,
}

/// One stream between this site and another.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StreamStatus {
    /// `sync` for the sync lane, `async` for the others.
    pub channel: &'static str,
    /// Whether it stands.
    pub connected: bool,
    /// Since when, in ms since the Unix epoch.
    pub connected_since_ms: Option<u64>,
    /// Why the last attempt or connection ended.
    pub last_error: Option<String>,
    /// When, in ms since the Unix epoch.
    pub last_error_ms: Option<u64>,
}

impl StreamStatus {
    fn of(channel: Channel, progress: Option<&StreamProgress>) -> Self {
        let last_error = progress.and_then(|progress| progress.last_error.as_ref());
        let connected_since_ms = progress.and_then(|progress| progress.connected_since_ms);
        Self {
            channel: channel.name(),
            connected: connected_since_ms.is_some(),
            connected_since_ms,
            last_error: last_error.map(|(_, text)| text.clone()),
            last_error_ms: last_error.map(|(at, _)| *at),
        }
    }
}

/// The way of one lane to one peer. Sequence numbers of the last record of each stage.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PeerLaneStatus {
    /// Its name.
    pub lane: &'static str,
    /// Journalled here.
    pub appended: u64,
    /// Durable here.
    pub durable: u64,
    /// Sent.
    pub shipped: u64,
    /// Applied and durable there; unknown until it has first connected.
    pub acknowledged: Option<u64>,
    /// Records that it has not acknowledged; unknown when the journal can't say.
    pub behind_records: Option<u64>,
    /// Their bytes.
    pub behind_bytes: Option<u64>,
    /// Age of the oldest of them, in seconds; 0 when it is level.
    pub lag_seconds: Option<f64>,
    /// Its share of the link against the other lanes; `None` for the sync lane, which has a connection of its own.
    pub weight: Option<u32>,
    /// The most bytes a second that it is sent; `None` is unlimited.
    pub limit_bytes_per_second: Option<u64>,
    /// Whether it rests, by an operator's word or by a schedule.
    pub paused: bool,
    /// Acknowledged sealed bytes per second.
    pub rate_bytes_per_second: u64,
    /// Why it does not get on.
    pub stopped: Option<String>,
}

/// The way from one other site.
#[derive(Clone, Debug, Default, Serialize)]
pub struct IncomingStatus {
    /// Its id.
    pub site: u16,
    /// Its name.
    pub name: String,
    /// Whether both its streams stand.
    pub connected: bool,
    /// When its last frame came, in ms since the Unix epoch.
    pub last_received_ms: Option<u64>,
    /// Why a stream of its last ended.
    pub last_error: Option<String>,
    /// The two streams.
    pub streams: Vec<StreamStatus>,
    /// Its lanes that have records, as far as this site knows.
    pub lanes: Vec<IncomingLaneStatus>,
}

/// The way of one lane from another site.
#[derive(Clone, Debug, Default, Serialize)]
pub struct IncomingLaneStatus {
    /// Its name.
    pub lane: &'static str,
    /// The origin's incarnation.
    pub incarnation: u32,
    /// The last record applied here.
    pub applied: u64,
    /// The last record that the site said it has.
    pub origin_appended: Option<u64>,
    /// Why the lane waits here.
    pub stopped: Option<String>,
}

/// Puts the status together. Blocks.
pub fn status<S: Store>(hub: &Arc<Hub<S>>) -> ReplicationStatus {
    hub.refresh_heads();
    let mut status = shown(hub);
    // Read again, so that they are not behind what was shipped meanwhile.
    let heads = hub.refresh_heads();
    let now_ms = clock::wall_ms();
    for peer in &mut status.peers {
        let mut behind_all = Some(0u64);
        for shown in &mut peer.lanes {
            let Some(lane) = Lane::ALL.into_iter().find(|lane| lane.name() == shown.lane) else { continue };
            let head = heads[lane as usize];
            (shown.appended, shown.durable) = (head.appended.0, head.durable.0);
            let acknowledged = Seq(shown.acknowledged.unwrap_or(0));
            let backlog = if acknowledged >= head.appended {
                Some(Backlog { records: 0, bytes: 0, oldest: None })
            } else {
                hub.store.backlog(lane, acknowledged).ok()
            };
            if let Some(Backlog { records, bytes, oldest }) = backlog {
                shown.behind_records = Some(records);
                shown.behind_bytes = Some(bytes);
                let age_ms = oldest.map_or(0, |oldest| now_ms.saturating_sub(oldest.ms()));
                shown.lag_seconds = Some(age_ms as f64 / 1_000.0);
            }
            behind_all = behind_all.zip(shown.behind_bytes).map(|(all, bytes)| all + bytes);
        }
        peer.eta_seconds = match (behind_all, peer.rate_bytes_per_second) {
            (Some(0), _) => Some(0),
            (Some(bytes), rate) if rate > 0 => Some(bytes.div_ceil(rate)),
            _ => None,
        };
    }
    status
}

/// What the shared state has.
fn shown<S: Store>(hub: &Hub<S>) -> ReplicationStatus {
    let heads = *hub.heads.borrow();
    let incarnation = hub.own_histories()[0].current().0;
    let levelling = levelling(hub);
    let (now_ms, local) = (clock::steady_ms(), clock::local_time());
    let mut state = hub.state();
    let in_use: Vec<Lane> = Lane::ALL.into_iter().filter(|lane| heads[*lane as usize].appended > Seq::ZERO).collect();
    let mut lanes = Vec::new();
    for lane in &in_use {
        let head = heads[*lane as usize];
        let (seq, bound) = state.watermarks.watermark(*lane, head.durable);
        let name = |site: SiteId| state.membership.get(site).map(|member| member.name.clone());
        let held_by = match bound {
            Bound::Alone => None,
            Bound::Acknowledged(site) | Bound::Unknown(site) => name(site).filter(|_| seq < head.durable),
        };
        let (appended, durable) = (head.appended.0, head.durable.0);
        lanes.push(LaneStatus { lane: lane.name(), appended, durable, watermark: seq.0, held_by });
    }
    let mut peers = Vec::new();
    let mut incoming = Vec::new();
    for member in state.membership.others() {
        let site = member.site;
        let progress = state.peers.get(&site);
        let limits = state.limits.in_force(&member.name, local);
        let lane_status = |lane: &Lane| {
            let head = heads[*lane as usize];
            let acknowledged = state.watermarks.acknowledged(site, *lane).map(|point| point.seq);
            let known = acknowledged.unwrap_or(Seq::ZERO);
            let shipped = progress.map_or(Seq::ZERO, |progress| progress.shipped[*lane as usize]).max(known);
            let rate = progress.map_or(0, |progress| progress.rate[*lane as usize].bytes_per_second(now_ms));
            let limit = limits.lanes[*lane as usize];
            PeerLaneStatus {
                lane: lane.name(),
                appended: head.appended.0,
                durable: head.durable.0,
                shipped: shipped.0,
                acknowledged: acknowledged.map(|seq| seq.0),
                behind_records: None,
                behind_bytes: None,
                lag_seconds: None,
                weight: (*lane != Lane::Sync).then_some(hub.config.weights[*lane as usize]),
                limit_bytes_per_second: limit.bytes_per_second,
                paused: limit.paused,
                rate_bytes_per_second: rate,
                stopped: progress.and_then(|progress| progress.stopped[*lane as usize].clone()),
            }
        };
        let streams: Vec<StreamStatus> = Channel::ALL
            .into_iter()
            .map(|channel| StreamStatus::of(channel, progress.map(|progress| &progress.streams[channel as usize])))
            .collect();
        let last_error = latest_error(&streams);
        let lanes: Vec<PeerLaneStatus> = in_use.iter().map(lane_status).collect();
        peers.push(PeerStatus {
            site: site.0,
            name: member.name.clone(),
            address: member.address.clone(),
            connected: streams.iter().all(|stream| stream.connected),
            connected_since_ms: connected_since_ms(&streams),
            last_error: last_error.and_then(|stream| stream.last_error.clone()),
            last_error_ms: last_error.and_then(|stream| stream.last_error_ms),
            rate_bytes_per_second: lanes.iter().map(|lane| lane.rate_bytes_per_second).sum(),
            limit_bytes_per_second: limits.overall,
            eta_seconds: None,
            streams,
            lanes,
        });
        let origin = state.origins.get(&site);
        let incoming_lane = |lane: Lane| {
            let applied = state.frontiers.get(site, lane);
            let head = origin.and_then(|origin| origin.heads[lane as usize]);
            (applied != LanePoint::START || head.is_some()).then(|| IncomingLaneStatus {
                lane: lane.name(),
                incarnation: applied.incarnation.0,
                applied: applied.seq.0,
                origin_appended: head.map(|head| head.seq.0),
                stopped: origin.and_then(|origin| origin.stopped[lane as usize].clone()),
            })
        };
        let streams: Vec<StreamStatus> = Channel::ALL
            .into_iter()
            .map(|channel| StreamStatus::of(channel, origin.map(|origin| &origin.streams[channel as usize])))
            .collect();
        incoming.push(IncomingStatus {
            site: site.0,
            name: member.name.clone(),
            connected: streams.iter().all(|stream| stream.connected),
            last_received_ms: origin.and_then(|origin| origin.last_received_ms),
            last_error: latest_error(&streams).and_then(|stream| stream.last_error.clone()),
            streams,
            lanes: Lane::ALL.into_iter().filter_map(incoming_lane).collect(),
        });
    }
    let own = state.membership.own();
    ReplicationStatus { site: own.site.0, name: own.name.clone(), incarnation, levelling, lanes, peers, incoming }
}

fn levelling<S: Store>(hub: &Hub<S>) -> Option<LevellingStatus> {
    let Progress { from, since_ms, chunks, files, bytes } = hub.level.progress()?;
    Some(LevellingStatus { from: hub.name_of(from), since_ms, chunks, files, bytes })
}

fn latest_error(streams: &[StreamStatus]) -> Option<&StreamStatus> {
    streams.iter().filter(|stream| stream.last_error.is_some()).max_by_key(|stream| stream.last_error_ms)
}

/// Since when all of them stand.
fn connected_since_ms(streams: &[StreamStatus]) -> Option<u64> {
    streams.iter().map(|stream| stream.connected_since_ms).try_fold(0, |latest, since| Some(since?.max(latest)))
}
