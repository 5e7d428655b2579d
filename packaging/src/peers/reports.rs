//! What is told of the peers.

use fs::sync::report::{SyncPeer, SyncState};
use replicator::LimitStatus;
use replicator::status::{IncomingStatus, LevellingStatus, PeerLaneStatus, PeerStatus, StreamStatus};

use crate::control::report::{
    ConnectionReport, FlowReport, IncomingReport, LaneReport, LevellingReport, PeerReport, SyncDirectoryReport,
    SyncPeerReport,
};

/// One peer, and its own changes on their way here.
pub(super) fn peer(peer: &PeerStatus, incoming: Option<&IncomingStatus>) -> PeerReport {
    let lanes: Vec<LaneReport> = peer.lanes.iter().map(self::lane).collect();
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
        limit_bytes_per_second: peer.limit_bytes_per_second,
        connections: peer.streams.iter().map(connection).collect(),
        lanes,
        incoming: incoming.map(self::incoming),
    }
}

fn lane(lane: &PeerLaneStatus) -> LaneReport {
    LaneReport {
        lane: lane.lane.to_owned(),
        head: lane.appended,
        acknowledged: lane.acknowledged,
        behind_records: lane.behind_records,
        behind_bytes: lane.behind_bytes,
        lag_seconds: lane.lag_seconds,
        rate_bytes_per_second: lane.rate_bytes_per_second,
        weight: lane.weight,
        limit_bytes_per_second: lane.limit_bytes_per_second,
        paused: lane.paused,
    }
}

fn connection(stream: &StreamStatus) -> ConnectionReport {
    ConnectionReport {
        channel: stream.channel.to_owned(),
        connected: stream.connected,
        error: stream.last_error.clone().filter(|_| !stream.connected),
    }
}

/// How a sync directory stands. State names are words with underscores: labels of metrics and values for scripts.
pub(super) fn sync_directory(state: SyncState) -> SyncDirectoryReport {
    let word = |name: &str| name.replace(' ', "_");
    let peer = |peer: SyncPeer| SyncPeerReport {
        state: word(peer.phase.name()),
        peer: peer.name,
        since_ms: peer.since_ms,
        connected: peer.connected,
        debt_records: peer.debt_records,
    };
    SyncDirectoryReport {
        path: state.path,
        needed: state.needed as u64,
        state: word(state.standing.name()),
        short_of_peers: state.short_of_peers,
        peers: state.peers.into_iter().map(peer).collect(),
    }
}

/// A peer's state on its way here.
pub(super) fn levelling(levelling: LevellingStatus) -> LevellingReport {
    let LevellingStatus { from, since_ms, files, bytes, .. } = levelling;
    LevellingReport { from, since_ms, files, bytes }
}

/// What limits a lane, or all together, to a peer.
pub(super) fn flow(limit: LimitStatus) -> FlowReport {
    let LimitStatus { peer, lane, bytes_per_second, paused, scheduled } = limit;
    let lane = lane.map(str::to_owned);
    FlowReport { peer, lane, limit_bytes_per_second: bytes_per_second, paused, scheduled }
}

fn incoming(incoming: &IncomingStatus) -> IncomingReport {
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
pub(super) mod tests {
    use replicator::status::{PeerLaneStatus, PeerStatus};

    pub fn lane(lane: &'static str, appended: u64, acknowledged: Option<u64>, behind: Option<u64>) -> PeerLaneStatus {
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

    pub fn peer(lanes: Vec<PeerLaneStatus>) -> PeerStatus {
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
            super::peer(&peer(vec![lane("high", 5, Some(4), Some(1)), lane("normal", 9, Some(2), Some(7))]), None);
        assert_eq!((behind.behind_records, behind.behind_bytes, behind.lag_seconds), (Some(8), Some(800), Some(7.0)));
        assert!(!behind.level);
        assert_eq!(behind.error, None, "an error from before the connection is no error any more");
        let level = super::peer(&peer(vec![lane("normal", 9, Some(9), Some(0))]), None);
        assert!(level.level);
        assert_eq!(level.lag_seconds, Some(0.0));
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let report = super::peer(&peer(vec![lane("high", 5, Some(4), Some(1)), lane("normal", 9, None, None)]), None);
        assert_eq!((report.behind_records, report.behind_bytes, report.lag_seconds), (None, None, None));
        assert!(!report.level);
    }
}
