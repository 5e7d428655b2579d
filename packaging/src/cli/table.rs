//! A status for people.

use crate::control::report::{IncomingReport, PeerReport, Report};
use crate::units::{human_bytes, human_seconds};

const HEADINGS: [&str; 7] = ["peer", "state", "lag", "records", "bytes", "rate", "level in"];

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
            "  daemon   pid {}, version {}, up {}",
            report.pid,
            report.version,
            human_seconds(report.uptime_seconds.max(1) as f64)
        ),
    ];
    if let Some(why) = &report.stopped {
        lines.push(format!("  STOPPED  read-only since {why}; restart this site when the cause is gone"));
    }
    lines.push(String::new());
    if report.peers.is_empty() {
        lines.push("no peers yet: `syncline invite` prints a token with which another site can join".into());
        return lines.join("\n");
    }
    let mut rows = vec![HEADINGS.map(String::from)];
    rows.extend(report.peers.iter().map(row));
    lines.push(columns(&rows, &[true, true, false, false, false, false, false]));
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
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".into());
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
            peers,
            sync_directories: vec![],
        }
    }

    #[test]
    fn peers_stand_in_columns() {
        let level = PeerReport {
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
        };
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
    fn a_lonely_site_is_told_how_to_get_peers() {
        assert!(render(&report(vec![])).ends_with("another site can join"));
    }

    #[test]
    fn a_site_that_stopped_says_so() {
        let stopped = Report { stopped: Some("a flush failed".into()), ..report(vec![]) };
        assert!(render(&stopped).contains("STOPPED  read-only since a flush failed"));
        assert!(!render(&report(vec![])).contains("STOPPED"));
    }
}
