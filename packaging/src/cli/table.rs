//! A status for people.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::control::report::{IncomingReport, LaneReport, LevellingReport, PeerReport, Report, SyncDirectoryReport};
use crate::units::{Rate, human_bytes, human_seconds};

const HEADINGS: [&str; 7] = ["peer", "state", "lag", "records", "bytes", "rate", "level in"];
const LANE_HEADINGS: [&str; 8] = ["peer", "lane", "state", "lag", "records", "bytes", "rate", "limit"];
const SYNC_HEADINGS: [&str; 5] = ["sync directory", "peer", "state", "since", "lacks"];

/// The whole status, without a newline at its end.
pub fn render(report: &Report) -> String {
    let mode = match report.mode.as_str() {
        "passthrough" => "passthrough (reads at the speed of the disk below)",
        _ => "cached (without passthrough: it needs Linux 6.9 and root)",
    };
    let mut lines = vec![
        format!("volume {}, site {} at {}", report.volume, report.site, report.mountpoint),
        format!("  store    {}", report.store),
        format!("  reads    {mode}"),
        format!("  journal  {}", human_bytes(report.journal_bytes)),
        format!(
            "  daemon   pid {}, version {}, incarnation {}, up {}",
            report.pid,
            report.version,
            report.incarnation,
            human_seconds(report.uptime_seconds.max(1) as f64)
        ),
    ];
    if let Some(why) = &report.stopped {
        lines.push(format!("  STOPPED  read-only since {why}; restart this site when the cause is gone"));
    }
    if let Some(LevellingReport { from, since_ms, files, bytes }) = &report.levelling {
        let (size, age) = (human_bytes(*bytes), human_seconds(age_seconds(*since_ms)));
        lines.push(format!("  LEVEL    taking in the state of {from}: {files} files, {size} in {age} so far"));
    }
    lines.push(String::new());
    if report.peers.is_empty() {
        lines.push("no peers yet: `syncline invite` prints a token with which another site can join".into());
        return lines.join("\n");
    }
    let mut rows = vec![HEADINGS.map(String::from)];
    rows.extend(report.peers.iter().map(row));
    lines.push(columns(&rows, &[true, true, false, false, false, false, false]));
    lines.extend(lanes(&report.peers));
    lines.extend(sync_directories(&report.sync_directories));
    for peer in &report.peers {
        if let Some(error) = &peer.error {
            lines.push(format!("to {} ({}): {error}", peer.name, peer.address));
        }
        match &peer.incoming {
            Some(IncomingReport { error: Some(error), .. }) => lines.push(format!("from {}: {error}", peer.name)),
            Some(IncomingReport { connected: false, .. }) => lines.push(format!("from {}: not connected", peer.name)),
            Some(IncomingReport { behind_records: 1.., .. }) => {
                lines.push(format!("from {}: its changes are being applied here", peer.name));
            }
            _ => {}
        }
    }
    lines.join("\n")
}

fn row(peer: &PeerReport) -> [String; 7] {
    let state = match (peer.connected, peer.level) {
        (false, _) => "not connected",
        (true, true) => "level",
        (true, false) => "behind",
    };
    [
        peer.name.clone(),
        state.into(),
        or_unknown(peer.lag_seconds.map(human_seconds)),
        or_unknown(peer.behind_records.map(|records| records.to_string())),
        or_unknown(peer.behind_bytes.map(human_bytes)),
        format!("{}/s", human_bytes(peer.rate_bytes_per_second)),
        if peer.level { "-".into() } else { or_unknown(peer.eta_seconds.map(|seconds| human_seconds(seconds as f64))) },
    ]
}

/// The lanes, where there is more to tell than the peer's line does.
fn lanes(peers: &[PeerReport]) -> Option<String> {
    let limit = |rate: Option<u64>| rate.map_or_else(|| "none".into(), |rate| Rate(rate).to_string());
    let mut rows = vec![LANE_HEADINGS.map(String::from)];
    for peer in peers {
        if peer.limit_bytes_per_second.is_some() {
            let together = ["together", "", "", "", "", ""].map(String::from);
            let [lane, state, lag, records, bytes, rate] = together;
            rows.push([peer.name.clone(), lane, state, lag, records, bytes, rate, limit(peer.limit_bytes_per_second)]);
        }
        rows.extend(peer.lanes.iter().map(|lane| {
            let state = match (lane.paused, lane.acknowledged == Some(lane.head)) {
                (true, _) => "paused",
                (false, true) => "level",
                (false, false) => "behind",
            };
            [
                peer.name.clone(),
                lane.lane.clone(),
                state.into(),
                or_unknown(lane.lag_seconds.map(human_seconds)),
                or_unknown(lane.behind_records.map(|records| records.to_string())),
                or_unknown(lane.behind_bytes.map(human_bytes)),
                format!("{}/s", human_bytes(lane.rate_bytes_per_second)),
                limit(lane.limit_bytes_per_second),
            ]
        }));
    }
    let plain = |peer: &PeerReport| {
        let plain = |lane: &LaneReport| !lane.paused && lane.limit_bytes_per_second.is_none();
        peer.limit_bytes_per_second.is_none() && peer.lanes.len() < 2 && peer.lanes.iter().all(plain)
    };
    let left = [true, true, true, false, false, false, false, false];
    (!peers.iter().all(plain)).then(|| format!("\n{}", columns(&rows, &left)))
}

/// The directories whose writers wait, with each peer.
fn sync_directories(directories: &[SyncDirectoryReport]) -> Option<String> {
    let mut rows = vec![SYNC_HEADINGS.map(String::from)];
    for directory in directories {
        let needed = if directory.short_of_peers {
            format!("needs {}, has {}", directory.needed, directory.peers.len())
        } else {
            format!("{} of {}", directory.needed, directory.peers.len())
        };
        let words = |state: &str| state.replace('_', " ");
        rows.push([directory.path.clone(), needed, words(&directory.state), String::new(), String::new()]);
        rows.extend(directory.peers.iter().map(|with| {
            let state = words(&with.state) + if with.connected { "" } else { ", not connected" };
            let since = human_seconds(age_seconds(with.since_ms));
            [String::new(), with.peer.clone(), state, since, with.debt_records.to_string()]
        }));
    }
    (!directories.is_empty()).then(|| format!("\n{}", columns(&rows, &[true, true, true, false, false])))
}

fn age_seconds(since_ms: u64) -> f64 {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    now_ms.saturating_sub(since_ms.into()) as f64 / 1000.0
}

fn or_unknown(text: Option<String>) -> String {
    text.unwrap_or_else(|| "unknown".into())
}

/// Rows of equal length in columns, each to the left or to the right.
pub fn columns<const N: usize>(rows: &[[String; N]], left: &[bool; N]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let cell = |column: usize, text: &String| match left[column] {
        true => format!("{text:<width$}", width = widths[column]),
        false => format!("{text:>width$}", width = widths[column]),
    };
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().enumerate().map(|(column, text)| cell(column, text)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::SyncPeerReport;

    fn report(peers: Vec<PeerReport>) -> Report {
        Report {
            volume: "data".into(),
            site: "berlin".into(),
            site_id: 1,
            incarnation: 1,
            mountpoint: "/mnt/data".into(),
            store: "/var/lib/syncline/data".into(),
            pid: 42,
            version: "0.1.0".into(),
            uptime_seconds: 61,
            mode: "passthrough".into(),
            journal_bytes: 64 << 20,
            stopped: None,
            levelling: None,
            peers,
            sync_directories: vec![],
        }
    }

    fn peer() -> PeerReport {
        PeerReport {
            name: "tokyo".into(),
            site: 2,
            address: "tokyo:7400".into(),
            connected: true,
            level: true,
            error: None,
            lag_seconds: Some(0.0),
            behind_records: Some(0),
            behind_bytes: Some(0),
            rate_bytes_per_second: 0,
            eta_seconds: None,
            limit_bytes_per_second: None,
            connections: vec![],
            lanes: vec![],
            incoming: Some(IncomingReport { connected: true, error: None, behind_records: 0 }),
        }
    }

    #[test]
    fn peers_stand_in_columns() {
        let level = peer();
        let behind = PeerReport {
            name: "oslo".into(),
            connected: false,
            level: false,
            error: Some("connection refused".into()),
            lag_seconds: Some(90.0),
            behind_records: Some(12),
            behind_bytes: None,
            incoming: Some(IncomingReport { connected: false, error: None, behind_records: 0 }),
            ..level.clone()
        };
        let text = render(&report(vec![level, behind]));
        let lines: Vec<&str> = text.lines().skip(6).collect();
        assert_eq!(
            lines,
            [
                "peer   state                 lag  records    bytes   rate  level in",
                "tokyo  level                0 ms        0      0 B  0 B/s         -",
                "oslo   not connected  1 min 30 s       12  unknown  0 B/s   unknown",
                "to oslo (tokyo:7400): connection refused",
                "from oslo: not connected",
            ]
        );
    }

    #[test]
    fn lanes_are_shown_when_there_is_more_to_tell_than_of_the_peer() {
        let lane = LaneReport {
            lane: "normal".into(),
            head: 9,
            acknowledged: Some(9),
            behind_records: Some(0),
            behind_bytes: Some(0),
            lag_seconds: Some(0.0),
            rate_bytes_per_second: 0,
            weight: Some(4),
            limit_bytes_per_second: None,
            paused: false,
        };
        let peer = PeerReport { lanes: vec![lane.clone()], ..peer() };
        assert_eq!(lanes(std::slice::from_ref(&peer)), None);
        let bulk = LaneReport { lane: "bulk".into(), paused: true, acknowledged: None, behind_bytes: None, ..lane };
        let peer =
            PeerReport { lanes: vec![peer.lanes[0].clone(), bulk], limit_bytes_per_second: Some(25_000_000), ..peer };
        let shown = lanes(&[peer]).unwrap_or_default();
        assert_eq!(
            shown.lines().collect::<Vec<_>>(),
            [
                "",
                "peer   lane      state    lag  records    bytes   rate   limit",
                "tokyo  together                                         25MB/s",
                "tokyo  normal    level   0 ms        0      0 B  0 B/s    none",
                "tokyo  bulk      paused  0 ms        0  unknown  0 B/s    none",
            ]
        );
    }

    #[test]
    fn sync_directories_are_shown_with_each_peer() {
        assert_eq!(sync_directories(&[]), None);
        let with = SyncPeerReport {
            peer: "tokyo".into(),
            state: "degraded".into(),
            since_ms: u64::MAX,
            connected: false,
            debt_records: 12,
        };
        let directory = SyncDirectoryReport {
            path: "/code".into(),
            needed: 1,
            state: "catching_up".into(),
            short_of_peers: false,
            peers: vec![with],
        };
        let short = SyncDirectoryReport { path: "/x".into(), needed: 2, short_of_peers: true, ..directory.clone() };
        let shown = sync_directories(&[directory, SyncDirectoryReport { peers: vec![], ..short }]).unwrap_or_default();
        assert_eq!(
            shown.lines().collect::<Vec<_>>(),
            [
                "",
                "sync directory  peer            state                    since  lacks",
                "/code           1 of 1          catching up",
                "                tokyo           degraded, not connected   0 ms     12",
                "/x              needs 2, has 0  catching up",
            ]
        );
    }

    #[test]
    fn a_lonely_site_is_told_how_to_get_peers() {
        assert!(render(&report(vec![])).ends_with("another site can join"));
    }

    #[test]
    fn a_site_that_takes_in_a_state_says_so() {
        let levelling = LevellingReport { from: "tokyo".into(), since_ms: u64::MAX, files: 12, bytes: 3 << 20 };
        let text = render(&Report { levelling: Some(levelling), ..report(vec![]) });
        assert!(text.contains("LEVEL    taking in the state of tokyo: 12 files, 3.00 MiB in 0 ms so far"), "{text}");
    }

    #[test]
    fn a_site_that_stopped_says_so() {
        let stopped = Report { stopped: Some("a flush failed".into()), ..report(vec![]) };
        assert!(render(&stopped).contains("STOPPED  read-only since a flush failed"));
        assert!(!render(&report(vec![])).contains("STOPPED"));
    }
}
