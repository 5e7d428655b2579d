//! How sync directories and files stand, for people, status and metrics.

use std::fmt::Write as _;
use std::time::Instant;

use proto::ids::{FileId, SiteId};

use super::points::Points;
use super::root::Standing;
use super::state::Phase;
use crate::error::FsError;
use crate::policy::{Acks, OnLoss};
use crate::ship::ReadLaneError;
use crate::sync::Terms;
use crate::volume::Volume;

/// A sync directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncState {
    /// The directory.
    pub root: FileId,
    /// Its path from the volume's root, with a leading slash.
    pub path: String,
    /// What it demands.
    pub terms: Terms,
    /// How many peers have to acknowledge.
    pub needed: usize,
    /// How it stands as a whole.
    pub standing: Standing,
    /// Why it can't be in sync whatever the peers do: it demands more than there are.
    pub short_of_peers: bool,
    /// Each peer.
    pub peers: Vec<SyncPeer>,
}

/// A peer of a sync directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncPeer {
    /// The peer.
    pub peer: SiteId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub phase: Phase,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Its connection stands.
    pub connected: bool,
    /// Records that callers were told are done (or will be) and that it lacks, with those before them in their lanes.
    pub debt_records: u64,
}

impl Volume {
    /// Every sync directory, by its path.
    pub fn sync_states(&self) -> Vec<SyncState> {
        self.refresh_sync_roots();
        let now_ms = self.now_ms();
        let mut states = self.board.read(|ledger, now| {
            let since = |at: Instant| now_ms.saturating_sub(now.saturating_duration_since(at).as_millis() as u64);
            let state = |(file, root): (FileId, &super::root::Root)| {
                let peers = ledger.members().filter_map(|(site, peer)| {
                    let state = root.state(site)?;
                    Some(SyncPeer {
                        peer: site,
                        name: peer.name.clone(),
                        phase: state.phase(),
                        since_ms: since(state.since()),
                        connected: peer.lost_at.is_none(),
                        debt_records: peer.acknowledged.records_to(state.debt()),
                    })
                });
                let needed = root.terms.needed(ledger.members().count());
                SyncState {
                    root: file,
                    path: root.path.clone(),
                    terms: root.terms,
                    needed,
                    standing: root.standing(ledger.members()),
                    short_of_peers: needed > ledger.members().count(),
                    peers: peers.collect(),
                }
            };
            ledger.roots().map(state).collect::<Vec<_>>()
        });
        // The directory, or one above it, may have been renamed or removed.
        states.retain(|state| self.inode(state.root).is_ok_and(|inode| inode.is_linked(state.root)));
        for state in &mut states {
            if let Ok(path) = self.path_of(state.root) {
                state.path = path;
            }
        }
        states.sort_by(|a, b| a.path.cmp(&b.path));
        states
    }

    /// The value of `user.syncline.state`: for each peer whether it has all that this site changed in the file (of a directory: in the volume), or how
    /// far it is behind; below a sync directory also how that stands.
    pub fn sync_state_text(&self, file: FileId) -> Result<String, FsError> {
        let points = if self.inode(file)?.is_dir() { self.made() } else { self.points_of(file)? };
        let mut text = String::new();
        let states = self.sync_states();
        for need in super::needs(&self.scope_of_file(file)?) {
            if let Some(state) = states.iter().find(|state| state.root == need.root) {
                text.push_str(&standing_text(state, self.now_ms()));
            }
        }
        let peers = self.board.read(|ledger, _| {
            let peer = |(_, peer): (SiteId, &super::ledger::Peer)| (peer.name.clone(), peer.acknowledged);
            ledger.members().map(peer).collect::<Vec<_>>()
        });
        if peers.is_empty() {
            text.push_str("no other site\n");
        }
        for (name, acknowledged) in peers {
            // Writing to a string does not fail.
            _ = writeln!(text, "{name}: {}", self.behind(acknowledged, &points)?);
        }
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// `level`, or how far a peer is behind in the lanes of `points`.
    fn behind(&self, acknowledged: Points, points: &Points) -> Result<String, FsError> {
        let (mut records, mut bytes, mut oldest_ms) = (0, 0, None::<u64>);
        for (lane, _) in acknowledged.lacks(points) {
            let backlog = match self.backlog(lane, acknowledged.get(lane).seq) {
                Ok(backlog) => backlog,
                Err(ReadLaneError::Truncated { .. }) => {
                    return Ok("its records are gone; it gets this site's state".into());
                }
                Err(ReadLaneError::Fs(error)) => return Err(error),
            };
            records += backlog.records;
            bytes += backlog.bytes;
            oldest_ms = oldest_ms.into_iter().chain(backlog.oldest.map(|hlc| hlc.ms())).min();
        }
        if records == 0 && acknowledged.covers(points) {
            return Ok("level".to_owned());
        }
        let seconds = oldest_ms.map_or(0, |ms| self.now_ms().saturating_sub(ms)) as f64 / 1000.0;
        Ok(format!("{records} records, {}, {seconds:.1} s behind", bytes_text(bytes)))
    }
}

/// What a scope demands, as one line for each policy: for the log and `effective`.
impl std::fmt::Display for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.acks {
            Acks::All => write!(f, "acks=all")?,
            Acks::Majority => write!(f, "acks=majority")?,
            Acks::Peers(number) => write!(f, "acks={number}")?,
        }
        let on_loss = match self.on_loss {
            OnLoss::Degrade => "degrade",
            OnLoss::Fail => "fail",
        };
        write!(f, " on-loss={on_loss} timeout={:?}", self.timeout)
    }
}

fn standing_text(state: &SyncState, now_ms: u64) -> String {
    let mut text = format!("{}: {}", state.path, state.standing.name());
    if state.peers.is_empty() && !state.short_of_peers {
        text.push_str(" (no other site)");
    }
    if state.short_of_peers {
        _ = write!(text, " (needs {} peers, the volume has {})", state.needed, state.peers.len());
    }
    for peer in state.peers.iter().filter(|peer| peer.phase != Phase::InSync) {
        let seconds = now_ms.saturating_sub(peer.since_ms) as f64 / 1000.0;
        _ = write!(text, "; {} {} for {seconds:.1} s", peer.name, peer.phase.name());
        if !peer.connected {
            text.push_str(", not connected");
        }
    }
    text.push('\n');
    text
}

fn bytes_text(bytes: u64) -> String {
    const UNITS: [(&str, f64); 3] = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let bytes = bytes as f64;
    let unit = UNITS.into_iter().find(|(_, size)| bytes >= *size);
    unit.map_or_else(|| format!("{bytes} B"), |(unit, size)| format!("{:.1} {unit}", bytes / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_briefly() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (3_400_000, "3.4 MB"), (1000, "1.0 kB"), (7 << 30, "7.5 GB")]
        {
            assert_eq!(bytes_text(bytes), text);
        }
    }
}
