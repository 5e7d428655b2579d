//! The status as Prometheus reads it: each scrape is one status, told in the OpenMetrics text format.
//!
//! What is not known is left out: an absent sample is no zero.

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::control::report::{LaneReport, PeerReport, Report};

pub mod server;

/// What [`render`] makes, for the HTTP header.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The states of a sync directory, as a whole and with a peer: one sample each.
const SYNC_STATES: [&str; 3] = ["in_sync", "catching_up", "degraded"];

#[derive(Clone, Hash, PartialEq, Eq, Debug, EncodeLabelSet)]
struct ToPeer {
    peer: String,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug, EncodeLabelSet)]
struct ToPeerLane {
    peer: String,
    lane: String,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug, EncodeLabelSet)]
struct SyncDirectoryPeer {
    path: String,
    peer: String,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug, EncodeLabelSet)]
struct SyncDirectoryPeerState {
    path: String,
    peer: String,
    state: &'static str,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug, EncodeLabelSet)]
struct SyncDirectoryState {
    path: String,
    state: &'static str,
}

/// The whole text.
pub fn render(report: &Report) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("syncline");
    site(&mut registry, report);
    peers(&mut registry, &report.peers);
    lanes(&mut registry, &report.peers);
    sync_directories(&mut registry, report);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn site(registry: &mut Registry, report: &Report) {
    let labels =
        [("volume", report.volume.clone()), ("site", report.site.clone()), ("version", report.version.clone())];
    registry.register("site", "The volume, this site, and the daemon's version", Info::new(labels.to_vec()));
    let mut one = |name: &str, help: &str, unit: Option<Unit>, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(whole(value));
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    };
    one("uptime", "Time since the daemon started", Some(Unit::Seconds), report.uptime_seconds);
    one("journal", "What the journal takes on the disk", Some(Unit::Bytes), report.journal_bytes);
    one("stopped", "1 if this site stopped writing and is read-only", None, u64::from(report.stopped.is_some()));
    let help = "1 while this site takes in a peer's state, since records can't bring it level";
    one("levelling", help, None, u64::from(report.levelling.is_some()));
    let help = "How often this site's store has come back older than its peers knew it, counted from 1";
    one("incarnation", help, None, u64::from(report.incarnation));
}

fn peers(registry: &mut Registry, peers: &[PeerReport]) {
    type Value = fn(&PeerReport) -> Option<u64>;
    let gauges: [(&str, &str, Value); 5] = [
        ("peer_connected", "1 if this site's changes can reach the peer now", |peer| Some(peer.connected.into())),
        ("peer_level", "1 if the peer has applied everything", |peer| Some(peer.level.into())),
        ("peer_rate_bytes_per_second", "How fast the peer has taken changes of late, compressed", |peer| {
            Some(peer.rate_bytes_per_second)
        }),
        ("incoming_connected", "1 if the peer's changes can reach this site now", |peer| {
            peer.incoming.as_ref().map(|incoming| incoming.connected.into())
        }),
        ("incoming_behind_records", "Changes of the peer that this site lacks, as far as it knows", |peer| {
            peer.incoming.as_ref().map(|incoming| incoming.behind_records)
        }),
    ];
    for (name, help, value) in gauges {
        let family = Family::<ToPeer, Gauge>::default();
        for peer in peers {
            if let Some(value) = value(peer) {
                family.get_or_create(&ToPeer { peer: peer.name.clone() }).set(whole(value));
            }
        }
        registry.register(name, help, family);
    }
}

fn lanes(registry: &mut Registry, peers: &[PeerReport]) {
    type Value = fn(&LaneReport) -> Option<f64>;
    let gauges: [(&str, &str, Value); 5] = [
        ("peer_lag_seconds", "Age of the oldest change that the peer lacks, 0 if it is level", |lane| lane.lag_seconds),
        ("peer_behind_records", "Changes that the peer lacks", |lane| lane.behind_records.map(|count| count as f64)),
        ("peer_behind_bytes", "Bytes of the changes that the peer lacks", |lane| {
            lane.behind_bytes.map(|bytes| bytes as f64)
        }),
        ("peer_limit_bytes_per_second", "Changes go no faster than this; absent without a limit", |lane| {
            lane.limit_bytes_per_second.map(|rate| rate as f64)
        }),
        ("peer_paused", "1 if the lane is paused", |lane| Some(f64::from(u8::from(lane.paused)))),
    ];
    for (name, help, value) in gauges {
        let family = Family::<ToPeerLane, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for (peer, lane) in peers.iter().flat_map(|peer| peer.lanes.iter().map(move |lane| (peer, lane))) {
            if let Some(value) = value(lane) {
                let labels = ToPeerLane { peer: peer.name.clone(), lane: lane.lane.clone() };
                family.get_or_create(&labels).set(value);
            }
        }
        registry.register(name, help, family);
    }
}

fn sync_directories(registry: &mut Registry, report: &Report) {
    let states = Family::<SyncDirectoryState, Gauge>::default();
    let peer_states = Family::<SyncDirectoryPeerState, Gauge>::default();
    let debts = Family::<SyncDirectoryPeer, Gauge>::default();
    for directory in &report.sync_directories {
        let path = &directory.path;
        for state in SYNC_STATES {
            let labels = SyncDirectoryState { path: path.clone(), state };
            states.get_or_create(&labels).set((directory.state == state).into());
        }
        for with in &directory.peers {
            for state in SYNC_STATES {
                let labels = SyncDirectoryPeerState { path: path.clone(), peer: with.peer.clone(), state };
                peer_states.get_or_create(&labels).set((with.state == state).into());
            }
            let labels = SyncDirectoryPeer { path: path.clone(), peer: with.peer.clone() };
            debts.get_or_create(&labels).set(whole(with.debt_records));
        }
    }
    registry.register("sync_directory_state", "1 for the state in which the sync directory is", states);
    let help = "1 for the state in which the sync directory is with the peer";
    registry.register("sync_directory_peer_state", help, peer_states);
    let help = "Changes in the sync directory that returned to their callers and that the peer lacks";
    registry.register("sync_directory_debt_records", help, debts);
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::{IncomingReport, SyncDirectoryReport, SyncPeerReport};

    fn lane(lane: &str, behind_records: Option<u64>) -> LaneReport {
        LaneReport {
            lane: lane.into(),
            head: 10,
            acknowledged: None,
            behind_records,
            behind_bytes: behind_records.map(|records| records * 100),
            lag_seconds: behind_records.map(|records| records as f64 / 2.0),
            limit_bytes_per_second: (lane == "bulk").then_some(25_000_000),
            paused: lane == "bulk",
            rate_bytes_per_second: 0,
            weight: None,
        }
    }

    fn report() -> Report {
        let peer = PeerReport {
            name: "to\"kyo".into(),
            site: 2,
            address: "tokyo:7400".into(),
            connected: true,
            level: false,
            error: None,
            lag_seconds: None,
            behind_records: None,
            behind_bytes: None,
            rate_bytes_per_second: 7,
            eta_seconds: None,
            limit_bytes_per_second: None,
            connections: vec![],
            lanes: vec![lane("normal", Some(3)), lane("bulk", None)],
            incoming: Some(IncomingReport { connected: false, error: None, behind_records: 4 }),
        };
        let with = SyncPeerReport {
            peer: "tokyo".into(),
            state: "catching_up".into(),
            since_ms: 1,
            connected: true,
            debt_records: 9,
        };
        Report {
            volume: "data".into(),
            site: "berlin".into(),
            site_id: 1,
            incarnation: 2,
            mountpoint: "/mnt/data".into(),
            store: "/s".into(),
            pid: 1,
            version: "0.1.0".into(),
            uptime_seconds: 61,
            mode: "cached".into(),
            journal_bytes: 1 << 20,
            stopped: None,
            levelling: None,
            peers: vec![peer],
            sync_directories: vec![SyncDirectoryReport {
                path: "/code".into(),
                needed: 1,
                state: "degraded".into(),
                short_of_peers: false,
                peers: vec![with],
            }],
        }
    }

    #[test]
    fn a_status_becomes_samples_and_what_is_unknown_is_left_out() {
        let text = render(&report()).unwrap_or_default();
        for line in [
            "syncline_site_info{volume=\"data\",site=\"berlin\",version=\"0.1.0\"} 1",
            "# UNIT syncline_uptime_seconds seconds",
            "syncline_uptime_seconds 61",
            "syncline_journal_bytes 1048576",
            "syncline_stopped 0",
            "syncline_incarnation 2",
            "syncline_levelling 0",
            "syncline_peer_connected{peer=\"to\\\"kyo\"} 1",
            "syncline_peer_level{peer=\"to\\\"kyo\"} 0",
            "syncline_peer_rate_bytes_per_second{peer=\"to\\\"kyo\"} 7",
            "syncline_incoming_connected{peer=\"to\\\"kyo\"} 0",
            "syncline_incoming_behind_records{peer=\"to\\\"kyo\"} 4",
            "syncline_peer_lag_seconds{peer=\"to\\\"kyo\",lane=\"normal\"} 1.5",
            "syncline_peer_behind_records{peer=\"to\\\"kyo\",lane=\"normal\"} 3.0",
            "syncline_peer_behind_bytes{peer=\"to\\\"kyo\",lane=\"normal\"} 300.0",
            "syncline_peer_limit_bytes_per_second{peer=\"to\\\"kyo\",lane=\"bulk\"} 25000000.0",
            "syncline_peer_paused{peer=\"to\\\"kyo\",lane=\"normal\"} 0.0",
            "syncline_peer_paused{peer=\"to\\\"kyo\",lane=\"bulk\"} 1.0",
            "syncline_sync_directory_state{path=\"/code\",state=\"degraded\"} 1",
            "syncline_sync_directory_state{path=\"/code\",state=\"in_sync\"} 0",
            "syncline_sync_directory_peer_state{path=\"/code\",peer=\"tokyo\",state=\"in_sync\"} 0",
            "syncline_sync_directory_peer_state{path=\"/code\",peer=\"tokyo\",state=\"catching_up\"} 1",
            "syncline_sync_directory_debt_records{path=\"/code\",peer=\"tokyo\"} 9",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("syncline_peer_lag_seconds{peer=\"to\\\"kyo\",lane=\"bulk\"}"), "{text}");
    }
}
