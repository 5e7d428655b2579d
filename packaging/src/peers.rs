//! The replicator, as the daemon uses it: started, asked, waited for, ended.

use std::sync::Arc;
use std::time::Duration;

use fs::volume::Volume;
use proto::ids::{Lane, Seq};
use replicator::status::{IncomingStatus, PeerLaneStatus, PeerStatus};
use replicator::{Replicator, StartError, WaitError};
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::control::report::{IncomingReport, LaneReport, PeerReport, WaitOutcome, WaitedPeer};
use crate::founding::{self, Identity};

/// How long questions may hold up the end.
const QUESTIONS_LIMIT: Duration = Duration::from_secs(1);

/// Why the peers can't be asked or waited for.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// There is no connection to anyone, because we can't even start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Nobody can be waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// No token.
    #[error(transparent)]
    Invite(#[from] replicator::join::admit::InviteError),
    /// Too late.
    #[error("the daemon is ending")]
    Ending,
}

/// The other sites, as seen from here.
pub struct Peers {
    volume: Arc<Volume>,
    /// `None` once it has ended.
    replicator: RwLock<Option<Replicator>>,
}

impl Peers {
    /// Listens for the other sites, and connects to each.
    pub async fn start(volume: Arc<Volume>, identity: Identity, config: &Config) -> Result<Self, PeersError> {
        let settings = replicator::Config {
            window_bytes: config.window_bytes,
            max_clock_drift: config.max_clock_drift,
            advertise: Some(config.advertise.clone()),
            ..replicator::Config::new(config.listen)
        };
        let replicator = Replicator::start(volume.clone(), identity, settings).await?;
        Ok(Self { volume, replicator: RwLock::new(Some(replicator)) })
    }

    /// How far each is.
    pub async fn report(&self) -> Result<Vec<PeerReport>, PeersError> {
        let status = self.running().await?.status().await;
        let incoming = |site| status.incoming.iter().find(|incoming| incoming.site == site);
        Ok(status.peers.iter().map(|peer| peer_report(peer, incoming(peer.site))).collect())
    }

    /// Until `peer`, or every one, has applied what is in this site's journal now. The caller made it durable.
    pub async fn wait(&self, peer: Option<&str>, limit: Duration) -> Result<WaitOutcome, PeersError> {
        let targets = self.heads();
        let replicator = self.running().await?;
        let waited = replicator.wait_applied(&targets, peer, limit).await;
        let all_level = match waited {
            Ok(()) => true,
            Err(WaitError::Timeout { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        let status = replicator.status().await;
        let asked = status.peers.iter().filter(|status| peer.is_none_or(|name| status.name == name));
        let peers = asked.map(|peer| {
            let behind_records = lacking(&targets, peer);
            let PeerReport { name, behind_bytes, error, .. } = peer_report(peer, None);
            WaitedPeer { name, level: all_level || behind_records == 0, behind_records, behind_bytes, error }
        });
        Ok(WaitOutcome { peers: peers.collect() })
    }

    /// A token that lets one site in.
    pub async fn invite(&self, valid: Duration) -> Result<String, PeersError> {
        let token = self.running().await?.invite(founding::unix_seconds(), valid).await?;
        Ok(token.to_string())
    }

    /// Lets the connected peers get what they lack, for `limit` at most.
    pub async fn drain(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let targets = self.heads();
        let Ok(replicator) = self.running().await else { return };
        for peer in replicator.status().await.peers.iter().filter(|peer| peer.connected) {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(error) = replicator.wait_applied(&targets, Some(&peer.name), left).await {
                tracing::info!("{} gets the rest after the next start: {error}", peer.name);
            }
        }
    }

    /// Ends all connections in order, within `limit`.
    pub async fn shutdown(&self, limit: Duration) {
        let taken = timeout_at(Instant::now() + QUESTIONS_LIMIT, self.replicator.write()).await;
        // Whoever still asks is cut off when the runtime ends.
        let Ok(mut running) = taken else { return };
        if let Some(replicator) = running.take() {
            replicator.shutdown(limit).await;
        }
    }

    async fn running(&self) -> Result<RwLockReadGuard<'_, Replicator>, PeersError> {
        RwLockReadGuard::try_map(self.replicator.read().await, Option::as_ref).map_err(|_| PeersError::Ending)
    }

    fn heads(&self) -> Vec<(Lane, Seq)> {
        Lane::ALL.into_iter().map(|lane| (lane, self.volume.lane_head(lane).appended)).collect()
    }
}

/// How many of the records up to `targets` a peer has not acknowledged.
fn lacking(targets: &[(Lane, Seq)], peer: &PeerStatus) -> u64 {
    let acknowledged = |lane: Lane| {
        let lane = peer.lanes.iter().find(|status| status.lane == lane.name());
        lane.and_then(|status| status.acknowledged).unwrap_or(0)
    };
    targets.iter().map(|(lane, target)| target.0.saturating_sub(acknowledged(*lane))).sum()
}

fn peer_report(peer: &PeerStatus, incoming: Option<&IncomingStatus>) -> PeerReport {
    let lanes: Vec<LaneReport> = peer.lanes.iter().map(lane_report).collect();
    let stopped = peer.lanes.iter().find_map(|lane| lane.stopped.clone());
    PeerReport {
        name: peer.name.clone(),
        site: peer.site,
        address: peer.address.clone(),
        connected: peer.connected,
        level: lanes.iter().all(|lane| lane.acknowledged == Some(lane.head)),
        error: if peer.connected { stopped } else { peer.last_error.clone().or(stopped) },
        lag_seconds: lanes.iter().map(|lane| lane.lag_seconds).try_fold(0.0, |most: f64, lag| Some(most.max(lag?))),
        behind_records: lanes.iter().map(|lane| lane.behind_records).sum(),
        behind_bytes: lanes.iter().map(|lane| lane.behind_bytes).sum(),
        rate_bytes_per_second: peer.rate_bytes_per_second,
        eta_seconds: peer.eta_seconds.filter(|_| peer.connected),
        lanes,
        incoming: incoming.map(incoming_report),
    }
}

fn lane_report(lane: &PeerLaneStatus) -> LaneReport {
    LaneReport {
        lane: lane.lane.to_owned(),
        head: lane.appended,
        acknowledged: lane.acknowledged,
        behind_records: lane.behind_records,
        behind_bytes: lane.behind_bytes,
        lag_seconds: lane.lag_seconds,
    }
}

fn incoming_report(incoming: &IncomingStatus) -> IncomingReport {
    let stopped = incoming.lanes.iter().find_map(|lane| lane.stopped.clone());
    let behind =
        |origin_appended: Option<u64>, applied: u64| origin_appended.unwrap_or(applied).saturating_sub(applied);
    IncomingReport {
        connected: incoming.connected,
        error: if incoming.connected { stopped } else { incoming.last_error.clone().or(stopped) },
        behind_records: incoming.lanes.iter().map(|lane| behind(lane.origin_appended, lane.applied)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(lane: &'static str, appended: u64, acknowledged: Option<u64>, behind: Option<u64>) -> PeerLaneStatus {
        PeerLaneStatus {
            lane,
            appended,
            durable: appended,
            shipped: appended,
            acknowledged,
            behind_records: behind,
            behind_bytes: behind.map(|records| records * 100),
            lag_seconds: behind.map(|records| records as f64),
            ..PeerLaneStatus::default()
        }
    }

    fn peer(lanes: Vec<PeerLaneStatus>) -> PeerStatus {
        PeerStatus {
            site: 2,
            name: "tokyo".into(),
            address: "tokyo:7400".into(),
            connected: true,
            connected_since_ms: Some(1),
            last_error: Some("old".into()),
            last_error_ms: Some(0),
            rate_bytes_per_second: 1,
            lanes,
            ..PeerStatus::default()
        }
    }

    #[test]
    fn lanes_add_up() {
        let behind =
            peer_report(&peer(vec![lane("high", 5, Some(4), Some(1)), lane("normal", 9, Some(2), Some(7))]), None);
        assert_eq!((behind.behind_records, behind.behind_bytes, behind.lag_seconds), (Some(8), Some(800), Some(7.0)));
        assert!(!behind.level);
        assert_eq!(behind.error, None, "an error from before the connection is no error any more");
        let level = peer_report(&peer(vec![lane("normal", 9, Some(9), Some(0))]), None);
        assert!(level.level);
        assert_eq!(level.lag_seconds, Some(0.0));
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let report = peer_report(&peer(vec![lane("high", 5, Some(4), Some(1)), lane("normal", 9, None, None)]), None);
        assert_eq!((report.behind_records, report.behind_bytes, report.lag_seconds), (None, None, None));
        assert!(!report.level);
    }

    #[test]
    fn only_what_was_asked_for_is_lacking() {
        let peer = peer(vec![lane("normal", 100, Some(40), Some(60))]);
        assert_eq!(lacking(&[(Lane::Normal, Seq(50)), (Lane::High, Seq(0))], &peer), 10);
        assert_eq!(lacking(&[(Lane::Normal, Seq(40))], &peer), 0);
        assert_eq!(lacking(&[(Lane::High, Seq(3))], &peer), 3);
    }
}
